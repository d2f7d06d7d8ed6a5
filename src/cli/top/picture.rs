//! What the controller said at one time, and the sums over it. Pure.

use crate::cli::table::one_line;
use crate::domain::gpu::GpuState;
use crate::domain::time::Timestamp;
use crate::domain::view::{GpuView, JobView, NodeView};
use serde::Serialize;

/// `wharf top --json` prints one of these a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Picture {
    pub(super) time: Timestamp,
    pub(super) nodes: Vec<NodeView>,
    pub(super) gpus: Vec<GpuView>,
    /// Unfinished jobs, newest first.
    pub(super) jobs: Vec<JobView>,
    /// There are more jobs than these.
    pub(super) more_jobs: bool,
}

impl Picture {
    /// `2 nodes, 1 UNREACHABLE`.
    pub(super) fn nodes_line(&self) -> String {
        let mut line = count(self.nodes.len(), "node");
        for state in ["CORDONED", "DRAINING", "DRAINED", "UNREACHABLE"] {
            let found = self.nodes.iter().filter(|node| node.state == state).count();
            if found > 0 {
                line.push_str(&format!(", {found} {state}"));
            }
        }
        line
    }

    /// `gpu-03 DRAINING: being drained by ann: new driver`; of every node that takes no tasks.
    pub(super) fn closed_line(&self) -> String {
        let closed = self.nodes.iter().filter_map(|node| Some((node, one_line(node.reason.as_ref()?))));
        let parts: Vec<String> =
            closed.map(|(node, why)| format!("{} {}: {why}", one_line(&node.name), node.state)).collect();
        parts.join("; ")
    }

    /// `16 GPUs, 12 HELD, 3 FREE, 1 WITHHELD`.
    pub(super) fn gpus_line(&self) -> String {
        let mut line = count(self.gpus.len(), "GPU");
        let states = [
            (GpuState::Held, "HELD"),
            (GpuState::Free, "FREE"),
            (GpuState::Withheld, "WITHHELD"),
            (GpuState::Faulty, "FAULTY"),
            (GpuState::Lost, "LOST"),
        ];
        for (state, name) in states {
            let found = self.gpus.iter().filter(|gpu| gpu.state == state).count();
            if found > 0 {
                line.push_str(&format!(", {found} {name}"));
            }
        }
        line
    }

    /// `5 jobs, 3 RUNNING, 2 WAITING`.
    pub(super) fn jobs_line(&self) -> String {
        let mut line = count(self.jobs.len(), if self.more_jobs { "newest job" } else { "job" });
        for state in ["RUNNING", "WAITING", "STOPPING"] {
            let found = self.jobs.iter().filter(|job| job.state == state).count();
            if found > 0 {
                line.push_str(&format!(", {found} {state}"));
            }
        }
        line
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
