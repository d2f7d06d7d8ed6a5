//! What nodes hold by the books, counted in one walk over the tasks of all unsettled runs.
//!
//! A question about each of many nodes is answered from one such count. A walk for each node would be nodes times tasks,
//! with the state locked.

use super::state::State;
use crate::domain::ids::{GpuUuid, NodeName, RunId, TaskId};
use crate::domain::run::{Run, Seat};
use std::collections::{BTreeSet, HashMap};

#[cfg(test)]
thread_local! {
    /// How often this thread has walked over all runs.
    pub(super) static WALKS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[derive(Debug, Default)]
pub(super) struct Holdings {
    tasks: HashMap<NodeName, u32>,
    /// Which task holds which GPU.
    pub(super) gpus: HashMap<GpuUuid, TaskId>,
}

impl Holdings {
    pub(super) fn of(state: &State) -> Self {
        let mut holdings = Self::default();
        for run in unsettled(state) {
            let seated = run.tasks.iter().filter(|task| !task.released);
            let seated = seated.map(|task| (task.role, task.index, &task.seat));
            let left = run.leftovers.iter().map(|left| (left.role, left.index, &left.seat));
            for (role, index, seat) in seated.chain(left) {
                holdings.hold(run.task_id(role, index), seat);
            }
        }
        holdings
    }

    fn hold(&mut self, task: TaskId, seat: &Seat) {
        match self.tasks.get_mut(&seat.node) {
            Some(tasks) => *tasks = tasks.saturating_add(1),
            None => drop(self.tasks.insert(seat.node.clone(), 1)),
        }
        self.gpus.extend(seat.gpus.iter().map(|gpu| (gpu.clone(), task)));
    }

    /// Tasks that a node holds, those of earlier placements included.
    pub(super) fn tasks_on(&self, node: &NodeName) -> u32 {
        self.tasks.get(node).copied().unwrap_or(0)
    }
}

/// By each of `nodes` that has any: unsettled runs with anything unfinished there, in the order of their ids.
pub(super) fn living_runs(state: &State, nodes: &BTreeSet<NodeName>) -> HashMap<NodeName, Vec<RunId>> {
    let mut found: HashMap<NodeName, Vec<RunId>> = HashMap::new();
    for run in unsettled(state) {
        let seats = run.tasks.iter().filter(|task| !task.state.is_terminal()).map(|task| &task.seat.node);
        let here: BTreeSet<&NodeName> = seats.filter(|node| nodes.contains(*node)).collect();
        for node in here {
            found.entry(node.clone()).or_default().push(run.id);
        }
    }
    found
}

/// Every run that may hold anything.
pub(super) fn unsettled(state: &State) -> impl Iterator<Item = &Run> {
    #[cfg(test)]
    WALKS.set(WALKS.get() + 1);
    state.unsettled.iter().filter_map(|id| state.runs.get(id))
}
