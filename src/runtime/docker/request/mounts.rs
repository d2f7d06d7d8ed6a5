//! Folders of the node that a job names: `codeDir`, `dataDir`, `outputDir`. Looks at them, and makes the output folder.
//! Blocking.
//!
//! A path of the node is mounted at the same path in the container: data read-only, output for writing. It must be one
//! that [`Allowed`] allows, and exist, but for the output folder, which is made with the container's user as its owner;
//! where only the image knows that user's number, everybody may write, and a notice says so. Other URIs are left to the
//! job, which reads them from `PAI_DATA_DIR` and `PAI_OUTPUT_DIR`.
//!
//! A job that names no output folder gets OpenPAI's default, `$PAI_DEFAULT_FS_URI/Output/$jobName`. Without a default
//! file system that is `/Output/$jobName`: used if `/Output` is there and jobs may use it, else left out with a notice.
//!
//! dockerd mounts by path, and whoever owns a folder may put a link in its place after it was looked at. So every folder
//! is held, and what the container got is compared with it before the command starts ([`JobMounts::differing`]).

use super::allowed::{Allowed, Named, node};
use super::place::{Place, place};
use super::protected::Protected;
use super::{CODE_TARGET, RequestError, SHIM_TARGET};
use crate::domain::task::TaskSpec;
use crate::runtime::docker::beneath::{self, Held};
use crate::runtime::docker::images::facts::{ImageFacts, numeric_owner};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Places in the container that are not a job's.
const TAKEN: [&str; 2] = [SHIM_TARGET, "/pai"];
/// Where OpenPAI keeps the output of jobs that name no folder.
const DEFAULT_OUTPUT: &str = "/Output";

/// Folders that go into a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobMounts {
    /// Seen at [`super::CODE_TARGET`].
    pub code: Option<Folder>,
    pub folders: Vec<Folder>,
    pub notices: Vec<String>,
    /// What none of them may lead to; where there are some.
    pub protected: Protected,
    /// Folders that were not there before, those above first.
    pub made: Vec<Made>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// On the node, without links when it was looked at.
    pub source: PathBuf,
    /// What was looked at.
    pub held: Held,
    /// As the job names it.
    pub target: String,
    pub read_only: bool,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    parent: Held,
    name: OsString,
}

impl JobMounts {
    /// Looks at the folders that the job names, and makes its output folder. An error leaves nothing made.
    pub fn resolve(task: &TaskSpec, image: &ImageFacts, allowed: &Allowed) -> Result<Self, RequestError> {
        let mut found = Self::default();
        match found.look(task, image, allowed) {
            Ok(()) => Ok(found),
            Err(error) => {
                found.take_back();
                Err(error)
            }
        }
    }

    /// Removes what was made, for a job that is refused after all; what has something in it by now stays.
    pub fn take_back(&self) {
        for made in self.made.iter().rev() {
            unlinkat(made.parent.as_fd(), made.name.as_os_str(), UnlinkatFlags::RemoveDir).ok();
        }
    }

    fn look(&mut self, task: &TaskSpec, image: &ImageFacts, allowed: &Allowed) -> Result<(), RequestError> {
        if let Place::Node(path) = place("codeDir", &task.files.code_dir).map_err(RequestError::Field)? {
            let (source, held) = existing("codeDir", &path, &allowed.named("codeDir", &path)?)?;
            self.code = Some(Folder { source, held, target: CODE_TARGET.to_owned(), read_only: true });
        }
        if let Place::Node(path) = place("dataDir", &task.files.data_dir).map_err(RequestError::Field)? {
            let folder = existing("dataDir", &path, &allowed.named("dataDir", &path)?)?;
            self.add("dataDir", folder, &path, true)?;
        }
        if let Place::Node(path) = place("outputDir", &task.files.output_dir).map_err(RequestError::Field)? {
            self.look_at_output(&path, task, image, allowed)?;
        }
        if self.code.is_some() || !self.folders.is_empty() {
            self.protected = allowed.protected().map_err(|error| node("looking at", Path::new("/"), &error))?;
        }
        Ok(())
    }

    fn look_at_output(
        &mut self,
        path: &Path,
        task: &TaskSpec,
        image: &ImageFacts,
        allowed: &Allowed,
    ) -> Result<(), RequestError> {
        let by_default = path == Path::new(DEFAULT_OUTPUT).join(&task.job_name);
        if by_default && !Path::new(DEFAULT_OUTPUT).is_dir() {
            let notice = format!("outputDir: {} is not kept: this node has no {DEFAULT_OUTPUT}", path.display());
            self.notices.push(notice);
            return Ok(());
        }
        match allowed.named_to_write("outputDir", path) {
            // The job did not ask for it.
            Err(RequestError::Field(why)) if by_default => self.notices.push(format!("output is not kept: {why}")),
            named => {
                let folder = self.output(path, &named?, task, image)?;
                self.add("outputDir", folder, path, false)?;
            }
        }
        Ok(())
    }

    /// What a container would reach by its folders that no job may, if anything. `open` is for their places in the
    /// container: links of the image may have moved them.
    pub fn reaching(&self, pid: i32, open: impl Fn(&str) -> io::Result<OwnedFd>) -> io::Result<Option<String>> {
        let targets = self.code.iter().chain(&self.folders).map(|folder| open(&folder.target));
        self.protected.reached_in(pid, &targets.collect::<io::Result<Vec<_>>>()?)
    }

    /// The first folder that is not the same in the container as it was when it was looked at. `look` is for its place in
    /// the container.
    pub fn differing(&self, look: impl Fn(&str) -> io::Result<Metadata>) -> Option<(&Folder, String)> {
        self.code.iter().chain(&self.folders).find_map(|folder| match look(&folder.target) {
            Ok(found) if folder.held.is(&found) => None,
            Ok(_) => Some((folder, "it was replaced after it was looked at".to_owned())),
            Err(error) => Some((folder, error.to_string())),
        })
    }

    /// For a Docker that would leave what is mounted below a read-only folder writable.
    pub fn refuse_mounts_below(&self, mount_points: &[PathBuf]) -> Result<(), RequestError> {
        for folder in self.code.iter().chain(&self.folders).filter(|folder| folder.read_only) {
            let below = |point: &&PathBuf| point.starts_with(&folder.source) && **point != folder.source;
            if let Some(point) = mount_points.iter().find(below) {
                let field = if self.code.as_ref() == Some(folder) { "codeDir" } else { "dataDir" };
                let found = format!("'{}', with a mount at '{}'", folder.source.display(), point.display());
                let allowed = "a folder without mounts below it, or Docker 25 on the node";
                return Err(RequestError::field(field, "cannot be mounted read-only as a whole", found, allowed));
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        field: &str,
        (source, held): (PathBuf, Held),
        path: &Path,
        read_only: bool,
    ) -> Result<(), RequestError> {
        let target = path.to_string_lossy().into_owned();
        if TAKEN.iter().any(|taken| path.starts_with(taken)) {
            return Err(RequestError::field(field, "is wharf's own in containers", target, "another folder"));
        }
        // The same folder for data and output is one to write.
        self.folders.retain(|folder| folder.target != target);
        self.folders.push(Folder { source, held, target, read_only });
        Ok(())
    }

    fn output(
        &mut self,
        path: &Path,
        named: &Named,
        task: &TaskSpec,
        image: &ImageFacts,
    ) -> Result<(PathBuf, Held), RequestError> {
        let user = task.container.user.as_deref().unwrap_or(&image.user);
        let owner = numeric_owner(user);
        let made = make(named, owner, &mut self.made)
            .map_err(|error| failed("outputDir", "making the output folder", path, &error))?;
        if made && owner.is_none() {
            let open = "was made open to all users of the node: only the image knows the number of user";
            self.notices.push(format!("outputDir: {} {open} '{user}'", path.display()));
        }
        existing("outputDir", path, named)
    }
}

/// The user's mistake where it is one.
fn failed(field: &'static str, operation: &'static str, path: &Path, error: &io::Error) -> RequestError {
    let message = match error.raw_os_error() {
        Some(libc::ENOENT) => "is not on this node",
        Some(libc::ENOTDIR) => "is no folder",
        Some(libc::ELOOP) => "leads over a link to nowhere, or over one that was made just now",
        _ => return node(operation, path, error),
    };
    RequestError::field(field, message, format!("'{}'", path.display()), "a folder of the node")
}

fn existing(field: &'static str, path: &Path, named: &Named) -> Result<(PathBuf, Held), RequestError> {
    let held = named.held.folder(&named.below);
    let held = held.map_err(|error| failed(field, "opening a folder of the job's", path, &error))?;
    Ok((named.path(), held))
}

/// Makes the folder and those above it, by descriptors alone: nobody's link is followed, and nothing that was there
/// changes hands. Says whether the last one is new.
fn make(named: &Named, owner: Option<(u32, u32)>, all_made: &mut Vec<Made>) -> io::Result<bool> {
    if named.held.folder(&named.below).is_ok() {
        return Ok(false);
    }
    let mut parts = named.below.components().peekable();
    let mut dir = named.held.clone();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else { return Err(io::Error::from(io::ErrorKind::InvalidInput)) };
        let last = parts.peek().is_none();
        // Nobody else may enter the last one before it is given away.
        let mode = if last { Mode::S_IRWXU } else { Mode::from_bits_truncate(0o755) };
        let made = mkdirat(dir.as_fd(), name, mode);
        if made.is_ok() {
            all_made.push(Made { parent: dir.clone(), name: name.to_owned() });
        }
        match made {
            Ok(()) if last => {
                give(&dir.open(Path::new(name), libc::O_RDONLY | libc::O_DIRECTORY)?, owner)?;
                return Ok(true);
            }
            // Another task of the job may have been faster: then it gives the last one away.
            Ok(()) | Err(nix::errno::Errno::EEXIST) => dir = dir.folder(Path::new(name))?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Gives a folder away that we have just made.
fn give(dir: &OwnedFd, owner: Option<(u32, u32)>) -> io::Result<()> {
    let found = beneath::metadata(dir.as_fd())?;
    let ours = found.uid() == Uid::effective().as_raw() && found.mode() & 0o077 == 0;
    if !ours || !beneath::names(dir.as_fd())?.is_empty() {
        return Err(io::Error::other("it was replaced while it was made"));
    }
    if let Some((uid, gid)) = owner {
        fchown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    let mode = if owner.is_some() { 0o755 } else { 0o1777 };
    Ok(fchmod(dir, Mode::from_bits_truncate(mode))?)
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
