//! What operators ask of nodes.

use super::{MAX_SENTENCE_BYTES, Parsed, text, wrong};
use crate::domain::node::NodeChange;
use crate::rpc::generated as pb;
use crate::rpc::generated::change_node_request::Change;
use std::time::Duration;

pub(in crate::rpc) fn message(change: NodeChange) -> Change {
    match change {
        NodeChange::Cordon { reason } => Change::Cordon(pb::CordonNode { reason }),
        NodeChange::Uncordon => Change::Uncordon(pb::UncordonNode {}),
        NodeChange::Drain { reason, deadline } => {
            let deadline_ms = deadline.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            Change::Drain(pb::DrainNode { reason, deadline_ms })
        }
        NodeChange::Remove { force } => Change::Remove(pb::RemoveNode { force }),
    }
}

pub(in crate::rpc) fn parse(change: Option<Change>) -> Parsed<NodeChange> {
    let reason = |reason: String, field: &str| text(reason, field, MAX_SENTENCE_BYTES);
    match change {
        None => Err(wrong("change", "is missing", "", "cordon, uncordon, drain or remove")),
        Some(Change::Cordon(cordon)) => Ok(NodeChange::Cordon { reason: reason(cordon.reason, "cordon.reason")? }),
        Some(Change::Uncordon(_)) => Ok(NodeChange::Uncordon),
        Some(Change::Drain(drain)) => Ok(NodeChange::Drain {
            reason: reason(drain.reason, "drain.reason")?,
            deadline: drain.deadline_ms.map(Duration::from_millis),
        }),
        Some(Change::Remove(remove)) => Ok(NodeChange::Remove { force: remove.force }),
    }
}
