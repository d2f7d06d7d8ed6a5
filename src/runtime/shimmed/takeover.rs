//! Finds what an earlier agent process left of a task, and follows it from there.

use super::kind::{Kind, Remains};
use super::layout::undamaged;
use super::supervisor::State;
use super::{Adopted, Core, Slot, Task, exit, link, platform};
use crate::domain::ids::{Generation, TaskId};
use crate::runtime::RuntimeError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A shim that lives calls back as soon as its socket is there again.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
const KILL_DEADLINE: Duration = Duration::from_secs(10);

impl<K: Kind> Core<K> {
    pub(super) async fn adopt(self: &Arc<Self>, id: TaskId) -> Result<Adopted, RuntimeError> {
        let task = match self.find(id) {
            Some(Slot::Live(task)) => Some(task),
            Some(Slot::Preparing { .. }) => return Err(platform("adopt", id, "the task is being prepared")),
            None => self.take_over(id).await.map_err(|error| platform("adopt", id, error))?,
        };
        if let Some(task) = task {
            let adopted = self.ask_phase(&task).await?;
            if matches!(adopted, Adopted::Running { .. }) {
                K::running(self, &task);
            }
            return Ok(adopted);
        }
        let dir = self.layout.task(id);
        // Its shim is gone, so what it recorded is there to stay: whoever cannot read it now asks again.
        let read = move || Ok((undamaged(dir.read_task::<K::Facts>(K::NAME))?, undamaged(dir.read_exit())?));
        if let (Some(record), Some(end)) = super::blocking("adopt", id, read).await? {
            return Ok(Adopted::Ended {
                started_at: end.started_realtime_ns.map(exit::timestamp),
                at: exit::ended_at(&end),
                exit: exit::exit_of(&end, K::promised(&record)),
            });
        }
        self.kill_leftovers(id).await?;
        Ok(Adopted::Gone)
    }

    async fn ask_phase(self: &Arc<Self>, task: &Arc<Task<K>>) -> Result<Adopted, RuntimeError> {
        let mut states = task.state.clone();
        let heard = states.wait_for(|state| *state != State::Connecting);
        // Late, or its supervisor has ended: either way the last state tells.
        tokio::time::timeout(HELLO_DEADLINE, heard).await.map(drop).ok();
        let state = task.state.borrow().clone();
        match state {
            State::Waiting { .. } => Ok(Adopted::Waiting),
            State::Running { started_at, .. } => Ok(Adopted::Running { started_at }),
            State::Ended { started_at, at, exit } => Ok(Adopted::Ended { started_at, at, exit }),
            // Its preparation was cut off: nobody is waiting for it.
            State::Unprepared { .. } => {
                self.remove(task.id).await?;
                Ok(Adopted::Gone)
            }
            State::Connecting => {
                let pid = task.shim.pid;
                let message = format!("its shim (pid {pid}) lives and has not called back within 10 s");
                Err(platform("adopt", task.id, message))
            }
        }
    }

    /// Follows the task's shim if it lives. `None`: it does not. An error says nothing about it.
    pub(super) async fn take_over(self: &Arc<Self>, id: TaskId) -> io::Result<Option<Arc<Task<K>>>> {
        let dir = self.layout.task(id);
        let look = move || -> io::Result<_> {
            let (record, shim) = (undamaged(dir.read_task(K::NAME))?, undamaged(dir.read_shim())?);
            // A damaged record is as good as none here: without it nothing can be followed.
            let (Some(record), Some(shim)) = (record, shim) else { return Ok(None) };
            let Some(pidfd) = shim.open()? else { return Ok(None) };
            // In this order: a task that started and ended in between is seen as ended, or ends soon.
            let start = undamaged(dir.read_start())?.filter(|start| start.nonce == record.nonce);
            let end = undamaged(dir.read_exit())?;
            Ok(Some((record, shim, pidfd, start, end, link::bind(&dir), dir.take_execs())))
        };
        let found = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)??;
        let Some((record, shim, pidfd, start, end, socket, execs)) = found else { return Ok(None) };
        // Read before others can be started, whose callers are ours.
        self.tracker.spawn(super::exec::end_left(execs, K::promised(&record).uid));
        let state = match (&start, &end) {
            (_, Some(end)) => State::Ended {
                started_at: end.started_realtime_ns.map(exit::timestamp),
                at: exit::ended_at(end),
                exit: exit::exit_of(end, K::promised(&record)),
            },
            (Some(start), None) => State::Running { started_at: start.started_at, child_pid: start.child_pid },
            (None, None) => State::Connecting,
        };
        let remains = self.remains(id).await?;
        let task = self.follow(record, remains, shim, pidfd, socket, None, state)?;
        self.lock().insert(id, Slot::Live(task.clone()));
        Ok(Some(task))
    }

    /// Records from before there were generations tell none: should the journal be lost one day, their tasks would be
    /// taken for those of an outdated decision. A disk that is full now may have room at the next start.
    pub(super) async fn complete_record(&self, id: TaskId, generation: Generation) {
        let dir = self.layout.task(id);
        let complete = move || dir.add_generation::<K::Facts>(K::NAME, generation);
        if let Err(error) = super::blocking("adopt", id, complete).await {
            tracing::warn!(task = %id, %error, "the task's record does not tell for which decision it was prepared");
        }
    }

    /// Kills what a dead shim left.
    async fn kill_leftovers(self: &Arc<Self>, id: TaskId) -> Result<(), RuntimeError> {
        let killed = async { self.remains(id).await?.kill(KILL_DEADLINE).await };
        killed.await.map_err(|error| platform("adopt", id, error))
    }
}
