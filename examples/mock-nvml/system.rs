//! Questions that concern no device.

use crate::answer::{Code, call, handle, put, put_text, supported};
use crate::state::State;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::{c_char, c_int, c_uint};

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    call("nvmlInit_v2", |_| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    call("nvmlInitWithFlags", |_| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    call("nvmlShutdown", |_| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    call("nvmlSystemGetDriverVersion", |state| put_text(version, length, supported(state.driver_version.as_deref())?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    call("nvmlSystemGetNVMLVersion", |state| put_text(version, length, supported(state.nvml_version.as_deref())?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) -> nvmlReturn_t {
    call("nvmlSystemGetCudaDriverVersion", |state| put(version, supported(state.cuda_version)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
    call("nvmlSystemGetCudaDriverVersion_v2", |state| put(version, supported(state.cuda_version)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    call("nvmlDeviceGetCount_v2", |state| put(count, c_uint::try_from(state.devices.len()).unwrap_or(c_uint::MAX)))
}

/// Also fails and hangs as the device does.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    let index = index as usize;
    crate::answer::at("nvmlDeviceGetHandleByIndex_v2", index, |state| put(device, handle(state, index, None)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    call("nvmlDeviceGetHandleByUUID", |state| {
        let wanted = text(uuid)?;
        find(state, device, |known| known.uuid == wanted)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(pci: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    call("nvmlDeviceGetHandleByPciBusId_v2", |state| {
        let wanted = text(pci)?;
        find(state, device, |known| known.pci.eq_ignore_ascii_case(&wanted))
    })
}

fn find(
    state: &State,
    device: *mut nvmlDevice_t,
    wanted: impl Fn(&crate::state::Device) -> bool,
) -> Result<(), Code> {
    let index = state.devices.iter().position(wanted).ok_or_else(|| Code::named("NOT_FOUND"))?;
    put(device, handle(state, index, None)?)
}

fn text(from: *const c_char) -> Result<String, Code> {
    if from.is_null() {
        return Err(Code::named("INVALID_ARGUMENT"));
    }
    // SAFETY: by NVML's contract it is a text that ends with NUL; null was refused.
    Ok(unsafe { std::ffi::CStr::from_ptr(from) }.to_string_lossy().into_owned())
}
