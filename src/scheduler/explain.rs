//! Why a job waits, node by node, in words; and whether it ever could run.

use super::feasible::{EmptyCluster, Feasibility};
use super::filter::{Lack, Prepared, fit};
use super::place::{Unplaced, place};
use super::ports::PortShortage;
use super::quota::Quotas;
use super::request::{Request, RoleRequest};
use super::snapshot::{NodeSnapshot, NodeState, Snapshot};
use crate::domain::ids::NodeName;
use crate::domain::placement::Mismatch;
use crate::domain::view::ExplainedReason;
use std::collections::BTreeMap;

/// Of free GPUs that the gang does not want.
const AVOIDED: &str = "left out after hardware faults";

/// Why the gang cannot be placed now: one reason for the whole, then one for each node that cannot take a task of
/// the role that does not fit. Empty if it can be placed.
pub fn explain(snapshot: &Snapshot, request: &Request) -> Vec<ExplainedReason> {
    match place(&mut snapshot.clone(), request) {
        Ok(_) => Vec::new(),
        Err(unplaced) => reasons(snapshot, request, &unplaced),
    }
}

/// Whether the nodes that are known now could ever hold the gang, all of them ready and empty. If not: why.
pub fn ever_possible(snapshot: &Snapshot, request: &Request) -> Result<(), Vec<ExplainedReason>> {
    match EmptyCluster::of(snapshot).judge(request, &Quotas::default()) {
        Feasibility::NoNodes(reasons) => Err(reasons),
        _ => Ok(()),
    }
}

/// Nodes that could take a task of the gang now.
pub fn fitting(snapshot: &Snapshot, request: &Request) -> Vec<NodeName> {
    let prepared = Prepared::new(snapshot, request);
    let takes = |at: usize| request.roles.iter().any(|role| fit(snapshot, at, &prepared, role).is_ok());
    let nodes = snapshot.nodes().iter().enumerate();
    nodes.filter(|(at, _)| takes(*at)).map(|(_, node)| node.name.clone()).collect()
}

pub(super) fn reasons(snapshot: &Snapshot, request: &Request, unplaced: &Unplaced) -> Vec<ExplainedReason> {
    let Some(role) = request.roles.get(unplaced.role as usize) else { return Vec::new() };
    let prepared = Prepared::new(snapshot, request);
    let mut reasons = vec![whole(role, unplaced, snapshot.nodes().is_empty())];
    for (at, node) in snapshot.nodes().iter().enumerate() {
        if let Err(lack) = fit(snapshot, at, &prepared, role) {
            reasons.push(words(node, role, request, lack));
        }
    }
    reasons
}

fn whole(role: &RoleRequest, unplaced: &Unplaced, no_nodes: bool) -> ExplainedReason {
    let have = match (no_nodes, unplaced.placed) {
        (true, _) => "no nodes".to_owned(),
        (false, 0) => "room for none".to_owned(),
        (false, placed) => format!("room for {placed}"),
    };
    ExplainedReason {
        node: None,
        reason: "gang".to_owned(),
        need: format!("{} tasks of role {} at once, each with {}", role.count, role.name, shape(role)),
        have,
    }
}

fn shape(role: &RoleRequest) -> String {
    format!("{} GPUs, {} CPUs, {} MB", role.gpus, role.cpus, role.memory_mb)
}

fn words(node: &NodeSnapshot, role: &RoleRequest, request: &Request, lack: Lack) -> ExplainedReason {
    let (reason, need, have) = match lack {
        Lack::State(state) => ("node_state", NodeState::Ready.as_str().to_owned(), state.as_str().to_owned()),
        Lack::Avoided => {
            ("back_off", "a node that did not refuse the last attempt".to_owned(), "refused it".to_owned())
        }
        Lack::NotSelected => match request.selector.check(&node.name.0, &node.labels) {
            Err(Mismatch::Name) => ("node_name", request.selector.wanted_names(), node.name.0.clone()),
            _ => ("labels", request.selector.wanted_labels(), request.selector.found_labels(&node.labels)),
        },
        Lack::KeptForGpus { cpus, memory_mb } => (
            "kept_for_gpus",
            format!("{} CPUs, {} MB", role.cpus, role.memory_mb),
            format!("{cpus} CPUs, {memory_mb} MB beside what its {} free GPUs keep", node.gpus_free()),
        ),
        Lack::GpuType => ("gpu_type", request.gpu_types.join(" or "), types(node)),
        Lack::Gpus { need, have } => ("gpus", need.to_string(), gpus(node, request, have)),
        Lack::Cpus { need, have } => ("cpus", need.to_string(), format!("{have} free of {}", node.cpus_total)),
        Lack::MemoryMb { need, have } => {
            ("memory_mb", need.to_string(), format!("{have} free of {}", node.memory_mb_total))
        }
        Lack::Ports(shortage) => {
            let (need, have) = port_words(role, shortage);
            ("ports", need, have)
        }
    };
    ExplainedReason { node: Some(node.name.0.clone()), reason: reason.to_owned(), need, have }
}

fn types(node: &NodeSnapshot) -> String {
    let mut kinds: Vec<&str> = node.gpus.iter().map(|slot| slot.gpu.gpu_type.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.join(", ")
}

/// `2 free of 8 (5 held, 1 fault 7)`.
fn gpus(node: &NodeSnapshot, request: &Request, have: usize) -> String {
    if node.gpus.is_empty() {
        return "none".to_owned();
    }
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in node.gpus.iter().filter_map(|slot| slot.why_not.as_deref()) {
        *others.entry(reason).or_default() += 1;
    }
    let avoided = node.gpus.iter().filter(|slot| slot.why_not.is_none() && request.avoids(&slot.gpu)).count();
    if avoided > 0 {
        others.insert(AVOIDED, avoided);
    }
    let others: Vec<String> = others.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    format!("{have} free of {}{others}", node.gpus.len())
}

fn port_words(role: &RoleRequest, shortage: PortShortage) -> (String, String) {
    match shortage {
        PortShortage::Used { port } => (format!("port {port} for role {}", role.name), "in use".to_owned()),
        PortShortage::BeyondLast { begin_at, count } => {
            (format!("{count} ports from {begin_at}"), "65535 is the last port".to_owned())
        }
        PortShortage::Free { need, have } => (format!("{need} free ports"), have.to_string()),
    }
}
