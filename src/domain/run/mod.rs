//! One attempt at a job, as the controller sees it: a gang of tasks from the queue to the end.
//!
//! Everything here is level-triggered. An event changes the run; [`Run::actions`] then says which commands the
//! agents should have been given by now, whatever was sent before. So a restart of the controller, a lost reply
//! and a repeated report all come out the same.
//!
//! ```text
//! Waiting -> Staging -> Preparing -> Launching -> Running -> Stopping -> Ended
//!    ^          |           |                        (completion, stop)
//!    +----------+-----------+   rolled back: another generation
//! ```

mod avoided;
mod away;
mod step;

pub use avoided::{AVOIDED_FOR, AvoidedGpus};

use super::exit::Exit;
use super::ids::{Generation, GpuUuid, JobId, NodeName, RunId, TaskId};
use super::quantity::DEFAULT_GRACE_MS;
use super::task::{AssignedPorts, TaskState};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// From placing to every task of the gang at its barrier.
pub const PREPARE_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// In the queue.
    Waiting,
    Staging,
    Preparing,
    Launching,
    Running,
    /// The outcome is decided; tasks are still ending.
    Stopping,
    Ended,
}

/// Where a task was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    pub node: NodeName,
    /// What other tasks connect to.
    pub ip: String,
    pub gpus: Vec<GpuUuid>,
    pub ports: Vec<AssignedPorts>,
    /// The job that waited ahead in the queue at that time: it must find its place beside this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<JobId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTask {
    pub role: u32,
    pub index: u32,
    pub seat: Seat,
    pub state: TaskState,
    /// Images and code are there.
    #[serde(default)]
    pub staged: bool,
    /// The agent confirmed that nothing of it is left and nothing is held.
    #[serde(default)]
    pub released: bool,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub exit: Option<Exit>,
    #[serde(default)]
    pub notices: Vec<String>,
    /// Its command has failed, and all of it is kept until then for somebody to look at.
    #[serde(default)]
    pub held_until: Option<Timestamp>,
}

/// Tasks of a generation that was rolled back, to be released before their resources are free again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    pub generation: Generation,
    pub role: u32,
    pub index: u32,
    pub seat: Seat,
}

/// How a run ends, decided before all of its tasks have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// SUCCEEDED, FAILED or STOPPED.
    pub state: TaskState,
    pub exit: Exit,
    pub grace_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub job: JobId,
    /// From 1.
    pub attempt: u32,
    pub generation: Generation,
    pub phase: Phase,
    pub queued_at: Timestamp,
    pub placed_at: Option<Timestamp>,
    pub prepare_by: Option<Timestamp>,
    /// All tasks were running.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub outcome: Option<Outcome>,
    /// Not placed before this time.
    pub not_before: Timestamp,
    /// Nodes left out of the next placement: they vetoed the last one.
    pub avoid: BTreeSet<NodeName>,
    /// GPUs left out for a while: faults of theirs ended earlier runs of the job.
    #[serde(default, skip_serializing_if = "AvoidedGpus::is_empty")]
    pub avoid_gpus: AvoidedGpus,
    pub rollbacks: u32,
    /// How often ports that were chosen for it were somebody else's. Not among `rollbacks`.
    #[serde(default)]
    pub port_conflicts: u32,
    /// How often not all of its tasks were ready in time; among `rollbacks`.
    #[serde(default)]
    pub late: u32,
    /// Why the last placement was rolled back.
    pub rolled_back: Option<String>,
    #[serde(skip)]
    pub tasks: Vec<RunTask>,
    #[serde(skip)]
    pub leftovers: Vec<Leftover>,
    /// Generations that `leftovers` are of.
    pub unsettled: BTreeSet<Generation>,
    /// The run has ended and every task is released.
    pub settled: bool,
}

/// A command that an agent should have been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Stage,
    Prepare,
    Launch,
    Stop,
    Release,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Action {
    pub verb: Verb,
    pub task: TaskId,
    pub generation: Generation,
    pub node: NodeName,
    /// Of a stop.
    pub grace_ms: u64,
}

/// How a command to an agent failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandFailure {
    /// What the job asks for cannot be: trying elsewhere would not help.
    Job(String),
    /// This node cannot do it now.
    Node(String),
    /// These promised ports are somebody else's there.
    Ports { why: String, ports: Vec<u16> },
    /// The agent does not know the task (any more).
    Unknown(String),
}

impl CommandFailure {
    pub fn why(&self) -> &str {
        let (Self::Job(why) | Self::Node(why) | Self::Ports { why, .. } | Self::Unknown(why)) = self;
        why
    }
}

impl Run {
    pub fn new(id: RunId, job: JobId, attempt: u32, queued_at: Timestamp, not_before: Timestamp) -> Self {
        Self {
            id,
            job,
            attempt,
            generation: Generation(0),
            phase: Phase::Waiting,
            queued_at,
            placed_at: None,
            prepare_by: None,
            started_at: None,
            ended_at: None,
            outcome: None,
            not_before,
            avoid: BTreeSet::new(),
            avoid_gpus: AvoidedGpus::default(),
            rollbacks: 0,
            port_conflicts: 0,
            late: 0,
            rolled_back: None,
            tasks: Vec::new(),
            leftovers: Vec::new(),
            unsettled: BTreeSet::new(),
            settled: false,
        }
    }

    /// The run without its tasks.
    pub fn clone_header(&self) -> Self {
        Self {
            tasks: Vec::new(),
            leftovers: Vec::new(),
            outcome: self.outcome.clone(),
            avoid: self.avoid.clone(),
            avoid_gpus: self.avoid_gpus.clone(),
            rolled_back: self.rolled_back.clone(),
            unsettled: self.unsettled.clone(),
            ..*self
        }
    }

    pub fn task_id(&self, role: u32, index: u32) -> TaskId {
        TaskId { job: self.job, run: self.id, role, index }
    }

    /// Position of a task in `tasks`, which are in order of role and index.
    pub fn find(&self, role: u32, index: u32) -> Option<usize> {
        self.tasks.binary_search_by_key(&(role, index), |task| (task.role, task.index)).ok()
    }

    /// Where a task of a generation was put, as long as it may hold anything there.
    pub fn seat_of(&self, role: u32, index: u32, generation: Generation) -> Option<&Seat> {
        let wanted = |left: &&Leftover| (left.role, left.index, left.generation) == (role, index, generation);
        if let Some(left) = self.leftovers.iter().find(wanted) {
            return Some(&left.seat);
        }
        let at = self.find(role, index).filter(|_| generation == self.generation)?;
        Some(&self.tasks[at].seat)
    }

    /// Nothing of an earlier generation is left anywhere.
    pub fn is_past(&self, generation: Generation) -> bool {
        !self.unsettled.contains(&generation) && (generation != self.generation || self.placed_at.is_none())
    }

    /// Nodes that must not get the next generation: they vetoed, or still have tasks of an older one.
    pub fn excluded_nodes(&self) -> BTreeSet<NodeName> {
        self.avoid.iter().cloned().chain(self.leftovers.iter().map(|left| left.seat.node.clone())).collect()
    }

    /// The command that the agent of a task should have been given by now; `at` is a position in `tasks`.
    pub fn action_of(&self, at: usize) -> Option<Action> {
        let task = &self.tasks[at];
        let verb = match (self.phase, task.state) {
            _ if task.released => return None,
            (_, state) if state.is_terminal() => Verb::Release,
            (Phase::Staging, _) if !task.staged => Verb::Stage,
            (Phase::Preparing, state) if state != TaskState::Ready => Verb::Prepare,
            (Phase::Launching | Phase::Running, TaskState::Ready) => Verb::Launch,
            (Phase::Stopping, _) => Verb::Stop,
            _ => return None,
        };
        Some(Action {
            verb,
            task: self.task_id(task.role, task.index),
            generation: self.generation,
            node: task.seat.node.clone(),
            grace_ms: self.outcome.as_ref().map_or(DEFAULT_GRACE_MS, |outcome| outcome.grace_ms),
        })
    }

    /// Commands that agents should have been given by now.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions: Vec<Action> = (0..self.tasks.len()).filter_map(|at| self.action_of(at)).collect();
        actions.extend(self.leftovers.iter().map(|left| Action {
            verb: Verb::Release,
            task: self.task_id(left.role, left.index),
            generation: left.generation,
            node: left.seat.node.clone(),
            grace_ms: 0,
        }));
        actions
    }
}

#[cfg(test)]
mod tests;
