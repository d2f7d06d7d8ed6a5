//! Whether a node can take one more task of a role, and if not, what it lacks.

use super::eligible::Eligible;
use super::gpus;
use super::ports::{self, PortShortage};
use super::request::{Request, RoleRequest};
use super::snapshot::{DIVIDED, NodeSnapshot, NodeState, Snapshot, Taken};
use crate::domain::gpu::type_matches;
use crate::domain::task::AssignedPorts;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// What keeps a task off a node. Cheap to make: words come later, for those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    State(NodeState),
    /// The job's selector leaves the node out.
    NotSelected,
    /// The request avoids the node.
    Avoided,
    /// No GPU here has an accepted type.
    GpuType,
    Gpus {
        need: usize,
        have: usize,
    },
    Cpus {
        need: u32,
        have: u32,
    },
    MemoryMb {
        need: u64,
        have: u64,
    },
    Ports(PortShortage),
    /// There would be enough, but not beside what free GPUs keep; `cpus` and `memory_mb` can be had.
    KeptForGpus {
        cpus: u32,
        memory_mb: u64,
    },
}

/// A request with what is looked up again and again.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) request: &'a Request,
    avoid: HashSet<usize>,
    fixed_ports: BTreeSet<u16>,
    eligible: Option<Arc<Eligible>>,
    /// [`Request::keeps_for_gpus`].
    keeps_percent: Option<u8>,
    /// GPUs that are in use now may be free by then.
    in_future: bool,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(snapshot: &Snapshot, request: &'a Request) -> Self {
        Self {
            request,
            avoid: request.avoid.iter().filter_map(|name| snapshot.position(name)).collect(),
            fixed_ports: request.fixed_ports(),
            eligible: snapshot.eligible(&request.selector),
            keeps_percent: request.keeps_for_gpus(),
            in_future: false,
        }
    }

    /// For a place that has to be one whoever ends before, or not at all: every GPU of a node keeps its part. By then no
    /// node is avoided any more.
    pub(super) fn in_future(snapshot: &Snapshot, request: &'a Request) -> Self {
        Self { in_future: true, avoid: HashSet::new(), ..Self::new(snapshot, request) }
    }

    /// Whether the job's selector admits the node at `at`.
    pub(super) fn selects(&self, at: usize) -> bool {
        self.eligible.as_ref().is_none_or(|eligible| eligible.admits(at))
    }

    /// Whether a node would keep what it has to, if `cpus` and `memory_mb` of it were taken, too.
    pub(super) fn leaves_enough(&self, node: &NodeSnapshot, cpus: u32, memory_mb: u64) -> bool {
        if self.keeps_percent.is_none() || node.gpus.is_empty() {
            return true;
        }
        let (cpus_left, memory_left) = self.beyond_kept(node);
        cpus <= cpus_left && memory_mb <= memory_left
    }

    /// CPUs and memory of a node that are free and not kept.
    fn beyond_kept(&self, node: &NodeSnapshot) -> (u32, u64) {
        let (cpus, memory_mb) = (node.cpus_free(), node.memory_mb_free());
        let Some(percent) = self.keeps_percent else { return (cpus, memory_mb) };
        let usable = node.gpus.iter().filter(|slot| slot.why_not.as_deref() != Some(DIVIDED)).count();
        let gpus_free = if self.in_future { usable } else { node.gpus_free() };
        // In 128 bits nothing that a node may claim to have overflows.
        let kept = |total: u64| {
            let shares = u128::from(total) * gpus_free as u128 * u128::from(percent);
            u64::try_from(shares / (100 * usable.max(1) as u128)).unwrap_or(u64::MAX)
        };
        let cpus_kept = u32::try_from(kept(node.cpus_total.into())).unwrap_or(u32::MAX);
        (cpus.saturating_sub(cpus_kept), memory_mb.saturating_sub(kept(node.memory_mb_total)))
    }
}

/// A way to put a task on a node.
#[derive(Debug)]
pub(super) struct Fit {
    pub(super) taken: Taken,
    pub(super) ports: Vec<AssignedPorts>,
    pub(super) quality: gpus::Quality,
}

/// The best way to put a task of `role` on the node at `at`. Cheap tests come first.
pub(super) fn fit(snapshot: &Snapshot, at: usize, prepared: &Prepared<'_>, role: &RoleRequest) -> Result<Fit, Lack> {
    let node = &snapshot.nodes()[at];
    if node.state != NodeState::Ready {
        return Err(Lack::State(node.state));
    }
    if !prepared.selects(at) {
        return Err(Lack::NotSelected);
    }
    if prepared.avoid.contains(&at) {
        return Err(Lack::Avoided);
    }
    let (cpus, memory_mb) = (node.cpus_free(), node.memory_mb_free());
    let count = role.gpus as usize;
    let types = &prepared.request.gpu_types;
    let free = if count == 0 { Vec::new() } else { gpus::candidates(node, prepared.request, count) };
    if free.len() < count {
        let accepted = |kind: &str| types.is_empty() || types.iter().any(|want| type_matches(want, kind));
        let none = !node.gpus.is_empty() && !node.gpus.iter().any(|slot| accepted(&slot.gpu.gpu_type));
        return Err(if none { Lack::GpuType } else { Lack::Gpus { need: count, have: free.len() } });
    }
    if cpus < role.cpus {
        return Err(Lack::Cpus { need: role.cpus, have: cpus });
    }
    if memory_mb < role.memory_mb {
        return Err(Lack::MemoryMb { need: role.memory_mb, have: memory_mb });
    }
    if prepared.keeps_percent.is_some() && !node.gpus.is_empty() {
        let (cpus, memory_mb) = prepared.beyond_kept(node);
        if cpus < role.cpus || memory_mb < role.memory_mb {
            return Err(Lack::KeptForGpus { cpus, memory_mb });
        }
    }
    let ports =
        ports::assign(&role.ports, &node.ports, snapshot.ports_of(at), &prepared.fixed_ports).map_err(Lack::Ports)?;
    let (gpus, quality) = gpus::choose(node, &free, count).ok_or(Lack::Gpus { need: count, have: free.len() })?;
    let numbers = ports.iter().flat_map(|label| label.ports.iter().copied()).collect();
    let taken = Taken { gpus, ports: numbers, cpus: role.cpus, memory_mb: role.memory_mb };
    Ok(Fit { taken, ports, quality })
}
