//! Makes a task up to its shim's start: account, folders, groups, specification, socket, process. Blocking.
//! What an error leaves half-made is taken back by `leftovers`.

use super::account::Account;
use super::cgroup::{self, Limits, TaskGroups};
use super::environment::WorkDir;
use super::leftovers::Leftovers;
use super::{OpenFiles, ProcessConfig, ProcessFacts, Processes, RunAs, account, environment, spawn};
use crate::domain::ids::Generation;
use crate::domain::level::Level;
use crate::domain::policy::{Refusal, RunsAs};
use crate::domain::task::TaskSpec;
use crate::runtime::shimmed::layout::{TaskDir, TaskRecord};
use crate::runtime::shimmed::process_id::{PidFd, ProcessId};
use crate::runtime::shimmed::supervisor::SpecFiles;
use crate::runtime::shimmed::{Core, Failure, Kind, SetUp, link};
use crate::shim::protocol::Slot;
use crate::shim::spec::ShimSpec;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io;

/// Of every command of a task.
pub const UMASK: u32 = 0o022;

/// What is asked of others: directories of accounts, disks with folders of jobs.
pub struct Looked {
    account: Account,
    pub work_dir: WorkDir,
}

pub fn look(core: &Core<Processes>, task: &TaskSpec) -> Result<Looked, Failure> {
    let account = account::resolve(&core.kind.config.run_as, &task.user)
        .map_err(|error| Failure { user_error: error.is_user_error(), message: error.to_string() })?;
    allowed_by(&core.kind.config, &account)?;
    let work_dir = environment::work_dir(&task.image, &core.layout.task(task.id).work(), &account.rights());
    let work_dir = work_dir.map_err(Failure::user)?;
    Ok(Looked { account, work_dir })
}

/// Root is the operator's mistake where no job has asked for it.
pub fn allowed_by(config: &ProcessConfig, account: &Account) -> Result<(), Failure> {
    let refused =
        |refusal: Refusal| Failure { user_error: config.run_as == RunAs::Submitter, message: refusal.to_string() };
    let runs_as = RunsAs::Process(account.uid);
    config.policy.check_user(runs_as).map_err(refused)?;
    // Who is not root gives no groups but its own.
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(());
    }
    let groups: Vec<u32> = account.groups.iter().chain([&account.gid]).copied().collect();
    config.policy.check_groups(runs_as, &groups).map_err(refused)
}

pub fn set_up(
    core: &Core<Processes>,
    task: &TaskSpec,
    generation: Generation,
    looked: Looked,
) -> Result<SetUp<Processes>, Failure> {
    let Processes { config, cgroups } = &core.kind;
    let Looked { account, work_dir } = looked;
    let dir = core.layout.task(task.id);
    dir.create()?;
    if work_dir.own {
        dir.create_work(account.uid, account.gid)?;
    }
    let limits = limits(config, task);
    let (groups, mut notices) = cgroups.create(task.id, &limits);
    notices.extend(work_dir.notice);
    notices.extend(environment::argv(task).1);
    let nonce = uuid::Uuid::new_v4().to_string();
    let facts = ProcessFacts { account, cwd: work_dir.path, max_run_time: config.policy.max_run_time };
    let record = TaskRecord {
        runtime: Processes::NAME.to_owned(),
        level: Level::own(),
        spec: task.clone(),
        generation,
        nonce,
        notices,
        facts,
    };
    dir.write_task(&record)?;
    let files = spec_files(core, &dir, &record, &groups)?;
    let socket = link::bind(&dir)?;
    let pid = spawn::spawn(&core.shim, &link::ways(&dir), &dir.socket_dir, &groups)?;
    // From here on an error must take the process back too.
    match known(pid, &dir) {
        // From now on it is reaped through its pidfd, by whoever follows it.
        Ok((shim, pidfd)) => Ok(SetUp { record, remains: Leftovers { dir, groups }, shim, pidfd, socket, files }),
        Err(error) => {
            let pid = Pid::from_raw(pid);
            nix::sys::signal::kill(pid, Signal::SIGKILL).ok();
            nix::sys::wait::waitpid(pid, None).ok();
            Err(error.into())
        }
    }
}

/// Makes the shim known, so that a later agent finds it.
fn known(pid: i32, dir: &TaskDir) -> io::Result<(ProcessId, PidFd)> {
    let shim = ProcessId::of(pid)?;
    dir.write_shim(&shim)?;
    let pidfd = shim.open()?.ok_or_else(|| io::Error::other("the shim ended at once"))?;
    Ok((shim, pidfd))
}

fn limits(config: &ProcessConfig, task: &TaskSpec) -> Limits {
    Limits { memory_mb: task.memory_mb, cpus: task.cpus, pids: config.pids_limit, shm_mb: task.shm_mb }
}

fn spec_files(
    core: &Core<Processes>,
    dir: &TaskDir,
    record: &TaskRecord<ProcessFacts>,
    groups: &TaskGroups,
) -> io::Result<SpecFiles> {
    let root = nix::unistd::Uid::effective().is_root();
    let (config, account) = (&core.kind.config, &record.facts.account);
    let spec = ShimSpec {
        uid: root.then_some(account.uid),
        gid: root.then_some(account.gid),
        groups: root.then(|| account.groups.clone()),
        umask: Some(UMASK),
        oom_score_adj: Some(config.oom_score_adj),
        new_ipc_namespace: true,
        lease_s: record.spec.lease_s,
        debug_hold_s: record.spec.debug_hold_s.map(|seconds| seconds.min(config.debug_hold_s)),
        segment_bytes: core.log.segment_bytes,
        limits: config.open_files.into_iter().map(OpenFiles::limit).collect(),
        ..ShimSpec::default()
    };
    let mut files = vec![(Slot::Spec, dir.write_spec(&spec)?)];
    files.extend(core.log.create(dir)?);
    files.push((Slot::Proc, File::open("/proc")?));
    files.extend(groups.entries(cgroup::PAYLOAD)?.into_iter().map(|file| (Slot::CgroupProcs, file)));
    if let Some(folder) = groups.unified_folder(cgroup::PAYLOAD) {
        files.push((Slot::CgroupFolder, File::from(folder?)));
    }
    files.extend(groups.payload_kill().map(|file| (Slot::CgroupKill, file)));
    files.extend(groups.payload_oom_counter().map(|file| (Slot::OomCount, file)));
    files.push((Slot::Stdin, OpenOptions::new().read(true).open("/dev/null")?));
    Ok(files)
}
