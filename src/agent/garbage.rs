//! What is forgotten, and when: the logs of released tasks after `keep_ended`, or earlier when there are more
//! than `max_ended`, or they take more than `max_log_bytes`, or the disk is nearly full (`pressure`); their tombstones
//! after a day, or earlier when there are more than [`TOMBSTONES`] for every log. What anybody reads, waits for or works on is left alone.

use super::actor::Actor;
use super::executor::Work;
use super::pressure::{Kept, to_free};
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TOMBSTONE;
use crate::domain::time::Timestamp;
use crate::runtime::RuntimeError;
use tracing::{info, warn};

/// Tombstones remembered for every log that may be kept: without a bound a day of short tasks would fill the memory.
const TOMBSTONES: usize = 10;

impl Actor {
    /// So many tasks were released since the last look that there may be too many: they are not left until its time.
    pub(super) const fn is_garbage_due(&self) -> bool {
        self.released_since > self.retention.max_ended / 8
    }

    pub(super) fn collect_garbage(&mut self) {
        self.released_since = 0;
        if self.writer.is_failing() {
            // A write that hangs says nothing; it is noticed here.
            return self.go_on_without_journal();
        }
        let (now, clock_step) = self.clock_steps.look(&*self.clock);
        if let Some(nanos) = clock_step {
            self.move_tombstones(nanos);
        }
        self.look_at_faults();
        self.check_again();
        self.consider_remedies();
        let due = self.logs_to_purge(now);
        self.purge(due);
        if let Some(mark) = self.retention.disk.clone().filter(|_| !self.looking_at_disk) {
            self.looking_at_disk = true;
            self.executor.look_at_disk(mark);
        }
        for id in self.to_forget(now) {
            if let Some(entry) = self.entries.remove(&id) {
                self.unreported.remove(&entry.published);
                self.writer.forget(id);
            }
        }
    }

    /// Tombstones whose time is over, and the oldest of too many.
    fn to_forget(&self, now: Timestamp) -> Vec<TaskId> {
        let mut buried: Vec<(Timestamp, TaskId)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.purged && entry.record.released)
            .map(|(id, entry)| (entry.record.tombstone_until.unwrap_or_default(), *id))
            .collect();
        buried.sort_unstable();
        let too_many = buried.len().saturating_sub(self.retention.max_ended.saturating_mul(TOMBSTONES));
        let goes = |(position, (_, id)): &(usize, (Timestamp, TaskId))| {
            self.entries.get(id).is_some_and(|entry| {
                (*position < too_many || entry.record.is_forgettable(now))
                    && entry.is_idle()
                    && self.is_acknowledged(entry.published)
            })
        };
        buried.into_iter().enumerate().filter(goes).map(|(_, (_, id))| id).collect()
    }

    /// The clock was set: what has ended is not older, or younger, for that.
    fn move_tombstones(&mut self, nanos: i64) {
        warn!(node = %self.facts.name, seconds = nanos / 1_000_000_000, "the clock was set");
        // No tombstone stands longer than a new one, however wrong the clock was when it was set up, or is now.
        let latest = self.clock.now().plus(TOMBSTONE);
        for (id, entry) in &mut self.entries {
            if let Some(until) = &mut entry.record.tombstone_until {
                *until = until.moved(nanos).min(latest);
                self.writer.mark(*id, entry);
            }
        }
    }

    fn purge(&mut self, ids: Vec<TaskId>) {
        for id in ids {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.enqueue(Work::Purge);
                self.ready.insert(id);
            }
        }
    }

    /// The disk was looked at: what is too much goes, as far as it is ours and nobody needs it.
    pub(super) fn disk_looked(&mut self, excess_bytes: u64) {
        self.looking_at_disk = false;
        if excess_bytes == 0 {
            return;
        }
        let now = self.clock.now();
        let mut kept: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.record.released && !entry.purged)
            .map(|(id, entry)| {
                let released = entry.record.tombstone_until.unwrap_or_default();
                let free = entry.is_idle() && self.is_acknowledged(entry.published);
                let age = now.plus(TOMBSTONE).since(released);
                (released, Kept { id: *id, bytes: entry.log_bytes, age, free })
            })
            .collect();
        kept.sort_unstable_by_key(|(released, log)| (*released, log.id));
        let kept: Vec<_> = kept.into_iter().map(|(_, log)| log).collect();
        let going = to_free(&kept, excess_bytes);
        if !going.is_empty() {
            info!(logs = going.len(), excess_bytes, "the disk is nearly full: the oldest logs of ended tasks go");
        }
        self.purge(going);
    }

    /// Released tasks with a log whose time is over, and the oldest of too many.
    ///
    /// Counted from the release, by this agent's clock: a task that ended while nobody looked must not lose its
    /// log the moment the controller hears of it.
    fn logs_to_purge(&self, now: Timestamp) -> Vec<TaskId> {
        let mut kept: Vec<(Timestamp, TaskId, bool, u64)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.record.released && !entry.purged)
            .map(|(id, entry)| {
                let free = entry.is_idle() && self.is_acknowledged(entry.published);
                (entry.record.tombstone_until.unwrap_or_default(), *id, free, entry.log_bytes)
            })
            .collect();
        kept.sort_unstable();
        // The newest that fit, in number and in bytes; a log that is being read counts like any other.
        let mut bytes = 0_u64;
        let fits = |(_, _, _, log_bytes): &&(_, _, _, u64)| {
            bytes = bytes.saturating_add(*log_bytes);
            bytes <= self.retention.max_log_bytes
        };
        let fitting = kept.iter().rev().take(self.retention.max_ended).take_while(fits).count();
        let too_many = kept.len() - fitting;
        let due = kept.into_iter().enumerate().filter(|(position, (tombstone_until, _, free, _))| {
            *free
                && (*position < too_many || now.plus(TOMBSTONE).since(*tombstone_until) >= self.retention.keep_ended)
        });
        due.map(|(_, (_, id, _, _))| id).collect()
    }

    /// The log is gone: a tombstone stays, without the specification, which is the bulk of it.
    pub(super) fn purged(&mut self, id: TaskId, result: Result<(), RuntimeError>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match result {
            // A newer generation began meanwhile: its turn comes.
            Ok(()) if !entry.record.released => {}
            Ok(()) => {
                info!(task = %id, "the log of an ended task is deleted");
                entry.purged = true;
                entry.record.spec = None;
                self.writer.mark(id, entry);
            }
            Err(error) => warn!(task = %id, reason = error.message, "the log of an ended task is not deleted"),
        }
    }
}
