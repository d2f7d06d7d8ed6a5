//! What a job asks of the cluster.

use crate::domain::ids::NodeName;
use crate::domain::spec::{JobSpec, PortSpec, RoleSpec};
use std::collections::BTreeSet;

/// One gang: all tasks of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    pub roles: Vec<RoleRequest>,
    /// Accepted GPU types, in order of preference within a node; empty accepts any.
    pub gpu_types: Vec<String>,
    /// Nodes left out, e.g. the one whose agent vetoed the last attempt.
    pub avoid: BTreeSet<NodeName>,
}

/// `count` tasks of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleRequest {
    pub name: String,
    pub count: u32,
    pub cpus: u32,
    pub memory_mb: u64,
    pub gpus: u32,
    /// In the order of [`RoleSpec::all_ports`], which is the order they are assigned in.
    pub ports: Vec<PortSpec>,
}

impl Request {
    pub fn of(job: &JobSpec) -> Self {
        Self {
            roles: job.roles.iter().map(RoleRequest::of).collect(),
            gpu_types: job.gpu_types.clone(),
            avoid: BTreeSet::new(),
        }
    }

    /// The same without this node.
    pub fn avoiding(mut self, node: NodeName) -> Self {
        self.avoid.insert(node);
        self
    }

    pub fn task_count(&self) -> u32 {
        self.roles.iter().map(|role| role.count).sum()
    }

    pub fn gpu_count(&self) -> u64 {
        self.roles.iter().map(|role| u64::from(role.count) * u64::from(role.gpus)).sum()
    }

    /// Every port that any task of the gang asks for by number. Ports given out freely keep clear of them.
    pub fn fixed_ports(&self) -> BTreeSet<u16> {
        self.roles.iter().flat_map(RoleRequest::fixed_ports).collect()
    }
}

impl RoleRequest {
    fn of(role: &RoleSpec) -> Self {
        Self {
            name: role.name.clone(),
            count: role.count,
            cpus: role.cpus,
            memory_mb: role.memory_mb,
            gpus: role.gpus,
            ports: role.all_ports(),
        }
    }

    /// Ports asked for by number; they may exceed 65535 no more than the type allows.
    pub fn fixed_ports(&self) -> impl Iterator<Item = u16> + '_ {
        let fixed = self.ports.iter().filter(|port| port.begin_at != 0);
        fixed.flat_map(|port| (0..port.count).filter_map(move |offset| port.begin_at.checked_add(offset)))
    }
}
