//! Raw calls whose answers are readings: what the wrapper has no function for, and the codes that it hides.

use crate::gpu::snapshot::Reading;
use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlFieldValue_t, nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND as FUNCTION_NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN,
    nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t, nvmlValue_t,
};
use std::ffi::{c_int, c_uint};

/// Functions of NVML by their shape: a device, what is asked, and where the answer goes.
type Get<T> = unsafe extern "C" fn(nvmlDevice_t, *mut T) -> nvmlReturn_t;
type GetOf<T> = unsafe extern "C" fn(nvmlDevice_t, c_uint, *mut T) -> nvmlReturn_t;
type GetOfTwo<T> = unsafe extern "C" fn(nvmlDevice_t, c_uint, c_uint, *mut T) -> nvmlReturn_t;

pub(super) fn reading<T>(code: nvmlReturn_t, value: T) -> Reading<T> {
    match code {
        SUCCESS => Reading::Known(value),
        NOT_SUPPORTED | FUNCTION_NOT_FOUND => Reading::NotSupported,
        code => Reading::Failed { code, message: NvmlError::from(code).to_string() },
    }
}

/// Of an answer of the wrapper.
pub(super) fn of_answer<T>(answer: Result<T, NvmlError>) -> Reading<T> {
    match super::errors::optional(answer) {
        Ok(Some(value)) => Reading::Known(value),
        Ok(None) => Reading::NotSupported,
        Err(error) => Reading::Failed { code: code(&error), message: error.to_string() },
    }
}

/// The wrapper forgets it.
fn code(error: &NvmlError) -> nvmlReturn_t {
    let same = |code: &nvmlReturn_t| std::mem::discriminant(&NvmlError::from(*code)) == std::mem::discriminant(error);
    (1..100).find(same).unwrap_or(UNKNOWN)
}

/// The structures of newer functions begin with their size and their version.
pub(super) fn version<T>(number: u32) -> c_uint {
    c_uint::try_from(size_of::<T>()).unwrap_or_default() | number << 24
}

/// Asks by a function of the library; one that an older driver lacks is not supported.
pub(super) fn get<T, E>(device: &Device<'_>, function: &Result<Get<T>, E>, mut value: T) -> Reading<T> {
    let Ok(function) = function else { return Reading::NotSupported };
    // SAFETY: the function and the handle are of one library, and `value` lives through the call.
    let code = unsafe { function(device.handle(), &raw mut value) };
    reading(code, value)
}

pub(super) fn get_of<T: Default, E>(device: &Device<'_>, function: &Result<GetOf<T>, E>, of: c_uint) -> Reading<T> {
    let Ok(function) = function else { return Reading::NotSupported };
    let mut value = T::default();
    // SAFETY: the function and the handle are of one library, and `value` lives through the call.
    let code = unsafe { function(device.handle(), of, &raw mut value) };
    reading(code, value)
}

pub(super) fn get_of_two<T: Default, E>(
    device: &Device<'_>,
    function: &Result<GetOfTwo<T>, E>,
    (first, second): (c_uint, c_uint),
) -> Reading<T> {
    let Ok(function) = function else { return Reading::NotSupported };
    let mut value = T::default();
    // SAFETY: the function and the handle are of one library, and `value` lives through the call.
    let code = unsafe { function(device.handle(), first, second, &raw mut value) };
    reading(code, value)
}

/// Several fields in one call, each with its scope (for links their number), in the order of the question.
pub(super) fn fields(device: &Device<'_>, wanted: &[(u32, u32)]) -> Vec<Reading<u64>> {
    let all = |reading: Reading<u64>| vec![reading; wanted.len()];
    let Ok(function) = device.nvml().lib().nvmlDeviceGetFieldValues.as_ref() else {
        return all(Reading::NotSupported);
    };
    let question = |(id, scope): &(u32, u32)| nvmlFieldValue_t {
        fieldId: *id,
        scopeId: *scope,
        timestamp: 0,
        latencyUsec: 0,
        valueType: 0,
        nvmlReturn: NOT_SUPPORTED,
        value: nvmlValue_t { ullVal: 0 },
    };
    let mut values: Vec<nvmlFieldValue_t> = wanted.iter().map(question).collect();
    let count = c_int::try_from(values.len()).unwrap_or_default();
    // SAFETY: the function and the handle are of one library, and there are `count` values.
    let code = unsafe { function(device.handle(), count, values.as_mut_ptr()) };
    match code {
        SUCCESS => values.iter().map(field).collect(),
        code => all(reading(code, 0)),
    }
}

fn field(value: &nvmlFieldValue_t) -> Reading<u64> {
    match value.nvmlReturn {
        SUCCESS => Reading::Known(number(value)),
        // Of a field that is newer than the driver.
        INVALID_ARGUMENT => Reading::NotSupported,
        code => reading(code, 0),
    }
}

/// Counts and flags; what is negative or a fraction is none of those that are asked for.
fn number(value: &nvmlFieldValue_t) -> u64 {
    // SAFETY: every member is a plain number, and the union is initialised whole before the call.
    unsafe {
        match value.valueType {
            1 => value.value.uiVal.into(),
            5 => u64::try_from(value.value.siVal).unwrap_or_default(),
            4 => u64::try_from(value.value.sllVal).unwrap_or_default(),
            6 => value.value.usVal.into(),
            _ => value.value.ullVal,
        }
    }
}
