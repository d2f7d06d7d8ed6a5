//! GPUs of this machine: the trait, and one file per source.

pub mod cuda;
pub mod events;
pub mod labelled;
pub mod none;
pub mod nvml;
pub mod sim;

/// What devices say of their health; in the domain, where it is judged.
pub use crate::domain::gpu::health as snapshot;

use crate::domain::checked::{DeepCheck, DeviceCheck};
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{Gpu, GpuDriver, GpuSample, Topology};
use crate::domain::ids::GpuUuid;
use async_trait::async_trait;
use snapshot::{DeviceHealth, HealthSnapshot};
use std::time::Duration;

/// How long the check of one device may take, and keep it from its next task.
pub const CHECK_DEADLINE: Duration = Duration::from_secs(5);

/// Why the GPUs cannot be asked right now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("asking the GPUs for {question}: {message}")]
pub struct GpuError {
    pub question: &'static str,
    pub message: String,
}

/// Where a node's GPUs come from. Every call has a deadline inside the implementation.
#[async_trait]
pub trait GpuSource: std::fmt::Debug + Send + Sync + 'static {
    /// `sim`, `nvml`.
    fn name(&self) -> &'static str;

    /// What the operator chose, e.g. `sim:8xH100`: devices of another setting are not missed.
    fn setting(&self) -> String {
        self.name().to_owned()
    }

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError>;

    /// One for each device, also for those that cannot be worked with.
    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError>;

    /// Who is on these GPUs; on all where none is named.
    async fn processes(&self, of: &[GpuUuid]) -> Result<GpuProcesses, GpuError>;

    /// What each device says about its own health, also those that do not answer. Costly: not more often than every
    /// 15 s. Empty where devices say nothing about it.
    async fn health(&self) -> Result<Vec<DeviceHealth>, GpuError> {
        Ok(Vec::new())
    }

    /// Whether devices say anything about their health, and show which of them are there.
    fn tells_health(&self) -> bool {
        false
    }

    /// A quick look at one device, over within [`CHECK_DEADLINE`]. An answer that says that the device did not answer
    /// speaks against the device; an error speaks against nobody.
    async fn check(&self, gpu: &GpuUuid) -> Result<DeviceCheck, GpuError> {
        let answer = Ok(Box::new(HealthSnapshot::default()));
        Ok(DeviceCheck { health: DeviceHealth { gpu: gpu.clone(), index: 0, answer }, node: None })
    }

    /// Writes a pattern to the device's memory and reads it back. The device must be nobody's meanwhile. Takes up to a
    /// minute.
    async fn deep_check(&self, _gpu: &GpuUuid) -> Result<DeepCheck, GpuError> {
        Ok(DeepCheck::NotPossible(format!("devices of '{}' have no memory to look at", self.name())))
    }

    /// Lets go of the driver, as before a reset; every question is refused until [`GpuSource::take_up`].
    async fn let_go(&self) -> Result<(), GpuError> {
        Ok(())
    }

    /// Undoes [`GpuSource::let_go`].
    async fn take_up(&self) -> Result<(), GpuError> {
        Ok(())
    }

    /// The driver as it was at the last question. Never waits.
    fn driver(&self) -> GpuDriver;
}
