//! Ends whatever is left of a task: through its shim, else over its head.

use super::kind::{Kind, Remains};
use super::layout::undamaged;
use super::supervisor::{Request, State};
use super::{Core, Slot, Task, platform};
use crate::domain::ids::TaskId;
use crate::runtime::RuntimeError;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a shim may take to end its task without grace before it is done over its head.
const SHIM_DEADLINE: Duration = Duration::from_secs(5);
/// How long a follower of a dead shim may take to tell of it.
const TELL_DEADLINE: Duration = Duration::from_secs(5);
/// Processes in the kernel's hands may take long; the caller decides how long it waits.
const GONE_DEADLINE: Duration = Duration::from_secs(60);

impl<K: Kind> Core<K> {
    pub(super) async fn remove(self: &Arc<Self>, id: TaskId) -> Result<(), RuntimeError> {
        if let Some(Slot::Preparing { cancel, mut done }) = self.find(id) {
            cancel.cancel();
            // Closed when the preparation has taken itself back.
            while done.changed().await.is_ok() {}
        }
        let fail = |error: io::Error| platform("remove", id, error);
        let task = match self.find(id) {
            Some(Slot::Live(task)) => Some(task),
            Some(Slot::Preparing { .. }) => return Err(platform("remove", id, "the task is being prepared again")),
            // Without groups only the shim knows all of its processes.
            None => self.take_over(id).await.unwrap_or_else(|error| {
                tracing::warn!(task = %id, %error, "a task cannot be followed to its end; it is killed");
                None
            }),
        };
        if let Some(task) = &task {
            task.end_through_shim().await;
        }
        let remains = self.remains(id).await.map_err(fail)?;
        self.end_rest(id, &remains).await.map_err(fail)?;
        if let Some(task) = &task {
            task.wait_until_told().await;
        }
        remains.remove(GONE_DEADLINE).await.map_err(fail)?;
        let dir = self.layout.task(id);
        super::blocking("remove", id, move || dir.remove_socket_dir().and_then(|()| dir.remove_shim())).await?;
        self.lock().remove(&id);
        Ok(())
    }

    /// Removes everything of a task that is not followed, its log included.
    pub(super) async fn clear(self: &Arc<Self>, id: TaskId) -> io::Result<()> {
        let remains = self.remains(id).await?;
        self.end_rest(id, &remains).await?;
        remains.make_way(GONE_DEADLINE).await?;
        let dir = self.layout.task(id);
        let remove = move || dir.remove_socket_dir().and_then(|()| dir.remove_state());
        tokio::task::spawn_blocking(remove).await.map_err(io::Error::other)?
    }

    pub(super) async fn remains(self: &Arc<Self>, id: TaskId) -> io::Result<K::Remains> {
        let core = self.clone();
        let find = move || core.kind.remains(id, &core.layout.task(id));
        tokio::task::spawn_blocking(find).await.map_err(io::Error::other)
    }

    /// Kills the shim and everything that it left.
    async fn end_rest(&self, id: TaskId, remains: &K::Remains) -> io::Result<()> {
        let (dir, optional) = (self.layout.task(id), remains.finds_shim());
        let find = move || {
            let known = undamaged(dir.read_shim()).and_then(|shim| shim.map_or(Ok(None), |shim| shim.open()));
            if optional { Ok(known.unwrap_or(None)) } else { known }
        };
        let shim = tokio::task::spawn_blocking(find).await.map_err(io::Error::other)??;
        if let Some(shim) = shim {
            match shim.kill() {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                _ => {}
            }
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "its shim does not end");
            tokio::time::timeout(GONE_DEADLINE, shim.ended()).await.map_err(late)??;
        }
        remains.kill(GONE_DEADLINE).await
    }
}

impl<K: Kind> Task<K> {
    /// Stop without grace. Returns when the shim has ended the task, or has had its time.
    async fn end_through_shim(&self) {
        let mut state = self.state.clone();
        let (answer, _told) = oneshot::channel();
        let ended = async {
            let stop = Request::Stop { grace: Duration::ZERO, answer };
            if self.requests.send(stop).await.is_ok() {
                let over = |state: &State| matches!(state, State::Ended { .. } | State::Unprepared { .. });
                state.wait_for(over).await.ok();
            }
        };
        if tokio::time::timeout(SHIM_DEADLINE, ended).await.is_err() {
            tracing::warn!(task = %self.id, pid = self.shim.pid, "the shim did not end its task; it is killed");
        }
    }

    /// Returns when the task's end has been told as an event, or could not be.
    async fn wait_until_told(self: &Arc<Self>) {
        tokio::time::timeout(TELL_DEADLINE, self.requests.closed()).await.ok();
        self.cancel.cancel();
        self.requests.closed().await;
    }
}
