//! The folders that a job names, put where dockerd finds the very ones that were looked at. Blocking.
//!
//! dockerd mounts by path, and whoever owns a folder above may put a link in its place after it was looked at. So each is
//! mounted from its descriptor in a folder that only root enters, which no job may name, and dockerd is given that path.
//! A container has its own copy of the mounts once it has started, so they are taken away again then. Those that an agent
//! could not take away the next one does, at its start.
//!
//! An agent that may not mount (it is not root), or whose mounts dockerd does not see, gives it the folders' own paths.
//! Then, as ever, what the container got is compared with what was looked at before its command starts.

use super::request::mounts::JobMounts;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt};
use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// In the state directory.
const FOLDER: &str = "pinned";

/// Mounts of one task's folders, until it is dropped.
#[derive(Debug)]
pub struct Pinned {
    /// Below it, a folder for each, by its number.
    dir: PathBuf,
    /// With the paths that dockerd is to be given.
    pub files: JobMounts,
}

impl Pinned {
    /// `name` is nobody else's; `socket` is dockerd's.
    pub fn of(files: &JobMounts, state_dir: &Path, name: &str, socket: &Path) -> io::Result<Self> {
        let mut pinned = Self { dir: state_dir.join(FOLDER).join(name), files: files.clone() };
        let folders = pinned.files.code.iter_mut().chain(&mut pinned.files.folders);
        let mut made = Vec::new();
        for (number, folder) in folders.enumerate() {
            let place = pinned.dir.join(number.to_string());
            make(&state_dir.join(FOLDER)).and_then(|()| make(&pinned.dir)).and_then(|()| make(&place))?;
            match bind(&format!("/proc/self/fd/{}", folder.held.as_fd().as_raw_fd()), &place) {
                // It is not root, or root of something smaller.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    pinned.files = files.clone();
                    return Ok(pinned);
                }
                bound => bound?,
            }
            made.push((place.clone(), folder.held.clone()));
            folder.source = place;
        }
        let dockerd = if made.is_empty() { None } else { root_of(socket) };
        let seen = |root: &PathBuf, place: &Path| fs::metadata(root.join(place.strip_prefix("/").unwrap_or(place)));
        let sees_all =
            |root: PathBuf| made.iter().all(|(place, held)| seen(&root, place).is_ok_and(|found| held.is(&found)));
        if !made.is_empty() && !dockerd.is_some_and(sees_all) {
            tracing::warn!("dockerd does not see what this agent mounts: it gets the paths of jobs' folders");
            pinned.files = files.clone();
        }
        Ok(pinned)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        release(&self.dir);
    }
}

/// Takes away what an earlier agent could not.
pub fn release_all(state_dir: &Path) {
    for entry in fs::read_dir(state_dir.join(FOLDER)).into_iter().flatten().flatten() {
        release(&entry.path());
    }
}

/// Never removes anything but mounts and empty folders: what is mounted here is somebody's.
fn release(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let place = entry.path();
        // Something else may be mounted over it by now, by whoever can.
        while unbind(&place).is_ok() {}
        if let Err(error) = fs::remove_dir(&place) {
            tracing::warn!(place = %place.display(), %error, "a folder of a job's stays mounted");
        }
    }
    fs::remove_dir(dir).ok();
}

fn make(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// With everything that is mounted in it.
fn bind(from: &str, to: &Path) -> io::Result<()> {
    mount(Some(from), to, libc::MS_BIND | libc::MS_REC)?;
    // Else taking it away would take away what is mounted in the folder itself.
    private(to)
}

fn private(at: &Path) -> io::Result<()> {
    mount(None, at, libc::MS_PRIVATE | libc::MS_REC)
}

fn mount(from: Option<&str>, to: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let (from, to) = (from.map(CString::new).transpose()?, CString::new(to.as_os_str().as_bytes())?);
    let (from, none) = (from.as_ref().map_or(std::ptr::null(), |from| from.as_ptr()), std::ptr::null());
    // SAFETY: terminated paths, or none where these flags need none.
    Errno::result(unsafe { libc::mount(from, to.as_ptr(), none, flags, none.cast()) })?;
    Ok(())
}

/// An error also where nothing is mounted.
fn unbind(at: &Path) -> io::Result<()> {
    // An agent that was killed may have left it as it was made.
    private(at)?;
    let path = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: a terminated path.
    Errno::result(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) })?;
    Ok(())
}

/// The root that whoever listens at a socket sees.
fn root_of(path: &Path) -> Option<PathBuf> {
    // One that is busy must not hold us up.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let peer = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(peer.as_raw_fd(), &UnixAddr::new(path).ok()?).ok()?;
    let pid = getsockopt(&peer.as_fd(), sockopt::PeerCredentials).ok()?.pid();
    // 0: somebody whom this agent cannot see.
    (pid > 0).then(|| PathBuf::from(format!("/proc/{pid}/root")))
}

#[cfg(test)]
#[path = "pinned_tests.rs"]
mod tests;
