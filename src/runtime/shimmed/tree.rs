//! Removes a folder that a task could fill as it liked: as deep as it liked, with any names and links.
//! Two descriptors at a time and no recursion; follows no link and touches nothing outside the folder.
//!
//! A folder below the first level is emptied by moving its folders up to the first level, so that no path and no
//! stack grows with the depth. What is left half-way is a smaller folder of the same name: removing it goes on there.

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const OWNER_ONLY: Mode = Mode::S_IRWXU;

/// Removes the folder and everything in it. One that is not there is removed already.
pub fn remove(path: &Path) -> io::Result<()> {
    let top = match nix::fcntl::open(path, folder_flags(), Mode::empty()) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(()),
        // A link or a file in the place of the folder, or of one above it.
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            let removed = fs::remove_file(path);
            return removed.or_else(|error| match error.kind() {
                io::ErrorKind::NotADirectory => Ok(()),
                _ => Err(error),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let mut lifted = Lifted { prefix: uuid::Uuid::new_v4().to_string(), count: 0 };
    empty(top.as_fd(), |name| lifted.remove(top.as_fd(), name))?;
    fs::remove_dir(path)
}

/// Does `remove_entry` for every entry until a look finds none: reading a folder that changes may skip some.
fn empty(dir: BorrowedFd<'_>, mut remove_entry: impl FnMut(&OsStr) -> io::Result<()>) -> io::Result<()> {
    loop {
        let mut found = false;
        for entry in fs::read_dir(through(dir))? {
            let name = entry?.file_name();
            found = true;
            remove_entry(&name)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", name.display())))?;
        }
        if !found {
            return Ok(());
        }
    }
}

/// Folders that have been moved up, to give each a name of its own.
struct Lifted {
    prefix: String,
    count: u64,
}

impl Lifted {
    /// Removes an entry of the first level.
    fn remove(&mut self, top: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        if unlink(top, name)? {
            return Ok(());
        }
        let dir = open_folder(top, name)?;
        // Only the owner's rights count now; without them a task's folder could not be emptied except by root.
        fchmod(&dir, OWNER_ONLY).ok();
        empty(dir.as_fd(), |inner| {
            if unlink(dir.as_fd(), inner)? {
                return Ok(());
            }
            self.lift(dir.as_fd(), inner, top)
        })?;
        Ok(unlinkat(top, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Moves a folder to the first level.
    fn lift(&mut self, dir: BorrowedFd<'_>, name: &OsStr, top: BorrowedFd<'_>) -> io::Result<()> {
        self.count += 1;
        let fresh = OsString::from(format!("{}.{}", self.prefix, self.count));
        match renameat(dir, name, top, fresh.as_os_str()) {
            // Moving a folder changes its "..", for which its owner must be allowed to write to it.
            Err(Errno::EACCES) => {
                open_up(dir, name)?;
                Ok(renameat(dir, name, top, fresh.as_os_str())?)
            }
            result => Ok(result?),
        }
    }
}

/// Removes a file, a link or an empty folder. False: it is a folder with something in it.
fn unlink(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    let refused = match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(error @ (Errno::EISDIR | Errno::EPERM)) => error,
        Err(error) => return Err(error.into()),
    };
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(Errno::ENOTDIR) => Err(refused.into()),
        Err(error) => Err(error.into()),
    }
}

fn open_folder(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    match openat(dir, name, folder_flags(), Mode::empty()) {
        Err(Errno::EACCES) => {
            open_up(dir, name)?;
            Ok(openat(dir, name, folder_flags(), Mode::empty())?)
        }
        result => Ok(result?),
    }
}

/// Gives the owner all rights to a folder that nobody can open.
fn open_up(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = File::from(openat(dir, name, flags, Mode::empty())?);
    fs::set_permissions(through(folder.as_fd()), Permissions::from_mode(OWNER_ONLY.bits()))
}

fn folder_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// A path to what the descriptor is open on, wherever that is by now.
fn through(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;

    /// Folders in folders, further than any path reaches.
    fn dig(at: &Path, depth: usize, with_files: bool) {
        let mut here = File::open(at).unwrap();
        for _ in 0..depth {
            mkdirat(&here, "d", OWNER_ONLY).unwrap();
            if with_files {
                let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                openat(&here, "f", flags, OWNER_ONLY).unwrap();
            }
            here = File::from(openat(&here, "d", folder_flags(), Mode::empty()).unwrap());
        }
    }

    #[test]
    fn twenty_thousand_nested_folders_are_removed() {
        // In memory, where there is such a place: on a disk it takes a minute.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let tree = dir.path().join("task");
        fs::create_dir(&tree).unwrap();
        dig(&tree, 20_000, false);
        // A small stack: nothing may grow with the depth.
        let removed = {
            let tree = tree.clone();
            std::thread::Builder::new().stack_size(128 * 1024).spawn(move || remove(&tree)).unwrap().join().unwrap()
        };
        removed.unwrap();
        assert!(!tree.exists());
        remove(&tree).unwrap();
    }

    #[test]
    fn links_are_removed_and_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("kept")).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        let tree = dir.path().join("task");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        dig(&tree.join("a/b/c"), 50, true);
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/b/link")).unwrap();
        std::os::unix::fs::symlink("..", tree.join("a/b/c/up")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").is_dir() && outside.join("file").is_file());
        std::os::unix::fs::symlink(&outside, &tree).unwrap();
        remove(&tree).unwrap();
        assert!(fs::symlink_metadata(&tree).is_err() && outside.join("file").is_file());
    }

    #[test]
    fn folders_that_nobody_may_enter_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("task");
        let folders = ["a", "a/b", "a/b/c", "a/b/c/d"].map(|name| tree.join(name));
        fs::create_dir_all(&folders[3]).unwrap();
        fs::write(folders[3].join("file"), "").unwrap();
        for folder in folders.iter().rev() {
            fs::set_permissions(folder, Permissions::from_mode(0o000)).unwrap();
        }
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }
}
