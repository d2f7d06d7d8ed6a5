//! What a job asks of the cluster.

use super::policy::Policy;
use super::quota::Amount;
use crate::domain::gpu::Gpu;
use crate::domain::ids::{GpuUuid, NodeName};
use crate::domain::placement::{Arrangement, NodeSelector};
use crate::domain::spec::{JobSpec, PortSpec, RoleSpec};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// One gang: all tasks of one run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Request {
    pub roles: Vec<RoleRequest>,
    /// Accepted GPU types, in order of preference within a node; empty accepts any.
    pub gpu_types: Vec<String>,
    /// Nodes left out, e.g. the one whose agent vetoed the last attempt.
    pub avoid: BTreeSet<NodeName>,
    /// GPUs left out, with the slices of theirs: those that have failed the job before. Unlike a node they are avoided in
    /// what is kept for the future, too.
    pub avoid_gpus: BTreeSet<GpuUuid>,
    /// The queue it stands in, which may have a quota.
    pub virtual_cluster: String,
    /// The nodes it may have at all.
    pub selector: NodeSelector,
    pub arrangement: Arrangement,
    /// Without GPUs of its own it leaves every free GPU this part of its even share of a node; 0 leaves nothing.
    pub kept_for_gpus_percent: u8,
}

/// `count` tasks of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
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
    /// What the job asks for, where the cluster has no wishes of its own.
    pub fn of(job: &JobSpec) -> Self {
        Self {
            roles: job.roles.iter().map(RoleRequest::of).collect(),
            gpu_types: job.gpu_types.clone(),
            avoid: BTreeSet::new(),
            avoid_gpus: BTreeSet::new(),
            virtual_cluster: job.virtual_cluster.clone(),
            selector: job.placement.nodes.clone(),
            arrangement: job.placement.arrangement.unwrap_or_default(),
            kept_for_gpus_percent: 0,
        }
    }

    /// What the job asks for under the rules of a cluster.
    pub fn under(policy: &Policy, job: &JobSpec) -> Self {
        Self {
            arrangement: job.placement.arrangement.unwrap_or(policy.arrangement),
            kept_for_gpus_percent: policy.kept_for_gpus_percent,
            ..Self::of(job)
        }
    }

    /// The same without this node.
    pub fn avoiding(mut self, node: NodeName) -> Self {
        self.avoid.insert(node);
        self
    }

    /// The same once it avoids nothing any more: what is avoided is so for a while only.
    pub fn later(&self) -> Cow<'_, Self> {
        if self.avoid.is_empty() && self.avoid_gpus.is_empty() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self { avoid: BTreeSet::new(), avoid_gpus: BTreeSet::new(), ..self.clone() })
    }

    /// Whether the gang does not want this GPU.
    pub fn avoids(&self, gpu: &Gpu) -> bool {
        let avoided = |gpu: &GpuUuid| self.avoid_gpus.contains(gpu);
        !self.avoid_gpus.is_empty() && (avoided(&gpu.uuid) || gpu.mig_parent.as_ref().is_some_and(avoided))
    }

    pub fn task_count(&self) -> u32 {
        self.roles.iter().map(|role| role.count).sum()
    }

    pub fn gpu_count(&self) -> u64 {
        self.roles.iter().map(|role| u64::from(role.count) * u64::from(role.gpus)).sum()
    }

    /// Everything that all tasks take together.
    pub fn total(&self) -> Amount {
        let of = |role: &RoleRequest| {
            Amount { gpus: role.gpus.into(), cpus: role.cpus.into(), memory_mb: role.memory_mb }.times(role.count)
        };
        self.roles.iter().map(of).fold(Amount::default(), Amount::plus)
    }

    /// The part of a free GPU's even share that the gang must leave, in percent. Only of a gang without any GPU: those
    /// of a gang that has some belong to it.
    pub fn keeps_for_gpus(&self) -> Option<u8> {
        (self.kept_for_gpus_percent > 0 && self.gpu_count() == 0).then_some(self.kept_for_gpus_percent)
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
