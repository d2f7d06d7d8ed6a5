//! The handle of one task: what does not change about it, and asking its supervisor.

use super::kind::Kind;
use super::layout::{TaskDir, TaskRecord};
use super::platform;
use super::process_id::ProcessId;
use super::supervisor::{Request, State};
use crate::domain::ids::TaskId;
use crate::domain::secret::Secret;
use crate::runtime::RuntimeError;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Longest time to wait until a shim has been told something: it may be between two connections.
const TELL_DEADLINE: Duration = Duration::from_secs(10);

/// A task whose shim this runtime follows, or followed to its end.
#[derive(Debug)]
pub struct Task<K: Kind> {
    pub id: TaskId,
    pub dir: TaskDir,
    pub record: TaskRecord<K::Facts>,
    pub remains: Arc<K::Remains>,
    pub shim: ProcessId,
    pub state: watch::Receiver<State>,
    pub(super) requests: mpsc::Sender<Request>,
    /// Cancelled when nobody follows the task any more.
    pub cancel: CancellationToken,
    /// Its secret variables, once it was launched by this agent process: see [`super::secrets`].
    pub(super) secrets: OnceLock<Vec<(String, Secret)>>,
    /// One permit for each command that may run beside it.
    pub execs: Arc<Semaphore>,
}

impl<K: Kind> Task<K> {
    /// Waits until the shim has been told, or the task has ended.
    pub(super) async fn ask(
        &self,
        operation: &'static str,
        request: impl FnOnce(oneshot::Sender<()>) -> Request,
    ) -> Result<(), RuntimeError> {
        let (answer, told) = oneshot::channel();
        let tell = async {
            // A supervisor that has ended has seen the task's end.
            if self.requests.send(request(answer)).await.is_ok() {
                told.await.ok();
            }
        };
        if tokio::time::timeout(TELL_DEADLINE, tell).await.is_err() {
            let seconds = TELL_DEADLINE.as_secs();
            let message = format!("its shim (pid {}) has not answered for {seconds} s", self.shim.pid);
            return Err(platform(operation, self.id, message));
        }
        Ok(())
    }
}
