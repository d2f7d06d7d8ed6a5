//! Carries out what was decided: one call to the runtime at a time for each task, every one with a deadline.
//!
//! It decides nothing: what came of a call goes back to the actor as an [`Outcome`]. A call that hangs holds up
//! its own task and nothing else.

use super::backoff::Backoff;
use super::gpus::{Gate, Promised};
use super::message::Inside;
use super::pressure::DiskMark;
use crate::domain::ids::{Generation, TaskId};
use crate::domain::task::TaskSpec;
use crate::runtime::{Adopted, Decision, Launch, Notices, Runtime, RuntimeError};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// How long the runtime may take for each thing, and how soon what must succeed is tried again.
#[derive(Debug, Clone)]
pub struct Deadlines {
    /// Images can be large and registries slow.
    pub stage: Duration,
    pub prepare: Duration,
    pub launch: Duration,
    pub stop: Duration,
    pub remove: Duration,
    pub adopt: Duration,
    pub purge: Duration,
    pub renew: Duration,
    /// First and longest wait between tries of stop, remove and adopt.
    pub retry: (Duration, Duration),
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            stage: Duration::from_secs(30 * 60),
            prepare: Duration::from_secs(60),
            launch: Duration::from_secs(10),
            stop: Duration::from_secs(10),
            remove: Duration::from_secs(60),
            adopt: Duration::from_secs(10),
            purge: Duration::from_secs(60),
            renew: Duration::from_secs(10),
            retry: (Duration::from_millis(500), Duration::from_secs(30)),
        }
    }
}

/// One thing to do for a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    Stage,
    Prepare,
    /// The ports must be free by now.
    Launch(Launch),
    /// Tried until the runtime has taken it, or something else is to be done.
    Stop {
        grace: Duration,
    },
    /// Tried until nothing is left.
    Remove,
    /// Tried until the runtime can say what there is.
    Adopt,
    /// Once: what a removed task leaves beside its log. What stays goes with the log.
    Clear,
    Purge,
}

impl Work {
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Prepare => "prepare",
            Self::Launch(_) => "launch",
            Self::Stop { .. } => "stop",
            Self::Remove => "remove",
            Self::Adopt => "adopt",
            Self::Clear => "clear_work",
            Self::Purge => "purge",
        }
    }

    /// Still only on the way to the user's command: of no use once the task has ended.
    pub const fn leads_to_launch(&self) -> bool {
        matches!(self, Self::Stage | Self::Prepare | Self::Launch(_))
    }

    /// What `Effect::Cancel` abandons.
    pub const fn is_abandonable(&self) -> bool {
        matches!(self, Self::Stage | Self::Prepare)
    }
}

/// The task that something is done for.
#[derive(Debug, Clone)]
pub struct Target {
    pub spec: TaskSpec,
    /// The devices of `spec.gpus`, as the node knows them now.
    pub promised: Promised,
    pub decision: Decision,
}

/// What came of a [`Work`], for the generation it was done for.
#[derive(Debug)]
pub struct Outcome {
    pub generation: Generation,
    pub result: WorkResult,
}

#[derive(Debug)]
pub enum WorkResult {
    Staged(Result<Notices, RuntimeError>),
    Prepared(Result<Notices, RuntimeError>),
    Launched(Result<(), RuntimeError>),
    StopTold,
    Removed,
    Adopted(Adopted),
    /// How much disk the log takes that is left.
    Cleared {
        log_bytes: u64,
    },
    Purged(Result<(), RuntimeError>),
    /// Abandoned, or no longer of use.
    Cancelled,
}

/// Starts work and sends what came of it to the actor.
#[derive(Debug, Clone)]
pub struct Executor {
    pub runtime: Arc<dyn Runtime>,
    pub gate: Gate,
    pub deadlines: Deadlines,
    pub inside: mpsc::Sender<Inside>,
    pub tracker: TaskTracker,
    /// The end of the agent: abandons everything, stops no task.
    pub cancel: CancellationToken,
}

impl Executor {
    /// Begins `work`; cancel the answer's token to abandon it. Exactly one [`Inside::Done`] follows.
    pub fn begin(&self, id: TaskId, generation: Generation, target: Option<Target>, work: Work) -> CancellationToken {
        let abandon = self.cancel.child_token();
        let token = abandon.clone();
        let this = self.clone();
        self.tracker.spawn(async move {
            let (first, most) = this.deadlines.retry;
            let mut backoff = Backoff::new(first, most);
            let result = loop {
                let (runner, target, again) = (this.clone(), target.clone(), work.clone());
                let mut call = this.tracker.spawn(async move { runner.run(id, target, again).await });
                let error = tokio::select! {
                    done = &mut call => match done {
                        Ok(result) => break result,
                        Err(error) => error.to_string(),
                    },
                    () = abandon.cancelled() => {
                        call.abort();
                        // Until it has really stopped, nothing else may begin for this task.
                        let _ = call.await;
                        break WorkResult::Cancelled;
                    }
                };
                if let Some(result) = broken(id, work.verb(), &error) {
                    break result;
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_wait()) => {}
                    () = abandon.cancelled() => break WorkResult::Cancelled,
                }
            };
            // The actor is gone only when the agent ends.
            let _ = this.inside.send(Inside::Done(id, Outcome { generation, result })).await;
        });
        token
    }

    /// Renews a lease beside whatever else is done for the task.
    pub fn renew_lease(&self, id: TaskId, sent_boottime: Duration) {
        let this = self.clone();
        self.tracker.spawn(async move {
            let call =
                this.bounded("renew_lease", id, this.deadlines.renew, this.runtime.renew_lease(id, sent_boottime));
            tokio::select! {
                () = this.cancel.cancelled() => return,
                renewed = call => {
                    if let Err(error) = renewed {
                        warn!(task = %id, reason = error.message, "the lease was not renewed");
                    }
                }
            }
            let _ = this.inside.send(Inside::LeaseRenewed(id)).await;
        });
    }

    /// Looks how full the disk is; [`Inside::DiskLooked`] follows. A disk that hangs is looked at again when it answers.
    pub fn look_at_disk(&self, mark: DiskMark) {
        let this = self.clone();
        self.tracker.spawn(async move {
            let look =
                tokio::task::spawn_blocking(move || (mark.measure)(&mark.folder).map(|used| mark.excess(used)));
            let excess_bytes = match this.cancel.run_until_cancelled(look).await {
                None => return,
                Some(Ok(Ok(excess_bytes))) => excess_bytes,
                Some(Ok(Err(error))) => {
                    warn!(%error, "how full the disk is cannot be told");
                    0
                }
                Some(Err(_)) => 0,
            };
            let _ = this.inside.send(Inside::DiskLooked { excess_bytes }).await;
        });
    }

    /// Says something to the actor in a while.
    pub fn later(&self, wait: Duration, word: Inside) {
        let this = self.clone();
        self.tracker.spawn(async move {
            if this.cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
                // The actor is gone only when the agent ends; what is said here is found again after a restart.
                let _ = this.inside.send(word).await;
            }
        });
    }

    async fn run(&self, id: TaskId, target: Option<Target>, work: Work) -> WorkResult {
        let limits = &self.deadlines;
        match (work, target) {
            (Work::Stage, Some(Target { spec, .. })) => {
                WorkResult::Staged(self.bounded("stage", id, limits.stage, self.runtime.stage(&spec)).await)
            }
            (Work::Prepare, Some(target)) => WorkResult::Prepared(self.prepare(&target).await),
            (Work::Launch(launch), _) => WorkResult::Launched(
                self.bounded("launch", id, limits.launch, self.runtime.launch(id, &launch)).await,
            ),
            (Work::Stop { grace }, _) => {
                self.until_done("stop", id, limits.stop, || self.runtime.stop(id, grace)).await;
                WorkResult::StopTold
            }
            (Work::Remove, _) => {
                self.until_done("remove", id, limits.remove, || self.runtime.remove(id)).await;
                WorkResult::Removed
            }
            (Work::Adopt, Some(Target { spec, decision, .. })) => {
                let adopt = || self.runtime.adopt_decided(&spec, decision.generation);
                WorkResult::Adopted(self.until_done("adopt", id, limits.adopt, adopt).await)
            }
            (Work::Clear, _) => WorkResult::Cleared { log_bytes: self.clear_work(id).await },
            (Work::Purge, _) => {
                WorkResult::Purged(self.bounded("purge", id, limits.purge, self.runtime.purge(id)).await)
            }
            // Records that need these have a specification; without one there is nothing to do.
            (Work::Stage | Work::Prepare | Work::Adopt, None) => WorkResult::Cancelled,
        }
    }

    /// A runtime cleans up behind its own errors, but not behind a deadline of ours: what is promised to the task
    /// is free for others only once nothing is left of it.
    async fn prepare(&self, target: &Target) -> Result<Notices, RuntimeError> {
        let task = target.spec.id;
        let failed = |message| RuntimeError { operation: "prepare", task, message, user_error: false };
        if let Some(gone) =
            target.spec.gpus.iter().find(|gpu| target.promised.gpus.iter().all(|known| known.uuid != **gpu))
        {
            return Err(failed(format!("GPU {gone} is not known on this node any more")));
        }
        let mut blind = self.gate.pass(&target.promised).await.map_err(failed)?;
        let Notices(notices) = self.prepare_runtime(target).await?;
        blind.extend(notices);
        Ok(Notices(blind))
    }

    async fn prepare_runtime(&self, Target { spec, promised, decision }: &Target) -> Result<Notices, RuntimeError> {
        let prepare = self.runtime.prepare_decided(spec, &promised.gpus, decision);
        match tokio::time::timeout(self.deadlines.prepare, prepare).await {
            Ok(answer) => answer,
            Err(_) => {
                self.until_done("remove", spec.id, self.deadlines.remove, || self.runtime.remove(spec.id)).await;
                Err(self.late("prepare", spec.id, self.deadlines.prepare))
            }
        }
    }

    async fn clear_work(&self, id: TaskId) -> u64 {
        let limit = self.deadlines.purge;
        if let Err(error) = self.bounded("clear_work", id, limit, self.runtime.clear_work(id)).await {
            warn!(task = %id, reason = error.message, "what a task left beside its log is not deleted yet");
        }
        let dir = self.runtime.log_dir(id);
        match tokio::time::timeout(limit, tokio::task::spawn_blocking(move || log_bytes(&dir))).await {
            Ok(Ok(bytes)) => bytes,
            // A disk that hangs: counted as nothing until the next start looks again.
            _ => 0,
        }
    }

    /// Tries again and again; says so once per reason.
    async fn until_done<T, C>(
        &self,
        operation: &'static str,
        id: TaskId,
        limit: Duration,
        call: impl Fn() -> C + Send + Sync,
    ) -> T
    where
        C: Future<Output = Result<T, RuntimeError>> + Send,
    {
        let (first, most) = self.deadlines.retry;
        let mut backoff = Backoff::new(first, most);
        let mut said = String::new();
        loop {
            match self.bounded(operation, id, limit, call()).await {
                Ok(done) => return done,
                Err(error) => {
                    if said != error.message {
                        warn!(task = %id, operation, reason = error.message, "trying until it succeeds");
                        said = error.message;
                    }
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    async fn bounded<T>(
        &self,
        operation: &'static str,
        task: TaskId,
        limit: Duration,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(self.late(operation, task, limit)))
    }

    fn late(&self, operation: &'static str, task: TaskId, limit: Duration) -> RuntimeError {
        let message = format!("the {} runtime did not answer within {} ms", self.runtime.name(), limit.as_millis());
        RuntimeError { operation, task, message, user_error: false }
    }
}

/// Disk that the files in the folder take.
fn log_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = files.filter_map(|file| file.metadata().ok().filter(Metadata::is_file));
    // The kernel counts blocks of 512 bytes, whatever the disk's are.
    sizes.map(|file| file.blocks().saturating_mul(512)).fold(0, u64::saturating_add)
}

/// The call panicked: a fault of ours, told as the platform's. `None`: it must succeed, so it is done again, or what
/// the task holds would be held for ever.
fn broken(task: TaskId, verb: &'static str, error: &str) -> Option<WorkResult> {
    let failed = |operation| RuntimeError { operation, task, message: error.to_owned(), user_error: false };
    tracing::error!(%task, operation = verb, error, "a call to the runtime broke");
    match verb {
        "stage" => Some(WorkResult::Staged(Err(failed("stage")))),
        "prepare" => Some(WorkResult::Prepared(Err(failed("prepare")))),
        "launch" => Some(WorkResult::Launched(Err(failed("launch")))),
        "clear_work" => Some(WorkResult::Cleared { log_bytes: 0 }),
        "purge" => Some(WorkResult::Purged(Err(failed("purge")))),
        _ => None,
    }
}
