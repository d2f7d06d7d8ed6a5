//! What the records beside all tasks say, to an agent that has none of its own.

use super::kind::Kind;
use super::{Core, NOBODY, blocking, platform};
use crate::domain::ids::TaskId;
use crate::runtime::{Recorded, Records, RuntimeError};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Answers of the disk on the way.
const READ_AHEAD: usize = 64;

impl<K: Kind> Core<K> {
    /// One task after the other, as far as the disk comes until the time is up.
    pub(super) async fn recorded(&self, limit: Duration) -> Result<Records, RuntimeError> {
        let until = Instant::now() + limit;
        let late = || format!("the disk has not answered within {} s", limit.as_secs());
        let layout = self.layout.clone();
        let listing = blocking("read the records of tasks", NOBODY, move || layout.tasks());
        let listed = timeout_at(until, listing).await;
        let ids: BTreeSet<TaskId> =
            listed.map_err(|_| platform("read the records of tasks", NOBODY, late()))??.into_iter().collect();
        let mut records = Records::default();
        records.unread.extend(ids.iter().map(|id| (*id, late())));
        let (answers, mut read) = mpsc::channel(READ_AHEAD);
        let layout = self.layout.clone();
        // Not waited for where the disk hangs: it ends with the next answer that nobody wants.
        tokio::task::spawn_blocking(move || {
            for id in ids {
                if answers.blocking_send((id, layout.task(id).read_recorded::<K::Facts>(K::NAME))).is_err() {
                    return;
                }
            }
        });
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
