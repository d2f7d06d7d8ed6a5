//! The machines of a simulation.

use crate::domain::gpu::{Gpu, Link, LinkKind, Topology};
use crate::domain::ids::{GpuUuid, NodeName};
use crate::domain::quantity::DEFAULT_PORTS;
use crate::domain::task::Inventory;
use crate::scheduler::{NodeSnapshot, NodeState};

/// CPUs that go with one GPU, as in common servers; a node without GPUs has as many as one with eight.
pub const CPUS_PER_GPU: u32 = 12;
/// Memory that goes with one CPU.
pub const MEMORY_MB_PER_CPU: u64 = 8000;

/// Nodes that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeGroup {
    pub nodes: u32,
    /// GPUs of each node.
    pub gpus: u32,
    pub gpu_type: String,
    pub cpus: u32,
    pub memory_mb: u64,
}

impl NodeGroup {
    /// Nodes with `gpus` GPUs of a type, and what goes with them.
    pub fn of(nodes: u32, gpus: u32, gpu_type: &str) -> Self {
        let cpus = CPUS_PER_GPU * if gpus == 0 { 8 } else { gpus };
        Self { nodes, gpus, gpu_type: gpu_type.to_owned(), cpus, memory_mb: u64::from(cpus) * MEMORY_MB_PER_CPU }
    }
}

/// GPUs of all nodes together.
pub fn gpus_of(groups: &[NodeGroup]) -> u64 {
    groups.iter().map(|group| u64::from(group.nodes) * u64::from(group.gpus)).sum()
}

/// Nodes of all groups together.
pub fn nodes_of(groups: &[NodeGroup]) -> u64 {
    groups.iter().map(|group| u64::from(group.nodes)).sum()
}

/// Every node with a name and its inventory, in name order.
pub(super) fn nodes(groups: &[NodeGroup]) -> Vec<(NodeName, Inventory)> {
    let alike = groups.iter().flat_map(|group| (0..group.nodes).map(move |_| group));
    (1..).zip(alike).map(|(number, group)| (name(number), inventory(number, group))).collect()
}

/// Nothing is promised, every node is ready; a node is its own host.
pub(super) fn snapshot_of(nodes: &[(NodeName, Inventory)]) -> Vec<NodeSnapshot> {
    let node = |(name, inventory): &(NodeName, Inventory)| {
        NodeSnapshot::new(name.clone(), name.0.clone(), NodeState::Ready, inventory)
    };
    nodes.iter().map(node).collect()
}

fn name(number: u32) -> NodeName {
    NodeName(format!("node-{number:06}"))
}

fn inventory(number: u32, group: &NodeGroup) -> Inventory {
    let gpu = |index: u32| Gpu {
        uuid: GpuUuid(format!("GPU-{number:06}-{index:02}")),
        index,
        minor: index,
        gpu_type: group.gpu_type.clone(),
        // Two sockets.
        numa_node: Some(index * 2 / group.gpus.max(1)),
        ..Gpu::default()
    };
    let gpus: Vec<Gpu> = (0..group.gpus).map(gpu).collect();
    let pairs = gpus.iter().enumerate().flat_map(|(at, a)| gpus[..at].iter().map(move |b| (a, b)));
    // All behind one NVSwitch.
    let link =
        |(a, b): (&Gpu, &Gpu)| Link { a: a.uuid.clone(), b: b.uuid.clone(), kind: LinkKind::NvLink { lanes: 18 } };
    let topology = Topology { links: pairs.map(link).collect() };
    Inventory {
        cpus: group.cpus,
        memory_mb: group.memory_mb,
        gpus,
        topology,
        ports: (*DEFAULT_PORTS.start(), *DEFAULT_PORTS.end()),
        labels: Default::default(),
        runtime: "process".to_owned(),
        gpu_driver: Default::default(),
        gpu_conditions: Vec::new(),
        features: Vec::new(),
    }
}
