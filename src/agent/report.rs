//! Tells the controller about this node: registers, sends heartbeats, hands over statuses.
//!
//! A controller that is away or hangs delays nothing but this task. Statuses leave only once they are durable,
//! in the order of their sequence, and are sent again until they are acknowledged.

use super::backoff::Backoff;
use super::message::{Inside, Reply, ReportHint};
use crate::api::controller::ControllerApi;
use crate::domain::command::{Error, ErrorKind, HeartbeatReply, Registered};
use crate::domain::principal::{Principal, Role};
use crate::telemetry::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

/// Statuses in one report: below the 4 MiB of a message even with long reasons.
pub const REPORT_BATCH: usize = 500;
/// For one call to the controller.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// After a refusal: asking again soon will not help.
const REFUSED_WAIT: Duration = Duration::from_secs(15);

/// Between two heartbeats that faults have called for.
const FAULTS_WAIT: Duration = Duration::from_millis(50);

/// Before registering anew.
const AGAIN_WAIT: Duration = Duration::from_millis(200);

/// The reporter's side of the agent.
#[derive(Debug)]
pub struct Reporter {
    pub controller: Arc<dyn ControllerApi>,
    pub inside: mpsc::Sender<Inside>,
    pub hint: watch::Receiver<ReportHint>,
    pub clock: Arc<dyn Clock>,
    pub node: String,
}

/// The actor is gone: the agent ends.
#[derive(Debug)]
struct Ended;

impl Reporter {
    /// Runs until the agent ends; dropped to cancel.
    pub async fn run(self) {
        // The only way out is the end of the actor, which needs no word.
        let Err(Ended) = self.report_for_ever().await;
    }

    async fn report_for_ever(&self) -> Result<std::convert::Infallible, Ended> {
        loop {
            let (registered, told) = self.register().await?;
            // Both at once, so that a slow report never holds up a heartbeat.
            tokio::select! {
                again = self.heartbeats(&registered) => again?,
                ended = self.statuses() => ended.map(|never| match never {})?,
                again = self.asked_to_register(told) => again?,
            }
            // A controller that keeps forgetting this node, or a whole fleet that comes back at once.
            tokio::time::sleep(Backoff::new(AGAIN_WAIT, AGAIN_WAIT).next_wait()).await;
        }
    }

    /// Asks until the controller says yes. With the answer: which reasons to register were told by it.
    async fn register(&self) -> Result<(Registered, u64), Ended> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut said = String::new();
        loop {
            // Before the registration is made up: what changes while it is on its way is a reason for another.
            let told = self.hint.borrow().register;
            let error = match self.try_register().await? {
                Ok(registered) => {
                    info!(node = self.node, cluster = registered.cluster_id, term = registered.term.0, "registered");
                    return Ok((registered, told));
                }
                Err(error) => error,
            };
            // Once per reason: a controller may be away for a weekend.
            if said != error.message {
                warn!(node = self.node, reason = error.message, "waiting for the controller to accept this node");
                said.clone_from(&error.message);
            }
            self.tell(Inside::Unheard { why: error.message.clone() }).await?;
            let wait = if is_refusal(error.kind) { REFUSED_WAIT } else { backoff.next_wait() };
            let asked = error.retry_after_ms.map_or(Duration::ZERO, Duration::from_millis);
            tokio::time::sleep(wait.max(asked.min(REFUSED_WAIT))).await;
        }
    }

    async fn try_register(&self) -> Result<Result<Registered, Error>, Ended> {
        let registration = self.ask(|reply| Inside::Registration { reply }).await?;
        let registered = match deadline("register", self.controller.register(&self.me(), registration)).await {
            Ok(registered) => registered,
            Err(error) => return Ok(Err(error)),
        };
        let kept = registered.clone();
        Ok(self.ask(|reply| Inside::Registered { registered: kept, reply }).await?.map(|()| registered))
    }

    /// Returns when the agent has to register anew.
    async fn heartbeats(&self, registered: &Registered) -> Result<(), Ended> {
        let mut beat = tokio::time::interval(Duration::from_millis(u64::from(registered.heartbeat_ms.max(10))));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut silent = false;
        let mut hint = self.hint.clone();
        let mut told = hint.borrow().faults;
        let mut early = Instant::now();
        loop {
            // Faults go with heartbeats, and whom they hit is to hear of them at once; storms make no more of it.
            tokio::select! {
                _ = beat.tick() => {}
                changed = async { hint.wait_for(|hint| hint.faults != told).await.map(|_| ()) } => {
                    changed.map_err(|_| Ended)?;
                    tokio::time::sleep_until(early + FAULTS_WAIT).await;
                    early = Instant::now();
                }
            }
            // Before the heartbeat is made up: what changes while it is on its way calls for another.
            told = self.hint.borrow().faults;
            let heartbeat = self.ask(|reply| Inside::Heartbeat { reply }).await?;
            // Before the call: the lease must not outlive what the controller counts from its own clock.
            let (sent_boottime, asked) = (self.clock.boottime(), heartbeat.going_out);
            match deadline("heartbeat", self.controller.heartbeat(&self.me(), heartbeat)).await {
                Ok(HeartbeatReply { term, register_again, faults_version, permit }) => {
                    if std::mem::take(&mut silent) {
                        info!(node = self.node, "the controller answers heartbeats again");
                    }
                    if register_again || term != registered.term {
                        info!(node = self.node, term = term.0, register_again, "registering anew");
                        return Ok(());
                    }
                    self.tell(Inside::HeartbeatAnswered { sent_boottime, faults_version, asked, permit }).await?;
                }
                Err(error) if error.kind == ErrorKind::NotFound || error.kind == ErrorKind::Stale => return Ok(()),
                Err(error) => {
                    if !std::mem::replace(&mut silent, true) {
                        warn!(node = self.node, reason = error.message, "heartbeats are not answered");
                    }
                    self.tell(Inside::Unheard { why: error.message }).await?;
                }
            }
        }
    }

    /// Sends what is not acknowledged, as soon as it is there.
    async fn statuses(&self) -> Result<std::convert::Infallible, Ended> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut hint = self.hint.clone();
        loop {
            hint.mark_unchanged();
            let batch = self.ask(|reply| Inside::Unreported { limit: REPORT_BATCH, reply }).await?;
            let Some(last) = batch.last().map(|status| status.sequence) else {
                hint.changed().await.map_err(|_| Ended)?;
                continue;
            };
            let registration = self.ask(|reply| Inside::Registration { reply }).await?;
            let (uid, journal) = (registration.node_uid, registration.journal_id);
            match deadline("report", self.controller.report(&self.me(), uid, journal, batch)).await {
                // More than was sent cannot be acknowledged, whatever the answer says.
                Ok(up_to) if up_to > 0 => {
                    self.tell(Inside::Acknowledged(up_to.min(last))).await?;
                    if up_to >= last {
                        backoff.reset();
                    } else {
                        tokio::time::sleep(backoff.next_wait()).await;
                    }
                }
                Ok(_) => tokio::time::sleep(backoff.next_wait()).await,
                Err(error) => {
                    tracing::debug!(node = self.node, reason = error.message, "statuses will be sent again");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    async fn asked_to_register(&self, told: u64) -> Result<(), Ended> {
        let mut hint = self.hint.clone();
        hint.wait_for(|hint| hint.register != told).await.map(|_| ()).map_err(|_| Ended)
    }

    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Inside) -> Result<T, Ended> {
        let (reply, answer) = oneshot::channel();
        self.tell(question(reply)).await?;
        answer.await.map_err(|_| Ended)
    }

    async fn tell(&self, word: Inside) -> Result<(), Ended> {
        self.inside.send(word).await.map_err(|_| Ended)
    }

    fn me(&self) -> Principal {
        Principal { user: self.node.clone(), uid: None, roles: vec![Role::Agent] }
    }
}

const fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::AlreadyExists | ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::NotAllowed | ErrorKind::Stale
    )
}

async fn deadline<T>(operation: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(CALL_DEADLINE, call).await.unwrap_or_else(|_| {
        let message = format!("{operation}: the controller did not answer within {} s", CALL_DEADLINE.as_secs());
        Err(Error::new(ErrorKind::DeadlineExceeded, message))
    })
}
