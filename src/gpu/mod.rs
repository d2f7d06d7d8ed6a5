//! GPUs of this machine: the trait, and one file per source.

pub mod labelled;
pub mod none;
pub mod sim;

use crate::domain::gpu::{Gpu, GpuSample, Topology};
use crate::domain::ids::GpuUuid;
use async_trait::async_trait;

/// A process that uses a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuProcess {
    pub gpu: GpuUuid,
    pub pid: u32,
    pub memory_mb: Option<u64>,
}

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

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError>;

    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError>;

    async fn processes(&self) -> Result<Vec<GpuProcess>, GpuError>;
}
