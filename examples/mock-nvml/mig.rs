//! MIG: slices have handles of their own.

use crate::answer::{Code, handle, on, put, supported};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::c_uint;

/// As on an A100 or H100.
const MOST_SLICES: c_uint = 7;

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    on("nvmlDeviceGetMigMode", device, |of| {
        let on = c_uint::from(supported(of.whole()?.mig_mode)?);
        put(current, on)?;
        put(pending, on)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetMaxMigDeviceCount", device, |of| {
        supported(of.whole()?.mig_mode)?;
        put(count, MOST_SLICES)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    slice: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetMigDeviceHandleByIndex", device, |of| {
        let at = index as usize;
        of.whole()?.slices.get(at).ok_or_else(|| Code::named("NOT_FOUND"))?;
        put(slice, handle(of.state, of.index, Some(at))?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    slice: nvmlDevice_t,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", slice, |of| put(device, handle(of.state, of.index, None)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is_slice: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceIsMigDeviceHandle", device, |of| put(is_slice, c_uint::from(of.slice.is_some())))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetGpuInstanceId", device, |of| put(id, supported(of.slice)?.gpu_instance))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetComputeInstanceId", device, |of| put(id, supported(of.slice)?.compute_instance))
}
