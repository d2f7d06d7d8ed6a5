//! The kernel as the shim sees it: `extern "C"` declarations for Linux on x86_64 and aarch64 (the layouts and numbers
//! of the two agree wherever no `cfg` says otherwise) and wrappers that give errors as errno. Nothing here knows what
//! a task is. Only the calls marked so may be used between fork and exec.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

pub const SIGHUP: i32 = 1;
pub const SIGINT: i32 = 2;
pub const SIGQUIT: i32 = 3;
pub const SIGKILL: i32 = 9;
pub const SIGUSR1: i32 = 10;
pub const SIGUSR2: i32 = 12;
pub const SIGTERM: i32 = 15;
pub const SIGCHLD: i32 = 17;

pub const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
pub const EIO: i32 = 5;
pub const EAGAIN: i32 = 11;
pub const EACCES: i32 = 13;
pub const ENOTDIR: i32 = 20;
pub const EINVAL: i32 = 22;
pub const EINTR: i32 = 4;
pub const EMFILE: i32 = 24;

pub const O_RDONLY: i32 = 0;
pub const O_WRONLY: i32 = 1;
pub const O_RDWR: i32 = 2;
pub const O_NONBLOCK: i32 = 0o4000;
pub const O_CLOEXEC: i32 = 0o2_000_000;
const AT_FDCWD: i32 = -100;

const PR_SET_PDEATHSIG: c_int = 1;
const PR_SET_DUMPABLE: c_int = 4;
const PR_SET_CHILD_SUBREAPER: c_int = 36;
const CLONE_NEWIPC: c_int = 0x0800_0000;
const F_SETFL: c_int = 4;
const F_SETPIPE_SZ: c_int = 1031;
const WNOHANG: c_int = 1;
pub(super) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const SIG_SETMASK: c_int = 2;

pub const POLLIN: i16 = 1;
pub const POLLOUT: i16 = 4;

/// System calls that have no wrapper in every libc, or whose wrapper does more than the call.
pub(super) mod number {
    use std::ffi::c_long;
    #[cfg(target_arch = "x86_64")]
    mod own {
        pub const ALL: [i64; 5] = [217, 116, 117, 119, 13];
    }
    #[cfg(target_arch = "aarch64")]
    mod own {
        pub const ALL: [i64; 5] = [61, 159, 147, 149, 134];
    }
    pub const GETDENTS64: c_long = own::ALL[0];
    pub const SETGROUPS: c_long = own::ALL[1];
    pub const SETRESUID: c_long = own::ALL[2];
    pub const SETRESGID: c_long = own::ALL[3];
    pub const RT_SIGACTION: c_long = own::ALL[4];
    pub const PIDFD_SEND_SIGNAL: c_long = 424;
    pub const PIDFD_OPEN: c_long = 434;
    pub const CLONE3: c_long = 435;
    pub const CLOSE_RANGE: c_long = 436;
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PollFd {
    pub fd: c_int,
    pub events: i16,
    pub revents: i16,
}

#[repr(C)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

type SignalSet = [u64; 16];

unsafe extern "C" {
    fn prctl(option: c_int, ...) -> c_int;
    pub(super) fn syscall(number: c_long, ...) -> c_long;
    fn unshare(flags: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn openat(directory: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
    fn readlinkat(directory: c_int, path: *const c_char, to: *mut c_char, room: usize) -> isize;
    fn read(fd: c_int, to: *mut c_void, room: usize) -> isize;
    fn write(fd: c_int, from: *const c_void, length: usize) -> isize;
    fn pipe2(ends: *mut c_int, flags: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn poll(list: *mut PollFd, count: u64, timeout_ms: c_int) -> c_int;
    fn clock_gettime(clock: c_int, to: *mut TimeSpec) -> c_int;
    fn getrandom(to: *mut c_void, length: usize, flags: u32) -> isize;
    fn eventfd(initial: u32, flags: c_int) -> c_int;
    fn signalfd(fd: c_int, set: *const SignalSet, flags: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
    fn getppid() -> c_int;
    fn geteuid() -> u32;
}

pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(EIO)
}

/// The errno of a call that answers -1.
pub(super) fn checked(result: impl Into<i64>) -> Result<i64, i32> {
    match result.into() {
        -1 => Err(errno()),
        value => Ok(value),
    }
}

/// A sentence for an errno.
pub fn describe(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// CLOCK_REALTIME since 1970.
pub fn realtime_ns() -> u64 {
    clock(0)
}

/// CLOCK_BOOTTIME: goes on while the machine is suspended.
pub fn boottime_ns() -> u64 {
    clock(7)
}

fn clock(clock: c_int) -> u64 {
    let mut time = TimeSpec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `time` has the layout of a 64-bit timespec and outlives the call.
    unsafe { clock_gettime(clock, &mut time) };
    (time.seconds as u64).saturating_mul(1_000_000_000).saturating_add(time.nanoseconds as u64)
}

/// A number that a task cannot guess.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the buffer has the length that is passed.
    let got = unsafe { getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 { u64::from_le_bytes(bytes) } else { realtime_ns().rotate_left(32) ^ boottime_ns() }
}

/// No core dumps, no ptrace, and `/proc/PID` of this process belongs to root. Usable between fork and exec.
pub fn set_dumpable(yes: bool) {
    // SAFETY: takes integers only.
    unsafe { prctl(PR_SET_DUMPABLE, c_long::from(yes), 0_i64, 0_i64, 0_i64) };
}

/// Orphans below this process become its children.
pub fn become_subreaper() {
    // SAFETY: takes integers only.
    unsafe { prctl(PR_SET_CHILD_SUBREAPER, 1_i64, 0_i64, 0_i64, 0_i64) };
}

/// Usable between fork and exec: this process dies with `parent`, which is its parent thread.
pub fn die_with_parent(parent: i32) {
    // SAFETY: takes integers only.
    unsafe {
        prctl(PR_SET_PDEATHSIG, c_long::from(SIGKILL), 0_i64, 0_i64, 0_i64);
        if getppid() != parent {
            _exit(127);
        }
    }
}

/// Leaves the IPC namespace, for this thread and the processes it forks.
pub fn new_ipc_namespace() -> Result<(), i32> {
    // SAFETY: takes an integer only.
    checked(unsafe { unshare(CLONE_NEWIPC) }).map(drop)
}

/// Closes every descriptor from `first` on. Usable between fork and exec. False where the kernel cannot (before 5.9).
pub fn close_from(first: RawFd) -> bool {
    // SAFETY: the callers own no descriptor from `first` on that they still use.
    unsafe { syscall(number::CLOSE_RANGE, first as c_long, 0xffff_ffff_i64, 0_i64) == 0 }
}

/// Closes one descriptor that nothing in this process owns.
pub fn close_raw(fd: RawFd) {
    // SAFETY: called at start only, for numbers that no object of this process holds.
    unsafe { close(fd) };
}

/// A pipe, both ends close-on-exec: (reading, writing).
pub fn pipe() -> Result<(OwnedFd, OwnedFd), i32> {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for two descriptors.
    checked(unsafe { pipe2(ends.as_mut_ptr(), O_CLOEXEC) })?;
    // SAFETY: the kernel has just made both descriptors, and nothing else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

pub fn set_nonblocking(fd: &OwnedFd) -> Result<(), i32> {
    // SAFETY: takes integers only.
    checked(unsafe { fcntl(fd.as_raw_fd(), F_SETFL, O_NONBLOCK) }).map(drop)
}

/// Asks for a bigger pipe; a refusal changes nothing.
pub fn grow_pipe(fd: &OwnedFd, bytes: i32) {
    // SAFETY: takes integers only.
    unsafe { fcntl(fd.as_raw_fd(), F_SETPIPE_SZ, bytes) };
}

/// Opens relative to a directory, or to the working folder for `None`; close-on-exec. Usable between fork and exec.
pub fn open_at(directory: Option<BorrowedFd<'_>>, path: &CStr, flags: i32) -> Result<OwnedFd, i32> {
    let directory = directory.map_or(AT_FDCWD, |fd| fd.as_raw_fd());
    // SAFETY: the path is NUL-terminated and outlives the call.
    let fd = checked(unsafe { openat(directory, path.as_ptr(), flags | O_CLOEXEC) })?;
    // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

pub fn read_link_at(directory: BorrowedFd<'_>, path: &CStr) -> Result<Vec<u8>, i32> {
    let mut target = vec![0_u8; 256];
    // SAFETY: the buffer has the length that is passed.
    let length =
        unsafe { readlinkat(directory.as_raw_fd(), path.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    target.truncate(checked(length as i64)? as usize);
    Ok(target)
}

/// Usable between fork and exec.
pub fn read_fd(fd: RawFd, to: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the buffer has the length that is passed.
    checked(unsafe { read(fd, to.as_mut_ptr().cast(), to.len()) } as i64).map(|length| length as usize)
}

/// Usable between fork and exec.
pub fn write_fd(fd: RawFd, from: &[u8]) -> Result<usize, i32> {
    // SAFETY: the buffer has the length that is passed.
    checked(unsafe { write(fd, from.as_ptr().cast(), from.len()) } as i64).map(|length| length as usize)
}

/// Waits for the first event or the timeout; which one is in `revents`. Rounds up to whole milliseconds.
pub fn wait(list: &mut [PollFd], timeout: Duration) {
    let timeout_ms = timeout.as_nanos().div_ceil(1_000_000).min(3_600_000) as c_int;
    list.iter_mut().for_each(|entry| entry.revents = 0);
    // SAFETY: the list has the length that is passed. EINTR and other errors leave `revents` at zero.
    unsafe { poll(list.as_mut_ptr(), list.len() as u64, timeout_ms) };
}

/// A counter that can be waited for. Neither reading nor writing it blocks.
pub fn event_descriptor() -> Result<OwnedFd, i32> {
    // SAFETY: takes integers only.
    let fd = checked(unsafe { eventfd(0, O_CLOEXEC | O_NONBLOCK) })?;
    // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// One directory read; empty at the end. `to` gets linux_dirent64 entries.
pub fn read_directory(fd: &OwnedFd, to: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the buffer has the length that is passed.
    let length = unsafe { syscall(number::GETDENTS64, c_long::from(fd.as_raw_fd()), to.as_mut_ptr(), to.len()) };
    checked(length).map(|length| length as usize)
}

/// Blocks the signals in every thread started from here on, and gives a descriptor that reads them.
pub fn signal_descriptor(signals: &[i32]) -> Result<OwnedFd, i32> {
    let mut set: SignalSet = [0; 16];
    signals.iter().for_each(|number| set[0] |= 1 << (number - 1));
    // SAFETY: the set has the size of a sigset_t (1024 bits).
    unsafe { pthread_sigmask(SIG_SETMASK, &set, std::ptr::null_mut()) };
    // SAFETY: as above; -1 asks for a new descriptor.
    let fd = checked(unsafe { signalfd(-1, &set, O_CLOEXEC | O_NONBLOCK) })?;
    // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Gives a signal its default effect. Usable between fork and exec.
pub fn default_signal(number: i32) {
    // The kernel's struct sigaction: handler SIG_DFL, no flags, no restorer, an empty mask.
    let default = [0_u64; 4];
    // The raw call, because libc keeps 32 and 33 to itself and a starter may have left them ignored.
    // SAFETY: the structure is as large as the kernel's; SIGKILL and SIGSTOP are refused without effect.
    unsafe { syscall(number::RT_SIGACTION, c_long::from(number), default.as_ptr(), 0_i64, 8_i64) };
}

/// Gives every signal its default effect and blocks none. Usable between fork and exec.
pub fn reset_signals() {
    (1..=64).for_each(default_signal);
    // SAFETY: the set has the size of a sigset_t.
    unsafe { pthread_sigmask(SIG_SETMASK, &[0; 16], std::ptr::null_mut()) };
}

/// To a process, or with a negative number to a process group.
pub fn send_signal(pid: i32, number: i32) -> Result<(), i32> {
    // SAFETY: takes integers only.
    checked(unsafe { kill(pid, number) }).map(drop)
}

/// Is there any process, perhaps of another user, in this process group?
pub fn group_exists(group: i32) -> bool {
    send_signal(-group, 0) != Err(ESRCH)
}

pub fn own_uid() -> u32 {
    // SAFETY: takes nothing.
    unsafe { geteuid() }
}

/// A descriptor that means this process and no later one of the same number.
pub fn open_process(pid: i32) -> Result<OwnedFd, i32> {
    // SAFETY: takes integers only.
    let fd = checked(unsafe { syscall(number::PIDFD_OPEN, c_long::from(pid), 0_i64) })?;
    // SAFETY: the kernel has just made the descriptor (close-on-exec), and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

pub fn signal_process(process: &OwnedFd, number: i32) -> Result<(), i32> {
    let fd = c_long::from(process.as_raw_fd());
    // SAFETY: the null pointer asks for what kill() would send.
    checked(unsafe { syscall(number::PIDFD_SEND_SIGNAL, fd, c_long::from(number), 0_i64, 0_i64) }).map(drop)
}

/// A child that has ended and is now forgotten by the kernel: its pid and raw status. `None`: none has ended.
/// `Err(ECHILD)`: there is no child at all, and so, below a subreaper, no descendant either.
pub fn reap() -> Result<Option<(i32, i32)>, i32> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match checked(unsafe { waitpid(-1, &mut status, WNOHANG) })? {
        0 => Ok(None),
        pid => Ok(Some((pid as i32, status))),
    }
}
