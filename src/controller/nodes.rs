//! Nodes: who is there, who is silent, and what should be on them.

use super::access;
use super::apply::{Context, change_run};
use super::faults;
use super::holdings;
use super::lost;
use super::permits;
use super::persist::registration_bytes;
use super::schedule;
use super::state::{Node, State};
use crate::domain::command::{Error, ErrorKind, Heartbeat, HeartbeatReply, Registered, Registration};
use crate::domain::gpu::GpuState;
use crate::domain::ids::{Generation, NodeName, NodeUid, TaskId, Term};
use crate::domain::level::Level;
use crate::domain::node::Standing;
use crate::domain::reconcile::{self, DesiredTask, Phase};
use crate::domain::run::{Action, Leftover, Phase as RunPhase, Run, RunTask, Verb};
use crate::domain::task::TaskState;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// Tasks of a node whose progress is kept; agents tell of no more.
const MAX_PROGRESS: usize = 256;
/// Most that a registration takes in the store, whose values have a limit.
const MAX_REGISTRATION: usize = 200 * 1024;

/// An agent introduces itself. A second live agent of one name is refused.
pub(super) fn register(
    state: &mut State,
    mut registration: Registration,
    context: &mut Context<'_>,
) -> Result<Registered, Error> {
    let name = registration.name.clone();
    if context.parts.certification.is_some() {
        access::refuse_removed(&state.access, &name)?;
        refuse_address(state, &registration)?;
    }
    registration.level.check_peer(format_args!("the agent of node {name}, wharf {},", registration.version))?;
    if !registration.cluster_id.is_empty() && registration.cluster_id != state.cluster_id {
        let message = format!(
            "node {name} belongs to cluster {}, this is cluster {}; its state directory must be emptied before it can join",
            registration.cluster_id, state.cluster_id
        );
        return Err(Error::refused(message));
    }
    if registration.term > state.term {
        let message =
            format!("node {name} has obeyed term {}, this controller is at {}", registration.term, state.term);
        return Err(Error::new(ErrorKind::Stale, message));
    }
    refuse_misnamed(&name)?;
    refuse_oversized(&registration)?;
    if let Some(known) = state.nodes.get(&name)
        && *known.uid() != registration.node_uid
        && may_live(known, context)
    {
        let message = format!(
            "a live agent at {} has the name {name} already; give this one another name",
            known.registration.address
        );
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    if let Some(known) = state.nodes.get(&name).filter(|known| *known.uid() != registration.node_uid)
        && let Some(tasks) = lost::may_live_on(state, &name, context)
    {
        // What the new machine does not know of would be taken for dead, and run again beside what lives.
        let message = format!(
            "{tasks} may still live on {}, which had the name {name} and is not heard; give this machine another name{}, \
             or say that they are dead with 'wharf node remove {name} --force'",
            known.registration.address,
            match tasks.over_in {
                Some(left) => format!(", wait {} s until their leases are over", left.as_secs() + 1),
                None => String::new(),
            }
        );
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    let renamed = rename(state, &registration, context)?;
    // Whom it obeyed is of this moment and not stored: kept, it would make every node look changed, and be written
    // again, each time that a controller starts.
    (registration.cluster_id, registration.term, registration.level) = (String::new(), Term(0), Level::FIRST);
    let known = state.nodes.get(&name).filter(|known| *known.uid() == registration.node_uid);
    let news = known.is_none_or(|known| !known.reachable);
    let unchanged = known.is_some_and(|known| known.registration == registration);
    let other_journal = known.is_some_and(|known| known.registration.journal_id != registration.journal_id);
    let samples = known.map_or_else(HashMap::new, |known| known.samples.clone());
    // Those of another machine are none of this one.
    let (faults, withdrawn, permit) =
        known.map(|known| (known.faults.clone(), known.withdrawn, known.permit)).unwrap_or_default();
    let unlisted_faults = known.map_or_else(Vec::new, |known| known.unlisted_faults.clone());
    let (knows_all_faults, empties) = known.map_or((true, None), |known| (known.knows_all_faults, known.empties));
    // It is asked for its list, and what it answers tells.
    let unanswered = known.and_then(|known| known.unanswered.clone());
    if news {
        let message = format!("{} at {}", registration.version, registration.address);
        state.note(context.now, "node.joined", None, None, Some(&name), message);
    }
    if other_journal {
        let message =
            "its journal was lost, damaged or torn; it tells anew what is on it, from what lies beside its tasks";
        state.note(context.now, "node.journal_lost", None, None, Some(&name), message.to_owned());
    }
    note_gpus(state, &registration, context);
    // What operators want of a node holds for the machine, and for the next one of its name.
    let before = renamed.or_else(|| state.nodes.get(&name).map(|known| known.standing.clone())).unwrap_or_default();
    let standing = Standing { lost_at: None, ..before };
    if state.nodes.get(&name).is_none_or(|known| known.standing != standing) {
        state.dirty.standings.insert(name.clone());
    }
    let node = Node {
        registration,
        standing,
        renewed: Some(context.running_for),
        heard: Some(context.instant),
        last_heartbeat: Some(context.now),
        reachable: true,
        unanswered,
        samples,
        // The next heartbeat tells.
        progress: HashMap::new(),
        faults,
        unlisted_faults,
        knows_all_faults,
        faults_version: 0,
        withdrawn,
        permit,
        empties,
    };
    state.nodes.insert(name.clone(), node);
    schedule::nodes_changed(state);
    if !unchanged {
        state.placing.capacity_changed();
        state.dirty.nodes.insert(name.clone());
    }
    context.outbox.list.push(name);
    Ok(Registered {
        cluster_id: state.cluster_id.clone(),
        term: state.term,
        heartbeat_ms: u32::try_from(context.parts.heartbeat.as_millis()).unwrap_or(u32::MAX),
        level: Level::own(),
    })
}

/// Tells history which GPUs have become unusable, and which can be used again.
fn note_gpus(state: &mut State, registration: &Registration, context: &Context<'_>) {
    let name = &registration.name;
    let known = state.nodes.get(name).map(|known| known.registration.inventory.gpu_conditions.clone());
    let (before, now) = (known.unwrap_or_default(), &registration.inventory.gpu_conditions);
    for condition in now.iter().filter(|condition| !before.contains(condition)) {
        let kind = match condition.state {
            GpuState::Lost => "gpu.lost",
            GpuState::Faulty => "gpu.faulty",
            _ => "gpu.withheld",
        };
        state.note(context.now, kind, None, None, Some(name), format!("{}: {}", condition.gpu, condition.reason));
    }
    for old in before.iter().filter(|old| !now.iter().any(|condition| condition.gpu == old.gpu)) {
        let message = format!("{} can be used again", old.gpu);
        state.note(context.now, "gpu.usable", None, None, Some(name), message);
    }
}

/// An agent speaks for its own node alone.
pub(super) fn speaks_for(from: &NodeName, node: &NodeName) -> Result<(), Error> {
    if from == node {
        return Ok(());
    }
    let message = format!("the agent of node {from} may not speak for node {node}");
    Err(Error::new(ErrorKind::NotAllowed, message))
}

/// The same of a node by its uid; of one that nobody knows everybody may speak, and hears so.
pub(super) fn speaks_for_uid(state: &State, from: &NodeName, uid: &NodeUid) -> Result<(), Error> {
    state.node_by_uid(uid).map_or(Ok(()), |(name, _)| speaks_for(from, name))
}

/// Heard lately, or not yet given the time to be heard by this controller.
pub(super) fn may_live(node: &Node, context: &Context<'_>) -> bool {
    let silent_for = context.instant.duration_since(node.heard.unwrap_or(context.started));
    node.reachable || silent_for < context.parts.node_timeout
}

/// What the controller connects to is for a node that has a certificate to show to say, as far as it can show it there.
fn refuse_address(state: &State, registration: &Registration) -> Result<(), Error> {
    let (name, address) = (&registration.name, registration.address.as_str());
    let has_certificate = state.access.nodes.get(name).is_some_and(|known| known.number > 0);
    let (host, port) = address.rsplit_once(':').unwrap_or_default();
    let is_plain = !host.is_empty() && !address.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0);
    if is_plain || (!has_certificate && address.starts_with("unix:/")) {
        return Ok(());
    }
    let start: String = address.chars().take(100).collect();
    let message =
        format!("node {name}: '{}' is not where a node can be reached; allowed is HOST:PORT", start.escape_debug());
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Names are parts of keys: what the store cannot hold would fail every batch it is in, and so all others' changes.
fn refuse_misnamed(name: &NodeName) -> Result<(), Error> {
    if name.is_well_formed() {
        return Ok(());
    }
    let start: String = name.0.chars().take(64).collect();
    let message = format!(
        "'{}' is not a node's name: it has {} bytes; allowed are {}",
        start.escape_debug(),
        name.0.len(),
        NodeName::ALLOWED
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

fn refuse_oversized(registration: &Registration) -> Result<(), Error> {
    let found = registration_bytes(registration);
    if found <= MAX_REGISTRATION {
        return Ok(());
    }
    let message = format!(
        "the registration of node {} takes {found} bytes, at most {MAX_REGISTRATION} are allowed; its {} labels, {} GPUs \
         and {} links between them are what takes most",
        registration.name,
        registration.inventory.labels.len(),
        registration.inventory.gpus.len(),
        registration.inventory.topology.links.len(),
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

/// A node that comes back under another name leaves the old one, once nothing of it is on the books, and takes along
/// what operators want of it.
fn rename(state: &mut State, registration: &Registration, context: &Context<'_>) -> Result<Option<Standing>, Error> {
    let known = state.node_by_uid(&registration.node_uid).map(|(name, _)| name.clone());
    let Some(old) = known.filter(|old| *old != registration.name) else { return Ok(None) };
    // Ids of nodes are no secrets: who has the certificate of another name may not take this one's place.
    let certified = state.access.nodes.get(&old).is_some_and(|known| known.is_valid(context.now));
    let lives = state.nodes.get(&old).is_some_and(|node| may_live(node, context));
    if context.parts.certification.is_some() && (certified || lives) {
        let message = format!(
            "node {} says that it was {old} before, which belongs to the cluster under that name; if it is the same \
             machine, remove the old name first: 'wharf node remove {old}'",
            registration.name
        );
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    let tasks = desired_tasks(state, &old).len();
    if tasks > 0 {
        let message = format!(
            "node {} was {old} before, and {tasks} tasks are there under that name; let them end, or take the old name",
            registration.name
        );
        return Err(Error::refused(message));
    }
    let standing = state.nodes.remove(&old).map(|node| node.standing);
    state.dirty.nodes.insert(old.clone());
    state.dirty.standings.insert(old);
    Ok(standing)
}

pub(super) fn heartbeat(state: &mut State, heartbeat: Heartbeat, context: &mut Context<'_>) -> HeartbeatReply {
    let term = state.term;
    let Some(name) = state.node_by_uid(&heartbeat.node_uid).map(|(name, _)| name.clone()) else {
        return HeartbeatReply { term, register_again: true, faults_version: 0, permit: None };
    };
    let Some(node) = state.nodes.get_mut(&name) else {
        return HeartbeatReply { term, register_again: true, faults_version: 0, permit: None };
    };
    // Not heard since this start, or silent for long: what is on it has to be compared first.
    let register_again = !node.reachable || node.registration.journal_id != heartbeat.journal_id;
    let mut permit = None;
    if !register_again {
        (node.heard, node.renewed) = (Some(context.instant), Some(context.running_for));
        node.last_heartbeat = Some(context.now);
        node.samples = heartbeat.samples.into_iter().collect();
        node.progress = heartbeat.progress.into_iter().take(MAX_PROGRESS).collect();
        if let Some(told) = heartbeat.faults {
            faults::told(state, &name, told, heartbeat.faults_version, context.now);
        }
        // After its faults: one that closes the node takes no other's place.
        permit = permits::answer(state, &name, heartbeat.going_out, context);
    }
    let faults_version = state.nodes.get(&name).map_or(0, |node| node.faults_version);
    HeartbeatReply { term, register_again, faults_version, permit }
}

/// Nodes that have had their time to be heard and were not.
pub(super) fn silent(state: &State, context: &Context<'_>) -> BTreeSet<NodeName> {
    let waited = |node: &Node| {
        context.instant.duration_since(node.heard.unwrap_or(context.started)) > context.parts.node_timeout
    };
    let silent = state.nodes.iter().filter(|(_, node)| !node.reachable && waited(node));
    silent.map(|(name, _)| name.clone()).collect()
}

/// For so long nobody could be heard, because the controller itself was waiting: that is no silence of the nodes.
pub(super) fn forgive_silence(state: &mut State, passed: Duration, now: Instant) {
    let later = |then: Instant| then.checked_add(passed).map_or(now, |later| later.min(now));
    for node in state.nodes.values_mut() {
        node.heard = node.heard.map(later);
        if let Some(unanswered) = &mut node.unanswered {
            unanswered.since = later(unanswered.since);
        }
    }
}

/// What should be on a node, for comparing with what is.
pub(super) fn desired_tasks(state: &State, node: &NodeName) -> Vec<DesiredTask> {
    let mut desired = Vec::new();
    for run in holdings::unsettled(state) {
        for task in run.tasks.iter().filter(|task| task.seat.node == *node && !task.released) {
            desired.push(DesiredTask {
                id: run.task_id(task.role, task.index),
                generation: run.generation,
                phase: desired_phase(run, task),
                last: None,
            });
        }
        for left in run.leftovers.iter().filter(|left| left.seat.node == *node) {
            desired.push(DesiredTask {
                id: run.task_id(left.role, left.index),
                generation: left.generation,
                phase: Phase::Releasing,
                last: None,
            });
        }
    }
    desired
}

fn desired_phase(run: &Run, task: &RunTask) -> Phase {
    match (run.phase, task.state) {
        (_, state) if state.is_terminal() => Phase::Releasing,
        (RunPhase::Stopping, _) => Phase::Stopping,
        (_, TaskState::Running | TaskState::Stopping) => Phase::Launched,
        (_, TaskState::Ready) => Phase::Prepared,
        // Prepare may be on its way; the node need not know of it yet.
        _ => Phase::Placed,
    }
}

/// Tasks that the agent of a node must know by now.
pub(super) fn must_know(state: &State, node: &NodeName) -> BTreeSet<(TaskId, Generation)> {
    let known = |task: &DesiredTask| matches!(task.phase, Phase::Prepared | Phase::Launched);
    desired_tasks(state, node).into_iter().filter(known).map(|task| (task.id, task.generation)).collect()
}

/// Carries out one line of the comparison.
pub(super) fn reconcile(
    state: &mut State,
    node: &NodeName,
    action: reconcile::Action,
    asked: &BTreeSet<(TaskId, Generation)>,
    context: &mut Context<'_>,
) {
    let command = |verb, id, generation| Action { verb, task: id, generation, node: node.clone(), grace_ms: 0 };
    match action {
        // Reports of the same list were taken already.
        reconcile::Action::Adopt(_) => {}
        reconcile::Action::Stop { id, generation } => {
            if !is_ours(state, node, id, generation) {
                tracing::warn!(%node, task = %id, "stopping a task that no job has there");
                context.outbox.orphans.push(command(Verb::Stop, id, generation));
            }
        }
        reconcile::Action::Release { id, generation } => {
            if !is_ours(state, node, id, generation) {
                context.outbox.orphans.push(command(Verb::Release, id, generation));
            }
        }
        // Only what the agent should have known when it was asked: the list may be older than a Prepare.
        reconcile::Action::Lost { id, generation, .. } if asked.contains(&(id, generation)) => {
            task_lost(state, node, id, context);
        }
        // A Release is on its way or will be; it also fences off a Prepare that is still under way.
        reconcile::Action::Lost { .. } | reconcile::Action::Forget { .. } => {}
    }
}

/// A run still looks after this generation of the task by itself.
fn is_ours(state: &State, node: &NodeName, id: TaskId, generation: Generation) -> bool {
    state.runs.get(&id.run).is_some_and(|run| {
        let held = |at: usize| !run.tasks[at].released && run.tasks[at].seat.node == *node;
        let seated = run.generation == generation && run.find(id.role, id.index).is_some_and(held);
        let left = |left: &Leftover| {
            (left.role, left.index, left.generation) == (id.role, id.index, generation) && left.seat.node == *node
        };
        (seated && !run.settled) || run.leftovers.iter().any(left)
    })
}

/// Says that a task which should be on a node is not known there.
fn task_lost(state: &mut State, node: &NodeName, id: TaskId, context: &mut Context<'_>) {
    let why = format!("{node} has no record of the task any more");
    let now = context.now;
    let changed = change_run(state, id.run, now, |run, spec| {
        run.lost(id.role, id.index, &why, &spec.roles, now);
        true
    });
    if changed {
        state.dirty.tasks.insert(id);
        state.note(now, "task.lost", Some(id.job), Some(id), Some(node), why);
    }
}
