//! What monitoring reads of one node.

use super::actor::Actor;
use crate::domain::gpu::GpuState;
use crate::domain::metrics::{self, Sample, counted};
use crate::domain::task::TaskState;

/// What this process has counted.
#[derive(Debug, Default)]
pub struct Tally {
    pub heartbeats: u64,
    pub records: u64,
    pub lost_records: u64,
}

impl Actor {
    pub(super) fn metrics(&self) -> Vec<Sample> {
        let tasks = self.entries.values().filter(|entry| !entry.record.released).map(|entry| entry.status().state);
        let gpus = self.node_info().gpus;
        let count = |metric, count: u64| Sample::new(metric, count as f64);
        let mut samples = vec![
            metrics::build("agent"),
            count(&metrics::RECORDS, self.tally.records),
            count(&metrics::LOST_RECORDS, self.tally.lost_records),
            count(&metrics::HEARTBEATS, self.tally.heartbeats),
        ];
        let words = TaskState::ALL.map(TaskState::as_str);
        samples.extend(counted(&metrics::TASKS, words, tasks.map(TaskState::as_str)));
        let words = GpuState::ALL.map(GpuState::as_str);
        samples.extend(counted(&metrics::GPUS, words, gpus.iter().map(|gpu| gpu.state.as_str())));
        samples.extend(metrics::of_faults(self.known_faults()));
        samples
    }
}
