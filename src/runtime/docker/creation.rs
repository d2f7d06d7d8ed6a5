//! Creating a container, followed to its end. A create that misses its deadline may still make the container when
//! dockerd wakes: its connection is kept, so that it is known when that is decided, and until then nobody may say that
//! nothing is left.

use super::daemon::{ANSWER_DEADLINE, Daemon, DaemonError};
use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const OPERATION: &str = "create the container";
/// A dockerd that has not decided by then never will.
const DECIDED_DEADLINE: Duration = Duration::from_secs(3000);

/// The creations that dockerd has not answered, by the containers' names. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Creations(Arc<Mutex<HashMap<String, watch::Receiver<()>>>>);

impl Creations {
    /// The container's id. After `limit` an error, and the question stays asked until `cancel`.
    pub async fn create(
        &self,
        daemon: &Daemon,
        tracker: &TaskTracker,
        cancel: CancellationToken,
        name: &str,
        body: ContainerCreateBody,
        limit: Duration,
    ) -> Result<String, DaemonError> {
        let (sender, answer) = oneshot::channel();
        let (decided, open) = watch::channel(());
        self.lock().insert(name.to_owned(), open);
        let (creations, asked, of) = (self.clone(), daemon.clone(), name.to_owned());
        tracker.spawn(async move {
            let options = CreateContainerOptionsBuilder::default().name(&of).build();
            let create = |docker: Docker| async move { docker.create_container(Some(options), body).await };
            tokio::select! {
                made = asked.call(OPERATION, &of, DECIDED_DEADLINE, create) => drop(sender.send(made)),
                // The next agent process finds it.
                () = cancel.cancelled() => {}
            }
            creations.lock().remove(&of);
            drop(decided);
        });
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(made)) => made.map(|made| made.id),
            Ok(Err(_)) => Err(undecided(name, "given up, as this agent ends")),
            Err(_) => Err(daemon.late(OPERATION, name, limit)),
        }
    }

    /// Waits a while for dockerd to decide; `Err` if it has not.
    pub async fn decided(&self, name: &str) -> Result<(), DaemonError> {
        let Some(mut open) = self.lock().get(name).cloned() else { return Ok(()) };
        match tokio::time::timeout(ANSWER_DEADLINE, open.changed()).await {
            // Closed.
            Ok(_) => Ok(()),
            Err(_) => Err(undecided(name, "it may still be made")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<()>>> {
        // No code panics while it holds this.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn undecided(name: &str, message: &str) -> DaemonError {
    DaemonError::NoAnswer { operation: OPERATION, object: name.to_owned(), message: message.to_owned() }
}
