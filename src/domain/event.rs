//! What happened, as told to operators and users (`wharf events`).

use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One event of the controller's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one; `wharf events --follow` resumes after it.
    pub sequence: u64,
    pub time: Timestamp,
    /// A dotted word: `job.submitted`, `run.placed`, `task.started`, `task.ended`, `job.ended`, `node.joined` ...
    pub kind: String,
    pub job: Option<u64>,
    /// `JOB.RUN.ROLE.INDEX`.
    pub task: Option<String>,
    pub node: Option<String>,
    /// One sentence.
    pub message: String,
}
