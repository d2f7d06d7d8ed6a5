//! What the kernel shows of the machine beside GPUs: PCI functions of NVIDIA's, InfiniBand ports, what tasks see of their
//! device nodes, the boot.
//!
//! ```text
//!  async ── Host ──a thread per look, one of each kind──> files below /sys and /proc
//! ```
//!
//! Some of these files are answered by the hardware, so that reading one can hang. A look has a deadline and is then
//! not waited for; while one hangs, no other of its kind is begun.

pub mod devices;
pub mod infiniband;
pub mod pci;

use crate::domain::host::{DeviceUser, DevicesSeen};
use infiniband::InfinibandDevice;
use pci::PciFunction;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Why a look has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    #[error("looking at {what}: no answer within {limit_ms} ms")]
    Late { what: &'static str, limit_ms: u128 },
    #[error("looking at {what}: an earlier look hangs still")]
    Hangs { what: &'static str },
    #[error("looking at {what}: {message}")]
    Failed { what: &'static str, message: String },
}

/// Which boot this is, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Made anew at each boot; `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    pub uptime_ms: u64,
}

impl Boot {
    /// `root`: `/`. Blocks no longer than the kernel needs to answer by itself.
    pub fn read(root: &Path) -> io::Result<Self> {
        let wrong = |path: &Path, text: &str| {
            io::Error::other(format!("{}: found {:?}, which is none", path.display(), text.trim_end()))
        };
        let path = root.join("proc/sys/kernel/random/boot_id");
        let text = read(&path)?;
        let boot_id = text.trim().to_owned();
        if boot_id.is_empty() {
            return Err(wrong(&path, &text));
        }
        let path = root.join("proc/uptime");
        let text = read(&path)?;
        // `12345.67 54321.09`: seconds, then those of idle processors.
        let uptime_ms = text.split(' ').next().and_then(thousandths).ok_or_else(|| wrong(&path, &text))?;
        Ok(Self { boot_id, uptime_ms })
    }
}

fn read(path: &Path) -> io::Result<String> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    // The kernel's files are texts, and who knows what a device answers.
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(named)
}

/// A small file's first line; none where it is missing, cannot be read or is empty.
fn line(path: &Path) -> Option<String> {
    let text = read(path).ok()?;
    text.lines().next().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned)
}

/// The names in a folder of the kernel's, in their order. A folder that is not there is empty.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display()))),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// `2.5` as 2500.
fn thousandths(number: &str) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits: String = part.chars().chain("000".chars()).take(3).collect();
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(digits.parse().ok()?)
}

/// Looks at the machine beside the async threads.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    limit: Duration,
    pci: Arc<AtomicBool>,
    infiniband: Arc<AtomicBool>,
    devices: Arc<AtomicBool>,
}

impl Host {
    /// `root`: `/`. `limit`: how long one look may take.
    pub fn new(root: PathBuf, limit: Duration) -> Self {
        Self { root, limit, pci: Arc::default(), infiniband: Arc::default(), devices: Arc::default() }
    }

    /// See [`pci::nvidia_functions`].
    pub async fn nvidia_functions(&self) -> Result<Vec<PciFunction>, LookError> {
        self.look("the PCI functions of NVIDIA", &self.pci, pci::nvidia_functions).await
    }

    /// See [`infiniband::devices`].
    pub async fn infiniband(&self) -> Result<Vec<InfinibandDevice>, LookError> {
        self.look("the InfiniBand devices", &self.infiniband, infiniband::devices).await
    }

    /// See [`devices::seen_by`].
    pub async fn devices_seen_by(&self, users: Vec<DeviceUser>) -> Result<Vec<DevicesSeen>, LookError> {
        let look = move |root: &Path| devices::seen_by(root, &users);
        self.look("the device nodes of tasks", &self.devices, look).await
    }

    async fn look<T: Send + 'static>(
        &self,
        what: &'static str,
        is_busy: &Arc<AtomicBool>,
        look: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, LookError> {
        if is_busy.swap(true, Ordering::AcqRel) {
            return Err(LookError::Hangs { what });
        }
        let (reply, answer) = oneshot::channel();
        let (root, busy) = (self.root.clone(), Busy(Arc::clone(is_busy)));
        let failed = |error: io::Error| LookError::Failed { what, message: error.to_string() };
        let thread = std::thread::Builder::new().name("host-look".to_owned());
        thread
            .spawn(move || {
                let found = look(&root);
                drop(busy);
                let _ = reply.send(found);
            })
            .map_err(failed)?;
        match tokio::time::timeout(self.limit, answer).await {
            Ok(Ok(found)) => found.map_err(failed),
            Ok(Err(_)) => Err(failed(io::Error::other("it fell"))),
            Err(_) => Err(LookError::Late { what, limit_ms: self.limit.as_millis() }),
        }
    }
}

/// Until the look ends, however it does.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
