//! What only a forked child may do before it executes: nothing here allocates, locks or unwinds.

use super::sys::{CLONE_INTO_CGROUP, O_CLOEXEC, O_WRONLY, SIGCHLD, checked, errno, number, syscall, write_fd};
use std::ffi::{CStr, c_char, c_int, c_long};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

#[repr(C)]
struct Limit64 {
    soft: u64,
    hard: u64,
}

unsafe extern "C" {
    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int;
    fn dup2(from: c_int, to: c_int) -> c_int;
    fn fork() -> c_int;
    fn openat(directory: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
    fn setsid() -> c_int;
    fn umask(mask: u32) -> u32;
    fn chdir(path: *const c_char) -> c_int;
    fn prlimit64(pid: c_int, resource: u32, new: *const Limit64, old: *mut Limit64) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, env: *const *const c_char) -> c_int;
    fn _exit(code: c_int) -> !;
}

/// The kernel's struct clone_args, as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks, if it can be done into the v2 cgroup whose folder is given. In the child, `child` runs and is told whether
/// it was born there; if it comes back, the child ends.
pub fn fork_into(cgroup: Option<&OwnedFd>, child: impl FnOnce(bool)) -> Result<i32, i32> {
    let (pid, born_there) = match cgroup.map(clone_into) {
        Some(Ok(pid)) => (pid, true),
        // An old kernel, a filter of system calls, or a group that takes nobody this way.
        // SAFETY: `child` keeps to async-signal-safe calls (the contract of this module) and nothing runs after it.
        None | Some(Err(_)) => (checked(unsafe { fork() })?, false),
    };
    match pid {
        0 => {
            child(born_there);
            exit(127)
        }
        pid => Ok(pid as i32),
    }
}

fn clone_into(cgroup: &OwnedFd) -> Result<i64, i32> {
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM this is a fork; the structure has the size that is passed.
    checked(unsafe { syscall(number::CLONE3, &arguments, size_of::<CloneArguments>()) })
}

/// Moves the caller into the v2 cgroup of this folder.
pub fn join(cgroup: RawFd) -> Result<(), i32> {
    // SAFETY: the path is constant and terminated.
    let fd = checked(unsafe { openat(cgroup, c"cgroup.procs".as_ptr(), O_WRONLY | O_CLOEXEC) })?;
    // Closed by exec.
    write_fd(fd as RawFd, b"0").map(drop)
}

fn exit(code: i32) -> ! {
    // SAFETY: ends this process without running anything.
    unsafe { _exit(code) }
}

pub fn new_session() -> Result<(), i32> {
    // SAFETY: no arguments.
    checked(unsafe { setsid() }).map(drop)
}

pub fn set_umask(mask: u32) {
    // SAFETY: takes an integer only.
    unsafe { umask(mask & 0o777) };
}

pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), i32> {
    // SAFETY: the structure outlives the call; no old value is asked for.
    checked(unsafe { prlimit64(0, resource, &Limit64 { soft, hard }, std::ptr::null_mut()) }).map(drop)
}

/// Raises a soft limit to `wanted`, or as far as the hard limit lets it; never lowers it. Best effort.
pub fn raise_soft_limit(resource: u32, wanted: u64) {
    let mut limit = Limit64 { soft: 0, hard: 0 };
    // SAFETY: the structure outlives the call; no new value is given.
    let known = checked(unsafe { prlimit64(0, resource, std::ptr::null(), &mut limit) }).is_ok();
    if known && limit.soft < wanted.min(limit.hard) {
        let _ = set_limit(resource, wanted.min(limit.hard), limit.hard);
    }
}

pub fn set_groups(groups: &[u32]) -> Result<(), i32> {
    // SAFETY: the list has the length that is passed. The raw call: only this thread exists.
    checked(unsafe { syscall(number::SETGROUPS, groups.len(), groups.as_ptr()) }).map(drop)
}

pub fn set_gid(gid: u32) -> Result<(), i32> {
    let gid = c_long::from(gid);
    // SAFETY: takes integers only.
    checked(unsafe { syscall(number::SETRESGID, gid, gid, gid) }).map(drop)
}

pub fn set_uid(uid: u32) -> Result<(), i32> {
    let uid = c_long::from(uid);
    // SAFETY: takes integers only.
    checked(unsafe { syscall(number::SETRESUID, uid, uid, uid) }).map(drop)
}

pub fn change_folder(path: &CStr) -> Result<(), i32> {
    // SAFETY: the path is NUL-terminated.
    checked(unsafe { chdir(path.as_ptr()) }).map(drop)
}

/// Puts a descriptor at a number, to survive exec.
pub fn place(from: RawFd, to: RawFd) -> Result<(), i32> {
    // SAFETY: the process is about to execute: whatever was at `to` is not used again.
    checked(unsafe { dup2(from, to) }).map(drop)
}

/// Puts a descriptor at a number, to be closed by exec.
pub fn place_closing(from: RawFd, to: RawFd) -> Result<(), i32> {
    if from == to {
        return Ok(());
    }
    // SAFETY: as in `place`.
    checked(unsafe { dup3(from, to, O_CLOEXEC) }).map(drop)
}

/// Executes; returns the errno if it could not. Both lists end with a null pointer.
pub fn execute(path: &CStr, argv: &[*const c_char], env: &[*const c_char]) -> i32 {
    // SAFETY: the lists are null-terminated and their strings outlive the call (built before the fork).
    unsafe { execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    errno()
}
