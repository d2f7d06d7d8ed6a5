//! The devices that this node had, over restarts of its agent: one that is missing after a restart is LOST and named,
//! as one that vanishes while the agent runs.
//!
//! It is forgotten when it was absent for [`KEEP`], or when the agent is started with other `gpus`.

use crate::domain::gpu::Gpu;
use crate::domain::ids::GpuUuid;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Long enough for somebody to have read of it; a board that was taken out is not named for ever.
pub const KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The value of `meta/gpus`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Remembered {
    /// Where the GPUs came from.
    setting: String,
    gpus: Vec<Known>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    gpu: Gpu,
    #[serde(default)]
    absent_since: Option<Timestamp>,
}

impl Remembered {
    /// For the source that `setting` names: what is remembered of another one is forgotten.
    pub fn of(self, setting: String) -> Self {
        if self.setting == setting { self } else { Self { setting, gpus: Vec::new() } }
    }

    /// Devices that were there when the driver last answered.
    pub fn present(&self) -> Vec<GpuUuid> {
        self.gpus.iter().filter(|known| known.absent_since.is_none()).map(|known| known.gpu.uuid.clone()).collect()
    }

    /// Those that are not among `present`. Slices go when their device is divided anew.
    pub fn missing(&self, present: &[Gpu]) -> Vec<Gpu> {
        let is_there = |uuid: &GpuUuid| present.iter().any(|gpu| gpu.uuid == *uuid);
        let gone = self.gpus.iter().map(|known| &known.gpu).filter(|gpu| !is_there(&gpu.uuid));
        gone.filter(|gpu| !gpu.mig_parent.as_ref().is_some_and(is_there)).cloned().collect()
    }

    /// The same after the driver showed those of `present` of `all`.
    pub fn after(&self, all: &[Gpu], present: &[GpuUuid], now: Timestamp) -> Self {
        let since = |gpu: &Gpu| {
            if present.contains(&gpu.uuid) {
                return None;
            }
            let before = self.gpus.iter().find(|known| known.gpu.uuid == gpu.uuid);
            Some(before.and_then(|known| known.absent_since).unwrap_or(now))
        };
        let named = all.iter().filter(|gpu| !gpu.uuid.is_placeholder());
        let gpus = named.map(|gpu| Known { gpu: gpu.clone(), absent_since: since(gpu) }).collect();
        Self { setting: self.setting.clone(), gpus }
    }

    /// It has been absent for too long.
    pub fn is_over(&self, gpu: &GpuUuid, now: Timestamp) -> bool {
        let known = self.gpus.iter().find(|known| known.gpu.uuid == *gpu);
        known.and_then(|known| known.absent_since).is_some_and(|since| now.since(since) >= KEEP)
    }
}
