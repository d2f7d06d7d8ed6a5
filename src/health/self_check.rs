//! The check of single GPUs, between tasks and when an operator asks: what [`checks`](super::checks) say of one look, with what people
//! want to know beside it: what was looked at, what was found, what is allowed.

use super::checks::{Check, Finding, Mode, Modes, as_far_as, at_once};
use super::verdict::Judgement;
use crate::domain::checked::{CheckOutcome, CheckedThing, DeepCheck, DeviceCheck, MemoryLook};
use crate::domain::fault::{Action, FaultKind, Verdict, takes_out_of_use};
use crate::domain::gpu::health::{HealthSnapshot, NoAnswer, Reading};
use crate::domain::ids::GpuUuid;

/// Something that a check found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub kind: FaultKind,
    pub judgement: Judgement,
    pub evidence: String,
}

impl Wrong {
    /// The GPU is not to be used; what is only observed is told and no more.
    pub const fn condemns(&self) -> bool {
        takes_out_of_use(self.judgement.verdict, self.judgement.action)
    }
}

/// What came of a look at one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Looked {
    pub things: Vec<CheckedThing>,
    pub wrong: Vec<Wrong>,
}

impl Looked {
    /// The first reason not to use the GPU.
    pub fn condemned(&self) -> Option<&Wrong> {
        self.wrong.iter().find(|wrong| wrong.condemns())
    }

    fn fine(&mut self, (what, allowed): Words, found: impl Into<String>) {
        self.things.push(CheckedThing::new(what, found, allowed, CheckOutcome::Ok));
    }

    fn noted(&mut self, (what, allowed): Words, found: impl Into<String>) {
        self.things.push(CheckedThing::new(what, found, allowed, CheckOutcome::Noted));
    }

    fn wrong(&mut self, (what, allowed): Words, kind: FaultKind, judgement: Judgement, found: String) {
        let evidence = format!("{what}: {found}");
        let wrong = Wrong { kind, judgement, evidence };
        let outcome = if wrong.condemns() { CheckOutcome::Failed } else { CheckOutcome::Noted };
        self.things.push(CheckedThing::new(what, found, allowed, outcome));
        self.wrong.push(wrong);
    }

    /// What only this look has a word on, as far as it may go.
    fn of_its_own(&mut self, words: Words, modes: &Modes, found: String, action: Action, reason: &str) {
        let finding = Finding::fault(Judgement::new(Verdict::Gpu, action, reason), found);
        if let Some(Finding::Fault { judgement, evidence, .. }) = as_far_as(modes.of(Check::SelfCheck), finding) {
            self.wrong(words, FaultKind::SelfCheck, judgement, evidence);
        }
    }

    pub fn extend(&mut self, more: Self) {
        self.things.extend(more.things);
        self.wrong.extend(more.wrong);
    }
}

/// What is looked at, and what is allowed.
type Words = (&'static str, &'static str);

const ANSWER: Words = ("answer", "its UUID, in time");
const DEVICE_NODE: Words = ("device node", "opens");
const MEMORY: Words = ("memory pattern", "every word as it was written");

/// How people call what a check looks at.
const fn words(check: Check) -> Words {
    match check {
        Check::GpuLost => ("bus", "answers on it"),
        Check::RecoveryAction => ("recovery action", "none"),
        Check::ResetRequired => ("reset", "not needed"),
        Check::RowRemap => ("row remapping", "nothing pending, nothing failed"),
        Check::RetiredPages => ("retired pages", "none pending"),
        Check::EccUncorrected => ("uncorrected ECC", "0 since the driver was loaded"),
        Check::SramEcc => ("SRAM errors", "below the driver's threshold"),
        Check::Fabric => ("NVLink fabric", "joined, and healthy"),
        other => (other.as_str(), "in order"),
    }
}

/// What a quick look at `gpu` says.
pub fn of_device(gpu: &GpuUuid, check: &DeviceCheck, modes: &Modes) -> Looked {
    let mut looked = Looked::default();
    let is_on = modes.of(Check::SelfCheck) != Mode::Off;
    match &check.health.answer {
        Err(none) => match none.why {
            // Told by its check.
            NoAnswer::Lost => {}
            NoAnswer::Hung => {
                let reason = "The GPU did not answer in time.";
                looked.of_its_own(ANSWER, modes, none.sentence.clone(), Action::ResetGpu, reason);
            }
            NoAnswer::Failed => {
                let reason = "The GPU could not answer a check.";
                looked.of_its_own(ANSWER, modes, none.sentence.clone(), Action::ResetGpu, reason);
            }
        },
        // A device that says nothing of itself has no UUID in its answer either.
        Ok(snapshot) if snapshot.gpu != *gpu && !snapshot.gpu.0.is_empty() => {
            let reason = "Another GPU answered in its place.";
            looked.of_its_own(ANSWER, modes, snapshot.gpu.0.clone(), Action::ResetGpu, reason);
            return looked;
        }
        Ok(_) if is_on => looked.fine(ANSWER, gpu.0.clone()),
        Ok(_) => {}
    }
    let snapshot = check.health.answer.as_deref().ok();
    for (check, finding) in at_once(&check.health, modes) {
        present(check, finding, snapshot, &mut looked);
    }
    match &check.node {
        Some(Ok(())) if is_on => looked.fine(DEVICE_NODE, "opens"),
        Some(Err(why)) => {
            let reason = "Its device node cannot be opened.";
            looked.of_its_own(DEVICE_NODE, modes, why.clone(), Action::ResetGpu, reason);
        }
        Some(Ok(())) | None => {}
    }
    looked
}

/// What cannot be had is no fault.
fn present(check: Check, finding: Finding, snapshot: Option<&HealthSnapshot>, looked: &mut Looked) {
    let words = words(check);
    match (finding, snapshot) {
        (Finding::Fault { judgement, evidence, .. }, _) => looked.wrong(words, check.kind(), judgement, evidence),
        (Finding::NotThere, _) => looked.noted(words, "the board does not say"),
        (Finding::Unseen, Some(snapshot)) => looked.noted(words, unseen(check, snapshot)),
        // It does not answer, which is told as that.
        (Finding::Unseen, None) => {}
        (Finding::InOrder, snapshot) => match (check, snapshot) {
            // What became of them is told by rows, pages and the driver's recommendation.
            (Check::EccUncorrected, Some(HealthSnapshot { ecc, .. })) => match ecc.volatile_uncorrected.known() {
                Some(0) => looked.fine(words, "0"),
                Some(count) => looked.noted(words, count.to_string()),
                None => looked.noted(words, "the board does not say"),
            },
            (_, snapshot) => looked.fine(words, in_order(check, snapshot)),
        },
    }
}

fn in_order(check: Check, snapshot: Option<&HealthSnapshot>) -> String {
    let rows = snapshot.and_then(|snapshot| snapshot.remapped_rows.known());
    match (check, rows) {
        (Check::RowRemap, Some(rows)) => {
            format!("{} rows replaced", u64::from(rows.corrected) + u64::from(rows.uncorrected))
        }
        _ => words(check).1.to_owned(),
    }
}

/// Why it cannot be told.
fn unseen(check: Check, snapshot: &HealthSnapshot) -> String {
    fn why<T>(reading: &Reading<T>) -> Option<String> {
        match reading {
            Reading::Failed { message, .. } => Some(message.clone()),
            Reading::Known(_) | Reading::NotSupported => None,
        }
    }
    let why = match check {
        Check::RecoveryAction => why(&snapshot.recovery_action),
        Check::RowRemap => why(&snapshot.remapped_rows),
        Check::RetiredPages => why(&snapshot.retired_pages.is_pending),
        Check::SramEcc => why(&snapshot.sram),
        Check::EccUncorrected => {
            why(&snapshot.ecc.volatile_uncorrected).or_else(|| why(&snapshot.ecc.aggregate_uncorrected))
        }
        Check::Fabric => why(&snapshot.fabric).or_else(|| Some("it has not joined it yet".to_owned())),
        _ => None,
    };
    why.unwrap_or_else(|| "it cannot be told".to_owned())
}

/// What the long look says.
pub fn of_memory(deep: &DeepCheck, modes: &Modes) -> Looked {
    let mut looked = Looked::default();
    match deep {
        DeepCheck::NotPossible(why) => looked.noted(MEMORY, why.clone()),
        DeepCheck::Broken(why) => {
            // Looks that are quick do not say that it can again.
            let reason = "It could not do what a test of its memory asks.";
            looked.of_its_own(MEMORY, modes, why.clone(), Action::Reboot, reason);
        }
        DeepCheck::Looked(MemoryLook { memory_mb, wrong_words: 0, .. }) => {
            looked.fine(MEMORY, format!("{memory_mb} MB as written"));
        }
        DeepCheck::Looked(MemoryLook { memory_mb, wrong_words, .. }) => {
            let found = format!("{wrong_words} wrong words in {memory_mb} MB");
            let reason = "Its memory does not keep what is written to it.";
            looked.of_its_own(MEMORY, modes, found, Action::Inspect, reason);
        }
    }
    if let DeepCheck::Looked(look) = deep {
        let speeds = [
            ("bandwidth to it", look.to_device_mb_s),
            ("bandwidth from it", look.from_device_mb_s),
            ("bandwidth within", look.within_device_mb_s),
        ];
        for (way, speed) in speeds.into_iter().filter(|(_, speed)| *speed > 0) {
            looked.noted((way, "no limit is set"), format!("{speed} MB/s"));
        }
    }
    looked
}

/// An operator asked for the long look, and the settings say that it is not to be made.
pub fn memory_is_off() -> Looked {
    let mut looked = Looked::default();
    looked.noted(MEMORY, "not looked at: self_check is off in [checks]");
    looked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::health::{DeviceHealth, EccErrors, NoSnapshot, RecoveryAction, RemappedRows, SramEcc};

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
        with_modes(snapshot, &Modes::default())
    }

    fn with_modes(snapshot: HealthSnapshot, modes: &Modes) -> Looked {
        let health = DeviceHealth { gpu: gpu(), index: 0, answer: Ok(Box::new(snapshot)) };
        of_device(&gpu(), &DeviceCheck { health, node: Some(Ok(())) }, modes)
    }

    fn of(device: &DeviceCheck) -> Looked {
        of_device(&gpu(), device, &Modes::default())
    }

    fn found(looked: &Looked) -> Vec<(FaultKind, Action)> {
        looked.wrong.iter().map(|wrong| (wrong.kind, wrong.judgement.action)).collect()
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
        let lost: Reading<RemappedRows> = Reading::Failed { code: 15, message: "lost".to_owned() };
        let worn = SramEcc { threshold_exceeded: true, ..SramEcc::default() };
        let cases = [
            (HealthSnapshot { remapped_rows: rows(true, false), ..well() }, FaultKind::RowRemap, Action::ResetGpu),
            (HealthSnapshot { remapped_rows: rows(true, true), ..well() }, FaultKind::RowRemap, Action::Inspect),
            (
                HealthSnapshot {
                    needs_reset: Reading::Known(true),
                    recovery_action: Reading::NotSupported,
                    ..well()
                },
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
            found(&of(&DeviceCheck { health, node: None }))
        };
        assert_eq!(none(NoAnswer::Hung), [(FaultKind::SelfCheck, Action::ResetGpu)]);
        assert_eq!(none(NoAnswer::Lost), [(FaultKind::GpuLost, Action::Reboot)]);
        let health = DeviceHealth { gpu: gpu(), index: 0, answer: Ok(Box::new(well())) };
        let check = DeviceCheck { health, node: Some(Err("I/O error".to_owned())) };
        assert_eq!(found(&of(&check)), [(FaultKind::SelfCheck, Action::ResetGpu)]);
    }

    fn outcome(looked: &Looked, what: &str) -> Option<CheckOutcome> {
        looked.things.iter().find(|thing| thing.what == what).map(|thing| thing.outcome)
    }

    #[test]
    fn a_check_that_is_off_does_not_look_and_one_that_observes_condemns_nothing() {
        let asks = || HealthSnapshot { recovery_action: Reading::Known(RecoveryAction::RebootNode), ..well() };
        let modes = |check, mode| Modes::new([(check, mode)]);
        let looked = look(asks());
        assert_eq!(outcome(&looked, "recovery action"), Some(CheckOutcome::Failed));
        assert_eq!(looked.condemned().map(|wrong| wrong.kind), Some(FaultKind::RecoveryAction));
        let looked = with_modes(asks(), &modes(Check::RecoveryAction, Mode::Observe));
        assert_eq!(outcome(&looked, "recovery action"), Some(CheckOutcome::Noted));
        assert_eq!((found(&looked), looked.condemned()), (vec![(FaultKind::RecoveryAction, Action::None)], None));
        let looked = with_modes(asks(), &modes(Check::RecoveryAction, Mode::Off));
        assert_eq!((outcome(&looked, "recovery action"), found(&looked)), (None, vec![]));

        let shut = |mode| {
            let health = DeviceHealth { gpu: gpu(), index: 0, answer: Ok(Box::new(well())) };
            let check = DeviceCheck { health, node: Some(Err("I/O error".to_owned())) };
            of_device(&gpu(), &check, &modes(Check::SelfCheck, mode))
        };
        assert_eq!(outcome(&shut(Mode::Observe), "device node"), Some(CheckOutcome::Noted));
        assert_eq!((shut(Mode::Observe).condemned(), found(&shut(Mode::Observe)).len()), (None, 1));
        assert_eq!((outcome(&shut(Mode::Off), "device node"), found(&shut(Mode::Off))), (None, vec![]));
    }

    /// Whatever a snapshot is like, the first round and this look agree on what condemns the GPU.
    #[test]
    fn it_finds_what_the_rounds_find() {
        use crate::domain::gpu::{DriverState, GpuDriver};
        use crate::health::SeenAt;
        use crate::health::checks::{Checks, Look};
        use std::collections::{BTreeMap, BTreeSet};
        let known = |is_pending, has_failed| RemappedRows { is_pending, has_failed, ..Default::default() };
        let counted = EccErrors { volatile_uncorrected: Reading::Known(7), ..EccErrors::default() };
        for snapshot in [
            well(),
            HealthSnapshot { remapped_rows: Reading::Known(known(true, false)), ..well() },
            HealthSnapshot { remapped_rows: Reading::Known(known(true, true)), ..well() },
            HealthSnapshot { recovery_action: Reading::Known(RecoveryAction::DrainPeers), ..well() },
            HealthSnapshot { needs_reset: Reading::Known(true), ..well() },
            HealthSnapshot { needs_drain: Reading::Known(true), ..HealthSnapshot::default() },
            HealthSnapshot { ecc: counted, ..well() },
            HealthSnapshot { sram: Reading::Failed { code: 16, message: "reset".to_owned() }, ..well() },
        ] {
            let device = DeviceHealth { gpu: gpu(), index: 0, answer: Ok(Box::new(snapshot.clone())) };
            let driver = GpuDriver { state: DriverState::Ok, ..GpuDriver::default() };
            let round = Checks::default().look(&Look {
                seen: SeenAt::default(),
                gpus: Some(std::slice::from_ref(&device)),
                driver: &driver,
                expected_gpus: None,
                known: &[],
                busy: &BTreeSet::new(),
                utilization: &BTreeMap::new(),
                pci: None,
                infiniband: None,
                device_users: &BTreeSet::new(),
                devices: None,
            });
            let in_rounds: Vec<_> =
                round.observations.iter().map(|found| (found.kind, found.judgement.action)).collect();
            assert_eq!(found(&look(snapshot.clone())), in_rounds, "{snapshot:?}");
        }
    }

    fn memory(deep: &DeepCheck) -> Looked {
        of_memory(deep, &Modes::default())
    }

    #[test]
    fn a_driver_that_is_not_there_is_no_fault_and_wrong_words_are() {
        let looked = memory(&DeepCheck::NotPossible("no CUDA driver".to_owned()));
        assert_eq!((found(&looked), looked.things[0].outcome), (vec![], CheckOutcome::Noted));
        let look = MemoryLook { memory_mb: 64, within_device_mb_s: 9, ..MemoryLook::default() };
        let looked = memory(&DeepCheck::Looked(look));
        assert_eq!((found(&looked), looked.things.len()), (vec![], 2));
        let looked = memory(&DeepCheck::Looked(MemoryLook { wrong_words: 1, ..look }));
        assert_eq!(found(&looked), [(FaultKind::SelfCheck, Action::Inspect)]);
        assert_eq!(found(&memory(&DeepCheck::Broken("700".to_owned()))), [(FaultKind::SelfCheck, Action::Reboot)]);
    }
}
