//! Whether the GPU answers, and what it answers with: lost, hanging, waiting for a reset.

use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::domain::gpu::health::{DeviceHealth, HealthSnapshot, NoAnswer, Reading};
use crate::health::verdict::Judgement;

/// `nvmlReturn_t`.
const GPU_IS_LOST: u32 = 15;
const RESET_REQUIRED: u32 = 16;
/// A device that fails as a whole may be about to come back; one that does so this often in a row is not.
const FAILED_ROUNDS: u8 = 4;

/// What is remembered of one GPU.
#[derive(Debug, Default)]
pub(super) struct Answers {
    failed_rounds: u8,
}

impl Answers {
    /// Whether it is still on its bus.
    pub fn lost(&mut self, device: &DeviceHealth) -> Finding {
        let judgement = |reason| Judgement::new(Verdict::Gpu, Action::Reboot, reason);
        let gone = "The GPU does not answer on its bus any more, which takes a reboot.";
        let no_answer = match &device.answer {
            Ok(health) => {
                self.failed_rounds = 0;
                return match failures(health).find(|(code, _)| *code == GPU_IS_LOST) {
                    Some((_, message)) => {
                        Finding::fault(judgement(gone), format!("the driver's error 15: {message}"))
                    }
                    None => Finding::InOrder,
                };
            }
            Err(no_answer) => no_answer,
        };
        match no_answer.why {
            NoAnswer::Lost => Finding::fault(judgement(gone), no_answer.sentence.as_str()),
            NoAnswer::Hung => Finding::Unseen,
            NoAnswer::Failed => {
                self.failed_rounds = self.failed_rounds.saturating_add(1);
                if self.failed_rounds < FAILED_ROUNDS {
                    return Finding::Unseen;
                }
                let reason = "The GPU answers with nothing but errors: it may be lost, which takes a reboot.";
                let evidence = format!("{} rounds in a row: {}", self.failed_rounds, no_answer.sentence);
                Finding::fault(judgement(reason), evidence)
            }
        }
    }
}

/// It says nothing right now, or that it is lost.
pub(super) fn is_away(device: &DeviceHealth) -> bool {
    device.answer.as_ref().map_or(true, |health| failures(health).any(|(code, _)| code == GPU_IS_LOST))
}

/// Whether the driver answers for it in time.
pub(super) fn hung(device: &DeviceHealth) -> Finding {
    match &device.answer {
        Err(no_answer) if no_answer.why == NoAnswer::Hung => {
            let reason = "The driver hangs when it is asked about the GPU: a program that uses it may hang as well, and \
                          a reset would, which leaves a reboot.";
            Finding::fault(Judgement::new(Verdict::Gpu, Action::Reboot, reason), no_answer.sentence.as_str())
        }
        _ => Finding::InOrder,
    }
}

/// Whether the driver refuses to use it before a reset. What the fields for it say counts for drivers that know no
/// recovery action: those that do say there what they want.
pub(super) fn reset_required(health: &HealthSnapshot) -> Finding {
    let judgement = |reason| Judgement { by_driver: true, ..Judgement::new(Verdict::Gpu, Action::ResetGpu, reason) };
    let refuses = "The driver does not use the GPU before it is reset.";
    if let Some((_, message)) = failures(health).find(|(code, _)| *code == RESET_REQUIRED) {
        return Finding::fault(judgement(refuses), format!("the driver's error 16: {message}"));
    }
    let says_more = health.recovery_action.known().is_some();
    match (health.needs_reset.known(), health.needs_drain.known()) {
        _ if says_more => Finding::InOrder,
        (Some(true), _) => Finding::fault(judgement(refuses), "field 226, reset status: a reset is required"),
        (_, Some(true)) => {
            let reason = "The driver asks for a reset once what runs on the GPU has ended.";
            Finding::fault(judgement(reason), "field 227, drain and reset status: it is recommended")
        }
        (Some(false), _) | (_, Some(false)) => Finding::InOrder,
        (None, None) => Finding::NotThere,
    }
}

/// Everything that the device was asked and failed at.
fn failures(health: &HealthSnapshot) -> impl Iterator<Item = (u32, &str)> {
    fn of<T>(reading: &Reading<T>) -> Option<(u32, &str)> {
        match reading {
            Reading::Failed { code, message } => Some((*code, message.as_str())),
            _ => None,
        }
    }
    let links = health.nvlinks.known().into_iter().flatten();
    let plain = [
        of(&health.ecc_mode),
        of(&health.ecc.volatile_corrected),
        of(&health.ecc.volatile_uncorrected),
        of(&health.ecc.aggregate_corrected),
        of(&health.ecc.aggregate_uncorrected),
        of(&health.sram),
        of(&health.remapped_rows),
        of(&health.retired_pages.is_pending),
        of(&health.recovery_action),
        of(&health.needs_reset),
        of(&health.needs_drain),
        of(&health.clock_events),
        of(&health.temperatures.gpu_c),
        of(&health.nvlinks),
        of(&health.pcie.generation),
        of(&health.pcie.width),
        of(&health.pcie.replays),
        of(&health.fabric),
        of(&health.memory_used_mb),
        of(&health.processes),
    ];
    plain.into_iter().flatten().chain(links.filter_map(|link| of(&link.is_active)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, told};
    use super::*;
    use crate::domain::gpu::health::{NoSnapshot, NvLink, RecoveryAction};

    const REBOOT: Told = Told::Fault(Verdict::Gpu, Action::Reboot);
    const RESET: Told = Told::Fault(Verdict::Gpu, Action::ResetGpu);

    fn answering(health: HealthSnapshot) -> DeviceHealth {
        DeviceHealth { gpu: "GPU-1".into(), index: 0, answer: Ok(Box::new(health)) }
    }

    fn silent(why: NoAnswer) -> DeviceHealth {
        let answer = Err(NoSnapshot { why, sentence: "asking GPU 0 for its UUID: an error".to_owned() });
        DeviceHealth { gpu: "GPU-1".into(), index: 0, answer }
    }

    fn failed<T>(code: u32) -> Reading<T> {
        Reading::Failed { code, message: "an error".to_owned() }
    }

    #[test]
    fn a_gpu_is_lost_when_the_driver_says_so_anywhere() {
        let lost = |device: &DeviceHealth| told(&Answers::default().lost(device));
        assert_eq!(lost(&silent(NoAnswer::Lost)), REBOOT);
        assert_eq!(lost(&silent(NoAnswer::Hung)), Told::Unseen);
        assert_eq!(lost(&answering(HealthSnapshot { sram: failed(15), ..HealthSnapshot::default() })), REBOOT);
        let link = NvLink { is_active: failed(15), ..NvLink::default() };
        let nvlinks = Reading::Known(vec![NvLink::default(), link]);
        assert_eq!(lost(&answering(HealthSnapshot { nvlinks, ..HealthSnapshot::default() })), REBOOT);
        // One answer that fails for another reason is one answer.
        assert_eq!(
            lost(&answering(HealthSnapshot { sram: failed(999), ..HealthSnapshot::default() })),
            Told::InOrder
        );
    }

    #[test]
    fn a_gpu_that_fails_for_long_is_as_good_as_lost() {
        let mut answers = Answers::default();
        let mut look = |device: &DeviceHealth| told(&answers.lost(device));
        let failing = silent(NoAnswer::Failed);
        for _ in 0..3 {
            assert_eq!(look(&failing), Told::Unseen);
        }
        assert_eq!((look(&failing), look(&failing)), (REBOOT, REBOOT));
        assert_eq!((look(&answering(HealthSnapshot::default())), look(&failing)), (Told::InOrder, Told::Unseen));
    }

    #[test]
    fn a_driver_that_hangs_is_told_of_its_gpu() {
        assert_eq!(told(&hung(&silent(NoAnswer::Hung))), REBOOT);
        assert_eq!(told(&hung(&answering(HealthSnapshot::default()))), Told::InOrder);
        assert_eq!(told(&hung(&silent(NoAnswer::Failed))), Told::InOrder);
    }

    #[test]
    fn a_reset_is_required_by_an_error_or_by_an_old_drivers_fields() {
        let known = Reading::Known;
        let none = HealthSnapshot::default;
        for (health, expected) in [
            (HealthSnapshot { remapped_rows: failed(16), ..none() }, RESET),
            (HealthSnapshot { needs_reset: known(true), ..none() }, RESET),
            (HealthSnapshot { needs_reset: known(false), needs_drain: known(true), ..none() }, RESET),
            (HealthSnapshot { needs_reset: known(false), needs_drain: known(false), ..none() }, Told::InOrder),
            (
                HealthSnapshot {
                    needs_reset: known(true),
                    recovery_action: Reading::Known(RecoveryAction::ResetGpu),
                    ..none()
                },
                Told::InOrder,
            ),
            (none(), Told::NotThere),
        ] {
            assert_eq!(told(&reset_required(&health)), expected, "{health:?}");
        }
    }
}
