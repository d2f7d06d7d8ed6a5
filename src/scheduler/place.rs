//! Places one gang: all of its tasks or none.
//!
//! Greedy: the hardest role first, each task on the best node of the moment. When that does not work out, the roles
//! are tried in two other orders. A puzzle that only a search would solve is answered with "not now"; it is asked
//! again whenever something is released.

use super::filter::{Fit, Prepared, fit};
use super::request::{Request, RoleRequest};
use super::reservation::Reservation;
use super::score::best;
use super::snapshot::{Snapshot, Taken};
use super::spread::Rounds;
use crate::domain::ids::{GpuUuid, JobId, NodeName};
use crate::domain::placement::Arrangement;
use crate::domain::task::AssignedPorts;
use std::cmp::Reverse;

/// Where one task goes and what it gets there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Position of the role in the request.
    pub role: u32,
    pub index: u32,
    pub node: NodeName,
    /// Well connected, in the driver's order.
    pub gpus: Vec<GpuUuid>,
    pub ports: Vec<AssignedPorts>,
    /// The job ahead in the queue that is to find its place beside this. To be kept with the promise.
    pub passed: Option<JobId>,
}

/// A gang that does not fit now. [`super::explain()`] says more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// The role that did not fit in the first order tried.
    pub role: u32,
    /// How many of its tasks did.
    pub placed: u32,
}

/// Places every task of the gang, in role and index order, and takes what they need from the snapshot; or leaves the
/// snapshot as it was.
pub fn place(snapshot: &mut Snapshot, request: &Request) -> Result<Vec<Placement>, Unplaced> {
    place_beside(snapshot, request, None)
}

/// The same on nodes that leave a reservation its room; what is placed is taken from both.
pub(super) fn place_beside(
    snapshot: &mut Snapshot,
    request: &Request,
    mut beside: Option<&mut Reservation<'_>>,
) -> Result<Vec<Placement>, Unplaced> {
    let made = make(snapshot, request, beside.as_deref_mut())?;
    let passed = beside.map(|reservation| reservation.job);
    Ok(placements(snapshot, made, passed))
}

/// Whether the gang could be placed; changes nothing.
pub(super) fn could_place(snapshot: &mut Snapshot, request: &Request) -> Result<(), Unplaced> {
    let made = make(snapshot, request, None)?;
    undo(snapshot, made);
    Ok(())
}

/// Every task of the gang, taken from the snapshot and from what is reserved; or none.
fn make(
    snapshot: &mut Snapshot,
    request: &Request,
    mut beside: Option<&mut Reservation<'_>>,
) -> Result<Vec<Made>, Unplaced> {
    snapshot.learn(&request.selector);
    let mut first_failure = None;
    for order in orders(request) {
        let mut made = Vec::new();
        match attempt(snapshot, request, &order, beside.as_deref_mut(), &mut made) {
            Ok(()) => return Ok(made),
            Err(unplaced) => {
                if let Some(reservation) = beside.as_deref_mut() {
                    made.iter().rev().for_each(|made| reservation.put_back(made.node, &made.taken));
                }
                undo(snapshot, made);
                first_failure.get_or_insert(unplaced);
            }
        }
    }
    match first_failure {
        Some(unplaced) => Err(unplaced),
        // No roles, no tasks: nothing to wait for.
        None => Ok(Vec::new()),
    }
}

/// One task placed, with what it takes to undo it.
#[derive(Debug)]
pub(super) struct Made {
    /// Position in the request.
    pub(super) role: usize,
    index: u32,
    pub(super) node: usize,
    pub(super) taken: Taken,
    ports: Vec<AssignedPorts>,
    last_port: Option<u16>,
}

impl Made {
    /// Takes what `fit` found for a task from the node at `node`.
    pub(super) fn take(
        snapshot: &mut Snapshot,
        node: usize,
        fit: Fit,
        role: (usize, &RoleRequest),
        index: u32,
    ) -> Self {
        let last_port = snapshot.ports_of(node).last;
        let free_ports = role.1.ports.iter().zip(&fit.ports).filter(|(need, _)| need.begin_at == 0);
        let newest = free_ports.filter_map(|(_, label)| label.ports.last().copied()).next_back();
        snapshot.take(node, &fit.taken);
        snapshot.set_last_port(node, newest.or(last_port));
        Self { role: role.0, index, node, taken: fit.taken, ports: fit.ports, last_port }
    }
}

/// Role positions in the orders worth trying, each once.
pub(super) fn orders(request: &Request) -> Vec<Vec<usize>> {
    let sorted = |key: &dyn Fn(usize) -> (u64, u64, u64)| {
        let mut order: Vec<usize> = (0..request.roles.len()).collect();
        order.sort_by_key(|at| Reverse(key(*at)));
        order
    };
    let need = |at: usize| {
        let role = &request.roles[at];
        (u64::from(role.gpus), u64::from(role.cpus), role.memory_mb)
    };
    let mut orders = vec![
        sorted(&|at| need(at)),
        sorted(&|at| (need(at).1, need(at).2, need(at).0)),
        sorted(&|at| (need(at).2, need(at).1, need(at).0)),
    ];
    orders.dedup();
    orders
}

/// Takes task by task until one does not fit; what was taken is in `made` either way.
fn attempt(
    snapshot: &mut Snapshot,
    request: &Request,
    order: &[usize],
    mut beside: Option<&mut Reservation<'_>>,
    made: &mut Vec<Made>,
) -> Result<(), Unplaced> {
    let prepared = Prepared::new(snapshot, request);
    for at in order {
        let role = &request.roles[*at];
        let mut rounds = (request.arrangement == Arrangement::Spread)
            .then(|| Rounds::new(snapshot, &prepared, role, made.iter().map(|made| made.node), beside.as_deref()));
        let mut previous: Option<usize> = None;
        for index in 0..role.count {
            let found = match &mut rounds {
                Some(rounds) => rounds.next(snapshot, &prepared, role, beside.as_deref_mut()),
                None => packed(snapshot, &prepared, role, previous, beside.as_deref_mut()),
            };
            let Some((node, fit)) = found else {
                return Err(Unplaced { role: u32::try_from(*at).unwrap_or(u32::MAX), placed: index });
            };
            if let Some(reservation) = beside.as_deref_mut() {
                reservation.take(node, &fit.taken);
            }
            previous = Some(node);
            made.push(Made::take(snapshot, node, fit, (*at, role), index));
        }
    }
    Ok(())
}

/// The fullest node that fits.
fn packed(
    snapshot: &Snapshot,
    prepared: &Prepared<'_>,
    role: &RoleRequest,
    previous: Option<usize>,
    mut beside: Option<&mut Reservation<'_>>,
) -> Option<(usize, Fit)> {
    // The node of the task before was the fullest that fitted and is fuller now: no need to search again.
    let again = previous.and_then(|at| Some((at, fit(snapshot, at, prepared, role).ok()?)));
    let mut admitted = |at, fit: &Fit| beside.as_deref_mut().is_none_or(|kept| kept.admits(at, &fit.taken));
    let again = again.filter(|(at, fit)| admitted(*at, fit));
    again.or_else(|| best(snapshot, prepared, role, beside))
}

pub(super) fn undo(snapshot: &mut Snapshot, made: Vec<Made>) {
    for made in made.into_iter().rev() {
        snapshot.put_back(made.node, &made.taken);
        snapshot.set_last_port(made.node, made.last_port);
    }
}

/// What was made, in role and index order, for others to read. The snapshot remembers whom it `passed`.
pub(super) fn placements(snapshot: &mut Snapshot, mut made: Vec<Made>, passed: Option<JobId>) -> Vec<Placement> {
    made.sort_by_key(|made| (made.role, made.index));
    let placement = |made: Made| {
        let node = &snapshot.nodes()[made.node];
        let placement = Placement {
            role: u32::try_from(made.role).unwrap_or(u32::MAX),
            index: made.index,
            node: node.name.clone(),
            gpus: made.taken.gpus.iter().map(|at| node.gpus[*at].gpu.uuid.clone()).collect(),
            ports: made.ports,
            passed,
        };
        if let Some(head) = passed {
            snapshot.passed(head, made.node, made.taken);
        }
        placement
    };
    made.into_iter().map(placement).collect()
}
