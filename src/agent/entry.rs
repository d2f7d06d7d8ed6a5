//! One task in the actor's memory: its record, what is on the way to disk and to the runtime, and who waits.

use super::executor::Work;
use super::message::{Reply, TaskAccess};
use super::ports::HeldPorts;
use crate::domain::command::{Error, ErrorKind, SequencedStatus};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::{Generation, TaskId};
use crate::domain::lifecycle::TaskRecord;
use crate::domain::task::{TaskState, TaskStatus};
use crate::runtime::RuntimeEventKind;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Callers that wait for one task at most.
pub const MAX_WAITERS: usize = 32;

#[derive(Debug)]
pub struct Entry {
    /// As decided; the journal may be behind.
    pub record: TaskRecord,
    /// Differs from what the journal has, and is in the list of what to write.
    pub dirty: bool,
    /// Being written right now.
    pub in_flight: bool,
    /// The newest status with a sequence of its own, published or on its way to disk.
    pub assigned: Option<SequencedStatus>,
    /// The newest published status, and its sequence; 0 is none.
    pub told: Option<SequencedStatus>,
    pub published: u64,
    /// Decided, but the record is not durable yet.
    pub pending: Vec<Pending>,
    /// Durable, to be done in this order.
    pub queue: VecDeque<Work>,
    pub current: Option<Current>,
    pub ports: HeldPorts,
    pub waiters: Vec<Waiter>,
    /// What a restarted agent heard before it knew what there is.
    pub early_events: Option<Vec<RuntimeEventKind>>,
    /// The journal had lost it, and nobody has looked at the task yet.
    pub rebuilt: bool,
    /// How far the state's work is; of the moment, and gone with the next state.
    pub progress: Option<String>,
    /// The log is gone and only a tombstone is left.
    pub purged: bool,
    pub renewing_lease: bool,
    /// Disk that the log of a released task takes, once it has been looked at.
    pub log_bytes: u64,
    ended: watch::Sender<Option<Exit>>,
    in_use: Arc<()>,
}

/// What waits for the journal.
#[derive(Debug)]
pub enum Pending {
    Work(Work),
    /// Give the claim back.
    Unhold,
}

/// The call in progress.
#[derive(Debug)]
pub struct Current {
    pub work: Work,
    pub abandon: CancellationToken,
}

/// A caller and what it waits for.
#[derive(Debug)]
pub struct Waiter {
    pub wants: Wants,
    pub generation: Generation,
    pub reply: Reply<Result<TaskStatus, Error>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    Staged,
    Ready,
    Launched,
    /// The stop is on record.
    StopKnown,
    Released,
}

impl Entry {
    pub fn new(record: TaskRecord) -> Self {
        let (ended, _) = watch::channel(record.exit.clone());
        Self {
            record,
            dirty: false,
            in_flight: false,
            assigned: None,
            told: None,
            published: 0,
            pending: Vec::new(),
            queue: VecDeque::new(),
            current: None,
            ports: HeldPorts::default(),
            waiters: Vec::new(),
            early_events: None,
            rebuilt: false,
            progress: None,
            purged: false,
            renewing_lease: false,
            log_bytes: 0,
            ended,
            in_use: Arc::new(()),
        }
    }

    /// Takes over the next record; followers of an earlier generation keep its end.
    pub fn set_record(&mut self, record: TaskRecord) {
        if record.generation != self.record.generation && record.exit.is_none() {
            self.ended = watch::channel(None).0;
            self.purged = false;
            self.log_bytes = 0;
        } else if record.exit.is_some() && self.record.exit.is_none() {
            self.ended.send_replace(record.exit.clone());
        }
        if record.state != self.record.state {
            self.progress = None;
        }
        self.record = record;
    }

    pub fn is_durable(&self) -> bool {
        !self.dirty && !self.in_flight
    }

    /// Being taken over from an earlier process of the agent.
    pub const fn is_adopting(&self) -> bool {
        self.early_events.is_some()
    }

    /// Nothing is going on and nobody looks at it.
    pub fn is_idle(&self) -> bool {
        self.is_durable()
            && self.current.is_none()
            && self.queue.is_empty()
            && self.pending.is_empty()
            && self.waiters.is_empty()
            && Arc::strong_count(&self.in_use) == 1
    }

    /// As it is now, with what is not journalled.
    pub fn status(&self) -> TaskStatus {
        TaskStatus { progress: self.progress.clone(), ..self.record.status() }
    }

    pub fn access(&self) -> TaskAccess {
        TaskAccess { status: self.status(), ended: self.ended.subscribe(), in_use: Arc::clone(&self.in_use) }
    }

    /// `Effect::Cancel`: what is going on towards the barrier, begun or not.
    pub fn abandon(&mut self) {
        self.pending.retain(|pending| !matches!(pending, Pending::Work(work) if work.is_abandonable()));
        self.queue.retain(|work| !work.is_abandonable());
        if let Some(current) = &self.current
            && current.work.is_abandonable()
        {
            current.abandon.cancel();
        }
    }

    /// Adds durable work. A stop that is still being tried gives way to what comes after it.
    pub fn enqueue(&mut self, work: Work) {
        if let Some(current) = &self.current
            && matches!(current.work, Work::Stop { .. })
        {
            current.abandon.cancel();
        }
        self.queue.push_back(work);
    }

    /// The task's own end makes a stop pointless.
    pub fn drop_stops(&mut self) {
        self.queue.retain(|work| !matches!(work, Work::Stop { .. }));
        if let Some(current) = &self.current
            && matches!(current.work, Work::Stop { .. })
        {
            current.abandon.cancel();
        }
    }

    /// Answers everybody whose wait is over. `durable`: the record may be spoken of.
    pub fn answer_waiters(&mut self, durable: bool) {
        if !durable || self.waiters.is_empty() {
            return;
        }
        for waiter in std::mem::take(&mut self.waiters) {
            match answer(&self.record, waiter.wants, waiter.generation) {
                // A caller that has gone needs no answer.
                Some(answer) => drop(waiter.reply.send(answer)),
                None if waiter.reply.is_closed() => {}
                None => self.waiters.push(waiter),
            }
        }
    }

    /// Answers those who wait for `wants`, whatever the record says.
    pub fn answer_all(&mut self, wants: Wants, answer: &Result<TaskStatus, Error>) {
        for waiter in self.waiters.extract_if(.., |waiter| waiter.wants == wants) {
            let _ = waiter.reply.send(answer.clone());
        }
    }
}

/// `None`: not yet.
fn answer(record: &TaskRecord, wants: Wants, generation: Generation) -> Option<Result<TaskStatus, Error>> {
    let done = || Some(Ok(record.status()));
    let ends_only = matches!(wants, Wants::StopKnown | Wants::Released);
    if !ends_only && record.generation != generation {
        return Some(Err(outdated(record.id, generation, record.generation)));
    }
    match (wants, record.state) {
        (Wants::StopKnown, _) => done(),
        (Wants::Released, _) => {
            if record.released {
                done()
            } else {
                None
            }
        }
        (Wants::Staged, TaskState::Staging) => None,
        (Wants::Ready, TaskState::Waiting | TaskState::Staging | TaskState::Preparing) => None,
        (Wants::Launched, TaskState::Ready) => None,
        (_, state) if state.is_terminal() && !record.launched => Some(Err(ended_early(record, wants))),
        _ => done(),
    }
}

fn outdated(task: TaskId, asked: Generation, current: Generation) -> Error {
    Error::new(ErrorKind::Stale, format!("task {task}: generation {asked} was replaced by {current} meanwhile"))
}

/// The error of a command that waited for a step the task never reached.
fn ended_early(record: &TaskRecord, wants: Wants) -> Error {
    let verb = match wants {
        Wants::Staged => "stage",
        Wants::Ready => "prepare",
        _ => "launch",
    };
    let (class, reason) =
        record.exit.as_ref().map_or((ExitClass::Platform, "it ended"), |exit| (exit.class, &exit.reason));
    let kind = match class {
        ExitClass::User => ErrorKind::Invalid,
        ExitClass::Stopped => ErrorKind::Refused,
        _ => ErrorKind::Unavailable,
    };
    let busy_ports = record.exit.as_ref().map_or_else(Vec::new, |exit| exit.busy_ports.clone());
    Error { busy_ports, ..Error::new(kind, format!("{verb} task {}: {reason}", record.id)) }
}
