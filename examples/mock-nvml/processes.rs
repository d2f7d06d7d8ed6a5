//! Who is on a device.

use crate::answer::{Answer, Code, on, supported};
use crate::state::Process;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlProcessInfo_t, nvmlReturn_t};
use std::ffi::c_uint;

const MB: u64 = 1024 * 1024;
/// The driver's word for a size or an id that it does not know.
const NOT_AVAILABLE: u64 = u64::MAX;

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    list("nvmlDeviceGetComputeRunningProcesses_v3", "compute", device, count, infos)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    list("nvmlDeviceGetGraphicsRunningProcesses_v3", "graphics", device, count, infos)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    list("nvmlDeviceGetMPSComputeRunningProcesses_v3", "mps", device, count, infos)
}

fn list(
    name: &str,
    kind: &str,
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    on(name, device, |of| {
        let all = supported(of.whole()?.processes.as_ref())?;
        let of_kind = |process: &&Process| process.kind.as_deref().unwrap_or("compute") == kind;
        hand_over(&all.iter().filter(of_kind).map(info).collect::<Vec<_>>(), count, infos)
    })
}

fn info(process: &Process) -> nvmlProcessInfo_t {
    nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: process.memory_mb.map_or(NOT_AVAILABLE, |mb| mb * MB),
        gpuInstanceId: process.gpu_instance.unwrap_or(c_uint::MAX),
        computeInstanceId: process.compute_instance.unwrap_or(c_uint::MAX),
    }
}

fn hand_over(found: &[nvmlProcessInfo_t], count: *mut c_uint, infos: *mut nvmlProcessInfo_t) -> Answer {
    if count.is_null() {
        return Err(Code::named("INVALID_ARGUMENT"));
    }
    // SAFETY: by NVML's contract the count can be read and written; null was refused.
    let room = unsafe { std::mem::replace(&mut *count, c_uint::try_from(found.len()).unwrap_or_default()) };
    if found.len() > room as usize || (infos.is_null() && !found.is_empty()) {
        return Err(Code::named("INSUFFICIENT_SIZE"));
    }
    if !found.is_empty() {
        // SAFETY: by NVML's contract there is room for `room` of them, which are no fewer than those found.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), infos, found.len()) };
    }
    Ok(())
}
