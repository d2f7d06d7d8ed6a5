//! What a device is and what it does.

use crate::answer::{Answer, Code, on, put, put_text, supported};
use nvml_wrapper_sys::bindings::{
    nvmlClockType_t, nvmlDevice_t, nvmlEccCounterType_t, nvmlEnableState_t, nvmlMemory_t, nvmlMemory_v2_t,
    nvmlMemoryErrorType_t, nvmlPciInfo_t, nvmlPstates_t, nvmlReturn_t, nvmlTemperatureSensors_t, nvmlUtilization_t,
};
use std::ffi::{c_char, c_uint, c_ulonglong};

const MB: u64 = 1024 * 1024;

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetUUID", device, |of| {
        put_text(uuid, length, of.slice.map_or(&of.device.uuid, |slice| &slice.uuid))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetName", device, |of| match of.slice {
        Some(slice) => put_text(name, length, &format!("{} MIG {}", of.device.name, slice.profile)),
        None => put_text(name, length, &of.device.name),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetIndex", device, |of| put(index, c_uint::try_from(of.index).unwrap_or_default()))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetMinorNumber", device, |of| put(minor, of.whole()?.minor))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    on("nvmlDeviceGetPciInfo_v3", device, |of| put(pci, pci_info(&of.whole()?.pci)?))
}

/// From `00000000:1B:00.0`.
pub(crate) fn pci_info(address: &str) -> Result<nvmlPciInfo_t, Code> {
    let wrong = || {
        eprintln!("mock-nvml: '{address}' is no PCI address like 00000000:1B:00.0");
        Code::named("UNKNOWN")
    };
    let mut parts = address.split([':', '.']).map(|part| c_uint::from_str_radix(part, 16));
    let mut next = || parts.next().and_then(Result::ok).ok_or_else(wrong);
    let (domain, bus, device) = (next()?, next()?, next()?);
    let mut info = nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain,
        bus,
        device,
        pciDeviceId: 0x2330_10DE,
        pciSubSystemId: 0,
        busId: [0; 32],
    };
    put_text(info.busIdLegacy.as_mut_ptr(), 16, address.get(4..).unwrap_or_default())?;
    put_text(info.busId.as_mut_ptr(), 32, address)?;
    Ok(info)
}

/// Total and used.
fn memory(of: &crate::answer::Target<'_>) -> Result<(u64, u64), Code> {
    match of.slice {
        Some(slice) => Ok((slice.memory_mb, slice.memory_used_mb)),
        None => Ok((supported(of.device.memory_mb)?, of.device.memory_used_mb.unwrap_or(0))),
    }
}

/// With what the driver keeps for itself.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory_info: *mut nvmlMemory_t) -> nvmlReturn_t {
    on("nvmlDeviceGetMemoryInfo", device, |of| {
        let (total, used) = memory(of)?;
        let used = used + of.device.memory_reserved_mb.unwrap_or(0);
        put(memory_info, nvmlMemory_t { total: total * MB, free: (total - used) * MB, used: used * MB })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory_info: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetMemoryInfo_v2", device, |of| {
        let (total, used) = memory(of)?;
        let reserved = of.device.memory_reserved_mb.unwrap_or(0);
        let version = c_uint::try_from(size_of::<nvmlMemory_v2_t>() | 2 << 24).unwrap_or_default();
        // SAFETY: by NVML's contract the pointer is good for the struct, with its version filled in.
        if memory_info.is_null() || unsafe { (*memory_info).version } != version {
            return Err(Code::named("ARGUMENT_VERSION_MISMATCH"));
        }
        let free = total.saturating_sub(used + reserved);
        let (total, reserved, free, used) = (total * MB, reserved * MB, free * MB, used * MB);
        put(memory_info, nvmlMemory_v2_t { version, total, reserved, free, used })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, rates: *mut nvmlUtilization_t) -> nvmlReturn_t {
    on("nvmlDeviceGetUtilizationRates", device, |of| {
        put(rates, nvmlUtilization_t { gpu: supported(of.whole()?.utilization)?, memory: 0 })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _sensor: nvmlTemperatureSensors_t,
    celsius: *mut c_uint,
) -> nvmlReturn_t {
    on("nvmlDeviceGetTemperature", device, |of| put(celsius, supported(of.whole()?.temperature_c)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, milliwatts: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetPowerUsage", device, |of| put(milliwatts, supported(of.whole()?.power_mw)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, milliwatts: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetEnforcedPowerLimit", device, |of| put(milliwatts, supported(of.whole()?.power_limit_mw)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetClockInfo(
    device: nvmlDevice_t,
    kind: nvmlClockType_t,
    megahertz: *mut c_uint,
) -> nvmlReturn_t {
    on("nvmlDeviceGetClockInfo", device, |of| {
        let whole = of.whole()?;
        // NVML_CLOCK_MEM; the others go with the SMs.
        put(megahertz, supported(if kind == 2 { whole.memory_clock_mhz } else { whole.sm_clock_mhz })?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPerformanceState(device: nvmlDevice_t, state: *mut nvmlPstates_t) -> nvmlReturn_t {
    on("nvmlDeviceGetPerformanceState", device, |of| put(state, supported(of.whole()?.pstate)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetNumFans(device: nvmlDevice_t, count: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetNumFans", device, |of| put(count, of.whole()?.fan_percent.map_or(0, |_| 1)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetFanSpeed_v2(device: nvmlDevice_t, _fan: c_uint, percent: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetFanSpeed_v2", device, |of| put(percent, supported(of.whole()?.fan_percent)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEccMode(
    device: nvmlDevice_t,
    current: *mut nvmlEnableState_t,
    pending: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetEccMode", device, |of| {
        let on = supported(of.whole()?.ecc)?;
        put(current, on.into())?;
        put(pending, of.device.ecc_pending.unwrap_or(on).into())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    kind: nvmlMemoryErrorType_t,
    counter: nvmlEccCounterType_t,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    on("nvmlDeviceGetTotalEccErrors", device, |of| -> Answer {
        let errors = supported(of.whole()?.ecc_errors)?;
        // NVML_MEMORY_ERROR_TYPE_CORRECTED and ..._UNCORRECTED, NVML_VOLATILE_ECC and NVML_AGGREGATE_ECC.
        put(
            count,
            match (kind, counter) {
                (0, 0) => of.device.ecc_corrected,
                (1, 0) => errors,
                (0, 1) => of.device.ecc_aggregate_corrected,
                (1, 1) => of.device.ecc_aggregate,
                _ => return Err(Code::named("INVALID_ARGUMENT")),
            },
        )
    })
}
