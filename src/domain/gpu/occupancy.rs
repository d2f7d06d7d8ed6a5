//! Who is on a GPU that no task holds, and whether that matters.
//!
//! Compute processes are what a driver tells by process id of the host. A process on a GPU that is given to a task
//! takes its memory and its time, and looks like a fault of the job's: so such a GPU is withheld until it is gone.

use super::Gpu;
use crate::domain::ids::GpuUuid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A process that uses a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// The MIG slice it is on, or its parent where the driver does not say which slice.
    pub gpu: GpuUuid,
    /// On the host.
    pub pid: u32,
    pub memory_mb: Option<u64>,
    /// `/proc/PID/comm`: at most 15 bytes; null where this machine does not show the process.
    pub command: Option<String>,
    /// The id of its container, or what its cgroup is called.
    pub container: Option<String>,
    /// It is in a container, or that cannot be told: its name is what its owner wanted it to be.
    #[serde(default = "yes")]
    pub contained: bool,
}

const fn yes() -> bool {
    true
}

/// Everything that uses the GPUs of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuProcesses {
    pub processes: Vec<GpuProcess>,
    /// Devices that cannot say who uses them.
    pub unsupported: BTreeSet<GpuUuid>,
    /// Devices that should say so and did not, and why.
    pub failed: Vec<(GpuUuid, String)>,
}

/// Programs that may use a GPU beside a task, by `/proc/PID/comm`; `*` at the end stands for anything.
///
/// Anybody can give a program any name. So names count outside of containers only: who may run programs there was let
/// onto the machine by its operator, while users' jobs are in containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredProcesses(Vec<String>);

/// The kernel cuts the names of programs after this many bytes.
const COMM_BYTES: usize = 15;

/// Displays, and the daemons of the driver and of its monitoring.
pub const IGNORED_BY_DEFAULT: [&str; 7] =
    ["Xorg", "Xwayland", "gnome-shell", "nvidia-persistenced", "nv-hostengine", "nv-fabricmanager", "dcgm*"];

impl Default for IgnoredProcesses {
    fn default() -> Self {
        Self::new(IGNORED_BY_DEFAULT)
    }
}

impl IgnoredProcesses {
    pub fn new<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    fn covers(&self, process: &GpuProcess) -> bool {
        let Some(command) = process.command.as_deref().filter(|_| !process.contained) else { return false };
        self.0.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => command.starts_with(cut(start)),
            None => command == cut(name),
        })
    }
}

fn cut(name: &str) -> &str {
    name.get(..COMM_BYTES).unwrap_or(name)
}

/// What keeps `gpu` from a new task: the first process on it that is not ignored, in a sentence.
///
/// `held`: GPUs that tasks hold. On a divided device a process whose slice is not known stands against every slice,
/// unless it may well belong to a task on one of the others.
pub fn withheld_by(
    gpu: &Gpu,
    all: &[Gpu],
    processes: &[GpuProcess],
    ignored: &IgnoredProcesses,
    held: &dyn Fn(&GpuUuid) -> bool,
) -> Option<String> {
    let parent = gpu.mig_parent.as_ref();
    let sibling_held = || all.iter().any(|other| other.mig_parent.as_ref() == parent && held(&other.uuid));
    let concerns =
        |process: &&GpuProcess| process.gpu == gpu.uuid || (parent == Some(&process.gpu) && !sibling_held());
    let foreign = |process: &&GpuProcess| !ignored.covers(process);
    let found: Vec<&GpuProcess> = processes.iter().filter(concerns).filter(foreign).collect();
    let first = found.first()?;
    let more = match found.len() {
        1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    Some(format!("{} is on it{more}", sentence(first)))
}

/// `process 4242 (python3) of container 3f2a5b7c9d1e`.
fn sentence(process: &GpuProcess) -> String {
    let command = process.command.as_deref().unwrap_or("not visible in this machine's /proc");
    let container = process.container.as_ref().map(|container| format!(" of {container}")).unwrap_or_default();
    // No memory: a sentence that changes all the time is news all the time.
    format!("process {} ({command}){container}", process.pid)
}

#[cfg(test)]
mod tests;
