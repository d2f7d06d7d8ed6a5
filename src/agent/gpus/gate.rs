//! The last look at the GPUs of a task before it is prepared: nobody else may be on them.
//!
//! What the actor knows may be some seconds old, and it never waits for IO; so the executor looks again.

use super::poll::bounded;
use crate::domain::gpu::Gpu;
use crate::domain::gpu::occupancy::{IgnoredProcesses, withheld_by};
use crate::domain::ids::GpuUuid;
use crate::gpu::{CHECK_DEADLINE, GpuSource};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The end of the check of a GPU: what stands against it.
pub type CheckUnderWay = tokio::sync::watch::Receiver<Option<Result<(), String>>>;

/// Asks who is on GPUs that were promised to a task.
#[derive(Debug, Clone)]
pub struct Gate {
    pub source: Arc<dyn GpuSource>,
    pub ignored: IgnoredProcesses,
}

/// The GPUs that were promised to a task, and what is around them on the node.
#[derive(Debug, Clone, Default)]
pub struct Promised {
    pub gpus: Vec<Gpu>,
    /// All of the node's.
    pub all: Vec<Gpu>,
    /// By other tasks: what is on a divided device may be theirs.
    pub held: BTreeSet<GpuUuid>,
    /// Checks of them that are going on.
    pub checks: Vec<(GpuUuid, CheckUnderWay)>,
}

impl Gate {
    /// What to tell the task's user, or why it must not start.
    pub async fn pass(&self, promised: &Promised) -> Result<Vec<String>, String> {
        let Promised { gpus, all, held, checks } = promised;
        if gpus.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(nameless) = gpus.iter().find(|gpu| gpu.uuid.is_placeholder()) {
            return Err(format!("GPU {} is withheld: it has never told the driver what it is", nameless.index));
        }
        for (gpu, check) in checks {
            // One that takes longer has become a fault, or says nothing about this device.
            let mut check = check.clone();
            let _ = tokio::time::timeout(CHECK_DEADLINE, check.wait_for(Option::is_some)).await;
            if let Some(Err(why)) = &*check.borrow() {
                return Err(format!("GPU {gpu} is withheld: {why}"));
            }
        }
        let uuids: Vec<GpuUuid> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let found = bounded("processes", self.source.processes(&uuids)).await;
        let found = found.map_err(|error| format!("it cannot be seen who is on its GPUs: {}", error.message))?;
        if let Some((gpu, why)) = found.failed.first() {
            return Err(format!("GPU {gpu} is withheld: it cannot be seen who is on it: {why}"));
        }
        for gpu in gpus {
            let held = |gpu: &GpuUuid| held.contains(gpu);
            if let Some(who) = withheld_by(gpu, all, &found.processes, &self.ignored, &held) {
                return Err(format!("GPU {} is withheld: {who}", gpu.uuid));
            }
        }
        let blind = |gpu: &GpuUuid| format!("GPU {gpu} cannot say who uses it: it was given without that check");
        Ok(found.unsupported.iter().map(blind).collect())
    }
}
