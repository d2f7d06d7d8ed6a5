//! Hardware faults, as nodes tell them with their heartbeats: the whole list where the controller has another version, so
//! that a list that was lost on its way is told again. History has each fault's beginning and end once: what is stored
//! says which were told.

use super::core::{Controller, read};
use super::schedule;
use super::state::{Node, State, Withdrawn};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::fault::{Action, Fault, FaultId, FaultState, Verdict};
use crate::domain::ids::NodeName;
use crate::domain::principal::Principal;
use crate::domain::time::Timestamp;
use crate::health::REMEDIATION;
use std::collections::HashMap;

/// Faults of a node that are kept; agents tell of no more.
pub(super) const MOST_TOLD: usize = 64;
/// Faults that a node has left out of its list, remembered.
const MOST_UNLISTED: usize = 256;
/// What they may take in the store, whose values have a limit.
const MAX_BYTES: usize = 200 * 1024;

/// What makes a fault worth another write: its count alone does not.
fn shape(fault: &Fault) -> (FaultId, FaultState, Verdict, Action, bool, Option<&str>) {
    (fault.id, fault.state, fault.verdict, fault.action, fault.task.is_some(), remediation(fault))
}

/// What the node did about it by itself.
fn remediation(fault: &Fault) -> Option<&str> {
    fault.evidence.iter().map(String::as_str).find(|line| line.starts_with(REMEDIATION))
}

/// A node has told its faults.
pub(super) fn told(state: &mut State, name: &NodeName, mut told: Vec<Fault>, version: u64, now: Timestamp) {
    told.truncate(MOST_TOLD);
    while told.len() > 1 && serde_json::to_vec(&told).map_or(0, |bytes| bytes.len()) > MAX_BYTES {
        told.remove(0);
    }
    told.iter_mut().for_each(|fault| fault.node = Some(name.clone()));
    let Some(node) = state.nodes.get_mut(name) else { return };
    node.faults_version = version;
    let before = std::mem::replace(&mut node.faults, told.clone());
    let unlisted = take_unlisted(node, &before);
    // Of those that were never told, as far as can be known, each is news.
    let knows_all = node.knows_all_faults;
    limit_withdrawn(state, now);
    if before.iter().map(shape).ne(told.iter().map(shape)) {
        state.dirty.faults.insert(name.clone());
    }
    let known = |id: FaultId| before.iter().chain(&unlisted).find(|fault| fault.id == id);
    for fault in &told {
        match known(fault.id) {
            None if !knows_all && !is_news(fault, &before) => continue,
            None => note(state, now, "fault.opened", fault),
            Some(before) if (before.verdict, before.action) != (fault.verdict, fault.action) => {
                note(state, now, "fault.raised", fault);
            }
            Some(_) => {}
        }
        if let Some(done) = remediation(fault)
            && known(fault.id).and_then(remediation) != Some(done)
        {
            let message = format!("fault {}: {done}", fault.id);
            state.note(now, "fault.remedied", fault.job, fault.task, fault.node.as_ref(), message);
        }
        let was_active = known(fault.id).is_none_or(|before| before.state == FaultState::Active);
        if fault.state == FaultState::Cleared && was_active {
            note(state, now, "fault.cleared", fault);
        }
    }
}

/// A node with more faults than it tells leaves out others each time. They are kept aside, so that their return is no news
/// and their end is told once; answers with those that were there before this list.
fn take_unlisted(node: &mut Node, before: &[Fault]) -> Vec<Fault> {
    let earlier = std::mem::take(&mut node.unlisted_faults);
    let listed = |fault: &&Fault| node.faults.iter().any(|told| told.id == fault.id);
    let left_out = before.iter().chain(&earlier).filter(|fault| !listed(fault));
    let mut left_out: Vec<&Fault> = left_out.collect();
    left_out.sort_by_key(|fault| fault.state == FaultState::Cleared);
    node.unlisted_faults = left_out.into_iter().take(MOST_UNLISTED).cloned().collect();
    earlier
}

/// Where what a node left out before is not known any more: it is not stored. Ids grow, so one that is not known and below the others was left out before. Those of a journal that was begun anew
/// may be lower, and are younger.
fn is_news(fault: &Fault, before: &[Fault]) -> bool {
    before.iter().all(|known| known.id < fault.id) || before.iter().all(|known| known.first_seen < fault.first_seen)
}

fn note(state: &mut State, now: Timestamp, kind: &str, fault: &Fault) {
    state.note(now, kind, fault.job, fault.task, fault.node.as_ref(), sentence(fault));
}

/// The fault that keeps new tasks from the whole node; those that run there go on.
pub(super) fn withdraws(node: &Node) -> Option<&Fault> {
    closing(node).filter(|_| node.withdrawn != Withdrawn::Spared)
}

/// The fault that asks for it.
fn closing(node: &Node) -> Option<&Fault> {
    node.faults.iter().find(|fault| fault.withdraws_node())
}

/// Why a node is closed, or is not although a fault asks for it; for a person.
pub(super) fn why(state: &State, node: &Node) -> Option<String> {
    let fault = sentence(closing(node)?);
    Some(match node.withdrawn {
        Withdrawn::Spared => {
            let percent = state.max_nodes_out_percent;
            format!(
                "{fault} It stays open: max_nodes_out_percent, {percent} %, of the nodes are out for faults already"
            )
        }
        Withdrawn::No | Withdrawn::Yes => fault,
    })
}

/// Closes nodes for their faults, but never so many that what hits all at once, as storage that is away, closes the
/// cluster: those that are closed stay so, then the oldest faults count.
pub(super) fn limit_withdrawn(state: &mut State, now: Timestamp) {
    for (name, after) in judge_withdrawn(state) {
        schedule::nodes_changed(state);
        let why = state.nodes.get(&name).and_then(|node| why(state, node)).unwrap_or_default();
        let (kind, message) = match after {
            Withdrawn::Yes => ("node.withdrawn", format!("takes no new tasks: {why}")),
            Withdrawn::Spared => ("node.spared", why),
            Withdrawn::No => ("node.usable", "no fault keeps new tasks from it any more".to_owned()),
        };
        state.note(now, kind, None, None, Some(&name), message);
    }
}

/// How many nodes may be out at once; one always.
pub(super) fn most_out(state: &State) -> usize {
    (state.nodes.len() * usize::from(state.max_nodes_out_percent) / 100).max(1)
}

/// Nodes that are out by their own remedies are out too; what is closed stays so.
fn room_to_close(state: &State) -> usize {
    let closed = |node: &Node| node.withdrawn == Withdrawn::Yes && closing(node).is_some();
    let away = state.nodes.values().filter(|node| node.permit.is_some() && closing(node).is_none()).count();
    most_out(state).saturating_sub(away).max(state.nodes.values().filter(|node| closed(node)).count())
}

/// The same without a word: what was read from the store was told before. The nodes that it changed.
pub(super) fn judge_withdrawn(state: &mut State) -> Vec<(NodeName, Withdrawn)> {
    let most = room_to_close(state);
    let ill = state
        .nodes
        .iter()
        .filter_map(|(name, node)| Some((node.withdrawn != Withdrawn::Yes, closing(node)?.first_seen, name.clone())));
    let mut ill: Vec<_> = ill.collect();
    ill.sort();
    let ill: HashMap<NodeName, usize> = ill.into_iter().enumerate().map(|(at, (.., name))| (name, at)).collect();
    let mut changed = Vec::new();
    for (name, node) in &mut state.nodes {
        let after = match ill.get(name) {
            None => Withdrawn::No,
            Some(at) if *at < most => Withdrawn::Yes,
            Some(_) => Withdrawn::Spared,
        };
        if std::mem::replace(&mut node.withdrawn, after) != after {
            changed.push((name.clone(), after));
        }
    }
    changed
}

/// Which it is and what it means, for a person.
pub(super) fn sentence(fault: &Fault) -> String {
    let what = match fault.code {
        Some(code) => format!("{} {code}", fault.kind),
        None => fault.kind.to_string(),
    };
    let place = fault.subject.pci.map_or_else(String::new, |pci| format!(" at {pci}"));
    format!("fault {}, {what}{place}: {}", fault.id, fault.reason)
}

/// Ids of the active faults of a device.
pub(super) fn of_gpu(faults: &[Fault], gpu: &crate::domain::ids::GpuUuid) -> Vec<u64> {
    let of = |fault: &&Fault| fault.state == FaultState::Active && fault.subject.gpu.as_ref() == Some(gpu);
    faults.iter().filter(of).map(|fault| fault.id.0).collect()
}

/// By node and id.
pub(super) fn list(state: &State, node: Option<&NodeName>, all: bool) -> Vec<Fault> {
    let nodes = state.nodes.iter().filter(|(name, _)| node.is_none_or(|node| node == *name));
    let faults = nodes.flat_map(|(_, node)| &node.faults);
    faults.filter(|fault| all || fault.state == FaultState::Active).cloned().collect()
}

/// Tells the node that has it.
pub(super) async fn clear(
    controller: &Controller,
    who: &Principal,
    id: FaultId,
    node: Option<&NodeName>,
) -> Result<Fault, Error> {
    let (name, address) = {
        let state = read(&controller.shared);
        let knows = |(name, known): &(&NodeName, &Node)| {
            node.is_none_or(|node| node == *name) && known.faults.iter().any(|fault| fault.id == id)
        };
        let having: Vec<_> = state.nodes.iter().filter(knows).collect();
        match having[..] {
            [(name, known)] => (name.clone(), known.registration.address.clone()),
            [] => return Err(Error::not_found(format!("there is no fault {id}; 'wharf faults --all' lists them"))),
            _ => {
                let names: Vec<&str> = having.iter().map(|(name, _)| name.0.as_str()).collect();
                let message = format!("fault {id} is of several nodes; say which with --node: {}", names.join(", "));
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
    };
    controller.parts.dialer.dial(&name, &address)?.clear_fault(&super::api::relayed(who), id).await
}
