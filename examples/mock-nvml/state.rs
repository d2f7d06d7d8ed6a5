//! The file, and reading it whenever it has changed.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) driver_version: Option<String>,
    pub(crate) nvml_version: Option<String>,
    /// 12020 is 12.2.
    pub(crate) cuda_version: Option<i32>,
    pub(crate) devices: Vec<Device>,
    /// By function, or `*` for all: the name of an error without `NVML_ERROR_`.
    pub(crate) errors: BTreeMap<String, String>,
    /// Functions that do not return as long as they are named here; `*` for all.
    pub(crate) hangs: Vec<String>,
    /// Told in this order to whoever waits for them; what is here when an event set is made is not news.
    pub(crate) events: Vec<Event>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) minor: u32,
    /// `00000000:1B:00.0`.
    pub(crate) pci: String,
    pub(crate) memory_mb: Option<u64>,
    pub(crate) memory_used_mb: Option<u64>,
    /// What the driver keeps for itself.
    pub(crate) memory_reserved_mb: Option<u64>,
    pub(crate) utilization: Option<u32>,
    pub(crate) temperature_c: Option<u32>,
    pub(crate) power_mw: Option<u32>,
    pub(crate) power_limit_mw: Option<u32>,
    pub(crate) sm_clock_mhz: Option<u32>,
    pub(crate) memory_clock_mhz: Option<u32>,
    pub(crate) pstate: Option<u32>,
    pub(crate) fan_percent: Option<u32>,
    pub(crate) ecc: Option<bool>,
    /// Not corrected, since the driver was loaded.
    pub(crate) ecc_errors: Option<u64>,
    pub(crate) mig_mode: Option<bool>,
    pub(crate) slices: Vec<Slice>,
    pub(crate) nvlinks: Vec<NvLink>,
    /// Over PCIe to each device, by index: INTERNAL SINGLE MULTIPLE HOSTBRIDGE NODE SYSTEM.
    pub(crate) ancestors: Vec<Option<String>>,
    pub(crate) processes: Option<Vec<Process>>,
    /// Bits of NVML's event types; what a board of servers tells if missing.
    pub(crate) event_types: Option<u64>,
    /// What ECC is after the next reset; as now if missing.
    pub(crate) ecc_pending: Option<bool>,
    /// Beside `ecc_errors`; 0 if missing.
    pub(crate) ecc_corrected: u64,
    pub(crate) ecc_aggregate: u64,
    pub(crate) ecc_aggregate_corrected: u64,
    pub(crate) sram_ecc: Option<SramEcc>,
    pub(crate) remapped_rows: Option<RemappedRows>,
    pub(crate) retired_pages_pending: Option<bool>,
    /// Field values by number, with the scope where there is one: `230`, `219:3`.
    pub(crate) fields: BTreeMap<String, u64>,
    /// Bits.
    pub(crate) clock_events: Option<u64>,
    /// By name: shutdown slowdown memory_max gpu_max.
    pub(crate) thresholds_c: BTreeMap<String, u32>,
    pub(crate) margin_c: Option<i32>,
    pub(crate) pcie: Pcie,
    pub(crate) fabric: Option<Fabric>,
    pub(crate) errors: BTreeMap<String, String>,
    pub(crate) hangs: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slice {
    pub(crate) uuid: String,
    /// `1g.10gb`.
    pub(crate) profile: String,
    pub(crate) gpu_instance: u32,
    pub(crate) compute_instance: u32,
    pub(crate) memory_mb: u64,
    #[serde(default)]
    pub(crate) memory_used_mb: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NvLink {
    /// `gpu`, `switch` or `cpu`.
    pub(crate) to: String,
    pub(crate) pci: String,
    #[serde(default)]
    pub(crate) down: bool,
    /// By name: replay recovery crc_flit crc_data ecc_data; 0 if missing.
    #[serde(default)]
    pub(crate) errors: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SramEcc {
    pub(crate) volatile_corrected: u64,
    pub(crate) volatile_parity: u64,
    pub(crate) volatile_sec_ded: u64,
    pub(crate) aggregate_corrected: u64,
    pub(crate) aggregate_parity: u64,
    pub(crate) aggregate_sec_ded: u64,
    pub(crate) threshold_exceeded: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RemappedRows {
    pub(crate) corrected: u32,
    pub(crate) uncorrected: u32,
    pub(crate) pending: bool,
    pub(crate) failed: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pcie {
    pub(crate) generation: Option<u32>,
    pub(crate) width: Option<u32>,
    pub(crate) max_generation: Option<u32>,
    pub(crate) max_width: Option<u32>,
    pub(crate) device_max_generation: Option<u32>,
    pub(crate) replays: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Fabric {
    /// 0 is not supported, 3 completed.
    pub(crate) state: u8,
    pub(crate) status: u32,
    /// 32 hexadecimal digits.
    pub(crate) cluster: Option<String>,
    pub(crate) clique: u32,
    pub(crate) health_mask: u32,
    /// Of the question; 3 if missing.
    pub(crate) newest_version: Option<usize>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    #[serde(default)]
    pub(crate) memory_mb: Option<u64>,
    /// `compute` (also if missing), `graphics` or `mps`.
    #[serde(default)]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) gpu_instance: Option<u32>,
    #[serde(default)]
    pub(crate) compute_instance: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    /// The index of the device.
    pub(crate) device: usize,
    /// One bit of NVML's event types; 8 is an Xid.
    #[serde(rename = "type")]
    pub(crate) kind: u64,
    /// The Xid.
    pub(crate) data: u64,
    #[serde(default)]
    pub(crate) gpu_instance: Option<u32>,
    #[serde(default)]
    pub(crate) compute_instance: Option<u32>,
}

/// What tells one content of the file from another: its inode, length and time.
type Version = (u64, u64, i64, i64);

struct Cached {
    version: Version,
    state: Option<Arc<State>>,
}

static CACHE: Mutex<Option<Cached>> = Mutex::new(None);

/// The file as it is now; `None`, and a line on stderr, if it cannot be understood.
pub(crate) fn current() -> Option<Arc<State>> {
    let path = std::env::var_os("WHARF_MOCK_NVML")?;
    let version = std::fs::metadata(&path)
        .map_or((0, 0, 0, 0), |file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cached) = cache.as_ref().filter(|cached| cached.version == version) {
        return cached.state.clone();
    }
    let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    let state = read.and_then(|text| serde_json::from_str::<State>(&text).map_err(|error| error.to_string()));
    let state = state.map(Arc::new).inspect_err(|error| eprintln!("mock-nvml: {}: {error}", path.display())).ok();
    *cache = Some(Cached { version, state: state.clone() });
    state
}
