//! A sign of life: answered by the core itself, with what it has to do.

use super::core::{Controller, Message, read};
use super::drain::state_of;
use crate::domain::command::{Error, ErrorKind};
use crate::scheduler::NodeState;
use std::fmt;
use tokio::sync::oneshot;

/// What the core is busy with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse {
    pub jobs_unfinished: usize,
    pub runs_queued: usize,
    pub nodes: usize,
    /// In the state that `wharf nodes` shows as READY.
    pub nodes_ready: usize,
    /// Why the last batch did not get into the store, or why the controller doubts itself.
    pub trouble: Option<String>,
}

impl fmt::Display for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs_unfinished, runs_queued, nodes, nodes_ready, trouble } = self;
        write!(f, "{jobs_unfinished} unfinished jobs, {runs_queued} in the queue; ")?;
        write!(f, "{nodes_ready} of {nodes} nodes READY")?;
        trouble.iter().try_for_each(|trouble| write!(f, "; {trouble}"))
    }
}

impl Controller {
    /// Goes through the core's queue like every change. A core that says why it can do nothing is alive; one that
    /// has ended, or has no room in its queue, is an error. The caller decides how long it waits.
    pub async fn pulse(&self) -> Result<Pulse, Error> {
        let (reply, answer) = oneshot::channel();
        self.messages.try_send(Message::Ping { reply }).map_err(|error| {
            Error::new(ErrorKind::Exhausted, format!("asking the controller's core for a sign of life: {error}"))
        })?;
        let ended = |_| Error::unavailable("the controller's core has ended");
        let trouble = answer.await.map_err(ended)?.err().map(|error| error.to_string());
        let state = read(&self.shared);
        Ok(Pulse {
            jobs_unfinished: state.names.len(),
            runs_queued: state.queue.len(),
            nodes: state.nodes.len(),
            nodes_ready: state.nodes.values().filter(|node| state_of(node) == NodeState::Ready).count(),
            trouble: trouble.or_else(|| state.suspicion.map(|suspicion| suspicion.to_string())),
        })
    }
}
