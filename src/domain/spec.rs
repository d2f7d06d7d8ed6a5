//! A job as validated: every format of job file ends here.

use super::container::ContainerSpec;
use super::placement::PlacementSpec;
use super::secret::{Secret, names};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A validated job. Built only by `jobfile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    pub name: String,
    pub image: String,
    /// The four URIs, after substitution; empty when absent.
    pub auth_file: String,
    pub data_dir: String,
    pub output_dir: String,
    pub code_dir: String,
    pub virtual_cluster: String,
    /// Accepted GPU types in the file's order; empty accepts any.
    pub gpu_types: Vec<String>,
    /// OpenPAI's `retryCount`: -2, -1, 0 or more.
    pub retry_count: i64,
    /// The job's own variables, in the file's order, literal, set last.
    pub env: Vec<(String, String)>,
    /// Variables that its tasks alone see, set after `env`. Where a specification is written, only their names are.
    #[serde(default, with = "names", skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<(String, Secret)>,
    /// `jobEnvs.isDebug` is the JSON value true.
    pub debug: bool,
    /// With `debug`: for how long, where the job says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_hold_s: Option<u32>,
    /// `extras` as JSON text, kept and not interpreted.
    pub extras_json: String,
    pub roles: Vec<RoleSpec>,
    pub command_style: CommandStyle,
    pub on_node_lost: OnNodeLost,
    pub priority: i32,
    #[serde(default)]
    pub container: ContainerSpec,
    /// On which nodes, and how they share them.
    #[serde(default)]
    pub placement: PlacementSpec,
}

/// How a role's command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandStyle {
    /// `/bin/bash -c COMMAND`, else `/bin/sh -c COMMAND` with a notice; the image's entrypoint is cleared.
    Shell,
}

/// What becomes of tasks on a node that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNodeLost {
    /// They live on and are waited for.
    Wait,
    /// Their shims end them when the lease runs out, and the job restarts elsewhere.
    Restart { lease_s: u32 },
}

/// One task role: `count` tasks of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSpec {
    pub name: String,
    pub count: u32,
    pub cpus: u32,
    pub memory_mb: u64,
    pub shm_mb: u64,
    pub gpus: u32,
    /// Ports by label in the file's order, without the implicit `http` and `ssh`; see [`RoleSpec::all_ports`].
    pub ports: Vec<PortSpec>,
    pub command: String,
    /// Failed tasks of this role that fail the run; `None` is off.
    pub min_failed: Option<u32>,
    /// Succeeded tasks of this role that complete the run; `None` is off.
    pub min_succeeded: Option<u32>,
}

/// Ports of one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortSpec {
    pub label: String,
    /// First port, or 0 for any.
    pub begin_at: u16,
    pub count: u16,
}

impl JobSpec {
    /// Tasks over all roles.
    pub fn task_count(&self) -> u32 {
        self.roles.iter().map(|role| role.count).sum()
    }

    /// Of the variables that the job sets itself, secret or not.
    pub fn names_of_variables(&self) -> impl Iterator<Item = &str> {
        self.env.iter().map(|(name, _)| name.as_str()).chain(self.secrets.iter().map(|(name, _)| name.as_str()))
    }

    /// `(role, index)` of every task, roles in order.
    pub fn tasks(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0u32..).zip(&self.roles).flat_map(|(role, spec)| (0..spec.count).map(move |index| (role, index)))
    }
}

impl RoleSpec {
    /// The port is one that the role asks for by its number.
    pub fn insists_on(&self, port: u16) -> bool {
        let within = |range: &PortSpec| port >= range.begin_at && port - range.begin_at < range.count;
        self.ports.iter().any(|range| range.begin_at > 0 && within(range))
    }

    /// The role's ports in OpenPAI's order: labels with a fixed start first, then the others in the file's
    /// order, then `http` and `ssh` with one port each where the file does not define them.
    pub fn all_ports(&self) -> Vec<PortSpec> {
        let (fixed, any): (Vec<_>, Vec<_>) = self.ports.iter().cloned().partition(|port| port.begin_at != 0);
        let mut ports: Vec<PortSpec> = fixed.into_iter().chain(any).collect();
        for label in ["http", "ssh"] {
            if !ports.iter().any(|port| port.label == label) {
                ports.push(PortSpec { label: label.to_owned(), begin_at: 0, count: 1 });
            }
        }
        ports
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}x{}", self.label, self.begin_at, self.count)
    }
}
