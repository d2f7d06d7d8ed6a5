//! What the records beside all tasks say, to an agent that has none of its own.

use super::kind::Kind;
use super::{Core, NOBODY, platform};
use crate::domain::ids::TaskId;
use crate::runtime::{Recorded, Records, RuntimeError};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

const OPERATION: &str = "read the records of tasks";
/// Answers of the disk on the way.
const READ_AHEAD: usize = 64;

impl<K: Kind> Core<K> {
    /// One task after the other, as far as the disk comes until the time is up. An earlier call that hangs there holds
    /// this one up as well, but takes no more threads.
    pub(super) async fn recorded(&self, limit: Duration) -> Result<Records, RuntimeError> {
        let until = Instant::now() + limit;
        let late = || platform(OPERATION, NOBODY, format!("the disk has not answered within {} s", limit.as_secs()));
        let reading = timeout_at(until, self.reading.clone().lock_owned()).await.map_err(|_| late())?;
        let (listed, listing) = oneshot::channel();
        let (answers, mut read) = mpsc::channel(READ_AHEAD);
        let layout = self.layout.clone();
        // Not waited for where the disk hangs: it ends with the next answer that nobody wants.
        tokio::task::spawn_blocking(move || {
            let _reading = reading;
            // A task may have a folder in either place.
            let ids: io::Result<BTreeSet<TaskId>> = layout.tasks().map(|ids| ids.into_iter().collect());
            let known: Vec<TaskId> = ids.iter().flatten().copied().collect();
            if listed.send(ids).is_err() {
                return;
            }
            for id in known {
                if answers.blocking_send((id, layout.task(id).read_recorded::<K::Facts>(K::NAME))).is_err() {
                    return;
                }
            }
        });
        let ids = timeout_at(until, listing).await.map_err(|_| late())?;
        let ids = ids.map_err(io::Error::other).and_then(|ids| ids);
        let mut records = Records::default();
        let ids = ids.map_err(|error| platform(OPERATION, NOBODY, error))?;
        records.unread.extend(ids.into_iter().map(|id| (id, late().message)));
        while let Ok(Some((id, answer))) = timeout_at(until, read.recv()).await {
            records.take(id, answer);
        }
        Ok(records)
    }
}

impl Records {
    fn take(&mut self, id: TaskId, answer: io::Result<Option<Recorded>>) {
        self.unread.remove(&id);
        match answer {
            Ok(recorded) => self.found.extend(recorded.filter(|recorded| recorded.spec.id == id)),
            // As good as none, also for whoever would take the task over.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(task = %id, %error, "a task's records are damaged");
            }
            Err(error) => drop(self.unread.insert(id, error.to_string())),
        }
    }
}
