//! After a restart: what the journal says, what is really there, and what neither knows. What the journal has lost was
//! put back by `rebuild` before.
//!
//! The ledger is filled from the journal before anything else, so nothing held can be given away. Then every
//! task that may have something on this machine is looked at, all at once; until that is done, its commands are
//! refused for a moment and its events wait.

use super::actor::Actor;
use super::backoff::Backoff;
use super::entry::Entry;
use super::executor::Work;
use super::journal::{self, Journalled};
use super::message::Inside;
use super::rebuild;
use crate::domain::command::SequencedStatus;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::{Found, TOMBSTONE, TaskEvent, TaskRecord};
use crate::domain::task::TaskState;
use crate::runtime::{Adopted, Records, Runtime, RuntimeEvent};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// For listing what the runtime has.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

impl Actor {
    /// Fills memory and ledger from the journal and begins to look at what is left.
    pub(super) fn restore(&mut self, tasks: Vec<(TaskId, Journalled)>) {
        for (id, journalled) in tasks {
            self.restore_task(id, journalled);
        }
        for (id, entry) in &mut self.entries {
            if entry.record.released && !entry.purged {
                // Perhaps interrupted by the end of the earlier process; and how large the log is, nobody wrote down.
                entry.enqueue(Work::Clear);
                self.ready.insert(*id);
            }
        }
        let unreleased: Vec<_> =
            self.entries.iter().filter(|(_, entry)| !entry.record.released).map(|(id, _)| *id).collect();
        for id in unreleased {
            self.look_at(id);
        }
    }

    /// Begins to look at what is left of a task.
    fn look_at(&mut self, id: TaskId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.record.residue {
            entry.early_events = Some(Vec::new());
            entry.enqueue(Work::Adopt);
            self.ready.insert(id);
            self.adopting.send_modify(|count| *count += 1);
        } else {
            self.observe(id, TaskEvent::AgentRestarted { found: Found::Gone });
        }
    }

    fn restore_task(&mut self, id: TaskId, Journalled { sequence, record, purged }: Journalled) {
        if record.holding
            && let Some(claim) = record.claim()
            && let Some(veto) = self.ledger.restore(id, record.generation, claim)
        {
            warn!(task = %id, %veto, "it goes on holding what it would not be given today");
        }
        let told = SequencedStatus { sequence, status: record.status() };
        let mut entry = Entry::new(record);
        entry.purged = purged;
        if sequence > 0 {
            entry.published = sequence;
            entry.assigned = Some(told.clone());
            entry.told = Some(told);
            if sequence > self.acknowledged {
                self.unreported.insert(sequence, id);
            }
        }
        self.entries.insert(id, entry);
    }

    /// What the journal had lost becomes durable with its new name.
    pub(super) fn write_again(&mut self, lost: &[TaskId]) {
        self.writer.set_meta(journal::JOURNAL_ID, self.facts.identity.journal_id.0.clone());
        self.writer.set_meta(journal::ACKNOWLEDGED, self.acknowledged.to_string());
        for id in lost {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.rebuilt = true;
                self.writer.mark(*id, entry);
            }
        }
    }

    /// The runtime has looked.
    pub(super) fn adopted(&mut self, id: TaskId, adopted: Adopted) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if std::mem::take(&mut entry.rebuilt) && adopted == Adopted::Waiting {
            // Whether it has passed its checks nobody knows: it counts as one whose preparation was interrupted.
            (entry.record.state, entry.record.launched) = (TaskState::Preparing, false);
        }
        info!(task = %id, journalled = %entry.record.state, found = ?adopted, "taken over");
        let early = entry.early_events.take().unwrap_or_default();
        self.adopting.send_modify(|count| *count = count.saturating_sub(1));
        let found = match adopted {
            Adopted::Waiting => Found::Waiting,
            Adopted::Running { started_at } => Found::Running { started_at },
            Adopted::Ended { started_at, at, exit } => {
                let exit = self.explain_by_faults(id, at, exit);
                Found::Ended { started_at, at, exit }
            }
            Adopted::Gone => Found::Gone,
        };
        self.observe(id, TaskEvent::AgentRestarted { found });
        self.hold_ports_again(id);
        for kind in early {
            self.runtime_event(RuntimeEvent { id, kind });
        }
    }

    /// The sockets went with the earlier process. If somebody was quicker, the gang gets other ports.
    fn hold_ports_again(&mut self, id: TaskId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let before_go =
            matches!(entry.record.state, TaskState::Preparing | TaskState::Ready) && !entry.record.launched;
        let Some(claim) = entry.record.claim().filter(|_| before_go) else { return };
        let published = self.publishes_ports(&entry.record);
        match self.ports.hold(claim.ports).map_err(|taken| (taken, published)) {
            Ok(ports) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.ports = ports;
                }
            }
            // dockerd has them, as it should.
            Err((_, true)) => {}
            Err((taken, false)) => {
                warn!(task = %id, %taken, "a promised port was taken while the agent was away");
                let error = format!("{taken}; it was taken while the agent was away");
                self.observe(id, TaskEvent::PortsLost { error, busy_ports: taken.ports });
            }
        }
    }

    /// Records that could not be read at the start: what can be read of them by now is taken over, and what is not there
    /// any more is nobody's.
    pub(super) fn read_again(&mut self, Records { found, unread }: Records) {
        let before = std::mem::replace(&mut self.unread, unread);
        for found in found {
            let id = found.spec.id;
            self.restore_task(id, rebuild::journalled(found));
            self.write_again(&[id]);
            self.look_at(id);
        }
        let gone = before.into_keys().filter(|id| !self.unread.contains_key(id) && !self.entries.contains_key(id));
        let gone = gone.collect();
        self.remove_foundlings(gone);
    }

    /// What the runtime has and the journal does not: ours by its place, nobody's by our records.
    pub(super) fn remove_foundlings(&mut self, ids: Vec<TaskId>) {
        let now = self.clock.now();
        for id in ids {
            if self.entries.contains_key(&id) || self.unread.contains_key(&id) {
                continue;
            }
            warn!(task = %id, "on this node without a record in the journal: it is removed");
            let reason = "it was found on this node without a record in the agent's journal, and removed";
            let mut entry = Entry::new(TaskRecord {
                state: TaskState::Failed,
                ended_at: Some(now),
                exit: Some(Exit::without_status(ExitClass::Platform, reason)),
                released: true,
                tombstone_until: Some(now.plus(TOMBSTONE)),
                ..TaskRecord::unknown(id)
            });
            entry.enqueue(Work::Remove);
            entry.enqueue(Work::Clear);
            self.writer.mark(id, &mut entry);
            self.entries.insert(id, entry);
            self.ready.insert(id);
        }
    }
}

/// Asks the runtime what it has until it says so. Dropped to cancel.
pub async fn list_everything(runtime: Arc<dyn Runtime>, inside: mpsc::Sender<Inside>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        match tokio::time::timeout(LIST_DEADLINE, runtime.list()).await {
            Ok(Ok(ids)) => return drop(inside.send(Inside::Listed(ids)).await),
            Ok(Err(error)) => warn!(%error, "listing what the runtime has"),
            Err(_) => warn!(runtime = runtime.name(), "listing what the runtime has: no answer"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Reads again, until it is known, what could not be read of tasks that are in no journal. Dropped to cancel.
pub async fn read_again(runtime: Arc<dyn Runtime>, inside: mpsc::Sender<Inside>, mut left: BTreeSet<TaskId>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while !left.is_empty() {
        tokio::time::sleep(backoff.next_wait()).await;
        let Records { mut found, mut unread } = match runtime.recorded(LIST_DEADLINE).await {
            Ok(records) => records,
            Err(error) => {
                warn!(%error, "reading the records of tasks");
                continue;
            }
        };
        found.retain(|found| left.contains(&found.spec.id));
        unread.retain(|id, _| left.contains(id));
        left = unread.keys().copied().collect();
        if inside.send(Inside::ReadAgain(Records { found, unread })).await.is_err() {
            return;
        }
    }
}
