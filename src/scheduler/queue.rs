//! In which order waiting jobs get their turn, and who may pass whom.
//!
//! Order: priority, then time of submission, then id. The first job that does not fit now, but would on the ready
//! nodes if they were empty, gets a reservation. A job behind it may start at once if it fits beside what is
//! reserved, too: nobody delays the first beyond the end of what ran when its turn came, and nothing stands idle for
//! it but what it is going to use. [`super::reservation`] explains how. A job that the ready nodes could never hold
//! reserves nothing and blocks nobody. Only the first has a reservation; when it has started, the next one gets its
//! own, so nobody starves.
//!
//! Virtual clusters with a quota: a job over it takes no nodes and reserves none, so it holds up no other cluster. Of
//! its own cluster's quota it does keep what it needs. A job of the cluster behind it may pass only with resources of
//! which there is enough for both now, so never with what the first lacks; the first starts as soon as it would have
//! without those that passed, whatever ends when. That is stricter than with nodes, and can be: quota that waits for
//! a large job idles no machine, since other clusters use the nodes meanwhile. A job that is over the quota all by
//! itself, or that the ready nodes could never hold, keeps nothing.
//!
//! A job may avoid nodes for a moment: they refused it, or have something left of it. Callers forgive that once the job
//! was blocked, and ask again. What is kept for it is kept as if it avoided nothing; else those behind took, in that
//! one moment, what it has waited for.

use super::place::{Placement, Unplaced, could_place, place_beside, placements};
use super::quota::{Amount, OverQuota, Quotas};
use super::request::Request;
use super::reservation::{Reservation, could_hold, place_emptiest};
use super::snapshot::Snapshot;
use crate::domain::ids::JobId;
use crate::domain::time::Timestamp;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Jobs that callers show to one pass, of all virtual clusters together; those behind get their turn as these are placed.
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
    /// Its virtual cluster may not hold that much.
    OverQuota {
        over: OverQuota,
        /// The job ahead that a part of the quota is kept for.
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
    schedule_within(snapshot, &mut Quotas::default(), queue, now)
}

/// One pass over a sorted queue within quotas. What is placed is taken from the snapshot, and counted.
pub fn schedule_within(
    snapshot: &mut Snapshot,
    quotas: &mut Quotas,
    queue: &[Waiting],
    now: Timestamp,
) -> Vec<(JobId, Decision)> {
    let (blocked, ahead) = (Vec::new(), HashMap::new());
    let mut pass = Pass { snapshot, quotas, reservation: None, empty: None, idle: None, blocked, ahead };
    let mut decisions = Vec::with_capacity(queue.len());
    for waiting in queue {
        let decision = match waiting.not_before {
            Some(until) if until > now => Decision::BackingOff { until },
            _ => pass.turn(waiting),
        };
        decisions.push((waiting.job, decision));
    }
    if let Some(lent) = pass.reservation.map(Reservation::into_future).or(pass.empty) {
        pass.snapshot.take_back(lent);
    }
    decisions
}

/// What tells most requests apart at a glance: roles, and of the first its tasks, GPUs, CPUs and memory.
type Outline = (usize, u32, u32, u32, u64);

fn outline(request: &Request) -> Outline {
    let first = request.roles.first();
    first.map_or((0, 0, 0, 0, 0), |role| (request.roles.len(), role.count, role.gpus, role.cpus, role.memory_mb))
}

struct Pass<'a, 's> {
    snapshot: &'s mut Snapshot,
    quotas: &'s mut Quotas,
    reservation: Option<Reservation<'a>>,
    /// The nodes with nothing on them, once somebody had to be blocked.
    empty: Option<Snapshot>,
    /// The same, for looking only.
    idle: Option<Snapshot>,
    /// What became of others with the same request. There is only less for those who come later.
    blocked: Vec<(Outline, &'a Request, Decision)>,
    /// By virtual cluster, the first that waits and what is kept for those ahead.
    ahead: HashMap<&'a str, (JobId, Amount)>,
}

impl<'a> Pass<'a, '_> {
    fn turn(&mut self, waiting: &'a Waiting) -> Decision {
        let request = &waiting.request;
        let outline = outline(request);
        let same = |(other, blocked, _): &&(Outline, &Request, Decision)| *other == outline && *blocked == request;
        if let Some((.., decision)) = self.blocked.iter().find(same) {
            return decision.clone();
        }
        let need = request.total();
        let ahead = self.ahead.get(request.virtual_cluster.as_str());
        let kept = ahead.map_or(Amount::default(), |(_, kept)| *kept);
        if let Some(over) = self.quotas.over(&request.virtual_cluster, &need, kept) {
            return self.over_quota(waiting, &need, over);
        }
        let unplaced = match place_beside(self.snapshot, request, self.reservation.as_mut()) {
            Ok(placements) => return self.placed(request, &need, placements),
            Err(unplaced) => unplaced,
        };
        let mut reserved = false;
        if self.reservation.is_none() {
            if let Some(made) = place_emptiest(self.snapshot, request) {
                let placements = placements(self.snapshot, made, None);
                return self.placed(request, &need, placements);
            }
            self.empty.get_or_insert_with(|| self.snapshot.lend_empty());
            self.reservation = Reservation::of(waiting.job, request, self.snapshot, &mut self.empty);
            reserved = self.reservation.is_some();
        }
        self.keep_quota(waiting, &need, reserved);
        let head = self.reservation.as_ref().map(|reservation| reservation.job);
        let decision = Decision::Blocked { unplaced: unplaced.clone(), reserved: false, behind: head };
        self.remember(request, &decision);
        if reserved { Decision::Blocked { unplaced, reserved, behind: None } } else { decision }
    }

    fn placed(&mut self, request: &Request, need: &Amount, placements: Vec<Placement>) -> Decision {
        self.quotas.hold(&request.virtual_cluster, need);
        Decision::Placed(placements)
    }

    fn over_quota(&mut self, waiting: &'a Waiting, need: &Amount, over: OverQuota) -> Decision {
        let cluster = waiting.request.virtual_cluster.as_str();
        let behind = self.ahead.get(cluster).map(|(job, _)| *job);
        if self.quotas.over_alone(cluster, need).is_none() {
            self.keep_quota(waiting, need, false);
        }
        let first = self.ahead.get(cluster).map(|(job, _)| *job);
        self.remember(&waiting.request, &Decision::OverQuota { over, behind: first });
        Decision::OverQuota { over, behind }
    }

    /// Keeps what a waiting job needs of its cluster's quota: of the first of the cluster, and of the one that nodes are
    /// `reserved` for, whose quota others must not take either.
    fn keep_quota(&mut self, waiting: &'a Waiting, need: &Amount, reserved: bool) {
        let cluster = waiting.request.virtual_cluster.as_str();
        if self.quotas.limits_of(cluster).is_none() || (self.ahead.contains_key(cluster) && !reserved) {
            return;
        }
        if reserved || self.holdable(waiting) {
            let (_, kept) = self.ahead.entry(cluster).or_insert((waiting.job, Amount::default()));
            *kept = kept.plus(*need);
        }
    }

    /// Whether the ready nodes could hold a job if they were empty, and it avoided none of them any more.
    fn holdable(&mut self, waiting: &Waiting) -> bool {
        let Self { quotas, idle, snapshot, .. } = self;
        quotas.holdable(waiting.job, || {
            let idle = idle.get_or_insert_with(|| snapshot.emptied(false));
            let request = waiting.request.later();
            could_place(idle, &request).is_ok() || could_hold(idle, &request)
        })
    }

    fn remember(&mut self, request: &'a Request, decision: &Decision) {
        if self.blocked.len() < REMEMBERED {
            self.blocked.push((outline(request), request, decision.clone()));
        }
    }
}
