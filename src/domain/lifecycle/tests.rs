//! Every event in every reachable state, random walks, and the stories that the rules were made for.

use super::*;
use crate::domain::exit::ExitClass;
use crate::domain::ids::{JobId, RunId};
use crate::domain::spec::CommandStyle;
use proptest::prelude::*;
use std::collections::{HashSet, VecDeque};

const ID: TaskId = TaskId { job: JobId(1), run: RunId(1), role: 0, index: 0 };
const NOW: Timestamp = Timestamp(1_000);
const G1: Generation = Generation(1);
const G2: Generation = Generation(2);

fn spec(command: &str) -> TaskSpec {
    TaskSpec {
        id: ID,
        job_name: "job".to_owned(),
        user: "user".to_owned(),
        role_name: "worker".to_owned(),
        image: "image".to_owned(),
        command: command.to_owned(),
        command_style: CommandStyle::Shell,
        cpus: 1,
        memory_mb: 1,
        shm_mb: 1,
        gpus: vec!["GPU-0".into()],
        ports: Vec::new(),
        lease_s: None,
        debug_hold_s: None,
        files: Default::default(),
        container: Default::default(),
    }
}

fn exit(class: ExitClass) -> Exit {
    Exit::without_status(class, "an end")
}

fn events() -> Vec<TaskEvent> {
    use TaskEvent as E;
    let (at, error) = (Timestamp(2_000), || "broken".to_owned());
    let mut events = vec![E::Started { at }, E::Held { until: Timestamp(9_000), why: "status 3".to_owned() }];
    events.push(E::PortsLost { error: error(), busy_ports: vec![15_000] });
    for generation in [G1, G2] {
        for command in ["a", "b"] {
            events.push(E::StageAsked { generation, spec: spec(command) });
            events.push(E::PrepareAsked { generation, spec: spec(command) });
        }
        events.extend([
            E::StageDone { generation, notices: vec!["staged".to_owned()] },
            E::StageFailed { generation, error: error(), user_error: true },
            E::PrepareDone { generation, notices: Vec::new() },
            E::PrepareFailed { generation, error: error(), user_error: false, busy_ports: vec![] },
            E::LaunchAsked { generation },
            E::LaunchFailed { generation, error: error(), user_error: false },
            E::StopAsked { generation, grace_ms: 10 },
            E::StopAsked { generation, grace_ms: 5 },
            E::ReleaseAsked { generation },
            E::Removed { generation },
        ]);
    }
    for class in [ExitClass::Success, ExitClass::User, ExitClass::Stopped] {
        events.push(E::Exited { at, exit: exit(class) });
        events.push(E::AgentRestarted { found: Found::Ended { started_at: Some(at), at, exit: exit(class) } });
    }
    events.extend(
        [Found::Waiting, Found::Running { started_at: at }, Found::Gone].map(|found| E::AgentRestarted { found }),
    );
    events
}

/// What must hold of any record.
fn check(record: &TaskRecord) {
    let terminal = record.state.is_terminal();
    assert_eq!(record.exit.is_some(), terminal, "an exit in terminal states and only there: {record:?}");
    assert_eq!(record.ended_at.is_some(), terminal, "{record:?}");
    if let Some(exit) = &record.exit {
        assert_eq!(record.state, TaskState::of_exit(exit), "{record:?}");
    }
    if matches!(record.state, TaskState::Waiting | TaskState::Staging) {
        assert!(!record.holding && !record.residue && !record.launched, "{record:?}");
    }
    if matches!(record.state, TaskState::Preparing | TaskState::Ready | TaskState::Running | TaskState::Stopping) {
        assert!(record.holding && record.residue, "{record:?}");
    }
    if matches!(record.state, TaskState::Running | TaskState::Stopping) {
        assert!(record.launched, "{record:?}");
    }
    assert!(!record.holding || record.spec.is_some(), "{record:?}");
    assert!(record.held_until.is_none() || record.state == TaskState::Running, "{record:?}");
    assert!(!record.released || (terminal && !record.holding && record.tombstone_until.is_some()), "{record:?}");
    assert!(record.fence >= record.generation, "{record:?}");
}

/// What must hold of one step.
fn check_step(before: &TaskRecord, event: &TaskEvent, after: &TaskRecord, effects: &[Effect]) {
    check(after);
    let count = |effect: Effect| effects.iter().filter(|found| **found == effect).count();
    assert_eq!(count(Effect::Hold) == 1, !before.holding && after.holding, "{event:?} {before:?}");
    assert_eq!(count(Effect::Unhold) == 1, before.holding && !after.holding, "{event:?} {before:?}");
    assert_eq!(count(Effect::Report) == 1, before.status() != after.status(), "{event:?} {before:?}");
    assert!(count(Effect::Launch) == 0 || (!before.launched && after.launched), "{event:?} {before:?}");
    assert!(after.fence >= before.fence);
    if after.generation == before.generation && before.spec.is_some() {
        assert_eq!(before.spec, after.spec);
        if before.state.is_terminal() {
            assert_eq!((before.state, &before.exit), (after.state, &after.exit), "terminal is for good: {event:?}");
        }
        assert!(!before.released || after.released, "{event:?} {before:?}");
    }
    if after.generation != before.generation {
        assert!(before.released || before.is_unknown(), "{event:?} {before:?}");
        assert!(after.generation > before.generation);
    }
    if before.holding && !after.holding {
        let gone = matches!(event, TaskEvent::Removed { .. } | TaskEvent::PrepareFailed { .. });
        assert!(gone || !before.residue, "given back only once nothing is left: {event:?} {before:?}");
    }
    let asked = matches!(
        event,
        TaskEvent::StageAsked { .. }
            | TaskEvent::PrepareAsked { .. }
            | TaskEvent::LaunchAsked { .. }
            | TaskEvent::StopAsked { .. }
            | TaskEvent::ReleaseAsked { .. }
    );
    if asked {
        let (again, effects) = step(after, event.clone(), NOW).unwrap_or_else(|refusal| {
            // Stage and the like cannot be repeated once another step released the task; a repeat right after is.
            panic!("{event:?} was obeyed and is refused when repeated: {refusal}")
        });
        assert_eq!((&again, effects), (after, Vec::new()), "{event:?} repeated");
    }
}

/// All records that any order of the events above leads to.
fn reachable() -> Vec<TaskRecord> {
    let start = TaskRecord::unknown(ID);
    let (mut seen, mut found) = (HashSet::from([format!("{start:?}")]), vec![start.clone()]);
    let mut open = VecDeque::from([start]);
    while let Some(record) = open.pop_front() {
        for event in events() {
            let Ok((next, effects)) = step(&record, event.clone(), NOW) else { continue };
            check_step(&record, &event, &next, &effects);
            if seen.insert(format!("{next:?}")) {
                found.push(next.clone());
                open.push_back(next);
            }
        }
    }
    found
}

/// Carries effects out as an agent whose runtime obeys at once.
fn settle(record: TaskRecord, effects: Vec<Effect>) -> TaskRecord {
    let mut record = record;
    let mut open: VecDeque<Effect> = effects.into();
    while let Some(effect) = open.pop_front() {
        let generation = record.generation;
        let event = match effect {
            Effect::Remove => TaskEvent::Removed { generation },
            Effect::Stop { .. } => TaskEvent::Exited { at: NOW, exit: exit(ExitClass::Stopped) },
            _ => continue,
        };
        let (next, more) = step(&record, event, NOW).unwrap();
        record = next;
        open.extend(more);
    }
    record
}

#[test]
fn every_event_in_every_reachable_state_keeps_the_rules_and_every_state_can_be_released() {
    let records = reachable();
    for state in TaskState::ALL {
        assert!(records.iter().any(|record| record.state == state), "{state} is never reached");
    }
    for record in &records {
        // As after a crash in the worst moment: nothing that was to be done has been done.
        let found = if record.residue { Found::Running { started_at: NOW } } else { Found::Gone };
        let (restarted, effects) = step(record, TaskEvent::AgentRestarted { found }, NOW).unwrap();
        let settled = settle(restarted, effects);
        let generation = settled.fence;
        let (released, effects) = step(&settled, TaskEvent::ReleaseAsked { generation }, NOW).unwrap();
        let settled = settle(released, effects);
        assert!(settled.released && !settled.holding, "from {record:?} to {settled:?}");
        assert!(!settled.is_forgettable(NOW));
        assert!(settled.is_forgettable(NOW.plus(TOMBSTONE)));
    }
}

#[test]
fn records_survive_the_journal() {
    for record in reachable().into_iter().step_by(7) {
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<TaskRecord>(&text).unwrap(), record);
    }
}

proptest! {
    #[test]
    fn a_launch_happens_once_per_generation(walk in proptest::collection::vec(0usize..1000, 0..60)) {
        let events = events();
        let mut record = TaskRecord::unknown(ID);
        let mut launched: Option<Generation> = None;
        for position in walk {
            let event = events[position % events.len()].clone();
            // A shim found at its barrier proves that the first "go" never arrived.
            if matches!(event, TaskEvent::AgentRestarted { found: Found::Waiting }) && record.state == TaskState::Ready {
                launched = None;
            }
            let Ok((next, effects)) = step(&record, event.clone(), NOW) else { continue };
            check_step(&record, &event, &next, &effects);
            if effects.contains(&Effect::Launch) {
                prop_assert_ne!(launched, Some(next.generation));
                launched = Some(next.generation);
            }
            record = next;
        }
    }
}

/// Steps through events that must all be obeyed; answers the last record and effects.
fn run(events: Vec<TaskEvent>) -> (TaskRecord, Vec<Effect>) {
    events.into_iter().fold((TaskRecord::unknown(ID), Vec::new()), |(record, _), event| {
        step(&record, event.clone(), NOW).unwrap_or_else(|refusal| panic!("{event:?}: {refusal}"))
    })
}

fn until_ready() -> Vec<TaskEvent> {
    vec![
        TaskEvent::StageAsked { generation: G1, spec: spec("a") },
        TaskEvent::StageDone { generation: G1, notices: Vec::new() },
        TaskEvent::PrepareAsked { generation: G1, spec: spec("a") },
        TaskEvent::PrepareDone { generation: G1, notices: Vec::new() },
    ]
}

fn until_running() -> Vec<TaskEvent> {
    let mut events = until_ready();
    events.extend([TaskEvent::LaunchAsked { generation: G1 }, TaskEvent::Started { at: NOW }]);
    events
}

#[test]
fn a_held_task_runs_until_it_ends_or_is_stopped() {
    let (until, why) = (Timestamp(9_000), "the command ended with status 3".to_owned());
    let mut events = until_running();
    events.push(TaskEvent::Held { until, why: why.clone() });
    let (held, effects) = run(events.clone());
    assert_eq!((held.state, held.held_until, held.holding), (TaskState::Running, Some(until), true));
    assert_eq!((effects, &held.status().notices), (vec![Effect::Report], &vec![why.clone()]));
    // Said again after a reconnect, and after the agent's restart.
    assert_eq!(step(&held, TaskEvent::Held { until, why }, NOW).unwrap(), (held.clone(), vec![]));
    let found = Found::Running { started_at: NOW };
    assert_eq!(step(&held, TaskEvent::AgentRestarted { found }, NOW).unwrap().0.held_until, Some(until));
    let (stopping, effects) = step(&held, TaskEvent::StopAsked { generation: G1, grace_ms: 7 }, NOW).unwrap();
    assert_eq!((stopping.state, stopping.held_until), (TaskState::Stopping, None));
    assert_eq!(effects, [Effect::Stop { grace_ms: 7 }, Effect::Report]);
    let failed = Exit { code: Some(3), ..exit(ExitClass::User) };
    let (ended, _) = step(&held, TaskEvent::Exited { at: NOW, exit: failed.clone() }, NOW).unwrap();
    assert_eq!((ended.state, ended.held_until, ended.exit), (TaskState::Failed, None, Some(failed)));
}

#[test]
fn ports_that_were_lost_before_go_end_the_task_for_the_platform() {
    let lost = TaskEvent::PortsLost { error: "port 15000 is gone".to_owned(), busy_ports: vec![15_000] };
    let (ready, _) = run(until_ready());
    let (ended, effects) = step(&ready, lost.clone(), NOW).unwrap();
    let exit = ended.exit.unwrap();
    assert_eq!((exit.class, exit.busy_ports, ended.state), (ExitClass::Platform, vec![15_000], TaskState::Failed));
    assert_eq!(effects, [Effect::Stop { grace_ms: 0 }, Effect::Report]);
    let (running, _) = run(until_running());
    assert_eq!(step(&running, lost, NOW).unwrap(), (running, vec![]), "the task has them itself");
}

#[test]
fn a_whole_life() {
    let (record, effects) = run(until_ready());
    assert_eq!((record.state, record.holding), (TaskState::Ready, true));
    assert_eq!(effects, [Effect::Report]);
    let mut events = until_running();
    events.push(TaskEvent::Exited { at: NOW, exit: Exit::success() });
    let (record, effects) = run(events.clone());
    assert_eq!((record.state, record.holding, effects), (TaskState::Succeeded, true, vec![Effect::Report]));
    events.push(TaskEvent::ReleaseAsked { generation: G1 });
    assert_eq!(run(events.clone()).1, [Effect::Remove]);
    events.push(TaskEvent::Removed { generation: G1 });
    let (record, effects) = run(events);
    assert!(record.released);
    assert_eq!(effects, [Effect::Unhold, Effect::Report]);
    let next = step(&record, TaskEvent::PrepareAsked { generation: G2, spec: spec("b") }, NOW).unwrap();
    assert_eq!((next.0.state, next.0.generation), (TaskState::Preparing, G2));
}

#[test]
fn a_stop_at_the_barrier_ends_at_once() {
    let mut events = until_ready();
    events.push(TaskEvent::StopAsked { generation: G1, grace_ms: 10_000 });
    let (record, effects) = run(events);
    assert_eq!((record.state, record.holding), (TaskState::Stopped, true));
    assert_eq!(effects, [Effect::Stop { grace_ms: 0 }, Effect::Report]);
}

#[test]
fn a_second_stop_may_only_shorten_the_grace() {
    let mut events = until_running();
    events.push(TaskEvent::StopAsked { generation: G1, grace_ms: 10 });
    assert_eq!(run(events.clone()).1, [Effect::Stop { grace_ms: 10 }, Effect::Report]);
    let (record, _) = run(events);
    let (longer, effects) = step(&record, TaskEvent::StopAsked { generation: G1, grace_ms: 99 }, NOW).unwrap();
    assert_eq!((longer.stop.map(|stop| stop.grace_ms), effects), (Some(10), vec![]));
    let (_, effects) = step(&record, TaskEvent::StopAsked { generation: G1, grace_ms: 0 }, NOW).unwrap();
    assert_eq!(effects, [Effect::Stop { grace_ms: 0 }]);
}

#[test]
fn a_late_prepare_after_stop_or_release_is_stale() {
    for end in [TaskEvent::StopAsked { generation: G2, grace_ms: 0 }, TaskEvent::ReleaseAsked { generation: G2 }] {
        let (tombstone, effects) = run(vec![end]);
        assert_eq!(effects, [Effect::Report]);
        assert!(tombstone.released && tombstone.is_forgettable(NOW.plus(TOMBSTONE)));
        for generation in [G1, G2] {
            let late = step(&tombstone, TaskEvent::PrepareAsked { generation, spec: spec("a") }, NOW);
            assert!(matches!(late, Err(Refusal::Stale { .. })), "{late:?}");
        }
        let newer = TaskEvent::PrepareAsked { generation: Generation(3), spec: spec("a") };
        assert!(step(&tombstone, newer, NOW).is_ok());
    }
}

#[test]
fn commands_that_do_not_fit_are_refused_in_their_kind() {
    let (ready, _) = run(until_ready());
    let kind = |event| step(&ready, event, NOW).map_err(|refusal| Error::from(refusal).kind).unwrap_err();
    assert_eq!(kind(TaskEvent::StageAsked { generation: Generation(0), spec: spec("a") }), ErrorKind::Stale);
    assert_eq!(kind(TaskEvent::PrepareAsked { generation: G1, spec: spec("b") }), ErrorKind::AlreadyExists);
    assert_eq!(kind(TaskEvent::PrepareAsked { generation: G2, spec: spec("a") }), ErrorKind::Refused);
    assert_eq!(kind(TaskEvent::LaunchAsked { generation: G2 }), ErrorKind::Refused);
    let unknown = step(&TaskRecord::unknown(ID), TaskEvent::LaunchAsked { generation: G1 }, NOW).unwrap_err();
    assert_eq!(Error::from(unknown).kind, ErrorKind::NotFound);
    let (staging, _) = run(vec![TaskEvent::StageAsked { generation: G1, spec: spec("a") }]);
    let early = step(&staging, TaskEvent::PrepareAsked { generation: G1, spec: spec("a") }, NOW).unwrap_err();
    assert_eq!(early.to_string(), "prepare task 1.1.0.0: it is STAGING, WAITING is needed");
}

#[test]
fn a_failed_prepare_gives_back_at_once_and_blames_the_right_one() {
    for (user_error, class) in [(false, ExitClass::Platform), (true, ExitClass::User)] {
        let mut events = until_ready();
        events.truncate(3);
        events.push(TaskEvent::PrepareFailed {
            generation: G1,
            error: "no".to_owned(),
            user_error,
            busy_ports: vec![],
        });
        let (record, effects) = run(events);
        assert_eq!((record.state, record.holding), (TaskState::Failed, false));
        assert_eq!(record.exit.map(|exit| exit.class), Some(class));
        assert_eq!(effects, [Effect::Unhold, Effect::Report]);
    }
}

#[test]
fn an_end_before_launch_is_never_the_users() {
    let mut events = until_ready();
    events.push(TaskEvent::Exited { at: NOW, exit: exit(ExitClass::User) });
    assert_eq!(run(events).0.exit.map(|exit| exit.class), Some(ExitClass::Platform));
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let restarted = |mut events: Vec<TaskEvent>, found| {
        events.push(TaskEvent::AgentRestarted { found });
        run(events)
    };
    let (record, effects) = restarted(until_running(), Found::Running { started_at: NOW });
    assert_eq!((record.state, effects), (TaskState::Running, vec![]));
    let (record, _) = restarted(until_running(), Found::Gone);
    assert_eq!((record.state, record.holding), (TaskState::Failed, true));
    let mut launched = until_ready();
    launched.push(TaskEvent::LaunchAsked { generation: G1 });
    let (record, _) = restarted(launched.clone(), Found::Waiting);
    assert_eq!((record.state, record.launched), (TaskState::Ready, false));
    let (record, effects) = restarted(launched, Found::Running { started_at: NOW });
    assert_eq!((record.state, effects), (TaskState::Running, vec![Effect::Report]));
    let (_, effects) = restarted(until_ready()[..1].to_vec(), Found::Gone);
    assert_eq!(effects, [Effect::Stage]);
    let mut released = until_ready();
    released
        .extend([TaskEvent::StopAsked { generation: G1, grace_ms: 0 }, TaskEvent::ReleaseAsked { generation: G1 }]);
    let (_, effects) = restarted(released, Found::Gone);
    assert_eq!(effects, [Effect::Remove]);
}

#[test]
fn long_reasons_and_many_notices_are_cut() {
    use super::end::{MAX_NOTICES, MAX_TEXT_BYTES};
    let task = TaskRecord::unknown(ID);
    let (task, _) = step(&task, TaskEvent::StageAsked { generation: G1, spec: spec("a") }, NOW).unwrap();
    let notices = (0..100).map(|n| format!("{n}: {}", "é".repeat(5000))).collect();
    let (task, _) = step(&task, TaskEvent::StageDone { generation: G1, notices }, NOW).unwrap();
    assert_eq!(task.notices.len(), MAX_NOTICES);
    assert!(task.notices.iter().all(|notice| notice.len() <= MAX_TEXT_BYTES) && task.notices[0].ends_with("é ..."));
    assert!(task.notices[MAX_NOTICES - 1].contains("more notices"));
    let again = vec![task.notices[3].clone(), "another".to_owned()];
    let (same, _) = step(&task, TaskEvent::PrepareAsked { generation: G1, spec: spec("a") }, NOW).unwrap();
    let (same, _) = step(&same, TaskEvent::PrepareDone { generation: G1, notices: again }, NOW).unwrap();
    assert_eq!(same.notices, task.notices);
    let exit = Exit { reason: "x".repeat(1 << 20), ..exit(ExitClass::Platform) };
    let (ended, _) = step(&same, TaskEvent::Exited { at: NOW, exit }, NOW).unwrap();
    assert_eq!(ended.exit.unwrap().reason.len(), MAX_TEXT_BYTES);
}
