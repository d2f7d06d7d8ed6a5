//! Observations become faults: one thing is counted once, consequences go to their cause, a storm costs no memory.

mod belongs;
#[cfg(test)]
mod tests;

use super::observation::{Clears, Observation, Relation, SeenAt, Source};
use super::verdict::Judgement;
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Part, Subject, Verdict};
use crate::domain::ids::{GpuUuid, NodeName};
use crate::domain::pci::PciAddress;
use std::collections::BTreeMap;
use std::time::Duration;

/// Lines of evidence that a fault keeps: the first ones and the last.
const EVIDENCE_LINES: usize = 5;
const EVIDENCE_BYTES: usize = 400;
/// GPUs whose address is known.
const MAX_SLOTS: usize = 256;

/// What is kept at most, and how far apart things may be that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Faults, active and cleared ones.
    pub faults: usize,
    /// Between a cause and what follows from it.
    pub window: Duration,
    /// The same in lines, where they have no time.
    pub window_lines: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { faults: 1024, window: Duration::from_secs(60), window_lines: 200 }
    }
}

/// What an observation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new fault.
    Opened(FaultId),
    /// Seen again, or a consequence of it was.
    Again(FaultId),
    /// It is judged more gravely than before, or the driver has now said what it wants.
    Raised(FaultId),
    /// It is over.
    Cleared(FaultId),
    /// There were too many: this one is no longer kept.
    Dropped(Box<Fault>),
}

/// One fault while it is kept.
#[derive(Debug, Clone)]
struct Open {
    fault: Fault,
    key: Key,
    last: SeenAt,
    /// Counted by each source; they see the same things.
    counts: [u64; 3],
    address: Option<u64>,
    by_driver: bool,
}

/// What makes two observations one fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: FaultKind,
    code: Option<u32>,
    node: Option<NodeName>,
    /// Without the UUID where the address is known.
    subject: Subject,
}

/// The faults of one node, or of one log.
#[derive(Debug)]
pub struct Faults {
    limits: Limits,
    next: FaultId,
    kept: BTreeMap<FaultId, Open>,
    /// Active ones.
    by_key: BTreeMap<Key, FaultId>,
    slots: BTreeMap<PciAddress, GpuUuid>,
}

impl Faults {
    /// `next`: the id of the first fault; ids grow by one.
    pub fn new(next: FaultId, limits: Limits) -> Self {
        let limits = Limits { faults: limits.faults.max(1), ..limits };
        Self { limits, next, kept: BTreeMap::new(), by_key: BTreeMap::new(), slots: BTreeMap::new() }
    }

    /// Which GPU is where: from the driver, or from its log when it no longer answers.
    pub fn identify(&mut self, pci: PciAddress, uuid: GpuUuid) {
        if self.slots.len() < MAX_SLOTS || self.slots.contains_key(&pci) {
            for open in self.kept.values_mut() {
                let subject = &mut open.fault.subject;
                if subject.pci == Some(pci) && subject.gpu.is_none() && open.fault.kind != FaultKind::Sxid {
                    subject.gpu = Some(uuid.clone());
                }
            }
            self.slots.insert(pci, uuid);
        }
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.kept.values().map(|open| &open.fault)
    }

    pub fn get(&self, id: FaultId) -> Option<&Fault> {
        self.kept.get(&id).map(|open| &open.fault)
    }

    /// Counts an observation: with the fault that it belongs to, or as a new one.
    pub fn observe(&mut self, mut observation: Observation) -> Vec<Change> {
        self.resolve(&mut observation.subject);
        let mut changes = self.clear_by(&observation);
        let key = Key::of(&observation);
        if let Some(id) = self.leader(&observation) {
            changes.extend(self.attach(id, observation));
        } else if let Some(id) = self.same(&key, &observation) {
            changes.extend(self.again(id, observation));
        } else if observation.relation != Relation::FollowUp {
            changes.extend(self.open(key, observation));
        }
        changes
    }

    /// Ends a fault: by a rule of [`super::clearing`], or because an operator says so.
    pub fn clear(&mut self, id: FaultId) -> Option<Change> {
        let open = self.kept.get_mut(&id).filter(|open| open.fault.state == FaultState::Active)?;
        open.fault.state = FaultState::Cleared;
        if self.by_key.get(&open.key) == Some(&id) {
            self.by_key.remove(&open.key);
        }
        Some(Change::Cleared(id))
    }

    fn resolve(&self, subject: &mut Subject) {
        match (subject.pci, &subject.gpu) {
            (Some(pci), None) if subject.part != Part::Fabric => {
                subject.gpu = self.slots.get(&pci).cloned();
                if subject.gpu.is_some() && subject.part == Part::Device {
                    subject.part = Part::Gpu;
                }
            }
            (None, Some(gpu)) => subject.pci = self.slots.iter().find(|(_, uuid)| *uuid == gpu).map(|(pci, _)| *pci),
            _ => {}
        }
    }

    fn clear_by(&mut self, observation: &Observation) -> Vec<Change> {
        let over = |open: &&Open| {
            let here = open.fault.subject.is_on_same_device(&observation.subject);
            here && match &observation.clears {
                Clears::Nothing => false,
                Clears::Codes(codes) => {
                    open.fault.kind == FaultKind::Xid && open.fault.code.is_some_and(|c| codes.contains(&c))
                }
                Clears::Recovered => {
                    open.fault.takes_out_of_use() && matches!(open.fault.action, Action::ResetGpu | Action::Reboot)
                }
            }
        };
        if observation.clears == Clears::Nothing {
            return Vec::new();
        }
        let ids: Vec<FaultId> = self.kept.values().filter(over).map(|open| open.fault.id).collect();
        ids.into_iter().filter_map(|id| self.clear(id)).collect()
    }

    /// The fault that the observation is a consequence of: the latest that fits.
    fn leader(&self, observation: &Observation) -> Option<FaultId> {
        let near = |open: &&Open| {
            open.fault.state == FaultState::Active
                && belongs::belongs(&open.fault, open.address, observation)
                && (belongs::for_ever(&open.fault, observation)
                    || open.last.is_shortly_before(&observation.seen, self.limits.window, self.limits.window_lines))
        };
        self.kept.values().rev().find(near).map(|open| open.fault.id)
    }

    fn same(&self, key: &Key, observation: &Observation) -> Option<FaultId> {
        let id = self.by_key.get(key)?;
        let open = self.kept.get(id)?;
        // Another task's crash on the same GPU is another fault.
        let other_task = matches!((open.fault.task, observation.task), (Some(ours), Some(theirs)) if ours != theirs);
        let other_row = matches!((open.address, observation.address), (Some(ours), Some(theirs)) if ours != theirs)
            && open.fault.code == Some(48);
        (!other_task && !other_row).then_some(*id)
    }

    fn again(&mut self, id: FaultId, observation: Observation) -> Option<Change> {
        let open = self.kept.get_mut(&id)?;
        let counted = &mut open.counts[slot(observation.source)];
        *counted = counted.saturating_add(observation.count);
        open.fault.count = open.counts.into_iter().max().unwrap_or_default();
        Some(open.learn(observation))
    }

    fn attach(&mut self, id: FaultId, observation: Observation) -> Option<Change> {
        let open = self.kept.get_mut(&id)?;
        open.fault.related = open.fault.related.saturating_add(observation.count);
        let takes_over = belongs::takes_over(&open.fault, &observation);
        if takes_over {
            if self.by_key.get(&open.key) == Some(&id) {
                self.by_key.remove(&open.key);
            }
            open.fault.kind = observation.kind;
            open.fault.code = observation.code;
            open.fault.reason.clone_from(&observation.judgement.reason);
            open.key = Key::of(&observation);
            self.by_key.insert(open.key.clone(), id);
        }
        if belongs::is_now_a_gpu(&open.fault, &observation) {
            let Judgement { verdict, action, reason, .. } = observation.judgement.clone();
            open.fault.subject.part = Part::Gpu;
            (open.fault.verdict, open.fault.action, open.fault.reason) = (verdict, action, reason);
            open.learn(observation);
            return Some(Change::Raised(id));
        }
        Some(open.learn(observation))
    }

    fn open(&mut self, key: Key, observation: Observation) -> Vec<Change> {
        let dropped = if self.kept.len() >= self.limits.faults { self.drop_least() } else { None };
        let id = self.next;
        self.next = FaultId(id.0.saturating_add(1));
        let Observation { kind, code, node, subject, pid, process, task, job, judgement, seen, .. } = observation;
        let Judgement { verdict, action, reason, by_driver } = judgement;
        let mut counts = [0; 3];
        counts[slot(observation.source)] = observation.count;
        let fault = Fault {
            id,
            kind,
            code,
            node,
            subject,
            pid,
            process,
            verdict,
            action,
            reason,
            count: observation.count,
            related: 0,
            first_seen: seen.time,
            last_seen: seen.time,
            first_seen_boot_us: seen.boot_us,
            last_seen_boot_us: seen.boot_us,
            state: FaultState::Active,
            evidence: vec![cut(&observation.evidence)],
            task,
            job,
        };
        let address = observation.address;
        self.by_key.insert(key.clone(), id);
        self.kept.insert(id, Open { fault, key, last: seen, counts, address, by_driver });
        dropped.into_iter().chain([Change::Opened(id)]).collect()
    }

    /// Makes room: of what is cleared, then of what asks for least, the oldest goes.
    fn drop_least(&mut self) -> Option<Change> {
        let weight = |open: &Open| {
            (open.fault.state == FaultState::Active, open.fault.takes_out_of_use(), open.fault.action, open.fault.id)
        };
        let id = self.kept.values().min_by_key(|open| weight(open))?.fault.id;
        let open = self.kept.remove(&id)?;
        if self.by_key.get(&open.key) == Some(&id) {
            self.by_key.remove(&open.key);
        }
        Some(Change::Dropped(Box::new(open.fault)))
    }
}

impl Open {
    /// Takes in what an observation says beside its being there.
    fn learn(&mut self, observation: Observation) -> Change {
        self.last = observation.seen;
        let fault = &mut self.fault;
        fault.first_seen = fault.first_seen.or(observation.seen.time);
        fault.last_seen = observation.seen.time.or(fault.last_seen);
        fault.last_seen_boot_us = observation.seen.boot_us.or(fault.last_seen_boot_us);
        if fault.pid.is_none() {
            fault.pid = observation.pid;
            fault.process = observation.process;
        }
        fault.task = fault.task.or(observation.task);
        fault.job = fault.job.or(observation.job);
        fault.subject.gpu = fault.subject.gpu.take().or(observation.subject.gpu);
        self.address = self.address.or(observation.address);
        if fault.evidence.len() == EVIDENCE_LINES {
            fault.evidence.pop();
        }
        fault.evidence.push(cut(&observation.evidence));
        if self.judge(observation.judgement) { Change::Raised(self.fault.id) } else { Change::Again(self.fault.id) }
    }

    /// The graver judgement counts, and the driver's own word before any other. What a program did itself is not made the
    /// GPU's doing by what belongs to it.
    fn judge(&mut self, judgement: Judgement) -> bool {
        let fault = &mut self.fault;
        let graver = judgement.action > fault.action && judgement.verdict != Verdict::Application;
        let driver = judgement.by_driver && judgement.action > Action::RestartApp;
        let raised =
            if driver { judgement.action != fault.action || !self.by_driver } else { graver && !self.by_driver };
        if !raised {
            return false;
        }
        self.by_driver |= driver;
        fault.action = judgement.action;
        if fault.verdict == Verdict::Unknown {
            fault.verdict = judgement.verdict;
        }
        if driver && !fault.reason.contains(&judgement.reason) {
            fault.reason = format!("{} {}", fault.reason, judgement.reason);
        }
        true
    }
}

impl Key {
    fn of(observation: &Observation) -> Self {
        let mut subject = observation.subject.clone();
        if subject.pci.is_some() {
            subject.gpu = None;
        }
        Self { kind: observation.kind, code: observation.code, node: observation.node.clone(), subject }
    }
}

const fn slot(source: Source) -> usize {
    match source {
        Source::KernelLog => 0,
        Source::Driver => 1,
        Source::Host => 2,
    }
}

fn cut(line: &str) -> String {
    let mut end = EVIDENCE_BYTES.min(line.len());
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].to_owned()
}
