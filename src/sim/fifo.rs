//! Plain first in, first out, to compare with: the first that does not fit blocks everybody behind it.

use crate::domain::ids::JobId;
use crate::scheduler::{Decision, Snapshot, Waiting, place};

pub(super) fn schedule(snapshot: &mut Snapshot, queue: &[Waiting]) -> Vec<(JobId, Decision)> {
    let mut decisions = Vec::new();
    for waiting in queue {
        match place(snapshot, &waiting.request) {
            Ok(placements) => decisions.push((waiting.job, Decision::Placed(placements))),
            Err(unplaced) => {
                decisions.push((waiting.job, Decision::Blocked { unplaced, reserved: true, behind: None }));
                break;
            }
        }
    }
    decisions
}
