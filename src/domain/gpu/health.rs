//! What a device says about its own health: one reading for each thing, without a verdict.
//!
//! A device that cannot say a thing, and one that fails when it is asked, are told apart: the first is how the board
//! is, the second is a sign. Numbers are the driver's; counters begin where it says (volatile: since the driver was
//! loaded; aggregate: since the board was made) and go back to 0 with a reset.

use crate::domain::ids::GpuUuid;
use crate::domain::pci::PciAddress;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing that a device was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading<T> {
    Known(T),
    /// The board or its driver has no such thing.
    #[default]
    NotSupported,
    /// The call failed with this `nvmlReturn_t`: 15 is a lost device, 16 one that needs a reset.
    Failed {
        code: u32,
        message: String,
    },
}

impl<T> Reading<T> {
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            _ => None,
        }
    }

    /// This, else another way to find out the same.
    pub fn or(self, other: Self) -> Self {
        if matches!(self, Self::Known(_)) || matches!(other, Self::NotSupported) { self } else { other }
    }

    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Self::Known(value) => Reading::Known(change(value)),
            Self::NotSupported => Reading::NotSupported,
            Self::Failed { code, message } => Reading::Failed { code, message },
        }
    }
}

/// The answer of one device. MIG slices have no health of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHealth {
    pub gpu: GpuUuid,
    pub index: u32,
    pub answer: Result<Box<HealthSnapshot>, NoSnapshot>,
}

/// Why a device has no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoSnapshot {
    pub why: NoAnswer,
    /// One sentence.
    pub sentence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoAnswer {
    /// It is not on the bus any more.
    Lost,
    /// Two workers missed their deadline over it.
    Hung,
    /// Anything else.
    Failed,
}

/// Everything that one device says about its health, at about one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HealthSnapshot {
    pub gpu: GpuUuid,
    pub ecc_mode: Reading<EccMode>,
    pub ecc: EccErrors,
    pub sram: Reading<SramEcc>,
    pub remapped_rows: Reading<RemappedRows>,
    pub retired_pages: RetiredPages,
    /// Field 230: what the driver itself recommends.
    pub recovery_action: Reading<RecoveryAction>,
    /// Field 226, of drivers that do not know the recovery action: it needs a reset.
    pub needs_reset: Reading<bool>,
    /// Field 227, likewise: it is to be drained and reset.
    pub needs_drain: Reading<bool>,
    pub clock_events: Reading<ClockEvents>,
    pub temperatures: Temperatures,
    /// The links that the board has, also those that are down.
    pub nvlinks: Reading<Vec<NvLink>>,
    pub pcie: PcieLink,
    pub fabric: Reading<Fabric>,
    /// What is used of its memory, in MiB, without what the driver keeps for itself.
    pub memory_used_mb: Reading<u64>,
    pub processes: Reading<ProcessMemory>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EccMode {
    pub is_on: bool,
    /// After the next reset.
    pub will_be_on: bool,
}

/// Counts of memory errors over all of the device's memories.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EccErrors {
    pub volatile_corrected: Reading<u64>,
    pub volatile_uncorrected: Reading<u64>,
    pub aggregate_corrected: Reading<u64>,
    pub aggregate_uncorrected: Reading<u64>,
}

/// Counts of errors of the device's SRAM; uncorrected ones by how they were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SramEcc {
    pub volatile_corrected: u64,
    pub volatile_uncorrected_parity: u64,
    pub volatile_uncorrected_sec_ded: u64,
    pub aggregate_corrected: u64,
    pub aggregate_uncorrected_parity: u64,
    pub aggregate_uncorrected_sec_ded: u64,
    /// The driver's own threshold: the board is to be replaced.
    pub threshold_exceeded: bool,
}

/// Rows of the device's memory that others stand in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RemappedRows {
    pub corrected: u32,
    pub uncorrected: u32,
    /// Takes effect with the next reset.
    pub is_pending: bool,
    /// There was no row left.
    pub has_failed: bool,
}

/// Pages of memory that are not used any more, on boards before A100.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RetiredPages {
    pub single_bit: Reading<u64>,
    pub double_bit: Reading<u64>,
    /// Takes effect with the next reset.
    pub is_pending: Reading<bool>,
}

/// `nvmlDeviceGpuRecoveryAction_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryAction {
    None,
    ResetGpu,
    RebootNode,
    /// End what uses its links to other devices, then reset.
    DrainPeers,
    DrainAndReset,
    Other(u64),
}

impl RecoveryAction {
    pub const fn of_number(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::ResetGpu,
            2 => Self::RebootNode,
            3 => Self::DrainPeers,
            4 => Self::DrainAndReset,
            other => Self::Other(other),
        }
    }
}

/// Why the clocks are not higher: bits of `nvmlClocksEventReason...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockEvents(pub u64);

impl ClockEvents {
    pub const IDLE: u64 = 0x1;
    pub const SW_POWER_CAP: u64 = 0x4;
    /// Heat or power: the hardware halves the clocks at least.
    pub const HW_SLOWDOWN: u64 = 0x8;
    pub const SW_THERMAL: u64 = 0x20;
    pub const HW_THERMAL: u64 = 0x40;
    /// The machine's power supply says so.
    pub const HW_POWER_BRAKE: u64 = 0x80;

    pub const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

/// Degrees Celsius.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Temperatures {
    pub gpu_c: Reading<u32>,
    pub memory_c: Reading<u64>,
    /// How far below the slowdown; negative above it.
    pub margin_c: Reading<i32>,
    pub shutdown_at_c: Reading<u32>,
    pub slowdown_at_c: Reading<u32>,
    pub memory_max_c: Reading<u32>,
    pub gpu_max_c: Reading<u32>,
}

/// What is at the other end of an NVLink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkEnd {
    Gpu(PciAddress),
    Switch(PciAddress),
    /// E.g. the processor.
    Other(PciAddress),
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpu(pci) => write!(f, "the GPU at {pci}"),
            Self::Switch(pci) => write!(f, "the NVSwitch at {pci}"),
            Self::Other(pci) => write!(f, "the device at {pci}"),
        }
    }
}

/// One NVLink. Counts; older and newer boards have different ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NvLink {
    pub link: u32,
    pub is_active: Reading<bool>,
    /// Where it leads; none while it is down, or where the driver does not say it.
    pub far_end: Option<LinkEnd>,
    /// Packets that were sent again. This and the next four: on boards before Blackwell.
    pub replays: Reading<u64>,
    pub recoveries: Reading<u64>,
    pub crc_flit_errors: Reading<u64>,
    pub crc_data_errors: Reading<u64>,
    pub ecc_data_errors: Reading<u64>,
    /// This and the next four: fields 208, 213, 214, 219 and 221, since Blackwell.
    pub receive_errors: Reading<u64>,
    pub recoveries_done: Reading<u64>,
    pub recoveries_failed: Reading<u64>,
    pub effective_errors: Reading<u64>,
    pub symbol_errors: Reading<u64>,
}

/// The device's link to the machine. An idle device goes to a lower generation by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PcieLink {
    pub generation: Reading<u32>,
    /// Lanes.
    pub width: Reading<u32>,
    /// Of device and slot together.
    pub max_generation: Reading<u32>,
    pub max_width: Reading<u32>,
    /// Of the device alone.
    pub device_max_generation: Reading<u32>,
    /// Count of packets that were sent again.
    pub replays: Reading<u64>,
}

/// The device's place in an NVLink fabric with switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    pub state: FabricState,
    /// `nvmlReturn_t`: why joining it failed; 0 if it did not.
    pub status: u32,
    pub cluster: uuid::Uuid,
    pub clique: u32,
    /// Bits of `NVML_GPU_FABRIC_HEALTH_MASK_...`.
    pub health_mask: u32,
}

/// `nvmlGpuFabricState_t`; a device without a fabric has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FabricState {
    NotStarted,
    InProgress,
    Completed,
    Other(u8),
}

/// What the processes on a device hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessMemory {
    pub processes: u32,
    /// MiB, of those whose memory the driver knows.
    pub memory_mb: u64,
    /// Processes whose memory it does not know.
    pub unknown: u32,
}
