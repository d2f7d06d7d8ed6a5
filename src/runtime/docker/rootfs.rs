//! Looks for files in a container as its processes see them, from outside and without running anything in it: no link
//! leads out of the container's root. Blocking.

use super::beneath::openat2;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// The root that a process sees.
#[derive(Debug)]
pub struct RootFs(File);

impl RootFs {
    pub fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/root")).map(Self)
    }

    /// Whether this is a file that may be run, by somebody. `None`: the kernel cannot look (before Linux 5.6). An error
    /// says nothing of the file: it could not be looked at.
    pub fn can_run(&self, path: &str) -> io::Result<Option<bool>> {
        match self.open(path, libc::O_PATH) {
            Ok(file) => {
                let found = File::from(file).metadata()?;
                Ok(Some(found.is_file() && found.permissions().mode() & 0o111 != 0))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOSYS) => Ok(None),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES) => Ok(Some(false)),
                _ => Err(error),
            },
        }
    }

    /// Whether a command named like this would be found. `None`: it cannot be looked for.
    pub fn finds(&self, program: &str, path_variable: Option<&str>, cwd: &str) -> Option<bool> {
        if program.contains('/') {
            let path = if program.starts_with('/') { program.to_owned() } else { format!("{cwd}/{program}") };
            return self.can_run(&path).ok()?;
        }
        for folder in path_variable.unwrap_or(DEFAULT_PATH).split(':') {
            let folder = if folder.is_empty() { cwd } else { folder };
            if self.can_run(&format!("{folder}/{program}")).ok()?? {
                return Some(true);
            }
        }
        Some(false)
    }

    /// The container's own `/proc`.
    pub fn proc(&self) -> io::Result<File> {
        let file = File::from(self.open("/proc", libc::O_RDONLY | libc::O_DIRECTORY)?);
        // SAFETY: all zeroes are a valid statfs, which the kernel fills.
        let mut about: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: a valid descriptor and room of ours.
        let result = unsafe { libc::fstatfs(file.as_raw_fd(), &mut about) };
        nix::errno::Errno::result(result)?;
        #[allow(clippy::unnecessary_cast, reason = "the type differs between machines")]
        if about.f_type as i64 != PROC_SUPER_MAGIC {
            return Err(io::Error::other("what is mounted at the container's /proc is no proc"));
        }
        Ok(file)
    }

    /// What processes of the container find at a path.
    pub fn metadata(&self, path: &str) -> io::Result<Metadata> {
        File::from(self.open(path, libc::O_PATH)?).metadata()
    }

    /// What processes of the container have at a path.
    pub fn folder(&self, path: &str) -> io::Result<OwnedFd> {
        self.open(path, libc::O_PATH | libc::O_DIRECTORY)
    }

    /// A folder of the container's own file system, not of anything that is mounted in it.
    pub fn own_folder(&self, path: &str) -> io::Result<OwnedFd> {
        let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_XDEV;
        openat2(self.0.as_fd(), Path::new(path), libc::O_PATH | libc::O_DIRECTORY, resolve)
    }

    /// A file, up to its first `limit` bytes.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        // What would wait for somebody, such as a pipe, must not be opened for reading.
        let found = self.open(path, libc::O_RDONLY | libc::O_NONBLOCK)?;
        let mut bytes = Vec::new();
        File::from(found).take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A folder as if it were a container's root.
    #[cfg(test)]
    pub fn at(folder: &Path) -> io::Result<Self> {
        File::open(folder).map(Self)
    }

    fn open(&self, path: &str, flags: i32) -> io::Result<OwnedFd> {
        openat2(self.0.as_fd(), Path::new(path), flags, libc::RESOLVE_IN_ROOT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("tool"), "").unwrap();
        std::fs::write(bin.join("data"), "").unwrap();
        std::fs::set_permissions(bin.join("tool"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(bin.join("data"), std::fs::Permissions::from_mode(0o644)).unwrap();
        symlink("/bin/tool", bin.join("absolute")).unwrap();
        symlink("../../../../../../bin/tool", bin.join("up")).unwrap();
        symlink("/usr/bin/env", bin.join("out")).unwrap();
        let root = RootFs(File::open(dir.path()).unwrap());
        let Some(found) = root.can_run("/bin/tool").unwrap() else { return };
        assert!(found);
        assert_eq!(root.can_run("/bin/absolute").unwrap(), Some(true), "its root is the container's");
        assert_eq!(root.can_run("/bin/up").unwrap(), Some(true));
        assert_eq!(root.can_run("/bin/out").unwrap(), Some(false), "the node's files are not the container's");
        assert_eq!(root.can_run("/bin/data").unwrap(), Some(false));
        assert_eq!(root.can_run("/bin").unwrap(), Some(false), "a folder is not run");
        assert_eq!(root.finds("tool", Some("/none:/bin"), "/"), Some(true));
        assert_eq!(root.finds("tool", Some("/none"), "/"), Some(false));
        assert_eq!(root.finds("tool", Some(""), "/bin"), Some(true));
        assert_eq!(root.finds("./tool", None, "/bin"), Some(true));
        assert_eq!(root.finds("/no/such", None, "/bin"), Some(false));
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let root = RootFs(File::open(dir.path()).unwrap());
        for absent in ["/none", "/file/below", "/loop"] {
            assert_ne!(root.can_run(absent).unwrap(), Some(true), "{absent}");
        }
        let error = root.can_run(&"n".repeat(300)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
        assert_eq!(root.finds(&"n".repeat(300), Some("/"), "/"), None);
    }
}
