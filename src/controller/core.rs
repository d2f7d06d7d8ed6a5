//! The one task that owns the controller's state: batches, commits, then lets things happen.

use super::access::revocations::Revoked;
use super::access::{Access, Certification};
use super::clock_step::Moved;
use super::dispatch::Dispatcher;
use super::persist::{self, WriteError, Writes};
use super::state::{Dirty, State};
use super::telling::Telling;
use super::{apply, clock_step, faults, nodes, schedule};
use crate::api::agent::AgentDialer;
use crate::api::controller::Submit;
use crate::domain::access::token::{Token, TokenId};
use crate::domain::access::{CertificateRequest, IssuedCertificate, NewToken, TokenView};
use crate::domain::command::{
    Error, ErrorKind, Heartbeat, HeartbeatReply, Registered, Registration, SequencedStatus,
};
use crate::domain::ids::{Generation, JobId, NodeName, NodeUid, RunId, TaskId, Term};
use crate::domain::node::NodeChange;
use crate::domain::principal::Principal;
use crate::domain::run::Action;
use crate::domain::task::TaskStatus;
use crate::domain::view::{NodeView, Submitted};
use crate::scheduler::Policy;
use crate::store::Store;
use crate::store::history::EventLog;
use crate::telemetry::clock::{Clock, ClockSteps};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Messages waiting for the core; one more is refused with a typed error.
const QUEUE: usize = 4096;
/// Messages taken into one batch, and so into one commit.
const BATCH: usize = 512;
/// Keys or folders of keys deleted with one tick.
const GARBAGE: usize = 4;
/// How often every unfinished run is looked at, whatever happened.
const SWEEP: Duration = Duration::from_secs(10);
/// Failures in a row after which a command is given up.
const ENOUGH: u32 = 10;
/// Explanations at a time.
const EXPLAINING: usize = 2;
/// Turns follow each other faster, or the store has kept everything waiting.
const STALL: Duration = Duration::from_secs(1);
/// How often time itself is looked at: deadlines, back-offs, silent nodes.
const TICK: Duration = Duration::from_millis(200);

/// What a controller is made of. The caller owns the sockets and the store.
#[derive(Debug)]
pub struct ControllerParts {
    pub store: Arc<dyn Store>,
    pub history: Arc<EventLog>,
    pub dialer: Arc<dyn AgentDialer>,
    pub clock: Arc<dyn Clock>,
    /// The rules by which jobs get their places.
    pub policy: Policy,
    /// OpenPAI's `PAI_DEFAULT_FS_URI`.
    pub default_fs_uri: String,
    /// How often hardware faults may restart a job.
    pub hardware_restarts: u64,
    /// Of all nodes, how many may be closed for faults at once; one may always.
    pub max_nodes_out_percent: u8,
    pub heartbeat: Duration,
    /// Silence after which a node counts as unreachable.
    pub node_timeout: Duration,
    /// Ended jobs kept; older ones are forgotten.
    pub keep_ended_jobs: usize,
    /// None: it certifies nobody, and makes no tokens.
    pub certification: Option<Certification>,
}

/// A handle to a running controller: cheap to clone, implements [`crate::api::ControllerApi`].
#[derive(Debug, Clone)]
pub struct Controller {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) shared: Shared,
    pub(super) parts: Arc<ControllerParts>,
    /// Moves on with every batch: for whoever waits for a change.
    pub(super) changed: watch::Receiver<u64>,
    pub(super) cancel: CancellationToken,
    /// Ends the core alone.
    core: CancellationToken,
    pub(super) tracker: TaskTracker,
    /// For explanations, which copy the books: a few at a time.
    pub(super) explaining: Arc<Semaphore>,
}

impl Controller {
    /// Nothing is decided or sent any more; what was known can still be read, and streams go on.
    pub fn retire(&self) {
        self.core.cancel();
    }

    /// Whether both are handles to one controller.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.messages.same_channel(&other.messages)
    }
}

/// The controller's own task.
#[derive(Debug)]
pub struct ControllerRunning {
    tracker: TaskTracker,
    core: tokio::task::JoinHandle<Result<(), Error>>,
}

impl ControllerRunning {
    /// Waits for the end of the core alone.
    pub async fn retired(&mut self) -> Result<(), Error> {
        (&mut self.core).await.unwrap_or_else(|error| Err(Error::internal(format!("controller: {error}"))))
    }

    /// Waits for the end: after the cancellation, or with an error when another controller has taken over.
    pub async fn join(self) -> Result<(), Error> {
        let result = self.core.await.unwrap_or_else(|error| Err(Error::internal(format!("controller: {error}"))));
        self.tracker.close();
        // What is left are streams, which end with the cancellation.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.tracker.wait()).await;
        result
    }
}

/// State for readers; the core alone writes. Never locked across an await.
pub(super) type Shared = Arc<RwLock<State>>;

/// What the core can be told.
#[derive(Debug)]
pub(super) enum Message {
    Submit {
        who: Principal,
        submit: Submit,
        reply: Reply<Submitted>,
    },
    StopJob {
        who: Principal,
        job: JobId,
        grace_ms: u64,
        reply: Reply<()>,
    },
    Register {
        from: NodeName,
        registration: Registration,
        reply: Reply<Registered>,
    },
    Heartbeat {
        /// The node that the caller speaks for.
        from: NodeName,
        heartbeat: Heartbeat,
        reply: Reply<HeartbeatReply>,
    },
    Report {
        from: NodeName,
        node_uid: NodeUid,
        statuses: Vec<SequencedStatus>,
        reply: Reply<u64>,
    },
    /// An operator's word on a node.
    ChangeNode {
        who: Principal,
        node: NodeName,
        change: NodeChange,
        reply: Reply<NodeView>,
    },
    CreateToken {
        who: Principal,
        asked: NewToken,
        chance: ([u8; 8], [u8; 32]),
        reply: Reply<(TokenView, Token)>,
    },
    RevokeToken {
        id: TokenId,
        reply: Reply<TokenView>,
    },
    /// A machine with a token wants to be a node.
    Join {
        token: Token,
        request: CertificateRequest,
        reply: Reply<IssuedCertificate>,
    },
    /// A node wants a new certificate.
    Renew {
        node: NodeName,
        csr_pem: String,
        reply: Reply<IssuedCertificate>,
    },
    /// For a sign of life; changes nothing.
    Ping {
        reply: Reply<()>,
    },
    /// An agent's answer to a command, or why there is none.
    Answered {
        action: Action,
        result: Result<TaskStatus, Error>,
    },
    /// Everything that the agent of a node knows.
    Listed {
        node: NodeName,
        node_uid: NodeUid,
        /// What the agent had to know when it was asked.
        asked: BTreeSet<(TaskId, Generation)>,
        result: Result<Vec<TaskStatus>, Error>,
    },
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What to do once a batch is durable.
#[derive(Default)]
pub(super) struct Outbox {
    answers: Vec<Box<dyn FnOnce(Option<Error>) + Send>>,
    /// Runs to look at for commands.
    pub(super) touched: BTreeSet<RunId>,
    /// Agents to ask for all of their tasks.
    pub(super) list: Vec<NodeName>,
    /// Commands about tasks that no run looks after.
    pub(super) orphans: Vec<Action>,
}

impl Outbox {
    /// Answers with `result` once the batch is durable, or with the reason why it is not.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, result: Result<T, Error>) {
        self.answers.push(Box::new(move |failed| {
            // The caller may have gone; then nobody wants the answer.
            let _ = reply.send(match failed {
                None => result,
                Some(error) => Err(error),
            });
        }));
    }
}

/// Takes the lead on a store and starts to work. Returns once the state is loaded.
pub async fn start(
    parts: ControllerParts,
    cancel: CancellationToken,
) -> Result<(Controller, ControllerRunning), Error> {
    let fresh = uuid::Uuid::new_v4().to_string();
    let taking = |error| Error::unavailable(format!("taking the lead on the store: {error}"));
    let (cluster_id, term) = persist::take_term(&*parts.store, &fresh).await.map_err(taking)?;
    // Whoever led before may have granted leases until now.
    let began = parts.clock.boottime();
    let mut state = persist::load(&*parts.store, cluster_id, term).await?;
    take_revoked(&parts, &mut state.access).await?;
    state.hardware_restarts = parts.hardware_restarts;
    state.max_nodes_out_percent = parts.max_nodes_out_percent;
    faults::judge_withdrawn(&mut state);
    let mut telling = Telling::new(parts.history.clone());
    telling.resume(&*parts.store).await.map_err(taking)?;
    tracing::info!(%term, jobs = state.jobs.len(), nodes = state.nodes.len(), "controller has the lead");
    let parts = Arc::new(parts);
    let (messages, inbox) = mpsc::channel(QUEUE);
    let (change, changed) = watch::channel(0);
    let shared: Shared = Arc::new(RwLock::new(state));
    let tracker = TaskTracker::new();
    let retired = cancel.child_token();
    let core = Core {
        shared: shared.clone(),
        dispatcher: Dispatcher::new(parts.clone(), messages.clone(), tracker.clone(), retired.clone()),
        parts: parts.clone(),
        inbox,
        change,
        cancel: retired.clone(),
        term,
        started: tokio::time::Instant::now(),
        began,
        swept: tokio::time::Instant::now(),
        turned: tokio::time::Instant::now(),
        clock_steps: ClockSteps::default(),
        telling,
        moved: Moved::default(),
    };
    let explaining = Arc::new(Semaphore::new(EXPLAINING));
    let tracked = tracker.clone();
    let controller =
        Controller { messages, shared, parts, changed, cancel, core: retired, tracker: tracked, explaining };
    Ok((controller, ControllerRunning { tracker, core: tokio::spawn(core.run()) }))
}

/// What the file of revocations says counts, whatever the store says; and the file of each controller that ever led says
/// what the store says.
async fn take_revoked(parts: &ControllerParts, access: &mut Access) -> Result<(), Error> {
    let Some(certification) = &parts.certification else { return Ok(()) };
    let (file, of_store) = (certification.revocations.clone(), access.revoked_by_now());
    let read = tokio::task::spawn_blocking(move || {
        let words = file.read()?;
        let known: HashSet<&Revoked> = words.iter().collect();
        let missing: Vec<Revoked> = of_store.into_iter().filter(|word| !known.contains(word)).collect();
        if !missing.is_empty() {
            file.append(&missing)?;
        }
        Ok(words)
    });
    let read = read.await.unwrap_or_else(|error| Err(Error::internal(format!("reading what was revoked: {error}"))));
    access.take(read?);
    Ok(())
}

struct Core {
    shared: Shared,
    dispatcher: Dispatcher,
    parts: Arc<ControllerParts>,
    inbox: mpsc::Receiver<Message>,
    change: watch::Sender<u64>,
    cancel: CancellationToken,
    term: Term,
    started: tokio::time::Instant,
    /// When it had the lead, on the clock of leases.
    began: Duration,
    swept: tokio::time::Instant,
    /// The beginning of the last turn.
    turned: tokio::time::Instant,
    clock_steps: ClockSteps,
    telling: Telling,
    /// What follows from steps of the clock and is not durable.
    moved: Moved,
}

impl Core {
    async fn run(mut self) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.resume().await?;
        loop {
            let mut batch = Vec::new();
            let ticked = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ok(()),
                // Before the messages: deadlines and silence are noticed however busy it is.
                _ = ticks.tick() => true,
                received = self.inbox.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return Ok(());
                    }
                    false
                }
            };
            self.turn(batch, ticked).await?;
        }
    }

    /// After a start: what the store says may be older than what tasks were last seen to do.
    async fn resume(&mut self) -> Result<(), Error> {
        let now = self.parts.clock.now();
        let outbox = {
            let mut state = write(&self.shared);
            let mut outbox = Outbox::default();
            apply::reconsider_all(&mut state, now, &mut outbox);
            outbox
        };
        self.commit(outbox).await
    }

    /// One batch from messages to effects.
    async fn turn(&mut self, batch: Vec<Message>, ticked: bool) -> Result<(), Error> {
        let (now, clock_step) = self.clock_steps.look(&*self.parts.clock);
        let instant = tokio::time::Instant::now();
        let mut outbox = Outbox::default();
        let batch: Vec<Message> = batch.into_iter().map(|message| self.note(message, instant)).collect();
        let passed = instant.saturating_duration_since(std::mem::replace(&mut self.turned, instant));
        {
            let mut state = write(&self.shared);
            if passed > STALL {
                nodes::forgive_silence(&mut state, passed, instant);
            }
            let started = self.started;
            let running_for = self.parts.clock.boottime().saturating_sub(self.began);
            let (parts, outbox) = (&*self.parts, &mut outbox);
            let mut context = apply::Context { now, instant, started, running_for, parts, outbox };
            if let Some(nanos) = clock_step {
                clock_step::take(&mut state, nanos, now, &mut self.moved);
            }
            for message in batch {
                apply::message(&mut state, message, &mut context);
            }
            if ticked {
                apply::tick(&mut state, &mut context);
            }
            schedule::place_waiting(&mut state, &self.parts.policy, now, &mut context.outbox.touched);
        }
        if ticked {
            outbox.touched.extend(self.dispatcher.due(instant));
            outbox.list.extend(self.dispatcher.due_lists(instant));
            if instant.duration_since(self.swept) > SWEEP {
                // Nothing may hang for ever on one thing that was overlooked.
                self.swept = instant;
                outbox.touched.extend(read(&self.shared).unsettled.iter());
            }
        }
        self.commit(outbox).await?;
        if ticked {
            self.delete_garbage().await;
        }
        Ok(())
    }

    /// Tells the dispatcher what has been answered, before the state sees it.
    fn note(&mut self, message: Message, now: tokio::time::Instant) -> Message {
        match message {
            Message::Answered { action, result } => {
                self.dispatcher.answered(&action, &result, now);
                let result = result.map_err(|error| match error.kind {
                    // An agent that fails at the same thing again and again will not do it.
                    ErrorKind::Internal | ErrorKind::NotAllowed if self.dispatcher.failures(&action) >= ENOUGH => {
                        Error { kind: ErrorKind::Refused, ..error }
                    }
                    _ => error,
                });
                Message::Answered { action, result }
            }
            Message::Listed { node, node_uid, asked, result } => {
                self.dispatcher.listed(&node);
                Message::Listed { node, node_uid, asked, result }
            }
            other => other,
        }
    }

    async fn commit(&mut self, outbox: Outbox) -> Result<(), Error> {
        let (dirty, writes, revoked) = {
            let mut state = write(&self.shared);
            let dirty = std::mem::take(&mut state.dirty);
            let mut writes = Writes::of(&state, &dirty);
            writes.access(&mut state.access);
            (dirty, writes, std::mem::take(&mut state.access.revoked))
        };
        if let Err(error) = self.remember_revoked(revoked).await {
            // Nothing of it is durable yet: as if the store had failed.
            self.telling.hold(&dirty.events);
            return self.recover(outbox, &error.message).await;
        }
        #[cfg(debug_assertions)]
        if !writes.is_empty() && acts_too_early() {
            self.publish(dirty, outbox).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let written = writes.commit(&*self.parts.store, self.term, &[], |_| None).await;
            return written.map_err(|error| Error::unavailable(format!("the controller's store: {error}")));
        }
        if !writes.is_empty() {
            let keep = |events: &[_]| self.telling.to_keep(events);
            match writes.commit(&*self.parts.store, self.term, &dirty.events, keep).await {
                Ok(()) => {}
                Err(WriteError::Deposed(term)) => {
                    let error =
                        Error::new(ErrorKind::Stale, format!("another controller has taken over from term {term}"));
                    outbox.answers.into_iter().for_each(|answer| answer(Some(error.clone())));
                    return Err(error);
                }
                Err(WriteError::Store(error)) => {
                    self.telling.hold(&dirty.events);
                    return self.recover(outbox, &error.to_string()).await;
                }
            }
        }
        self.moved = Moved::default();
        self.publish(dirty, outbox).await;
        Ok(())
    }

    /// Before the store has it: whatever comes between, it is revoked.
    async fn remember_revoked(&self, revoked: Vec<Revoked>) -> Result<(), Error> {
        let Some(certification) = self.parts.certification.as_ref().filter(|_| !revoked.is_empty()) else {
            return Ok(());
        };
        let file = certification.revocations.clone();
        let written = tokio::task::spawn_blocking(move || file.append(&revoked)).await;
        written.unwrap_or_else(|error| Err(Error::internal(format!("writing what was revoked: {error}"))))
    }

    /// Deletes a little of what nothing refers to. What is left over by a failure is found at the next start.
    async fn delete_garbage(&mut self) {
        let prefixes: Vec<String> = {
            let mut state = write(&self.shared);
            let count = state.garbage.len().min(GARBAGE);
            state.garbage.drain(..count).collect()
        };
        if let Err(error) = persist::delete_all(&*self.parts.store, self.term, &prefixes).await {
            tracing::warn!(%error, "old records were not deleted");
        }
    }

    async fn publish(&mut self, dirty: Dirty, mut outbox: Outbox) {
        self.telling.tell(&dirty.events).await;
        outbox.answers.into_iter().for_each(|answer| answer(None));
        self.change.send_modify(|version| *version += 1);
        outbox.touched.extend(dirty.whole);
        let state = read(&self.shared);
        for node in &outbox.list {
            self.dispatcher.list(&state, node);
        }
        // A gang of thousands reports task by task: each report asks for a look at one task, not at all of them.
        for task in dirty.tasks.iter().filter(|task| !outbox.touched.contains(&task.run)) {
            self.dispatcher.dispatch_task(&state, *task);
        }
        for run in &outbox.touched {
            self.dispatcher.dispatch(&state, *run);
        }
        let instant = tokio::time::Instant::now();
        for action in outbox.orphans {
            self.dispatcher.dispatch_orphan(&state, action, instant);
        }
    }

    /// A commit failed and may or may not have happened: the store's word is taken, as after a restart.
    async fn recover(&mut self, outbox: Outbox, why: &str) -> Result<(), Error> {
        tracing::error!(why, "the store did not take a batch; reading everything anew");
        let error =
            Error { retry_after_ms: Some(1000), ..Error::unavailable(format!("the controller's store: {why}")) };
        outbox.answers.into_iter().for_each(|answer| answer(Some(error.clone())));
        let mut delay = Duration::from_millis(100);
        loop {
            match self.reload().await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind == ErrorKind::Stale => return Err(error),
                Err(error) => tracing::error!(%error, "the store cannot be used; trying again"),
            }
            self.refuse_waiting(&error);
            tokio::select! {
                () = self.cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(Duration::from_secs(5));
        }
    }

    async fn reload(&mut self) -> Result<(), Error> {
        persist::barrier(&*self.parts.store, self.term).await.map_err(|error| match error {
            WriteError::Deposed(_) => Error::new(ErrorKind::Stale, error.to_string()),
            WriteError::Store(error) => Error::unavailable(error.to_string()),
        })?;
        let cluster_id = read(&self.shared).cluster_id.clone();
        let mut loaded = persist::load(&*self.parts.store, cluster_id, self.term).await?;
        take_revoked(&self.parts, &mut loaded.access).await?;
        let reading = |error| Error::unavailable(format!("reading the store: {error}"));
        self.telling.resume(&*self.parts.store).await.map_err(reading)?;
        let now = self.parts.clock.now();
        let mut outbox = Outbox::default();
        let mut state = write(&self.shared);
        let heard = std::mem::take(&mut state.nodes);
        *state = loaded;
        state.hardware_restarts = self.parts.hardware_restarts;
        state.max_nodes_out_percent = self.parts.max_nodes_out_percent;
        let running_for = self.parts.clock.boottime().saturating_sub(self.began);
        apply::keep_heard(&mut state, heard, tokio::time::Instant::now(), running_for);
        faults::judge_withdrawn(&mut state);
        // Before any of it is taken for over.
        clock_step::take_again(&mut state, now, &self.moved);
        apply::reconsider_all(&mut state, now, &mut outbox);
        // What that changed is written with the next batch; commands follow then. Lists that came in between are lost.
        let instant = tokio::time::Instant::now();
        outbox.touched.iter().for_each(|run| self.dispatcher.look_again(*run, instant));
        let nodes: Vec<NodeName> = state.nodes.keys().cloned().collect();
        nodes.iter().for_each(|node| self.dispatcher.list(&state, node));
        Ok(())
    }

    /// Answers what has piled up while the store is away, so that nobody waits for it.
    fn refuse_waiting(&mut self, error: &Error) {
        while let Ok(message) = self.inbox.try_recv() {
            let message = self.note(message, tokio::time::Instant::now());
            apply::refuse(message, error);
        }
    }
}

pub(super) fn read(shared: &Shared) -> std::sync::RwLockReadGuard<'_, State> {
    // A panic while the state was locked leaves it half-changed; the process is better off dead.
    shared.read().expect("no panic happened while the state was being changed")
}

/// A defect for tests that have to notice it: nobody waits for the store to acknowledge what was decided. Release
/// builds cannot have it.
#[cfg(debug_assertions)]
fn acts_too_early() -> bool {
    std::env::var_os("WHARF_SEEDED_BUG").is_some_and(|bug| bug == "unacknowledged-commit")
}

fn write(shared: &Shared) -> std::sync::RwLockWriteGuard<'_, State> {
    shared.write().expect("no panic happened while the state was being changed")
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("term", &self.term).finish_non_exhaustive()
    }
}
