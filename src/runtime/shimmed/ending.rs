//! The end of a shim as its supervisor sees it: its last words, its record, and what it left. And the end that comes
//! over its head when it does not stop its task.

use super::exit;
use super::kind::Remains;
use super::link::Connection;
use super::outbox::Outbox;
use super::supervisor::{State, Supervisor};
use crate::domain::exit::{Exit, ExitClass};
use crate::shim::exit::ExitRecord;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// How long reading what a dead shim still said may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// How long a record that cannot be read is asked for again: it is durable, and descriptors come back.
const READ_PATIENCE: Duration = Duration::from_secs(300);
const LAST_READ_PAUSE: Duration = Duration::from_secs(5);
/// How long what a shim left may take to end before its end is told all the same.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

impl Supervisor {
    /// The shim is gone: reads its last words, else its record, else says that there are none.
    pub(super) async fn on_shim_ended(&mut self, connection: Option<Connection>, outbox: &mut Outbox) {
        if let Some(mut connection) = connection {
            let drain = async {
                while let Ok(Some(frame)) = connection.next().await {
                    self.on_frame(frame, None, outbox).await.ok();
                }
            };
            tokio::time::timeout(DRAIN_DEADLINE, drain).await.ok();
        }
        // However it came to its end: nobody but us ends what it has left, and commands beside the task are ours.
        kill_patiently(&*self.remains).await;
        if matches!(*self.state.borrow(), State::Ended { .. }) {
            return;
        }
        let detail = match self.read_exit().await {
            Some(Ok(Some(record))) => return self.on_ended(&record, outbox),
            Some(Ok(None)) => String::new(),
            Some(Err(error)) => format!(": {error}"),
            None => return,
        };
        let stopped = self.wanted.stop_by.is_some();
        let over = self.promised.max_run_time.filter(|_| self.wanted.over);
        let end = match over {
            Some(most) => Exit::without_status(
                ExitClass::User,
                format!("{}; its shim left no record{detail}", exit::over(most)),
            ),
            None => exit::without_record(stopped, &detail),
        };
        self.end(None, super::clock::now(), end, outbox);
    }

    /// The record of the end. `None`: cancelled before it could be read.
    async fn read_exit(&self) -> Option<io::Result<Option<ExitRecord>>> {
        let give_up = Instant::now() + READ_PATIENCE;
        let mut pause = Duration::from_millis(50);
        loop {
            let dir = self.dir.clone();
            let read = tokio::task::spawn_blocking(move || dir.read_exit()).await;
            let error = match read.map_err(io::Error::other).and_then(|read| read) {
                Err(error) if error.kind() != io::ErrorKind::InvalidData && Instant::now() < give_up => error,
                read => return Some(read),
            };
            tracing::warn!(task = %self.id, %error, "the record of its end cannot be read for now");
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_READ_PAUSE),
            }
        }
    }

    /// The stop has not come about in time: the shim hangs, or something froze it.
    pub(super) async fn end_by_force(&mut self) {
        tracing::warn!(task = %self.id, pid = self.shim.pid, "the shim does not stop its task; both are killed");
        self.wanted.forced(Instant::now());
        self.shim_end.kill().ok();
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = kill_patiently(&*self.remains) => {}
        }
    }
}

/// Kills everything that is left of a task, and waits for it for a while.
async fn kill_patiently(remains: &dyn Remains) {
    let end = Instant::now() + KILL_DEADLINE;
    while let Err(error) = remains.kill(KILL_DEADLINE).await {
        if Instant::now() >= end {
            tracing::warn!(%error, "a task's processes do not end");
            return;
        }
        // Descriptors may be short for a moment.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
