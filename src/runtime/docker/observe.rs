//! Looks up, once a container has started, what must be known of it when dockerd does not answer, and opens what its
//! shim is given. Blocking; asks dockerd nothing.

use super::cgroup::ContainerGroups;
use super::code::{self, WorkingFolder};
use super::remains::Container;
use super::request::mounts::{Folder, JobMounts};
use super::request::shim_limits;
use super::rootfs::RootFs;
use super::{ContainerFacts, Containers, SHELLS, StartedFacts};
use crate::domain::policy::{Policy, Refusal, RunsAs};
use crate::domain::task::TaskSpec;
use crate::runtime::rights::Rights;
use crate::runtime::shimmed::layout::{SHIM_NAME, TaskDir, TaskRecord};
use crate::runtime::shimmed::link::Bound;
use crate::runtime::shimmed::process_id::ProcessId;
use crate::runtime::shimmed::supervisor::SpecFiles;
use crate::runtime::shimmed::{Core, Failure, LogRing, SetUp};
use crate::shim::protocol::{CheckKind, Slot};
use crate::shim::spec::ShimSpec;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long after its start a container's first process may take to become the shim.
const BECOMING_DEADLINE: Duration = Duration::from_secs(20);

/// A container whose shim runs.
pub struct Started {
    pub container: String,
    pub pid: i32,
    pub files: JobMounts,
    /// What the shim makes sure of.
    pub checks: Vec<(CheckKind, String)>,
    /// Whoever waits has given up.
    pub cancel: CancellationToken,
}

pub fn observe(
    core: &Core<Containers>,
    mut record: TaskRecord<ContainerFacts>,
    dir: TaskDir,
    socket: Bound,
    started: Started,
) -> Result<SetUp<Containers>, Failure> {
    let Started { container, pid, files, checks, cancel } = started;
    let shim = ProcessId::of(pid)?;
    let pidfd = shim.open()?.ok_or_else(|| io::Error::other("its shim ended at once"))?;
    dir.write_shim(&shim)?;
    let env = environment_of_shim(pid, &dir)?;
    let root = RootFs::of(pid)?;
    same_folders(&root, &files, pid)?;
    let user = Ids::of(pid)?;
    user.allowed_by(&core.kind.config.policy).map_err(|refusal| Failure::user(refusal.to_string()))?;
    if let Some(folder) = &files.code {
        record.notices.extend(copy_code(&record.spec, folder, (pid, &root), &user, &cancel)?);
    }
    record.notices.extend(shell_notice(&root, &record.spec)?);
    let groups = ContainerGroups::of(pid, &container)?;
    record.facts.started = Some(StartedFacts {
        container,
        env,
        cwd: std::fs::read_link(format!("/proc/{pid}/cwd"))?.to_string_lossy().into_owned(),
        uid: user.uid(),
        gid: Some(user.gid()),
        groups: groups.clone(),
    });
    dir.write_task(&record)?;
    let spec = ShimSpec {
        limits: shim_limits(&record.spec),
        oom_score_adj: Some(core.kind.config.oom_score_adj),
        lease_s: record.spec.lease_s,
        debug_hold_s: record.spec.debug_hold_s.map(|seconds| seconds.min(core.kind.config.debug_hold_s)),
        segment_bytes: core.log.segment_bytes,
        checks,
        banner: Some(banner(&record.spec)),
        ..ShimSpec::default()
    };
    let files = spec_files(core.log, &dir, &spec, &root, &groups)?;
    let remains = Container::read(core.kind.place(), record.spec.id, &dir);
    Ok(SetUp { record, remains, shim, pidfd, socket, files })
}

fn spec_files(
    log: LogRing,
    dir: &TaskDir,
    spec: &ShimSpec,
    root: &RootFs,
    groups: &ContainerGroups,
) -> io::Result<SpecFiles> {
    let mut files = vec![(Slot::Spec, dir.write_spec(spec)?)];
    files.extend(log.create(dir)?);
    files.push((Slot::Proc, root.proc()?));
    files.extend(groups.oom_counter().map(|file| (Slot::OomCount, file)));
    files.push((Slot::Stdin, OpenOptions::new().read(true).open("/dev/null")?));
    Ok(files)
}

/// Makes sure that dockerd has mounted what was checked, before anything of the job's runs.
fn same_folders(root: &RootFs, files: &JobMounts, pid: i32) -> Result<(), Failure> {
    if let Some(what) = files.reaching(pid, |target| root.folder(target))? {
        return Err(Failure::platform(format!("a folder of the job's would lead to {what}, which is for no job")));
    }
    let Some((folder, why)) = files.differing(|target| root.metadata(target)) else { return Ok(()) };
    let (source, target) = (folder.source.display(), &folder.target);
    Err(Failure::platform(format!("folder {source} of the node is not what is mounted at {target}: {why}")))
}

/// Refuses an image that cannot run the command before the whole gang is told to go.
fn shell_notice(root: &RootFs, task: &TaskSpec) -> Result<Option<String>, Failure> {
    let [bash, sh] = SHELLS;
    if root.can_run(bash)? != Some(false) {
        return Ok(None);
    }
    if root.can_run(sh)? == Some(false) {
        let message =
            format!("image: neither {bash} nor {sh} is in image '{}': one of them runs the command", task.image);
        return Err(Failure::user(message));
    }
    Ok(Some(format!("the command is run by {sh}: image '{}' has no {bash}", task.image)))
}

/// What the shim was given, once it is the shim: for a moment after a start the process is still the container runtime's
/// own program, with an environment that is not for us.
fn environment_of_shim(pid: i32, dir: &TaskDir) -> io::Result<Vec<(String, String)>> {
    // By the file itself: its name is what an image can have, too.
    let file = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let program = file(&dir.socket_dir.join(SHIM_NAME))?;
    let end = Instant::now() + BECOMING_DEADLINE;
    while Instant::now() < end {
        // The environment is in its place a moment after the program is; Docker never gives an empty one.
        if file(Path::new(&format!("/proc/{pid}/exe")))? == program {
            let env = environment(pid)?;
            if !env.is_empty() {
                return Ok(env);
            }
        }
        // Blocking work, on a thread for it; the kernel has nothing to wait on.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(1));
    }
    let message = format!("its first process has not become the shim within {} s", BECOMING_DEADLINE.as_secs());
    Err(io::Error::new(io::ErrorKind::TimedOut, message))
}

/// What Docker and the image give to a process, as the shim got it.
fn environment(pid: i32) -> io::Result<Vec<(String, String)>> {
    let text = std::fs::read(format!("/proc/{pid}/environ"))?;
    let entries = text.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    Ok(entries.filter_map(|entry| entry.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect())
}

/// Whose rights a process has, as the kernel numbers them: real, effective, saved, for files.
struct Ids {
    users: [u32; 4],
    groups: [u32; 4],
    more_groups: Vec<u32>,
}

impl Ids {
    fn of(pid: i32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/status names no user")))
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().map(|word| word.parse().ok()).collect()
        };
        let four = |name: &str| numbers(name)?.try_into().ok();
        Some(Self { users: four("Uid:")?, groups: four("Gid:")?, more_groups: numbers("Groups:")? })
    }

    /// The effective one.
    fn uid(&self) -> u32 {
        self.users[1]
    }

    fn gid(&self) -> u32 {
        self.groups[1]
    }

    fn allowed_by(&self, policy: &Policy) -> Result<(), Refusal> {
        self.users.iter().try_for_each(|uid| policy.check_user(RunsAs::Container(*uid)))?;
        let groups: Vec<u32> = self.groups.iter().chain(&self.more_groups).copied().collect();
        policy.check_groups(RunsAs::Container(self.uid()), &groups)
    }

    fn rights(&self) -> Rights {
        Rights { uid: self.uid(), gid: self.gid(), groups: self.more_groups.clone() }
    }
}

/// To where the command is going to begin.
fn copy_code(
    task: &TaskSpec,
    folder: &Folder,
    (pid, root): (i32, &RootFs),
    user: &Ids,
    cancel: &CancellationToken,
) -> Result<Option<String>, Failure> {
    if task.container.read_only_root {
        let why = "the container's file system is read-only";
        return Ok(Some(format!("codeDir is at /pai/code alone and not in the working directory: {why}")));
    }
    // The submitter's files are the job's, whoever it is in its container. Nobody is root by a name.
    let account = Rights::of_account(&task.user)?.filter(|account| account.uid != 0);
    let readers = std::iter::once(user.rights()).chain(account).collect();
    code::copy(folder, &WorkingFolder::of(pid, root)?, (user.uid(), user.gid()), readers, cancel)?;
    Ok(None)
}

/// The one line that `docker logs` shows.
fn banner(task: &TaskSpec) -> String {
    let (job, role, index) = (task.id.job, &task.role_name, task.id.index);
    format!("wharf keeps the output of this task: wharf logs {job} --role {role} --index {index}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::UserIds;

    const STATUS: &str = "Name:\twharf-shim\nUid:\t1000\t1000\t0\t1000\nGid:\t100\t100\t100\t100\nGroups:\t100 44 \n";

    #[test]
    fn all_of_a_processs_rights_count() {
        let found = Ids::parse(STATUS).unwrap();
        assert_eq!((found.uid(), found.gid(), found.more_groups.as_slice()), (1000, 100, &[100, 44][..]));
        let ranges = |text: &str| Some(UserIds::parse([text]).unwrap());
        let users = Policy { users: ranges("1000-1999"), ..Policy::default() };
        assert_eq!(found.allowed_by(&users).unwrap_err().rule, "policy.users", "its saved one is root's");
        let found = Ids { users: [1000; 4], ..found };
        assert_eq!(found.allowed_by(&users), Ok(()));
        let groups = Policy { groups: ranges("100"), ..users.clone() };
        assert!(found.allowed_by(&groups).unwrap_err().to_string().contains("gid 44"));
        assert_eq!(found.allowed_by(&Policy { groups: ranges("44-100"), ..users }), Ok(()));
        assert!(Ids::parse("Uid:\t1\n").is_none() && Ids::parse("").is_none());
    }
}
