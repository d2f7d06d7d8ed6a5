//! MIG slices: GPUs of their own.

use super::super::wire::Failure;
use super::device::memory;
use super::errors::{Asked, optional};
use super::{Worker, sysfs};
use crate::domain::gpu::{Gpu, MigSlice, type_of_slice};
use crate::domain::ids::GpuUuid;
use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::c_uint;

impl Worker {
    /// The slices of a device with MIG on, by their index, which may have gaps.
    pub(super) fn slice_handles<'a>(
        &'a self,
        parent: &Device<'a>,
        index: u32,
    ) -> Result<Vec<(u32, Device<'a>)>, Failure> {
        let most = parent.mig_device_count().asked(index, "for the number of its MIG slices")?;
        let mut found = Vec::new();
        for slice in 0..most {
            match parent.mig_device_by_index(slice) {
                Ok(device) => found.push((slice, device)),
                Err(NvmlError::NotFound | NvmlError::InvalidArg) => {}
                Err(error) => return Err(error).asked(index, "for a MIG slice"),
            }
        }
        Ok(found)
    }

    pub(super) fn slices(&self, parent: &Device<'_>, gpu: &Gpu) -> Result<Vec<Gpu>, Failure> {
        let handles = self.slice_handles(parent, gpu.index)?;
        handles.into_iter().map(|(slice, device)| self.slice(&device, gpu, slice)).collect()
    }

    fn slice(&self, device: &Device<'_>, parent: &Gpu, slice: u32) -> Result<Gpu, Failure> {
        let index = parent.index;
        let (gpu_instance, compute_instance) = instances(device).asked(index, "for the instances of a MIG slice")?;
        let model = device.name().asked(index, "for the name of a MIG slice")?;
        // `NVIDIA A100-SXM4-80GB MIG 1g.10gb`.
        let profile = model.rsplit_once("MIG ").map_or("", |(_, profile)| profile).trim().to_owned();
        Ok(Gpu {
            uuid: GpuUuid(device.uuid().asked(index, "for the UUID of a MIG slice")?),
            gpu_type: type_of_slice(&parent.gpu_type, &profile),
            model,
            memory_mb: memory(device)
                .asked(index, "for the memory of a MIG slice")?
                .map_or(0, |memory| memory.total_mb),
            mig_parent: Some(parent.uuid.clone()),
            mig_mode: None,
            mig: Some(MigSlice {
                index: slice,
                gpu_instance,
                compute_instance,
                profile,
                gpu_instance_minor: sysfs::cap_minor(&self.root, parent.minor, gpu_instance, None),
                compute_instance_minor: sysfs::cap_minor(
                    &self.root,
                    parent.minor,
                    gpu_instance,
                    Some(compute_instance),
                ),
            }),
            ..parent.clone()
        })
    }

    /// The device has MIG on.
    pub(super) fn is_divided(device: &Device<'_>) -> Result<bool, NvmlError> {
        Ok(optional(device.mig_mode())?.is_some_and(|mode| mode.current == 1))
    }
}

/// The ids of a slice's GPU instance and compute instance.
pub(super) fn instances(device: &Device<'_>) -> Result<(u32, u32), NvmlError> {
    let lib = device.nvml().lib();
    let symbol = |name: &str| NvmlError::FailedToLoadSymbol(name.to_owned());
    let gpu = lib.nvmlDeviceGetGpuInstanceId.as_ref().map_err(|_| symbol("nvmlDeviceGetGpuInstanceId"))?;
    let compute =
        lib.nvmlDeviceGetComputeInstanceId.as_ref().map_err(|_| symbol("nvmlDeviceGetComputeInstanceId"))?;
    Ok((number(device, *gpu)?, number(device, *compute)?))
}

fn number(
    device: &Device<'_>,
    get: unsafe extern "C" fn(nvmlDevice_t, *mut c_uint) -> nvmlReturn_t,
) -> Result<u32, NvmlError> {
    let mut id = 0;
    // SAFETY: the function and the handle are of one library, and `id` lives through the call.
    nvml_try(unsafe { get(device.handle(), &raw mut id) })?;
    Ok(id)
}
