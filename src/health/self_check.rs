//! The check of single GPUs, between tasks and when an operator asks: what was looked at, for people, and what of it is
//! a fault.

use super::verdict::{Judgement, RecoveryAction as Recommended};
use crate::domain::checked::{CheckOutcome, CheckedThing, DeepCheck, DeviceCheck, MemoryLook};
use crate::domain::fault::{Action, FaultKind, Verdict};
use crate::domain::gpu::health::{HealthSnapshot, NoAnswer, Reading, RecoveryAction};
use crate::domain::ids::GpuUuid;

/// `nvmlReturn_t` of a device that is lost, and of one that needs a reset.
const LOST: u32 = 15;
const RESET_REQUIRED: u32 = 16;

/// Something that a check found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: FaultKind,
    pub judgement: Judgement,
    pub evidence: String,
}

/// What came of a look at one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Looked {
    pub things: Vec<CheckedThing>,
    pub findings: Vec<Finding>,
}

impl Looked {
    fn fine(&mut self, what: &str, found: impl Into<String>, allowed: &str) {
        self.things.push(CheckedThing::new(what, found, allowed, CheckOutcome::Ok));
    }

    fn noted(&mut self, what: &str, found: impl Into<String>, allowed: &str) {
        self.things.push(CheckedThing::new(what, found, allowed, CheckOutcome::Noted));
    }

    fn wrong(&mut self, what: &str, found: impl Into<String>, allowed: &str, kind: FaultKind, judgement: Judgement) {
        let found = found.into();
        let evidence = format!("{what}: {found}");
        self.things.push(CheckedThing::new(what, found, allowed, CheckOutcome::Failed));
        self.findings.push(Finding { kind, judgement, evidence });
    }

    /// What cannot be had is no fault, unless the driver says with it that the device is gone.
    fn no_reading<T>(&mut self, what: &str, reading: &Reading<T>, allowed: &str) {
        match reading {
            Reading::Failed { code: LOST, message } => {
                self.wrong(what, message.clone(), allowed, FaultKind::GpuLost, lost());
            }
            Reading::Failed { code: RESET_REQUIRED, message } => {
                self.wrong(what, message.clone(), allowed, FaultKind::ResetRequired, needs_reset());
            }
            Reading::Failed { message, .. } => self.noted(what, message.clone(), allowed),
            Reading::NotSupported | Reading::Known(_) => self.noted(what, "the board does not say", allowed),
        }
    }
}

fn on_gpu(action: Action, reason: &str) -> Judgement {
    Judgement::new(Verdict::Gpu, action, reason)
}

fn lost() -> Judgement {
    on_gpu(Action::Reboot, "The driver cannot reach the GPU any more.")
}

fn needs_reset() -> Judgement {
    Judgement { by_driver: true, ..on_gpu(Action::ResetGpu, "The driver refuses to use the GPU before it is reset.") }
}

/// What a quick look at `gpu` says.
pub fn of_device(gpu: &GpuUuid, check: &DeviceCheck) -> Looked {
    let (mut looked, allowed) = (Looked::default(), "its UUID, in time");
    match &check.health.answer {
        Err(none) => {
            let (kind, judgement) = match none.why {
                NoAnswer::Lost => (FaultKind::GpuLost, lost()),
                NoAnswer::Hung => (FaultKind::SelfCheck, on_gpu(Action::ResetGpu, "The GPU did not answer in time.")),
                NoAnswer::Failed => {
                    (FaultKind::SelfCheck, on_gpu(Action::ResetGpu, "The GPU could not answer a check."))
                }
            };
            looked.wrong("answer", none.sentence.clone(), allowed, kind, judgement);
        }
        // A device that says nothing of itself has no UUID in its answer either.
        Ok(snapshot) if snapshot.gpu != *gpu && !snapshot.gpu.0.is_empty() => {
            let other = on_gpu(Action::ResetGpu, "Another GPU answered in its place.");
            looked.wrong("answer", snapshot.gpu.0.clone(), allowed, FaultKind::SelfCheck, other);
        }
        Ok(snapshot) => {
            looked.fine("answer", gpu.0.clone(), allowed);
            of_snapshot(snapshot, &mut looked);
        }
    }
    match &check.node {
        None => {}
        Some(Ok(())) => looked.fine("device node", "opens", "opens"),
        Some(Err(why)) => {
            let judgement = on_gpu(Action::ResetGpu, "Its device node cannot be opened.");
            looked.wrong("device node", why.clone(), "opens", FaultKind::SelfCheck, judgement);
        }
    }
    looked
}

fn of_snapshot(snapshot: &HealthSnapshot, looked: &mut Looked) {
    recovery(snapshot, looked);
    let (what, allowed) = ("row remapping", "nothing pending, nothing failed");
    match &snapshot.remapped_rows {
        Reading::Known(rows) if rows.has_failed => {
            let judgement = on_gpu(Action::Inspect, "A bad row of its memory could not be replaced.");
            looked.wrong(what, "failed", allowed, FaultKind::RowRemap, judgement);
        }
        Reading::Known(rows) if rows.is_pending => {
            let judgement = on_gpu(Action::ResetGpu, "A bad row of its memory is replaced with the next reset.");
            looked.wrong(what, "pending", allowed, FaultKind::RowRemap, judgement);
        }
        Reading::Known(rows) => {
            looked.fine(what, format!("{} rows replaced", rows.corrected + rows.uncorrected), allowed)
        }
        other => looked.no_reading(what, other, allowed),
    }
    let (what, allowed) = ("retired pages", "none pending");
    match &snapshot.retired_pages.is_pending {
        Reading::Known(true) => {
            let judgement = on_gpu(Action::ResetGpu, "A bad page of its memory is retired with the next reset.");
            looked.wrong(what, "pending", allowed, FaultKind::RetiredPages, judgement);
        }
        Reading::Known(false) => looked.fine(what, "none pending", allowed),
        other => looked.no_reading(what, other, allowed),
    }
    let (what, allowed) = ("uncorrected ECC", "0 since the driver was loaded");
    match &snapshot.ecc.volatile_uncorrected {
        Reading::Known(0) => looked.fine(what, "0", allowed),
        // What became of them is told by rows, pages and the driver's recommendation.
        Reading::Known(count) => looked.noted(what, count.to_string(), allowed),
        other => looked.no_reading(what, other, allowed),
    }
    let (what, allowed) = ("SRAM errors", "below the driver's threshold");
    match &snapshot.sram {
        Reading::Known(sram) if sram.threshold_exceeded => {
            let judgement = on_gpu(Action::Inspect, "Errors of its SRAM have passed the driver's threshold.");
            looked.wrong(what, "above the threshold", allowed, FaultKind::SramEcc, judgement);
        }
        Reading::Known(_) => looked.fine(what, "below the threshold", allowed),
        other => looked.no_reading(what, other, allowed),
    }
}

/// The driver's own recommendation; older drivers have two questions instead.
fn recovery(snapshot: &HealthSnapshot, looked: &mut Looked) {
    let (what, allowed) = ("recovery action", "none");
    match &snapshot.recovery_action {
        Reading::Known(RecoveryAction::None) => looked.fine(what, "none", allowed),
        Reading::Known(action) => {
            let unknown = || on_gpu(Action::Inspect, "The driver asks for a recovery action that is not known.");
            let judgement = recommended(*action).and_then(Recommended::judgement).unwrap_or_else(unknown);
            let found = match judgement.action {
                Action::Reboot => "reboot",
                Action::ResetGpu => "reset",
                _ => "not known",
            };
            looked.wrong(what, found, allowed, FaultKind::RecoveryAction, judgement);
        }
        other => looked.no_reading(what, other, allowed),
    }
    let (what, allowed) = ("reset", "not needed");
    match (&snapshot.needs_reset, &snapshot.needs_drain) {
        (Reading::Known(true), _) => {
            looked.wrong(what, "needed", allowed, FaultKind::ResetRequired, needs_reset());
        }
        // What runs there may end first.
        (_, Reading::Known(true)) => {
            looked.wrong(what, "needed once it is idle", allowed, FaultKind::RecoveryAction, needs_reset());
        }
        (Reading::Known(false), _) => looked.fine(what, "not needed", allowed),
        (other, _) => looked.no_reading(what, other, allowed),
    }
}

const fn recommended(action: RecoveryAction) -> Option<Recommended> {
    match action {
        RecoveryAction::None => Some(Recommended::None),
        RecoveryAction::ResetGpu => Some(Recommended::Reset),
        RecoveryAction::RebootNode => Some(Recommended::Reboot),
        RecoveryAction::DrainPeers => Some(Recommended::DrainP2p),
        RecoveryAction::DrainAndReset => Some(Recommended::DrainAndReset),
        RecoveryAction::Other(_) => None,
    }
}

/// What the long look says.
pub fn of_memory(deep: &DeepCheck) -> Looked {
    let (mut looked, what, allowed) = (Looked::default(), "memory pattern", "every word as it was written");
    match deep {
        DeepCheck::NotPossible(why) => looked.noted(what, why.clone(), allowed),
        DeepCheck::Broken(why) => {
            // Looks that are quick do not say that it can again.
            let judgement = on_gpu(Action::Reboot, "It could not do what a test of its memory asks.");
            looked.wrong(what, why.clone(), allowed, FaultKind::SelfCheck, judgement);
        }
        DeepCheck::Looked(MemoryLook { memory_mb, wrong_words: 0, .. }) => {
            looked.fine(what, format!("{memory_mb} MB as written"), allowed);
        }
        DeepCheck::Looked(MemoryLook { memory_mb, wrong_words, .. }) => {
            let judgement = on_gpu(Action::Inspect, "Its memory does not keep what is written to it.");
            let found = format!("{wrong_words} wrong words in {memory_mb} MB");
            looked.wrong(what, found, allowed, FaultKind::SelfCheck, judgement);
        }
    }
    if let DeepCheck::Looked(look) = deep {
        let speeds =
            [("to it", look.to_device_mb_s), ("from it", look.from_device_mb_s), ("within", look.within_device_mb_s)];
        for (way, speed) in speeds.iter().filter(|(_, speed)| *speed > 0) {
            looked.noted(&format!("bandwidth {way}"), format!("{speed} MB/s"), "no limit is set");
        }
    }
    looked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::health::{DeviceHealth, NoSnapshot, RemappedRows, SramEcc};

    fn gpu() -> GpuUuid {
        "GPU-1".into()
    }

    fn well() -> HealthSnapshot {
        HealthSnapshot {
            gpu: gpu(),
            recovery_action: Reading::Known(RecoveryAction::None),
            needs_reset: Reading::Known(false),
            remapped_rows: Reading::Known(RemappedRows::default()),
            sram: Reading::Known(SramEcc::default()),
            ..HealthSnapshot::default()
        }
    }

    fn look(snapshot: HealthSnapshot) -> Looked {
        let health = DeviceHealth { gpu: gpu(), index: 0, answer: Ok(Box::new(snapshot)) };
        of_device(&gpu(), &DeviceCheck { health, node: Some(Ok(())) })
    }

    fn found(looked: &Looked) -> Vec<(FaultKind, Action)> {
        looked.findings.iter().map(|finding| (finding.kind, finding.judgement.action)).collect()
    }

    #[test]
    fn a_board_that_is_well_or_says_nothing_has_no_findings() {
        assert_eq!(found(&look(well())), []);
        assert!(look(well()).things.iter().any(|thing| thing.what == "device node"));
        // As simulated GPUs answer.
        assert_eq!(found(&look(HealthSnapshot::default())), []);
        let failing = Reading::Failed { code: 999, message: "unknown error".to_owned() };
        assert_eq!(found(&look(HealthSnapshot { sram: failing, ..well() })), [], "no reading is no fault");
    }

    #[test]
    fn each_thing_that_is_wrong_is_a_fault_of_its_kind() {
        let rows =
            |is_pending, has_failed| Reading::Known(RemappedRows { is_pending, has_failed, ..Default::default() });
        let asks = |action| HealthSnapshot { recovery_action: Reading::Known(action), ..well() };
        let lost: Reading<RemappedRows> = Reading::Failed { code: LOST, message: "lost".to_owned() };
        let worn = SramEcc { threshold_exceeded: true, ..SramEcc::default() };
        let cases = [
            (HealthSnapshot { remapped_rows: rows(true, false), ..well() }, FaultKind::RowRemap, Action::ResetGpu),
            (HealthSnapshot { remapped_rows: rows(true, true), ..well() }, FaultKind::RowRemap, Action::Inspect),
            (
                HealthSnapshot { needs_reset: Reading::Known(true), ..well() },
                FaultKind::ResetRequired,
                Action::ResetGpu,
            ),
            (HealthSnapshot { sram: Reading::Known(worn), ..well() }, FaultKind::SramEcc, Action::Inspect),
            (HealthSnapshot { remapped_rows: lost, ..well() }, FaultKind::GpuLost, Action::Reboot),
            (asks(RecoveryAction::RebootNode), FaultKind::RecoveryAction, Action::Reboot),
            (asks(RecoveryAction::DrainAndReset), FaultKind::RecoveryAction, Action::ResetGpu),
            (asks(RecoveryAction::Other(9)), FaultKind::RecoveryAction, Action::Inspect),
            (HealthSnapshot { gpu: "GPU-2".into(), ..well() }, FaultKind::SelfCheck, Action::ResetGpu),
        ];
        for (snapshot, kind, action) in cases {
            assert_eq!(found(&look(snapshot.clone())), [(kind, action)], "{snapshot:?}");
        }
    }

    #[test]
    fn no_answer_and_no_device_node_are_faults() {
        let none = |why| {
            let answer = Err(NoSnapshot { why, sentence: "no".to_owned() });
            let health = DeviceHealth { gpu: gpu(), index: 0, answer };
            found(&of_device(&gpu(), &DeviceCheck { health, node: None }))
        };
        assert_eq!(none(NoAnswer::Hung), [(FaultKind::SelfCheck, Action::ResetGpu)]);
        assert_eq!(none(NoAnswer::Lost), [(FaultKind::GpuLost, Action::Reboot)]);
        let health = DeviceHealth { gpu: gpu(), index: 0, answer: Ok(Box::new(well())) };
        let check = DeviceCheck { health, node: Some(Err("I/O error".to_owned())) };
        assert_eq!(found(&of_device(&gpu(), &check)), [(FaultKind::SelfCheck, Action::ResetGpu)]);
    }

    #[test]
    fn a_driver_that_is_not_there_is_no_fault_and_wrong_words_are() {
        let looked = of_memory(&DeepCheck::NotPossible("no CUDA driver".to_owned()));
        assert_eq!((found(&looked), looked.things[0].outcome), (vec![], CheckOutcome::Noted));
        let look = MemoryLook { memory_mb: 64, within_device_mb_s: 9, ..MemoryLook::default() };
        let looked = of_memory(&DeepCheck::Looked(look));
        assert_eq!((found(&looked), looked.things.len()), (vec![], 2));
        let looked = of_memory(&DeepCheck::Looked(MemoryLook { wrong_words: 1, ..look }));
        assert_eq!(found(&looked), [(FaultKind::SelfCheck, Action::Inspect)]);
        assert_eq!(found(&of_memory(&DeepCheck::Broken("700".to_owned()))), [(FaultKind::SelfCheck, Action::Reboot)]);
    }
}
