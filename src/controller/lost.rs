//! Nodes that are not heard, and the tasks of jobs that want to be run elsewhere then (`on_node_lost = restart`).
//!
//! ```text
//!  silent for node_timeout --> UNREACHABLE, lost_at durable: nothing is placed there
//!  tick:  most nodes went silent at once?           the controller suspects itself, and replaces none
//!         lease + drift + 30 s since the last word  their shims have ended those tasks (domain::node_lost): they are
//!         of that node, or this controller's start  taken for dead, the gang ends as `platform`, the job is run again
//!  healed: the agent registers, and is compared; what the run's old tasks report is old news, and they are released
//! ```
//!
//! Every word of an agent counts as a renewal that may have been granted, and none from before this controller's start is
//! known: so it may wait too long, never too short. What the lost node held stays promised to the old run until its agent
//! has let go of it: nothing is ever given away twice.

use super::apply::Context;
use super::drain;
use super::nodes;
use super::schedule;
use super::state::{Node, State};
use crate::domain::ids::{NodeName, NodeUid};
use crate::domain::node::Standing;
use crate::domain::node_lost::{Reach, dead_at, suspicion};
use crate::domain::reconcile::{self, DesiredTask};
use crate::domain::run::Phase;
use crate::domain::spec::OnNodeLost;
use std::collections::BTreeSet;
use std::time::Duration;

/// Nodes that a reason names.
const NAMED: usize = 8;

/// An agent said something, and may have renewed the leases of its tasks with the answer.
pub(super) fn heard_from(state: &mut State, uid: &NodeUid, running_for: Duration) {
    let name = state.node_by_uid(uid).map(|(name, _)| name.clone());
    if let Some(node) = name.and_then(|name| state.nodes.get_mut(&name)) {
        node.renewed = Some(running_for);
    }
}

/// The same, where the node is known by its name.
pub(super) fn heard_at(state: &mut State, name: &NodeName, running_for: Duration) {
    if let Some(node) = state.nodes.get_mut(name) {
        node.renewed = Some(running_for);
    }
}

/// Nodes that have not been heard for too long are unreachable: nothing is placed there.
pub(super) fn notice_silence(state: &mut State, context: &mut Context<'_>) {
    let timeout = context.parts.node_timeout;
    let silent: Vec<NodeName> = state
        .nodes
        .iter()
        .filter(|(_, node)| node.reachable || node.standing.lost_at.is_none())
        .filter(|(_, node)| context.instant.duration_since(node.heard.unwrap_or(context.started)) > timeout)
        .map(|(name, _)| name.clone())
        .collect();
    for name in silent {
        let Some(node) = state.nodes.get_mut(&name) else { continue };
        node.reachable = false;
        // One that was unreachable before this controller began keeps the time of its loss.
        let lost_at = node.standing.lost_at.or(Some(context.now));
        let standing = Standing { lost_at, ..node.standing.clone() };
        drain::set(state, &name, standing);
        schedule::nodes_changed(state);
        let message = format!("not heard for {} s", timeout.as_secs_f32());
        tracing::warn!(node = %name, "{message}");
        state.note(context.now, "node.unreachable", None, None, Some(&name), message);
    }
}

/// Whether the controller doubts itself; says so when that changes.
pub(super) fn doubt(state: &mut State, context: &Context<'_>) {
    let reach = |node: &Node| Reach { heard: node.reachable, lost_at: node.standing.lost_at };
    let now = suspicion(state.nodes.values().map(reach));
    if now.is_some() == state.suspicion.is_some() {
        state.suspicion = now;
        return;
    }
    let (kind, message) = match now {
        Some(suspicion) => ("controller.suspects_itself", suspicion.to_string()),
        None => ("controller.trusts_itself", "enough nodes are heard: lost tasks are replaced again".to_owned()),
    };
    tracing::warn!("{message}");
    state.note(context.now, kind, None, None, None, message);
    state.suspicion = now;
}

/// Ends runs of which tasks are certainly dead on nodes that are not heard; their jobs are run again.
pub(super) fn replace(state: &mut State, context: &Context<'_>) {
    if state.suspicion.is_some() || state.nodes.values().all(|node| node.reachable) {
        return;
    }
    let due: Vec<_> = state
        .unsettled
        .iter()
        .filter_map(|id| {
            let run = state.runs.get(id)?;
            let lease = lease_of(state, run.job)?;
            let begun = matches!(run.phase, Phase::Launching | Phase::Running | Phase::Stopping);
            let over = |node: &NodeName| state.nodes.get(node).is_some_and(|node| is_over(node, lease, context));
            let unfinished = run.tasks.iter().filter(|task| begun && !task.state.is_terminal());
            let nodes: BTreeSet<NodeName> =
                unfinished.map(|task| &task.seat.node).filter(|node| over(node)).cloned().collect();
            (!nodes.is_empty()).then_some((*id, lease, nodes))
        })
        .collect();
    for (id, lease, nodes) in due {
        // Every task of the gang is told.
        let names = nodes.iter().take(NAMED).map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ");
        let more = nodes.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let why = format!("{names}{more} is lost: not heard for longer than the lease of {} s", lease.as_secs());
        drain::take_for_dead(state, id, &nodes, &why, context.now);
    }
}

fn lease_of(state: &State, job: crate::domain::ids::JobId) -> Option<Duration> {
    match state.specs.get(&job)?.on_node_lost {
        OnNodeLost::Wait => None,
        OnNodeLost::Restart { lease_s } => Some(Duration::from_secs(lease_s.into())),
    }
}

/// Tasks with this lease on an unreachable node are dead by now.
fn is_over(node: &Node, lease: Duration, context: &Context<'_>) -> bool {
    !node.reachable && context.running_for >= dead_at(node.renewed, lease)
}

/// Tasks that may be alive on a node that is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MayLive {
    tasks: usize,
    /// When the leases of all are over; `None`: some have none, and live until somebody says otherwise.
    pub(super) over_in: Option<Duration>,
}

impl std::fmt::Display for MayLive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} task{}", self.tasks, if self.tasks == 1 { "" } else { "s" })
    }
}

/// What may be alive on a node that is not heard: as long as anything may, no other machine may have its name, for what
/// such a machine does not know of would be run again at once.
pub(super) fn may_live_on(state: &State, name: &NodeName, context: &Context<'_>) -> Option<MayLive> {
    let node = state.nodes.get(name)?;
    let begun = |task: &DesiredTask| !matches!(task.phase, reconcile::Phase::Placed | reconcile::Phase::Releasing);
    let left = |task: &DesiredTask| {
        lease_of(state, task.id.job).map(|lease| dead_at(node.renewed, lease).saturating_sub(context.running_for))
    };
    let unfinished = nodes::desired_tasks(state, name).into_iter().filter(begun);
    let alive: Vec<Option<Duration>> =
        unfinished.map(|task| left(&task)).filter(|left| *left != Some(Duration::ZERO)).collect();
    if alive.is_empty() {
        return None;
    }
    let over_in = alive.iter().copied().try_fold(Duration::ZERO, |latest, left| Some(latest.max(left?)));
    Some(MayLive { tasks: alive.len(), over_in })
}
