//! Names one process for good: pids are reused, (boot id, pid, start time) is not.
//! Reads /proc and signals through pidfds; starts nothing.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One process of this or an earlier boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks after boot.
    pub start_ticks: u64,
    pub boot_id: String,
}

/// A handle that stays with one process, whatever becomes of its pid.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// The kernel's id of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl ProcessId {
    /// The process that has `pid` now, zombies included.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = Stat::read(pid)?;
        Ok(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? })
    }

    /// A handle if this very process still runs; a zombie does not. An error says nothing about the process.
    pub fn open(&self) -> io::Result<Option<PidFd>> {
        if boot_id()? != self.boot_id {
            return Ok(None);
        }
        let fd = match PidFd::open(self.pid) {
            Ok(fd) => fd,
            // EINVAL: the number is a thread's by now, so no process has it.
            Err(error) if has_ended(&error) || error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            Err(error) => return Err(of_process(self.pid, &error)),
        };
        // Checked after opening: the handle is of the process that has the pid now, or of an earlier one.
        match Stat::read(self.pid) {
            Ok(stat) => Ok((stat.start_ticks == self.start_ticks && !stat.is_dead()).then_some(fd)),
            Err(error) if has_ended(&error) => Ok(None),
            Err(error) => Err(of_process(self.pid, &error)),
        }
    }

    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(self.open()?.is_some())
    }
}

/// What the kernel answers about a process that is not there any more.
fn has_ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT))
}

fn of_process(pid: i32, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("looking at process {pid}: {error}"))
}

impl PidFd {
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor (close-on-exec) or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a valid descriptor, a signal number, no siginfo, no flags; the kernel checks each.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
        Errno::result(result)?;
        Ok(())
    }

    /// For waiting until the process has ended, again and again.
    pub fn watch(self) -> io::Result<ProcessEnd> {
        // SAFETY: the descriptor belongs to the PidFd, which never gives it away and lives as long as the AsyncFd.
        Ok(ProcessEnd(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?))
    }

    /// Returns once the process has ended, and reaps it if it is a child of ours.
    pub async fn ended(self) -> io::Result<()> {
        self.watch()?.ended().await
    }

    /// Takes the zombie away if it is a child of ours.
    pub fn reap(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        // An adopted shim is init's child: ECHILD is the usual answer then.
        waitid(Id::PIDFd(self.0.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).ok();
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits for one process.
#[derive(Debug)]
pub struct ProcessEnd(AsyncFd<PidFd>);

impl ProcessEnd {
    /// Returns once the process has ended, and reaps it if it is a child of ours. Safe to cancel and to repeat.
    pub async fn ended(&self) -> io::Result<()> {
        // A pidfd becomes readable when its process ends; it is never read.
        self.0.readable().await?.retain_ready();
        self.0.get_ref().reap();
        Ok(())
    }

    /// The same, but a child of ours stays for somebody else to reap: until then nobody else gets its pid.
    pub async fn seen(&self) -> io::Result<()> {
        self.0.readable().await?.retain_ready();
        Ok(())
    }

    pub fn kill(&self) -> io::Result<()> {
        self.0.get_ref().kill()
    }
}

/// Processes of one user in the session that `leader` led. For machines without control groups: a
/// process may leave its session, so this finds most, not all.
pub fn session_members(leader: &ProcessId, uid: u32) -> Vec<i32> {
    if boot_id().ok().as_deref() != Some(leader.boot_id.as_str()) {
        return Vec::new();
    }
    // A session's id stays taken while it has members; a leader with another start time is somebody else's.
    if Stat::read(leader.pid).is_ok_and(|found| found.start_ticks != leader.start_ticks) {
        return Vec::new();
    }
    pids().into_iter().filter(|pid| in_session(*pid, leader, uid)).collect()
}

/// Processes of one user that were started with this entry in their environment. For machines without control
/// groups: it finds what has left its session and its parents, but not what was given another environment.
pub fn marked(entry: &[u8], uid: u32) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    pids().into_iter().filter(|pid| *pid != own && is_marked(*pid, entry, uid)).collect()
}

pub fn is_marked(pid: i32, entry: &[u8], uid: u32) -> bool {
    // A zombie's environment is empty.
    let has = |environ: Vec<u8>| environ.split(|byte| *byte == 0).any(|found| found == entry);
    is_of(pid, uid) && fs::read(format!("/proc/{pid}/environ")).is_ok_and(has)
}

/// The children of a process, the oldest first. What a subreaper has taken in is among them.
pub fn children(parent: &ProcessId) -> Vec<i32> {
    if !parent.is_alive().unwrap_or(false) {
        return Vec::new();
    }
    let child =
        |pid| Stat::read(pid).ok().filter(|stat| stat.parent == parent.pid).map(|stat| (stat.start_ticks, pid));
    let mut found: Vec<(u64, i32)> = pids().into_iter().filter_map(child).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, pid)| pid).collect()
}

fn pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).collect()
}

fn is_of(pid: i32, uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == uid)
}

pub fn in_session(pid: i32, leader: &ProcessId, uid: u32) -> bool {
    is_of(pid, uid)
        && Stat::read(pid).is_ok_and(|found| {
            found.session == leader.pid && found.start_ticks >= leader.start_ticks && !found.is_dead()
        })
}

/// SIGKILL to `pid` if `is_ours` says so while the process cannot change under us.
pub fn kill_if(pid: i32, is_ours: impl Fn(i32) -> bool) {
    let Ok(fd) = PidFd::open(pid) else { return };
    if is_ours(pid) {
        // ESRCH: it ended meanwhile, which is what was wanted.
        fd.kill().ok();
    }
}

/// The parts of /proc/PID/stat that matter here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    session: i32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        // The name of a program may be no text.
        let text = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat"))?).into_owned();
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood: {text}")))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in parentheses may hold anything, parentheses and blanks included.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let start_ticks = fields.nth(15)?.parse().ok()?;
        Some(Self { state, parent, session, start_ticks })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let text = "77 (a) Z 9) S 1 77 78 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 0";
        assert_eq!(Stat::parse(text), Some(Stat { state: 'S', parent: 1, session: 78, start_ticks: 4242 }));
        assert_eq!(Stat::parse("77 (cut"), None);
    }

    #[tokio::test]
    #[allow(clippy::zombie_processes, reason = "reaping without wait is what is tested")]
    async fn an_ended_process_is_noticed_and_reaped() {
        let child = Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        let fd = id.open().unwrap().expect("it runs");
        fd.kill().unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(10), fd.ended()).await.unwrap().unwrap();
        assert!(!id.is_alive().unwrap());
        assert!(!std::path::Path::new(&format!("/proc/{}", id.pid)).exists(), "reaped");
    }

    #[test]
    fn another_start_time_or_boot_is_another_process() {
        let me = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive().unwrap());
        assert!(!ProcessId { start_ticks: me.start_ticks + 1, ..me.clone() }.is_alive().unwrap());
        assert!(!ProcessId { boot_id: "other".into(), ..me.clone() }.is_alive().unwrap());
        assert!(!ProcessId { pid: i32::MAX, ..me }.is_alive().unwrap());
    }
}
