//! Makes a task up to its shim's start: account, folders, groups, specification, socket, process. Blocking.
//! What an error leaves half-made is taken back by `leftovers`.

use super::cgroup::{Limits, TaskGroups};
use super::leftovers::Leftovers;
use super::{OpenFiles, ProcessConfig, ProcessFacts, Processes, account, environment};
use crate::domain::task::TaskSpec;
use crate::runtime::shimmed::layout::{TaskDir, TaskRecord};
use crate::runtime::shimmed::process_id::ProcessId;
use crate::runtime::shimmed::supervisor::SpecFiles;
use crate::runtime::shimmed::{Core, Failure, Kind, SetUp, link};
use crate::shim::protocol::Slot;
use crate::shim::spec::ShimSpec;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Of every command of a task.
pub const UMASK: u32 = 0o022;

pub fn set_up(core: &Core<Processes>, task: &TaskSpec) -> Result<SetUp<Processes>, Failure> {
    let Processes { config, cgroups } = &core.kind;
    let account = account::resolve(&config.run_as, &task.user)
        .map_err(|error| Failure { user_error: error.is_user_error(), message: error.to_string() })?;
    let dir = core.layout.task(task.id);
    let work_dir = environment::work_dir(&task.image, &dir.work()).map_err(Failure::user)?;
    dir.create()?;
    if work_dir.own {
        dir.create_work(account.uid, account.gid)?;
    }
    let limits = limits(config, task);
    let (groups, mut notices) = cgroups.create(task.id, &limits);
    notices.extend(work_dir.notice);
    notices.extend(environment::argv(task).1);
    let nonce = uuid::Uuid::new_v4().to_string();
    let facts = ProcessFacts { account, cwd: work_dir.path };
    let record = TaskRecord { runtime: Processes::NAME.to_owned(), spec: task.clone(), nonce, notices, facts };
    dir.write_task(&record)?;
    let files = spec_files(core, &dir, &record, &groups)?;
    let socket = link::bind(&dir)?;
    let (mut child, shim) = spawn(&core.shim, &dir)?;
    // From here on an error must take the process back too.
    let placed = groups.add_shim(shim.pid).and_then(|()| dir.write_shim(&shim));
    let opened = placed.and_then(|()| shim.open()?.ok_or_else(|| io::Error::other("the shim ended at once")));
    match opened {
        // From now on it is reaped through its pidfd, by whoever follows it.
        Ok(pidfd) => Ok(SetUp { record, remains: Leftovers { dir, groups }, shim, pidfd, socket, files }),
        Err(error) => {
            child.kill().ok();
            child.wait().ok();
            Err(error.into())
        }
    }
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
    files.extend(groups.payload_entries()?.into_iter().map(|file| (Slot::CgroupProcs, file)));
    files.extend(groups.payload_kill().map(|file| (Slot::CgroupKill, file)));
    files.extend(groups.payload_oom_counter().map(|file| (Slot::OomCount, file)));
    files.push((Slot::Stdin, OpenOptions::new().read(true).open("/dev/null")?));
    Ok(files)
}

/// Starts the shim in a session of its own, so that it outlives the agent. It finds its socket in its directory.
/// A program that has just been installed counts as being written for as long as any child that was forked meanwhile
/// has not begun its own program.
fn spawn_settled(command: &mut Command) -> io::Result<Child> {
    const TRIES: u32 = 100;
    for _ in 1..TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                // Blocking work, on a thread for it.
                #[allow(clippy::disallowed_methods)]
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
    command.spawn()
}

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
    let mut child = spawn_settled(&mut command).map_err(named)?;
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
