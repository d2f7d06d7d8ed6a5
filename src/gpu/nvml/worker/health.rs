//! What a device says about its health.

use super::super::wire::Failure;
use super::Worker;
use super::device::memory;
use super::errors::{Asked, is_lost};
use super::links::link_end;
use super::readings::{fields, get, get_of, get_of_two, of_answer, reading, version};
use crate::domain::ids::GpuUuid;
use crate::gpu::snapshot::{
    ClockEvents, EccErrors, EccMode, Fabric, FabricState, HealthSnapshot, NvLink, PcieLink, ProcessMemory, Reading,
    RecoveryAction, RemappedRows, RetiredPages, SramEcc, Temperatures,
};
use nvml_wrapper::Device;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::{
    NVML_NVLINK_MAX_LINKS, field_id, nvmlEccSramErrorStatus_v1_t, nvmlGpuFabricInfo_v2_t, nvmlGpuFabricInfo_v3_t,
    nvmlMarginTemperature_v1_t, nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
};
use std::collections::BTreeMap;

/// `NVML_MEMORY_ERROR_TYPE_...` and `NVML_..._ECC`.
const CORRECTED: u32 = 0;
const UNCORRECTED: u32 = 1;
const VOLATILE: u32 = 0;
const AGGREGATE: u32 = 1;
const MB: u64 = 1024 * 1024;

impl Worker {
    pub(super) fn health(&self, index: u32) -> Result<HealthSnapshot, Failure> {
        let device = self.handle(index)?;
        let gpu = GpuUuid(device.uuid().asked(index, "for its UUID")?);
        let lib = device.nvml().lib();
        let wanted = [
            field_id::NVML_FI_DEV_RETIRED_SBE,
            field_id::NVML_FI_DEV_RETIRED_DBE,
            field_id::NVML_FI_DEV_MEMORY_TEMP,
            field_id::NVML_FI_DEV_RESET_STATUS,
            field_id::NVML_FI_DEV_DRAIN_AND_RESET_STATUS,
            field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
        ];
        let mut found = fields(&device, &wanted.map(|field| (field, 0))).into_iter();
        let mut next = || found.next().unwrap_or_default();
        let (single_bit, double_bit, memory_c) = (next(), next(), next());
        let (needs_reset, needs_drain, recovery_action) = (next(), next(), next());
        Ok(HealthSnapshot {
            gpu,
            ecc_mode: ecc_mode(&device),
            ecc: ecc_errors(&device),
            sram: sram(&device),
            remapped_rows: remapped_rows(&device),
            retired_pages: RetiredPages {
                single_bit,
                double_bit,
                is_pending: get(&device, &lib.nvmlDeviceGetRetiredPagesPendingStatus, 0).map(|pending| pending != 0),
            },
            recovery_action: recovery_action.map(RecoveryAction::of_number),
            needs_reset: needs_reset.map(|status| status != 0),
            needs_drain: needs_drain.map(|status| status != 0),
            clock_events: clock_events(&device),
            temperatures: temperatures(&device, memory_c),
            nvlinks: nvlinks(&device),
            pcie: pcie(&device),
            fabric: fabric(&device),
            // Unified with the host's: there is nothing that is the device's.
            memory_used_mb: of_answer(memory(&device).and_then(|memory| memory.ok_or(NvmlError::NotSupported)))
                .map(|memory| memory.used_mb),
            processes: of_answer(processes(&device)),
        })
    }
}

fn ecc_mode(device: &Device<'_>) -> Reading<EccMode> {
    let Ok(get) = device.nvml().lib().nvmlDeviceGetEccMode.as_ref() else { return Reading::NotSupported };
    let (mut current, mut pending) = (0, 0);
    // SAFETY: the function and the handle are of one library, and both values live through the call.
    let code = unsafe { get(device.handle(), &raw mut current, &raw mut pending) };
    reading(code, EccMode { is_on: current != 0, will_be_on: pending != 0 })
}

fn ecc_errors(device: &Device<'_>) -> EccErrors {
    let count = |kind, counter| get_of_two(device, &device.nvml().lib().nvmlDeviceGetTotalEccErrors, (kind, counter));
    EccErrors {
        volatile_corrected: count(CORRECTED, VOLATILE),
        volatile_uncorrected: count(UNCORRECTED, VOLATILE),
        aggregate_corrected: count(CORRECTED, AGGREGATE),
        aggregate_uncorrected: count(UNCORRECTED, AGGREGATE),
    }
}

fn sram(device: &Device<'_>) -> Reading<SramEcc> {
    // SAFETY: all of it are plain numbers.
    let mut status: nvmlEccSramErrorStatus_v1_t = unsafe { std::mem::zeroed() };
    status.version = version::<nvmlEccSramErrorStatus_v1_t>(1);
    get(device, &device.nvml().lib().nvmlDeviceGetSramEccErrorStatus, status).map(|status| SramEcc {
        volatile_corrected: status.volatileCor,
        volatile_uncorrected_parity: status.volatileUncParity,
        volatile_uncorrected_sec_ded: status.volatileUncSecDed,
        aggregate_corrected: status.aggregateCor,
        aggregate_uncorrected_parity: status.aggregateUncParity,
        aggregate_uncorrected_sec_ded: status.aggregateUncSecDed,
        threshold_exceeded: status.bThresholdExceeded != 0,
    })
}

fn remapped_rows(device: &Device<'_>) -> Reading<RemappedRows> {
    let Ok(get) = device.nvml().lib().nvmlDeviceGetRemappedRows.as_ref() else { return Reading::NotSupported };
    let (mut corrected, mut uncorrected, mut pending, mut failed) = (0, 0, 0, 0);
    // SAFETY: the function and the handle are of one library, and all four values live through the call.
    let code =
        unsafe { get(device.handle(), &raw mut corrected, &raw mut uncorrected, &raw mut pending, &raw mut failed) };
    let (is_pending, has_failed) = (pending != 0, failed != 0);
    reading(code, RemappedRows { corrected, uncorrected, is_pending, has_failed })
}

/// The function has a new name in newer drivers.
fn clock_events(device: &Device<'_>) -> Reading<ClockEvents> {
    let lib = device.nvml().lib();
    let events = match &lib.nvmlDeviceGetCurrentClocksEventReasons {
        Ok(_) => get(device, &lib.nvmlDeviceGetCurrentClocksEventReasons, 0),
        Err(_) => get(device, &lib.nvmlDeviceGetCurrentClocksThrottleReasons, 0),
    };
    events.map(ClockEvents)
}

fn temperatures(device: &Device<'_>, memory_c: Reading<u64>) -> Temperatures {
    let lib = device.nvml().lib();
    // `NVML_TEMPERATURE_THRESHOLD_...`.
    let threshold = |number| get_of(device, &lib.nvmlDeviceGetTemperatureThreshold, number);
    let margin =
        nvmlMarginTemperature_v1_t { version: version::<nvmlMarginTemperature_v1_t>(1), marginTemperature: 0 };
    Temperatures {
        gpu_c: get_of(device, &lib.nvmlDeviceGetTemperature, 0),
        memory_c,
        margin_c: get(device, &lib.nvmlDeviceGetMarginTemperature, margin).map(|margin| margin.marginTemperature),
        shutdown_at_c: threshold(0),
        slowdown_at_c: threshold(1),
        memory_max_c: threshold(2),
        gpu_max_c: threshold(3),
    }
}

/// Another way to the counters of older boards, then those of newer ones.
const LINK_FIELDS: [u32; 8] = [
    field_id::NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY,
    field_id::NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY,
    field_id::NVML_FI_DEV_NVLINK_ERROR_DL_CRC,
    field_id::NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS,
    field_id::NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS,
    field_id::NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS,
    field_id::NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS,
    field_id::NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS,
];

fn nvlinks(device: &Device<'_>) -> Reading<Vec<NvLink>> {
    let lib = device.nvml().lib();
    let mut links = Vec::new();
    for link in 0..NVML_NVLINK_MAX_LINKS {
        let is_active = get_of(device, &lib.nvmlDeviceGetNvLinkState, link).map(|state| state != 0);
        match is_active {
            Reading::NotSupported if link == 0 => return Reading::NotSupported,
            // There is no such link.
            Reading::NotSupported => continue,
            Reading::Failed { code: INVALID_ARGUMENT, .. } => break,
            _ => {}
        }
        // `NVML_NVLINK_ERROR_...`.
        let count = |counter| get_of_two(device, &lib.nvmlDeviceGetNvLinkErrorCounter, (link, counter));
        links.push(NvLink {
            link,
            far_end: if is_active == Reading::Known(true) { link_end(device, link) } else { None },
            is_active,
            replays: count(0),
            recoveries: count(1),
            crc_flit_errors: count(2),
            crc_data_errors: count(3),
            ecc_data_errors: count(4),
            ..NvLink::default()
        });
    }
    let wanted: Vec<(u32, u32)> = links.iter().flat_map(|of| LINK_FIELDS.map(|field| (field, of.link))).collect();
    let mut found = fields(device, &wanted).into_iter();
    for link in &mut links {
        let mut next = || found.next().unwrap_or_default();
        for counter in [&mut link.replays, &mut link.recoveries, &mut link.crc_flit_errors] {
            *counter = std::mem::take(counter).or(next());
        }
        link.receive_errors = next();
        link.recoveries_done = next();
        link.recoveries_failed = next();
        link.effective_errors = next();
        link.symbol_errors = next();
    }
    Reading::Known(links)
}

fn pcie(device: &Device<'_>) -> PcieLink {
    let lib = device.nvml().lib();
    PcieLink {
        generation: get(device, &lib.nvmlDeviceGetCurrPcieLinkGeneration, 0),
        width: get(device, &lib.nvmlDeviceGetCurrPcieLinkWidth, 0),
        max_generation: get(device, &lib.nvmlDeviceGetMaxPcieLinkGeneration, 0),
        max_width: get(device, &lib.nvmlDeviceGetMaxPcieLinkWidth, 0),
        device_max_generation: get(device, &lib.nvmlDeviceGetGpuMaxPcieLinkGeneration, 0),
        replays: get(device, &lib.nvmlDeviceGetPcieReplayCounter, 0).map(u64::from),
    }
}

/// Older drivers know the second version, which is the beginning of the third.
fn fabric(device: &Device<'_>) -> Reading<Fabric> {
    let ask = |version| {
        let info = nvmlGpuFabricInfo_v3_t {
            version,
            clusterUuid: [0; 16],
            status: 0,
            cliqueId: 0,
            state: 0,
            healthMask: 0,
            healthSummary: 0,
        };
        get(device, &device.nvml().lib().nvmlDeviceGetGpuFabricInfoV, info)
    };
    let info = match ask(version::<nvmlGpuFabricInfo_v3_t>(3)) {
        Reading::Failed { code: VERSION_MISMATCH, .. } => ask(version::<nvmlGpuFabricInfo_v2_t>(2)),
        info => info,
    };
    // `NVML_GPU_FABRIC_STATE_NOT_SUPPORTED`.
    if info.known().is_some_and(|info| info.state == 0) {
        return Reading::NotSupported;
    }
    info.map(|info| Fabric {
        state: match info.state {
            1 => FabricState::NotStarted,
            2 => FabricState::InProgress,
            3 => FabricState::Completed,
            other => FabricState::Other(other),
        },
        status: info.status,
        cluster: uuid::Uuid::from_bytes(info.clusterUuid),
        clique: info.cliqueId,
        health_mask: info.healthMask,
    })
}

/// The larger of what the lists say of a process counts: they overlap.
fn processes(device: &Device<'_>) -> Result<ProcessMemory, NvmlError> {
    let mut memory: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    let compute = device.running_compute_processes()?;
    let others = [device.running_graphics_processes(), device.mps_running_compute_processes()];
    // Boards without a display know no graphics; a device that is lost has said so above or does now.
    let others = others.into_iter().map(|list| match list {
        Err(error) if is_lost(&error) => Err(error),
        list => Ok(list.unwrap_or_default()),
    });
    let others = others.collect::<Result<Vec<_>, _>>()?;
    for process in compute.into_iter().chain(others.into_iter().flatten()) {
        let used = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let held = memory.entry(process.pid).or_default();
        *held = (*held).max(used);
    }
    let bytes: u64 = memory.values().flatten().sum();
    let unknown = memory.values().filter(|held| held.is_none()).count();
    Ok(ProcessMemory {
        processes: u32::try_from(memory.len()).unwrap_or(u32::MAX),
        memory_mb: bytes / MB,
        unknown: u32::try_from(unknown).unwrap_or(u32::MAX),
    })
}
