//! Whether the driver can be worked with at all.

use super::Look;
use super::modes::Check;
use super::round::{Finding, Round};
use crate::domain::fault::{Action, Subject, Verdict};
use crate::domain::gpu::DriverState;
use crate::health::verdict::Judgement;

/// Looks at the driver as a whole.
pub(super) fn look(look: &Look<'_>, round: &mut Round<'_>) {
    let finding = match look.driver.state {
        DriverState::VersionMismatch => {
            let reason = "The driver's library and its kernel module are of different versions, as after an upgrade: \
                          no program can use a GPU before the new module is loaded, as by a reboot.";
            let evidence = look.driver.sentence.clone().unwrap_or_default();
            Finding::fault(Judgement::new(Verdict::Node, Action::Reboot, reason), evidence)
        }
        DriverState::Ok => Finding::InOrder,
        DriverState::None => Finding::NotThere,
        _ => Finding::Unseen,
    };
    round.file(Check::DriverMismatch, &Subject::default(), finding);
}
