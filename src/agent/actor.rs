//! The owner of every task's state on this node.
//!
//! One loop: take a word (a request, an event of the runtime, something that came of a call), decide with
//! `domain::lifecycle`, queue the write, and go on. It never waits for IO: `commit` writes, `executor` calls the
//! runtime, `report` talks to the controller, and all of them come back here with words.

use super::backoff::Backoff;
use super::commit::Writer;
use super::entry::{Entry, Pending, Wants};
use super::executor::{Executor, Outcome, Target, Work, WorkResult};
use super::faults::{FaultBook, Remedies, SelfChecks};
use super::gpus::{GpuBook, Promised};
use super::journal::Identity;
use super::message::{Inside, ReportHint, Request};
use super::metrics::Tally;
use super::ports::{HeldPorts, Ports, named};
use super::pressure::DiskMark;
use super::watch::Watchers;
use crate::domain::allocation::Ledger;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::gpu::{Gpu, GpuSample};
use crate::domain::ids::{GpuUuid, NodeName, TaskId, Term};
use crate::domain::lifecycle::{Effect, TaskEvent, TaskRecord, step};
use crate::domain::task::{Inventory, TaskSpec, TaskState};
use crate::domain::time::Timestamp;
use crate::runtime::{Decision, Launch, Notices, RuntimeError, RuntimeEvent, RuntimeEventKind};
use crate::telemetry::clock::{Clock, ClockSteps};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What the controller is told about this node, besides its tasks.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub name: NodeName,
    pub identity: Identity,
    pub address: String,
    pub task_ip: String,
    pub version: String,
}

/// How long ended tasks are kept.
#[derive(Debug, Clone)]
pub struct Retention {
    pub keep_ended: Duration,
    pub max_ended: usize,
    /// What their logs may take of the disk.
    pub max_log_bytes: u64,
    /// How often it is looked at.
    pub period: Duration,
    pub disk: Option<DiskMark>,
}

#[derive(Debug)]
pub struct Actor {
    pub(super) facts: NodeFacts,
    pub(super) inventory: Inventory,
    pub(super) ledger: Ledger,
    pub(super) entries: BTreeMap<TaskId, Entry>,
    pub(super) cluster_id: Option<String>,
    pub(super) term: Term,
    /// The controller has every status up to here.
    pub(super) acknowledged: u64,
    /// Nobody to acknowledge anything.
    pub(super) standalone: bool,
    pub(super) registered_before: bool,
    /// Until then commands of a newer term cause no other registration.
    pub(super) register_again_at: Option<tokio::time::Instant>,
    /// Published and not acknowledged: the newest status of each task.
    pub(super) unreported: BTreeMap<u64, TaskId>,
    pub(super) watchers: Watchers,
    pub(super) hint: watch::Sender<ReportHint>,
    pub(super) samples: BTreeMap<GpuUuid, GpuSample>,
    pub(super) gpu_book: GpuBook,
    pub(super) fault_book: FaultBook,
    pub(super) tally: Tally,
    pub(super) self_checks: SelfChecks,
    pub(super) remedies: Remedies,
    pub(super) writer: Writer,
    pub(super) executor: Executor,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ports: Ports,
    pub(super) retention: Retention,
    /// Tasks released since the last look at what may be forgotten.
    pub(super) released_since: usize,
    /// A look at the disk is under way.
    pub(super) looking_at_disk: bool,
    pub(super) clock_steps: ClockSteps,
    /// Tasks with something in their queue.
    pub(super) ready: BTreeSet<TaskId>,
    pub(super) adopting: watch::Sender<usize>,
    /// Not in the journal, and of records that cannot be read, with why: whether they run is not known.
    pub(super) unread: BTreeMap<TaskId, String>,
}

/// Where the actor's words come from.
#[derive(Debug)]
pub struct Inbox {
    pub requests: mpsc::Receiver<Request>,
    pub inside: mpsc::Receiver<Inside>,
    pub runtime_events: mpsc::Receiver<RuntimeEvent>,
    pub cancel: CancellationToken,
}

/// A command that lives longer has its ports, or does without them.
const FIRST_USE_OF_PORTS: Duration = Duration::from_secs(60);
/// The kernel says within it why a command has lost its GPU; its end is told so much later where that may be so.
const EXPLAINED_WITHIN: Duration = Duration::from_secs(1);
/// Longer lines of progress are cut.
const MAX_PROGRESS_BYTES: usize = 512;

impl Actor {
    pub async fn run(mut self, mut inbox: Inbox) {
        let mut collect = tokio::time::interval(self.retention.period);
        collect.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut runtime_lives = true;
        loop {
            if self.is_garbage_due() {
                self.collect_garbage();
            }
            self.begin_queued();
            self.begin_commit();
            let retry_at = self.writer.retry_at();
            tokio::select! {
                // Events first: what a task did before its removal must not be taken for its successor's.
                biased;
                () = inbox.cancel.cancelled() => break,
                event = inbox.runtime_events.recv(), if runtime_lives => match event {
                    Some(event) => self.runtime_event(event),
                    None => runtime_lives = false,
                },
                Some(word) = inbox.inside.recv() => self.inside(word),
                Some(request) = inbox.requests.recv() => self.request(request),
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(tokio::time::Instant::now)), if retry_at.is_some() => {}
                _ = collect.tick() => self.collect_garbage(),
            }
        }
        info!(node = %self.facts.name, tasks = self.entries.len(), "the agent ends, its tasks go on");
    }

    fn inside(&mut self, word: Inside) {
        match word {
            Inside::Done(id, outcome) => self.done(id, outcome),
            Inside::Committed(result) => self.committed(result),
            Inside::Unreported { limit, reply } => drop(reply.send(self.unreported(limit))),
            Inside::Acknowledged(up_to) => self.acknowledge(up_to),
            Inside::Registration { reply } => drop(reply.send(self.registration())),
            Inside::Registered { registered, reply } => drop(reply.send(self.registered(registered))),
            Inside::Heartbeat { reply } => drop(reply.send(self.heartbeat())),
            Inside::Unheard { why } => self.controller_is_silent(&why),
            Inside::HeartbeatAnswered { sent_boottime, faults_version, asked, permit } => {
                self.tally.heartbeats += 1;
                self.controller_has_faults(faults_version);
                self.renew_leases(sent_boottime);
                self.permit_said(asked, permit);
            }
            Inside::Kernel(batch) => self.kernel_said(*batch),
            Inside::Observed(observed) => self.observed(*observed),
            Inside::LookedAt { reply } => drop(reply.send(self.looked_at())),
            Inside::SelfChecked(checked) => self.self_checked(*checked),
            Inside::Remedied { fault, outcome } => self.remedied(fault, outcome),
            Inside::OperatorChecked => self.operator_checked(),
            Inside::Ended(event) => self.take_event(event.id, event.kind),
            Inside::Gpus(report) => self.gpu_report(*report),
            Inside::LeaseRenewed(id) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.renewing_lease = false;
                }
            }
            Inside::DiskLooked { excess_bytes } => self.disk_looked(excess_bytes),
            Inside::Listed(ids) => self.remove_foundlings(ids),
            Inside::ReadAgain(records) => self.read_again(records),
        }
    }

    /// Something the runtime tells on its own.
    pub(super) fn runtime_event(&mut self, RuntimeEvent { id, kind }: RuntimeEvent) {
        let Some(entry) = self.entries.get_mut(&id) else {
            warn!(task = %id, ?kind, "an event of a task that is not in the journal");
            return;
        };
        if let Some(early) = &mut entry.early_events {
            early.push(kind);
            return;
        }
        if let RuntimeEventKind::Exited { exit, .. } = &kind {
            self.check_after(id, exit);
        }
        if let RuntimeEventKind::Exited { exit, .. } = &kind
            && self.may_be_explained(id, exit)
        {
            return self.executor.later(EXPLAINED_WITHIN, Inside::Ended(Box::new(RuntimeEvent { id, kind })));
        }
        self.take_event(id, kind);
    }

    fn take_event(&mut self, id: TaskId, kind: RuntimeEventKind) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let event = match kind {
            RuntimeEventKind::Started { at } => TaskEvent::Started { at },
            RuntimeEventKind::Held { until, why } => TaskEvent::Held { until, why },
            RuntimeEventKind::Exited { at, exit } => {
                entry.drop_stops();
                let exit = self.explain_by_faults(id, at, self.blame(id, at, exit));
                TaskEvent::Exited { at, exit }
            }
            RuntimeEventKind::Staging { mut note } => {
                note.truncate(note.floor_char_boundary(MAX_PROGRESS_BYTES));
                // One that comes late is of no state any more.
                entry.progress = Some(note).filter(|_| entry.record.state == TaskState::Staging);
                return;
            }
        };
        self.observe(id, event);
    }

    /// Between "go" and the command's own use of its ports nobody holds them. A command that failed soon after its
    /// start, and whose port is somebody else's now that nothing is left of it, failed because of that.
    fn blame(&self, id: TaskId, at: Timestamp, exit: Exit) -> Exit {
        let Some(record) = self.entries.get(&id).map(|entry| &entry.record) else { return exit };
        let failed = exit.class == ExitClass::User && !exit.oom && (exit.code.is_some() || exit.signal.is_some());
        let soon = record.started_at.is_none_or(|started| at.since(started) < FIRST_USE_OF_PORTS);
        let asked = record.exit.is_some() || record.stop.is_some();
        if !failed || !soon || asked || self.publishes_ports(record) {
            return exit;
        }
        // The image's own ssh server, which we started, lives as long as its container.
        let ports = record.spec.iter().flat_map(|spec| &spec.ports).filter(|ports| ports.label != "ssh");
        let busy_ports = self.ports.taken_by_others(ports.flat_map(|ports| ports.ports.iter().copied()));
        if busy_ports.is_empty() {
            return exit;
        }
        let reason = format!("another process took {} before the task could; {}", named(&busy_ports), exit.reason);
        Exit { class: ExitClass::Platform, reason, busy_ports, ..exit }
    }

    /// A call to the runtime came back.
    fn done(&mut self, id: TaskId, outcome: Outcome) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.current = None;
        if !entry.queue.is_empty() {
            self.ready.insert(id);
        }
        let generation = outcome.generation;
        match outcome.result {
            WorkResult::Staged(Ok(Notices(notices))) => {
                self.observe(id, TaskEvent::StageDone { generation, notices });
            }
            WorkResult::Staged(Err(RuntimeError { message: error, user_error, .. })) => {
                self.observe(id, TaskEvent::StageFailed { generation, error, user_error });
            }
            WorkResult::Prepared(Ok(Notices(notices))) => {
                self.observe(id, TaskEvent::PrepareDone { generation, notices });
            }
            WorkResult::Prepared(Err(RuntimeError { message: error, user_error, .. })) => {
                let ports = entry.record.claim().map_or_else(Vec::new, |claim| claim.ports);
                let published = self.publishes_ports(&self.entries[&id].record);
                let busy_ports = if published { self.ports.taken_by_others(ports) } else { Vec::new() };
                self.observe(id, TaskEvent::PrepareFailed { generation, error, user_error, busy_ports });
            }
            WorkResult::Launched(Ok(())) => {
                let status = entry.record.status();
                entry.answer_all(Wants::Launched, &Ok(status));
            }
            WorkResult::Launched(Err(error)) => {
                let kind = if error.user_error { ErrorKind::Invalid } else { ErrorKind::Unavailable };
                let refusal = Error::new(kind, format!("launch task {id}: {}", error.message));
                entry.answer_all(Wants::Launched, &Err(refusal));
                let RuntimeError { message: error, user_error, .. } = error;
                self.observe(id, TaskEvent::LaunchFailed { generation, error, user_error });
            }
            WorkResult::Removed => self.observe(id, TaskEvent::Removed { generation }),
            WorkResult::Adopted(adopted) => self.adopted(id, adopted),
            WorkResult::Cleared { log_bytes } => entry.log_bytes = log_bytes,
            WorkResult::Purged(result) => self.purged(id, result),
            WorkResult::StopTold | WorkResult::Cancelled => {}
        }
    }

    /// A fact about a task: never refused.
    pub(super) fn observe(&mut self, id: TaskId, event: TaskEvent) {
        let Some(entry) = self.entries.get(&id) else { return };
        match step(&entry.record, event, self.clock.now()) {
            Ok((record, effects)) => self.apply(id, record, effects, None),
            Err(refusal) => tracing::error!(task = %id, %refusal, "a fact was refused"),
        }
    }

    /// Takes over the outcome of a step. [`Effect::Hold`] was done before, since it may veto.
    pub(super) fn apply(&mut self, id: TaskId, record: TaskRecord, effects: Vec<Effect>, launch: Option<Launch>) {
        let urgent_only = self.writer.is_failing();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let changed = entry.record != record;
        if !changed && effects.is_empty() {
            return;
        }
        if record.state != entry.record.state {
            info!(task = %id, generation = record.generation.0, from = %entry.record.state, to = %record.state, "task");
        }
        let gone = record.released && !entry.record.released && record.spec.is_some();
        entry.set_record(record);
        let mut launch = launch;
        for effect in effects {
            let work = match effect {
                Effect::Hold | Effect::Report => continue,
                Effect::Cancel => {
                    entry.abandon();
                    continue;
                }
                Effect::Unhold => {
                    entry.pending.push(Pending::Unhold);
                    continue;
                }
                Effect::Stage => Work::Stage,
                Effect::Prepare => Work::Prepare,
                Effect::Launch => Work::Launch(launch.take().unwrap_or_default()),
                Effect::Stop { grace_ms } => Work::Stop { grace: Duration::from_millis(grace_ms) },
                Effect::Remove => Work::Remove,
            };
            // A stop must work on a machine with a full disk, and losing it in a crash only means asking again.
            if matches!(work, Work::Stop { .. }) && (urgent_only || entry.pending.is_empty()) {
                entry.enqueue(work);
                self.ready.insert(id);
            } else {
                entry.pending.push(Pending::Work(work));
            }
        }
        if gone {
            // Its log is kept for a while; what else it left is of no use to anybody.
            entry.pending.push(Pending::Work(Work::Clear));
            self.released_since += 1;
        }
        self.writer.mark(id, entry);
        if urgent_only {
            self.publish_end_early(id);
        }
    }

    /// Starts what is durable, one thing per task.
    fn begin_queued(&mut self) {
        while let Some(id) = self.ready.pop_first() {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.current.is_some() {
                continue;
            }
            let ended = entry.record.state.is_terminal();
            let Some(work) =
                std::iter::from_fn(|| entry.queue.pop_front()).find(|work| !(ended && work.leads_to_launch()))
            else {
                continue;
            };
            if matches!(work, Work::Launch(_)) {
                // From here on the ports are the task's own to bind.
                entry.ports = HeldPorts::default();
            }
            let target = entry.record.spec.clone().map(|spec| {
                let mut promised = promised(&spec, &self.inventory.gpus, &self.ledger);
                promised.checks = self.self_checks.of(&promised.gpus);
                let cluster_id = self.cluster_id.clone().unwrap_or_default();
                let decision = Decision { cluster_id, generation: entry.record.generation };
                Target { spec, promised, decision }
            });
            let abandon = self.executor.begin(id, entry.record.generation, target, work.clone());
            entry.current = Some(super::entry::Current { work, abandon });
        }
    }
}

fn promised(spec: &TaskSpec, all: &[Gpu], ledger: &Ledger) -> Promised {
    if spec.gpus.is_empty() {
        return Promised::default();
    }
    let others = ledger.held().filter(|(task, _)| *task != spec.id);
    Promised {
        gpus: all.iter().filter(|gpu| spec.gpus.contains(&gpu.uuid)).cloned().collect(),
        all: all.to_vec(),
        held: others.flat_map(|(_, held)| held.claim.gpus.clone()).collect(),
        checks: Vec::new(),
    }
}

/// Retries of the journal.
pub(super) const fn journal_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(10))
}
