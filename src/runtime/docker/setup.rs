//! Makes a task up to its shim's start: folder, socket, container. The nonce is on disk before dockerd is asked, so that
//! whatever becomes of us, the container is known as ours. What an error leaves half-made is taken back by `remains`.

use super::code::CodeError;
use super::daemon::{ANSWER_DEADLINE, DaemonError};
use super::images::facts::ImageFacts;
use super::injection::{EngineFacts, HostDriver, Injection, InjectionError, plan, simulated};
use super::observe::{Started, observe};
use super::pinned::Pinned;
use super::request::allowed::Allowed;
use super::request::mounts::JobMounts;
use super::request::nested;
use super::request::{self, NodeFacts, RequestError, SHIM_TARGET, ShimMounts, asked, asked_early, body};
use super::{ContainerFacts, Containers, DockerConfig, identity};
use crate::domain::gpu::Gpu;
use crate::domain::level::Level;
use crate::domain::policy::{Asked, Policy, RunsAs};
use crate::domain::task::TaskSpec;
use crate::runtime::Decision;
use crate::runtime::shimmed::layout::{SHIM_NAME, SOCKET_NAME, TaskDir, TaskRecord};
use crate::runtime::shimmed::link::{self, Bound};
use crate::runtime::shimmed::{Core, Failure, Kind, SetUp};
use bollard::Docker;
use bollard::models::ContainerCreateBody;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Jobs name folders of disks that may not answer.
const FOLDERS_DEADLINE: Duration = Duration::from_secs(20);
/// The folders again, as the container has them, and the code into it, after its first process has become the shim.
const OBSERVE_DEADLINE: Duration = Duration::from_secs(60);
/// Starting waits for namespaces, mounts, networks and hooks.
const START_DEADLINE: Duration = Duration::from_secs(30);

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        Self::platform(error.to_string())
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self { user_error: error.is_user_error(), message: error.to_string() }
    }
}

impl From<CodeError> for Failure {
    fn from(error: CodeError) -> Self {
        Self { user_error: error.is_user_error(), message: error.to_string() }
    }
}

impl From<InjectionError> for Failure {
    fn from(error: InjectionError) -> Self {
        Self::platform(error.to_string())
    }
}

/// A container that is to be made.
struct Plan {
    record: TaskRecord<ContainerFacts>,
    dir: TaskDir,
    socket: Bound,
    body: ContainerCreateBody,
    injection: Injection,
    files: JobMounts,
    /// Until the container has started.
    pinned: Pinned,
}

pub async fn set_up(
    core: &Arc<Core<Containers>>,
    task: &TaskSpec,
    gpus: &[Gpu],
    decision: &Decision,
    cancel: &CancellationToken,
) -> Result<SetUp<Containers>, Failure> {
    if gpus.len() != task.gpus.len() {
        let (have, want) = (gpus.len(), task.gpus.len());
        return Err(Failure::platform(format!("of its {want} GPUs this node has only {have} now")));
    }
    let disks = &core.disks;
    // Before anything is made: the commonest reason to fail.
    let engine = core.kind.daemon.engine().await?;
    let images = core.kind.images().await?;
    let found = images.inspect(&task.image).await?;
    let gone = || Failure::platform(format!("image '{}' is not on this node, or not any more", task.image));
    let image = found.ok_or_else(gone)?;
    images.used(&image.id);
    let (files, injection) = {
        let (core, task, image, engine) = (core.clone(), task.clone(), image.clone(), engine.clone());
        let gpus = gpus.to_vec();
        let look = move || look(&core.kind.config, &task, &image, &engine, &gpus);
        disks.look("looking at the job's folders and the driver's", FOLDERS_DEADLINE, cancel, look).await?
    };
    let made = files.clone();
    let finished = finish(core, task, image, gpus, decision, cancel, files, injection).await;
    if finished.as_ref().is_err_and(|failure| failure.user_error) {
        // Not what failed for the moment: another task of the job may be using it.
        let take_back = move || {
            made.take_back();
            Ok(())
        };
        disks.look("removing the folders of a refused job", FOLDERS_DEADLINE, cancel, take_back).await.ok();
    }
    finished
}

/// Makes the container, once it is known what is on the node for it.
#[allow(clippy::too_many_arguments, reason = "what was found, step by step")]
async fn finish(
    core: &Arc<Core<Containers>>,
    task: &TaskSpec,
    image: ImageFacts,
    gpus: &[Gpu],
    decision: &Decision,
    cancel: &CancellationToken,
    files: JobMounts,
    injection: Injection,
) -> Result<SetUp<Containers>, Failure> {
    let plan = {
        let (core, task, image, gpus) = (core.clone(), task.clone(), image.clone(), gpus.to_vec());
        let decision = decision.clone();
        blocking(move || make_plan(&core, &task, &image, injection, &gpus, &decision, files)).await?
    };
    let Plan { record, dir, socket, body, injection, files, pinned } = plan;
    let going = || if cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) };
    going()?;
    let name = record.facts.name.clone();
    let container = create(core, &name, body).await?;
    going()?;
    let pid = start(core, &name, &container).await?;
    let (core, disks) = (core.clone(), &core.disks);
    let started = Started { container, pid, files, checks: injection.checks, cancel: cancel.clone() };
    let observe = move || {
        drop(pinned);
        observe(&core, record, dir, socket, started)
    };
    disks.look("looking at the started container", OBSERVE_DEADLINE, cancel, observe).await
}

/// What is on the node for the task. Blocking.
fn look(
    config: &DockerConfig,
    task: &TaskSpec,
    image: &ImageFacts,
    engine: &EngineFacts,
    gpus: &[Gpu],
) -> Result<(JobMounts, Injection), Failure> {
    allowed_early(&config.policy, task, image)?;
    let files = JobMounts::resolve(task, image, &allowed(config, engine))?;
    let rest = || {
        if !engine.makes_all_mounts_read_only() {
            files.refuse_mounts_below(&nested::mount_points()?)?;
        }
        Ok(injection(config, engine, gpus)?)
    };
    match rest() {
        Ok(injection) => Ok((files, injection)),
        Err(failure) => {
            files.take_back();
            Err(failure)
        }
    }
}

/// What can be refused before anything is made: of whom the container is to run as, what it says by number.
fn allowed_early(policy: &Policy, task: &TaskSpec, image: &ImageFacts) -> Result<(), RequestError> {
    policy.check(&asked_early(task)).map_err(RequestError::Refused)?;
    let user = task.container.user.as_deref().unwrap_or(&image.user);
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    // Without a user it is root.
    let uid = if user.is_empty() { Some(0) } else { user.parse().ok() };
    let Some(runs_as) = uid.map(RunsAs::Container) else { return Ok(()) };
    let groups: Vec<u32> = group.parse().into_iter().collect();
    let checked = policy.check_user(runs_as).and_then(|()| policy.check_groups(runs_as, &groups));
    checked.map_err(|refusal| RequestError::Refused(vec![refusal]))
}

/// Decides what is asked for, and makes what it refers to. Blocking.
fn make_plan(
    core: &Core<Containers>,
    task: &TaskSpec,
    image: &ImageFacts,
    injection: Injection,
    gpus: &[Gpu],
    decision: &Decision,
    files: JobMounts,
) -> Result<Plan, Failure> {
    let config = &core.kind.config;
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let dir = core.layout.task(task.id);
    // What an image has at a known place, or leads there, could be run instead.
    let door = format!("{SHIM_TARGET}-{}", uuid::Uuid::new_v4().simple());
    let shim = ShimMounts {
        binds: [SHIM_TARGET, &door].map(|target| (dir.socket_dir.clone(), target.to_owned())).to_vec(),
        entrypoint: [SHIM_NAME, SOCKET_NAME].map(|name| format!("{door}/{name}")).to_vec(),
        generation: decision.generation,
        nonce: nonce.clone(),
    };
    let node = NodeFacts {
        cluster_id: decision.cluster_id.clone(),
        node_uid: config.node_uid.to_string(),
        pids_limit: (config.pids_limit > 0).then_some(config.pids_limit),
        simulated_gpus: config.simulated_gpus,
        infiniband: task.container.infiniband && request::node::has_infiniband(Path::new("/")),
        numa_cpus: if task.container.numa_cpus { request::node::numa_cpus(Path::new("/")) } else { BTreeMap::new() },
        gpus: gpus.to_vec(),
        never_root: !config.policy.allows_root(),
        ..NodeFacts::default()
    };
    let name = identity::name(task.id, &nonce);
    let pinned = Pinned::of(&files, &std::path::absolute(&config.state_dir)?, &name, &config.socket)?;
    let (body, notices) = body(task, image, &node, &injection, &shim, &pinned.files);
    allowed_by(&config.policy, &asked(&body, task, &injection), image, task)?;
    let facts = ContainerFacts { name, started: None, max_run_time: config.policy.max_run_time };
    let record = TaskRecord {
        runtime: Containers::NAME.to_owned(),
        level: Level::own(),
        spec: task.clone(),
        generation: decision.generation,
        nonce,
        notices,
        facts,
    };
    dir.create()?;
    dir.add_shim(&core.shim)?;
    dir.write_task(&record)?;
    let socket = link::bind(&dir)?;
    Ok(Plan { record, dir, socket, body, injection, files, pinned })
}

/// The last look at the whole of what dockerd is asked for.
fn allowed_by(policy: &Policy, asked: &Asked, image: &ImageFacts, task: &TaskSpec) -> Result<(), RequestError> {
    policy.check(asked).map_err(RequestError::Refused)?;
    if !policy.images.is_empty() && !image.is_called(&task.image) {
        let allowed = "an image by its name, and not by its id";
        let refusal = policy.refusal("policy.images", "image", task.image.clone(), allowed);
        return Err(RequestError::Refused(vec![refusal]));
    }
    Ok(())
}

fn injection(config: &DockerConfig, engine: &EngineFacts, gpus: &[Gpu]) -> Result<Injection, InjectionError> {
    if config.simulated_gpus && !gpus.is_empty() {
        return Ok(simulated(engine));
    }
    let root = &config.driver_root;
    let driver = if gpus.is_empty() { HostDriver::default() } else { HostDriver::probe(root, &engine.cdi_dirs) };
    let driver = driver.with_mig(gpus);
    Ok(Injection { root: root.clone(), ..plan(config.gpu_injection, engine, &driver, gpus)? })
}

/// What of the node jobs may see.
fn allowed(config: &DockerConfig, engine: &EngineFacts) -> Allowed {
    let mut allowed = config.allowed();
    allowed.refused.extend(Some(&engine.root_dir).filter(|dir| !dir.is_empty()).map(PathBuf::from));
    allowed
}

async fn create(core: &Core<Containers>, name: &str, body: ContainerCreateBody) -> Result<String, Failure> {
    let Containers { daemon, creations, config, .. } = &core.kind;
    let cancel = core.cancel.child_token();
    Ok(creations.create(daemon, &core.tracker, cancel, name, body, config.create_deadline).await?)
}

/// Starts the container; the pid of its shim.
async fn start(core: &Core<Containers>, name: &str, container: &str) -> Result<i32, Failure> {
    let (daemon, of) = (&core.kind.daemon, container.to_owned());
    let start = |docker: Docker| async move { docker.start_container(&of, None).await };
    daemon.call("start the container", name, START_DEADLINE, start).await?;
    let of = container.to_owned();
    let inspect = |docker: Docker| async move { docker.inspect_container(&of, None).await };
    let found = daemon.call("inspect the container", name, ANSWER_DEADLINE, inspect).await?;
    let state = found.state.unwrap_or_default();
    let pid = state.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let ended = || Failure::platform(format!("its shim ended at once with status {}", state.exit_code.unwrap_or(-1)));
    pid.ok_or_else(ended)
}

fn cancelled() -> Failure {
    Failure::platform("cancelled while it was prepared")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}
