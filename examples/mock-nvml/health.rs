//! What a device says about its health.

use crate::answer::{Code, on, put, supported};
use crate::state::Device;
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEccSramErrorStatus_v1_t, nvmlEnableState_t, nvmlFieldValue_t, nvmlGpuFabricInfo_v3_t,
    nvmlGpuFabricInfoV_t, nvmlMarginTemperature_v1_t, nvmlReturn_t, nvmlTemperatureThresholds_t, nvmlValue_t,
};
use std::ffi::{c_int, c_uint, c_ulonglong};

/// By number, with the scope where there is one: `230`, `219:3`.
fn field(device: &Device, id: c_uint, scope: c_uint) -> Option<u64> {
    let scoped = device.fields.get(&format!("{id}:{scope}"));
    scoped.or_else(|| device.fields.get(&id.to_string())).copied()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetFieldValues", device, |of| {
        let whole = of.whole()?;
        let count = usize::try_from(count).ok().filter(|count| *count > 0 && !values.is_null());
        let count = count.ok_or_else(|| Code::named("INVALID_ARGUMENT"))?;
        for at in 0..count {
            // SAFETY: by NVML's contract there are `count` values; null was refused.
            let value = unsafe { &mut *values.add(at) };
            match field(whole, value.fieldId, value.scopeId) {
                Some(number) => {
                    // NVML_VALUE_TYPE_UNSIGNED_LONG_LONG.
                    (value.nvmlReturn, value.valueType, value.value) = (0, 3, nvmlValue_t { ullVal: number });
                }
                None => value.nvmlReturn = 3,
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetSramEccErrorStatus(
    device: nvmlDevice_t,
    status: *mut nvmlEccSramErrorStatus_v1_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetSramEccErrorStatus", device, |of| {
        let known = supported(of.whole()?.sram_ecc.as_ref())?;
        // SAFETY: by NVML's contract the pointer is good for the struct, with its version filled in.
        let version = unsafe { versioned(status, |status| status.version) };
        let version = expect(version, size_of::<nvmlEccSramErrorStatus_v1_t>(), 1)?;
        put(
            status,
            nvmlEccSramErrorStatus_v1_t {
                version,
                aggregateUncParity: known.aggregate_parity,
                aggregateUncSecDed: known.aggregate_sec_ded,
                aggregateCor: known.aggregate_corrected,
                volatileUncParity: known.volatile_parity,
                volatileUncSecDed: known.volatile_sec_ded,
                volatileCor: known.volatile_corrected,
                aggregateUncBucketL2: 0,
                aggregateUncBucketSm: 0,
                aggregateUncBucketPcie: 0,
                aggregateUncBucketMcu: 0,
                aggregateUncBucketOther: 0,
                bThresholdExceeded: known.threshold_exceeded.into(),
            },
        )
    })
}

/// The version that the caller has filled in.
///
/// # Safety
/// `value` is null or good for a read.
unsafe fn versioned<T>(value: *const T, version: impl FnOnce(&T) -> c_uint) -> Option<c_uint> {
    // SAFETY: as the caller promises.
    unsafe { value.as_ref() }.map(version)
}

fn expect(version: Option<c_uint>, size: usize, number: usize) -> Result<c_uint, Code> {
    let expected = c_uint::try_from(size | number << 24).unwrap_or_default();
    version.filter(|version| *version == expected).ok_or_else(|| Code::named("ARGUMENT_VERSION_MISMATCH"))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetRemappedRows(
    device: nvmlDevice_t,
    corrected: *mut c_uint,
    uncorrected: *mut c_uint,
    pending: *mut c_uint,
    failed: *mut c_uint,
) -> nvmlReturn_t {
    on("nvmlDeviceGetRemappedRows", device, |of| {
        let rows = supported(of.whole()?.remapped_rows.as_ref())?;
        put(corrected, rows.corrected)?;
        put(uncorrected, rows.uncorrected)?;
        put(pending, rows.pending.into())?;
        put(failed, rows.failed.into())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetRetiredPagesPendingStatus(
    device: nvmlDevice_t,
    pending: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetRetiredPagesPendingStatus", device, |of| {
        put(pending, supported(of.whole()?.retired_pages_pending)?.into())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCurrentClocksEventReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    on("nvmlDeviceGetCurrentClocksEventReasons", device, |of| put(reasons, supported(of.whole()?.clock_events)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperatureThreshold(
    device: nvmlDevice_t,
    kind: nvmlTemperatureThresholds_t,
    celsius: *mut c_uint,
) -> nvmlReturn_t {
    on("nvmlDeviceGetTemperatureThreshold", device, |of| {
        let names = ["shutdown", "slowdown", "memory_max", "gpu_max"];
        let known = names.get(kind as usize).and_then(|name| Some(*of.device.thresholds_c.get(*name)?));
        of.whole()?;
        put(celsius, supported(known)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMarginTemperature(
    device: nvmlDevice_t,
    margin: *mut nvmlMarginTemperature_v1_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetMarginTemperature", device, |of| {
        let known = supported(of.whole()?.margin_c)?;
        // SAFETY: by NVML's contract the pointer is good for the struct, with its version filled in.
        let version = unsafe { versioned(margin, |margin| margin.version) };
        let version = expect(version, size_of::<nvmlMarginTemperature_v1_t>(), 1)?;
        put(margin, nvmlMarginTemperature_v1_t { version, marginTemperature: known })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, number: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetCurrPcieLinkGeneration", device, |of| put(number, supported(of.whole()?.pcie.generation)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, number: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetCurrPcieLinkWidth", device, |of| put(number, supported(of.whole()?.pcie.width)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMaxPcieLinkGeneration(device: nvmlDevice_t, number: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetMaxPcieLinkGeneration", device, |of| put(number, supported(of.whole()?.pcie.max_generation)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, number: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetMaxPcieLinkWidth", device, |of| put(number, supported(of.whole()?.pcie.max_width)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetGpuMaxPcieLinkGeneration(device: nvmlDevice_t, number: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetGpuMaxPcieLinkGeneration", device, |of| {
        put(number, supported(of.whole()?.pcie.device_max_generation)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, count: *mut c_uint) -> nvmlReturn_t {
    on("nvmlDeviceGetPcieReplayCounter", device, |of| put(count, supported(of.whole()?.pcie.replays)?))
}

/// The second version is the beginning of the third; the file says which is the newest that the driver knows.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetGpuFabricInfoV(device: nvmlDevice_t, info: *mut nvmlGpuFabricInfoV_t) -> nvmlReturn_t {
    on("nvmlDeviceGetGpuFabricInfoV", device, |of| {
        let known = supported(of.whole()?.fabric.as_ref())?;
        // SAFETY: by NVML's contract the pointer is good for the struct, with its version filled in.
        let version = unsafe { versioned(info, |info| info.version) };
        let newest = known.newest_version.unwrap_or(3);
        let size = if newest == 2 { 36 } else { size_of::<nvmlGpuFabricInfo_v3_t>() };
        let version = expect(version, size, newest)?;
        let mut cluster = [0; 16];
        for (to, from) in cluster.iter_mut().zip(known.cluster.as_deref().unwrap_or_default().as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(from).unwrap_or_default();
            *to = u8::from_str_radix(digits, 16).map_err(|_| Code::named("UNKNOWN"))?;
        }
        let told = nvmlGpuFabricInfo_v3_t {
            version,
            clusterUuid: cluster,
            status: known.status,
            cliqueId: known.clique,
            state: known.state,
            healthMask: known.health_mask,
            healthSummary: 0,
        };
        put(info, told)
    })
}
