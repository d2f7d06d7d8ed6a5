//! Somebody has set the clock. Silence, leases and calls are timed by clocks that do not notice; what is kept as a time
//! (the end of a drain, of a back-off, of preparing) is moved with it.

use super::apply::change_run;
use super::state::State;
use crate::domain::ids::{NodeName, RunId};
use crate::domain::run::Phase;
use crate::domain::time::Timestamp;

/// By `nanos`, which is negative when it was set back; `now` is what it says since then.
pub(super) fn take(state: &mut State, nanos: i64, now: Timestamp) {
    let seconds = nanos / 1_000_000_000;
    tracing::warn!(seconds, "the clock was set");
    let message = format!("by {seconds} s; what is waited for is as far away as it was");
    state.note(now, "clock.set", None, None, None, message);
    state.looked_at = state.looked_at.moved(nanos);
    state.busy_ports.clock_stepped(nanos);
    let unfinished: Vec<RunId> =
        state.runs.iter().filter(|(_, run)| run.phase != Phase::Ended).map(|(id, _)| *id).collect();
    for id in unfinished {
        change_run(state, id, now, |run, _| run.clock_stepped(nanos, now));
    }
    let moved: Vec<NodeName> = state
        .nodes
        .iter_mut()
        .filter_map(|(name, node)| node.standing.clock_stepped(nanos).then(|| name.clone()))
        .collect();
    state.dirty.standings.extend(moved);
}
