//! Opens what lies below a folder, by descriptor and never by a path that somebody may change meanwhile: no link is
//! followed, and nothing outside the folder is reached. Blocking; decides nothing.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// How often the kernel may say that somebody moves folders while it looks.
const ATTEMPTS: u32 = 100;

/// openat2(2), repeated while the kernel says that it was disturbed.
pub fn openat2(dir: BorrowedFd<'_>, path: &Path, flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeroes are a valid open_how.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::try_from(flags | libc::O_CLOEXEC).map_err(io::Error::other)?;
    how.resolve = resolve;
    let mut result = Err(nix::errno::Errno::EAGAIN);
    for _ in 0..ATTEMPTS {
        let (dir, size) = (dir.as_raw_fd(), size_of::<libc::open_how>());
        // SAFETY: a valid descriptor, a terminated path and a structure of the size that is given.
        let fd = unsafe { libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, size) };
        result = nix::errno::Errno::result(fd);
        if !matches!(result, Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR)) {
            break;
        }
    }
    let fd = i32::try_from(result?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A folder that is held, whatever becomes of its path.
#[derive(Debug, Clone)]
pub struct Held {
    fd: Arc<OwnedFd>,
    device: u64,
    inode: u64,
}

impl Held {
    /// The folder at an absolute path without links.
    pub fn at(path: &Path) -> io::Result<Self> {
        let root = File::options().read(true).open("/")?;
        let below = path.strip_prefix("/").map_err(io::Error::other)?;
        Self::new(beneath(root.as_fd(), below, libc::O_PATH | libc::O_DIRECTORY)?)
    }

    /// A folder below this one.
    pub fn folder(&self, below: &Path) -> io::Result<Self> {
        Self::new(self.open(below, libc::O_PATH | libc::O_DIRECTORY)?)
    }

    /// Anything below this folder; an empty path is the folder.
    pub fn open(&self, below: &Path, flags: i32) -> io::Result<OwnedFd> {
        beneath(self.fd.as_fd(), below, flags)
    }

    /// The same on this folder's file system only: what is mounted below is another's.
    pub fn open_here(&self, below: &Path, flags: i32) -> io::Result<OwnedFd> {
        openat2(self.fd.as_fd(), or_itself(below), flags, BENEATH | libc::RESOLVE_NO_XDEV)
    }

    /// Whether this is the same file.
    pub fn is(&self, found: &Metadata) -> bool {
        (self.device, self.inode) == (found.dev(), found.ino())
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let found = metadata(fd.as_fd())?;
        Ok(Self { fd: Arc::new(fd), device: found.dev(), inode: found.ino() })
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

impl Eq for Held {}

/// What is behind any descriptor.
pub fn metadata(fd: BorrowedFd<'_>) -> io::Result<Metadata> {
    File::from(fd.try_clone_to_owned()?).metadata()
}

/// The names in a folder that is held, in order.
pub fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<std::ffi::OsString>> {
    // Our own descriptor, and so the very folder.
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
    let mut names = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn beneath(dir: BorrowedFd<'_>, below: &Path, flags: i32) -> io::Result<OwnedFd> {
    openat2(dir, or_itself(below), flags, BENEATH)
}

const BENEATH: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;

/// An empty path is the folder.
fn or_itself(below: &Path) -> &Path {
    if below.as_os_str().is_empty() { Path::new(".") } else { below }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn neither_links_nor_dots_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("/etc", root.join("a/link")).unwrap();
        symlink("b", root.join("a/inside")).unwrap();
        let held = Held::at(&root.join("a")).unwrap();
        assert!(held.folder(Path::new("b")).unwrap().is(&std::fs::metadata(root.join("a/b")).unwrap()));
        assert_eq!(held.folder(Path::new("")).unwrap(), held);
        for (path, errno) in [
            ("link", libc::ELOOP),
            ("link/ssl", libc::ELOOP),
            ("inside", libc::ELOOP),
            ("..", libc::EXDEV),
            ("/etc", libc::EXDEV),
            ("none", libc::ENOENT),
        ] {
            let error = held.folder(Path::new(path)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno), "{path}");
        }
        assert!(Held::at(&root.join("a/link")).is_err());
        // Whatever is at the path now, the folder is the same.
        std::fs::rename(root.join("a"), root.join("c")).unwrap();
        assert_eq!(names(held.open(Path::new(""), libc::O_RDONLY).unwrap().as_fd()).unwrap().len(), 3);
    }
}
