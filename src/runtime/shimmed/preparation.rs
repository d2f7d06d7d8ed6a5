//! Brings a task to its barrier, or takes everything back. Decides what the shim's checks mean.

use super::kind::{Failure, Kind, SetUp};
use super::layout::TaskRecord;
use super::link::{Bound, Endpoint};
use super::process_id::{PidFd, ProcessId};
use super::supervisor::{SpecFiles, State, Supervisor};
use super::wanted::Wanted;
use super::{Core, MAX_EXEC_SESSIONS, Slot, Task, platform};
use crate::domain::gpu::Gpu;
use crate::domain::ids::TaskId;
use crate::domain::task::TaskSpec;
use crate::runtime::{Decision, Notices, RuntimeError};
use crate::shim::protocol::{Check, CheckKind};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A shim that is not at its barrier by then is broken.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Longest pause between tries to take a failed preparation back.
const TAKE_BACK_PAUSE: Duration = Duration::from_secs(10);
/// Requests that wait for one shim.
const REQUEST_QUEUE: usize = 16;

/// The slot of a task in the making. Dropped with nothing made, also by a panic, it is free again.
pub(super) struct Reserved<K: Kind> {
    core: Arc<Core<K>>,
    id: TaskId,
    cancel: CancellationToken,
    /// Closed last: whoever waits for it looks at the slot next.
    _finished: watch::Sender<()>,
}

impl<K: Kind> Drop for Reserved<K> {
    fn drop(&mut self) {
        let mut tasks = self.core.lock();
        if let Some(Slot::Preparing { .. }) = tasks.get(&self.id) {
            tasks.remove(&self.id);
        }
    }
}

impl<K: Kind> Core<K> {
    /// Takes the task's slot at once, so that a removal that comes next finds the preparation, begun or not.
    pub(super) fn reserve(self: &Arc<Self>, task: &TaskSpec) -> Result<Reserved<K>, Result<Notices, RuntimeError>> {
        let cancel = self.cancel.child_token();
        let (finished, done) = watch::channel(());
        let mut tasks = self.lock();
        if let Some(existing) = tasks.get(&task.id) {
            return Err(prepared_before(task, existing));
        }
        tasks.insert(task.id, Slot::Preparing { cancel: cancel.clone(), done });
        drop(tasks);
        Ok(Reserved { core: self.clone(), id: task.id, cancel, _finished: finished })
    }

    pub(super) async fn prepare(
        self: &Arc<Self>,
        reserved: Reserved<K>,
        task: &TaskSpec,
        gpus: &[Gpu],
        decision: &Decision,
    ) -> Result<Notices, RuntimeError> {
        let (live, notices) = self.make(task, gpus, decision, &reserved.cancel).await?;
        self.lock().insert(task.id, Slot::Live(live));
        Ok(notices)
    }

    /// Makes the task, or nothing.
    async fn make(
        self: &Arc<Self>,
        task: &TaskSpec,
        gpus: &[Gpu],
        decision: &Decision,
        cancel: &CancellationToken,
    ) -> Result<(Arc<Task<K>>, Notices), RuntimeError> {
        // What an earlier preparation of this task left, a log included, is not part of this one.
        self.clear(task.id).await.map_err(|error| platform("prepare", task.id, error))?;
        // Until its shim has them, a task in the making holds a descriptor for each of its files.
        let turn = tokio::select! {
            turn = self.making.acquire() => turn.map_err(|error| platform("prepare", task.id, error))?,
            () = cancel.cancelled() => return Err(platform("prepare", task.id, "cancelled while it was prepared")),
        };
        let result = match K::set_up(self, task, gpus, decision, cancel).await {
            Ok(made) => self.wait_ready(made, cancel).await,
            Err(failure) => Err(failure),
        };
        drop(turn);
        match result {
            Ok(made) => Ok(made),
            Err(Failure { message, user_error }) => {
                self.take_back(task.id).await;
                Err(RuntimeError { operation: "prepare", task: task.id, message, user_error })
            }
        }
    }

    /// Nothing is left of a task whose preparation failed before that is said.
    async fn take_back(self: &Arc<Self>, id: TaskId) {
        let mut pause = Duration::from_millis(200);
        while let Err(error) = self.clear(id).await {
            tracing::warn!(task = %id, %error, "taking back a task that could not be prepared");
            tokio::select! {
                // The next agent process finds it.
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(TAKE_BACK_PAUSE),
            }
        }
    }

    async fn wait_ready(
        self: &Arc<Self>,
        made: SetUp<K>,
        cancel: &CancellationToken,
    ) -> Result<(Arc<Task<K>>, Notices), Failure> {
        let SetUp { record, remains, shim, pidfd, socket, files } = made;
        let task = self.follow(record, remains, shim, pidfd, Ok(socket), Some(files), State::Connecting)?;
        let mut state = task.state.clone();
        let failure = |message: &str| Failure::platform(message);
        let result = tokio::select! {
            () = cancel.cancelled() => Err(failure("cancelled while it was prepared")),
            reached = tokio::time::timeout(READY_DEADLINE, state.wait_for(|now| *now != State::Connecting)) => match reached {
                Err(_) => Err(failure("its shim did not get ready within 30 s")),
                Ok(Err(_)) => Err(failure("its shim ended before it was ready")),
                Ok(Ok(state)) => Ok(state.clone()),
            }
        };
        let notices = result.and_then(|state| match state {
            State::Waiting { checks } => check_notices(&checks).map_err(|message| failure(&message)),
            State::Ended { exit, .. } => Err(failure(&exit.reason)),
            State::Unprepared { reason } => Err(failure(&reason)),
            _ => Err(failure("its shim is in another state than the barrier")),
        });
        match notices {
            Ok(notices) => {
                let all = task.record.notices.iter().cloned().chain(notices).collect();
                Ok((task, Notices(all)))
            }
            Err(failure) => {
                // Nobody prepared it, so nobody hears of its end.
                task.cancel.cancel();
                task.requests.closed().await;
                Err(failure)
            }
        }
    }

    /// Starts following a shim.
    #[allow(clippy::too_many_arguments, reason = "the parts of one task, made one by one and given away together")]
    pub(super) fn follow(
        self: &Arc<Self>,
        record: TaskRecord<K::Facts>,
        remains: K::Remains,
        shim: ProcessId,
        pidfd: PidFd,
        socket: io::Result<Bound>,
        spec: Option<SpecFiles>,
        from: State,
    ) -> io::Result<Arc<Task<K>>> {
        let id = record.spec.id;
        let remains = Arc::new(remains);
        let (state, states) = watch::channel(from);
        let (asking, requests) = mpsc::channel(REQUEST_QUEUE);
        let cancel = self.cancel.child_token();
        let dir = self.layout.task(id);
        let supervisor = Supervisor {
            id,
            dir: dir.clone(),
            promised: K::promised(&record),
            shim: shim.clone(),
            shim_end: pidfd.watch()?,
            endpoint: Endpoint::new(dir.clone(), socket),
            nonce: record.nonce.clone(),
            adopting: spec.is_none(),
            spec,
            requests,
            events: self.events.clone(),
            state,
            cancel: cancel.clone(),
            remains: remains.clone(),
            wanted: Wanted::default(),
        };
        self.tracker.spawn(supervisor.run());
        let execs = Arc::new(Semaphore::new(MAX_EXEC_SESSIONS));
        Ok(Arc::new(Task {
            id,
            dir,
            record,
            remains,
            shim,
            state: states,
            requests: asking,
            cancel,
            secrets: OnceLock::new(),
            execs,
        }))
    }
}

/// The answer to a Prepare that came before.
fn prepared_before<K: Kind>(task: &TaskSpec, existing: &Slot<K>) -> Result<Notices, RuntimeError> {
    let Slot::Live(live) = existing else {
        return Err(platform("prepare", task.id, "the task is being prepared already"));
    };
    if live.record.spec != *task {
        return Err(platform("prepare", task.id, "the task exists with another specification"));
    }
    let from_shim = match &*live.state.borrow() {
        State::Waiting { checks } => check_notices(checks).unwrap_or_default(),
        _ => Vec::new(),
    };
    Ok(Notices(live.record.notices.iter().cloned().chain(from_shim).collect()))
}

/// What the shim could not do: a notice where the task can run all the same, else an error.
fn check_notices(checks: &[Check]) -> Result<Vec<String>, String> {
    let mut notices = Vec::new();
    for check in checks.iter().filter(|check| !check.passed()) {
        match check.kind {
            CheckKind::IpcNamespace => {
                notices.push(format!("the IPC namespace is shared with the node: {}", check.message));
            }
            CheckKind::Proc => {
                notices.push(format!("stray processes may not be found at the end: {}", check.message))
            }
            CheckKind::DeviceNode | CheckKind::Library | CheckKind::Files => {
                return Err(format!("{} {}", check.subject, check.message).trim().to_owned());
            }
        }
    }
    Ok(notices)
}
