//! Nodes that are heard and cannot be told anything: the way there is cut, the way back is not.
//!
//! ```text
//!  a command is not answered      --> the agent is asked for its list, again and again, until there is an answer
//!  no answer for node_timeout     --> UNREACHABLE: nothing is placed there, though its heartbeats arrive
//!  any answer                     --> as before
//! ```
//!
//! Leases are another matter: its heartbeats are answered, so its tasks live on and none is replaced.

use super::apply::Context;
use super::schedule;
use super::state::{Node, State};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::NodeName;
use tokio::time::Instant;

/// Longest sentence on why.
const MAX_WHY: usize = 512;

/// An agent that has not answered what it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unanswered {
    pub(super) since: Instant,
    why: String,
    /// For so long that it counts as unreachable.
    pub(super) told: bool,
}

impl Unanswered {
    /// One sentence for people.
    pub(super) fn sentence(&self) -> String {
        format!("its agent is heard, but does not answer: {}", self.why)
    }
}

/// An agent was asked something, and has answered, or has not.
pub(super) fn asked(state: &mut State, name: &NodeName, error: Option<&Error>, context: &mut Context<'_>) {
    let lost = |error: &&Error| !is_its_own(error);
    let Some(node) = state.nodes.get_mut(name) else { return };
    let Some(error) = error.filter(lost) else {
        if node.unanswered.take().is_some_and(|unanswered| unanswered.told) {
            schedule::nodes_changed(state);
            state.placing.capacity_changed();
            state.note(context.now, "node.answers", None, None, Some(name), "its agent answers again");
        }
        return;
    };
    if node.unanswered.is_none() {
        let mut why = error.message.clone();
        why.truncate(why.floor_char_boundary(MAX_WHY));
        node.unanswered = Some(Unanswered { since: context.instant, why, told: false });
    }
    context.outbox.list.push(name.clone());
}

/// Whether the agent itself said so: then it answers. A connection that fails never says when to ask again.
pub(super) fn is_its_own(error: &Error) -> bool {
    let unanswered = matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded);
    !unanswered || error.retry_after_ms.is_some()
}

/// Those that have had their time to answer count as unreachable.
pub(super) fn notice(state: &mut State, context: &Context<'_>) {
    let mut deaf = Vec::new();
    for (name, node) in &mut state.nodes {
        let Node { reachable: true, unanswered: Some(unanswered), .. } = node else { continue };
        if !unanswered.told && context.instant.duration_since(unanswered.since) > context.parts.node_timeout {
            unanswered.told = true;
            deaf.push((name.clone(), unanswered.sentence()));
        }
    }
    for (name, sentence) in deaf {
        schedule::nodes_changed(state);
        tracing::warn!(node = %name, "{sentence}");
        state.note(context.now, "node.unreachable", None, None, Some(&name), sentence);
    }
}
