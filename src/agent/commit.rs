//! Group commit: what the actor decided becomes durable, then its effects run and its callers are answered.
//!
//! One transaction is in flight at a time; everything that changes meanwhile goes into the next one, newest state
//! only. So the memory for what waits is bounded by the tasks, whatever the disk does. A write in flight is never
//! given up (nothing would be known about it): after [`SLOW`] the journal counts as failing instead, and new work
//! is refused until it answers.
//!
//! Sequences are reserved in blocks (`meta/sequence`), so that the end of a task can be told to the controller
//! while the journal fails, and no sequence is ever given to two different statuses.

use super::actor::{Actor, journal_backoff};
use super::backoff::Backoff;
use super::entry::{Entry, Pending, Wants};
use super::executor::Work;
use super::faults::Former;
use super::journal::{self, Journalled};
use super::message::Inside;
use super::ports::HeldPorts;
use crate::domain::command::{Error, SequencedStatus};
use crate::domain::ids::TaskId;
use crate::store::{MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Op, Outcome, Store, StoreError, Transaction};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info};

/// A write that takes longer counts as a failing journal.
pub const SLOW: Duration = Duration::from_secs(10);
/// Sequences reserved at a time, and how many are left when the next block is reserved.
const RESERVE: u64 = 1024;
const RESERVE_AGAIN: u64 = 256;

/// What is to be written, and what is being written.
#[derive(Debug)]
pub struct Writer {
    store: Arc<dyn Store>,
    /// Tasks to write, oldest change first.
    order: VecDeque<TaskId>,
    /// Keys beside those of tasks: the value, or none to delete it.
    meta: BTreeMap<String, Option<Vec<u8>>>,
    /// Tasks to delete.
    forget: BTreeSet<TaskId>,
    in_flight: Option<InFlight>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    failure: Option<String>,
    /// The newest sequence given out.
    sequence: u64,
    /// Durable: nothing above it is given out without being written too.
    reserved: u64,
    /// The newest sequence told to anybody; only higher ones may follow.
    told: u64,
}

#[derive(Debug)]
struct InFlight {
    since: Instant,
    tasks: Vec<(TaskId, Vec<Pending>)>,
    meta: BTreeMap<String, Option<Vec<u8>>>,
    forget: BTreeSet<TaskId>,
    reserves: Option<u64>,
}

impl Writer {
    /// `sequence`: everything up to it may have been given out by earlier processes.
    pub fn new(store: Arc<dyn Store>, sequence: u64) -> Self {
        Self {
            store,
            order: VecDeque::new(),
            meta: BTreeMap::new(),
            forget: BTreeSet::new(),
            in_flight: None,
            backoff: journal_backoff(),
            retry_at: None,
            failure: None,
            sequence,
            reserved: sequence,
            told: 0,
        }
    }

    pub fn mark(&mut self, id: TaskId, entry: &mut Entry) {
        if !std::mem::replace(&mut entry.dirty, true) {
            self.order.push_back(id);
        }
        self.forget.remove(&id);
    }

    pub fn set_meta(&mut self, key: &'static str, value: String) {
        self.put_key(key.to_owned(), value.into_bytes());
    }

    pub fn put_key(&mut self, key: String, value: Vec<u8>) {
        self.meta.insert(key, Some(value));
    }

    pub fn forget_key(&mut self, key: String) {
        self.meta.insert(key, None);
    }

    /// It is to be written, and not being written yet.
    pub fn waits_for_key(&self, key: &str) -> bool {
        self.meta.contains_key(key)
    }

    pub fn forget(&mut self, id: TaskId) {
        self.forget.insert(id);
    }

    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub fn is_failing(&self) -> bool {
        self.failure.is_some() || self.is_slow()
    }

    fn is_slow(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|write| write.since.elapsed() >= SLOW)
    }

    /// Why new work is refused.
    pub fn refusal(&self, what: &str) -> Option<Error> {
        let slow = || self.is_slow().then(|| format!("a write is not done after {} s", SLOW.as_secs()));
        let reason = self.failure.clone().or_else(slow)?;
        let message = format!("{what}: the journal of this node cannot be written ({reason}); running tasks go on");
        Some(Error { retry_after_ms: Some(5000), ..Error::unavailable(message) })
    }

    fn is_clean(&self) -> bool {
        self.order.is_empty() && self.meta.is_empty() && self.forget.is_empty()
    }
}

impl Actor {
    /// Begins the next write if there is something to write and none in flight.
    pub(super) fn begin_commit(&mut self) {
        let writer = &mut self.writer;
        if writer.in_flight.is_some() || writer.retry_at.is_some_and(|at| at > Instant::now()) || writer.is_clean() {
            return;
        }
        writer.retry_at = None;
        let transaction = self.next_transaction();
        if transaction.ops.is_empty() {
            self.writer.in_flight = None;
            return;
        }
        let (store, inside, cancel) =
            (Arc::clone(&self.writer.store), self.executor.inside.clone(), self.executor.cancel.clone());
        self.executor.tracker.spawn(async move {
            tokio::select! {
                result = store.commit(transaction) => drop(inside.send(Inside::Committed(result)).await),
                () = cancel.cancelled() => {}
            }
        });
    }

    /// As much as fits, oldest changes first.
    fn next_transaction(&mut self) -> Transaction {
        let mut ops: Vec<Op> = Vec::new();
        let writer = &mut self.writer;
        let mut meta = BTreeMap::new();
        while ops.len() < MAX_OPERATIONS / 4
            && let Some((key, value)) = writer.meta.pop_first()
        {
            ops.push(match &value {
                Some(value) => journal::put(&key, value.clone()),
                None => Op::Delete { key: key.clone() },
            });
            meta.insert(key, value);
        }
        let reserves = (writer.sequence + RESERVE_AGAIN + MAX_OPERATIONS as u64 > writer.reserved)
            .then_some(writer.sequence + RESERVE);
        ops.extend(reserves.map(|reserved| journal::put_number(journal::SEQUENCE, reserved)));
        let mut forget = BTreeSet::new();
        while ops.len() < MAX_OPERATIONS / 2
            && let Some(id) = writer.forget.pop_first()
        {
            ops.push(Op::Delete { key: journal::task_key(id) });
            forget.insert(id);
        }
        let mut bytes: usize = ops.iter().map(size).sum();
        let mut tasks = Vec::new();
        while ops.len() < MAX_OPERATIONS
            && let Some(&id) = writer.order.front()
        {
            let Some(op) = self.entries.get_mut(&id).and_then(|entry| writer.task_op(entry)) else {
                writer.order.pop_front();
                continue;
            };
            bytes += size(&op);
            if bytes > MAX_TRANSACTION_BYTES && !ops.is_empty() {
                break;
            }
            writer.order.pop_front();
            ops.push(op);
            if let Some(entry) = self.entries.get_mut(&id) {
                (entry.dirty, entry.in_flight) = (false, true);
                tasks.push((id, std::mem::take(&mut entry.pending)));
            }
        }
        writer.in_flight = Some(InFlight { since: Instant::now(), tasks, meta, forget, reserves });
        Transaction { compares: Vec::new(), ops }
    }

    /// The write in flight is done, or not.
    pub(super) fn committed(&mut self, result: Result<Outcome, StoreError>) {
        let Some(write) = self.writer.in_flight.take() else { return };
        match result {
            Ok(Outcome::Committed { .. }) => self.written(write),
            Ok(Outcome::Conflict) => {
                self.not_written(write, "a transaction without conditions met a conflict".to_owned())
            }
            Err(error) => self.not_written(write, error.to_string()),
        }
    }

    fn written(&mut self, write: InFlight) {
        self.writer.backoff.reset();
        if self.writer.failure.take().is_some() {
            info!(node = %self.facts.name, "the journal is written again");
        }
        if let Some(reserved) = write.reserves {
            self.writer.reserved = self.writer.reserved.max(reserved);
        }
        let mut freed = Vec::new();
        for (id, pending) in write.tasks {
            let published = self.publish(id);
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.in_flight = false;
            if !published {
                self.writer.mark(id, entry);
            }
            for pending in pending {
                match pending {
                    Pending::Work(work) => {
                        entry.enqueue(work);
                        self.ready.insert(id);
                    }
                    Pending::Unhold => {
                        entry.ports = HeldPorts::default();
                        let gpus = self.ledger.claim_of(id).map_or_else(Vec::new, |held| held.claim.gpus.clone());
                        for gpu in &gpus {
                            let (from, until) = (entry.record.started_at, self.clock.now());
                            self.fault_book.left(Former { gpu: gpu.clone(), task: id, from, until });
                        }
                        freed.extend(gpus);
                        self.ledger.release(id);
                    }
                }
            }
            let durable = entry.is_durable();
            entry.answer_waiters(durable);
        }
        self.gpus_freed(freed);
        self.faults_written();
        self.remedies_written();
    }

    /// Everything goes back to be written, with what has changed since.
    fn not_written(&mut self, write: InFlight, reason: String) {
        let writer = &mut self.writer;
        if writer.failure.as_ref() != Some(&reason) {
            error!(node = %self.facts.name, reason, "the journal cannot be written: new work is refused");
        }
        writer.failure = Some(reason);
        writer.retry_at = Some(Instant::now() + writer.backoff.next_wait());
        for (key, value) in write.meta {
            writer.meta.entry(key).or_insert(value);
        }
        let gone = write.forget.into_iter().filter(|id| !self.entries.contains_key(id));
        writer.forget.extend(gone);
        for (id, mut pending) in write.tasks.into_iter().rev() {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.in_flight = false;
            pending.append(&mut entry.pending);
            entry.pending = pending;
            if !std::mem::replace(&mut entry.dirty, true) {
                writer.order.push_front(id);
            }
        }
        self.go_on_without_journal();
    }

    /// What does not wait for a journal that fails: stops are told to the runtime and answered, ends are reported.
    pub(super) fn go_on_without_journal(&mut self) {
        let waiting: Vec<TaskId> =
            self.entries.iter().filter(|(_, entry)| !entry.is_durable()).map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            for pending in std::mem::take(&mut entry.pending) {
                match pending {
                    Pending::Work(work @ Work::Stop { .. }) => {
                        entry.enqueue(work);
                        self.ready.insert(id);
                    }
                    other => entry.pending.push(other),
                }
            }
            let status = entry.record.status();
            entry.answer_all(Wants::StopKnown, &Ok(status));
            self.publish_end_early(id);
        }
    }

    /// Tells everybody the newest status that has a sequence. False if that sequence was overtaken by one told
    /// meanwhile: then it needs another, since whoever has a sequence has everything below it.
    fn publish(&mut self, id: TaskId) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return true };
        let Some(assigned) = entry.assigned.clone().filter(|assigned| assigned.sequence > entry.published) else {
            return true;
        };
        if assigned.sequence <= self.writer.told {
            return false;
        }
        self.writer.told = assigned.sequence;
        self.unreported.remove(&entry.published);
        self.unreported.insert(assigned.sequence, id);
        entry.published = assigned.sequence;
        entry.told = Some(assigned.clone());
        let newest = assigned.sequence;
        self.watchers.publish(assigned);
        self.hint.send_modify(|hint| hint.newest = newest);
        true
    }

    /// While the journal fails: the controller has to hear of an end all the same. The runtime has the end on its
    /// own record, so a restarted agent finds it again.
    pub(super) fn publish_end_early(&mut self, id: TaskId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.record.state.is_terminal() && self.writer.sequence < self.writer.reserved {
            self.writer.assign(entry);
            self.publish(id);
        }
    }
}

impl Writer {
    /// Gives the record's status a sequence, unless it has one.
    fn assign(&mut self, entry: &mut Entry) -> u64 {
        let status = entry.record.status();
        match &entry.assigned {
            // One that others have overtaken cannot be told any more.
            Some(assigned)
                if assigned.status == status
                    && (assigned.sequence == entry.published || assigned.sequence > self.told) =>
            {
                assigned.sequence
            }
            _ => {
                self.sequence += 1;
                entry.assigned = Some(SequencedStatus { sequence: self.sequence, status });
                self.sequence
            }
        }
    }

    fn task_op(&mut self, entry: &mut Entry) -> Option<Op> {
        let sequence = self.assign(entry);
        let journalled = Journalled { sequence, record: entry.record.clone(), purged: entry.purged };
        match journal::put_task(entry.record.id, &journalled) {
            Ok(op) => Some(op),
            Err(error) => {
                // The others must not wait for it.
                error!(task = %entry.record.id, %error, "a record cannot be written");
                None
            }
        }
    }
}

fn size(op: &Op) -> usize {
    match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
    }
}
