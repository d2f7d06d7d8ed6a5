//! A machine without GPUs.

use super::{GpuError, GpuSource};
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{Gpu, GpuDriver, GpuSample, Topology};
use crate::domain::ids::GpuUuid;
use async_trait::async_trait;

/// No GPUs, now and for ever.
#[derive(Debug, Clone, Copy)]
pub struct NoGpus;

#[async_trait]
impl GpuSource for NoGpus {
    fn name(&self) -> &'static str {
        "none"
    }

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError> {
        Ok((Vec::new(), Topology::default()))
    }

    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError> {
        Ok(Vec::new())
    }

    async fn processes(&self, _: &[GpuUuid]) -> Result<GpuProcesses, GpuError> {
        Ok(GpuProcesses::default())
    }

    fn driver(&self) -> GpuDriver {
        GpuDriver::default()
    }
}
