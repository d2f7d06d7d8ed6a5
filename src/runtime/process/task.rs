//! The handle of one task: what does not change about it, and asking its supervisor.

use super::cgroup::TaskGroups;
use super::layout::{TaskDir, TaskRecord};
use super::process_id::ProcessId;
use super::supervisor::{Request, State};
use super::{environment, leftovers, platform};
use crate::domain::ids::TaskId;
use crate::runtime::{Launch, RuntimeError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Longest time to wait until a shim has been told something: it may be between two connections.
const TELL_DEADLINE: Duration = Duration::from_secs(10);

/// A task whose shim this runtime follows, or followed to its end.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) dir: TaskDir,
    pub(super) record: TaskRecord,
    pub(super) groups: TaskGroups,
    pub(super) shim: ProcessId,
    pub(super) state: watch::Receiver<State>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) cancel: CancellationToken,
    /// One permit for each command that may run beside it.
    pub(super) execs: Arc<Semaphore>,
}

impl Task {
    /// What the shim runs at Go.
    pub(super) fn command(&self, launch: &Launch) -> crate::shim::spec::Command {
        let bytes = |text: String| text.into_bytes();
        let argv = environment::argv(&self.record.spec).0;
        // Last, so that it holds: without groups a task's processes are known by it.
        let mark = (leftovers::MARK.to_owned(), self.record.nonce.clone());
        let given: Vec<_> = launch.env.iter().cloned().chain([mark]).collect();
        let env = environment::environment(&self.record.account, &self.record.cwd, &given);
        crate::shim::spec::Command {
            alternatives: vec![argv.into_iter().map(bytes).collect()],
            env: env.into_iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
            cwd: Some(self.record.cwd.as_os_str().as_encoded_bytes().to_vec()),
        }
    }

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
