//! What the checks say of one device at one look: those of them that compare with no look before, and as far as each
//! one's mode goes. They are the same functions that judge the rounds, so that the two never differ.

use super::answers::{self, Answers};
use super::ecc::Ecc;
use super::modes::{Check, Mode, Modes};
use super::recovery::Recovery;
use super::round::{Finding, observed};
use super::{fabric, memory_cells};
use crate::domain::gpu::health::DeviceHealth;
use crate::health::SeenAt;

/// Each check that is on with what it says; of a device that does not answer, whether it is on its bus.
pub fn at_once(device: &DeviceHealth, modes: &Modes) -> Vec<(Check, Finding)> {
    let mut said = vec![(Check::GpuLost, Answers::default().lost(device))];
    if let Ok(health) = &device.answer {
        let (memory, sram) = Ecc::default().uncorrected(health, SeenAt::default());
        said.extend([
            (Check::RecoveryAction, Recovery::default().look(&health.recovery_action).0),
            (Check::ResetRequired, answers::reset_required(health)),
            (Check::RowRemap, memory_cells::rows(&health.remapped_rows)),
            (Check::RetiredPages, memory_cells::pages(&health.retired_pages)),
            (Check::EccUncorrected, memory),
            (Check::SramEcc, sram),
            (Check::Fabric, fabric::look(&health.fabric)),
        ]);
    }
    said.into_iter().filter_map(|(check, finding)| Some((check, as_far_as(modes.of(check), finding)?))).collect()
}

/// What is left of a finding; none: nobody looked.
pub fn as_far_as(mode: Mode, finding: Finding) -> Option<Finding> {
    match (mode, finding) {
        (Mode::Off, _) => None,
        (Mode::Observe, Finding::Fault { judgement, evidence, count }) => {
            Some(Finding::Fault { judgement: observed(judgement), evidence, count })
        }
        (_, finding) => Some(finding),
    }
}
