//! Somebody has set the clock. Silence, leases and calls are timed by clocks that do not notice; what is kept as a time
//! (the end of a drain, of a back-off, of preparing) is moved with it.
//!
//! The step is seen once, and the store may not take what follows from it, or take it and not say so: until it has, it is
//! remembered what was moved, and from where. What is there again after the store was read anew is moved again.

use super::apply::change_run;
use super::state::State;
use crate::domain::ids::{NodeName, RunId};
use crate::domain::run::{Phase, Run};
use crate::domain::time::Timestamp;
use std::collections::BTreeMap;

/// When preparing ends, and a back-off.
type Times = (Option<Timestamp>, Timestamp);

/// What steps have moved that the store may not have yet: how it was before, and by how many nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Moved {
    runs: BTreeMap<RunId, (Times, i64)>,
    /// Ends of drains.
    nodes: BTreeMap<NodeName, (Timestamp, i64)>,
}

/// By `nanos`, which is negative when it was set back; `now` is what it says since then.
pub(super) fn take(state: &mut State, nanos: i64, now: Timestamp, moved: &mut Moved) {
    let seconds = nanos / 1_000_000_000;
    tracing::warn!(seconds, "the clock was set");
    let message = format!("by {seconds} s; what is waited for is as far away as it was");
    state.note(now, "clock.set", None, None, None, message);
    state.looked_at = state.looked_at.moved(nanos);
    state.busy_ports.clock_stepped(nanos);
    let unfinished: Vec<(RunId, Times)> =
        state.runs.iter().filter(|(_, run)| run.phase != Phase::Ended).map(|(id, run)| (*id, times(run))).collect();
    for (id, before) in unfinished {
        if change_run(state, id, now, |run, _| run.clock_stepped(nanos, now)) {
            moved.runs.entry(id).or_insert((before, 0)).1 += nanos;
        }
    }
    for (name, node) in &mut state.nodes {
        let before = node.standing.deadline;
        if node.standing.clock_stepped(nanos) {
            state.dirty.standings.insert(name.clone());
        }
        if let Some(before) = before {
            moved.nodes.entry(name.clone()).or_insert((before, 0)).1 += nanos;
        }
    }
}

/// After the store was read anew: what it has as it was before a step is moved again.
pub(super) fn take_again(state: &mut State, now: Timestamp, moved: &Moved) {
    for (id, (before, nanos)) in &moved.runs {
        if state.runs.get(id).is_some_and(|run| run.phase != Phase::Ended && times(run) == *before) {
            change_run(state, *id, now, |run, _| run.clock_stepped(*nanos, now));
        }
    }
    for (name, (before, nanos)) in &moved.nodes {
        // Since when a node is lost was not read from the store.
        if let Some(node) = state.nodes.get_mut(name).filter(|node| node.standing.deadline == Some(*before)) {
            node.standing.deadline = Some(before.moved(*nanos));
            state.dirty.standings.insert(name.clone());
        }
    }
}

fn times(run: &Run) -> Times {
    (run.prepare_by, run.not_before)
}
