//! The faults of this node: counted, put to who had the part at that moment, acted on, kept over restarts.
//!
//! The journal has the faults and the first record of the kernel's log that is not counted in them; so a record that is
//! told again after a restart counts once.

mod attribution;
mod control_group;
mod kept;
mod news;
mod node_check;
mod over;
mod permit;
mod remedy;
mod self_check;

pub use kept::{FaultBook, Former, KeptFaults};
pub use remedy::{Done, Failure, Remedies};
pub use self_check::{SelfChecked, SelfChecks};

use super::actor::Actor;
use super::health::{KernelBatch, Observed};
use super::journal;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState};
use crate::domain::ids::GpuUuid;
use crate::domain::lifecycle::TaskEvent;
use crate::domain::principal::{Principal, Role};
use crate::domain::quantity::DEFAULT_GRACE_MS;
use crate::health::{Change, Clears, Heard, Observation, Source};
use kept::Written;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tracing::{info, warn};

/// What is seen again in round after round is written down so often.
const WRITTEN_AGAIN: Duration = Duration::from_secs(60);

/// What has changed about faults.
#[derive(Debug, Default)]
struct Changed {
    ids: BTreeSet<FaultId>,
    /// Those of them that were more than seen again.
    news: BTreeSet<FaultId>,
}

impl Changed {
    fn add(&mut self, more: Self) {
        self.ids.extend(more.ids);
        self.news.extend(more.news);
    }
}

/// When it has to be in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Now,
    /// Where it is only seen again: the next round sees it, too, also after a restart.
    OnceAMinute,
}

impl Actor {
    /// Counts what the kernel said.
    pub(super) fn kernel_said(&mut self, batch: KernelBatch) {
        let KernelBatch { heard, records, lost, next, reply } = batch;
        self.tally.records += records;
        self.tally.lost_records += lost;
        let mut changed = Changed::default();
        for (sequence, heard) in heard {
            if sequence < self.fault_book.next_record {
                continue;
            }
            match heard {
                Heard::Observation(observation) => changed.add(self.count(*observation)),
                Heard::Identity { pci, uuid } => self.fault_book.faults.identify(Some(&self.facts.name), pci, uuid),
                Heard::Suppressed { .. } | Heard::Nothing => {}
            }
        }
        self.fault_book.next_record = self.fault_book.next_record.max(next);
        self.act_on(&changed, Keep::Now);
        self.fault_book.tell_if_saved();
        // Whoever reads has gone where nobody waits.
        let _ = reply.send(());
    }

    /// Counts what another source saw.
    pub(super) fn observed(&mut self, observed: Observed) {
        let Observed { mut observations, looked, reply } = observed;
        if looked.is_some() {
            observations.retain(|observation| !self.fault_book.is_said_over(observation));
        }
        let mut changed = Changed::default();
        observations.into_iter().for_each(|observation| changed.add(self.count(observation)));
        let keep = if looked.is_some() { Keep::OnceAMinute } else { Keep::Now };
        if let Some(looked) = looked {
            let over = self.looked(&looked);
            changed.add(self.note_changes(over));
            self.keep_worked(looked.worked);
        }
        self.act_on(&changed, keep);
        self.keep_marks();
        let _ = reply.send(());
    }

    fn count(&mut self, mut observation: Observation) -> Changed {
        observation.node = Some(self.facts.name.clone());
        self.attribute(&mut observation);
        self.name_far_end(&mut observation);
        self.weigh(&mut observation);
        if let Some(gpu) = observation
            .subject
            .gpu
            .as_ref()
            .filter(|_| observation.kind == FaultKind::GpuLost && observation.source == Source::KernelLog)
        {
            self.fault_book.resets.lost(gpu, observation.seen.time);
        }
        let recovered = observation.clears == Clears::Recovered;
        let changes = self.fault_book.faults.observe(observation);
        let now = self.clock.now();
        for change in changes.iter().filter(|_| recovered) {
            if let Change::Cleared(id) = change
                && let Some(fault) = self.fault_book.faults.get(*id)
            {
                self.fault_book.past.recovered(fault, now);
            }
        }
        self.note_changes(changes)
    }

    /// An operator says that it is over.
    pub(super) fn clear_fault(&mut self, who: &Principal, id: FaultId) -> Result<Fault, Error> {
        if !who.roles.iter().any(|role| matches!(role, Role::Operator | Role::Admin)) {
            let message = format!("fault {id}: only an operator or an admin may clear it, not {}", who.user);
            return Err(Error::new(ErrorKind::NotAllowed, message));
        }
        if self.fault_book.faults.get(id).is_none() {
            return Err(Error::not_found(format!("fault {id}: node {} does not know it", self.facts.name)));
        }
        let changes: Vec<Change> = self.fault_book.faults.clear(id).into_iter().collect();
        if !changes.is_empty() {
            info!(node = %self.facts.name, fault = id.0, by = who.user, "an operator has cleared a fault");
            self.fault_book.say_over(id);
        }
        self.changed(changes);
        let fault = self.fault_book.faults.get(id).cloned();
        fault.ok_or_else(|| Error::internal(format!("fault {id}: it is gone")))
    }

    /// What follows from changes that no batch made.
    pub(super) fn changed(&mut self, changes: Vec<Change>) {
        let changed = self.note_changes(changes);
        self.act_on(&changed, Keep::Now);
    }

    /// Tells of what has changed, as far as it is still kept.
    fn note_changes(&mut self, changes: Vec<Change>) -> Changed {
        let mut changed = Changed::default();
        for change in changes {
            let (id, what) = match change {
                Change::Opened(id) => (id, Some("a fault was seen")),
                Change::Raised(id) => (id, Some("a fault is graver than it seemed")),
                Change::Cleared(id) => (id, Some("a fault is over")),
                Change::Again(id) => (id, None),
                Change::Dropped(fault) => {
                    self.writer.forget_key(journal::fault_key(fault.id));
                    self.fault_book.written.remove(&fault.id);
                    self.fault_book.news.forget(fault.id);
                    self.fault_book.version += 1;
                    continue;
                }
            };
            if let Some(what) = what {
                self.say(id, what);
                self.hint.send_modify(|hint| hint.faults += 1);
                changed.news.insert(id);
            }
            changed.ids.insert(id);
            self.fault_book.version += 1;
            if what.is_some() {
                self.fault_book.news.note(id, self.fault_book.version);
            }
        }
        changed
    }

    fn act_on(&mut self, changed: &Changed, keep: Keep) {
        if changed.ids.is_empty() {
            return;
        }
        self.write_down(changed, keep);
        let before = self.inventory.gpu_conditions.clone();
        self.judge_gpus();
        if self.inventory.gpu_conditions != before {
            self.hint.send_modify(|hint| hint.register += 1);
        }
        changed.ids.iter().for_each(|id| self.end_whom_it_hits(*id));
        self.consider_remedies();
    }

    fn write_down(&mut self, changed: &Changed, keep: Keep) {
        let now = self.clock.boottime();
        let book = &mut self.fault_book;
        let is_old = |id: &FaultId| book.written.get(id).is_none_or(|written| now >= written.at + WRITTEN_AGAIN);
        let is_due = |id: &&FaultId| keep == Keep::Now || changed.news.contains(*id) || is_old(id);
        let due: Vec<FaultId> = changed.ids.iter().filter(is_due).copied().collect();
        for id in &due {
            if let Some(fault) = book.faults.get(*id) {
                self.writer.put_key(journal::fault_key(*id), journal::fault_value(fault));
                book.written.insert(*id, Written { at: now, last_seen: fault.last_seen });
            }
        }
        if !due.is_empty() {
            self.writer.put_key(journal::FAULTS.to_owned(), book.header());
            book.is_unsaved = true;
        }
    }

    /// Tasks that hold a GPU which cannot be used any more end.
    fn end_whom_it_hits(&mut self, id: FaultId) {
        let Some(fault) = self.fault_book.faults.get(id).filter(|fault| fault.ends_tasks()) else { return };
        let Some(gpu) = fault.subject.gpu.clone() else { return };
        let (instance, at, reason) = (fault.subject.gpu_instance, fault.last_seen, sentence(fault));
        for task in self.holders(&gpu, instance, at) {
            let (fault, gpus, reason) = (id.0, self.concerned(&gpu, instance), reason.clone());
            self.observe(task, TaskEvent::HardwareFailed { fault, gpus, reason, grace_ms: DEFAULT_GRACE_MS });
        }
    }

    /// The GPUs that faults take out of use, and why.
    pub(super) fn faulty_gpus(&self) -> BTreeMap<GpuUuid, String> {
        let mut faulty = BTreeMap::new();
        for fault in self.fault_book.faults.iter().filter(|fault| fault.takes_out_of_use()) {
            if let Some(gpu) = &fault.subject.gpu {
                faulty.entry(gpu.clone()).or_insert_with(|| sentence(fault));
            }
        }
        faulty
    }

    fn say(&self, id: FaultId, what: &str) {
        let Some(fault) = self.fault_book.faults.get(id) else { return };
        let (node, reason, task) = (&self.facts.name, sentence(fault), fault.task.map(|task| task.to_string()));
        if fault.takes_out_of_use() {
            warn!(%node, fault = id.0, task, reason, "{what}");
        } else {
            info!(%node, fault = id.0, task, reason, "{what}");
        }
    }
}

/// What it is and what to do, for a person.
fn sentence(fault: &Fault) -> String {
    let what = match (fault.kind, fault.code) {
        (FaultKind::Xid, Some(code)) => format!("Xid {code}"),
        (FaultKind::Sxid, Some(code)) => format!("SXid {code}"),
        (kind, _) => kind.to_string(),
    };
    let place = fault.subject.pci.map_or_else(String::new, |pci| format!(" at {pci}"));
    let id = fault.id;
    let to_do = match fault.action {
        _ if fault.state == FaultState::Cleared => String::new(),
        Action::None | Action::RestartApp => String::new(),
        Action::ResetGpu => format!(" Reset the GPU; where that is not seen, say 'wharf fault clear {id}'."),
        Action::Reboot => " Reboot the machine.".to_owned(),
        Action::Inspect => format!(" Have it inspected, then say 'wharf fault clear {id}'."),
    };
    format!("fault {id}, {what}{place}: {}{to_do}", fault.reason)
}
