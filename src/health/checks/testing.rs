//! What tests of checks share.

use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::health::SeenAt;

/// A finding without its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    NotThere,
    Unseen,
    InOrder,
    Fault(Verdict, Action),
}

pub(super) fn told(finding: &Finding) -> Told {
    match finding {
        Finding::NotThere => Told::NotThere,
        Finding::Unseen => Told::Unseen,
        Finding::InOrder => Told::InOrder,
        Finding::Fault { judgement, evidence, .. } => {
            assert!(!judgement.reason.is_empty() && !evidence.is_empty(), "{finding:?} says nothing");
            Told::Fault(judgement.verdict, judgement.action)
        }
    }
}

/// The time of a round: one every 15 s.
pub(super) fn at(round: usize) -> SeenAt {
    let round = u64::try_from(round).unwrap();
    SeenAt { boot_us: Some((1000 + 15 * round) * 1_000_000), order: round, ..SeenAt::default() }
}
