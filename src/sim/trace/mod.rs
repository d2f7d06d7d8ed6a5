//! What is submitted when: from a file ([`csv`]) or made from a seed ([`synthetic`]), always in order of time.

pub mod csv;
pub mod synthetic;

use crate::domain::container::ContainerSpec;
use crate::domain::placement::PlacementSpec;
use crate::domain::spec::{CommandStyle, JobSpec, OnNodeLost, RoleSpec};
use crate::domain::time::Timestamp;
use std::time::Duration;

/// One job of a trace: a gang of tasks that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceJob {
    /// Since the beginning of the trace.
    pub submitted_at: Timestamp,
    /// Of every task, from its start.
    pub duration: Duration,
    pub tasks: u32,
    /// GPUs, CPUs and memory of one task.
    pub gpus: u32,
    pub cpus: u32,
    pub memory_mb: u64,
    pub priority: i32,
    /// Accepted types; empty accepts any.
    pub gpu_types: Vec<String>,
}

/// A line of a trace that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}{}: found {found}, allowed: {allowed}", column.as_ref().map(|name| format!(", column {name}")).unwrap_or_default())]
pub struct TraceError {
    /// From 1.
    pub line: u64,
    pub column: Option<String>,
    pub found: String,
    pub allowed: String,
}

impl TraceJob {
    pub fn gpu_count(&self) -> u64 {
        u64::from(self.tasks) * u64::from(self.gpus)
    }

    /// The job as it would be submitted.
    pub(super) fn spec(&self, retry_count: i64) -> JobSpec {
        let role = RoleSpec {
            name: "task".to_owned(),
            count: self.tasks,
            cpus: self.cpus,
            memory_mb: self.memory_mb,
            shm_mb: 0,
            gpus: self.gpus,
            ports: Vec::new(),
            command: String::new(),
            min_failed: Some(1),
            min_succeeded: None,
        };
        JobSpec {
            name: String::new(),
            image: String::new(),
            auth_file: String::new(),
            data_dir: String::new(),
            output_dir: String::new(),
            code_dir: String::new(),
            virtual_cluster: String::new(),
            gpu_types: self.gpu_types.clone(),
            retry_count,
            env: Vec::new(),
            debug: false,
            debug_hold_s: None,
            secrets: Vec::new(),
            extras_json: String::new(),
            roles: vec![role],
            command_style: CommandStyle::Shell,
            on_node_lost: OnNodeLost::Wait,
            priority: self.priority,
            container: ContainerSpec::default(),
            placement: PlacementSpec::default(),
        }
    }
}
