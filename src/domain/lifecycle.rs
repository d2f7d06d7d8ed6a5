//! The life of one task on its node: (record, event, now) to (record, effects), without doing any of it.
//!
//! ```text
//! unknown > STAGING > WAITING (staged, nothing held) > PREPARING > READY (held, at the barrier)
//!         > RUNNING > STOPPING > SUCCEEDED FAILED STOPPED > released (nothing left; a tombstone for a day)
//! ```
//!
//! How to execute a step, in this order: apply [`Effect::Hold`] to the ledger (a veto drops the whole step: the
//! old record stays, the caller gets the veto); make the new record durable; then run the other effects in the
//! order given, those of one task one after the other. Answers come back as events with the generation that the
//! effect was for, so a late one cannot touch a newer generation.

mod end;
mod step;

use super::allocation::Claim;
use super::command::{Error, ErrorKind};
use super::exit::Exit;
use super::ids::{Generation, GpuUuid, TaskId};
use super::task::{TaskSpec, TaskState, TaskStatus};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub use step::step;

/// How long a released or never known task is remembered, so that late commands are refused.
pub const TOMBSTONE: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything an agent remembers about one task. Journalled as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub id: TaskId,
    /// The decision this record is about.
    pub generation: Generation,
    /// The highest generation any command named; at least `generation`.
    pub fence: Generation,
    /// None while nothing was asked, and in a tombstone of a task that was never here.
    pub spec: Option<TaskSpec>,
    pub state: TaskState,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Present in terminal states, and only there.
    pub exit: Option<Exit>,
    pub notices: Vec<String>,
    /// The command has failed, and the task is kept as it is until then. Only in RUNNING.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Timestamp>,
    /// The ledger holds the task's claim.
    pub holding: bool,
    /// A prepare was begun and no removal has been confirmed: the runtime may have something of it.
    pub residue: bool,
    /// "Go" was asked of the runtime.
    pub launched: bool,
    pub stop: Option<StopRequest>,
    /// Faults of the hardware it held, for which it was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<HardwareEnd>,
    /// The controller wants it gone; removal may still be going on.
    pub release_asked: bool,
    /// Gone, and nothing held. From here on only a higher generation starts anew.
    pub released: bool,
    /// Set with `released`: when the record may be forgotten.
    pub tombstone_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// The shortest grace asked so far.
    pub grace_ms: u64,
    pub asked_at: Timestamp,
}

/// Why a task is ended that did nothing wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HardwareEnd {
    /// Ids of the faults, in the order they were seen.
    pub faults: Vec<u64>,
    /// Those of its GPUs that they are on.
    #[serde(default)]
    pub gpus: Vec<GpuUuid>,
    /// One sentence for a person, of the first of them.
    pub reason: String,
}

/// What happens to a task: commands of the controller, answers of the runtime, and what it does on its own.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEvent {
    StageAsked {
        generation: Generation,
        spec: TaskSpec,
    },
    StageDone {
        generation: Generation,
        notices: Vec<String>,
    },
    StageFailed {
        generation: Generation,
        error: String,
        user_error: bool,
    },
    PrepareAsked {
        generation: Generation,
        spec: TaskSpec,
    },
    PrepareDone {
        generation: Generation,
        notices: Vec<String>,
    },
    /// The runtime left nothing behind.
    PrepareFailed {
        generation: Generation,
        error: String,
        user_error: bool,
        /// Promised ports that somebody else has.
        busy_ports: Vec<u16>,
    },
    /// Promised ports were lost to somebody else before "go": of no use any more.
    PortsLost {
        error: String,
        busy_ports: Vec<u16>,
    },
    /// The environment travels beside the event: it is not needed to decide.
    LaunchAsked {
        generation: Generation,
    },
    LaunchFailed {
        generation: Generation,
        error: String,
        user_error: bool,
    },
    /// The user's command runs.
    Started {
        at: Timestamp,
    },
    /// The command has failed, and its shim keeps the task as it is.
    Held {
        until: Timestamp,
        why: String,
    },
    Exited {
        at: Timestamp,
        exit: Exit,
    },
    StopAsked {
        generation: Generation,
        grace_ms: u64,
    },
    ReleaseAsked {
        generation: Generation,
    },
    /// A GPU that it holds can no longer be used.
    HardwareFailed {
        fault: u64,
        /// Which of its GPUs, or their device.
        gpus: Vec<GpuUuid>,
        reason: String,
        grace_ms: u64,
    },
    /// Nothing of the task is left on the machine.
    Removed {
        generation: Generation,
    },
    /// A new process of the agent looked at what is left. Sent once per unreleased record at its start, with
    /// [`Found::Gone`] where `residue` is false. What arrived while it was down follows as events.
    AgentRestarted {
        found: Found,
    },
}

/// What a restarted agent finds of a task; the runtime's `Adopted` in the words of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// At its barrier.
    Waiting,
    Running {
        started_at: Timestamp,
    },
    Ended {
        started_at: Option<Timestamp>,
        at: Timestamp,
        exit: Exit,
    },
    /// Nothing, and no record of an end.
    Gone,
}

/// What is to be done after a step. See the head of this file for the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Take [`TaskRecord::claim`] into the ledger; a veto drops the step.
    Hold,
    /// Give the claim back.
    Unhold,
    /// Answer with `StageDone` or `StageFailed`.
    Stage,
    /// Answer with `PrepareDone` or `PrepareFailed`.
    Prepare,
    /// Answer with `LaunchFailed`, or nothing: `Started` or `Exited` follow from the runtime.
    Launch,
    /// Abandon the Stage or Prepare in progress; no answer is needed. A Remove follows where something may be left.
    Cancel,
    /// Tell the runtime to end the task; tasks that are gone already need nothing. `Exited` follows from the runtime.
    Stop { grace_ms: u64 },
    /// End what is left, then answer `Removed`. Try again, with back-off, until it succeeds: only then is it gone.
    Remove,
    /// [`TaskRecord::status`] changed: tell the controller.
    Report,
}

/// Why a command is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{operation} task {task}: generation {asked} is outdated, {seen} was seen here")]
    Stale { operation: &'static str, task: TaskId, asked: Generation, seen: Generation },
    #[error("{operation} task {task}: generation {generation} was asked before with another specification")]
    OtherContent { operation: &'static str, task: TaskId, generation: Generation },
    #[error(
        "{operation} task {task}: generation {current} is {state} here and must be released before generation {asked}"
    )]
    NotReleased { operation: &'static str, task: TaskId, asked: Generation, current: Generation, state: TaskState },
    #[error("{operation} task {task}: it is {state}, {needed} is needed")]
    WrongState { operation: &'static str, task: TaskId, state: TaskState, needed: TaskState },
    #[error("{operation} task {task}: this node does not know it")]
    Unknown { operation: &'static str, task: TaskId },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::Stale { .. } => ErrorKind::Stale,
            Refusal::OtherContent { .. } => ErrorKind::AlreadyExists,
            Refusal::NotReleased { .. } | Refusal::WrongState { .. } => ErrorKind::Refused,
            Refusal::Unknown { .. } => ErrorKind::NotFound,
        };
        Self::new(kind, refusal.to_string())
    }
}

impl TaskRecord {
    /// A task of which nothing is known. Not worth journalling.
    pub fn unknown(id: TaskId) -> Self {
        Self {
            id,
            generation: Generation::default(),
            fence: Generation::default(),
            spec: None,
            state: TaskState::Waiting,
            started_at: None,
            ended_at: None,
            exit: None,
            notices: Vec::new(),
            held_until: None,
            holding: false,
            residue: false,
            launched: false,
            stop: None,
            hardware: None,
            release_asked: false,
            released: false,
            tombstone_until: None,
        }
    }

    pub fn is_unknown(&self) -> bool {
        self.spec.is_none() && !self.released
    }

    /// May be deleted from memory and journal, and its log with it.
    pub fn is_forgettable(&self, now: Timestamp) -> bool {
        self.released && self.tombstone_until.is_none_or(|until| until <= now)
    }

    /// What the ledger holds (or is to hold) for it.
    pub fn claim(&self) -> Option<Claim> {
        self.spec.as_ref().map(Claim::of)
    }

    /// The report to the controller. Full lists are of the records that are not released: a tombstone in one would
    /// be released again at every reconciliation.
    pub fn status(&self) -> TaskStatus {
        TaskStatus {
            id: self.id,
            generation: self.generation,
            state: self.state,
            started_at: self.started_at,
            ended_at: self.ended_at,
            exit: self.exit.clone(),
            holding: self.holding,
            notices: self.notices.clone(),
            progress: None,
            held_until: self.held_until,
        }
    }
}

#[cfg(test)]
mod tests;
