//! Spreads the tasks of a gang over as many nodes as there are.
//!
//! The next task goes to the node with the fewest tasks of this gang, and of equals to the emptiest. Nodes stand in a
//! heap in that order. One that takes a task goes back into it as it is then; one that cannot take a task is left out
//! for the rest of the role, since it only gets fuller. So a role costs the nodes once, and each task a step in the heap.

use super::filter::{Fit, Prepared, fit};
use super::request::RoleRequest;
use super::reservation::Reservation;
use super::snapshot::Snapshot;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Smaller goes first: a node with GPUs that the task does not need, tasks of the gang, free GPUs, free CPUs, position.
type Key = (bool, u32, Reverse<usize>, Reverse<u32>, usize);

/// The nodes that may still take tasks of a role.
pub(super) struct Rounds {
    nodes: BinaryHeap<Reverse<Key>>,
    /// The node of the newest task: how full it is now is known only when the next one is asked for.
    newest: Option<(usize, u32)>,
    without_gpus_first: bool,
}

impl Rounds {
    /// `placed`: the nodes of the gang's tasks so far, as often as they have one.
    pub(super) fn new(
        snapshot: &Snapshot,
        prepared: &Prepared<'_>,
        role: &RoleRequest,
        placed: impl Iterator<Item = usize>,
        beside: Option<&Reservation<'_>>,
    ) -> Self {
        let mut tasks: HashMap<usize, u32> = HashMap::new();
        placed.for_each(|at| *tasks.entry(at).or_default() += 1);
        let mut rounds = Self { nodes: BinaryHeap::new(), newest: None, without_gpus_first: role.gpus == 0 };
        let roomy = snapshot.by_free_gpus().get(role.gpus as usize..).unwrap_or_default();
        // Most of a busy cluster is out at this look, and never gets into the heap.
        let suitable = |at: &usize| {
            let node = &snapshot.nodes()[*at];
            prepared.selects(*at)
                && node.cpus_free() >= role.cpus
                && node.memory_mb_free() >= role.memory_mb
                && beside.is_none_or(|reservation| reservation.may_admit(*at, role))
        };
        let keys = roomy.iter().flatten().copied().filter(suitable);
        rounds.nodes =
            keys.map(|at| Reverse(rounds.key(snapshot, at, tasks.get(&at).copied().unwrap_or(0)))).collect();
        rounds
    }

    fn key(&self, snapshot: &Snapshot, at: usize, tasks: u32) -> Key {
        let node = &snapshot.nodes()[at];
        let last_choice = self.without_gpus_first && !node.gpus.is_empty();
        (last_choice, tasks, Reverse(node.gpus_free()), Reverse(node.cpus_free()), at)
    }

    /// The node for one more task, which is going to be taken from it.
    pub(super) fn next(
        &mut self,
        snapshot: &Snapshot,
        prepared: &Prepared<'_>,
        role: &RoleRequest,
        mut beside: Option<&mut Reservation<'_>>,
    ) -> Option<(usize, Fit)> {
        if let Some((at, tasks)) = self.newest.take() {
            self.nodes.push(Reverse(self.key(snapshot, at, tasks)));
        }
        while let Some(Reverse((_, tasks, _, _, at))) = self.nodes.pop() {
            let Ok(fit) = fit(snapshot, at, prepared, role) else { continue };
            if beside.as_deref_mut().is_none_or(|reservation| reservation.admits(at, &fit.taken)) {
                self.newest = Some((at, tasks + 1));
                return Some((at, fit));
            }
        }
        None
    }
}
