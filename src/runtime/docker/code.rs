//! A job's code: from a folder of the node into a container's working directory, while its shim waits for "go". The
//! folder itself is mounted read-only at [`CODE_TARGET`](super::request::CODE_TARGET); what commands write beside their
//! code goes to the copy.
//!
//! dockerd would take an archive for a container, too, but it finds the container's folders by their paths on the node,
//! where a job may have put a link since they were checked. So the copy is made here: read through one descriptor of
//! the source, written through one of the working directory as the shim has it. Neither way is a link followed, and
//! nothing that exists is written to: it is removed and made anew; folders that exist stay as they are. What is mounted at
//! the working directory or below, a job's data for one, is not the container's, and is not written to. Links stay links:
//! what they point to is decided in the container. Only regular files, folders and links are copied. All is owned by the
//! container's user.
//!
//! What is copied has to be readable for the container's user or for the submitter's account on this node: else a job
//! would be given what its folder holds of others.

use super::beneath::{self, Held};
use super::request::mounts::Folder;
use super::rootfs::RootFs;
use crate::runtime::rights::Rights;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{Mode, fchmod, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// OpenPAI's limit.
pub const MAX_BYTES: u64 = 200_000_000;
/// Folders of small files cost more than their bytes say.
const MAX_ENTRIES: u64 = 100_000;
const MAX_DEPTH: usize = 64;

/// Why a job's code is not in its container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("codeDir: {} is bigger than 200 MB", path.display())]
    TooBig { path: PathBuf },
    #[error("codeDir: {} holds more than {MAX_ENTRIES} files, or folders deeper than {MAX_DEPTH}", path.display())]
    TooMany { path: PathBuf },
    #[error("codeDir: {} is empty", path.display())]
    Empty { path: PathBuf },
    #[error(
        "codeDir: {} may be read neither by the container's user nor by the submitter's account on this node",
        path.display()
    )]
    Closed { path: PathBuf },
    #[error("codeDir: reading {}: {error}", path.display())]
    Read { path: PathBuf, error: String },
    #[error("codeDir: writing {} in the container's working directory: {error}", path.display())]
    Write { path: PathBuf, error: String },
    #[error(
        "codeDir: {} cannot be put into the container's working directory: it is read-only there; a working directory \
         that can be written to is needed",
        path.display()
    )]
    ReadOnly { path: PathBuf },
    #[error(
        "codeDir: {} cannot be put into the container's working directory: something else is mounted there; code and \
         mounts need different places",
        path.display()
    )]
    Mounted { path: PathBuf },
    #[error("codeDir: copying it was cancelled")]
    Cancelled,
}

impl CodeError {
    /// The job asked for something that cannot be: retrying elsewhere would not help.
    pub fn is_user_error(&self) -> bool {
        use CodeError::*;
        matches!(
            self,
            TooBig { .. } | TooMany { .. } | Empty { .. } | Closed { .. } | ReadOnly { .. } | Mounted { .. }
        )
    }

    /// Writing `path`, below the working directory, has failed.
    fn writing(path: &Path, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.raw_os_error() {
            Some(libc::EROFS) => Self::ReadOnly { path },
            Some(libc::EXDEV) => Self::Mounted { path },
            _ => Self::Write { path, error: error.to_string() },
        }
    }
}

/// Something below the folder, seen without following links.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Below the folder.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Folder,
    File { bytes: u64 },
    Link(PathBuf),
}

/// Copies the content of `folder` to where a process works; `owner` is its user and group. Each entry has to be readable
/// for one of `readers`. Blocking.
pub fn copy(
    folder: &Folder,
    working: &WorkingFolder,
    owner: (u32, u32),
    readers: Vec<Rights>,
    cancel: &CancellationToken,
) -> Result<(), CodeError> {
    let code = Code { path: folder.source.clone(), held: folder.held.clone(), readers };
    let entries = code.list()?;
    code.copy(&entries, &working.0, owner, cancel)
}

/// Where a process works, whatever becomes of the path.
#[derive(Debug)]
pub struct WorkingFolder(Held);

impl WorkingFolder {
    /// Of the container's own file system: what lies in a mount is the node's, or another container's as well.
    pub fn of(pid: i32, root: &RootFs) -> Result<Self, CodeError> {
        let link = PathBuf::from(format!("/proc/{pid}/cwd"));
        let path = fs::read_link(&link).map_err(|error| CodeError::writing(&link, &error))?;
        let own = || {
            let held = Held::new(root.own_folder(&path.to_string_lossy())?)?;
            let is_it = held.is(&fs::metadata(&link)?);
            is_it.then_some(held).ok_or_else(|| Errno::EXDEV.into())
        };
        own().map(Self).map_err(|error: io::Error| CodeError::writing(&path, &error))
    }
}

/// The folder that is copied.
struct Code {
    /// For errors.
    path: PathBuf,
    held: Held,
    readers: Vec<Rights>,
}

impl Code {
    fn failed(&self, below: &Path, error: io::Error) -> CodeError {
        let path = self.path.join(below);
        match error.kind() {
            io::ErrorKind::PermissionDenied => CodeError::Closed { path },
            _ => CodeError::Read { path, error: error.to_string() },
        }
    }

    /// As the first who may.
    fn open(&self, below: &Path, flags: i32) -> io::Result<OwnedFd> {
        let mut opened = Err(io::Error::from(io::ErrorKind::PermissionDenied));
        for reader in &self.readers {
            opened = reader.open(|| self.held.open(below, flags));
            if !opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
                break;
            }
        }
        opened
    }

    /// Everything below the folder, folders before what is in them, within the limits. Blocking.
    fn list(&self) -> Result<Vec<Entry>, CodeError> {
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        let mut open = vec![(PathBuf::new(), 0)];
        while let Some((below, depth)) = open.pop() {
            let dir = self.open(&below, libc::O_RDONLY | libc::O_DIRECTORY);
            let dir = dir.map_err(|error| self.failed(&below, error))?;
            for name in beneath::names(dir.as_fd()).map_err(|error| self.failed(&below, error))? {
                let path = below.join(&name);
                let kind = self.kind(&path).map_err(|error| self.failed(&path, error))?;
                match &kind {
                    None => continue,
                    Some(Kind::Folder) => open.push((path.clone(), depth + 1)),
                    Some(Kind::File { bytes: more }) => bytes = bytes.saturating_add(*more),
                    Some(Kind::Link(_)) => {}
                }
                entries.extend(kind.map(|kind| Entry { path, kind }));
                if bytes > MAX_BYTES {
                    return Err(CodeError::TooBig { path: self.path.clone() });
                }
                if entries.len() as u64 > MAX_ENTRIES || depth >= MAX_DEPTH {
                    return Err(CodeError::TooMany { path: self.path.clone() });
                }
            }
        }
        if entries.is_empty() {
            return Err(CodeError::Empty { path: self.path.clone() });
        }
        Ok(entries)
    }

    /// `None`: what is not copied.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        // Of a link, the link itself.
        let fd = self.open(path, libc::O_PATH | libc::O_NOFOLLOW)?;
        let found = beneath::metadata(fd.as_fd())?;
        Ok(if found.is_dir() {
            Some(Kind::Folder)
        } else if found.is_symlink() {
            Some(Kind::Link(readlinkat(&fd, "")?.into()))
        } else {
            found.is_file().then_some(Kind::File { bytes: found.len() })
        })
    }

    fn copy(
        &self,
        entries: &[Entry],
        to: &Held,
        owner: (u32, u32),
        cancel: &CancellationToken,
    ) -> Result<(), CodeError> {
        for entry in entries {
            if cancel.is_cancelled() {
                return Err(CodeError::Cancelled);
            }
            let copied = Source::open(self, entry).map_err(|error| self.failed(&entry.path, error))?;
            let place = Place::of(to, &entry.path);
            place.and_then(|place| copied.write(&place, owner)).map_err(|trouble| match trouble {
                Trouble::Read(error) => self.failed(&entry.path, error),
                Trouble::Write(error) => CodeError::writing(&entry.path, &error),
            })?;
        }
        Ok(())
    }
}

/// On which side something failed.
enum Trouble {
    Read(io::Error),
    Write(io::Error),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Write(errno.into())
    }
}

/// An entry, opened: what was a file or a folder must not have become a link or a pipe meanwhile.
enum Source<'a> {
    Folder(fs::Metadata),
    File { file: File, found: fs::Metadata, bytes: u64 },
    Link(&'a Path),
}

impl<'a> Source<'a> {
    fn open(code: &Code, entry: &'a Entry) -> io::Result<Self> {
        let open = |flags| code.open(&entry.path, flags | libc::O_NOFOLLOW);
        match &entry.kind {
            Kind::Folder => {
                let fd = open(libc::O_PATH | libc::O_DIRECTORY)?;
                beneath::metadata(fd.as_fd()).map(Self::Folder)
            }
            Kind::Link(to) => Ok(Self::Link(to)),
            Kind::File { bytes } => {
                let file = File::from(open(libc::O_RDONLY | libc::O_NONBLOCK)?);
                let found = file.metadata()?;
                if !found.is_file() {
                    return Err(io::Error::other("it changed while it was read"));
                }
                Ok(Self::File { file, found, bytes: *bytes })
            }
        }
    }

    fn write(self, place: &Place<'_>, owner: (u32, u32)) -> Result<(), Trouble> {
        let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
        match self {
            Self::Folder(found) => {
                // One that was there is the image's, and may be closed or open on purpose.
                if let Some(folder) = place.make_folder()? {
                    fchown(&folder, uid, gid)?;
                    // Without them its user could not enter the copy.
                    fchmod(&folder, mode(&found, 0o700))?;
                }
            }
            Self::Link(to) => {
                place.clear()?;
                symlinkat(to, place.folder.as_fd(), place.name)?;
                fchownat(place.folder.as_fd(), place.name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            }
            Self::File { file, found, bytes } => {
                let mut to = place.make_file()?;
                copy_exactly(file, bytes, &mut to)?;
                fchown(&to, uid, gid)?;
                // No set-user-id for files whose owner becomes another.
                fchmod(&to, mode(&found, 0o400))?;
                let time = TimeSpec::new(found.mtime(), found.mtime_nsec());
                futimens(&to, &time, &time)?;
            }
        }
        Ok(())
    }
}

fn mode(found: &fs::Metadata, at_least: u32) -> Mode {
    Mode::from_bits_truncate((found.permissions().mode() & 0o777) | at_least)
}

/// As many bytes as were counted, of a file that may change while it is read.
fn copy_exactly(from: File, bytes: u64, to: &mut File) -> Result<(), Trouble> {
    let copied = io::copy(&mut from.take(bytes), to).map_err(Trouble::Write)?;
    if copied < bytes {
        return Err(Trouble::Read(io::Error::other("it got shorter while it was read")));
    }
    Ok(())
}

/// Where an entry goes: a name in a folder of the copy.
struct Place<'a> {
    folder: OwnedFd,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    fn of(root: &Held, path: &'a Path) -> Result<Self, Trouble> {
        let (parent, name) = path.parent().zip(path.file_name()).ok_or(Errno::EINVAL)?;
        let folder = root.open_here(parent, libc::O_RDONLY | libc::O_DIRECTORY).map_err(Trouble::Write)?;
        Ok(Self { folder, name })
    }

    /// Removes what is there unless it is a folder.
    fn clear(&self) -> Result<(), Errno> {
        match unlinkat(self.folder.as_fd(), self.name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            done => done,
        }
    }

    /// A new folder of this name; `None`: there was one, which stays as it was.
    fn make_folder(&self) -> Result<Option<OwnedFd>, Trouble> {
        let open = || {
            let below = Held::new(self.folder.try_clone()?)?;
            below.open_here(Path::new(self.name), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        };
        match mkdirat(self.folder.as_fd(), self.name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => match open() {
                Ok(_) => return Ok(None),
                Err(error) if error.raw_os_error() == Some(libc::EXDEV) => return Err(Trouble::Write(error)),
                Err(_) => {
                    self.clear()?;
                    mkdirat(self.folder.as_fd(), self.name, Mode::S_IRWXU)?;
                }
            },
            made => made?,
        }
        open().map(Some).map_err(Trouble::Write)
    }

    /// A new file. What was there may have another name elsewhere, so it is not written to.
    fn make_file(&self) -> Result<File, Trouble> {
        use nix::fcntl::{OFlag, openat};
        self.clear()?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(self.folder.as_fd(), self.name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }
}

#[cfg(test)]
#[path = "code_tests.rs"]
mod tests;
