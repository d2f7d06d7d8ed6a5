//! What only a forked child may do before it executes: nothing here allocates, locks or unwinds.

use super::sys::{O_CLOEXEC, checked, errno, number, syscall};
use std::ffi::{CStr, c_char, c_int, c_long};
use std::os::fd::RawFd;

#[repr(C)]
struct Limit64 {
    soft: u64,
    hard: u64,
}

unsafe extern "C" {
    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int;
    fn dup2(from: c_int, to: c_int) -> c_int;
    fn fork() -> c_int;
    fn setsid() -> c_int;
    fn umask(mask: u32) -> u32;
    fn chdir(path: *const c_char) -> c_int;
    fn prlimit64(pid: c_int, resource: u32, new: *const Limit64, old: *mut Limit64) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, env: *const *const c_char) -> c_int;
    fn _exit(code: c_int) -> !;
}

/// Forks. In the child, `child` runs; if it comes back, the child ends.
pub fn fork_into(child: impl FnOnce()) -> Result<i32, i32> {
    // SAFETY: `child` keeps to async-signal-safe calls (the contract of this module) and nothing runs after it.
    match checked(unsafe { fork() })? {
        0 => {
            child();
            exit(127)
        }
        pid => Ok(pid as i32),
    }
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
