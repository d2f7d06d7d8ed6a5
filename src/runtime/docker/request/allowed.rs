//! Which of the node's files a job may name: what its operator allows with `policy.mounts`, and of that nothing that is
//! the system's, dockerd's or wharf's own, by whatever path it is reached. Blocking.
//!
//! The agent is root, so whatever it mounts or reads for a job must be found where it was checked: the answer is a
//! descriptor of the allowed folder and the path below it, to be opened without following links.

use super::RequestError;
use super::protected::{self, Protected};
use crate::domain::policy::{MountRule, Refusal};
use crate::runtime::docker::beneath::Held;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Folders that no job may name, whatever an operator allows around them.
const SYSTEM: [&str; 20] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/systemd",
    "/var/lib/wharf",
    "/var/run",
    "/var/spool",
];

/// What jobs may name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    /// The operator's: a job may name them and what is in them.
    pub mounts: Vec<MountRule>,
    /// Where they are set.
    pub file: String,
    /// What no job may see, even there: wharf's own folders, dockerd's socket and state.
    pub refused: Vec<PathBuf>,
}

/// Something that a job may name, which need not be there.
#[derive(Debug, Clone)]
pub struct Named {
    /// The operator's folder, without links.
    pub job_dir: PathBuf,
    pub held: Held,
    /// Below it, without links when it was looked at.
    pub below: PathBuf,
}

impl Named {
    /// Without links.
    pub fn path(&self) -> PathBuf {
        // Joining nothing would add a slash.
        if self.below.as_os_str().is_empty() { self.job_dir.clone() } else { self.job_dir.join(&self.below) }
    }

    /// Itself, or what it would be made in.
    fn deepest(&self) -> io::Result<OwnedFd> {
        let mut opened = Err(io::Error::from(io::ErrorKind::NotFound));
        for below in self.below.ancestors() {
            opened = self.held.open(below, libc::O_PATH | libc::O_NOFOLLOW);
            if opened.is_ok() {
                break;
            }
        }
        opened
    }
}

impl Allowed {
    /// These folders, for whatever a job does with them.
    pub fn only(mounts: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { mounts: mounts.into_iter().map(MountRule::writable).collect(), ..Self::default() }
    }

    /// Where a path of a job's leads, if jobs may go there.
    pub fn named(&self, field: &'static str, path: &Path) -> Result<Named, RequestError> {
        let real = nearest(path).map_err(|error| node("looking at a folder of the job's", path, &error))?;
        // One that this node has not got allows nothing.
        let rules = self.mounts.iter().filter_map(|rule| Some((fs::canonicalize(&rule.path).ok()?, rule.read_only)));
        let rules: Vec<_> = rules.collect();
        let around = rules.iter().filter(|(dir, _)| real.starts_with(dir));
        // The nearest decides; of the same folder twice, what says less.
        let Some((job_dir, _)) = around.max_by_key(|(dir, read_only)| (dir.components().count(), *read_only)) else {
            return Err(self.refusal(field, path, self.all()));
        };
        self.refuse(field, path, &real)?;
        let held = Held::at(job_dir).map_err(|error| node("opening the folder of policy.mounts", job_dir, &error))?;
        let below = real.strip_prefix(job_dir).unwrap_or(Path::new("")).to_owned();
        let named = Named { job_dir: job_dir.clone(), held, below };
        self.refuse_reaching(field, path, &named)?;
        Ok(named)
    }

    /// The same for what the job writes to: neither in a folder that is only read, nor around one.
    pub fn named_to_write(&self, field: &'static str, path: &Path) -> Result<Named, RequestError> {
        let named = self.named(field, path)?;
        let read_only =
            named.deepest().and_then(|there| protected::is_read_only(&self.mounts, &named.path(), there.as_fd()));
        match read_only.map_err(|error| node("looking at what is mounted on the way to", path, &error))? {
            false => Ok(named),
            true => Err(self.refusal(field, path, self.all())),
        }
    }

    /// What no path may lead to, as it is now.
    pub fn protected(&self) -> io::Result<Protected> {
        Protected::of(self.kept())
    }

    /// Refuses a path by which something that is kept from jobs would be reached.
    fn refuse_reaching(&self, field: &'static str, path: &Path, named: &Named) -> Result<(), RequestError> {
        let reached = named.deepest().and_then(|there| self.protected()?.reached_by(&named.path(), there.as_fd()));
        match reached.map_err(|error| node("looking at what is mounted on the way to", path, &error))? {
            None => Ok(()),
            Some(what) => Err(self.never(field, path, &what)),
        }
    }

    fn kept(&self) -> impl Iterator<Item = &Path> {
        SYSTEM.iter().map(Path::new).chain(self.refused.iter().map(PathBuf::as_path))
    }

    fn all(&self) -> String {
        match self.mounts.as_slice() {
            [] => "no folder of this node".to_owned(),
            rules => {
                let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
                format!("what is in {}", rules.join(", "))
            }
        }
    }

    fn refusal(&self, field: &str, path: &Path, allowed: String) -> RequestError {
        let (file, found) = (self.file.clone(), path.display().to_string());
        let refusal = Refusal { rule: "policy.mounts", file, field: field.to_owned(), found, allowed };
        RequestError::Field(refusal.violation())
    }

    fn never(&self, field: &str, path: &Path, what: &str) -> RequestError {
        let (file, found) = (self.file.clone(), path.display().to_string());
        let allowed = format!("a folder apart from {what}");
        let refusal = Refusal { rule: "", file, field: field.to_owned(), found, allowed };
        RequestError::Field(refusal.violation())
    }

    /// Refuses the system's, dockerd's and wharf's own, what lies in them, and what they lie in.
    fn refuse(&self, field: &'static str, path: &Path, source: &Path) -> Result<(), RequestError> {
        for refused in self.kept() {
            let real = fs::canonicalize(refused).unwrap_or_else(|_| refused.to_owned());
            let meets = |it: &Path| [path, source].iter().any(|at| at.starts_with(it) || it.starts_with(at));
            if meets(refused) || meets(&real) {
                return Err(self.never(field, path, &refused.display().to_string()));
            }
        }
        Ok(())
    }
}

pub(super) fn node(operation: &'static str, path: &Path, error: &io::Error) -> RequestError {
    RequestError::Node { operation, path: path.to_owned(), error: error.to_string() }
}

/// Where a path that may not be there would be, as far as links go today.
fn nearest(path: &Path) -> io::Result<PathBuf> {
    for ancestor in path.ancestors() {
        match fs::canonicalize(ancestor) {
            // Joining nothing would add a slash.
            Ok(real) if ancestor == path => return Ok(real),
            Ok(real) => return Ok(real.join(path.strip_prefix(ancestor).unwrap_or(Path::new("")))),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(path.to_owned())
}
