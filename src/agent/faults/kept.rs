//! The faults in memory, and what the journal has of them.

use super::super::actor::Actor;
use super::super::journal;
use super::control_group::Seen;
use super::news::News;
use super::over::{Clean, Happened};
use crate::domain::fault::{Fault, FaultId, FaultKind, FaultState, Subject};
use crate::domain::ids::{GpuUuid, NodeUid, TaskId};
use crate::domain::time::Timestamp;
use crate::health::checks::Worked;
use crate::health::history::{Exceptions, Past};
use crate::health::resets::Resets;
use crate::health::{Change, Faults, Limits, Observation};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::sync::watch;

/// Faults of a node that are kept, active and cleared.
const KEPT: usize = 256;
/// Tasks that are remembered after they gave their GPUs back.
const FORMER: usize = 64;
/// Ids of one node before they run into another's.
const IDS: u64 = 10_000;

/// The value of `meta/faults`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub boot_id: String,
    /// The first record of that boot's log that is not counted.
    pub next_record: u64,
    #[serde(default)]
    pub next_id: u64,
    #[serde(default)]
    pub past: Past,
}

/// The value of `meta/worked`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptWorked {
    /// What worked in another boot may have been taken out since.
    pub boot_id: String,
    pub worked: Worked,
}

/// Everything that an earlier process left.
#[derive(Debug, Default)]
pub struct KeptFaults {
    pub header: Header,
    pub faults: Vec<Fault>,
    /// The value of `meta/gpu_marks`.
    pub resets: Resets,
    pub worked: KeptWorked,
}

/// Who had a GPU until a moment ago.
#[derive(Debug, Clone)]
pub struct Former {
    pub gpu: GpuUuid,
    pub task: TaskId,
    pub from: Option<Timestamp>,
    pub until: Timestamp,
}

/// When a fault was written down, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    /// Since the machine was booted.
    pub at: Duration,
    pub last_seen: Option<Timestamp>,
}

#[derive(Debug)]
pub struct FaultBook {
    pub(super) faults: Faults,
    pub(super) boot_id: String,
    /// Records before this one are counted.
    pub(super) next_record: u64,
    /// How the journal has each fault.
    pub(super) written: BTreeMap<FaultId, Written>,
    /// Something of it is not in the journal yet.
    pub(super) is_unsaved: bool,
    done: watch::Sender<u64>,
    /// Grows with every change; never the same in two lives of the agent.
    pub(super) version: u64,
    /// What the controller has.
    known: u64,
    pub(super) news: News,
    pub(super) former: VecDeque<Former>,
    pub(super) processes: Seen,
    /// Since when somebody listens to the kernel; none: nobody does.
    pub(super) listening_since: Option<Timestamp>,
    /// The machine was booted since the faults were written down.
    pub(super) rebooted: bool,
    pub(super) past: Past,
    pub(super) exceptions: Exceptions,
    pub(super) resets: Resets,
    /// As the journal has them.
    pub(super) kept_resets: Resets,
    /// Links and ports that worked in this boot, as the last round knew them.
    pub(super) worked: Worked,
    /// What operators said to be over since the last round began.
    pub(super) said_over: Vec<(FaultKind, Subject)>,
    /// Faults whose check finds nothing any more.
    pub(super) clean: BTreeMap<FaultId, Clean>,
}

impl FaultBook {
    /// `boot_id`: of this boot; `listens`: the kernel's log is followed.
    pub fn new(kept: KeptFaults, boot_id: String, listens: bool, node: &NodeUid, now: Timestamp) -> Self {
        let first = first_id(node).max(kept.header.next_id);
        let mut faults = Faults::new(FaultId(first), Limits { faults: KEPT, ..Limits::default() });
        faults.restore(kept.faults);
        let as_kept = |fault: &Fault| (fault.id, Written { at: Duration::ZERO, last_seen: fault.last_seen });
        let written = faults.iter().map(as_kept).collect();
        // Where nobody listens, nothing is known of boots.
        let boot_id = if boot_id.is_empty() { kept.header.boot_id.clone() } else { boot_id };
        let same_boot = kept.header.boot_id == boot_id;
        let (done, _) = watch::channel(0);
        let worked = Some(kept.worked).filter(|kept| kept.boot_id == boot_id).unwrap_or_default().worked;
        Self {
            faults,
            next_record: if same_boot { kept.header.next_record } else { 0 },
            rebooted: !same_boot && !kept.header.boot_id.is_empty(),
            boot_id,
            written,
            is_unsaved: false,
            done,
            version: u64::try_from(now.0).unwrap_or_default().max(1),
            known: 0,
            news: News::default(),
            former: VecDeque::new(),
            processes: Seen::default(),
            listening_since: listens.then_some(now),
            past: kept.header.past,
            exceptions: Exceptions::default(),
            kept_resets: kept.resets.clone(),
            resets: kept.resets,
            worked,
            said_over: Vec::new(),
            clean: BTreeMap::new(),
        }
    }

    /// Says up to which record everything is durable.
    pub fn done(&self) -> watch::Receiver<u64> {
        self.done.subscribe()
    }

    pub(super) fn tell_if_saved(&self) {
        if !self.is_unsaved {
            self.done.send_if_modified(|done| std::mem::replace(done, self.next_record) != self.next_record);
        }
    }

    pub(super) fn header(&self) -> Vec<u8> {
        let next_id = self.faults.iter().last().map_or(0, |fault| fault.id.0.saturating_add(1));
        let (boot_id, past) = (self.boot_id.clone(), self.past.clone());
        let header = Header { boot_id, next_record: self.next_record, next_id, past };
        serde_json::to_vec(&header).unwrap_or_default()
    }

    /// An operator has said that it is over: what a round under way has seen of it counts no more.
    pub(super) fn say_over(&mut self, id: FaultId) {
        if let Some(fault) = self.faults.get(id)
            && self.said_over.len() < KEPT
        {
            self.said_over.push((fault.kind, fault.subject.clone()));
        }
    }

    /// Whether an observation of a round is of what was said to be over after that round had begun.
    pub(super) fn is_said_over(&self, seen: &Observation) -> bool {
        let is_it = |(kind, subject): &(FaultKind, Subject)| {
            let same = subject.link == seen.subject.link && subject.device == seen.subject.device;
            let on = subject.is_on_same_device(&seen.subject) || subject.pci.is_none() && subject.gpu.is_none();
            *kind == seen.kind && same && on
        };
        self.said_over.iter().any(is_it)
    }

    /// Somebody gave a GPU back.
    pub fn left(&mut self, former: Former) {
        if self.former.len() == FORMER {
            self.former.pop_front();
        }
        self.former.push_back(former);
    }
}

impl Actor {
    /// A write is durable.
    pub(in crate::agent) fn faults_written(&mut self) {
        if self.fault_book.is_unsaved && !self.writer.waits_for_key(journal::FAULTS) {
            self.fault_book.is_unsaved = false;
            self.fault_book.tell_if_saved();
        }
    }

    /// The newest version of the list, and the list where the controller has another.
    pub(in crate::agent) fn faults_to_tell(&mut self) -> (u64, Option<Vec<Fault>>) {
        let book = &mut self.fault_book;
        if book.known == book.version {
            return (book.version, None);
        }
        let told = book.news.choose(book.faults.iter());
        book.news.offered(book.version, &told);
        (book.version, Some(told.into_iter().cloned().collect()))
    }

    pub(in crate::agent) fn controller_has_faults(&mut self, version: u64) {
        let book = &mut self.fault_book;
        book.known = version;
        if book.news.taken(version) {
            // There was no room for all: the rest comes with the next.
            book.version += 1;
        }
    }

    /// Active and cleared ones.
    pub(in crate::agent) fn known_faults(&self) -> impl Iterator<Item = &Fault> {
        self.fault_book.faults.iter()
    }

    /// Ids of the active faults of a device.
    pub(in crate::agent) fn faults_of(&self, gpu: &GpuUuid) -> Vec<u64> {
        let of = |fault: &&Fault| fault.state == FaultState::Active && fault.subject.gpu.as_ref() == Some(gpu);
        self.fault_book.faults.iter().filter(of).map(|fault| fault.id.0).collect()
    }

    /// Where each device is, for messages that know no other name.
    pub(in crate::agent) fn identify_gpus(&mut self) {
        for gpu in self.inventory.gpus.iter().filter(|gpu| gpu.mig_parent.is_none() && !gpu.uuid.is_placeholder()) {
            if let Ok(address) = gpu.pci.parse() {
                self.fault_book.faults.identify(Some(&self.facts.name), address, gpu.uuid.clone());
            }
        }
    }

    /// At the start: what a boot has ended, and what still holds.
    pub(in crate::agent) fn take_up_faults(&mut self) {
        self.identify_gpus();
        let rebooted = std::mem::take(&mut self.fault_book.rebooted);
        let mut changes: Vec<Change> = self.ended_faults(Happened { rebooted, ..Happened::default() });
        changes.extend(self.end_what_is_off());
        self.changed(changes);
    }
}

/// Nodes count from places of their own, so that an id alone says which fault is meant, nearly always.
fn first_id(node: &NodeUid) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    let hash = node.0.bytes().fold(0xCBF2_9CE4_8422_2325, fold);
    ((hash ^ (hash >> 32)) % 900_000 + 100_000) * IDS + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fault::{Action, Part, Verdict};
    use crate::health::verdict::Judgement;
    use crate::health::{SeenAt, Source};

    fn book(kept: KeptFaults, boot_id: &str) -> FaultBook {
        FaultBook::new(kept, boot_id.to_owned(), true, &NodeUid::from("n"), Timestamp(0))
    }

    fn seen(kind: FaultKind, link: u32) -> Observation {
        let subject = Subject { part: Part::Link, gpu: Some("GPU-1".into()), link: Some(link), ..Subject::default() };
        let judgement = Judgement::new(Verdict::Link, Action::ResetGpu, "it is down");
        Observation::new(Source::Driver, kind, subject, judgement, SeenAt::default())
    }

    #[test]
    fn what_a_round_saw_before_an_operators_word_counts_no_more() {
        let mut book = book(KeptFaults::default(), "a");
        let opened = book.faults.observe(seen(FaultKind::Nvlink, 3));
        let Some(Change::Opened(id)) = opened.first() else { panic!("{opened:?}") };
        assert!(!book.is_said_over(&seen(FaultKind::Nvlink, 3)));
        book.say_over(*id);
        assert!(book.is_said_over(&seen(FaultKind::Nvlink, 3)));
        assert!(!book.is_said_over(&seen(FaultKind::Nvlink, 4)), "another link's");
        assert!(!book.is_said_over(&seen(FaultKind::Thermal, 3)), "another thing");
    }

    #[test]
    fn what_worked_is_known_in_the_same_boot_alone() {
        let worked = Worked { ports: BTreeMap::from([("mlx5_0:1".to_owned(), Some(400_000))]), ..Worked::default() };
        for (boot_id, expected) in [("a", worked.clone()), ("b", Worked::default())] {
            let kept = KeptWorked { boot_id: "a".to_owned(), worked: worked.clone() };
            let kept = KeptFaults { worked: kept, ..KeptFaults::default() };
            assert_eq!(book(kept, boot_id).worked, expected, "{boot_id}");
        }
    }
}
