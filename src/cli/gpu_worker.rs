//! `wharf gpu-worker`: the process in which the agent lets NVML hang; `wharf gpu-deep-check`: the one in which it lets
//! CUDA do so. Nobody else starts them.

use super::exit_code::OK;
use super::fail::Failure;
use super::output;
use crate::domain::command::Error;
use crate::gpu::cuda;
use crate::gpu::nvml::worker;

pub fn run() -> Result<u8, Failure> {
    worker::run().map_err(|error| Failure::from(Error::refused(format!("gpu-worker: {error}"))))?;
    Ok(OK)
}

/// Of the one GPU that CUDA shows here; says what it found as JSON.
pub fn deep_check() -> Result<u8, Failure> {
    let found = serde_json::to_vec(&cuda::deep_check());
    let found = found.map_err(|error| Failure::from(Error::internal(format!("gpu-deep-check: {error}"))))?;
    output::write_all(&found)
}
