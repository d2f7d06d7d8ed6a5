//! What each message does to the state. No IO: what has to be told or sent goes into the outbox.

use super::access::Certification;
use super::core::{ControllerParts, Message, Outbox};
use super::persist::keys_of_generation;
use super::state::{Node, State};
use super::{access, deaf, drain, faults, forget, lost, nodes, possible, schedule, submit};
use crate::domain::access::IssuedCertificate;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::{Generation, JobId, NodeName, RunId, TaskId};
use crate::domain::job::JobState;
use crate::domain::node::Standing;
use crate::domain::reconcile;
use crate::domain::retry::{self, Allowance, Decision};
use crate::domain::run::{Action, CommandFailure, Outcome, Phase, Run, RunTask, Verb};
use crate::domain::spec::JobSpec;
use crate::domain::task::{TaskState, TaskStatus};
use crate::domain::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Notices of a task that are kept, and the longest sentence of an agent.
const MAX_NOTICES: usize = 32;
/// Of a GPU's name.
const MAX_WORD_BYTES: usize = 256;
const MAX_SENTENCE: usize = 4096;
/// Of one task's end.
const MAX_BUSY_PORTS: usize = 64;

/// What goes with a batch.
pub(super) struct Context<'a> {
    pub(super) now: Timestamp,
    pub(super) instant: Instant,
    /// When this controller began to listen: before that nobody can have been heard.
    pub(super) started: Instant,
    /// How long this controller has been running, suspended time included: the clock of leases.
    pub(super) running_for: Duration,
    pub(super) parts: &'a ControllerParts,
    pub(super) outbox: &'a mut Outbox,
}

/// Applies one message.
pub(super) fn message(state: &mut State, message: Message, context: &mut Context<'_>) {
    match message {
        Message::Submit { who, submit, reply } => {
            let result = submit::submit(state, &who, &submit, context);
            context.outbox.answer(reply, result);
        }
        Message::StopJob { who, job, grace_ms, reply } => {
            stop_job(state, job, grace_ms, &who.user, context.now);
            context.outbox.answer(reply, Ok(()));
        }
        Message::ChangeNode { who, node, change, reply } => {
            let result = drain::change(state, &who, &node, &change, context);
            context.outbox.answer(reply, result);
        }
        Message::Register { from, registration, reply } => {
            let result = nodes::speaks_for(&from, &registration.name)
                .and_then(|()| nodes::register(state, registration, context));
            context.outbox.answer(reply, result);
        }
        Message::Heartbeat { from, heartbeat, reply } => {
            let result = nodes::speaks_for_uid(state, &from, &heartbeat.node_uid)
                .map(|()| nodes::heartbeat(state, heartbeat, context));
            context.outbox.answer(reply, result);
        }
        Message::Report { from, node_uid, statuses, reply } => {
            if let Err(error) = nodes::speaks_for_uid(state, &from, &node_uid) {
                return context.outbox.answer(reply, Err(error));
            }
            lost::heard_from(state, &node_uid, context.running_for);
            let acknowledged = statuses.last().map_or(0, |status| status.sequence);
            for status in statuses {
                if let Some(node) = state.node_by_uid(&node_uid).map(|(name, _)| name.clone()) {
                    reported(state, &node, &status.status, context.now);
                }
            }
            context.outbox.answer(reply, Ok(acknowledged));
        }
        Message::CreateToken { who, asked, chance, reply } => {
            let result = certification(context).and_then(|certification| {
                let authority = certification.authority.fingerprint();
                access::create(&mut state.access, &who, &asked, authority, chance, context.now)
            });
            context.outbox.answer(reply, result);
        }
        Message::RevokeToken { id, reply } => {
            let result = access::revoke(&mut state.access, &id, context.now);
            context.outbox.answer(reply, result);
        }
        Message::Join { token, request, reply } => {
            let result = certification(context)
                .and_then(|certification| {
                    access::join(&mut state.access, certification, &token, &request, context.now)
                })
                .map(|issued| IssuedCertificate { cluster_id: state.cluster_id.clone(), ..issued });
            context.outbox.answer(reply, result);
        }
        Message::Renew { node, csr_pem, reply } => {
            let result = certification(context)
                .and_then(|certification| {
                    access::renew(&mut state.access, certification, &node, &csr_pem, context.now)
                })
                .map(|issued| IssuedCertificate { cluster_id: state.cluster_id.clone(), ..issued });
            context.outbox.answer(reply, result);
        }
        Message::Ping { reply } => context.outbox.answer(reply, Ok(())),
        Message::Answered { action, result } => {
            if result.is_ok() {
                lost::heard_at(state, &action.node, context.running_for);
            }
            deaf::asked(state, &action.node, result.as_ref().err(), context);
            answered(state, &action, result, context.now);
        }
        Message::Listed { node, node_uid, asked, result } => {
            if state.nodes.get(&node).is_some_and(|known| *known.uid() == node_uid) {
                deaf::asked(state, &node, result.as_ref().err(), context);
                listed(state, &node, &asked, result, context);
            }
        }
    }
}

fn certification<'a>(context: &Context<'a>) -> Result<&'a Certification, Error> {
    let none = "this controller has no certificate authority: it makes no tokens and certifies nobody";
    context.parts.certification.as_ref().ok_or_else(|| Error::refused(none))
}

/// Answers a message that cannot be applied.
pub(super) fn refuse(message: Message, error: &Error) {
    // Callers may have gone; agents ask again by themselves.
    match message {
        Message::Submit { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::StopJob { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::ChangeNode { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::Register { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::Heartbeat { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::Report { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::CreateToken { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::RevokeToken { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::Join { reply, .. } | Message::Renew { reply, .. } => drop(reply.send(Err(error.clone()))),
        Message::Ping { reply } => drop(reply.send(Err(error.clone()))),
        Message::Answered { .. } | Message::Listed { .. } => {}
    }
}

/// Time passes.
pub(super) fn tick(state: &mut State, context: &mut Context<'_>) {
    lost::notice_silence(state, context);
    deaf::notice(state, context);
    lost::doubt(state, context);
    lost::replace(state, context);
    drain::tick(state, context.now);
    let silent = nodes::silent(state, context);
    forget::old_jobs(state, context.parts.keep_ended_jobs);
    schedule::notice_back_offs(state, context.now);
    faults::limit_withdrawn(state, context.now);
    possible::sweep(state, &context.parts.policy);
    let unready =
        |id: &RunId| state.runs.get(id).is_some_and(|run| matches!(run.phase, Phase::Staging | Phase::Preparing));
    for id in state.unsettled.iter().copied().filter(unready).collect::<Vec<_>>() {
        let by_chance = chance();
        change_run(state, id, context.now, |run, _| {
            run.tick(context.now, by_chance) || run.silent(&silent, context.now)
        });
    }
}

/// In 0 to 1: what back-offs leave to it.
fn chance() -> f64 {
    let bits = u32::try_from(uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX)).unwrap_or(0);
    f64::from(bits) / f64::from(u32::MAX)
}

/// Looks at every unfinished run again, after the state was read from the store.
pub(super) fn reconsider_all(state: &mut State, now: Timestamp, outbox: &mut Outbox) {
    for id in state.unsettled.iter().copied().collect::<Vec<_>>() {
        change_run(state, id, now, |run, spec| {
            let before = (run.phase, run.prepare_by, run.settled);
            run.reconsider(&spec.roles, now);
            before != (run.phase, run.prepare_by, run.settled)
        });
        outbox.touched.insert(id);
    }
}

/// Puts back what agents told since the start, which no store holds. `instant` and `running_for`: now, as in [`Context`].
pub(super) fn keep_heard(
    state: &mut State,
    mut heard: BTreeMap<NodeName, Node>,
    instant: Instant,
    running_for: Duration,
) {
    for (name, loaded) in &mut state.nodes {
        let Some(node) = heard.remove(name).filter(|node| node.uid() == loaded.uid()) else {
            // What was not taken has removed or renamed it, or given its name away; until then it may have been heard,
            // and its leases renewed.
            (loaded.heard, loaded.renewed) = (Some(instant), Some(running_for));
            continue;
        };
        // The batch that brought it may be the one that was lost.
        state.dirty.nodes.insert(name.clone());
        // What operators want is the store's word alone; since when a node is lost is not.
        let lost_at = node.standing.lost_at.or(loaded.standing.lost_at).filter(|_| !node.reachable);
        if lost_at != loaded.standing.lost_at {
            state.dirty.standings.insert(name.clone());
        }
        // Its faults are what is stored, so that what the lost batch said of them is told again.
        let faults = std::mem::take(&mut loaded.faults);
        *loaded =
            Node { standing: Standing { lost_at, ..loaded.standing.clone() }, faults, faults_version: 0, ..node };
        if loaded.reachable {
            // While the store could not be asked, nobody could be heard here: that is not the node's silence.
            (loaded.heard, loaded.unanswered) = (Some(instant), None);
        }
    }
}

/// An agent's word on one task.
fn reported(state: &mut State, node: &NodeName, status: &TaskStatus, now: Timestamp) {
    let (id, status) = (status.id, &bounded(status));
    let seated = state.runs.get(&id.run).is_some_and(|run| {
        run.job == id.job && run.find(id.role, id.index).is_some_and(|at| run.tasks[at].seat.node == *node)
    });
    if !seated {
        return;
    }
    if let Some(node) = state.nodes.get_mut(node) {
        node.progress.remove(&id);
    }
    let before = task_of(state, id).cloned();
    let told = state.dirty.events.len();
    if change_run(state, id.run, now, |run, spec| run.reported(status, &spec.roles, now)) {
        state.dirty.tasks.insert(id);
        if let Some(exit) = &status.exit {
            busy_ports(state, node, id, &exit.busy_ports, now);
        }
        // What the task did comes before what followed from it.
        let consequences = state.dirty.events.split_off(told);
        // What failed before its barrier is rolled back and prepared again, under the same name: that was not its end.
        let stands = task_of(state, id).is_some_and(|task| task.state == status.state);
        if stands || !status.state.is_terminal() {
            note_task(state, node, status, before.as_ref(), now);
        }
        state.dirty.events.extend(consequences);
    }
}

fn task_of(state: &State, id: TaskId) -> Option<&RunTask> {
    let run = state.runs.get(&id.run)?;
    run.tasks.get(run.find(id.role, id.index)?)
}

/// Ports that were chosen for a task were somebody else's; those that the job insists on are no choice.
fn busy_ports(state: &mut State, node: &NodeName, id: TaskId, ports: &[u16], now: Timestamp) {
    let role = state.specs.get(&id.job).and_then(|spec| spec.roles.get(id.role as usize));
    let (Some(role), Some(host)) = (role, state.nodes.get(node).map(|node| node.host().to_owned())) else { return };
    let chosen: Vec<u16> = ports.iter().copied().filter(|port| !role.insists_on(*port)).collect();
    state.busy_ports.found(&host, &chosen, now);
}

/// What agents say goes into the store, whose values have a limit.
fn bounded(status: &TaskStatus) -> TaskStatus {
    let mut status = status.clone();
    status.progress.iter_mut().for_each(cut);
    status.notices.truncate(MAX_NOTICES);
    status.notices.iter_mut().for_each(cut);
    if let Some(exit) = &mut status.exit {
        cut(&mut exit.reason);
        exit.faults.truncate(MAX_NOTICES);
        exit.busy_ports.truncate(MAX_BUSY_PORTS);
        exit.faulty_gpus.retain(|gpu| gpu.0.len() <= MAX_WORD_BYTES);
        exit.faulty_gpus.truncate(MAX_NOTICES);
    }
    status
}

fn cut(text: &mut String) {
    let end = text.floor_char_boundary(MAX_SENTENCE);
    text.truncate(end);
}

fn note_task(state: &mut State, node: &NodeName, status: &TaskStatus, before: Option<&RunTask>, now: Timestamp) {
    let id = status.id;
    let started = "the command runs";
    match (status.state, &status.exit) {
        (TaskState::Running, _) if status.held_until.is_some() => {
            let held_before = before.and_then(|task| task.held_until);
            if let Some(until) = status.held_until.filter(|until| held_before != Some(*until)) {
                let message = format!("held for debugging until {}", until.to_rfc3339());
                state.note(now, "task.held", Some(id.job), Some(id), Some(node), message);
            }
        }
        (TaskState::Running, _) => state.note(now, "task.started", Some(id.job), Some(id), Some(node), started),
        (terminal, Some(exit)) if terminal.is_terminal() => {
            // Both came to pass while its agent was not heard.
            if status.started_at.is_some() && before.is_some_and(|task| task.started_at.is_none()) {
                state.note(now, "task.started", Some(id.job), Some(id), Some(node), started);
            }
            let message = format!("{terminal}: {}", exit.reason);
            state.note(now, "task.ended", Some(id.job), Some(id), Some(node), message);
        }
        _ => {}
    }
}

/// An agent answered a command, or did not.
fn answered(state: &mut State, action: &Action, result: Result<TaskStatus, Error>, now: Timestamp) {
    let id = action.task;
    match (action.verb, result) {
        (Verb::Stage, Ok(_)) => {
            change_run(state, id.run, now, |run, _| {
                run.staged(id.role, id.index, action.generation, now);
                true
            });
            state.dirty.tasks.insert(id);
        }
        (Verb::Release, Ok(_)) => release(state, action, now),
        (Verb::Release, Err(error)) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Stale) => {
            release(state, action, now);
        }
        (_, Ok(status)) => reported(state, &action.node, &status, now),
        (verb, Err(error)) => {
            if let Some(failure) = failure_of(verb, &error, &action.node) {
                tracing::warn!(task = %id, ?verb, node = %action.node, %error, "a command failed");
                if let CommandFailure::Ports { ports, .. } = &failure {
                    busy_ports(state, &action.node, id, ports, now);
                }
                let placed = state.runs.get(&id.run).map(|run| run.generation);
                change_run(state, id.run, now, |run, spec| {
                    run.failed(action, &failure, &spec.roles, now);
                    true
                });
                if placed == Some(action.generation) {
                    state.dirty.tasks.insert(id);
                    state.note(now, "task.refused", Some(id.job), Some(id), Some(&action.node), failure.why());
                }
            }
        }
    }
}

/// An agent has let go of a task: its resources are free.
pub(super) fn release(state: &mut State, action: &Action, now: Timestamp) {
    let id = action.task;
    let seat = state.runs.get(&id.run).and_then(|run| run.seat_of(id.role, id.index, action.generation).cloned());
    let released = change_run(state, id.run, now, |run, _| run.released(id.role, id.index, action.generation));
    if released {
        let run = state.runs.get(&id.run);
        if run.is_some_and(|run| run.is_past(action.generation)) {
            state.garbage.extend(keys_of_generation(id.run, action.generation));
        } else if run.is_some_and(|run| run.generation == action.generation && run.placed_at.is_some()) {
            state.dirty.tasks.insert(id);
        } else {
            state.dirty.freed.insert((id, action.generation));
        }
    }
    if let Some(seat) = seat.filter(|_| released) {
        schedule::give_back(state, id.run, id.role, action.generation, &seat);
    }
}

/// What a failed command means for the run; `None` when it has to be asked again until it is answered.
fn failure_of(verb: Verb, error: &Error, node: &NodeName) -> Option<CommandFailure> {
    let why = format!("{node}: {}", error.message);
    match (verb, error.kind) {
        (Verb::Release, _) => None,
        (Verb::Stage | Verb::Prepare, ErrorKind::Invalid) => Some(CommandFailure::Job(why)),
        (Verb::Prepare, _) if !error.busy_ports.is_empty() => {
            Some(CommandFailure::Ports { why, ports: error.busy_ports.clone() })
        }
        (Verb::Stage | Verb::Prepare, _) => Some(CommandFailure::Node(why)),
        (
            Verb::Launch | Verb::Stop,
            ErrorKind::NotFound
            | ErrorKind::Stale
            | ErrorKind::Refused
            | ErrorKind::Invalid
            | ErrorKind::AlreadyExists,
        ) => Some(CommandFailure::Unknown(why)),
        (
            Verb::Launch | Verb::Stop,
            ErrorKind::Unavailable
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Exhausted
            | ErrorKind::OutOfRange
            | ErrorKind::NotAllowed
            | ErrorKind::Internal,
        ) => None,
    }
}

/// Compares what should be on a node with what its agent says is there.
fn listed(
    state: &mut State,
    node: &NodeName,
    asked: &BTreeSet<(TaskId, Generation)>,
    result: Result<Vec<TaskStatus>, Error>,
    context: &mut Context<'_>,
) {
    let mut observed = match result {
        Ok(observed) => observed,
        Err(error) => {
            tracing::warn!(%node, %error, "the agent did not list its tasks; asking again");
            context.outbox.list.push(node.clone());
            return;
        }
    };
    // What was missed is told in the order in which it happened; the list is in that of tasks, and often here before
    // the agent's reports.
    observed.sort_by_key(|status| status.ended_at.or(status.started_at));
    for status in &observed {
        reported(state, node, status, context.now);
    }
    let desired = nodes::desired_tasks(state, node);
    // Records of what is long released are of no interest unless something still counts on them.
    let counts = |status: &TaskStatus| desired.iter().any(|task| task.id == status.id);
    let observed: Vec<TaskStatus> = observed
        .into_iter()
        .filter(|status| status.holding || !status.state.is_terminal() || counts(status))
        .collect();
    for action in reconcile::plan(&desired, &observed) {
        nodes::reconcile(state, node, action, asked, context);
    }
    // Whatever was asked of this node before may have been lost with its agent.
    let here = state.unsettled.iter().filter(|id| state.runs.get(id).is_some_and(|run| has_seat_on(run, node)));
    context.outbox.touched.extend(here);
}

fn has_seat_on(run: &Run, node: &NodeName) -> bool {
    run.tasks.iter().any(|task| task.seat.node == *node) || run.leftovers.iter().any(|left| left.seat.node == *node)
}

fn stop_job(state: &mut State, job: JobId, grace_ms: u64, by: &str, now: Timestamp) {
    let Some(job) = state.jobs.get(&job) else { return };
    let (id, run) = (job.id, job.newest_run());
    if job.state.is_terminal() {
        return;
    }
    if let Some(job) = state.jobs.get_mut(&id) {
        job.stop_asked = true;
        state.dirty.jobs.insert(id);
    }
    state.note(now, "job.stop_asked", Some(id), None, None, format!("by {by}, grace {grace_ms} ms"));
    state.dirty.whole.insert(run);
    change_run(state, run, now, |run, _| {
        run.stop(grace_ms, &format!("stopped by {by}"), now);
        true
    });
}

/// Changes a run and everything that follows from the change. `change` says whether there was one.
pub(super) fn change_run(
    state: &mut State,
    id: RunId,
    now: Timestamp,
    change: impl FnOnce(&mut Run, &JobSpec) -> bool,
) -> bool {
    let Some(run) = state.runs.get_mut(&id) else { return false };
    let Some(spec) = state.specs.get(&run.job).cloned() else { return false };
    let (before, had_started) = ((run.phase, run.generation), run.started_at.is_some());
    if !change(run, &spec) {
        return false;
    }
    let after = run.clone_header();
    if let Some(started) = after.started_at.filter(|_| !had_started) {
        state.launches.add(started.since(after.queued_at));
    }
    state.refresh_run(id);
    if before != (after.phase, after.generation) {
        state.dirty.whole.insert(id);
    }
    if before.0 != after.phase {
        note_phase(state, &after, before.0, now);
    }
    if before.0 != Phase::Ended && after.phase == Phase::Ended {
        run_ended(state, &after, &spec, now);
    }
    true
}

fn note_phase(state: &mut State, run: &Run, before: Phase, now: Timestamp) {
    let id = run.id;
    let told = match run.phase {
        Phase::Waiting => Some(("run.rolled_back", run.rolled_back.clone().unwrap_or_default())),
        Phase::Launching => Some(("run.prepared", format!("run {id}: every task is at its barrier"))),
        Phase::Running => Some(("run.started", format!("run {id}: every task runs"))),
        Phase::Ended => {
            let outcome = run.outcome.as_ref();
            let reason =
                outcome.map_or_else(String::new, |outcome| format!("{}: {}", outcome.state, outcome.exit.reason));
            Some(("run.ended", format!("run {id}: {reason}")))
        }
        Phase::Stopping => run.outcome.as_ref().map(|outcome| {
            let Outcome { state, exit, .. } = outcome;
            ("run.decided", format!("run {id}: {state}: {}; what still runs of it is stopped", exit.reason))
        }),
        Phase::Staging | Phase::Preparing => None,
    };
    if let Some((kind, message)) = told {
        tracing::debug!(run = %id, ?before, after = ?run.phase, %message, "run changed");
        state.note(now, kind, Some(run.job), None, None, message);
    }
}

/// The run is over: the job is too, or gets another run.
fn run_ended(state: &mut State, run: &Run, spec: &Arc<JobSpec>, now: Timestamp) {
    let Some(outcome) = run.outcome.clone() else { return };
    let Some(job) = state.jobs.get(&run.job) else { return };
    if job.newest_run() != run.id || job.state.is_terminal() {
        return;
    }
    let (id, retries) = (job.id, job.retries);
    let allowance = Allowance { retry_count: spec.retry_count, hardware_restarts: state.hardware_restarts };
    let decision = match job.stop_asked {
        true => Decision::End,
        false => retry::decide(allowance, &outcome.exit, retries, chance()),
    };
    match decision {
        Decision::End => {
            let mut exit = outcome.exit;
            if let Some(why) = retry::given_up(allowance, &exit, retries) {
                exit.reason = format!("{}; {why}", exit.reason);
            }
            end_job(state, id, JobState::of_run(run), exit, now);
        }
        Decision::Retry { delay, retries, why } => {
            let next = RunId(state.take_id());
            let mut again = Run::new(next, id, run.attempt.saturating_add(1), now, now.plus(delay));
            again.avoid_gpus = state.runs.get(&run.id).map(|run| run.avoided_next(now)).unwrap_or_default();
            state.runs.insert(next, again);
            if let Some(job) = state.jobs.get_mut(&id) {
                job.runs.push(next);
                job.retries = retries;
                job.state = JobState::Waiting;
            }
            state.dirty.jobs.insert(id);
            state.refresh_run(next);
            forget::old_runs(state, id);
            state.note(
                now,
                "job.retried",
                Some(id),
                None,
                None,
                format!("run {next} in {} s: {why}", delay.as_secs()),
            );
        }
    }
}

fn end_job(state: &mut State, id: JobId, end: JobState, exit: crate::domain::exit::Exit, now: Timestamp) {
    let order = state.ended.last().map_or(0, |(order, ..)| *order) + 1;
    let Some(job) = state.jobs.get_mut(&id) else { return };
    job.state = end;
    (job.ended_at, job.ended_order) = (Some(now), order);
    let message = format!("{}: {}", end.as_str(), exit.reason);
    job.exit = Some(exit);
    state.names.remove(&(job.user.clone(), job.name.clone()));
    state.ended.insert((order, now, id));
    state.dirty.jobs.insert(id);
    state.note(now, "job.ended", Some(id), None, None, message);
}
