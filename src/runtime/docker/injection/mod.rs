//! How GPUs get into a container: by CDI, by the NVIDIA runtime, or by device nodes with the driver's libraries.
//!
//! `auto` takes the first of these that can be:
//! 1. CDI: dockerd can (25, API 1.44), is set to, and a specification on the node names every GPU of the task;
//! 2. the NVIDIA runtime, if dockerd has it: it knows best what its driver needs;
//! 3. device nodes.
//!
//! Whichever it is, the shim opens every promised node and looks for the driver's library before the barrier: a task that
//! asks for GPUs never starts without. A task without GPUs gets none, also where the NVIDIA runtime is dockerd's
//! default and the image says `NVIDIA_VISIBLE_DEVICES=all`.

mod cdi;
mod driver;
mod engine;
mod mig;
mod plan;
#[cfg(test)]
mod tests;

pub use driver::{HostDriver, Library};
pub use engine::{ApiVersion, EngineFacts};
pub use plan::{InjectionError, plan, simulated};

use crate::shim::check::CheckKind;
use bollard::models::DeviceRequest;
use std::path::PathBuf;

/// The setting `gpu_injection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuInjection {
    #[default]
    Auto,
    Cdi,
    NvidiaRuntime,
    DeviceNodes,
}

impl GpuInjection {
    pub const ALL: [Self; 4] = [Self::Auto, Self::Cdi, Self::NvidiaRuntime, Self::DeviceNodes];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cdi => "cdi",
            Self::NvidiaRuntime => "nvidia-runtime",
            Self::DeviceNodes => "device-nodes",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.as_str() == text)
    }
}

/// What a container gets for its GPUs, and what the shim makes sure of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Injection {
    /// Device nodes of the node, at the same paths in the container.
    pub devices: Vec<String>,
    /// What their paths on the node are below; empty is `/`.
    pub root: PathBuf,
    /// Files of the node, read-only: path there, path in the container.
    pub binds: Vec<(PathBuf, String)>,
    pub runtime: Option<String>,
    pub device_requests: Vec<DeviceRequest>,
    /// Goes over whatever image and job say, at creation and at launch.
    pub environment: Vec<(String, String)>,
    /// Only where the image does not say otherwise.
    pub default_environment: Vec<(String, String)>,
    /// For `ShimSpec::checks`.
    pub checks: Vec<(CheckKind, String)>,
    pub notices: Vec<String>,
}
