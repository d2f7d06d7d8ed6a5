//! Makes a task up to its shim's start: account, folders, groups, specification, socket, process. Blocking.
//! What an error leaves half-made is taken back by `removal`.

use super::account::{self, Account};
use super::cgroup::{Limits, TaskGroups};
use super::environment;
use super::exit::Promised;
use super::layout::{TaskDir, TaskRecord};
use super::link::Bound;
use super::process_id::{PidFd, ProcessId};
use super::supervisor::SpecFiles;
use super::{OpenFiles, ProcessConfig, Shared, link};
use crate::domain::task::TaskSpec;
use crate::shim::protocol::Slot;
use crate::shim::spec::ShimSpec;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Of every command of a task.
pub const UMASK: u32 = 0o022;

/// A task whose shim has been started.
#[derive(Debug)]
pub struct SetUp {
    pub record: TaskRecord,
    pub groups: TaskGroups,
    pub shim: ProcessId,
    pub pidfd: PidFd,
    pub socket: Bound,
    pub files: SpecFiles,
}

/// Why a task could not be made; `user_error` as in [`crate::runtime::RuntimeError`].
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
    fn user(message: String) -> Self {
        Self { message, user_error: true }
    }
}

pub fn set_up(shared: &Shared, task: &TaskSpec) -> Result<SetUp, Failure> {
    let account = account::resolve(&shared.config.run_as, &task.user)
        .map_err(|error| Failure { user_error: error.is_user_error(), message: error.to_string() })?;
    let dir = shared.layout.task(task.id);
    let work_dir = environment::work_dir(&task.image, &dir.work()).map_err(Failure::user)?;
    dir.create()?;
    if work_dir.own {
        dir.create_work(&account)?;
    }
    let limits = limits(&shared.config, task);
    let (groups, mut notices) = shared.cgroups.create(task.id, &limits);
    notices.extend(work_dir.notice);
    notices.extend(environment::argv(task).1);
    let nonce = uuid::Uuid::new_v4().to_string();
    let record = TaskRecord { spec: task.clone(), nonce, account, cwd: work_dir.path, notices };
    dir.write_task(&record)?;
    let files = spec_files(&shared.config, &dir, &record, &groups)?;
    let socket = link::bind(&dir)?;
    let (mut child, shim) = spawn(&shared.shim, &dir)?;
    // From here on an error must take the process back too.
    let placed = groups.add_shim(shim.pid).and_then(|()| dir.write_shim(&shim));
    let opened = placed.and_then(|()| shim.open()?.ok_or_else(|| io::Error::other("the shim ended at once")));
    match opened {
        // From now on it is reaped through its pidfd, by whoever follows it.
        Ok(pidfd) => Ok(SetUp { record, groups, shim, pidfd, socket, files }),
        Err(error) => {
            child.kill().ok();
            child.wait().ok();
            Err(error.into())
        }
    }
}

pub fn promised(task: &TaskSpec, account: &Account) -> Promised {
    let named_cwd = environment::names_dir(&task.image);
    Promised { memory_mb: task.memory_mb, lease_s: task.lease_s, uid: account.uid, named_cwd }
}

fn limits(config: &ProcessConfig, task: &TaskSpec) -> Limits {
    Limits { memory_mb: task.memory_mb, cpus: task.cpus, pids: config.pids_limit, shm_mb: task.shm_mb }
}

fn spec_files(
    config: &ProcessConfig,
    dir: &TaskDir,
    record: &TaskRecord,
    groups: &TaskGroups,
) -> io::Result<SpecFiles> {
    let root = nix::unistd::Uid::effective().is_root();
    let account = &record.account;
    let spec = ShimSpec {
        uid: root.then_some(account.uid),
        gid: root.then_some(account.gid),
        groups: root.then(|| account.groups.clone()),
        umask: Some(UMASK),
        oom_score_adj: Some(config.oom_score_adj),
        new_ipc_namespace: true,
        lease_s: record.spec.lease_s,
        segment_bytes: config.segment_bytes,
        limits: config.open_files.into_iter().map(OpenFiles::limit).collect(),
        ..ShimSpec::default()
    };
    let mut files = vec![(Slot::Spec, dir.write_spec(&spec)?)];
    files.extend(dir.create_segments(config.log_segments)?.into_iter().map(|file| (Slot::Segment, file)));
    files.push((Slot::Exit, dir.create_exit()?));
    files.push((Slot::Proc, File::open("/proc")?));
    files.extend(groups.payload_entries()?.into_iter().map(|file| (Slot::CgroupProcs, file)));
    files.extend(groups.payload_kill().map(|file| (Slot::CgroupKill, file)));
    files.extend(groups.payload_oom_counter().map(|file| (Slot::OomCount, file)));
    files.push((Slot::Stdin, OpenOptions::new().read(true).open("/dev/null")?));
    Ok(files)
}

/// Starts the shim in a session of its own, so that it outlives the agent. It finds its socket in its directory.
fn spawn(program: &Path, dir: &TaskDir) -> io::Result<(Child, ProcessId)> {
    let mut command = Command::new(program);
    command.args(link::ways(dir)).current_dir(&dir.socket_dir).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: setsid is safe between fork and exec, and touches no memory.
    unsafe {
        command.pre_exec(|| {
            // The leader of a new process has no group of its own yet, so this cannot fail.
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let named = |error: io::Error| io::Error::new(error.kind(), format!("starting {}: {error}", program.display()));
    let mut child = command.spawn().map_err(named)?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    match ProcessId::of(pid) {
        Ok(shim) => Ok((child, shim)),
        Err(error) => {
            child.kill().ok();
            child.wait().ok();
            Err(error)
        }
    }
}
