//! Room for the first job that must wait, so that those behind it may start without making it wait longer.
//!
//! The reservation is made in a *future*: the cluster as it will be when all that runs now has ended, except what
//! has passed the job. There the job, the *head*, has its places. A job behind it may start now if it fits now and
//! also fits, on the same nodes, with the same GPUs and ports, into that future beside the head; then it is part of
//! the future. So once what ran when the head's turn came has ended, a head of one role fits: it waits for those jobs
//! at most, and for nothing that started after it. With several roles placing is a puzzle that it does not search
//! through, and the head may wait longer. As every head starts and its successor becomes the head, nobody starves as
//! long as jobs end.
//!
//! The head holds counts rather than things: when another task takes a GPU or a port that it was going to have, it
//! moves over to others on the same nodes, or the other does not start. Passes share no state but the record of who
//! passed whom, which travels with the promises; nodes for the head are chosen anew each time, those with the most
//! free GPUs first, as they need the fewest jobs to end, and those that the head avoids for the moment last. Should the head not fit beside all that passed it, because a
//! node went away or its roles make a puzzle, it waits also for those of them that are in its way, older ones rather
//! than newer ones.

use super::filter::{Prepared, fit};
use super::place::{Made, orders, undo};
use super::request::{Request, RoleRequest};
use super::snapshot::{Snapshot, Taken};
use crate::domain::ids::JobId;
use std::collections::HashMap;

/// Room kept for one job, in the future that is described above.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    pub(super) job: JobId,
    prepared: Prepared<'a>,
    future: Snapshot,
    /// The head's tasks by host, since nodes of one host share its ports.
    held: HashMap<usize, Vec<Made>>,
}

impl<'a> Reservation<'a> {
    /// None if the ready nodes could not hold the job even if they were empty. `empty` is [`Snapshot::emptied`] of
    /// `now`, used up for a reservation and left as it was without.
    pub(super) fn of(job: JobId, request: &'a Request, now: &Snapshot, empty: &mut Option<Snapshot>) -> Option<Self> {
        let future = empty.get_or_insert_with(|| now.emptied(false));
        let avoided = |at: &usize| request.avoid.contains(&now.nodes()[*at].name);
        let (last, mut order): (Vec<usize>, Vec<usize>) = nearest(now, request).into_iter().partition(avoided);
        order.extend(last);
        let passers = now.passers(job);
        passers.iter().for_each(|(node, taken)| future.take(*node, taken));
        let prepared = Prepared::in_future(future, request);
        let beside_all = walk(future, &prepared, &order);
        let all = beside_all.is_some();
        let made = match beside_all {
            Some(made) => made,
            // It would not fit the same nodes the second time.
            None if passers.is_empty() => return None,
            None => {
                passers.iter().for_each(|(node, taken)| future.put_back(*node, taken));
                walk(future, &prepared, &order)?
            }
        };
        let mut held: HashMap<usize, Vec<Made>> = HashMap::new();
        for made in made {
            held.entry(future.host_of(made.node)).or_default().push(made);
        }
        let mut reservation = Self { job, prepared, future: empty.take()?, held };
        for (node, taken) in passers.iter().rev().filter(|_| !all) {
            if reservation.admits(*node, taken) {
                reservation.take(*node, taken);
            }
        }
        Some(reservation)
    }

    /// What it was made in, for another.
    pub(super) fn into_future(self) -> Snapshot {
        self.future
    }

    /// A look at the counts alone: false if a task of `role` certainly finds no room beside the head on this node.
    pub(super) fn may_admit(&self, at: usize, role: &RoleRequest) -> bool {
        self.has_room(at, role.gpus as usize, role.cpus, role.memory_mb)
    }

    fn has_room(&self, at: usize, gpus: usize, cpus: u32, memory_mb: u64) -> bool {
        // Elsewhere, what fits now fits in a future where less is held.
        if !self.held.contains_key(&self.future.host_of(at)) {
            return true;
        }
        let node = &self.future.nodes()[at];
        node.cpus_free() >= cpus
            && node.memory_mb_free() >= memory_mb
            && node.gpus_free() >= gpus
            && self.prepared.leaves_enough(node, cpus, memory_mb)
    }

    /// Whether the head keeps its place if a task gets this, which is free now.
    pub(super) fn admits(&mut self, at: usize, taken: &Taken) -> bool {
        self.has_room(at, taken.gpus.len(), taken.cpus, taken.memory_mb)
            && (!self.collides(at, taken) || self.moved_over(at, taken).is_some())
    }

    /// Makes what is admitted a part of the future.
    pub(super) fn take(&mut self, at: usize, taken: &Taken) {
        if self.collides(at, taken)
            && let Some(moved) = self.moved_over(at, taken)
        {
            let Self { future, held, .. } = self;
            let tasks = held.entry(future.host_of(at)).or_default();
            tasks.iter().for_each(|task| future.put_back(task.node, &task.taken));
            for (task, moved) in tasks.iter_mut().zip(moved) {
                future.take(task.node, &moved);
                task.taken = moved;
            }
        }
        self.future.take(at, taken);
    }

    /// Undoes [`Reservation::take`]. Where the head has moved to meanwhile is as good as where it was.
    pub(super) fn put_back(&mut self, at: usize, taken: &Taken) {
        self.future.put_back(at, taken);
    }

    /// What is free now and not in the future is what the head is going to have.
    fn collides(&self, at: usize, taken: &Taken) -> bool {
        let node = &self.future.nodes()[at];
        taken.gpus.iter().any(|gpu| node.gpus[*gpu].why_not.is_some())
            || taken.ports.iter().any(|port| self.future.ports_of(at).used.contains(port))
    }

    /// What the head's tasks on the host of this node would have instead if another had `taken`; changes nothing.
    fn moved_over(&mut self, at: usize, taken: &Taken) -> Option<Vec<Taken>> {
        let Self { future, held, prepared, .. } = self;
        let tasks = held.get(&future.host_of(at))?;
        tasks.iter().for_each(|task| future.put_back(task.node, &task.taken));
        future.take(at, taken);
        let mut moved = Vec::with_capacity(tasks.len());
        for task in tasks {
            let Ok(fit) = fit(future, task.node, prepared, &prepared.request.roles[task.role]) else { break };
            future.take(task.node, &fit.taken);
            moved.push(fit.taken);
        }
        tasks.iter().zip(&moved).for_each(|(task, moved)| future.put_back(task.node, moved));
        future.put_back(at, taken);
        tasks.iter().for_each(|task| future.take(task.node, &task.taken));
        (moved.len() == tasks.len()).then_some(moved)
    }
}

/// Nodes with the most free GPUs first; for a gang without GPUs, those that have none before all others.
fn nearest(now: &Snapshot, request: &Request) -> Vec<usize> {
    if request.gpu_count() > 0 || now.without_gpus().is_empty() {
        return now.by_room().collect();
    }
    let has_none = |at: &usize| now.nodes()[*at].gpus.is_empty();
    now.by_room().filter(has_none).chain(now.by_room().filter(|at| !has_none(at))).collect()
}

/// Places a gang as a reservation does, but now. Where packing fails, this may not; and once all that the head waits
/// for has ended, it finds what the reservation found. Tasks of a single role are alike: a node takes as many of them
/// in one order of nodes as in another, so what packing did not find is not there.
pub(super) fn place_emptiest(now: &mut Snapshot, request: &Request) -> Option<Vec<Made>> {
    if request.roles.len() < 2 {
        return None;
    }
    let (order, prepared) = (nearest(now, request), Prepared::new(now, request));
    walk(now, &prepared, &order)
}

/// Whether a gang finds its places as a reservation does; changes nothing.
pub(super) fn could_hold(snapshot: &mut Snapshot, request: &Request) -> bool {
    let (order, prepared) = (nearest(snapshot, request), Prepared::new(snapshot, request));
    let Some(made) = walk(snapshot, &prepared, &order) else { return false };
    undo(snapshot, made);
    true
}

/// Fills node after node with task after task, the roles in one order or another; or leaves the snapshot as it was.
fn walk(snapshot: &mut Snapshot, prepared: &Prepared<'_>, nodes: &[usize]) -> Option<Vec<Made>> {
    orders(prepared.request).iter().find_map(|roles| {
        let mut made = Vec::new();
        if fill(snapshot, prepared, roles, nodes, &mut made) {
            return Some(made);
        }
        undo(snapshot, made);
        None
    })
}

fn fill(
    snapshot: &mut Snapshot,
    prepared: &Prepared<'_>,
    roles: &[usize],
    nodes: &[usize],
    made: &mut Vec<Made>,
) -> bool {
    for position in roles {
        let role = &prepared.request.roles[*position];
        let mut index = 0;
        // Once is enough: a node that is full for a role stays full.
        for at in nodes {
            if index == role.count {
                break;
            }
            while index < role.count
                && let Ok(fit) = fit(snapshot, *at, prepared, role)
            {
                made.push(Made::take(snapshot, *at, fit, (*position, role), index));
                index += 1;
            }
        }
        if index < role.count {
            return false;
        }
    }
    true
}
