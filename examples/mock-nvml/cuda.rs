//! The few functions of `libcuda.so.1` that test a device's memory, over ordinary memory. `WHARF_MOCK_CUDA` says what is
//! wrong: `stuck` is a bit that cannot be cleared, `sick` a device that copies nothing, `absent` a driver without devices.

use std::ffi::{c_char, c_int, c_uint, c_void};

const SUCCESS: c_int = 0;
const NO_DEVICE: c_int = 100;
const ECC_UNCORRECTABLE: c_int = 214;
/// Three pieces of what is asked for, and a little.
const FREE_BYTES: usize = 220 << 20;

fn wrong(what: &str) -> bool {
    std::env::var("WHARF_MOCK_CUDA").is_ok_and(|wrong| wrong == what)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> c_int {
    if wrong("absent") { NO_DEVICE } else { SUCCESS }
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(status: c_int, name: *mut *const c_char) -> c_int {
    let text = match status {
        NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        ECC_UNCORRECTABLE => c"CUDA_ERROR_ECC_UNCORRECTABLE",
        _ => c"CUDA_ERROR_UNKNOWN",
    };
    // SAFETY: it is what the caller was given, and that large.
    unsafe { *name = text.as_ptr() };
    SUCCESS
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, _ordinal: c_int) -> c_int {
    // SAFETY: it is what the caller was given, and that large.
    unsafe { *device = 0 };
    SUCCESS
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> c_int {
    // SAFETY: it is what the caller was given, and that large.
    unsafe { *context = std::ptr::dangling_mut() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(_context: *mut c_void) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    SUCCESS
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    // SAFETY: it is what the caller was given, and that large.
    unsafe { (*free, *total) = (FREE_BYTES, FREE_BYTES) };
    SUCCESS
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(device: *mut u64, bytes: usize) -> c_int {
    let memory = vec![0_u32; bytes / 4].leak();
    // SAFETY: it is what the caller was given, and that large.
    unsafe { *device = memory.as_mut_ptr() as u64 };
    SUCCESS
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(host: *mut *mut c_void, bytes: usize) -> c_int {
    let memory = vec![0_u32; bytes / 4].leak();
    // SAFETY: it is what the caller was given, and that large.
    unsafe { *host = memory.as_mut_ptr().cast() };
    SUCCESS
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD32_v2(device: u64, value: c_uint, words: usize) -> c_int {
    // SAFETY: it is what the caller was given, and that large.
    let memory = unsafe { std::slice::from_raw_parts_mut(device as *mut u32, words) };
    memory.fill(value);
    if wrong("stuck") {
        memory[words / 2] |= 0x10;
    }
    SUCCESS
}

unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) -> c_int {
    if wrong("sick") {
        return ECC_UNCORRECTABLE;
    }
    // SAFETY: it is what the caller was given, and that large.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
    SUCCESS
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(device: u64, host: *const c_void, bytes: usize) -> c_int {
    // SAFETY: it is what the caller was given, and that large.
    unsafe { copy(device as *mut u8, host.cast(), bytes) }
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(host: *mut c_void, device: u64, bytes: usize) -> c_int {
    // SAFETY: it is what the caller was given, and that large.
    unsafe { copy(host.cast(), device as *const u8, bytes) }
}

/// # Safety
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> c_int {
    // SAFETY: it is what the caller was given, and that large.
    unsafe { copy(to as *mut u8, from as *const u8, bytes) }
}
