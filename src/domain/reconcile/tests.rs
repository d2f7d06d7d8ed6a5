//! The plan is empty on agreement and converges from anywhere.

use super::*;
use crate::domain::ids::{JobId, RunId};
use proptest::prelude::*;

fn id(index: u32) -> TaskId {
    TaskId { job: JobId(1), run: RunId(1), role: 0, index }
}

fn status(index: u32, generation: u64, state: TaskState) -> TaskStatus {
    let exit = match state {
        TaskState::Succeeded => Some(Exit::success()),
        TaskState::Failed => Some(Exit::without_status(ExitClass::User, "status 1")),
        TaskState::Stopped => Some(Exit::without_status(ExitClass::Stopped, "stopped")),
        _ => None,
    };
    TaskStatus {
        id: id(index),
        generation: Generation(generation),
        state,
        started_at: None,
        ended_at: None,
        exit,
        holding: false,
        notices: Vec::new(),
        progress: None,
        held_until: None,
    }
}

fn desired(index: u32, generation: u64, phase: Phase, last: Option<TaskState>) -> DesiredTask {
    let last = last.map(|state| status(index, generation, state));
    DesiredTask { id: id(index), generation: Generation(generation), phase, last }
}

#[test]
fn agreement_needs_nothing() {
    let wanted = [
        desired(0, 3, Phase::Launched, Some(TaskState::Running)),
        desired(1, 3, Phase::Placed, None),
        desired(2, 3, Phase::Stopping, Some(TaskState::Stopping)),
    ];
    let found = [status(0, 3, TaskState::Running), status(2, 3, TaskState::Stopping)];
    assert_eq!(plan(&wanted, &found), []);
}

#[test]
fn strangers_are_stopped_and_released() {
    let (id, generation) = (id(0), Generation(2));
    let expected = [Action::Stop { id, generation }, Action::Release { id, generation }];
    assert_eq!(plan(&[], &[status(0, 2, TaskState::Running)]), expected);
    assert_eq!(plan(&[], &[status(0, 2, TaskState::Failed)]), expected[1..]);
}

#[test]
fn an_older_generation_goes_and_the_desired_one_is_not_fenced_off() {
    let actions = plan(&[desired(0, 5, Phase::Placed, None)], &[status(0, 4, TaskState::Ready)]);
    let (id, generation) = (id(0), Generation(4));
    assert_eq!(actions, [Action::Stop { id, generation }, Action::Release { id, generation }]);
}

#[test]
fn what_was_prepared_and_is_not_there_is_lost() {
    for phase in [Phase::Prepared, Phase::Launched, Phase::Stopping] {
        let actions = plan(&[desired(0, 5, phase, Some(TaskState::Ready))], &[]);
        assert!(
            matches!(&actions[..], [Action::Lost { exit, .. }] if exit.class == ExitClass::Platform),
            "{phase:?}"
        );
    }
    let ended = plan(&[desired(0, 5, Phase::Launched, Some(TaskState::Succeeded))], &[]);
    assert_eq!(ended, [Action::Forget { id: id(0), generation: Generation(5) }]);
}

#[test]
fn an_end_that_the_controller_missed_is_adopted() {
    let found = status(0, 5, TaskState::Succeeded);
    let actions = plan(&[desired(0, 5, Phase::Launched, Some(TaskState::Running))], std::slice::from_ref(&found));
    assert_eq!(actions, [Action::Adopt(found)]);
}

/// Carries the plan out the way controller and agent do.
fn apply(wanted: &mut Vec<DesiredTask>, found: &mut Vec<TaskStatus>, actions: Vec<Action>) {
    for action in actions {
        match action {
            Action::Stop { id, generation } => {
                for status in found.iter_mut().filter(|status| status.id == id && status.generation == generation) {
                    *status = self::status(id.index, generation.0, TaskState::Stopped);
                }
            }
            Action::Release { id, generation } => {
                found.retain(|status| status.id != id || status.generation != generation);
            }
            Action::Adopt(status) => {
                for task in wanted.iter_mut().filter(|task| task.id == status.id) {
                    task.last = Some(status.clone());
                }
            }
            Action::Lost { id, generation, exit } => {
                for task in wanted.iter_mut().filter(|task| task.id == id) {
                    let lost = self::status(id.index, generation.0, TaskState::Failed);
                    task.last = Some(TaskStatus { exit: Some(exit.clone()), ..lost });
                    task.phase = Phase::Releasing;
                }
            }
            Action::Forget { id, .. } => wanted.retain(|task| task.id != id),
        }
    }
}

fn states() -> impl Strategy<Value = TaskState> {
    proptest::sample::select(TaskState::ALL.to_vec())
}

fn phases() -> impl Strategy<Value = Phase> {
    proptest::sample::select(vec![Phase::Placed, Phase::Prepared, Phase::Launched, Phase::Stopping, Phase::Releasing])
}

proptest! {
    #[test]
    fn carrying_the_plan_out_converges(
        wanted in proptest::collection::btree_map(0u32..6, (1u64..4, phases(), proptest::option::of(states())), 0..6),
        found in proptest::collection::btree_map(0u32..6, (1u64..4, states()), 0..6),
    ) {
        let mut wanted: Vec<DesiredTask> = wanted
            .into_iter()
            .map(|(index, (generation, phase, last))| desired(index, generation, phase, last))
            .collect();
        let mut found: Vec<TaskStatus> =
            found.into_iter().map(|(index, (generation, state))| status(index, generation, state)).collect();
        for _ in 0..4 {
            let actions = plan(&wanted, &found);
            prop_assert_eq!(&actions, &plan(&wanted, &found), "deterministic");
            apply(&mut wanted, &mut found, actions);
        }
        prop_assert_eq!(plan(&wanted, &found), vec![]);
        for status in &found {
            let task = wanted.iter().find(|task| task.id == status.id);
            prop_assert!(task.is_some_and(|task| task.generation == status.generation));
        }
    }
}
