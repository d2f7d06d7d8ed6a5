//! The transitions. Commands may be refused; everything else is a fact, and a fact that no longer matters
//! changes nothing.

use super::end::{end, failed, note, stopped};
use super::{Effect, Found, HardwareEnd, Refusal, StopRequest, TOMBSTONE, TaskEvent, TaskRecord};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::{Generation, GpuUuid};
use crate::domain::task::{TaskSpec, TaskState};
use crate::domain::time::Timestamp;

/// What becomes of a task. For one never seen pass [`TaskRecord::unknown`].
///
/// A command of the record's own generation with the same content again has no effects and answers the record as
/// it is: it was obeyed before.
pub fn step(task: &TaskRecord, event: TaskEvent, now: Timestamp) -> Result<(TaskRecord, Vec<Effect>), Refusal> {
    let mut next = task.clone();
    let mut effects = match event {
        TaskEvent::StageAsked { generation, spec } => stage(&mut next, generation, spec)?,
        TaskEvent::PrepareAsked { generation, spec } => prepare(&mut next, generation, spec)?,
        TaskEvent::LaunchAsked { generation } => launch(&mut next, generation)?,
        TaskEvent::StopAsked { generation, grace_ms } => stop(&mut next, generation, grace_ms, now)?,
        TaskEvent::ReleaseAsked { generation } => release(&mut next, generation, now)?,
        fact => observe(&mut next, fact, now),
    };
    if next.status() != task.status() {
        effects.push(Effect::Report);
    }
    Ok((next, effects))
}

/// Clears the way for `spec` in `generation`; true if the same was asked before.
fn admit(
    task: &mut TaskRecord,
    operation: &'static str,
    generation: Generation,
    spec: &TaskSpec,
) -> Result<bool, Refusal> {
    let id = task.id;
    if generation < task.fence || (task.released && generation == task.fence) {
        return Err(Refusal::Stale { operation, task: id, asked: generation, seen: task.fence });
    }
    if task.released || task.is_unknown() {
        *task = TaskRecord { generation, fence: generation, spec: Some(spec.clone()), ..TaskRecord::unknown(id) };
        return Ok(false);
    }
    if generation > task.generation {
        let (current, state) = (task.generation, task.state);
        return Err(Refusal::NotReleased { operation, task: id, asked: generation, current, state });
    }
    if task.spec.as_ref() != Some(spec) {
        return Err(Refusal::OtherContent { operation, task: id, generation });
    }
    Ok(true)
}

fn stage(task: &mut TaskRecord, generation: Generation, spec: TaskSpec) -> Result<Vec<Effect>, Refusal> {
    if admit(task, "stage", generation, &spec)? {
        return Ok(Vec::new());
    }
    task.state = TaskState::Staging;
    Ok(vec![Effect::Stage])
}

fn prepare(task: &mut TaskRecord, generation: Generation, spec: TaskSpec) -> Result<Vec<Effect>, Refusal> {
    admit(task, "prepare", generation, &spec)?;
    match task.state {
        TaskState::Waiting => {
            task.state = TaskState::Preparing;
            task.holding = true;
            task.residue = true;
            Ok(vec![Effect::Hold, Effect::Prepare])
        }
        TaskState::Staging => Err(Refusal::WrongState {
            operation: "prepare",
            task: task.id,
            state: task.state,
            needed: TaskState::Waiting,
        }),
        _ => Ok(Vec::new()),
    }
}

fn launch(task: &mut TaskRecord, generation: Generation) -> Result<Vec<Effect>, Refusal> {
    let (operation, id) = ("launch", task.id);
    if generation < task.fence || (task.released && generation == task.fence) {
        return Err(Refusal::Stale { operation, task: id, asked: generation, seen: task.fence });
    }
    if task.released || task.is_unknown() {
        return Err(Refusal::Unknown { operation, task: id });
    }
    if generation > task.generation {
        let (current, state) = (task.generation, task.state);
        return Err(Refusal::NotReleased { operation, task: id, asked: generation, current, state });
    }
    match task.state {
        TaskState::Ready if !task.launched => {
            task.launched = true;
            Ok(vec![Effect::Launch])
        }
        TaskState::Waiting | TaskState::Staging | TaskState::Preparing => {
            Err(Refusal::WrongState { operation, task: id, state: task.state, needed: TaskState::Ready })
        }
        // Launched before, or over: the record says how it is.
        _ => Ok(Vec::new()),
    }
}

/// Stop and Release may come from a newer decision than the one that started the task; only older ones are stale.
fn admit_end(task: &mut TaskRecord, operation: &'static str, generation: Generation) -> Result<(), Refusal> {
    if generation < task.generation {
        return Err(Refusal::Stale { operation, task: task.id, asked: generation, seen: task.generation });
    }
    task.fence = task.fence.max(generation);
    Ok(())
}

/// Remembers a task that was never here, so that a late Prepare is refused.
fn bury_unknown(task: &mut TaskRecord, generation: Generation, now: Timestamp) {
    task.generation = generation;
    end(task, now, stopped("it was stopped before this node had heard of it"));
    bury(task, now);
}

fn stop(
    task: &mut TaskRecord,
    generation: Generation,
    grace_ms: u64,
    now: Timestamp,
) -> Result<Vec<Effect>, Refusal> {
    admit_end(task, "stop", generation)?;
    if task.is_unknown() {
        bury_unknown(task, generation, now);
        return Ok(Vec::new());
    }
    Ok(begin_stop(task, grace_ms, now))
}

fn begin_stop(task: &mut TaskRecord, grace_ms: u64, now: Timestamp) -> Vec<Effect> {
    if task.state.is_terminal() {
        return Vec::new();
    }
    let earlier = task.stop;
    // A second stop may shorten the grace, never lengthen it.
    let grace_ms = earlier.map_or(grace_ms, |stop| stop.grace_ms.min(grace_ms));
    task.stop = Some(StopRequest { grace_ms, asked_at: earlier.map_or(now, |stop| stop.asked_at) });
    match task.state {
        TaskState::Waiting => end(task, now, stopped("it was stopped before it was prepared")),
        TaskState::Staging => {
            let mut effects = vec![Effect::Cancel];
            effects.extend(end(task, now, stopped("it was stopped while its image and code were fetched")));
            effects
        }
        TaskState::Preparing => {
            let mut effects = vec![Effect::Cancel];
            effects.extend(end(task, now, stopped("it was stopped while it was prepared")));
            effects
        }
        // Nothing of the user's runs at the barrier: no grace is owed.
        TaskState::Ready if !task.launched => {
            let mut effects = vec![Effect::Stop { grace_ms: 0 }];
            effects.extend(end(task, now, stopped("it was stopped before it was launched")));
            effects
        }
        _ => {
            let again = task.state == TaskState::Stopping && earlier.is_some_and(|stop| stop.grace_ms <= grace_ms);
            task.state = TaskState::Stopping;
            task.held_until = None;
            if again { Vec::new() } else { vec![Effect::Stop { grace_ms }] }
        }
    }
}

fn release(task: &mut TaskRecord, generation: Generation, now: Timestamp) -> Result<Vec<Effect>, Refusal> {
    admit_end(task, "release", generation)?;
    if task.is_unknown() {
        bury_unknown(task, generation, now);
        return Ok(Vec::new());
    }
    if task.release_asked {
        return Ok(Vec::new());
    }
    if task.state.is_terminal() {
        task.release_asked = true;
        return Ok(if task.residue { vec![Effect::Remove] } else { bury(task, now) });
    }
    // Releasing what still lives ends it first; whatever ends it goes on to remove it. A stop that is going on
    // keeps the grace it was promised.
    task.release_asked = true;
    let effects = if task.state == TaskState::Stopping { Vec::new() } else { begin_stop(task, 0, now) };
    Ok(if task.state.is_terminal() && !task.residue { [effects, bury(task, now)].concat() } else { effects })
}

/// Nothing is left: gives back what is held and becomes a tombstone.
fn bury(task: &mut TaskRecord, now: Timestamp) -> Vec<Effect> {
    let effects = if task.holding { vec![Effect::Unhold] } else { Vec::new() };
    task.holding = false;
    task.release_asked = true;
    task.released = true;
    task.tombstone_until = Some(now.plus(TOMBSTONE));
    effects
}

/// Facts are never refused. Those of another generation, or too late to matter, change nothing.
fn observe(task: &mut TaskRecord, fact: TaskEvent, now: Timestamp) -> Vec<Effect> {
    let current = task.generation;
    if task.is_unknown() || task.released {
        return Vec::new();
    }
    match (fact, task.state) {
        (TaskEvent::StageDone { generation, notices }, TaskState::Staging) if generation == current => {
            task.state = TaskState::Waiting;
            note(task, notices);
            Vec::new()
        }
        (TaskEvent::StageFailed { generation, error, user_error }, TaskState::Staging) if generation == current => {
            end(task, now, failed(user_error, error))
        }
        (TaskEvent::PrepareDone { generation, notices }, TaskState::Preparing) if generation == current => {
            task.state = TaskState::Ready;
            note(task, notices);
            Vec::new()
        }
        (TaskEvent::PrepareFailed { generation, error, user_error, busy_ports }, TaskState::Preparing)
            if generation == current =>
        {
            // Nothing was left behind, so others may have the GPUs before the controller has even heard of it.
            task.holding = false;
            let mut effects = vec![Effect::Unhold];
            effects.extend(end(task, now, Exit { busy_ports, ..failed(user_error, error) }));
            effects
        }
        (TaskEvent::PortsLost { error, busy_ports }, TaskState::Ready) if !task.launched => {
            end_and_kill(task, now, Exit { busy_ports, ..failed(false, error) })
        }
        (TaskEvent::HardwareFailed { fault, gpus, reason, grace_ms }, _) => {
            hardware_failed(task, fault, gpus, reason, grace_ms, now)
        }
        (TaskEvent::Held { until, why }, TaskState::Running) => {
            task.held_until = Some(until);
            note(task, vec![why]);
            Vec::new()
        }
        (TaskEvent::LaunchFailed { generation, error, user_error }, state) if generation == current => match state {
            TaskState::Ready if task.launched => end_and_kill(task, now, failed(user_error, error)),
            // Only before its start: a started command survives a launch call that was not answered in time.
            TaskState::Stopping if task.started_at.is_none() => {
                end_and_kill(task, now, stopped("it was stopped before its command had started"))
            }
            _ => Vec::new(),
        },
        (TaskEvent::Started { at }, TaskState::Ready) => {
            task.state = TaskState::Running;
            task.launched = true;
            task.started_at = Some(at);
            Vec::new()
        }
        (TaskEvent::Started { at }, TaskState::Stopping) => {
            task.started_at.get_or_insert(at);
            Vec::new()
        }
        (
            TaskEvent::Exited { at, exit },
            TaskState::Preparing | TaskState::Ready | TaskState::Running | TaskState::Stopping,
        ) => ended(task, at, exit),
        (TaskEvent::Removed { generation }, state) if generation == current && state.is_terminal() => {
            task.residue = false;
            if task.release_asked { bury(task, now) } else { Vec::new() }
        }
        (TaskEvent::AgentRestarted { found }, _) => adopt(task, found, now),
        _ => Vec::new(),
    }
}

/// Whatever it does on a GPU that is gone is of no use. A stop that somebody else asked for stays theirs.
fn hardware_failed(
    task: &mut TaskRecord,
    fault: u64,
    gpus: Vec<GpuUuid>,
    reason: String,
    grace_ms: u64,
    now: Timestamp,
) -> Vec<Effect> {
    if task.state.is_terminal() || !task.holding || (task.stop.is_some() && task.hardware.is_none()) {
        return Vec::new();
    }
    let hardware = task.hardware.get_or_insert_with(|| HardwareEnd { faults: Vec::new(), gpus: Vec::new(), reason });
    if hardware.faults.contains(&fault) || hardware.faults.len() >= MAX_FAULTS {
        return Vec::new();
    }
    hardware.faults.push(fault);
    for gpu in gpus {
        if !hardware.gpus.contains(&gpu) {
            hardware.gpus.push(gpu);
        }
    }
    if hardware.faults.len() > 1 { Vec::new() } else { begin_stop(task, grace_ms, now) }
}

fn adopt(task: &mut TaskRecord, found: Found, now: Timestamp) -> Vec<Effect> {
    let alive = matches!(found, Found::Waiting | Found::Running { .. });
    match (task.state, found) {
        (TaskState::Waiting, _) => Vec::new(),
        (TaskState::Staging, _) => vec![Effect::Stage],
        // Nothing of the interrupted prepare is there, so doing it again is the first time.
        (TaskState::Preparing, Found::Gone) => vec![Effect::Prepare],
        (TaskState::Preparing | TaskState::Ready | TaskState::Running, Found::Ended { started_at, at, exit })
        | (TaskState::Stopping, Found::Ended { started_at, at, exit }) => {
            task.started_at = task.started_at.or(started_at);
            task.launched |= task.started_at.is_some();
            ended(task, at, exit)
        }
        // How far its checks had come is not known.
        (TaskState::Preparing, _) => {
            end_and_kill(task, now, failed(false, "the agent was restarted while it prepared the task".to_owned()))
        }
        // It waits at its barrier, so an earlier "go" never reached it and may be said again.
        (TaskState::Ready, Found::Waiting) => {
            task.launched = false;
            Vec::new()
        }
        (TaskState::Ready | TaskState::Running, Found::Running { started_at }) => {
            task.state = TaskState::Running;
            task.launched = true;
            task.started_at.get_or_insert(started_at);
            Vec::new()
        }
        (TaskState::Stopping, Found::Running { started_at }) => {
            task.started_at.get_or_insert(started_at);
            vec![Effect::Stop { grace_ms: task.stop.map_or(0, |stop| stop.grace_ms) }]
        }
        (TaskState::Stopping, Found::Waiting) => {
            end_and_kill(task, now, stopped("it was stopped before its command had started"))
        }
        (TaskState::Running, Found::Waiting) => {
            end_and_kill(task, now, failed(false, "it was running and is at its barrier again".to_owned()))
        }
        (TaskState::Ready | TaskState::Running | TaskState::Stopping, Found::Gone) => {
            end(task, now, failed(false, "nothing is left of it and there is no record of its end".to_owned()))
        }
        // Terminal: go on with what the restart interrupted.
        _ if task.release_asked => vec![Effect::Remove],
        _ if alive => vec![Effect::Stop { grace_ms: 0 }],
        _ => Vec::new(),
    }
}

/// Faults that an end names.
const MAX_FAULTS: usize = 16;

/// For an end decided here while something may still be there.
fn end_and_kill(task: &mut TaskRecord, now: Timestamp, exit: Exit) -> Vec<Effect> {
    let mut effects = vec![Effect::Stop { grace_ms: 0 }];
    effects.extend(end(task, now, exit));
    effects
}

/// The runtime saw the end.
fn ended(task: &mut TaskRecord, at: Timestamp, exit: Exit) -> Vec<Effect> {
    let never_ran = !task.launched && matches!(exit.class, ExitClass::Success | ExitClass::User);
    let exit = if never_ran {
        // The user's command had no part in it, whatever status the shim left.
        Exit {
            class: ExitClass::Platform,
            reason: format!("it ended before it was launched: {}", exit.reason),
            ..exit
        }
    } else {
        exit
    };
    end(task, at, exit)
}
