//! In which order waiting jobs get their turn, and who may pass whom.
//!
//! Order: priority, then time of submission, then id. The first job that does not fit now, but would on the ready
//! nodes if they were empty, gets a reservation. A job behind it may start at once if it fits beside what is
//! reserved, too: nobody delays the first beyond the end of what ran when its turn came, and nothing stands idle for
//! it but what it is going to use. [`super::reservation`] explains how. A job that the ready nodes could never hold
//! reserves nothing and blocks nobody. Only the first has a reservation; when it has started, the next one gets its
//! own, so nobody starves.

use super::place::{Placement, Unplaced, place_beside, placements};
use super::request::Request;
use super::reservation::{Reservation, place_spread};
use super::snapshot::Snapshot;
use crate::domain::ids::JobId;
use crate::domain::time::Timestamp;
use std::cmp::Reverse;

/// Jobs that callers show to one pass; those behind get their turn as these are placed.
pub const LOOK_AHEAD: usize = 2000;
/// Requests that are remembered as blocked in one pass: looked at again, each would cost as much again.
const REMEMBERED: usize = 64;

/// A job that waits for its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub job: JobId,
    /// Higher goes first.
    pub priority: i32,
    pub submitted_at: Timestamp,
    /// Backing off until then: has no turn, keeps its rank.
    pub not_before: Option<Timestamp>,
    pub request: Request,
}

/// What became of one job in one pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Placed(Vec<Placement>),
    /// Does not fit now.
    Blocked {
        unplaced: Unplaced,
        /// Room is kept for it.
        reserved: bool,
        /// The job that room is kept for; without that, this one might fit.
        behind: Option<JobId>,
    },
    BackingOff {
        until: Timestamp,
    },
}

/// Sorts into the order of turns.
pub fn sort(queue: &mut [Waiting]) {
    queue.sort_by_key(|waiting| (Reverse(waiting.priority), waiting.submitted_at, waiting.job));
}

/// One pass over a sorted queue. What is placed is taken from the snapshot.
pub fn schedule(snapshot: &mut Snapshot, queue: &[Waiting], now: Timestamp) -> Vec<(JobId, Decision)> {
    let mut pass = Pass { snapshot, reservation: None, empty: None, blocked: Vec::new() };
    let mut decisions = Vec::with_capacity(queue.len());
    for waiting in queue {
        let decision = match waiting.not_before {
            Some(until) if until > now => Decision::BackingOff { until },
            _ => pass.turn(waiting),
        };
        decisions.push((waiting.job, decision));
    }
    decisions
}

struct Pass<'a, 's> {
    snapshot: &'s mut Snapshot,
    reservation: Option<Reservation<'a>>,
    /// The nodes with nothing on them, once somebody had to be blocked.
    empty: Option<Snapshot>,
    /// What became of others with the same request. There is only less for those who come later.
    blocked: Vec<(&'a Request, Decision)>,
}

impl<'a> Pass<'a, '_> {
    fn turn(&mut self, waiting: &'a Waiting) -> Decision {
        let request = &waiting.request;
        if let Some((_, decision)) = self.blocked.iter().find(|(blocked, _)| *blocked == request) {
            return decision.clone();
        }
        let unplaced = match place_beside(self.snapshot, request, self.reservation.as_mut()) {
            Ok(placements) => return Decision::Placed(placements),
            Err(unplaced) => unplaced,
        };
        let mut reserved = false;
        if self.reservation.is_none() {
            if let Some(made) = place_spread(self.snapshot, request) {
                return Decision::Placed(placements(self.snapshot, made, None));
            }
            self.reservation = Reservation::of(waiting.job, request, self.snapshot, &mut self.empty);
            reserved = self.reservation.is_some();
        }
        let head = self.reservation.as_ref().map(|reservation| reservation.job);
        let decision = Decision::Blocked { unplaced: unplaced.clone(), reserved: false, behind: head };
        if self.blocked.len() < REMEMBERED {
            self.blocked.push((request, decision.clone()));
        }
        if reserved { Decision::Blocked { unplaced, reserved, behind: None } } else { decision }
    }
}
