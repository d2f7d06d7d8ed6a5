//! Whether a node can take one more task of a role, and if not, what it lacks.

use super::gpus;
use super::ports::{self, PortShortage};
use super::request::{Request, RoleRequest};
use super::snapshot::{NodeState, Snapshot, Taken};
use crate::domain::gpu::type_matches;
use crate::domain::task::AssignedPorts;
use std::collections::{BTreeSet, HashSet};

/// What keeps a task off a node. Cheap to make: words come later, for those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    State(NodeState),
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
}

/// A request with what is looked up again and again.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) request: &'a Request,
    avoid: HashSet<usize>,
    fixed_ports: BTreeSet<u16>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(snapshot: &Snapshot, request: &'a Request) -> Self {
        Self {
            request,
            avoid: request.avoid.iter().filter_map(|name| snapshot.position(name)).collect(),
            fixed_ports: request.fixed_ports(),
        }
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
    if prepared.avoid.contains(&at) {
        return Err(Lack::Avoided);
    }
    let (cpus, memory_mb) = (node.cpus_free(), node.memory_mb_free());
    let count = role.gpus as usize;
    let types = &prepared.request.gpu_types;
    let free = if count == 0 { Vec::new() } else { gpus::candidates(node, types, count) };
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
    let ports =
        ports::assign(&role.ports, &node.ports, snapshot.ports_of(at), &prepared.fixed_ports).map_err(Lack::Ports)?;
    let (gpus, quality) = gpus::choose(node, &free, count).ok_or(Lack::Gpus { need: count, have: free.len() })?;
    let numbers = ports.iter().flat_map(|label| label.ports.iter().copied()).collect();
    let taken = Taken { gpus, ports: numbers, cpus: role.cpus, memory_mb: role.memory_mb };
    Ok(Fit { taken, ports, quality })
}
