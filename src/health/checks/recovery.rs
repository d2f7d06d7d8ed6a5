//! What the driver itself recommends for the GPU, field 230: its word replaces every table's.

use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::domain::gpu::health::{Reading, RecoveryAction};
use crate::health::verdict::{self, Judgement};

/// What is remembered of one GPU.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// The driver asked for something when it was last heard.
    asked: bool,
}

impl Recovery {
    /// What it asks for, and whether it has just stopped to ask.
    pub fn look(&mut self, reading: &Reading<RecoveryAction>) -> (Finding, bool) {
        let action = match reading {
            Reading::Known(action) => *action,
            Reading::NotSupported => return (Finding::NotThere, false),
            Reading::Failed { .. } => return (Finding::Unseen, false),
        };
        let asked = std::mem::replace(&mut self.asked, action != RecoveryAction::None);
        (finding(action), asked && !self.asked)
    }
}

fn finding(action: RecoveryAction) -> Finding {
    let (number, asked) = match action {
        RecoveryAction::None => return Finding::InOrder,
        RecoveryAction::ResetGpu => (1, verdict::RecoveryAction::Reset.judgement()),
        RecoveryAction::RebootNode => (2, verdict::RecoveryAction::Reboot.judgement()),
        RecoveryAction::DrainPeers => (3, verdict::RecoveryAction::DrainP2p.judgement()),
        RecoveryAction::DrainAndReset => (4, verdict::RecoveryAction::DrainAndReset.judgement()),
        RecoveryAction::Other(number) => (number, None),
    };
    let judgement = asked.unwrap_or_else(|| {
        let reason = format!("The driver asks for recovery action {number}, which is not known.");
        Judgement::new(Verdict::Gpu, Action::Inspect, reason)
    });
    Finding::fault(judgement, format!("field 230, recovery action: {number}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, told};
    use super::*;

    #[test]
    fn the_drivers_numbers_are_its_word() {
        for (number, expected, by_driver) in [
            (1, Action::ResetGpu, true),
            (2, Action::Reboot, true),
            (3, Action::ResetGpu, true),
            (4, Action::ResetGpu, true),
            (17, Action::Inspect, false),
        ] {
            let reading = Reading::Known(RecoveryAction::of_number(number));
            let (finding, is_over) = Recovery::default().look(&reading);
            assert_eq!((told(&finding), is_over), (Told::Fault(Verdict::Gpu, expected), false));
            let Finding::Fault { judgement, evidence, .. } = finding else { unreachable!("it was one") };
            assert_eq!((judgement.by_driver, evidence.ends_with(&number.to_string())), (by_driver, true));
        }
    }

    #[test]
    fn it_is_over_once_when_the_driver_asks_for_nothing_any_more() {
        let mut recovery = Recovery::default();
        let mut look = |number| {
            let (finding, is_over) = recovery.look(&Reading::Known(RecoveryAction::of_number(number)));
            (told(&finding) == Told::InOrder, is_over)
        };
        let steps: Vec<_> = [0, 0, 1, 1, 2, 0, 0].into_iter().map(&mut look).collect();
        let (quiet, asks, over) = ((true, false), (false, false), (true, true));
        assert_eq!(steps, [quiet, quiet, asks, asks, asks, over, quiet]);
        assert_eq!(told(&recovery.look(&Reading::NotSupported).0), Told::NotThere);
    }
}
