//! Which of the node's files a job may name: what its operator allows with `job_dirs`, and of that nothing that is the
//! system's, dockerd's or wharf's own. Blocking.
//!
//! The agent is root, so whatever it mounts or reads for a job must be found where it was checked: the answer is a
//! descriptor of the allowed folder and the path below it, to be opened without following links.

use super::RequestError;
use crate::runtime::docker::beneath::Held;
use std::fs;
use std::io;
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
    /// The operator's `job_dirs`: a job may name them and what is in them.
    pub job_dirs: Vec<PathBuf>,
    /// What no job may see, even there: wharf's own folders, dockerd's socket and state.
    pub refused: Vec<PathBuf>,
}

/// Something that a job may name, which need not be there.
#[derive(Debug, Clone)]
pub struct Named {
    /// The `job_dirs` entry, without links.
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
}

impl Allowed {
    /// Where a path of a job's leads, if jobs may go there.
    pub fn named(&self, field: &'static str, path: &Path) -> Result<Named, RequestError> {
        let real = nearest(path).map_err(|error| node("looking at a folder of the job's", path, &error))?;
        for dir in &self.job_dirs {
            // One that this node has not got allows nothing.
            let Ok(job_dir) = fs::canonicalize(dir) else { continue };
            let Ok(below) = real.strip_prefix(&job_dir) else { continue };
            let below = below.to_owned();
            self.refuse(field, path, &real)?;
            let held = Held::at(&job_dir).map_err(|error| node("opening the folder of job_dirs", dir, &error))?;
            return Ok(Named { job_dir, held, below });
        }
        let allowed = match self.job_dirs.as_slice() {
            [] => "no folder of this node: its operator lists some with job_dirs in agent.toml".to_owned(),
            dirs => {
                let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
                format!("what is in {} (job_dirs in this node's agent.toml)", dirs.join(", "))
            }
        };
        Err(RequestError::field(field, "is not for jobs", format!("'{}'", path.display()), allowed))
    }

    /// Refuses the system's, dockerd's and wharf's own, what lies in them, and what they lie in.
    fn refuse(&self, field: &'static str, path: &Path, source: &Path) -> Result<(), RequestError> {
        for refused in SYSTEM.iter().map(Path::new).chain(self.refused.iter().map(PathBuf::as_path)) {
            let real = fs::canonicalize(refused).unwrap_or_else(|_| refused.to_owned());
            let meets = |it: &Path| [path, source].iter().any(|at| at.starts_with(it) || it.starts_with(at));
            if meets(refused) || meets(&real) {
                let found = format!("'{}'", path.display());
                let allowed = format!("a folder apart from {}", refused.display());
                return Err(RequestError::field(field, "is not for jobs", found, allowed));
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
