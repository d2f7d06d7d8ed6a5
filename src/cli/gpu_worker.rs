//! `wharf gpu-worker`: the process in which the agent lets NVML hang. Nobody else starts it.

use super::exit_code::OK;
use super::fail::Failure;
use crate::domain::command::Error;
use crate::gpu::nvml::worker;

pub fn run() -> Result<u8, Failure> {
    worker::run().map_err(|error| Failure::from(Error::refused(format!("gpu-worker: {error}"))))?;
    Ok(OK)
}
