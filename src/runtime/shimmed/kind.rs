//! What one way of running tasks adds to what all shimmed ones share.

use super::layout::{TaskDir, TaskRecord};
use super::link::Bound;
use super::process_id::{PidFd, ProcessId};
use super::supervisor::SpecFiles;
use super::{Core, Promised, Task};
use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::gpu::Gpu;
use crate::domain::ids::TaskId;
use crate::domain::ssh::SshSeed;
use crate::domain::task::TaskSpec;
use crate::runtime::{Decision, Launch, Notices, RuntimeError};
use crate::shim::spec::Command;
use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How tasks are made, and how what their shims leave is found. State lives in [`Core`] and in files, not here.
#[async_trait]
pub trait Kind: Debug + Send + Sync + Sized + 'static {
    const NAME: &'static str;
    /// What `task.json` holds beside what is the same for every kind.
    type Facts: Debug + Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;
    type Remains: Remains;

    /// What it does on its own from now on, with the core's tracker and until its end.
    fn started(_core: &Arc<Core<Self>>) {}

    async fn stage(core: &Arc<Core<Self>>, task: &TaskSpec) -> Result<Notices, RuntimeError>;

    /// Makes the task up to its shim's start; `gpus` are those of `task.gpus`. What an error leaves half-made is taken back by [`Remains`].
    async fn set_up(
        core: &Arc<Core<Self>>,
        task: &TaskSpec,
        gpus: &[Gpu],
        decision: &Decision,
        cancel: &CancellationToken,
    ) -> Result<SetUp<Self>, Failure>;

    /// What there is, or may be, of a task beside its shim. Blocking, but brief.
    fn remains(&self, id: TaskId, dir: &TaskDir) -> Self::Remains;

    fn promised(record: &TaskRecord<Self::Facts>) -> Promised;

    /// What the shim runs at Go.
    fn command(record: &TaskRecord<Self::Facts>, launch: &Launch) -> Command;

    /// Before Go: lets the tasks of a job reach each other by SSH, where this kind can. What fails does not fail the task.
    async fn arrange_ssh(_task: &Arc<Task<Self>>, _launch: &Launch, _command: &Command, _seed: SshSeed) {}

    /// Its command runs, or soon will: said at launch, and by every agent that adopts it.
    fn running(_core: &Arc<Core<Self>>, _task: &Arc<Task<Self>>) {}

    /// Runs a command beside a task; `exec.argv` is not empty.
    async fn exec(
        core: &Arc<Core<Self>>,
        task: &Arc<Task<Self>>,
        exec: ExecSpec,
    ) -> Result<ExecSession, RuntimeError>;

    /// The id of the container that a task runs in, where it does.
    fn container(_facts: &Self::Facts) -> Option<&str> {
        None
    }

    /// Tasks that have something of this kind here, whatever else is left of them.
    async fn tasks(&self) -> io::Result<BTreeSet<TaskId>>;
}

/// What a task may have on this machine beside its shim, its folder and its socket: processes, control groups, a
/// container.
#[async_trait]
pub trait Remains: Debug + Send + Sync + 'static {
    /// Kills every process of the task, once its shim is dead or to be killed with the rest. Returns when none is left.
    async fn kill(&self, deadline: Duration) -> io::Result<()>;

    /// Removes the rest, killing what is found in it. An error says that something is left, or may be.
    async fn remove(&self, deadline: Duration) -> io::Result<()>;

    /// The same before a task is made. Its id may be new here, which most often needs no look.
    async fn make_way(&self, deadline: Duration) -> io::Result<()> {
        self.remove(deadline).await
    }

    /// Whether `kill` finds the shim as well should its record not be readable.
    fn finds_shim(&self) -> bool;
}

/// A task whose shim has been started.
#[derive(Debug)]
pub struct SetUp<K: Kind> {
    pub record: TaskRecord<K::Facts>,
    pub remains: K::Remains,
    pub shim: ProcessId,
    pub pidfd: PidFd,
    pub socket: Bound,
    pub files: SpecFiles,
}

/// Why a task could not be made; `user_error` as in [`RuntimeError`].
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub user_error: bool,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { message: error.to_string(), user_error: false }
    }
}

impl Failure {
    pub fn platform(message: impl Into<String>) -> Self {
        Self { message: message.into(), user_error: false }
    }

    pub fn user(message: impl Into<String>) -> Self {
        Self { message: message.into(), user_error: true }
    }

    pub fn of(self, operation: &'static str, task: TaskId) -> RuntimeError {
        RuntimeError { operation, task, message: self.message, user_error: self.user_error }
    }
}
