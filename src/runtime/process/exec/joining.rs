//! Puts a command that is about to run where its task is: groups, IPC namespace, session, user.
//! Between fork and exec only what is safe there: system calls on memory that was made before.

use super::super::{OpenFiles, Processes, Task};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tokio::process::Command;

const UMASK: Mode = Mode::from_bits_truncate(crate::runtime::process::setup::UMASK);

pub(super) fn join_task(
    command: &mut Command,
    task: &Task<Processes>,
    child_pid: u32,
    tty: bool,
    open_files: Option<OpenFiles>,
    folder: &Path,
) -> io::Result<()> {
    let folder = CString::new(folder.as_os_str().as_bytes())?;
    let entries = task.remains.groups.payload_entries()?;
    // Best effort: without rights, or on a machine where the task shares the node's.
    let ends = parent_of(child_pid) != Some(task.shim.pid);
    let member = if ends { task.shim.pid.unsigned_abs() } else { child_pid };
    let ipc = File::open(format!("/proc/{member}/ns/ipc")).ok();
    // The shim's own is another: it is to live longer than what it looks after.
    let oom_score_adj = format!("/proc/{child_pid}/oom_score_adj");
    let oom_score_adj = if ends { None } else { std::fs::read_to_string(oom_score_adj).ok() }.unwrap_or_default();
    let account = &task.record.facts.account;
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let root = Uid::effective().is_root();
    let join = move || {
        for entry in &entries {
            write(entry.as_raw_fd(), b"0")?;
        }
        if let Some(ipc) = &ipc {
            nix::sched::setns(ipc, CloneFlags::CLONE_NEWIPC).ok();
        }
        shield_others(oom_score_adj.as_bytes());
        // What the agent was started to ignore is none of the command's.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE, libc::SIGCHLD] {
            // SAFETY: a signal number and the kernel's own action.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        nix::unistd::setsid()?;
        // As the task's own command has it.
        umask(UMASK);
        if let Some(OpenFiles { soft, hard }) = open_files {
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        }
        if tty {
            // SAFETY: standard input is the terminal; the call takes one integer.
            let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) };
            nix::errno::Errno::result(result)?;
        }
        if root {
            nix::unistd::setgroups(&groups)?;
            nix::unistd::setgid(gid)?;
            nix::unistd::setuid(uid)?;
        }
        // As the task's user: root would enter folders of others.
        nix::unistd::chdir(folder.as_c_str())?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only; everything that it touches was allocated before the fork.
    unsafe {
        command.pre_exec(join);
    }
    Ok(())
}

/// A task that is kept for debugging has no command any more, and the command's number may be somebody else's by now.
fn parent_of(pid: u32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program is in parentheses and may hold anything. State, then parent.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The kernel prefers it as it prefers the task's command.
fn shield_others(oom_score_adj: &[u8]) {
    // SAFETY: a constant, terminated path.
    let fd = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd >= 0 {
        write(fd, oom_score_adj).ok();
        // SAFETY: opened above, and not used after this.
        unsafe { libc::close(fd) };
    }
}

fn write(fd: i32, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer and its length belong together.
    let result = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    nix::errno::Errno::result(result)?;
    Ok(())
}
