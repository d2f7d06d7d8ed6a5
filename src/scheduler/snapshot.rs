//! The cluster as the scheduler sees it: nodes with what is free, indexed by free GPUs.
//!
//! It can be built anew for every pass or kept and fed with [`Snapshot::promise`] and [`Snapshot::give_back`].
//! Who holds something is the controller's business. The only thing known of jobs is what passed which of them in
//! the queue; see `reservation`.

use super::eligible::{Eligible, Known};
use crate::domain::gpu::{Gpu, LinkKind, Topology};
use crate::domain::ids::{GpuUuid, JobId, NodeName};
use crate::domain::placement::NodeSelector;
use crate::domain::promise::Promise;
use crate::domain::task::Inventory;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Whether a node takes tasks, as shown by `wharf nodes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NodeState {
    Ready,
    /// Takes no new tasks; those that run go on.
    Cordoned,
    /// On its way to be empty.
    Draining,
    Drained,
    Unreachable,
}

impl NodeState {
    pub const ALL: [Self; 5] = [Self::Ready, Self::Cordoned, Self::Draining, Self::Drained, Self::Unreachable];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Cordoned => "CORDONED",
            Self::Draining => "DRAINING",
            Self::Drained => "DRAINED",
            Self::Unreachable => "UNREACHABLE",
        }
    }
}

/// One GPU and whether a task may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSlot {
    pub gpu: Gpu,
    /// Why it is not free.
    pub why_not: Option<Cow<'static, str>>,
}

pub(super) const PROMISED: &str = "held";
pub(super) const DIVIDED: &str = "divided into MIG slices";

/// One node.
#[derive(Debug, Clone)]
pub struct NodeSnapshot {
    pub name: NodeName,
    /// Nodes of one host share their ports.
    pub host: String,
    pub state: NodeState,
    pub runtime: String,
    pub cpus_total: u32,
    pub cpus_used: u64,
    pub memory_mb_total: u64,
    pub memory_mb_used: u64,
    pub gpus: Vec<GpuSlot>,
    /// Ports given out freely; fixed ones may lie outside.
    pub ports: RangeInclusive<u16>,
    pub labels: BTreeMap<String, String>,
    /// Links by position in `gpus`, row by row.
    links: Vec<LinkKind>,
    host_index: usize,
}

impl NodeSnapshot {
    /// A node with nothing promised.
    pub fn new(name: NodeName, host: impl Into<String>, state: NodeState, inventory: &Inventory) -> Self {
        let divided: HashSet<&GpuUuid> = inventory.gpus.iter().filter_map(|gpu| gpu.mig_parent.as_ref()).collect();
        let slot = |gpu: &Gpu| GpuSlot {
            why_not: divided.contains(&gpu.uuid).then_some(Cow::Borrowed(DIVIDED)),
            gpu: gpu.clone(),
        };
        Self {
            name,
            host: host.into(),
            state,
            runtime: inventory.runtime.clone(),
            cpus_total: inventory.cpus,
            cpus_used: 0,
            memory_mb_total: inventory.memory_mb,
            memory_mb_used: 0,
            gpus: inventory.gpus.iter().map(slot).collect(),
            ports: inventory.ports.0..=inventory.ports.1,
            labels: inventory.labels.clone(),
            links: matrix(&inventory.gpus, &inventory.topology),
            host_index: 0,
        }
    }

    /// Keeps a GPU from new tasks: faulty, lost, in use by something else. Call before [`Snapshot::new`].
    pub fn withhold(&mut self, gpu: &GpuUuid, reason: impl Into<Cow<'static, str>>) -> bool {
        let Some(slot) = self.gpus.iter_mut().find(|slot| slot.gpu.uuid == *gpu) else { return false };
        slot.why_not = Some(reason.into());
        true
    }

    pub fn cpus_free(&self) -> u32 {
        u64::from(self.cpus_total).saturating_sub(self.cpus_used).try_into().unwrap_or(u32::MAX)
    }

    pub fn memory_mb_free(&self) -> u64 {
        self.memory_mb_total.saturating_sub(self.memory_mb_used)
    }

    pub fn gpus_free(&self) -> usize {
        self.gpus.iter().filter(|slot| slot.why_not.is_none()).count()
    }

    /// Nothing is promised any more.
    fn empty(&mut self) {
        self.cpus_used = 0;
        self.memory_mb_used = 0;
        for slot in &mut self.gpus {
            slot.why_not.take_if(|reason| reason == PROMISED);
        }
    }

    /// How two GPUs, by position, reach each other.
    pub fn link(&self, a: usize, b: usize) -> LinkKind {
        self.links[a * self.gpus.len() + b]
    }
}

fn matrix(gpus: &[Gpu], topology: &Topology) -> Vec<LinkKind> {
    let position: HashMap<&GpuUuid, usize> = gpus.iter().enumerate().map(|(at, gpu)| (&gpu.uuid, at)).collect();
    let mut links = vec![LinkKind::System; gpus.len() * gpus.len()];
    for link in &topology.links {
        if let (Some(a), Some(b)) = (position.get(&link.a), position.get(&link.b)) {
            links[a * gpus.len() + b] = link.kind;
            links[b * gpus.len() + a] = link.kind;
        }
    }
    links
}

fn room(nodes: &[NodeSnapshot], at: usize) -> Room {
    (Reverse(nodes[at].gpus_free()), Reverse(nodes[at].cpus_free()), at)
}

/// Ports of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPorts {
    pub used: BTreeSet<u16>,
    /// Given out last; the search goes on behind it, so that ports rest after use.
    pub last: Option<u16>,
    /// In use by somebody else, as far as agents found: left alone for a while. Never among `used` for that.
    pub busy: BTreeSet<u16>,
}

/// What one task takes from a node; positions and numbers, so that it can be given back exactly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Taken {
    pub(super) gpus: Vec<usize>,
    pub(super) ports: BTreeSet<u16>,
    pub(super) cpus: u32,
    pub(super) memory_mb: u64,
}

/// The whole cluster.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// In name order.
    nodes: Vec<NodeSnapshot>,
    hosts: Vec<HostPorts>,
    by_host: HashMap<String, usize>,
    by_name: HashMap<NodeName, usize>,
    /// Nodes by their number of free GPUs.
    by_free_gpus: Vec<BTreeSet<usize>>,
    /// What was placed while a job ahead in the queue went on waiting, and is held still; the newest last.
    passers: HashMap<JobId, Vec<(usize, Taken)>>,
    /// Nodes that have no GPUs at all.
    without_gpus: Vec<usize>,
    selectors: Known,
    /// Nodes by what is free: most GPUs first, then most CPUs, then by name. Not kept of what is lent.
    by_room: BTreeSet<Room>,
    spare: Spare,
    /// Of what is lent: nodes that were changed, maybe more than once.
    touched: Option<Vec<usize>>,
}

type Room = (Reverse<usize>, Reverse<u32>, usize);

/// The same nodes with nothing promised, kept from one pass to the next: making them costs more than a pass.
/// A copy of a snapshot makes its own.
#[derive(Debug, Default)]
struct Spare(Option<Box<Snapshot>>);

impl Clone for Spare {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl Snapshot {
    /// Nodes with nothing promised. A later node of a name replaces an earlier one.
    pub fn new(nodes: Vec<NodeSnapshot>) -> Self {
        let nodes: BTreeMap<NodeName, NodeSnapshot> =
            nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        let mut snapshot = Self { nodes: nodes.into_values().collect(), ..Self::default() };
        let widest = snapshot.nodes.iter().map(|node| node.gpus.len()).max().unwrap_or(0);
        snapshot.by_free_gpus = vec![BTreeSet::new(); widest + 1];
        for at in 0..snapshot.nodes.len() {
            let host = snapshot.host_index(&snapshot.nodes[at].host.clone());
            snapshot.nodes[at].host_index = host;
            snapshot.by_name.insert(snapshot.nodes[at].name.clone(), at);
            snapshot.by_free_gpus[snapshot.nodes[at].gpus_free()].insert(at);
            if snapshot.nodes[at].gpus.is_empty() {
                snapshot.without_gpus.push(at);
            }
            snapshot.by_room.insert(room(&snapshot.nodes, at));
        }
        snapshot
    }

    pub fn nodes(&self) -> &[NodeSnapshot] {
        &self.nodes
    }

    pub fn node(&self, name: &NodeName) -> Option<&NodeSnapshot> {
        self.by_name.get(name).map(|at| &self.nodes[*at])
    }

    /// Ports of the host of the node at a position of [`Snapshot::nodes`].
    pub fn ports_of(&self, node: usize) -> &HostPorts {
        &self.hosts[self.nodes[node].host_index]
    }

    /// The host of a node, as a number; nodes of one host share its ports.
    pub(super) fn host_of(&self, node: usize) -> usize {
        self.nodes[node].host_index
    }

    pub(super) fn position(&self, name: &NodeName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Groups of nodes with 0, 1, 2 ... free GPUs, each in name order.
    pub(super) fn by_free_gpus(&self) -> &[BTreeSet<usize>] {
        &self.by_free_gpus
    }

    /// Nodes with the most free GPUs first, of those with the most free CPUs.
    pub(super) fn by_room(&self) -> impl Iterator<Item = usize> + '_ {
        self.by_room.iter().map(|(.., at)| *at)
    }

    /// A node takes tasks, or does not any more. False if there is no such node.
    pub fn set_state(&mut self, name: &NodeName, state: NodeState) -> bool {
        let Some(at) = self.position(name) else { return false };
        self.nodes[at].state = state;
        if let Some(spare) = &mut self.spare.0 {
            spare.nodes[at].state = state;
        }
        true
    }

    /// Nodes without any GPU, in name order.
    pub(super) fn without_gpus(&self) -> &[usize] {
        &self.without_gpus
    }

    /// Looks at every node for a selector that is going to be asked for, once.
    pub(super) fn learn(&mut self, selector: &NodeSelector) {
        self.selectors.learn(selector, &self.nodes);
    }

    /// The nodes that a selector admits; none if it has no wishes.
    pub(super) fn eligible(&self, selector: &NodeSelector) -> Option<Arc<Eligible>> {
        let find = || Arc::new(Eligible::of(selector, &self.nodes));
        (!selector.is_empty()).then(|| self.selectors.get(selector).unwrap_or_else(find))
    }

    /// Takes what is promised. Of a node that is not here (any more), the ports of its host still count.
    pub fn promise(&mut self, promise: &Promise) {
        let host = self.host_index(&promise.host);
        self.hosts[host].used.extend(promise.claim.ports.iter().copied());
        if let Some((node, taken)) = self.taken_of(promise) {
            self.take(node, &taken);
            if let Some(head) = promise.passed {
                self.passed(head, node, taken);
            }
        }
    }

    /// Undoes [`Snapshot::promise`]: once for each time.
    pub fn give_back(&mut self, promise: &Promise) {
        let host = self.host_index(&promise.host);
        for port in &promise.claim.ports {
            self.hosts[host].used.remove(port);
        }
        let Some((node, taken)) = self.taken_of(promise) else { return };
        self.put_back(node, &taken);
        let Some((head, passers)) = promise.passed.and_then(|head| Some((head, self.passers.get_mut(&head)?))) else {
            return;
        };
        // Of two that are equal, either may go.
        if let Some(at) = passers.iter().rposition(|passer| (passer.0, &passer.1) == (node, &taken)) {
            passers.remove(at);
        }
        if passers.is_empty() {
            self.passers.remove(&head);
        }
    }

    /// Remembers, until it is given back, that this was placed while `head` waited ahead.
    pub(super) fn passed(&mut self, head: JobId, node: usize, taken: Taken) {
        self.passers.entry(head).or_default().push((node, taken));
    }

    /// What has passed this job; the newest last.
    pub(super) fn passers(&self, head: JobId) -> &[(usize, Taken)] {
        self.passers.get(&head).map_or(&[], Vec::as_slice)
    }

    fn taken_of(&self, promise: &Promise) -> Option<(usize, Taken)> {
        let node = self.position(&promise.node)?;
        let gpus = self.nodes[node].gpus.iter().enumerate();
        let gpus = gpus.filter(|(_, slot)| promise.claim.gpus.contains(&slot.gpu.uuid)).map(|(at, _)| at).collect();
        let claim = &promise.claim;
        let ports = claim.ports.iter().copied().collect();
        Some((node, Taken { gpus, ports, cpus: claim.cpus, memory_mb: claim.memory_mb }))
    }

    pub(super) fn take(&mut self, node: usize, taken: &Taken) {
        self.change(node, |node, ports| {
            node.cpus_used += u64::from(taken.cpus);
            node.memory_mb_used += taken.memory_mb;
            for at in &taken.gpus {
                // A fault or the like weighs more and outlives the promise.
                node.gpus[*at].why_not.get_or_insert(Cow::Borrowed(PROMISED));
            }
            ports.used.extend(&taken.ports);
        });
    }

    pub(super) fn put_back(&mut self, node: usize, taken: &Taken) {
        self.change(node, |node, ports| {
            node.cpus_used = node.cpus_used.saturating_sub(u64::from(taken.cpus));
            node.memory_mb_used = node.memory_mb_used.saturating_sub(taken.memory_mb);
            for at in &taken.gpus {
                node.gpus[*at].why_not.take_if(|reason| reason == PROMISED);
            }
            for port in &taken.ports {
                ports.used.remove(port);
            }
        });
    }

    pub(super) fn set_last_port(&mut self, node: usize, last: Option<u16>) {
        self.hosts[self.nodes[node].host_index].last = last;
    }

    /// The same cluster with every promise taken back and every node ready; what is faulty stays so.
    pub(super) fn emptied(&self, every_state: bool) -> Self {
        let mut nodes = self.nodes.clone();
        for node in &mut nodes {
            node.empty();
            if every_state {
                node.state = NodeState::Ready;
            }
        }
        Self::new(nodes)
    }

    /// Replaces the ports of a host that somebody else uses.
    pub fn set_busy_ports(&mut self, host: &str, ports: BTreeSet<u16>) {
        let host = self.host_index(host);
        self.hosts[host].busy = ports;
    }

    /// The same as [`Snapshot::emptied`] of the nodes as they are, to be given back when it was used.
    pub(super) fn lend_empty(&mut self) -> Self {
        match self.spare.0.take() {
            Some(spare) => *spare,
            None => {
                let empty = self.emptied(false);
                Self { touched: Some(Vec::new()), by_room: BTreeSet::new(), ..empty }
            }
        }
    }

    /// Takes back what was lent, and empties it again.
    pub(super) fn take_back(&mut self, mut lent: Self) {
        let mut touched = lent.touched.take().unwrap_or_default();
        touched.iter().for_each(|at| lent.empty_node(*at));
        touched.clear();
        lent.touched = Some(touched);
        self.spare = Spare(Some(Box::new(lent)));
    }

    fn empty_node(&mut self, at: usize) {
        self.change(at, |node, ports| {
            node.empty();
            *ports = HostPorts::default();
        });
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut NodeSnapshot, &mut HostPorts)) {
        let before = room(&self.nodes, at);
        let node = &mut self.nodes[at];
        change(node, &mut self.hosts[node.host_index]);
        let after = room(&self.nodes, at);
        let (Reverse(free_before), Reverse(free_after)) = (before.0, after.0);
        if free_before != free_after {
            self.by_free_gpus[free_before].remove(&at);
            self.by_free_gpus[free_after].insert(at);
        }
        match &mut self.touched {
            Some(touched) => touched.push(at),
            None if before != after => {
                self.by_room.remove(&before);
                self.by_room.insert(after);
            }
            None => {}
        }
    }

    fn host_index(&mut self, host: &str) -> usize {
        if let Some(at) = self.by_host.get(host) {
            return *at;
        }
        self.hosts.push(HostPorts::default());
        self.by_host.insert(host.to_owned(), self.hosts.len() - 1);
        self.hosts.len() - 1
    }
}
