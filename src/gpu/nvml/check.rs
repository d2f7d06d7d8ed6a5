//! Checks of one device, from the agent's side.

use crate::domain::checked::{DeepCheck, DeviceCheck};
use crate::domain::ids::GpuUuid;
use crate::gpu::snapshot::{DeviceHealth, NoAnswer, NoSnapshot};
use crate::gpu::{CHECK_DEADLINE, GpuError};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Memory of some dozen gigabytes is written and read in seconds.
const DEEP_DEADLINE: Duration = Duration::from_secs(60);
/// What the process may say.
const MAX_ANSWER: usize = 64 * 1024;

/// No answer in time. A device whose turn had not come did nothing wrong: somebody else kept the driver busy.
pub(super) fn late(gpu: &GpuUuid, begun: bool) -> Result<DeviceCheck, GpuError> {
    let sentence = format!("no answer within {} s", CHECK_DEADLINE.as_secs());
    if !begun {
        let message = format!("{sentence}: others were asked before it");
        return Err(GpuError { question: "a check", message });
    }
    let answer = Err(NoSnapshot { why: NoAnswer::Hung, sentence });
    Ok(DeviceCheck { health: DeviceHealth { gpu: gpu.clone(), index: 0, answer }, node: None })
}

/// Runs `wharf gpu-deep-check`, which loads CUDA: never in the agent, whose process must outlive whatever that does.
pub(super) async fn deep(program: &Path, gpu: &GpuUuid) -> Result<DeepCheck, GpuError> {
    let failed = |message: String| GpuError { question: "a deep check", message };
    let mut command = Command::new(program);
    command.arg0("wharf").args(["gpu-deep-check", &gpu.0]);
    command.env("CUDA_VISIBLE_DEVICES", &gpu.0).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).process_group(0);
    let child = command.spawn().map_err(|error| failed(format!("starting {}: {error}", program.display())))?;
    let Ok(ended) = tokio::time::timeout(DEEP_DEADLINE, child.wait_with_output()).await else {
        return Ok(DeepCheck::Broken(format!("no answer within {} s", DEEP_DEADLINE.as_secs())));
    };
    let output = ended.map_err(|error| failed(format!("its answer: {error}")))?;
    if output.stdout.len() > MAX_ANSWER {
        return Err(failed(format!("an answer of {} bytes", output.stdout.len())));
    }
    serde_json::from_slice(&output.stdout).map_err(|_| failed(format!("the process ended with {}", output.status)))
}
