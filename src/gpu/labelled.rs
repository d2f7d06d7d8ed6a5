//! GPUs whose type the operator names: the node's `gpu_type` label goes before what the driver's name says.

use super::snapshot::DeviceHealth;
use super::{GpuError, GpuSource};
use crate::domain::checked::{DeepCheck, DeviceCheck};
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{Gpu, GpuDriver, GpuSample, Topology, type_of_slice};
use crate::domain::ids::GpuUuid;
use async_trait::async_trait;
use std::sync::Arc;

/// Another source with one type for all of its GPUs.
#[derive(Debug)]
pub struct Labelled {
    inner: Arc<dyn GpuSource>,
    gpu_type: String,
}

impl Labelled {
    /// `inner` itself where no type is named.
    pub fn over(inner: Arc<dyn GpuSource>, gpu_type: Option<&String>) -> Arc<dyn GpuSource> {
        match gpu_type {
            Some(gpu_type) => Arc::new(Self { inner, gpu_type: gpu_type.clone() }),
            None => inner,
        }
    }
}

#[async_trait]
impl GpuSource for Labelled {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn setting(&self) -> String {
        self.inner.setting()
    }

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError> {
        let (mut devices, topology) = self.inner.devices().await?;
        for gpu in &mut devices {
            gpu.gpu_type = match &gpu.mig {
                Some(slice) => type_of_slice(&self.gpu_type, &slice.profile),
                None => self.gpu_type.clone(),
            };
        }
        Ok((devices, topology))
    }

    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError> {
        self.inner.samples().await
    }

    async fn processes(&self, of: &[GpuUuid]) -> Result<GpuProcesses, GpuError> {
        self.inner.processes(of).await
    }

    async fn health(&self) -> Result<Vec<DeviceHealth>, GpuError> {
        self.inner.health().await
    }

    fn tells_health(&self) -> bool {
        self.inner.tells_health()
    }

    async fn check(&self, gpu: &GpuUuid) -> Result<DeviceCheck, GpuError> {
        self.inner.check(gpu).await
    }

    async fn deep_check(&self, gpu: &GpuUuid) -> Result<DeepCheck, GpuError> {
        self.inner.deep_check(gpu).await
    }

    async fn let_go(&self) -> Result<(), GpuError> {
        self.inner.let_go().await
    }

    async fn take_up(&self) -> Result<(), GpuError> {
        self.inner.take_up().await
    }

    fn driver(&self) -> GpuDriver {
        self.inner.driver()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::sim::SimGpus;

    #[tokio::test]
    async fn the_label_names_the_type() {
        let sim: Arc<dyn GpuSource> = Arc::new(SimGpus::new(SimGpus::parse("2xA100").unwrap(), "node"));
        let types = |source: Arc<dyn GpuSource>| async move {
            source.devices().await.unwrap().0.into_iter().map(|gpu| gpu.gpu_type).collect::<Vec<_>>()
        };
        assert_eq!(types(Labelled::over(sim.clone(), None)).await, ["A100", "A100"]);
        assert_eq!(types(Labelled::over(sim, Some(&"jd_a100".to_owned()))).await, ["jd_a100", "jd_a100"]);
    }
}
