//! `extras`: kept as it is, but for `extras.wharf`, where jobs of OpenPAI's protocol can ask for what only wharf
//! has: `{"onNodeLost": "wait" | "restart", "leaseSeconds": 1800, "priority": 0, "container": {...}, "nodes": {...},
//! "placement": "pack" | "spread", "debugHoldSeconds": 604800, "secrets": {...} or [...]}`; the
//! last is read by `secrets`.

use super::super::fields::Fields;
use super::super::json::Value;
use super::super::report::{Report, as_text};
use super::limits::{DEBUG_HOLD_SECONDS, DEFAULT_LEASE_SECONDS, LEASE_SECONDS};
use super::{container, placement};
use crate::domain::container::ContainerSpec;
use crate::domain::placement::PlacementSpec;
use crate::domain::spec::OnNodeLost;

const KNOWN: [&str; 8] =
    ["onNodeLost", "leaseSeconds", "priority", "container", "nodes", "placement", "debugHoldSeconds", "secrets"];

#[derive(Debug)]
pub(super) struct Extras {
    pub on_node_lost: OnNodeLost,
    pub priority: i32,
    pub container: ContainerSpec,
    pub placement: PlacementSpec,
    /// Of `jobEnvs.isDebug`; `None`: as long as it goes.
    pub debug_hold_s: Option<u32>,
}

pub(super) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Extras> {
    let defaults = Extras {
        on_node_lost: OnNodeLost::Wait,
        priority: 0,
        container: ContainerSpec::default(),
        placement: PlacementSpec::default(),
        debug_hold_s: None,
    };
    let Some(node) = fields.get("extras") else { return Some(defaults) };
    let extras = Fields::of(node, "extras", &[], report)?;
    let Some(node) = extras.get("wharf") else { return Some(defaults) };
    let wharf = Fields::of(node, "extras.wharf", &KNOWN, report)?;
    let lease_s = wharf.optional_integer("leaseSeconds", i64::from(DEFAULT_LEASE_SECONDS), LEASE_SECONDS, report);
    let priority = wharf.optional_integer("priority", 0, i64::from(i32::MIN)..=i64::from(i32::MAX), report);
    let hold = wharf.optional_integer("debugHoldSeconds", *DEBUG_HOLD_SECONDS.end(), DEBUG_HOLD_SECONDS, report);
    let hold = hold.filter(|_| wharf.get("debugHoldSeconds").is_some());
    let restart = restart(&wharf, report);
    let container = match wharf.get("container") {
        None => Some(ContainerSpec::default()),
        Some(node) => container::read(node, report),
    };
    let placement = placement::read(&wharf, report);
    // A list names variables, and is no object.
    if let Some(node) = wharf.get("secrets").filter(|node| !matches!(node.value, Value::Array(_))) {
        Fields::of(node, "extras.wharf.secrets", &[], report)?;
    }
    wharf.warn_unknown(report);
    let (lease_s, restart) = (lease_s?, restart?);
    if let Some(node) = wharf.get("leaseSeconds").filter(|_| !restart) {
        report.warn("extras.wharf.leaseSeconds", node.at, "has no effect without \"onNodeLost\": \"restart\"");
    }
    let lease_s = u32::try_from(lease_s).ok()?;
    let on_node_lost = if restart { OnNodeLost::Restart { lease_s } } else { OnNodeLost::Wait };
    let debug_hold_s = hold.and_then(|seconds| u32::try_from(seconds).ok());
    let priority = i32::try_from(priority?).ok()?;
    Some(Extras { on_node_lost, priority, container: container?, placement: placement?, debug_hold_s })
}

fn restart(wharf: &Fields<'_>, report: &mut Report<'_>) -> Option<bool> {
    let Some(node) = wharf.get("onNodeLost") else { return Some(false) };
    match as_text(node) {
        Some("wait") => Some(false),
        Some("restart") => Some(true),
        _ => {
            report.wrong("extras.wharf.onNodeLost", node, "is no known choice", "\"wait\" or \"restart\"");
            None
        }
    }
}
