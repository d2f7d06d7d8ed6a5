//! How a call is answered: it hangs, fails or succeeds, as the file says.

use crate::state::{Device, Slice, State, current};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// `nvmlReturn_t` by name.
const CODES: [(&str, nvmlReturn_t); 24] = [
    ("UNINITIALIZED", 1),
    ("INVALID_ARGUMENT", 2),
    ("NOT_SUPPORTED", 3),
    ("NO_PERMISSION", 4),
    ("NOT_FOUND", 6),
    ("INSUFFICIENT_SIZE", 7),
    ("INSUFFICIENT_POWER", 8),
    ("DRIVER_NOT_LOADED", 9),
    ("TIMEOUT", 10),
    ("IRQ_ISSUE", 11),
    ("LIBRARY_NOT_FOUND", 12),
    ("FUNCTION_NOT_FOUND", 13),
    ("CORRUPTED_INFOROM", 14),
    ("GPU_IS_LOST", 15),
    ("RESET_REQUIRED", 16),
    ("OPERATING_SYSTEM", 17),
    ("LIB_RM_VERSION_MISMATCH", 18),
    ("IN_USE", 19),
    ("MEMORY", 20),
    ("NO_DATA", 21),
    ("VGPU_ECC_NOT_SUPPORTED", 22),
    ("INSUFFICIENT_RESOURCES", 23),
    ("ARGUMENT_VERSION_MISMATCH", 25),
    ("UNKNOWN", 999),
];

/// An error by its name in NVML, without `NVML_ERROR_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(nvmlReturn_t);

impl Code {
    pub(crate) fn named(name: &str) -> Self {
        match CODES.iter().find(|(known, _)| *known == name) {
            Some((_, code)) => Self(*code),
            None => {
                eprintln!("mock-nvml: there is no error {name}");
                Self(999)
            }
        }
    }
}

pub(crate) type Answer = Result<(), Code>;

/// What a null in the file means.
pub(crate) fn supported<T>(value: Option<T>) -> Result<T, Code> {
    value.ok_or_else(|| Code::named("NOT_SUPPORTED"))
}

/// Hands a value to the caller.
pub(crate) fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(Code::named("INVALID_ARGUMENT"));
    }
    // SAFETY: by NVML's contract the caller's pointer is good for one value; null was refused.
    unsafe { to.write(value) };
    Ok(())
}

/// Hands a text to the caller, with its NUL.
pub(crate) fn put_text(to: *mut c_char, length: u32, text: &str) -> Answer {
    if to.is_null() {
        return Err(Code::named("INVALID_ARGUMENT"));
    }
    if text.len() >= length as usize {
        return Err(Code::named("INSUFFICIENT_SIZE"));
    }
    // SAFETY: by NVML's contract the caller's buffer has `length` bytes, and the text with its NUL has no more.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Waits without anything to wait for but the file.
pub(crate) fn pause() {
    std::thread::park_timeout(Duration::from_millis(5));
}

/// A call that concerns no device.
pub(crate) fn call(name: &str, answer: impl FnOnce(&State) -> Answer) -> nvmlReturn_t {
    finish(ready(name, |_| None).and_then(|state| answer(&state)))
}

/// What a handle stands for: a device, or a slice of it. Handles are numbers, never addresses.
pub(crate) struct Target<'a> {
    /// In the list as it is now.
    pub(crate) index: usize,
    pub(crate) state: &'a State,
    pub(crate) device: &'a Device,
    pub(crate) slice: Option<&'a Slice>,
}

impl Target<'_> {
    /// The device itself; slices do not know the question.
    pub(crate) fn whole(&self) -> Result<&Device, Code> {
        if self.slice.is_some() { Err(Code::named("NOT_SUPPORTED")) } else { Ok(self.device) }
    }
}

/// A call on a device or a slice. One that has left the list is lost, and none of those behind it.
pub(crate) fn on(name: &str, handle: nvmlDevice_t, answer: impl FnOnce(&Target<'_>) -> Answer) -> nvmlReturn_t {
    let number = handle.addr();
    let (device, slice) = (number / SLICES, (number % SLICES).checked_sub(1));
    let uuid = device.checked_sub(1).and_then(|at| known().get(at).cloned());
    let index = |state: &State| state.devices.iter().position(|device| Some(&device.uuid) == uuid.as_ref());
    finish(ready(name, index).and_then(|state| {
        let wrong = || Code::named("INVALID_ARGUMENT");
        uuid.as_ref().ok_or_else(wrong)?;
        let index = index(&state).ok_or_else(|| Code::named("GPU_IS_LOST"))?;
        let device = &state.devices[index];
        let slice = slice.map(|at| device.slices.get(at).ok_or_else(wrong)).transpose()?;
        answer(&Target { index, state: &state, device, slice })
    }))
}

/// A call that says which device by its place in the list.
pub(crate) fn at(name: &str, index: usize, answer: impl FnOnce(&State) -> Answer) -> nvmlReturn_t {
    finish(ready(name, |_| Some(index)).and_then(|state| answer(&state)))
}

const SLICES: usize = 64;

/// UUIDs of the devices that have handles: a handle goes on to be of its device when others leave the list.
static KNOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<String>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle for the device at `index`, or for one of its slices.
pub(crate) fn handle(state: &State, index: usize, slice: Option<usize>) -> Result<nvmlDevice_t, Code> {
    let device = state.devices.get(index).ok_or_else(|| Code::named("INVALID_ARGUMENT"))?;
    let mut known = known();
    let at = known.iter().position(|uuid| *uuid == device.uuid).unwrap_or_else(|| {
        known.push(device.uuid.clone());
        known.len() - 1
    });
    Ok(std::ptr::without_provenance_mut((at + 1) * SLICES + slice.map_or(0, |at| at + 1)))
}

/// The state, once the call does not hang any more; an error if the file wants one.
fn ready(name: &str, index: impl Fn(&State) -> Option<usize>) -> Result<Arc<State>, Code> {
    loop {
        let state = current().ok_or_else(|| Code::named("UNKNOWN"))?;
        let device = index(&state).and_then(|index| state.devices.get(index));
        let named = |list: &Vec<String>| list.iter().any(|hang| hang == name || hang == "*");
        if named(&state.hangs) || device.is_some_and(|device| named(&device.hangs)) {
            pause();
            continue;
        }
        let errors = device.map(|device| &device.errors).into_iter().chain([&state.errors]);
        let error = errors.into_iter().find_map(|errors| errors.get(name).or_else(|| errors.get("*")));
        return match error {
            Some(error) => Err(Code::named(error)),
            None => Ok(Arc::clone(&state)),
        };
    }
}

fn finish(answer: Answer) -> nvmlReturn_t {
    answer.map_or_else(|Code(code)| code, |()| 0)
}
