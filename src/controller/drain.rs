//! Nodes that operators close, empty and forget.
//!
//! ```text
//!  cordon/drain/uncordon --> Standing (domain::node) --durable--> answered, noted, snapshot made anew
//!  tick, for each node that is being drained:
//!      gangs that nothing of the user's runs of yet       roll back now, and are placed elsewhere
//!      the deadline has passed, and its agent is heard    runs there end as `preempted`: stopped whole, run again
//!      nothing is held there                              DRAINED
//! ```
//!
//! It looks at states, not at messages: a controller that starts anew finds the standing in the store and goes on. A run
//! that two drains concern is stopped by the first of them and then left alone. Tasks on a node that is not heard cannot
//! be moved, for they may be alive: that drain goes on when the node is back, or their leases are over, or an operator
//! says with `remove --force` that they are dead.

use super::apply::{Context, change_run, release};
use super::holdings::{self, Holdings};
use super::schedule;
use super::state::{Node, State};
use super::{access, faults, nodes, permits, views};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::{NodeName, RunId, TaskId};
use crate::domain::node::{MAX_REASON_BYTES, NodeChange, Standing, Wish};
use crate::domain::principal::Principal;
use crate::domain::run::{Action, Verb};
use crate::domain::time::Timestamp;
use crate::domain::view::NodeView;
use crate::scheduler::NodeState;
use std::collections::BTreeSet;

/// As `wharf nodes` shows it, and as the scheduler takes it. A fault of the machine closes an open node as an operator would, and
/// so does its own remedy of one.
pub(super) fn state_of(node: &Node) -> NodeState {
    if !node.answers() {
        return NodeState::Unreachable;
    }
    match standing_of(&node.standing) {
        NodeState::Ready if faults::withdraws(node).is_some() || permits::closes(node) => NodeState::Cordoned,
        standing => standing,
    }
}

/// The state of a node whose agent is heard.
pub(super) fn standing_of(standing: &Standing) -> NodeState {
    match standing.wish {
        Wish::Open => NodeState::Ready,
        Wish::Cordoned => NodeState::Cordoned,
        Wish::Draining if standing.drained_at.is_some() => NodeState::Drained,
        Wish::Draining => NodeState::Draining,
    }
}

/// An operator's word on a node; who may say it was asked before.
pub(super) fn change(
    state: &mut State,
    who: &Principal,
    name: &NodeName,
    change: &NodeChange,
    context: &mut Context<'_>,
) -> Result<NodeView, Error> {
    let Some(node) = state.nodes.get(name) else {
        return Err(Error::not_found(format!("there is no node '{name}'")));
    };
    if let NodeChange::Cordon { reason } | NodeChange::Drain { reason, .. } = change {
        check_reason(reason)?;
    }
    if let NodeChange::Remove { force } = change {
        let view = views::node(state, node, &Holdings::of(state));
        remove(state, who, name, *force, context)?;
        access::revoke_node(&mut state.access, name, context.now);
        return Ok(view);
    }
    let refused = |why| Error::refused(format!("node {name} {why}"));
    let standing = node.standing.changed(change, &who.user, context.now).map_err(refused)?;
    let (kind, mut message) = match change {
        NodeChange::Cordon { .. } => ("node.cordoned", String::new()),
        NodeChange::Uncordon if node.standing.is_open() => ("", String::new()),
        NodeChange::Uncordon => ("node.uncordoned", format!("by {}", who.user)),
        NodeChange::Drain { deadline: None, .. } => ("node.draining", ", without a deadline".to_owned()),
        NodeChange::Drain { deadline: Some(deadline), .. } => {
            ("node.draining", format!(", tasks are moved in {} s", deadline.as_secs()))
        }
        NodeChange::Remove { .. } => ("", String::new()),
    };
    if let Some(sentence) = standing.sentence() {
        message = format!("{sentence}{message}");
    }
    set(state, name, standing);
    if !kind.is_empty() {
        state.note(context.now, kind, None, None, Some(name), message);
    }
    // What is there goes, or is gone, at once and not with the next tick.
    tick(state, context.now);
    let node = state.nodes.get(name).ok_or_else(|| Error::internal(format!("node {name} is gone")))?;
    Ok(views::node(state, node, &Holdings::of(state)))
}

fn check_reason(reason: &str) -> Result<(), Error> {
    if reason.len() <= MAX_REASON_BYTES && !reason.chars().any(char::is_control) {
        return Ok(());
    }
    let message = format!("a reason is one line of at most {MAX_REASON_BYTES} bytes; this one has {}", reason.len());
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Keeps a standing, and places by it from now on.
pub(super) fn set(state: &mut State, name: &NodeName, standing: Standing) {
    let Some(node) = state.nodes.get_mut(name).filter(|node| node.standing != standing) else { return };
    node.standing = standing;
    state.dirty.standings.insert(name.clone());
    schedule::nodes_changed(state);
}

/// Brings drains forward.
pub(super) fn tick(state: &mut State, now: Timestamp) {
    let draining: BTreeSet<NodeName> = state
        .nodes
        .iter()
        .filter(|(_, node)| node.standing.wish == Wish::Draining && node.standing.drained_at.is_none())
        .map(|(name, _)| name.clone())
        .collect();
    if draining.is_empty() {
        return;
    }
    let mut there = holdings::living_runs(state, &draining);
    for name in &draining {
        empty(state, name, &there.remove(name).unwrap_or_default(), now);
    }
    let holdings = Holdings::of(state);
    for name in draining.iter().filter(|name| holdings.tasks_on(name) == 0) {
        drained(state, name, now);
    }
}

/// Makes `runs`, those with anything unfinished there, leave a node that is being drained. A run that has left already,
/// because of another node, is left alone.
fn empty(state: &mut State, name: &NodeName, runs: &[RunId], now: Timestamp) {
    let Some(node) = state.nodes.get_mut(name) else { return };
    if node.standing.mend_clock(now) {
        state.dirty.standings.insert(name.clone());
    }
    let overdue = node.reachable && node.standing.is_overdue(now);
    let why = format!("node {name} is {}", node.standing.sentence().unwrap_or_default());
    let here = BTreeSet::from([name.clone()]);
    for id in runs.iter().copied() {
        change_run(state, id, now, |run, _| run.leave(&here, &why, now));
        if overdue && change_run(state, id, now, |run, _| run.preempt(&here, &why, now)) {
            let job = state.runs.get(&id).map(|run| run.job);
            state.note(now, "run.preempted", job, None, Some(name), format!("run {id}: {why}"));
        }
    }
}

fn drained(state: &mut State, name: &NodeName, now: Timestamp) {
    let Some(node) = state.nodes.get(name) else { return };
    set(state, name, Standing { drained_at: Some(now), ..node.standing.clone() });
    state.note(now, "node.drained", None, None, Some(name), "nothing is held there any more");
}

/// Unsettled runs with anything unfinished on one of `nodes`.
pub(super) fn runs_on(state: &State, nodes: &BTreeSet<NodeName>) -> Vec<RunId> {
    holdings::unsettled(state).filter(|run| run.lives_on(nodes)).map(|run| run.id).collect()
}

fn remove(
    state: &mut State,
    who: &Principal,
    name: &NodeName,
    force: bool,
    context: &mut Context<'_>,
) -> Result<(), Error> {
    let held = nodes::desired_tasks(state, name).len();
    let live = state.nodes.get(name).is_some_and(|node| nodes::may_live(node, context));
    if !force && held > 0 {
        return Err(Error::refused(format!(
            "node {name} may hold {held} tasks; drain it first. --force takes them for dead and runs their jobs again \
             elsewhere: if the machine lives on, there are two copies of them until its agent is back"
        )));
    }
    if !force && live {
        return Err(Error::refused(format!(
            "the agent of node {name} may be alive, and would join again at once, as READY; stop it first, or say --force"
        )));
    }
    if held > 0 {
        forsake(state, name, &format!("node {name} was removed by {}", who.user), context.now);
    }
    state.nodes.remove(name);
    state.dirty.nodes.insert(name.clone());
    state.dirty.standings.insert(name.clone());
    schedule::nodes_changed(state);
    let message = format!("by {}; {held} tasks were held there", who.user);
    tracing::warn!(node = %name, "removed {message}");
    state.note(context.now, "node.removed", None, None, Some(name), message);
    Ok(())
}

/// Takes everything on a node for dead, and what it held for free. An agent that comes back with any of it is told to
/// end it, as what no run looks after.
fn forsake(state: &mut State, name: &NodeName, why: &str, now: Timestamp) {
    let here = BTreeSet::from([name.clone()]);
    for id in runs_on(state, &here) {
        change_run(state, id, now, |run, _| run.leave(&here, why, now));
        take_for_dead(state, id, &here, why, now);
    }
    for task in nodes::desired_tasks(state, name) {
        let (id, generation) = (task.id, task.generation);
        let action = Action { verb: Verb::Release, task: id, generation, node: name.clone(), grace_ms: 0 };
        release(state, &action, now);
    }
}

/// Ends what a run has on `nodes`, without a word of their agents.
pub(super) fn take_for_dead(
    state: &mut State,
    id: RunId,
    nodes: &BTreeSet<NodeName>,
    why: &str,
    now: Timestamp,
) -> Vec<TaskId> {
    let mut ended = Vec::new();
    let told = state.dirty.events.len();
    change_run(state, id, now, |run, _| {
        let gone = run.gone(nodes, why, now);
        ended = gone.into_iter().map(|at| (run.task_id(run.tasks[at].role, run.tasks[at].index), at)).collect();
        !ended.is_empty()
    });
    // What the tasks did comes before what followed from it.
    let consequences = state.dirty.events.split_off(told);
    for (task, at) in &ended {
        let node = state.runs.get(&id).map(|run| run.tasks[*at].seat.node.clone());
        state.dirty.tasks.insert(*task);
        state.note(now, "task.lost", Some(task.job), Some(*task), node.as_ref(), why);
    }
    state.dirty.events.extend(consequences);
    ended.into_iter().map(|(task, _)| task).collect()
}
