//! Tasks as plain processes under the shim: for machines without Docker, for the demo and for tests.
//! Limits and kills go through control groups where the machine lets us; what is not enforced becomes a notice.
//!
//! What it shares with other ways of running tasks is in [`super::shimmed`]. Here: `setup` makes a task up to its
//! shim's start, `account`, `environment` and `cgroup` know users, commands and groups, `leftovers` ends what a shim
//! leaves, `exec` runs a command beside a task.

mod account;
mod cgroup;
mod environment;
mod exec;
mod leftovers;
mod setup;
mod spawn;

pub use super::shimmed::StartError;
pub use account::RunAs;

use super::shimmed::layout::{Layout, TaskDir, TaskRecord};
use super::shimmed::{Core, Failure, Kind, LogRing, Promised, SetUp, Shimmed, Task};
use super::{Decision, Launch, Notices, RuntimeError, RuntimeEvent};
use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::gpu::Gpu;
use crate::domain::ids::TaskId;
use crate::domain::policy::{Policy, RunTime};
use crate::domain::task::TaskSpec;
use crate::shim::spec::{Command, ResourceLimit};
use account::Account;
use async_trait::async_trait;
use cgroup::Cgroups;
use leftovers::Leftovers;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How this node runs processes.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Log, records and working directories; other users must be able to pass through it.
    pub state_dir: PathBuf,
    /// Sockets; emptied by a reboot.
    pub run_dir: PathBuf,
    /// Control groups of tasks are made below this, in every hierarchy: `wharf/NODE_UID`.
    pub cgroup_parent: String,
    pub run_as: RunAs,
    /// Whom they may run as.
    pub policy: Policy,
    /// Files of a task's log ring, 2 to 64: a shim gets all of them in one message.
    pub log_segments: u32,
    pub segment_bytes: u64,
    /// Most processes and threads of one task; 0 is no limit.
    pub pids_limit: u32,
    /// The kernel's preference for killing the command rather than its shim.
    pub oom_score_adj: i32,
    /// Longest time that a failed task of a job with `isDebug` is kept; 0 keeps none.
    pub debug_hold_s: u32,
    /// Of tasks, where the agent's own are others.
    pub open_files: Option<OpenFiles>,
}

/// How many files a process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    pub soft: u64,
    pub hard: u64,
}

impl OpenFiles {
    fn limit(self) -> ResourceLimit {
        ResourceLimit { resource: libc::RLIMIT_NOFILE, soft: self.soft, hard: self.hard }
    }
}

impl ProcessConfig {
    /// With what is right for most nodes.
    pub fn new(state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>, cgroup_parent: impl Into<String>) -> Self {
        let log = LogRing::default();
        Self {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            cgroup_parent: cgroup_parent.into(),
            run_as: RunAs::AgentUser,
            policy: Policy::default(),
            log_segments: log.segments,
            segment_bytes: log.segment_bytes,
            pids_limit: 32_768,
            oom_score_adj: 500,
            debug_hold_s: 604_800,
            open_files: None,
        }
    }
}

/// Runs tasks as processes. Dropping it leaves the tasks running, for the next one to adopt.
pub type ProcessRuntime = Shimmed<Processes>;

/// What processes add to shims.
#[derive(Debug)]
pub struct Processes {
    config: ProcessConfig,
    cgroups: Cgroups,
}

/// What a job names may be on a disk, or in a directory of accounts, that does not answer.
const LOOK_DEADLINE: Duration = Duration::from_secs(20);

/// What a process task's record holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    pub account: Account,
    pub cwd: PathBuf,
    /// The longest that the node lets it run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_run_time: Option<RunTime>,
}

impl Shimmed<Processes> {
    /// Makes the folders and installs the shim. Blocking, but brief. Events go to `events`.
    pub fn new(config: ProcessConfig, events: mpsc::Sender<RuntimeEvent>) -> Result<Self, StartError> {
        let cgroups = Cgroups::detect(&config.cgroup_parent);
        Self::with_groups(config, events, cgroups)
    }

    fn with_groups(
        config: ProcessConfig,
        events: mpsc::Sender<RuntimeEvent>,
        cgroups: Cgroups,
    ) -> Result<Self, StartError> {
        let failed = |error: io::Error| StartError { runtime: Processes::NAME, message: error.to_string() };
        let layout = Layout::create(&config.state_dir, &config.run_dir).map_err(failed)?;
        let log = LogRing { segments: config.log_segments, segment_bytes: config.segment_bytes };
        Self::start(Processes { config, cgroups }, layout, log, events)
    }
}

#[async_trait]
impl Kind for Processes {
    const NAME: &'static str = "process";
    type Facts = ProcessFacts;
    type Remains = Leftovers;

    async fn stage(core: &Arc<Core<Self>>, task: &TaskSpec) -> Result<Notices, RuntimeError> {
        // Nothing to fetch: a process sees the node as it is. What cannot be is said as early as possible.
        let look = {
            let (core, spec) = (core.clone(), task.clone());
            move || setup::look(&core, &spec)
        };
        let look = core.disks.look("looking for its account and folder", LOOK_DEADLINE, &core.cancel, look).await;
        let found = look.map_err(|failure| failure.of("stage", task.id))?;
        Ok(Notices(found.work_dir.notice.into_iter().collect()))
    }

    async fn set_up(
        core: &Arc<Core<Self>>,
        task: &TaskSpec,
        _gpus: &[Gpu],
        decision: &Decision,
        cancel: &CancellationToken,
    ) -> Result<SetUp<Self>, Failure> {
        let look = {
            let (core, spec) = (core.clone(), task.clone());
            move || setup::look(&core, &spec)
        };
        let looked = core.disks.look("looking for its account and folder", LOOK_DEADLINE, cancel, look).await?;
        let (core, spec, generation) = (core.clone(), task.clone(), decision.generation);
        let made = tokio::task::spawn_blocking(move || setup::set_up(&core, &spec, generation, looked)).await;
        made.unwrap_or_else(|error| Err(io::Error::other(error).into()))
    }

    fn remains(&self, id: TaskId, dir: &TaskDir) -> Leftovers {
        Leftovers { dir: dir.clone(), groups: self.cgroups.existing(id) }
    }

    fn promised(record: &TaskRecord<ProcessFacts>) -> Promised {
        let named_cwd = environment::names_dir(&record.spec.image);
        let TaskSpec { memory_mb, lease_s, .. } = record.spec;
        let max_run_time = record.facts.max_run_time;
        Promised { memory_mb, lease_s, uid: record.facts.account.uid, named_cwd, max_run_time, over: false }
    }

    fn command(record: &TaskRecord<ProcessFacts>, launch: &Launch) -> Command {
        let bytes = |text: String| text.into_bytes();
        let argv = environment::argv(&record.spec).0;
        // Last, so that it holds: without groups a task's processes are known by it.
        let mark = (leftovers::MARK.to_owned(), record.nonce.clone());
        let given: Vec<_> = launch.env.iter().cloned().chain([mark]).collect();
        let env = environment::environment(&record.facts.account, &record.facts.cwd, &given);
        Command {
            alternatives: vec![argv.into_iter().map(bytes).collect()],
            env: env.into_iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
            cwd: Some(record.facts.cwd.as_os_str().as_encoded_bytes().to_vec()),
        }
    }

    async fn exec(
        core: &Arc<Core<Self>>,
        task: &Arc<Task<Self>>,
        exec: ExecSpec,
    ) -> Result<ExecSession, RuntimeError> {
        exec::start(core, task, exec).await
    }

    async fn tasks(&self) -> io::Result<BTreeSet<TaskId>> {
        let cgroups = self.cgroups.clone();
        tokio::task::spawn_blocking(move || cgroups.tasks()).await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests;
