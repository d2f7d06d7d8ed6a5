//! Whether the driver can be worked with at all.

use super::Look;
use super::modes::Check;
use super::round::{Finding, Round};
use crate::domain::fault::{Action, Subject, Verdict};
use crate::domain::gpu::DriverState;
use crate::health::verdict::Judgement;

/// Rounds in a row: a machine that is very busy may be late once.
const ROUNDS: u8 = 2;

/// What is remembered of the driver.
#[derive(Debug, Default)]
pub(super) struct Driver {
    hung_rounds: u8,
}

impl Driver {
    pub fn look(&mut self, look: &Look<'_>, round: &mut Round<'_>) {
        let node = Subject::default();
        let sentence = look.driver.sentence.as_deref().unwrap_or("the driver did not say more");
        round.file(Check::DriverMismatch, &node, mismatch(look.driver.state, sentence));
        round.file(Check::GpuHung, &node, self.hung(look.driver.state, sentence));
    }

    /// It does not come back whatever it is asked.
    fn hung(&mut self, state: DriverState, sentence: &str) -> Finding {
        if state != DriverState::Hung {
            self.hung_rounds = 0;
            return if state == DriverState::Ok { Finding::InOrder } else { Finding::NotThere };
        }
        self.hung_rounds = self.hung_rounds.saturating_add(1);
        if self.hung_rounds < ROUNDS {
            return Finding::Unseen;
        }
        let reason = "The driver hangs whatever it is asked: every program that uses a GPU hangs with it, and only a \
                      reboot helps.";
        Finding::fault(Judgement::new(Verdict::Node, Action::Reboot, reason), sentence)
    }
}

fn mismatch(state: DriverState, sentence: &str) -> Finding {
    match state {
        DriverState::VersionMismatch => {
            let reason = "The driver's library and its kernel module are of different versions, as after an upgrade: \
                          no program can use a GPU before the new module is loaded, as by a reboot.";
            Finding::fault(Judgement::new(Verdict::Node, Action::Reboot, reason), sentence)
        }
        DriverState::Ok => Finding::InOrder,
        DriverState::None => Finding::NotThere,
        _ => Finding::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, told};
    use super::*;

    const REBOOT: Told = Told::Fault(Verdict::Node, Action::Reboot);

    #[test]
    fn a_library_that_does_not_fit_is_told_at_once() {
        for state in DriverState::ALL {
            let expected = match state {
                DriverState::VersionMismatch => REBOOT,
                DriverState::Ok => Told::InOrder,
                DriverState::None => Told::NotThere,
                _ => Told::Unseen,
            };
            assert_eq!(told(&mismatch(state, "x")), expected, "{state:?}");
        }
    }

    #[test]
    fn a_driver_that_hangs_is_told_the_second_time() {
        let mut driver = Driver::default();
        let mut look = |state| told(&driver.hung(state, "x"));
        assert_eq!((look(DriverState::Hung), look(DriverState::Ok)), (Told::Unseen, Told::InOrder));
        assert_eq!((look(DriverState::Hung), look(DriverState::Hung)), (Told::Unseen, REBOOT));
        assert_eq!((look(DriverState::Stopped), look(DriverState::Hung)), (Told::NotThere, Told::Unseen));
    }
}
