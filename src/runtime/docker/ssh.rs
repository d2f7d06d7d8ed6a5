//! SSH in a container: the files that both ends read, and the image's own server beside the command.
//!
//! The files lie in the folder that the container sees read-only, owned by its user, so nothing of the image is touched
//! but for one link: `~/.ssh/config`, or one in `/etc/ssh/ssh_config.d` where that is taken. It is made while only the
//! shim runs in there, and never on a folder of the node. What fails is logged: a job can do without.
//! The server is started once the command runs, and again by a later agent if it was not. It ends with the container.

use super::beneath::openat2;
use super::daemon::ANSWER_DEADLINE;
use super::rootfs::RootFs;
use super::{Containers, Core, Task};
use crate::domain::ssh::{self, SshSeed};
use crate::runtime::shimmed::blocking;
use crate::runtime::shimmed::layout::TaskDir;
use crate::runtime::shimmed::supervisor::State;
use crate::runtime::{Launch, RuntimeError};
use crate::shim::spec::Command;
use crate::shim::ssh::{FOLDER, PROGRAM, SERVER, SERVERS, SESSION};
use bollard::Docker;
use bollard::exec::StartExecOptions;
use bollard::models::ExecConfig;
use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Uid, fchownat, symlinkat};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What users a container knows; longer is somebody's mistake.
const MAX_PASSWD_BYTES: u64 = 4 * 1024 * 1024;
/// Before each attempt to start a server.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// In the task's folder, once its server has been started.
const STARTED: &str = "sshd";

/// Writes what a task's ssh and sshd read, before its command runs.
pub async fn arrange(task: &Arc<Task<Containers>>, launch: &Launch, command: &Command, seed: SshSeed) {
    let Some(started) = &task.record.facts.started else { return };
    let (dir, uid, pid, job) = (task.dir.clone(), started.uid, task.shim.pid, task.id.job.0);
    let config = ssh::of_tasks(job, FOLDER, &ssh::hosts(&launch.env));
    let host = seed.host();
    let mut environment = Vec::new();
    for (name, value) in &command.env {
        environment.extend([name.as_slice(), b"=", value, b"\0"].concat());
    }
    let identity = seed.identity();
    // Their values a session finds at the command itself.
    let secrets: Vec<u8> =
        launch.secrets.env.iter().flat_map(|(name, _)| [name.as_bytes(), b"\0"].concat()).collect();
    let files: [(&str, Vec<u8>); 8] = [
        ("secrets", secrets),
        ("id", identity.private_file(&ssh::alias(job)).into_bytes()),
        ("authorized_keys", format!("{}\n", identity.public_line()).into_bytes()),
        ("host_key", host.private_file(&ssh::alias(job)).into_bytes()),
        ("known_hosts", ssh::known_hosts(job, &host.public_line()).into_bytes()),
        ("config", config.into_bytes()),
        ("environment", environment),
        ("sshd_config", ssh::sshd_config(FOLDER, &format!("{PROGRAM} {SESSION}")).into_bytes()),
    ];
    let write = move || {
        write_files(&dir, uid, &files)?;
        link_config(&RootFs::of(pid)?, uid)
    };
    if let Err(RuntimeError { message, .. }) = blocking("ssh", task.id, write).await {
        tracing::warn!(task = %task.id, error = %message, "the task's tasks do not know each other by SSH");
    }
}

fn write_files(dir: &TaskDir, uid: u32, files: &[(&str, Vec<u8>)]) -> io::Result<()> {
    let folder = files_of(dir);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let give = |file: &File| if Uid::effective().is_root() { fchown(file, Some(uid), None) } else { Ok(()) };
    give(&File::open(&folder)?)?;
    for (name, content) in files {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(folder.join(name))?;
        file.write_all(content)?;
        give(&file)?;
    }
    Ok(())
}

fn files_of(dir: &TaskDir) -> PathBuf {
    dir.socket_dir.join("ssh")
}

/// Lets the container's user find the other tasks by their names. Where there is no place for it, nothing happens.
fn link_config(root: &RootFs, uid: u32) -> io::Result<()> {
    let target = format!("{FOLDER}/config");
    let own = match home(root, uid)?.map(|home| root.own_folder(&home)) {
        Some(Ok(home)) => link_in(&home, ".ssh", uid, "config", &target),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let Err(error) = own else { return Ok(()) };
    if error.kind() == io::ErrorKind::AlreadyExists || error.kind() == io::ErrorKind::NotFound {
        // Read by newer versions of ssh, for every user.
        let Ok(etc) = root.own_folder("/etc/ssh/ssh_config.d") else { return Ok(()) };
        return match symlinkat(target.as_str(), &etc, "00-wharf.conf") {
            Ok(()) | Err(Errno::EEXIST | Errno::EROFS) => Ok(()),
            Err(error) => Err(error.into()),
        };
    }
    // A root that is read-only.
    if error.raw_os_error() == Some(libc::EROFS) { Ok(()) } else { Err(error) }
}

fn link_in(home: &OwnedFd, folder: &str, uid: u32, name: &str, target: &str) -> io::Result<()> {
    match mkdirat(home, folder, Mode::S_IRWXU) {
        Ok(()) if Uid::effective().is_root() => {
            fchownat(home, folder, Some(Uid::from_raw(uid)), None, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let folder = openat2(home.as_fd(), Path::new(folder), flags, resolve);
    // A link or a mount in its place is not ours to write to.
    let folder = folder.map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(symlinkat(target, &folder, name)?)
}

/// Where ssh looks for a user's files: it does not ask HOME.
fn home(root: &RootFs, uid: u32) -> io::Result<Option<String>> {
    let passwd = match root.read("/etc/passwd", MAX_PASSWD_BYTES) {
        Ok(passwd) => String::from_utf8_lossy(&passwd).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let of_user = |line: &&str| line.split(':').nth(2).and_then(|id| id.parse().ok()) == Some(uid);
    let home = passwd.lines().find(of_user).and_then(|line| line.split(':').nth(5));
    Ok(home.filter(|home| home.starts_with('/') && home.len() > 1).map(str::to_owned))
}

/// Starts the image's server on the task's port, if it has one and that has not been done.
pub fn start_server(core: &Arc<Core<Containers>>, task: &Arc<Task<Containers>>) {
    let port = task.record.spec.ports.iter().find(|ports| ports.label == "ssh");
    let Some(port) = port.and_then(|ports| ports.ports.first().copied()) else { return };
    let (core, task) = (core.clone(), task.clone());
    core.clone().tracker.spawn(async move {
        let cancel = task.cancel.clone();
        tokio::select! {
            () = keep_trying(&core, &task, port) => {}
            () = cancel.cancelled() => {}
        }
    });
}

async fn keep_trying(core: &Arc<Core<Containers>>, task: &Arc<Task<Containers>>, port: u16) {
    let mut state = task.state.clone();
    let began = state.wait_for(|now| matches!(now, State::Running { .. } | State::Ended { .. })).await;
    if !began.is_ok_and(|state| matches!(*state, State::Running { .. })) {
        return;
    }
    let (dir, pid) = (task.dir.clone(), task.shim.pid);
    let wanted = move || {
        if dir.dir.join(STARTED).exists() || !files_of(&dir).join("sshd_config").exists() {
            return Ok(false);
        }
        let root = RootFs::of(pid)?;
        Ok(SERVERS.iter().any(|path| root.can_run(path).is_ok_and(|can| can != Some(false))))
    };
    if !blocking("ssh", task.id, wanted).await.unwrap_or(false) {
        return;
    }
    for (attempt, pause) in (1..).zip(PAUSES) {
        tokio::time::sleep(pause).await;
        if !matches!(*task.state.borrow(), State::Running { .. }) {
            return;
        }
        match start(core, task, port).await {
            Ok(()) => {
                let marker = task.dir.dir.join(STARTED);
                // Without it a later agent tries once more, which does no harm: the port is taken.
                blocking("ssh", task.id, move || File::create(marker).map(drop)).await.ok();
                return;
            }
            Err(error) => tracing::warn!(task = %task.id, attempt, %error, "starting the image's ssh server"),
        }
    }
}

async fn start(core: &Arc<Core<Containers>>, task: &Task<Containers>, port: u16) -> Result<(), super::DaemonError> {
    let Some(started) = &task.record.facts.started else { return Ok(()) };
    let container = started.container.clone();
    let cmd = Some(vec![PROGRAM.to_owned(), SERVER.to_owned(), port.to_string()]);
    let config = ExecConfig { cmd, user: Some(started.user()), ..ExecConfig::default() };
    let of = container.clone();
    let create = |docker: Docker| async move { docker.create_exec(&of, config).await };
    let daemon = &core.kind.daemon;
    let made = daemon.call("make an ssh server in", &container, ANSWER_DEADLINE, create).await?;
    let begin = |docker: Docker| async move {
        let options = StartExecOptions { detach: true, ..StartExecOptions::default() };
        docker.start_exec(&made.id, Some(options)).await.map(drop)
    };
    daemon.call("start an ssh server in", &container, ANSWER_DEADLINE, begin).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container's root as the shim of a running one would show it.
    fn root(dir: &Path) -> RootFs {
        RootFs::at(dir).unwrap()
    }

    fn user(dir: &Path, home: &str) {
        std::fs::create_dir_all(dir.join("etc")).unwrap();
        let uid = nix::unistd::getuid();
        std::fs::write(dir.join("etc/passwd"), format!("me:x:{uid}:0:me:{home}:/bin/sh\n")).unwrap();
    }

    #[test]
    fn the_names_of_tasks_are_linked_where_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::getuid().as_raw();
        user(dir.path(), "/home/me");
        // No home, no folder for everybody: nothing.
        link_config(&root(dir.path()), uid).unwrap();
        std::fs::create_dir_all(dir.path().join("home/me")).unwrap();
        link_config(&root(dir.path()), uid).unwrap();
        let link = |path: &str| std::fs::read_link(dir.path().join(path));
        assert_eq!(link("home/me/.ssh/config").unwrap(), Path::new("/.wharf/ssh/config"));
        // Taken, also by an earlier attempt: then for everybody.
        std::fs::create_dir_all(dir.path().join("etc/ssh/ssh_config.d")).unwrap();
        link_config(&root(dir.path()), uid).unwrap();
        link_config(&root(dir.path()), uid).unwrap();
        assert_eq!(link("etc/ssh/ssh_config.d/00-wharf.conf").unwrap(), Path::new("/.wharf/ssh/config"));
    }

    #[test]
    fn links_of_an_image_lead_nowhere_else() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let uid = nix::unistd::getuid().as_raw();
        user(dir.path(), "/home/me");
        std::fs::create_dir_all(dir.path().join("home/me")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("home/me/.ssh")).unwrap();
        link_config(&root(dir.path()), uid).unwrap();
        std::fs::remove_dir_all(dir.path().join("home")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("home")).unwrap();
        link_config(&root(dir.path()), uid).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn keys_are_for_their_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let task = TaskDir { dir: dir.path().to_owned(), socket_dir: dir.path().to_owned(), mounted: true };
        let uid = nix::unistd::getuid().as_raw();
        for _ in 0..2 {
            write_files(&task, uid, &[("id", b"secret".to_vec())]).unwrap();
        }
        let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ssh"), mode("ssh/id")), (0o700, 0o600));
    }
}
