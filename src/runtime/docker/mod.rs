//! Tasks in Docker containers, each with the shim as its first process. dockerd makes and removes containers; while one
//! runs, everything goes through its shim, so that a dockerd that hangs, restarts or is replaced does no harm.
//!
//! What it shares with other ways of running tasks is in [`super::shimmed`]. Here: `daemon` asks dockerd; `staging`,
//! [`images`] and [`credentials`] get images; `setup`, [`request`], [`injection`] and `creation` make a container up to
//! its shim's start; `observe` looks up what must be known of it later and puts the job's [`code`] in; `identity` tells
//! ours from others', `remains` ends and removes what is left, `cgroup` and `rootfs` look into a container without
//! dockerd, `exec` runs a command in it, `ssh` lets its tasks and its owner reach each other. `beneath` opens what a job
//! names without being led elsewhere, and `pinned` puts it where dockerd is not led elsewhere either.

pub mod code;
pub mod credentials;
pub mod images;
pub mod injection;
pub mod request;

mod beneath;
mod cgroup;
mod creation;
mod daemon;
mod exec;
mod identity;
mod observe;
mod pinned;
mod remains;
mod rootfs;
mod setup;
mod ssh;
mod staging;

pub use super::shimmed::StartError;
pub use daemon::{Daemon, DaemonError};

use super::shimmed::layout::{Layout, TaskDir, TaskRecord};
use super::shimmed::{Core, Failure, Kind, LogRing, Promised, SetUp, Shimmed, Task};
use super::{Decision, Launch, Notices, RuntimeError, RuntimeEvent};
use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::gpu::Gpu;
use crate::domain::ids::{NodeUid, TaskId};
use crate::domain::policy::{Policy, RunTime};
use crate::domain::spec::CommandStyle;
use crate::domain::ssh::SshSeed;
use crate::domain::task::TaskSpec;
use crate::shim::spec::Command;
use async_trait::async_trait;
use cgroup::ContainerGroups;
use creation::Creations;
use images::Images;
use images::collect::ImageRules;
use injection::GpuInjection;
use remains::{Container, Place};
use request::allowed::Allowed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Shells that run a command, in order.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// How this node runs containers.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Log, records, and the folder that each container sees; on a disk from which programs may run.
    pub state_dir: PathBuf,
    /// dockerd's.
    pub socket: PathBuf,
    pub node_uid: NodeUid,
    pub log: LogRing,
    /// Most processes and threads of one task; 0 is no limit.
    pub pids_limit: u32,
    /// The kernel's preference for killing the command rather than its shim.
    pub oom_score_adj: i32,
    /// Longest time that a failed task of a job with `isDebug` is kept; 0 keeps none.
    pub debug_hold_s: u32,
    pub gpu_injection: GpuInjection,
    /// The node's GPUs are only played: containers get none.
    pub simulated_gpus: bool,
    /// Where the NVIDIA driver's files are looked for; `/` but for tests, which have a tree of their own with devices
    /// that are everywhere under the driver's names.
    pub driver_root: PathBuf,
    /// Making a container's file system waits for the disk.
    pub create_deadline: Duration,
    /// What jobs may ask of the node.
    pub policy: Policy,
    /// What no job may have mounted even there, beside our own and dockerd's.
    pub refused_dirs: Vec<PathBuf>,
    /// When images that were pulled for jobs go again.
    pub image_rules: ImageRules,
}

impl DockerConfig {
    /// With what is right for most nodes.
    pub fn new(state_dir: impl Into<PathBuf>, socket: impl Into<PathBuf>, node_uid: NodeUid) -> Self {
        Self {
            state_dir: state_dir.into(),
            socket: socket.into(),
            node_uid,
            log: LogRing::default(),
            pids_limit: 32_768,
            oom_score_adj: 500,
            debug_hold_s: 604_800,
            gpu_injection: GpuInjection::default(),
            simulated_gpus: false,
            driver_root: PathBuf::from("/"),
            create_deadline: Duration::from_secs(20),
            policy: Policy::default(),
            refused_dirs: Vec::new(),
            image_rules: ImageRules::default(),
        }
    }

    /// What of the node jobs may name, as far as dockerd need not be asked.
    fn allowed(&self) -> Allowed {
        let ours = [self.state_dir.clone(), self.socket.clone()];
        let refused = ours.into_iter().chain(self.refused_dirs.iter().cloned()).collect();
        Allowed { mounts: self.policy.mounts.clone(), file: self.policy.file.clone(), refused }
    }
}

/// Runs tasks in containers. Dropping it leaves them running, for the next one to adopt.
pub type DockerRuntime = Shimmed<Containers>;

/// What containers add to shims.
#[derive(Debug)]
pub struct Containers {
    config: DockerConfig,
    daemon: Daemon,
    creations: Creations,
    layout: Layout,
    /// From when dockerd first answers.
    images: OnceLock<Images>,
}

/// What a container task's record holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// The container's, known before it is made.
    pub name: String,
    /// Once it has started.
    pub started: Option<StartedFacts>,
    /// The longest that the node lets it run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_run_time: Option<RunTime>,
}

/// What is looked up in a container when its shim has started, and needed when dockerd may not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedFacts {
    pub container: String,
    pub groups: ContainerGroups,
    /// What Docker gives a process of this image: the image's variables, HOME, HOSTNAME, PATH.
    pub env: Vec<(String, String)>,
    /// Where its first process was started.
    pub cwd: String,
    pub uid: u32,
    /// Older records have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

impl StartedFacts {
    /// Whom Docker is told to run something beside the task as: by number, since the task may have changed what a name, or
    /// nothing, would mean in its container.
    fn user(&self) -> String {
        match self.gid {
            Some(gid) => format!("{}:{gid}", self.uid),
            None => self.uid.to_string(),
        }
    }
}

impl Shimmed<Containers> {
    /// Makes the folders and installs the shim; asks dockerd nothing. Blocking, but brief. Events go to `events`.
    pub fn new(config: DockerConfig, events: mpsc::Sender<RuntimeEvent>) -> Result<Self, StartError> {
        let failed = |error: io::Error| StartError { runtime: Containers::NAME, message: error.to_string() };
        let layout = Layout::create_mounted(&config.state_dir).map_err(failed)?;
        pinned::release_all(&config.state_dir);
        let (daemon, log) = (Daemon::new(&config.socket), config.log);
        Self::start(
            Containers {
                config,
                daemon,
                creations: Creations::default(),
                layout: layout.clone(),
                images: OnceLock::new(),
            },
            layout,
            log,
            events,
        )
    }
}

impl Containers {
    /// The node's images, whose pulls are shared by all tasks.
    async fn images(&self) -> Result<&Images, DaemonError> {
        let docker = self.daemon.client().await?;
        let file = self.config.state_dir.join("images.json");
        Ok(self.images.get_or_init(|| Images::remembering(docker, file)))
    }

    /// The containers of this node, as dockerd has them.
    fn place(&self) -> Place {
        Place {
            daemon: self.daemon.clone(),
            creations: self.creations.clone(),
            node_uid: self.config.node_uid.to_string(),
            layout: self.layout.clone(),
        }
    }
}

/// Looks again and again whether images may go. Says once why it cannot.
async fn collect_images(core: Arc<Core<Containers>>) {
    let rules = core.kind.config.image_rules;
    let mut said = String::new();
    loop {
        let look = async {
            let engine = core.kind.daemon.engine().await.map_err(|error| error.to_string())?;
            let images = core.kind.images().await.map_err(|error| error.to_string())?;
            let now = super::shimmed::clock::now();
            images.collect(&rules, engine.root_dir.as_ref(), now).await.map_err(|error| error.to_string())
        };
        tokio::select! {
            () = core.cancel.cancelled() => return,
            looked = look => match looked {
                Ok(_) => said.clear(),
                Err(error) if error != said => {
                    tracing::warn!(error, "images that nobody needs are not removed");
                    said = error;
                }
                Err(_) => {}
            },
        }
        tokio::select! {
            () = core.cancel.cancelled() => return,
            () = tokio::time::sleep(rules.every) => {}
        }
    }
}

#[async_trait]
impl Kind for Containers {
    const NAME: &'static str = "docker";
    type Facts = ContainerFacts;
    type Remains = Container;

    fn container(facts: &ContainerFacts) -> Option<&str> {
        Some(facts.started.as_ref()?.container.as_str())
    }

    async fn stage(core: &Arc<Core<Self>>, task: &TaskSpec) -> Result<Notices, RuntimeError> {
        let staged = staging::stage(core, task).await;
        staged.map_err(|Failure { message, user_error }| RuntimeError {
            operation: "stage",
            task: task.id,
            message,
            user_error,
        })
    }

    fn started(core: &Arc<Core<Self>>) {
        if !core.kind.config.image_rules.is_off() {
            core.tracker.spawn(collect_images(core.clone()));
        }
    }

    async fn set_up(
        core: &Arc<Core<Self>>,
        task: &TaskSpec,
        gpus: &[Gpu],
        decision: &Decision,
        cancel: &CancellationToken,
    ) -> Result<SetUp<Self>, Failure> {
        setup::set_up(core, task, gpus, decision, cancel).await
    }

    fn remains(&self, id: TaskId, dir: &TaskDir) -> Container {
        Container::read(self.place(), id, dir)
    }

    fn promised(record: &TaskRecord<ContainerFacts>) -> Promised {
        let TaskSpec { memory_mb, lease_s, .. } = record.spec;
        let uid = record.facts.started.as_ref().map_or(0, |started| started.uid);
        Promised { memory_mb, lease_s, uid, named_cwd: false, max_run_time: record.facts.max_run_time, over: false }
    }

    fn command(record: &TaskRecord<ContainerFacts>, launch: &Launch) -> Command {
        let CommandStyle::Shell = record.spec.command_style;
        let bytes = |text: &str| text.as_bytes().to_vec();
        let argv = |shell: &&str| vec![bytes(shell), bytes("-c"), bytes(&record.spec.command)];
        let started = record.facts.started.as_ref();
        let cwd = started.map(|started| ("PAI_WORK_DIR".to_owned(), started.cwd.clone()));
        // Of one name the last wins: first the image's, then where it runs, then ours and the job's.
        let env = started.map(|started| started.env.clone()).unwrap_or_default().into_iter();
        let env = env.chain(cwd).chain(launch.env.iter().cloned());
        Command {
            alternatives: SHELLS.iter().map(argv).collect(),
            env: env.map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect(),
            // Where the shim is, which is where the container was told to start.
            cwd: None,
        }
    }

    async fn exec(
        core: &Arc<Core<Self>>,
        task: &Arc<Task<Self>>,
        exec: ExecSpec,
    ) -> Result<ExecSession, RuntimeError> {
        exec::start(core, task, exec).await
    }

    async fn arrange_ssh(task: &Arc<Task<Self>>, launch: &Launch, command: &Command, seed: SshSeed) {
        ssh::arrange(task, launch, command, seed).await;
    }

    fn running(core: &Arc<Core<Self>>, task: &Arc<Task<Self>>) {
        ssh::start_server(core, task);
    }

    async fn tasks(&self) -> io::Result<BTreeSet<TaskId>> {
        self.place().tasks().await
    }
}

#[cfg(test)]
mod tests;
