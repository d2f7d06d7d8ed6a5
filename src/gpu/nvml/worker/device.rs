//! What a device is.

use super::super::wire::{Device, Failure};
use super::errors::{Asked, optional};
use super::{Worker, sysfs};
use crate::domain::gpu::{Gpu, type_of_model};
use crate::domain::ids::GpuUuid;
use nvml_wrapper::error::NvmlError;

/// `NVML_DEVICE_MIG_ENABLE`.
const MIG_ENABLED: u32 = 1;
const MB: u64 = 1024 * 1024;

impl Worker {
    pub(super) fn device(&self, index: u32) -> Result<Device, Failure> {
        let device = self.handle(index)?;
        let model = device.name().asked(index, "for its name")?;
        let pci = device.pci_info().asked(index, "for its PCI address")?.bus_id;
        let ecc = optional(device.is_ecc_enabled()).asked(index, "for its ECC mode")?;
        let mig_mode = optional(device.mig_mode()).asked(index, "for its MIG mode")?;
        let gpu = Gpu {
            uuid: GpuUuid(device.uuid().asked(index, "for its UUID")?),
            index,
            minor: device.minor_number().asked(index, "for its minor number")?,
            gpu_type: type_of_model(&model),
            model,
            memory_mb: memory(&device).asked(index, "for its memory")?.map_or(0, |memory| memory.total_mb),
            numa_node: sysfs::numa_node(&self.root, &pci),
            pci,
            ecc: ecc.map(|ecc| ecc.currently_enabled),
            mig_mode: mig_mode.as_ref().map(|mode| mode.current == MIG_ENABLED),
            ..Gpu::default()
        };
        let slices = if gpu.mig_mode == Some(true) { self.slices(&device, &gpu)? } else { Vec::new() };
        Ok(Device { gpu, slices })
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) total_mb: u64,
    pub(super) used_mb: u64,
}

/// The newer question tells what is used without what the driver keeps for itself; older drivers know only the other
/// one. `None`: unified with the host's.
pub(super) fn memory(device: &nvml_wrapper::Device<'_>) -> Result<Option<Memory>, NvmlError> {
    if let Some(info) = optional(device.memory_info())? {
        return Ok(Some(Memory { total_mb: info.total / MB, used_mb: info.used / MB }));
    }
    let Ok(get) = device.nvml().lib().nvmlDeviceGetMemoryInfo.as_ref() else { return Ok(None) };
    let mut info = nvml_wrapper_sys::bindings::nvmlMemory_t { total: 0, free: 0, used: 0 };
    // SAFETY: the handle is of this library, and `info` lives through the call.
    let code = unsafe { get(device.handle(), &raw mut info) };
    let answer = nvml_wrapper::error::nvml_try(code).map(|()| info);
    Ok(optional(answer)?.map(|info| Memory { total_mb: info.total / MB, used_mb: info.used / MB }))
}
