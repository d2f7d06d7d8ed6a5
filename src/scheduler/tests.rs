//! Choices on known machines, the queue's manners, and what must hold of any cluster and any sequence of requests.

use super::filter::Lack;
use super::quota::Limits;
use super::request::RoleRequest;
use super::*;
use crate::domain::allocation::Claim;
use crate::domain::gpu::{Gpu, Link, LinkKind, Topology, type_matches};
use crate::domain::ids::{Generation, GpuUuid, JobId, NodeName, RunId, TaskId};
use crate::domain::placement::{Arrangement, NodeSelector};
use crate::domain::promise::Promise;
use crate::domain::spec::PortSpec;
use crate::domain::task::Inventory;
use crate::domain::time::Timestamp;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};

mod backfill;
mod choice;
mod gangs;
mod gpus;
mod kept;
mod property;
mod quotas;
mod simulation;
mod waiting;

/// Links by position of the two GPUs.
type Links = fn(u32, u32) -> LinkKind;

fn nvswitch(_: u32, _: u32) -> LinkKind {
    LinkKind::NvLink { lanes: 18 }
}

/// Pairs below a switch, four to a socket.
fn pcie_pairs(a: u32, b: u32) -> LinkKind {
    match (a / 2 == b / 2, a / 4 == b / 4) {
        (true, _) => LinkKind::PcieSwitch,
        (_, true) => LinkKind::NumaNode,
        _ => LinkKind::System,
    }
}

fn node_on(name: &str, host: &str, kind: &str, gpus: u32, links: impl Fn(u32, u32) -> LinkKind) -> NodeSnapshot {
    let gpu = |index: u32| Gpu {
        uuid: GpuUuid(format!("GPU-{name}-{index}")),
        index,
        minor: index,
        model: kind.to_owned(),
        gpu_type: kind.to_owned(),
        memory_mb: 80_000,
        pci: String::new(),
        numa_node: Some(index / 4),
        mig_parent: None,
        ..Gpu::default()
    };
    let gpus: Vec<Gpu> = (0..gpus).map(gpu).collect();
    let pairs = gpus.iter().flat_map(|a| gpus.iter().filter(|b| a.index < b.index).map(move |b| (a, b)));
    let links = pairs.map(|(a, b)| Link { a: a.uuid.clone(), b: b.uuid.clone(), kind: links(a.index, b.index) });
    let topology = Topology { links: links.collect() };
    NodeSnapshot::new(name.into(), host, NodeState::Ready, &inventory(gpus, topology))
}

fn inventory(gpus: Vec<Gpu>, topology: Topology) -> Inventory {
    Inventory {
        cpus: 64,
        memory_mb: 512_000,
        gpus,
        topology,
        ports: (15000, 15063),
        labels: Default::default(),
        runtime: "process".to_owned(),
        gpu_driver: Default::default(),
        gpu_conditions: Vec::new(),
        features: Vec::new(),
    }
}

fn node(name: &str, kind: &str, gpus: u32) -> NodeSnapshot {
    node_on(name, name, kind, gpus, nvswitch)
}

fn cluster(nodes: Vec<NodeSnapshot>) -> Snapshot {
    Snapshot::new(nodes)
}

fn role(count: u32, gpus: u32) -> RoleRequest {
    let ports = vec![PortSpec { label: "http".to_owned(), begin_at: 0, count: 1 }];
    RoleRequest { name: "worker".to_owned(), count, cpus: 1, memory_mb: 1000, gpus, ports }
}

fn request(roles: Vec<RoleRequest>) -> Request {
    Request { roles, ..Request::default() }
}

fn nodes_of(placements: &[Placement]) -> Vec<&str> {
    placements.iter().map(|placement| placement.node.0.as_str()).collect()
}

fn promise(snapshot: &Snapshot, request: &Request, placement: &Placement) -> Promise {
    let role = &request.roles[placement.role as usize];
    let ports = placement.ports.iter().flat_map(|label| label.ports.clone()).collect();
    Promise {
        generation: Generation(1),
        node: placement.node.clone(),
        host: snapshot.node(&placement.node).unwrap().host.clone(),
        claim: Claim {
            gpus: placement.gpus.clone(),
            ports,
            cpus: role.cpus,
            memory_mb: role.memory_mb,
            ..Claim::default()
        },
        passed: placement.passed,
    }
}

fn gang(snapshot: &Snapshot, job: u64, request: &Request, placements: &[Placement]) -> Vec<(TaskId, Promise)> {
    let id = |placement: &Placement| TaskId {
        job: JobId(job),
        run: RunId(job),
        role: placement.role,
        index: placement.index,
    };
    placements.iter().map(|placement| (id(placement), promise(snapshot, request, placement))).collect()
}

/// The nodes with what is promised on them, made anew.
fn rebuilt<'a>(nodes: &[NodeSnapshot], promises: impl IntoIterator<Item = &'a Promise>) -> Snapshot {
    let mut snapshot = Snapshot::new(nodes.to_vec());
    promises.into_iter().for_each(|promise| snapshot.promise(promise));
    snapshot
}

/// No GPU of a node and no port of a host twice, and no more than a node has.
fn check_promises<'a>(nodes: &[NodeSnapshot], promises: impl IntoIterator<Item = &'a Promise>) {
    let nodes: HashMap<&NodeName, &NodeSnapshot> = nodes.iter().map(|node| (&node.name, node)).collect();
    let (mut gpus, mut ports) = (HashSet::new(), HashSet::new());
    let mut usage: HashMap<&NodeName, (u64, u64)> = HashMap::new();
    for promise in promises {
        assert!(promise.claim.gpus.iter().all(|gpu| gpus.insert((&promise.node, gpu))), "a GPU twice");
        assert!(promise.claim.ports.iter().all(|port| ports.insert((&promise.host, port))), "a port twice");
        let usage = usage.entry(&promise.node).or_default();
        *usage = (usage.0 + u64::from(promise.claim.cpus), usage.1 + promise.claim.memory_mb);
        let node = nodes[&promise.node];
        assert!(usage.0 <= u64::from(node.cpus_total) && usage.1 <= node.memory_mb_total);
    }
}
