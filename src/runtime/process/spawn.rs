//! Starts a shim as a child that begins in its own control groups. Blocking.
//!
//! Moving a process into a group once it runs makes the kernel wait until every processor has noticed: 10 ms and
//! more for each task. A single thread that moves itself by v1's `tasks` file is spared that, and so is a child that
//! is born in a v2 group. std's `Command` has no way to the latter, so the child is made here.

use super::cgroup::{self, TaskGroups};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Linux 5.7. libc has it in a type that is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// In reports: the v2 group. No machine has so many v1 hierarchies.
const UNIFIED: usize = 1 << 16;

/// Starts `program` with nothing but its arguments: no environment, `/dev/null` for its streams, `folder` as its
/// working folder, in a session of its own and in the shim's groups. Answers the pid; who starts it reaps it.
pub(super) fn spawn(program: &Path, arguments: &[PathBuf], folder: &Path, groups: &TaskGroups) -> io::Result<i32> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("starting {}: {error}", program.display()));
    let child = Child::new(program, arguments, folder, groups).map_err(named)?;
    const TRIES: u32 = 100;
    for _ in 1..TRIES {
        match child.start() {
            // A program that has just been installed counts as being written for as long as any child that was forked
            // meanwhile has not begun its own program.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                // Blocking work, on a thread for it.
                #[allow(clippy::disallowed_methods)]
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done.map_err(named),
        }
    }
    child.start().map_err(named)
}

/// What the child needs between fork and exec, made before it: there it may not allocate.
struct Child {
    program: CString,
    arguments: Vec<CString>,
    folder: CString,
    null: File,
    /// `tasks` of v1 groups.
    entries: Vec<File>,
    unified: Option<OwnedFd>,
}

impl Child {
    fn new(program: &Path, arguments: &[PathBuf], folder: &Path, groups: &TaskGroups) -> io::Result<Self> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
        let program = text(program)?;
        let given = arguments.iter().map(|argument| text(argument));
        Ok(Self {
            arguments: std::iter::once(Ok(program.clone())).chain(given).collect::<io::Result<_>>()?,
            program,
            folder: text(folder)?,
            null: OpenOptions::new().read(true).write(true).open("/dev/null")?,
            entries: groups.entries(cgroup::SHIM)?,
            unified: groups.unified_folder(cgroup::SHIM).transpose()?,
        })
    }

    fn start(&self) -> io::Result<i32> {
        let (mut report, report_in) = io::pipe()?;
        let mut argv: Vec<*const libc::c_char> = self.arguments.iter().map(|argument| argument.as_ptr()).collect();
        argv.push(std::ptr::null());
        let (pid, born_there) = match self.unified.as_ref().map(clone_into) {
            Some(Ok(pid)) => (pid, true),
            // An old kernel, a filter of system calls, or a group that takes nobody this way.
            // SAFETY: the child goes on in `run`, which makes system calls only.
            None | Some(Err(_)) => (Errno::result(unsafe { libc::fork() })?, false),
        };
        if pid == 0 {
            self.run(born_there, &argv, &report_in);
        }
        drop(report_in);
        let mut told = [0; 8];
        // The end without a word is the new program's: exec has closed the pipe.
        if report.read_exact(&mut told).is_err() {
            return Ok(pid);
        }
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).ok();
        let [errno, group] = [&told[..4], &told[4..]].map(|half| half.try_into().map_or(0, i32::from_ne_bytes));
        Err(self.explain(io::Error::from_raw_os_error(errno), group))
    }

    /// Names the control group that the child could not join, if it was that.
    fn explain(&self, error: io::Error, group: i32) -> io::Error {
        let group = match usize::try_from(group) {
            Ok(UNIFIED) => self.unified.as_ref().map(AsRawFd::as_raw_fd),
            Ok(at) => self.entries.get(at).map(AsRawFd::as_raw_fd),
            Err(_) => return error,
        };
        let path = group.and_then(|group| std::fs::read_link(format!("/proc/self/fd/{group}")).ok());
        let path = path.map_or_else(|| "of the task".to_owned(), |path| path.display().to_string());
        io::Error::new(error.kind(), format!("joining the control group {path}: {error}"))
    }

    /// The child, up to its program. Only what is safe between fork and exec.
    fn run(&self, born_there: bool, argv: &[*const libc::c_char], report: &PipeWriter) -> ! {
        let (errno, group) = match self.settle(born_there) {
            Err((errno, group)) => (errno, group.and_then(|group| i32::try_from(group).ok()).unwrap_or(-1)),
            Ok(()) => {
                let no_environment = [std::ptr::null()];
                // SAFETY: all three are terminated and outlive the call, which comes back only with an error.
                unsafe { libc::execve(self.program.as_ptr(), argv.as_ptr(), no_environment.as_ptr()) };
                (Errno::last(), -1)
            }
        };
        let [a, b, c, d] = (errno as i32).to_ne_bytes();
        let [e, f, g, h] = group.to_ne_bytes();
        write(report.as_raw_fd(), &[a, b, c, d, e, f, g, h]).ok();
        // SAFETY: ends this process without running anything of the agent's.
        unsafe { libc::_exit(127) }
    }

    /// An error comes with the group that could not be joined, a position in `entries` or [`UNIFIED`].
    fn settle(&self, born_there: bool) -> Result<(), (Errno, Option<usize>)> {
        if let Some(folder) = self.unified.as_ref().filter(|_| !born_there) {
            join(folder.as_raw_fd()).map_err(|errno| (errno, Some(UNIFIED)))?;
        }
        for (at, entry) in self.entries.iter().enumerate() {
            write(entry.as_raw_fd(), b"0").map_err(|errno| (errno, Some(at)))?;
        }
        self.leave_the_agent().map_err(|errno| (errno, None))
    }

    fn leave_the_agent(&self) -> Result<(), Errno> {
        // SAFETY: integers and a terminated path; the set is made before it is read.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            // The leader of a new process has no group of its own yet, so this cannot fail.
            Errno::result(libc::setsid())?;
            Errno::result(libc::chdir(self.folder.as_ptr()))?;
            for stream in 0..3 {
                Errno::result(libc::dup2(self.null.as_raw_fd(), stream))?;
            }
        }
        Ok(())
    }
}

/// A fork whose child is in the v2 group of this folder from its first instruction.
fn clone_into(folder: &OwnedFd) -> Result<i32, Errno> {
    // SAFETY: all zero is a valid value of this plain structure.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = folder.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM this is a fork; the structure has the size that is passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of::<libc::clone_args>()) };
    Errno::result(pid).map(|pid| pid as i32)
}

fn join(folder: i32) -> Result<(), Errno> {
    const PROCS: &CStr = c"cgroup.procs";
    // SAFETY: the path is constant and terminated.
    let fd = Errno::result(unsafe { libc::openat(folder, PROCS.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) })?;
    write(fd, b"0")
}

fn write(fd: i32, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: the buffer and its length belong together.
    Errno::result(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_cannot_be_joined_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("tasks");
        std::fs::write(&path, "").unwrap();
        let child = |entries, unified| Child {
            program: c"/bin/true".to_owned(),
            arguments: vec![c"/bin/true".to_owned()],
            folder: c"/".to_owned(),
            null: File::open("/dev/null").unwrap(),
            entries,
            unified,
        };
        // Not open for writing; and a folder that is no group.
        let entry = child(vec![File::open(&path).unwrap()], None).start().unwrap_err().to_string();
        assert!(entry.contains("control group") && entry.contains(path.to_str().unwrap()), "{entry}");
        let folder = File::open(dir.path()).unwrap();
        let unified = child(vec![], Some(folder.into())).start().unwrap_err().to_string();
        assert!(unified.contains("control group") && unified.contains(dir.path().to_str().unwrap()), "{unified}");
        // What fails later is told as it is.
        let elsewhere = Child { folder: c"/none/such".to_owned(), ..child(vec![], None) };
        assert_eq!(elsewhere.start().unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }
}
