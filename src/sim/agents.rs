//! The agents, as far as decisions depend on them: what each holds, and whether it answers.

use super::faults::Faults;
use crate::domain::allocation::{Ledger, Veto};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::{Generation, NodeName, RunId, TaskId};
use crate::domain::promise::Promise;
use crate::domain::run::Action;
use crate::domain::task::{Inventory, TaskState, TaskStatus};
use crate::domain::time::Timestamp;
use std::collections::HashMap;

#[derive(Debug)]
struct Agent {
    name: NodeName,
    ledger: Ledger,
    up: bool,
    /// Asked while it was down.
    postponed: Vec<(RunId, Action)>,
    /// How often it went down.
    losses: u64,
}

#[derive(Debug)]
pub(super) struct Agents {
    all: Vec<Agent>,
    by_name: HashMap<NodeName, usize>,
}

impl Agents {
    pub(super) fn new(nodes: &[(NodeName, Inventory)]) -> Self {
        let agent = |(name, inventory): &(NodeName, Inventory)| Agent {
            name: name.clone(),
            ledger: Ledger::of(inventory),
            up: true,
            postponed: Vec::new(),
            losses: 0,
        };
        let by_name = nodes.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
        Self { all: nodes.iter().map(agent).collect(), by_name }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn name(&self, at: usize) -> &NodeName {
        &self.all[at].name
    }

    pub(super) fn is_up(&self, node: &NodeName) -> bool {
        self.by_name.get(node).is_some_and(|at| self.all[*at].up)
    }

    /// Keeps a command for when the node is back.
    pub(super) fn postpone(&mut self, run: RunId, action: Action) {
        if let Some(at) = self.by_name.get(&action.node) {
            self.all[*at].postponed.push((run, action));
        }
    }

    /// Takes what was promised, or vetoes.
    pub(super) fn hold(&mut self, task: TaskId, promise: Promise) -> Result<(), Veto> {
        match self.by_name.get(&promise.node) {
            Some(at) => self.all[*at].ledger.hold(task, promise.generation, promise.claim),
            None => Ok(()),
        }
    }

    pub(super) fn release(&mut self, node: &NodeName, task: TaskId, generation: Generation) {
        if let Some(at) = self.by_name.get(node) {
            let ledger = &mut self.all[*at].ledger;
            if ledger.claim_of(task).is_some_and(|held| held.generation == generation) {
                ledger.release(task);
            }
        }
    }

    /// The machine stops, with all that is on it.
    pub(super) fn down(&mut self, at: usize) {
        let agent = &mut self.all[at];
        agent.up = false;
        let held: Vec<TaskId> = agent.ledger.held().map(|(task, _)| task).collect();
        for task in held {
            agent.ledger.release(task);
        }
    }

    /// It is back; what it was asked meanwhile.
    pub(super) fn back(&mut self, at: usize) -> Vec<(RunId, Action)> {
        let agent = &mut self.all[at];
        agent.up = true;
        agent.losses += 1;
        std::mem::take(&mut agent.postponed)
    }

    /// When it goes down next, from now on, and for how long.
    pub(super) fn next_loss(&self, at: usize, faults: Faults) -> Option<(std::time::Duration, std::time::Duration)> {
        faults.of_node(at, self.all[at].losses)
    }
}

/// An agent's word on a task.
pub(super) fn status(task: TaskId, generation: Generation, state: TaskState, now: Timestamp) -> TaskStatus {
    TaskStatus {
        id: task,
        generation,
        state,
        started_at: (state == TaskState::Running).then_some(now),
        ended_at: None,
        exit: None,
        holding: true,
        notices: Vec::new(),
        progress: None,
        held_until: None,
    }
}

/// The same at the end.
pub(super) fn ended(task: TaskId, generation: Generation, exit: &Exit, now: Timestamp) -> TaskStatus {
    let state = TaskState::of_exit(exit);
    TaskStatus { ended_at: Some(now), exit: Some(exit.clone()), ..status(task, generation, state, now) }
}

pub(super) fn stopped() -> Exit {
    Exit::without_status(ExitClass::Stopped, "stopped")
}
