//! A run by examples, and by every history that chance makes.

use super::*;
use crate::domain::exit::ExitClass;
use crate::domain::spec::RoleSpec;
use crate::domain::task::TaskStatus;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn roles(counts: &[u32], min_failed: Option<u32>) -> Vec<RoleSpec> {
    counts
        .iter()
        .enumerate()
        .map(|(number, count)| RoleSpec {
            name: format!("role{number}"),
            count: *count,
            cpus: 1,
            memory_mb: 100,
            shm_mb: 64,
            gpus: 0,
            ports: vec![],
            command: "true".into(),
            min_failed,
            min_succeeded: None,
        })
        .collect()
}

fn seat(node: &str) -> Seat {
    Seat { node: node.into(), ip: "10.0.0.1".into(), gpus: vec![], ports: vec![], passed: None }
}

/// A run of two tasks on two nodes, just placed.
fn placed() -> Run {
    let mut run = Run::new(RunId(1), JobId(1), 1, NOW, NOW);
    run.place(vec![(0, 0, seat("a")), (0, 1, seat("b"))], NOW);
    run
}

fn status(run: &Run, index: u32, state: TaskState, exit: Option<Exit>) -> TaskStatus {
    TaskStatus {
        id: run.task_id(0, index),
        generation: run.generation,
        state,
        started_at: Some(NOW),
        ended_at: exit.is_some().then_some(NOW),
        exit,
        holding: true,
        notices: vec![],
        progress: None,
        held_until: None,
    }
}

fn report(run: &mut Run, index: u32, state: TaskState) {
    let exit = match state {
        TaskState::Succeeded => Some(Exit::success()),
        TaskState::Failed => Some(Exit { code: Some(3), ..Exit::without_status(ExitClass::User, "status 3") }),
        TaskState::Stopped => Some(Exit::without_status(ExitClass::Stopped, "stopped")),
        _ => None,
    };
    let status = status(run, index, state, exit);
    run.reported(&status, &roles(&[2], Some(1)), NOW);
}

fn stage_all(run: &mut Run) {
    for index in 0..2 {
        let generation = run.generation;
        run.staged(0, index, generation, NOW);
    }
}

fn running() -> Run {
    let mut run = placed();
    stage_all(&mut run);
    for state in [TaskState::Ready, TaskState::Running] {
        (0..2).for_each(|index| report(&mut run, index, state));
    }
    assert_eq!(run.phase, Phase::Running);
    run
}

fn verbs(run: &Run) -> Vec<(Verb, u32)> {
    run.actions().into_iter().map(|action| (action.verb, action.task.index)).collect()
}

fn ports_busy(run: &mut Run, index: u32, ports: &[u16], roles: &[RoleSpec]) {
    let action = run.action_of(run.find(0, index).unwrap()).unwrap();
    let failure = CommandFailure::Ports { why: "a port is taken".into(), ports: ports.to_vec() };
    run.failed(&action, &failure, roles, NOW);
}

#[test]
fn ports_of_others_send_the_gang_back_at_once_and_leave_nobody_out() {
    let mut run = placed();
    stage_all(&mut run);
    for conflicts in 1..=16 {
        ports_busy(&mut run, 1, &[15_000], &roles(&[2], Some(1)));
        assert_eq!(
            (run.phase, run.not_before, run.port_conflicts, run.rollbacks),
            (Phase::Waiting, NOW, conflicts, 0)
        );
        assert!(run.avoid.is_empty());
        run.leftovers.clear();
        run.place(vec![(0, 0, seat("a")), (0, 1, seat("b"))], NOW);
        stage_all(&mut run);
    }
    ports_busy(&mut run, 1, &[15_000], &roles(&[2], Some(1)));
    assert!(run.not_before > NOW, "somebody takes every port that is chosen");
}

#[test]
fn a_port_that_the_job_insists_on_is_the_nodes_lack() {
    let mut run = placed();
    stage_all(&mut run);
    let mut roles = roles(&[2], Some(1));
    roles[0].ports = vec![crate::domain::spec::PortSpec { label: "web".into(), begin_at: 8000, count: 10 }];
    ports_busy(&mut run, 1, &[15_000, 8009], &roles);
    assert_eq!((run.port_conflicts, run.rollbacks), (0, 1));
    assert!(run.not_before > NOW && run.avoid.contains(&"b".into()));
    assert!(roles[0].insists_on(8000) && !roles[0].insists_on(8010) && !roles[0].insists_on(7999));
}

#[test]
fn who_is_late_again_and_again_makes_room() {
    let mut run = placed();
    let mut waits = Vec::new();
    for _ in 0..4 {
        stage_all(&mut run);
        assert!(run.tick(NOW.plus(PREPARE_DEADLINE), 1.0));
        waits.push(run.not_before.since(NOW.plus(PREPARE_DEADLINE)).as_secs());
        run.leftovers.clear();
        run.place(vec![(0, 0, seat("a")), (0, 1, seat("b"))], NOW);
    }
    assert_eq!(waits, [1, 2, 1100, 1600]);
    assert_eq!((run.late, run.rollbacks), (4, 4));
}

#[test]
fn tasks_that_were_stopped_for_the_run_name_what_decided_it() {
    let mut run = running();
    report(&mut run, 0, TaskState::Failed);
    report(&mut run, 1, TaskState::Stopped);
    let reason = &run.tasks[1].exit.as_ref().unwrap().reason;
    assert!(reason.contains("role0[0]") && reason.contains("status 3") && reason.contains("stopped"), "{reason}");
    let mut run = running();
    run.stop(5, "stopped by ann", NOW);
    report(&mut run, 0, TaskState::Stopped);
    report(&mut run, 1, TaskState::Failed);
    let reason = |at: usize| run.tasks[at].exit.as_ref().unwrap().reason.clone();
    assert_eq!((reason(0).as_str(), reason(1).as_str()), ("stopped by ann (stopped)", "status 3"));
}

#[test]
fn a_held_task_is_no_end() {
    let mut run = running();
    let held = TaskStatus { held_until: Some(NOW), ..status(&run, 0, TaskState::Running, None) };
    assert!(run.reported(&held, &roles(&[2], Some(1)), NOW));
    assert_eq!((run.phase, run.tasks[0].held_until), (Phase::Running, Some(NOW)));
    assert!(!run.reported(&held, &roles(&[2], Some(1)), NOW), "said again");
    report(&mut run, 0, TaskState::Failed);
    assert_eq!((run.tasks[0].held_until, run.phase), (None, Phase::Stopping));
}

#[test]
fn a_gang_goes_through_its_phases_together() {
    let mut run = placed();
    assert_eq!(verbs(&run), [(Verb::Stage, 0), (Verb::Stage, 1)]);
    run.staged(0, 0, run.generation, NOW);
    assert_eq!((run.phase, verbs(&run)), (Phase::Staging, vec![(Verb::Stage, 1)]));
    run.staged(0, 1, run.generation, NOW);
    assert_eq!((run.phase, verbs(&run)), (Phase::Preparing, vec![(Verb::Prepare, 0), (Verb::Prepare, 1)]));
    report(&mut run, 1, TaskState::Ready);
    assert_eq!((run.phase, verbs(&run)), (Phase::Preparing, vec![(Verb::Prepare, 0)]));
    report(&mut run, 0, TaskState::Ready);
    assert_eq!((run.phase, verbs(&run)), (Phase::Launching, vec![(Verb::Launch, 0), (Verb::Launch, 1)]));
    report(&mut run, 0, TaskState::Running);
    report(&mut run, 1, TaskState::Running);
    assert_eq!((run.phase, verbs(&run)), (Phase::Running, vec![]));
    report(&mut run, 0, TaskState::Succeeded);
    assert_eq!(verbs(&run), [(Verb::Release, 0)]);
    report(&mut run, 1, TaskState::Succeeded);
    assert_eq!(run.phase, Phase::Ended);
    assert_eq!(run.outcome.as_ref().unwrap().state, TaskState::Succeeded);
    assert!(!run.settled);
    (0..2).for_each(|index| assert!(run.released(0, index, run.generation)));
    assert!(run.settled && run.actions().is_empty());
}

#[test]
fn a_task_that_ends_before_the_other_runs_counts() {
    let mut run = placed();
    stage_all(&mut run);
    (0..2).for_each(|index| report(&mut run, index, TaskState::Ready));
    report(&mut run, 0, TaskState::Succeeded);
    assert_eq!(run.phase, Phase::Launching);
    report(&mut run, 1, TaskState::Running);
    assert_eq!(run.phase, Phase::Running);
}

#[test]
fn a_failure_stops_the_others_and_is_the_runs_own() {
    let mut run = running();
    report(&mut run, 1, TaskState::Failed);
    assert_eq!((run.phase, verbs(&run)), (Phase::Stopping, vec![(Verb::Stop, 0), (Verb::Release, 1)]));
    report(&mut run, 0, TaskState::Stopped);
    let outcome = run.outcome.as_ref().unwrap();
    assert_eq!((run.phase, outcome.state, outcome.exit.code), (Phase::Ended, TaskState::Failed, Some(3)));
    assert_eq!(outcome.exit.reason, "task role0[1]: status 3");
}

#[test]
fn a_veto_gives_the_whole_gang_back_and_avoids_the_node_once() {
    let mut run = placed();
    stage_all(&mut run);
    report(&mut run, 0, TaskState::Ready);
    let action = run.actions().remove(0);
    assert_eq!(action.verb, Verb::Prepare);
    run.failed(&action, &CommandFailure::Node("b: port 15000 is taken".into()), &roles(&[2], Some(1)), NOW);
    assert_eq!(run.phase, Phase::Waiting);
    assert_eq!(verbs(&run), [(Verb::Release, 0), (Verb::Release, 1)]);
    assert!(run.not_before > NOW && run.excluded_nodes().contains(&NodeName::from("b")));
    let old = run.generation;
    assert!(run.released(0, 0, old) && run.released(0, 1, old));
    assert!(run.actions().is_empty() && run.unsettled.is_empty());
    assert_eq!(run.excluded_nodes(), BTreeSet::from([NodeName::from("b")]));
    run.place(vec![(0, 0, seat("a")), (0, 1, seat("a"))], NOW);
    assert!(run.generation > old && run.excluded_nodes().is_empty());
}

#[test]
fn words_of_an_older_generation_change_nothing() {
    let mut run = placed();
    let stale = TaskStatus { generation: Generation(0), ..status(&run, 0, TaskState::Running, None) };
    assert!(!run.reported(&stale, &roles(&[2], Some(1)), NOW));
    run.staged(0, 0, Generation(0), NOW);
    assert!(!run.tasks[0].staged);
}

#[test]
fn what_the_job_asks_wrongly_fails_it_at_once() {
    let mut run = placed();
    let action = run.actions().remove(0);
    run.failed(&action, &CommandFailure::Job("dir:/nowhere does not exist".into()), &roles(&[2], Some(1)), NOW);
    assert_eq!(run.phase, Phase::Stopping);
    let outcome = run.outcome.as_ref().unwrap();
    assert_eq!((outcome.state, outcome.exit.class), (TaskState::Failed, ExitClass::User));
}

#[test]
fn a_gang_that_is_late_is_given_back() {
    let mut run = placed();
    stage_all(&mut run);
    report(&mut run, 0, TaskState::Ready);
    assert!(!run.tick(NOW, 0.0));
    assert!(run.tick(NOW.plus(PREPARE_DEADLINE), 0.0));
    assert_eq!((run.phase, run.avoid.clone()), (Phase::Waiting, BTreeSet::from([NodeName::from("b")])));
}

#[test]
fn stopping_a_waiting_run_ends_it() {
    let mut run = Run::new(RunId(1), JobId(1), 1, NOW, NOW);
    run.stop(5, "stopped by alice", NOW);
    assert_eq!((run.phase, run.settled), (Phase::Ended, true));
    assert_eq!(run.outcome.as_ref().unwrap().state, TaskState::Stopped);
}

#[test]
fn a_second_stop_only_shortens_the_grace() {
    let mut run = running();
    run.stop(5_000, "stopped by alice", NOW);
    run.stop(10_000, "stopped by alice", NOW);
    assert!(run.actions().iter().all(|action| action.verb == Verb::Stop && action.grace_ms == 5_000));
    run.stop(1_000, "stopped by alice", NOW);
    assert!(run.actions().iter().all(|action| action.grace_ms == 1_000));
}

#[test]
fn a_running_task_without_a_record_is_the_platforms_end() {
    let mut run = running();
    run.lost(0, 0, "a has no record of the task", &roles(&[2], Some(1)), NOW);
    assert_eq!(run.tasks[0].exit.as_ref().unwrap().class, ExitClass::Platform);
    assert_eq!(run.outcome.as_ref().unwrap().state, TaskState::Failed);
}

#[derive(Debug, Clone)]
enum Happening {
    Place,
    Staged(u32),
    Report(u32, TaskState),
    Stale(u32, TaskState),
    Fail(usize, CommandFailure),
    Lost(u32),
    Stop(u64),
    Tick(bool),
    Released(u32),
    ReleasedOld(u32),
    Reconsider,
}

fn happening() -> impl Strategy<Value = Happening> {
    let state = || prop::sample::select(TaskState::ALL.to_vec());
    let failure = prop_oneof![
        Just(CommandFailure::Job("job".into())),
        Just(CommandFailure::Node("node".into())),
        Just(CommandFailure::Unknown("unknown".into())),
    ];
    prop_oneof![
        2 => Just(Happening::Place),
        4 => (0u32..2).prop_map(Happening::Staged),
        8 => (0u32..2, state()).prop_map(|(index, state)| Happening::Report(index, state)),
        1 => (0u32..2, state()).prop_map(|(index, state)| Happening::Stale(index, state)),
        1 => (0usize..4, failure).prop_map(|(action, failure)| Happening::Fail(action, failure)),
        1 => (0u32..2).prop_map(Happening::Lost),
        1 => (0u64..9).prop_map(Happening::Stop),
        1 => any::<bool>().prop_map(Happening::Tick),
        3 => (0u32..2).prop_map(Happening::Released),
        2 => (0u32..2).prop_map(Happening::ReleasedOld),
        1 => Just(Happening::Reconsider),
    ]
}

fn apply(run: &mut Run, happening: Happening) {
    let roles = roles(&[2], Some(1));
    match happening {
        Happening::Place if run.phase == Phase::Waiting => {
            run.place(vec![(0, 1, seat("b")), (0, 0, seat("a"))], NOW);
        }
        Happening::Place => {}
        Happening::Staged(index) => run.staged(0, index, run.generation, NOW),
        Happening::Report(index, state) => report(run, index, state),
        Happening::Stale(index, state) => {
            let old = TaskStatus { generation: Generation(run.generation.0 + 1), ..status(run, index, state, None) };
            let before = run.clone();
            assert!(!run.reported(&old, &roles, NOW));
            assert_eq!(*run, before);
        }
        Happening::Fail(at, failure) => {
            let actions = run.actions();
            if let Some(action) = actions.get(at)
                && action.verb != Verb::Release
            {
                run.failed(action, &failure, &roles, NOW);
            }
        }
        Happening::Lost(index) => run.lost(0, index, "lost", &roles, NOW),
        Happening::Stop(grace) => run.stop(grace, "stop", NOW),
        Happening::Tick(late) => {
            run.tick(if late { NOW.plus(PREPARE_DEADLINE) } else { NOW }, 0.5);
        }
        Happening::Released(index) => {
            run.released(0, index, run.generation);
        }
        Happening::ReleasedOld(index) => {
            if let Some(old) = run.leftovers.iter().find(|left| left.index == index).map(|left| left.generation) {
                assert!(run.released(0, index, old));
            }
        }
        Happening::Reconsider => run.reconsider(&roles, NOW),
    }
}

fn check(run: &Run, before: &Run) {
    for task in &run.tasks {
        assert_eq!(task.exit.is_some(), task.state.is_terminal(), "an exit if and only if the task has ended");
        assert!(!task.released || task.state.is_terminal(), "only what has ended is released");
    }
    if before.phase == Phase::Ended {
        assert_eq!((run.phase, &run.outcome), (Phase::Ended, &before.outcome), "an end is for ever");
    }
    if before.phase == Phase::Stopping {
        let states = (before.outcome.as_ref().map(|o| o.state), run.outcome.as_ref().map(|o| o.state));
        assert_eq!(states.0, states.1, "an outcome once decided stays");
    }
    assert_eq!(run.outcome.is_some(), matches!(run.phase, Phase::Stopping | Phase::Ended));
    assert_eq!(
        run.tasks.is_empty(),
        run.phase == Phase::Waiting || (run.phase == Phase::Ended && run.placed_at.is_none())
    );
    assert!(run.generation >= before.generation);
    let launches = run.actions().iter().filter(|action| action.verb == Verb::Launch).count();
    assert!(
        launches == 0 || matches!(run.phase, Phase::Launching | Phase::Running),
        "go only for a gang that is ready"
    );
    let old: BTreeSet<Generation> = run.leftovers.iter().map(|left| left.generation).collect();
    assert_eq!(old, run.unsettled);
    assert!(!run.unsettled.contains(&run.generation) || run.phase == Phase::Waiting || run.placed_at.is_none());
}

proptest! {
    /// Whatever happens in whatever order, the run stays sound, and once every command is answered it settles.
    #[test]
    fn any_history_keeps_the_run_sound_and_lets_it_end(history in prop::collection::vec(happening(), 0..60)) {
        let mut run = Run::new(RunId(1), JobId(1), 1, NOW, NOW);
        for happening in history {
            let before = run.clone();
            apply(&mut run, happening);
            check(&run, &before);
        }
        run.stop(0, "the end", NOW);
        for _ in 0..6 {
            for action in run.actions() {
                match action.verb {
                    Verb::Release => { run.released(action.task.role, action.task.index, action.generation); }
                    _ => report(&mut run, action.task.index, TaskState::Stopped),
                }
            }
        }
        prop_assert!(run.phase == Phase::Ended && run.settled, "{run:?}");
    }

    /// A header and its tasks survive the store.
    #[test]
    fn headers_survive_the_store(history in prop::collection::vec(happening(), 0..30)) {
        let mut run = Run::new(RunId(1), JobId(1), 1, NOW, NOW);
        history.into_iter().for_each(|happening| apply(&mut run, happening));
        let text = serde_json::to_string(&run).unwrap();
        let read: Run = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read, run.clone_header());
    }
}
