//! What the controller does when an agent has told everything it has: (desired, observed) to actions.
//!
//! Only for complete lists. A task missing from a partial one is not lost.

use super::exit::{Exit, ExitClass};
use super::ids::{Generation, TaskId};
use super::task::{TaskState, TaskStatus};
use std::collections::BTreeMap;

/// How far the controller has taken a task on the node in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Promised; at most Stage was asked. The node may know nothing of it.
    Placed,
    /// Prepare was answered, or may have been obeyed.
    Prepared,
    Launched,
    /// Stop was decided.
    Stopping,
    /// Its end is known and Release was decided.
    Releasing,
}

/// A task that the controller believes to be on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredTask {
    pub id: TaskId,
    pub generation: Generation,
    pub phase: Phase,
    /// The newest status of this generation the controller has.
    pub last: Option<TaskStatus>,
}

/// In the order to be carried out. All are idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the agent to end it.
    Stop { id: TaskId, generation: Generation },
    /// Ask the agent to let go of it once it has ended.
    Release { id: TaskId, generation: Generation },
    /// The agent knows more: take its word.
    Adopt(TaskStatus),
    /// The agent should have it and has not: this is its end.
    Lost { id: TaskId, generation: Generation, exit: Exit },
    /// It ended and the node has nothing of it any more: its promise can be taken back.
    Forget { id: TaskId, generation: Generation },
}

/// Compares what should be on a node with what its agent says is there. Empty when both agree.
///
/// Release names the generation that was observed, not the desired one: the agent refuses what comes later in a
/// released generation, and the desired one may still have to be prepared.
pub fn plan(desired: &[DesiredTask], observed: &[TaskStatus]) -> Vec<Action> {
    let wanted: BTreeMap<TaskId, &DesiredTask> = desired.iter().map(|task| (task.id, task)).collect();
    let found: BTreeMap<TaskId, &TaskStatus> = observed.iter().map(|status| (status.id, status)).collect();
    let mut actions = Vec::new();
    for (id, status) in &found {
        match wanted.get(id) {
            Some(task) if task.generation == status.generation => known(task, status, &mut actions),
            _ => expel(status, &mut actions),
        }
    }
    for (id, task) in &wanted {
        if found.get(id).is_none_or(|status| status.generation != task.generation) {
            missing(task, &mut actions);
        }
    }
    actions
}

/// Another job's leftover, or another decision about the same task.
fn expel(status: &TaskStatus, actions: &mut Vec<Action>) {
    let (id, generation) = (status.id, status.generation);
    if !status.state.is_terminal() && status.state != TaskState::Stopping {
        actions.push(Action::Stop { id, generation });
    }
    actions.push(Action::Release { id, generation });
}

fn known(task: &DesiredTask, status: &TaskStatus, actions: &mut Vec<Action>) {
    let (id, generation) = (task.id, task.generation);
    if task.last.as_ref() != Some(status) {
        actions.push(Action::Adopt(status.clone()));
    }
    let alive = !status.state.is_terminal();
    if task.phase >= Phase::Stopping && alive && status.state != TaskState::Stopping {
        actions.push(Action::Stop { id, generation });
    }
    if task.phase == Phase::Releasing {
        actions.push(Action::Release { id, generation });
    }
}

fn missing(task: &DesiredTask, actions: &mut Vec<Action>) {
    let (id, generation) = (task.id, task.generation);
    let ended = task.last.as_ref().is_some_and(|status| status.state.is_terminal());
    match task.phase {
        Phase::Placed => {}
        _ if ended || task.phase == Phase::Releasing => actions.push(Action::Forget { id, generation }),
        _ => {
            let exit = Exit::without_status(ExitClass::Platform, "the node lost its record of the task");
            actions.push(Action::Lost { id, generation, exit });
        }
    }
}

#[cfg(test)]
mod tests;
