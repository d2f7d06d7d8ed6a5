//! Observations become faults: one thing is counted once, consequences go to their cause, a storm costs no memory.

mod belongs;
mod open;
mod printable;
mod repeats;
#[cfg(test)]
mod tests;

use super::clearing;
use super::observation::{Clears, Observation, Relation, SeenAt, Source};
use super::verdict::Judgement;
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Part, Subject};
use crate::domain::ids::{GpuUuid, NodeName};
use crate::domain::pci::PciAddress;
use open::{Key, Open, cut, slot};
use std::collections::BTreeMap;
use std::time::Duration;

/// How lines of evidence begin that say why nothing is done about a fault yet, ...
pub const NOT_REMEDIED: &str = "not remedied yet";
/// ... what came of what was done, ...
pub const REMEDIATION: &str = "remediation ";
/// ... and why it is over.
pub const ENDED: &str = "ended: ";
/// GPUs whose address is known.
const MAX_SLOTS: usize = 256;
/// Active faults of one kind and code on one part, which differ by their task or by their row of memory alone.
const MAX_ALIKE: usize = 16;

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
    /// Active ones of this boot, the oldest first.
    by_key: BTreeMap<Key, Vec<FaultId>>,
    slots: BTreeMap<(Option<NodeName>, PciAddress), GpuUuid>,
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
                self.by_key.entry(key.clone()).or_default().push(id);
            }
            let counts = [fault.count; 3];
            self.kept.insert(id, Open { counts, ..Open::new(fault, key) });
        }
        dropped
    }

    /// The machine was booted: what a boot ends is over, and what comes now belongs to nothing from before.
    pub fn booted(&mut self, node: Option<&NodeName>) -> Vec<Change> {
        let here = |open: &&mut Open| open.fault.node.as_ref() == node && open.fault.state == FaultState::Active;
        let mut over = Vec::new();
        for open in self.kept.values_mut().filter(here) {
            open.is_of_earlier_boot = true;
            // No program has outlived it.
            if open.fault.action <= Action::RestartApp || clearing::rule(open.fault.kind, open.fault.action).reboot {
                over.push(open.fault.id);
            }
        }
        self.by_key.retain(|key, _| key.node.as_ref() != node);
        over.into_iter().filter_map(|id| self.clear(id)).collect()
    }

    /// Which GPU is where: from the driver, or from its log when it no longer answers.
    pub fn identify(&mut self, node: Option<&NodeName>, pci: PciAddress, uuid: GpuUuid) {
        let slot = (node.cloned(), pci);
        if self.slots.len() < MAX_SLOTS || self.slots.contains_key(&slot) {
            for open in self.kept.values_mut().filter(|open| open.fault.node.as_ref() == node) {
                let subject = &mut open.fault.subject;
                if subject.pci == Some(pci) && subject.gpu.is_none() && open.fault.kind != FaultKind::Sxid {
                    subject.gpu = Some(uuid.clone());
                }
            }
            self.slots.insert(slot, uuid);
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
        self.resolve(observation.node.as_ref(), &mut observation.subject);
        printable::make_printable(&mut observation);
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
        let key = open.key.clone();
        self.unlist(&key, id);
        Some(Change::Cleared(id))
    }

    fn unlist(&mut self, key: &Key, id: FaultId) {
        if let Some(alike) = self.by_key.get_mut(key) {
            alike.retain(|one| *one != id);
            if alike.is_empty() {
                self.by_key.remove(key);
            }
        }
    }

    /// The fault is from now on known by another key.
    fn relist(&mut self, id: FaultId, key: Key) {
        if let Some(open) = self.kept.get_mut(&id) {
            let old = std::mem::replace(&mut open.key, key.clone());
            self.unlist(&old, id);
            self.by_key.entry(key).or_default().push(id);
        }
    }

    /// Adds what was done about a fault to its evidence; such lines begin as the words of this folder for it.
    pub fn note(&mut self, id: FaultId, line: &str) -> Option<Change> {
        open::add_note(&mut self.kept.get_mut(&id)?.fault.evidence, line);
        Some(Change::Again(id))
    }

    /// The same in the place of the line that begins like this.
    pub fn note_instead(&mut self, id: FaultId, mark: &str, line: &str) -> Option<Change> {
        self.kept.get_mut(&id)?.fault.evidence.retain(|line| !line.starts_with(mark));
        self.note(id, line)
    }

    /// Adds the GPU that is at the subject's address, or the address of its GPU, by what [`identify`](Self::identify) said.
    pub fn resolve(&self, node: Option<&NodeName>, subject: &mut Subject) {
        match (subject.pci, &subject.gpu) {
            (Some(pci), None) if subject.part != Part::Fabric => {
                subject.gpu = self.slots.get(&(node.cloned(), pci)).cloned();
                if subject.gpu.is_some() && subject.part == Part::Device {
                    subject.part = Part::Gpu;
                }
            }
            (None, Some(gpu)) => {
                let is_it = |((of, _), uuid): &(&(Option<NodeName>, PciAddress), &GpuUuid)| {
                    of.as_ref() == node && *uuid == gpu
                };
                subject.pci = self.slots.iter().find(is_it).map(|((_, pci), _)| *pci);
            }
            _ => {}
        }
    }

    fn clear_by(&mut self, observation: &Observation) -> Vec<Change> {
        let over = |open: &&Open| {
            let here = open.fault.node == observation.node;
            here && open.fault.subject.is_on_same_device(&observation.subject)
                && match &observation.clears {
                    Clears::Nothing => false,
                    Clears::Codes(codes) => {
                        open.fault.kind == FaultKind::Xid && open.fault.code.is_some_and(|c| codes.contains(&c))
                    }
                    Clears::Recovered => {
                        open.fault.takes_out_of_use()
                            && matches!(open.fault.action, Action::ResetGpu | Action::Reboot)
                    }
                    Clears::Misjudged => {
                        let (of, what) = (&open.fault.subject, &observation.subject);
                        open.fault.takes_out_of_use()
                            && (open.fault.kind, of.part, of.link) == (observation.kind, what.part, what.link)
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
                && !open.is_of_earlier_boot
                && belongs::belongs(&open.fault, open.address, observation)
                && (belongs::for_ever(&open.fault, observation)
                    || open.last.is_some_and(|last| self.limits.are_near(&last, &observation.seen)))
        };
        self.kept.values().rev().find(near).map(|open| open.fault.id)
    }

    fn same(&self, key: &Key, observation: &Observation) -> Option<FaultId> {
        let by_another = self.seen_by_another_source(observation);
        let alike = self.by_key.get(key).map_or(by_another.as_slice(), Vec::as_slice);
        let alike = || alike.iter().rev().filter_map(|id| self.kept.get(id));
        // Another task's crash on the same GPU is another fault, and so is another row of its memory.
        let of_other_task = |open: &&Open| matches!((open.fault.task, observation.task), (Some(ours), Some(theirs)) if ours != theirs);
        let of_other_row = |open: &&Open| open.fault.code == Some(48) && open.is_of_another_row(observation);
        let itself = alike().find(|open| !of_other_task(open) && !of_other_row(open));
        // A storm that never names the same one twice.
        let too_many = || {
            let any = || alike().next().filter(|_| alike().all(|open| open.fault.takes_out_of_use()));
            (alike().count() >= MAX_ALIKE).then(|| alike().find(|open| !of_other_task(open)).or_else(any))?
        };
        itself.or_else(too_many).map(|open| open.fault.id)
    }

    /// The driver's library tells an Xid without the link that the driver's line names.
    fn seen_by_another_source(&self, observation: &Observation) -> Option<FaultId> {
        let same = |open: &&Open| {
            let fault = &open.fault;
            let one_is_mute = fault.subject.link.is_none() || observation.subject.link.is_none();
            let alike = (fault.kind, fault.code) == (FaultKind::Xid, observation.code)
                && observation.kind == FaultKind::Xid
                && fault.state == FaultState::Active
                && !open.is_of_earlier_boot
                && fault.subject.gpu_instance == observation.subject.gpu_instance
                && fault.subject.is_on_same_device(&observation.subject);
            // A source that has counted it would have known it by its key.
            let by_another = observation.source == Source::Driver || open.counts[slot(observation.source)] == 0;
            let near = open.last.is_some_and(|last| self.limits.are_near(&last, &observation.seen));
            alike && one_is_mute && by_another && near
        };
        self.kept.values().rev().find(same).map(|open| open.fault.id)
    }

    fn again(&mut self, id: FaultId, mut observation: Observation) -> Option<Change> {
        let key = observation.key();
        let open = self.kept.get_mut(&id)?;
        if let Some(worse) = observation.if_repeated.take().filter(|_| open.repeats.note(observation.seen)) {
            observation.judgement = worse;
        }
        let counted = &mut open.counts[slot(observation.source)];
        *counted = counted.saturating_add(observation.count);
        open.fault.count = open.counts.into_iter().max().unwrap_or_default();
        if open.fault.subject.link.is_none() && observation.subject.link.is_some() {
            open.fault.subject.link = observation.subject.link;
            open.fault.subject.part = observation.subject.part;
            self.relist(id, key);
        }
        Some(self.kept.get_mut(&id)?.learn_of_itself(observation))
    }

    fn attach(&mut self, id: FaultId, observation: Observation) -> Option<Change> {
        let open = self.kept.get_mut(&id)?;
        let takes_over = belongs::takes_over(&open.fault, &observation);
        let related = if takes_over { open.fault.count } else { observation.count };
        open.fault.related = open.fault.related.saturating_add(related);
        if takes_over {
            open.counts = [0; 3];
            open.counts[slot(observation.source)] = observation.count;
            open.fault.count = observation.count;
            open.fault.verdict = observation.judgement.verdict;
            open.fault.kind = observation.kind;
            open.fault.code = observation.code;
            open.fault.reason.clone_from(&observation.judgement.reason);
            self.relist(id, observation.key());
        }
        let open = self.kept.get_mut(&id)?;
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
        let alike = self.by_key.get(&key).filter(|alike| alike.len() >= MAX_ALIKE).cloned();
        let dropped = match alike {
            Some(alike) => self.drop_least_of(&alike),
            None if self.kept.len() >= self.limits.faults => self.drop_least(),
            None => None,
        };
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
        let mut open =
            Open { last: Some(seen), counts, address: observation.address, ..Open::new(fault, key.clone()) };
        if observation.if_repeated.is_some() {
            open.repeats.note(seen);
        }
        self.by_key.entry(key).or_default().push(id);
        self.kept.insert(id, open);
        dropped.into_iter().chain([Change::Opened(id)]).collect()
    }

    /// Makes room: of what is cleared, then of what asks for least, the oldest goes.
    fn drop_least(&mut self) -> Option<Change> {
        let id = self.kept.values().min_by_key(|open| open.weight())?.fault.id;
        self.drop(id)
    }

    fn drop_least_of(&mut self, ids: &[FaultId]) -> Option<Change> {
        let id = ids.iter().filter_map(|id| self.kept.get(id)).min_by_key(|open| open.weight())?.fault.id;
        self.drop(id)
    }

    fn drop(&mut self, id: FaultId) -> Option<Change> {
        let open = self.kept.remove(&id)?;
        self.unlist(&open.key, id);
        Some(Change::Dropped(Box::new(open.fault)))
    }
}
