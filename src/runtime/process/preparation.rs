//! Brings a task to its barrier, or takes everything back. Decides what the shim's checks mean.

use super::cgroup::TaskGroups;
use super::exec::MAX_EXEC_SESSIONS;
use super::layout::TaskRecord;
use super::link::{Bound, Endpoint};
use super::process_id::{PidFd, ProcessId};
use super::setup::{self, Failure, SetUp};
use super::supervisor::{SpecFiles, State, Supervisor};
use super::wanted::Wanted;
use super::{Shared, Slot, Task, platform};
use crate::domain::task::TaskSpec;
use crate::runtime::{Notices, RuntimeError};
use crate::shim::protocol::{Check, CheckKind};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A shim that is not at its barrier by then is broken.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Requests that wait for one shim.
const REQUEST_QUEUE: usize = 16;

impl Shared {
    pub(super) async fn prepare(self: &Arc<Self>, task: &TaskSpec) -> Result<Notices, RuntimeError> {
        let id = task.id;
        let cancel = self.cancel.child_token();
        let (finished, done) = watch::channel(());
        let existing = {
            let mut tasks = self.lock();
            let existing = tasks.get(&id).cloned();
            if existing.is_none() {
                tasks.insert(id, Slot::Preparing { cancel: cancel.clone(), done });
            }
            existing
        };
        if let Some(existing) = existing {
            return prepared_before(task, &existing);
        }
        let made = self.make(task, &cancel).await;
        {
            let mut tasks = self.lock();
            match &made {
                Ok((live, _)) => tasks.insert(id, Slot::Live(live.clone())),
                Err(_) => tasks.remove(&id),
            };
        }
        drop(finished);
        made.map(|(_, notices)| notices)
    }

    /// Makes the task, or nothing.
    async fn make(
        self: &Arc<Self>,
        task: &TaskSpec,
        cancel: &CancellationToken,
    ) -> Result<(Arc<Task>, Notices), RuntimeError> {
        // What an earlier preparation of this task left, a log included, is not part of this one.
        self.clear(task.id).await.map_err(|error| platform("prepare", task.id, error))?;
        // Until its shim has them, a task in the making holds a descriptor for each of its files.
        let turn = tokio::select! {
            turn = self.making.acquire() => turn.map_err(|error| platform("prepare", task.id, error))?,
            () = cancel.cancelled() => return Err(platform("prepare", task.id, "cancelled while it was prepared")),
        };
        let (shared, spec) = (self.clone(), task.clone());
        let made = tokio::task::spawn_blocking(move || setup::set_up(&shared, &spec)).await;
        let made = made.unwrap_or_else(|error| Err(io::Error::other(error).into()));
        let result = match made {
            Ok(made) => self.wait_ready(made, cancel).await,
            Err(failure) => Err(failure),
        };
        drop(turn);
        match result {
            Ok(made) => Ok(made),
            Err(Failure { message, user_error }) => {
                if let Err(error) = self.clear(task.id).await {
                    tracing::warn!(task = %task.id, %error, "taking back a task that could not be prepared");
                }
                Err(RuntimeError { operation: "prepare", task: task.id, message, user_error })
            }
        }
    }

    async fn wait_ready(
        self: &Arc<Self>,
        made: SetUp,
        cancel: &CancellationToken,
    ) -> Result<(Arc<Task>, Notices), Failure> {
        let SetUp { record, groups, shim, pidfd, socket, files } = made;
        let task = self.follow(record, groups, shim, pidfd, Ok(socket), Some(files), State::Connecting)?;
        let mut state = task.state.clone();
        let failure = |message: &str| Failure { message: message.to_owned(), user_error: false };
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
        record: TaskRecord,
        groups: TaskGroups,
        shim: ProcessId,
        pidfd: PidFd,
        socket: io::Result<Bound>,
        spec: Option<SpecFiles>,
        from: State,
    ) -> io::Result<Arc<Task>> {
        let id = record.spec.id;
        let (state, states) = watch::channel(from);
        let (asking, requests) = mpsc::channel(REQUEST_QUEUE);
        let cancel = self.cancel.child_token();
        let dir = self.layout.task(id);
        let supervisor = Supervisor {
            id,
            dir: dir.clone(),
            promised: setup::promised(&record.spec, &record.account),
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
            groups: groups.clone(),
            wanted: Wanted::default(),
        };
        self.tracker.spawn(supervisor.run());
        let execs = Arc::new(Semaphore::new(MAX_EXEC_SESSIONS));
        Ok(Arc::new(Task { id, dir, record, groups, shim, state: states, requests: asking, cancel, execs }))
    }
}

/// The answer to a Prepare that came before.
fn prepared_before(task: &TaskSpec, existing: &Slot) -> Result<Notices, RuntimeError> {
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
