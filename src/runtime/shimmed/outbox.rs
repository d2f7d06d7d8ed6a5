//! The events of one task on their way to the agent.

use crate::domain::ids::TaskId;
use crate::runtime::{RuntimeEvent, RuntimeEventKind};
use std::collections::VecDeque;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events wait here while the channel is full: a slow reader never stops the conversation with the shim.
pub(super) struct Outbox {
    events: mpsc::Sender<RuntimeEvent>,
    id: TaskId,
    /// At most Started and Exited.
    queue: VecDeque<RuntimeEventKind>,
}

impl Outbox {
    pub(super) fn new(events: mpsc::Sender<RuntimeEvent>, id: TaskId) -> Self {
        Self { events, id, queue: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, kind: RuntimeEventKind) {
        self.queue.push_back(kind);
    }

    /// Sends one event. Safe to cancel.
    pub(super) async fn deliver(&mut self) {
        let Ok(permit) = self.events.reserve().await else {
            self.queue.clear();
            return;
        };
        if let Some(kind) = self.queue.pop_front() {
            permit.send(RuntimeEvent { id: self.id, kind });
        }
    }

    /// Sends the rest, unless cancelled.
    pub(super) async fn finish(mut self, cancel: &CancellationToken) {
        while !self.queue.is_empty() {
            tokio::select! {
                () = cancel.cancelled() => return self.flush(),
                () = self.deliver() => {}
            }
        }
    }

    /// Sends what fits.
    pub(super) fn flush(self) {
        for kind in self.queue {
            if self.events.try_send(RuntimeEvent { id: self.id, kind }).is_err() {
                return;
            }
        }
    }
}
