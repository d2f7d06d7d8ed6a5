//! A job over all of its runs.

use super::exit::Exit;
use super::ids::{JobId, RunId};
use super::retry::Retries;
use super::run::{Phase, Run};
use super::ssh::SshSeed;
use super::task::TaskState;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What is remembered of a job beside its specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    /// A UUID; hfai's name for the job over all of its runs.
    pub chain_id: String,
    pub user: String,
    pub name: String,
    pub priority: i32,
    pub submitted_at: Timestamp,
    pub request_id: String,
    pub state: JobState,
    /// Somebody asked for the end: no more runs, however the present one ends.
    #[serde(default)]
    pub stop_asked: bool,
    pub exit: Option<Exit>,
    /// Oldest first; never empty.
    pub runs: Vec<RunId>,
    pub retries: Retries,
    pub ended_at: Option<Timestamp>,
    /// Grows from end to end, whatever the clock does; jobs that ended before there was one have 0.
    #[serde(default)]
    pub ended_order: u64,
    /// What the keys of its tasks come from; jobs from before there were any have none. Shown to nobody but its owner,
    /// and kept apart from the rest; records from before that have it, and are still read.
    #[serde(default, skip_serializing)]
    pub ssh: Option<SshSeed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobState {
    Waiting,
    Running,
    Stopping,
    Succeeded,
    Failed,
    Stopped,
}

impl JobState {
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Running, Self::Stopping, Self::Succeeded, Self::Failed, Self::Stopped];

    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Stopped)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Running => "RUNNING",
            Self::Stopping => "STOPPING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Stopped => "STOPPED",
        }
    }

    /// The state of a job by its newest run.
    pub fn of_run(run: &Run) -> Self {
        match run.phase {
            Phase::Waiting => Self::Waiting,
            Phase::Staging | Phase::Preparing | Phase::Launching | Phase::Running => Self::Running,
            Phase::Stopping => Self::Stopping,
            Phase::Ended => match run.outcome.as_ref().map(|outcome| outcome.state) {
                Some(TaskState::Succeeded) => Self::Succeeded,
                Some(TaskState::Stopped) => Self::Stopped,
                _ => Self::Failed,
            },
        }
    }
}

impl Job {
    /// The run that counts.
    pub fn newest_run(&self) -> RunId {
        self.runs.last().copied().unwrap_or(RunId(self.id.0))
    }
}
