//! Which checks there are, and how far each may go.

use crate::domain::fault::{FaultKind, words};
use crate::health::Source;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One check; its word is what settings call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The GPU answers on its bus.
    GpuLost,
    /// The driver answers for the GPU in time.
    GpuHung,
    /// The driver does not wait for a reset.
    ResetRequired,
    /// What the driver itself recommends.
    RecoveryAction,
    /// No memory errors beyond correction.
    EccUncorrected,
    /// Not too many memory errors that were corrected.
    EccCorrected,
    /// The same for SRAM, and the driver's own threshold for it.
    SramEcc,
    /// No rows wait to be replaced, and none could not be.
    RowRemap,
    /// No pages wait to be taken out of use, and there is room for more.
    RetiredPages,
    /// The hardware does not slow the GPU down because it is hot.
    Thermal,
    /// Nor because the machine's power supply asks for it.
    PowerBrake,
    /// Nor for another reason of its own.
    HwSlowdown,
    /// NVLinks that were up are up.
    NvlinkState,
    /// Their error counters do not run.
    NvlinkErrors,
    /// All lanes to the host are used.
    PcieWidth,
    /// They are as fast as they can be while the GPU works.
    PcieGeneration,
    /// Packets are not sent again more often than such a link does.
    PcieReplay,
    /// The GPU has joined its NVLink fabric.
    Fabric,
    /// No GPU is missing.
    GpuCount,
    /// The driver's library and the driver fit together.
    DriverMismatch,
    /// No GPU memory is held by nobody.
    MemoryHeld,
    /// Tasks can still open the devices that they hold.
    DeviceAccess,
    /// At a look after a task that failed, or that an operator asks for: the GPU answers in time and for itself, its
    /// device node opens, its memory keeps what is written.
    SelfCheck,
    /// Ports that were active are active.
    InfinibandState,
    /// They stay so.
    InfinibandFlaps,
    /// They are as fast as they were.
    InfinibandRate,
    /// Their error counters do not run.
    InfinibandErrors,
}

words!(Check {
    GpuLost = "gpu_lost",
    GpuHung = "gpu_hung",
    ResetRequired = "reset_required",
    RecoveryAction = "recovery_action",
    EccUncorrected = "ecc_uncorrected",
    EccCorrected = "ecc_corrected",
    SramEcc = "sram_ecc",
    RowRemap = "row_remap",
    RetiredPages = "retired_pages",
    Thermal = "thermal",
    PowerBrake = "power_brake",
    HwSlowdown = "hw_slowdown",
    NvlinkState = "nvlink_state",
    NvlinkErrors = "nvlink_errors",
    PcieWidth = "pcie_width",
    PcieGeneration = "pcie_generation",
    PcieReplay = "pcie_replay",
    Fabric = "fabric",
    GpuCount = "gpu_count",
    DriverMismatch = "driver_mismatch",
    MemoryHeld = "memory_held",
    DeviceAccess = "device_access",
    SelfCheck = "self_check",
    InfinibandState = "infiniband_state",
    InfinibandFlaps = "infiniband_flaps",
    InfinibandRate = "infiniband_rate",
    InfinibandErrors = "infiniband_errors",
});

impl Check {
    /// What its faults are called. Several checks may look for one kind.
    pub const fn kind(self) -> FaultKind {
        match self {
            Self::GpuLost => FaultKind::GpuLost,
            Self::GpuHung => FaultKind::GpuWorker,
            Self::ResetRequired => FaultKind::ResetRequired,
            Self::RecoveryAction => FaultKind::RecoveryAction,
            Self::EccUncorrected | Self::EccCorrected => FaultKind::Ecc,
            Self::SramEcc => FaultKind::SramEcc,
            Self::RowRemap => FaultKind::RowRemap,
            Self::RetiredPages => FaultKind::RetiredPages,
            Self::Thermal => FaultKind::Thermal,
            Self::PowerBrake => FaultKind::PowerBrake,
            Self::HwSlowdown => FaultKind::HwSlowdown,
            Self::NvlinkState | Self::NvlinkErrors => FaultKind::Nvlink,
            Self::PcieWidth | Self::PcieGeneration => FaultKind::PcieLink,
            Self::PcieReplay => FaultKind::PcieReplay,
            Self::Fabric => FaultKind::Fabric,
            Self::GpuCount => FaultKind::GpuCount,
            Self::DriverMismatch => FaultKind::DriverMismatch,
            Self::MemoryHeld => FaultKind::MemoryHeld,
            Self::DeviceAccess => FaultKind::DeviceAccess,
            Self::SelfCheck => FaultKind::SelfCheck,
            Self::InfinibandState | Self::InfinibandFlaps | Self::InfinibandRate | Self::InfinibandErrors => {
                FaultKind::Infiniband
            }
        }
    }

    /// It looks again and again, so that what it finds in order says that a fault is over.
    pub const fn is_of_rounds(self) -> bool {
        !matches!(self, Self::SelfCheck)
    }

    /// Who says what it judges.
    pub const fn source(self) -> Source {
        match self {
            Self::GpuCount
            | Self::DeviceAccess
            | Self::InfinibandState
            | Self::InfinibandFlaps
            | Self::InfinibandRate
            | Self::InfinibandErrors => Source::Host,
            _ => Source::Driver,
        }
    }

    /// How far it goes unless it is told otherwise: what is a state of the hardware is acted on, what is a rate that
    /// healthy hardware may have as well is reported.
    pub const fn default_mode(self) -> Mode {
        match self {
            Self::EccCorrected
            | Self::NvlinkErrors
            | Self::PcieGeneration
            | Self::PcieReplay
            | Self::InfinibandFlaps
            | Self::InfinibandErrors => Mode::Observe,
            _ => Mode::Enforce,
        }
    }
}

/// How far a check may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It does not look: nothing is found, and nothing is found in order.
    Off,
    /// What it finds is reported, and nothing is taken out of use for it.
    Observe,
    /// What it finds is acted on.
    Enforce,
}

words!(Mode { Off = "off", Observe = "observe", Enforce = "enforce" });

/// The checks that are told otherwise than [`Check::default_mode`]: `pcie_replay = "enforce"`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Modes(BTreeMap<Check, Mode>);

impl Modes {
    pub fn new(told: impl IntoIterator<Item = (Check, Mode)>) -> Self {
        Self(told.into_iter().collect())
    }

    pub fn of(&self, check: Check) -> Mode {
        self.0.get(&check).copied().unwrap_or(check.default_mode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_settings() {
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).unwrap(), check.as_str());
            for mode in Mode::ALL {
                let modes: Modes = toml::from_str(&format!("{check} = \"{mode}\"")).unwrap();
                assert_eq!(modes, Modes::new([(*check, *mode)]));
                assert_eq!(modes.of(*check), *mode);
            }
            assert_eq!(Modes::default().of(*check), check.default_mode());
        }
    }

    #[test]
    fn other_words_are_refused_with_those_that_are_allowed() {
        let refused = |text| toml::from_str::<Modes>(text).unwrap_err().to_string();
        let (check, mode) = (refused("pcie = \"off\""), refused("pcie_replay = \"on\""));
        assert!(check.contains("`pcie`") && check.contains("`pcie_replay`"), "{check}");
        assert!(mode.contains("`on`") && mode.contains("`observe`"), "{mode}");
    }
}
