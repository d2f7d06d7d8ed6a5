//! Events: what is added to the file's list after a set was made is told to it once.

use crate::answer::{Code, call, handle, on, pause, put};
use crate::state::current;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlReturn_t};
use std::collections::BTreeMap;
use std::ffi::{c_uint, c_ulonglong};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a board of servers tells: errors of memory, performance states, Xids, clocks.
const SUPPORTED: c_ulonglong = 0x1F;

#[derive(Debug, Default)]
struct Set {
    /// Types by the device's handle.
    registered: BTreeMap<usize, c_ulonglong>,
    /// How many of the file's events are no news.
    told: usize,
}

#[derive(Debug)]
struct Sets {
    next: usize,
    open: BTreeMap<usize, Set>,
}

static SETS: Mutex<Sets> = Mutex::new(Sets { next: 1, open: BTreeMap::new() });

fn with_set<T>(set: nvmlEventSet_t, change: impl FnOnce(&mut Set) -> T) -> Result<T, Code> {
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    sets.open.get_mut(&set.addr()).map(change).ok_or_else(|| Code::named("INVALID_ARGUMENT"))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    call("nvmlEventSetCreate", |state| {
        let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = sets.next;
        sets.next += 1;
        sets.open.insert(number, Set { told: state.events.len(), ..Set::default() });
        put(set, std::ptr::without_provenance_mut(number))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    call("nvmlEventSetFree", |_| {
        let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
        sets.open.remove(&set.addr()).map(|_| ()).ok_or_else(|| Code::named("INVALID_ARGUMENT"))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: *mut c_ulonglong) -> nvmlReturn_t {
    on("nvmlDeviceGetSupportedEventTypes", device, |of| put(types, of.whole()?.event_types.unwrap_or(SUPPORTED)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    types: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    on("nvmlDeviceRegisterEvents", device, |of| {
        let device = handle(of.state, of.index, None)?.addr();
        with_set(set, |set| *set.registered.entry(device).or_default() |= types)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let end = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        let mut found = None;
        let mut look = || {
            found = next(set)?;
            found.map_or(Ok(()), |event| put(data, event))
        };
        // Fails and hangs as the first of its devices does.
        let first = with_set(set, |set| set.registered.keys().next().copied()).ok().flatten();
        let code = match first {
            Some(device) => on("nvmlEventSetWait_v2", std::ptr::without_provenance_mut(device), |_| look()),
            None => call("nvmlEventSetWait_v2", |_| look()),
        };
        if code != 0 || found.is_some() {
            return code;
        }
        if Instant::now() >= end {
            return call("nvmlEventSetWait_v2", |_| Err(Code::named("TIMEOUT")));
        }
        pause();
    }
}

fn next(set: nvmlEventSet_t) -> Result<Option<nvmlEventData_t>, Code> {
    let state = current().ok_or_else(|| Code::named("UNKNOWN"))?;
    with_set(set, |set| {
        while let Some(event) = state.events.get(set.told) {
            set.told += 1;
            let Ok(device) = handle(&state, event.device, None) else { continue };
            if set.registered.get(&device.addr()).is_some_and(|types| types & event.kind != 0) {
                return Some(nvmlEventData_t {
                    device,
                    eventType: event.kind,
                    eventData: event.data,
                    gpuInstanceId: event.gpu_instance.unwrap_or(c_uint::MAX),
                    computeInstanceId: event.compute_instance.unwrap_or(c_uint::MAX),
                });
            }
        }
        None
    })
}
