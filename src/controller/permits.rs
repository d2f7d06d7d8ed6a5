//! Permits for nodes that take themselves out because of a fault, as by a reboot: never so many at once that the cluster
//! goes with them. See [`crate::domain::remediation`].
//!
//! Out is a node that is closed for a fault, that is not heard, or that has a permit. A permit lasts until a heartbeat of
//! its node does not ask for it any more, so a node that is booted has it until it is back, and one that never comes back
//! counts for as long as it is not removed.

use super::faults;
use super::state::{Node, State, Withdrawn};
use crate::domain::ids::NodeName;
use crate::domain::remediation::{GoingOut, Permit};
use crate::domain::time::Timestamp;

/// What a heartbeat asks for; none of a node that asks for nothing, which gives back what it has.
pub(super) fn answer(state: &mut State, name: &NodeName, asked: Option<GoingOut>, now: Timestamp) -> Option<Permit> {
    let had = state.nodes.get(name)?.permit;
    let Some(GoingOut { fault, begun }) = asked else {
        if let Some(fault) = had {
            keep(state, name, None);
            let message = format!("it is back, or did not go: the permit for fault {fault} is free");
            state.note(now, "node.back", None, None, Some(name), message);
        }
        return None;
    };
    // Who has begun had one of this controller, or of the one before.
    if had == Some(fault) || begun {
        keep(state, name, Some(fault));
        return Some(Permit { fault, refusal: None });
    }
    let (out, most) = (others_out(state, name), faults::most_out(state));
    if out >= most {
        keep(state, name, None);
        let (all, percent) = (state.nodes.len(), state.max_nodes_out_percent);
        let refusal = format!(
            "{out} of {all} nodes are out already, for faults or unheard, and max_nodes_out_percent, {percent} %, allows {most}"
        );
        return Some(Permit { fault, refusal: Some(refusal) });
    }
    keep(state, name, Some(fault));
    let message = format!("it may take itself out for fault {fault}, as its remediation asks");
    state.note(now, "node.going_out", None, None, Some(name), message);
    Some(Permit { fault, refusal: None })
}

/// No new tasks go where a reboot may come at any moment.
fn keep(state: &mut State, name: &NodeName, permit: Option<crate::domain::fault::FaultId>) {
    let Some(node) = state.nodes.get_mut(name) else { return };
    if std::mem::replace(&mut node.permit, permit) != permit {
        super::schedule::nodes_changed(state);
    }
}

fn others_out(state: &State, name: &NodeName) -> usize {
    let is_out = |node: &Node| node.withdrawn == Withdrawn::Yes || !node.reachable || node.permit.is_some();
    state.nodes.iter().filter(|(other, node)| *other != name && is_out(node)).count()
}
