//! How a task, a run or a job ended.

use super::ids::GpuUuid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whose doing an end was. Decides retries together with the job's retry count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitClass {
    Success,
    /// The command failed, or was malformed.
    User,
    /// A hardware fault ended it.
    Hardware,
    /// wharf, the container runtime or the host ended it.
    Platform,
    Preempted,
    /// Somebody asked for the stop, or the job had already ended.
    Stopped,
    TimeLimit,
    Watchdog,
}

impl ExitClass {
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::User,
        Self::Hardware,
        Self::Platform,
        Self::Preempted,
        Self::Stopped,
        Self::TimeLimit,
        Self::Watchdog,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::User => "user",
            Self::Hardware => "hardware",
            Self::Platform => "platform",
            Self::Preempted => "preempted",
            Self::Stopped => "stopped",
            Self::TimeLimit => "time_limit",
            Self::Watchdog => "watchdog",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

impl fmt::Display for ExitClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of a task, and by inheritance of its run and job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status of the command; null when a signal ended it or it never ran.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of the task for memory.
    pub oom: bool,
    pub class: ExitClass,
    /// One sentence for a person.
    pub reason: String,
    /// Ids of the hardware faults behind it.
    #[serde(default)]
    pub faults: Vec<u64>,
    /// Promised ports that somebody else had: the end is theirs, and the next placement takes others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub busy_ports: Vec<u16>,
    /// Of class hardware: the GPUs whose faults it were. The job's next run gets others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faulty_gpus: Vec<GpuUuid>,
}

impl Exit {
    /// An end without an exit status.
    pub fn without_status(class: ExitClass, reason: impl Into<String>) -> Self {
        Self {
            code: None,
            signal: None,
            oom: false,
            class,
            reason: reason.into(),
            faults: Vec::new(),
            busy_ports: Vec::new(),
            faulty_gpus: Vec::new(),
        }
    }

    pub fn success() -> Self {
        Self { code: Some(0), ..Self::without_status(ExitClass::Success, "the command ended with status 0") }
    }

    pub fn is_success(&self) -> bool {
        self.class == ExitClass::Success
    }
}
