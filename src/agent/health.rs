//! What tells of hardware faults: each source is a task of its own that judges what it sees and tells the actor, which
//! alone knows who had what. Any of them can fail without the others.
//!
//! ```text
//!  /dev/kmsg ── kernel_log ──> KernelEar (parse, judge) ──batches──> actor (faults) ──> journal
//!                   ^ done: counted and durable ────────────────────────────┘ ^
//!  NVML ── gpu::events ──────> GpuEar (judge) ────────────batches─────────────┤
//!  NVML, PCI, InfiniBand ────> Rounds (health::checks) ────rounds─────────────┘
//! ```
//!
//! One batch of each at a time is with the actor: a storm of messages fills the kernel's ring and no queue of ours.

mod gpu_ear;
mod round;
mod told;

pub use gpu_ear::GpuEar;
pub use round::{LookedAt, Looking, Rounds};

use super::message::{Inside, Reply};
use crate::domain::fault::{Action, FaultKind, Subject, Verdict};
use crate::domain::gpu::health::DeviceHealth;
use crate::domain::time::Timestamp;
use crate::health::checks::{Found, Worked};
use crate::health::kernel_log::{Parser, Record as Message};
use crate::health::table::Table;
use crate::health::verdict::Judgement;
use crate::health::{Heard, Observation, SeenAt, Source, heard};
use crate::kernel_log::{Entry, KernelLog, Record};
use crate::telemetry::clock::Clock;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Entries of the log in one batch.
const BATCH: usize = 256;

/// What a stretch of the kernel's log said, each with the sequence of its record.
#[derive(Debug)]
pub struct KernelBatch {
    pub heard: Vec<(u64, Heard)>,
    /// How many it had, and how many were overwritten between them.
    pub records: u64,
    pub lost: u64,
    /// The first record that is not in this or an earlier batch.
    pub next: u64,
    pub reply: Reply<()>,
}

/// What others than the kernel's log have seen.
#[derive(Debug)]
pub struct Observed {
    pub observations: Vec<Observation>,
    /// Of a whole round of looking.
    pub looked: Option<Looked>,
    pub reply: Reply<()>,
}

/// What a round looked at beside what it found wrong.
#[derive(Debug)]
pub struct Looked {
    pub begun: Timestamp,
    /// What was found in order; what was not is among the observations.
    pub found: Found,
    /// What the devices said; empty where they were not asked.
    pub gpus: Vec<DeviceHealth>,
    /// All that has worked until now.
    pub worked: Worked,
}

/// Reads until `cancel`.
#[derive(Debug)]
pub struct KernelEar {
    pub log: KernelLog,
    pub table: Arc<Table>,
    pub clock: Arc<dyn Clock>,
    pub inside: mpsc::Sender<Inside>,
    /// Records before this one are counted, and that is durable.
    pub done: watch::Receiver<u64>,
    pub cancel: CancellationToken,
}

impl KernelEar {
    pub async fn run(mut self) {
        let mut parser = Parser::default();
        loop {
            let entry = tokio::select! {
                () = self.cancel.cancelled() => break,
                Ok(()) = self.done.changed() => {
                    self.tell_done();
                    continue;
                }
                entry = self.log.next() => entry,
            };
            // The reader has fallen, which it has said.
            let Some(entry) = entry else { break };
            if self.tell(&mut parser, entry).await.is_none() {
                break;
            }
        }
        self.tell_done();
        self.log.close().await;
    }

    fn tell_done(&mut self) {
        if let Some(last) = self.done.borrow_and_update().checked_sub(1) {
            self.log.done(last);
        }
    }

    /// This entry and what is there behind it, as one batch. `None`: the actor is gone.
    async fn tell(&mut self, parser: &mut Parser, first: Entry) -> Option<()> {
        let (mut heard, mut next, mut entry, mut room) = (Vec::new(), 0, Some(first), BATCH);
        let (mut records, mut lost) = (0, 0);
        while let Some(one) = entry {
            match one {
                Entry::Record(record) => {
                    records += 1;
                    next = record.sequence.saturating_add(1);
                    heard.extend(self.hear(parser, &record).into_iter().map(|heard| (record.sequence, heard)));
                }
                Entry::Gap { from, to } => {
                    lost += if from == 0 { 0 } else { length(from, to) };
                    next = to.saturating_add(1);
                    heard.extend(self.gap(from, to).map(|gap| (to, gap)));
                }
                Entry::Opened { next_sequence } => info!(next_sequence, "following the kernel's log"),
                Entry::Unavailable { why } => warn!(why, "faults that only the kernel tells go unseen"),
            }
            room -= 1;
            // What is not for this batch stays where it is.
            entry = if room > 0 { self.log.ready() } else { None };
        }
        let (reply, taken) = oneshot::channel();
        self.inside.send(Inside::Kernel(Box::new(KernelBatch { heard, records, lost, next, reply }))).await.ok()?;
        taken.await.ok()
    }

    fn hear(&self, parser: &mut Parser, record: &Record) -> Vec<Heard> {
        let message = Message {
            sequence: Some(record.sequence),
            boot_us: Some(record.at_boot_us),
            time: Some(self.time_of(record.at_boot_us)),
            priority: u8::try_from(record.facility * 8 + u32::from(record.priority)).ok().or(Some(u8::MAX)),
            host: None,
            text: Cow::Borrowed(&record.text),
        };
        // What the driver recommends is not asked here: it may hang, and its own line of that (154) follows.
        let seen = parser.parse(&message).into_iter();
        seen.map(|seen| heard(seen, &message, record.sequence, &self.table, &|_| None)).collect()
    }

    /// The kernel's ring does not begin at the boot for ever: what was overwritten before anybody read is no loss of ours.
    fn gap(&self, from: u64, to: u64) -> Option<Heard> {
        if from == 0 {
            return None;
        }
        let lost = length(from, to);
        warn!(from, to, "the kernel overwrote messages before they were read");
        let judgement =
            Judgement::new(Verdict::Unknown, Action::None, "Messages of the kernel were lost before they were read.");
        let seen = SeenAt { time: Some(self.clock.now()), boot_us: None, order: to };
        let gap = Observation::new(Source::KernelLog, FaultKind::KernelLogGap, Subject::default(), judgement, seen);
        let evidence = format!("records {from} to {to} were overwritten");
        Some(Heard::Observation(Box::new(Observation { count: lost, evidence, ..gap })))
    }

    /// The kernel's clock counts from the boot; what is read is never of the future.
    fn time_of(&self, at_boot_us: u64) -> Timestamp {
        let (now, boottime) = (self.clock.now(), self.clock.boottime());
        let ago = boottime.saturating_sub(Duration::from_micros(at_boot_us));
        now.moved(-i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX))
    }
}

const fn length(from: u64, to: u64) -> u64 {
    to.saturating_sub(from).saturating_add(1)
}
