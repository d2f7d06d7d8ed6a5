//! Observations become faults: one thing is counted once, consequences go to their cause, a storm costs no memory.

mod belongs;
mod open;
#[cfg(test)]
mod tests;

use super::observation::{Clears, Observation, Relation, SeenAt, Source};
use super::verdict::Judgement;
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Part, Subject};
use crate::domain::ids::GpuUuid;
use crate::domain::pci::PciAddress;
use open::{Key, Open, cut, slot};
use std::collections::BTreeMap;
use std::time::Duration;

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

impl Limits {
    fn are_near(&self, earlier: &SeenAt, later: &SeenAt) -> bool {
        earlier.is_shortly_before(later, self.window, self.window_lines)
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

    /// Takes up faults that were kept before a restart; ids go on above theirs. They are counted on when they are seen
    /// again, and end by the same rules: a restart makes nothing well.
    pub fn restore(&mut self, faults: impl IntoIterator<Item = Fault>) -> Vec<Change> {
        let mut dropped = Vec::new();
        for fault in faults {
            if self.kept.len() >= self.limits.faults {
                dropped.extend(self.drop_least());
            }
            let (id, key) = (fault.id, Key::of(fault.kind, fault.code, fault.node.as_ref(), &fault.subject));
            self.next = self.next.max(FaultId(id.0.saturating_add(1)));
            if fault.state == FaultState::Active {
                self.by_key.insert(key.clone(), id);
            }
            let counts = [fault.count; 3];
            self.kept.insert(id, Open { fault, key, last: None, counts, address: None });
        }
        dropped
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
        let key = observation.key();
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

    /// Adds what was done about a fault to its evidence.
    pub fn note(&mut self, id: FaultId, line: &str) -> Option<Change> {
        let evidence = &mut self.kept.get_mut(&id)?.fault.evidence;
        evidence.truncate(open::EVIDENCE_LINES - 1);
        evidence.push(cut(line));
        Some(Change::Again(id))
    }

    /// Adds the GPU that is at the subject's address, or the address of its GPU, by what [`identify`](Self::identify) said.
    pub fn resolve(&self, subject: &mut Subject) {
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
                    || open.last.is_some_and(|last| self.limits.are_near(&last, &observation.seen)))
        };
        self.kept.values().rev().find(near).map(|open| open.fault.id)
    }

    fn same(&self, key: &Key, observation: &Observation) -> Option<FaultId> {
        let id = self.by_key.get(key).copied().or_else(|| self.seen_by_another_source(observation))?;
        let open = self.kept.get(&id)?;
        // Another task's crash on the same GPU is another fault, and so is another row of its memory.
        let other_task = matches!((open.fault.task, observation.task), (Some(ours), Some(theirs)) if ours != theirs);
        let other_row = open.fault.code == Some(48) && open.is_of_another_row(observation);
        (!other_task && !other_row).then_some(id)
    }

    /// The driver's library tells an Xid without the link that the driver's line names.
    fn seen_by_another_source(&self, observation: &Observation) -> Option<FaultId> {
        let same = |open: &&Open| {
            let fault = &open.fault;
            let one_is_mute = fault.subject.link.is_none() || observation.subject.link.is_none();
            let alike = (fault.kind, fault.code) == (FaultKind::Xid, observation.code)
                && observation.kind == FaultKind::Xid
                && fault.state == FaultState::Active
                && fault.subject.gpu_instance == observation.subject.gpu_instance
                && fault.subject.is_on_same_device(&observation.subject);
            // A source that has counted it would have known it by its key.
            let by_another = observation.source == Source::Driver || open.counts[slot(observation.source)] == 0;
            let near = open.last.is_some_and(|last| self.limits.are_near(&last, &observation.seen));
            alike && one_is_mute && by_another && near
        };
        self.kept.values().rev().find(same).map(|open| open.fault.id)
    }

    fn again(&mut self, id: FaultId, observation: Observation) -> Option<Change> {
        let open = self.kept.get_mut(&id)?;
        let counted = &mut open.counts[slot(observation.source)];
        *counted = counted.saturating_add(observation.count);
        open.fault.count = open.counts.into_iter().max().unwrap_or_default();
        if open.fault.subject.link.is_none() && observation.subject.link.is_some() {
            open.fault.subject.link = observation.subject.link;
            open.fault.subject.part = observation.subject.part;
            self.by_key.remove(&open.key);
            open.key = observation.key();
            self.by_key.insert(open.key.clone(), id);
        }
        Some(open.learn_of_itself(observation))
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
            open.key = observation.key();
            self.by_key.insert(open.key.clone(), id);
        }
        if belongs::is_now_a_gpu(&open.fault, &observation) {
            let Judgement { verdict, action, reason, .. } = observation.judgement.clone();
            open.fault.subject.part = Part::Gpu;
            (open.fault.verdict, open.fault.action, open.fault.reason) = (verdict, action, reason);
            open.learn(observation);
            return Some(Change::Raised(id));
        }
        let itself = !takes_over && (open.fault.kind, open.fault.code) == (observation.kind, observation.code);
        Some(if itself { open.learn_of_itself(observation) } else { open.learn(observation) })
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
            by_driver,
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
        self.kept.insert(id, Open { fault, key, last: Some(seen), counts, address });
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
