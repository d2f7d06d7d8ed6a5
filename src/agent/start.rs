//! Puts an agent together and starts it.

use super::actor::{Actor, Inbox, NodeFacts, Retention};
use super::api::AgentHandle;
use super::commit::Writer;
use super::executor::{Deadlines, Executor};
use super::faults::{FaultBook, Remedies, SelfChecks};
use super::gpus::{Gate, GpuBook, Poller};
use super::health::{GpuEar, KernelEar, Looking, Rounds};
use super::message::ReportHint;
use super::metrics::Tally;
use super::ports::Ports;
use super::pressure::DiskMark;
use super::report::Reporter;
use super::watch::Watchers;
use super::{adopt, gpus, journal, rebuild};
use crate::api::controller::ControllerApi;
use crate::domain::allocation::Ledger;
use crate::domain::command::Error;
use crate::domain::gpu::Topology;
use crate::domain::gpu::occupancy::IgnoredProcesses;
use crate::domain::ids::{JournalId, NodeName};
use crate::domain::policy::{USUAL_FILE, UserLimits};
use crate::domain::remediation::Remediation;
use crate::domain::ssh::SEED_FEATURE;
use crate::domain::task::Inventory;
use crate::gpu::GpuSource;
use crate::gpu::events::GpuEvents;
use crate::health::checks::Modes;
use crate::health::table::Table;
use crate::kernel_log::{KernelLog, KernelLogOptions};
use crate::runtime::{Records, Runtime, RuntimeEvent};
use crate::store::Store;
use crate::telemetry::clock::{Clock, ClockSteps};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

/// Requests that wait for the actor; more are refused.
const REQUESTS: usize = 256;
/// Words of the agent's own tasks that wait for the actor; more wait where they are.
const INSIDE: usize = 1024;
/// How long a start waits for what is left of earlier tasks; slow ones are looked at further meanwhile.
const ADOPTION_WAIT: Duration = Duration::from_secs(10);
/// For the records beside tasks. What is not read by then is read later, and left alone until then.
const RECORDS_DEADLINE: Duration = Duration::from_secs(30);
/// For what is going on when the agent ends.
const END_WAIT: Duration = Duration::from_secs(5);

/// Everything an agent is made of.
#[derive(Debug)]
pub struct AgentParts {
    pub name: NodeName,
    /// Where the agent listens, as told to the controller: `HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// What tasks of other nodes connect to.
    pub task_ip: String,
    pub version: String,
    pub labels: BTreeMap<String, String>,
    pub cpus: u32,
    pub memory_mb: u64,
    /// First and last port for tasks.
    pub ports: (u16, u16),
    pub runtime: Arc<dyn Runtime>,
    pub runtime_events: mpsc::Receiver<RuntimeEvent>,
    pub gpus: Arc<dyn GpuSource>,
    /// What they tell unasked, where they do.
    pub gpu_events: Option<GpuEvents>,
    pub store: Arc<dyn Store>,
    /// `None`: a node on its own.
    pub controller: Option<Arc<dyn ControllerApi>>,
    pub clock: Arc<dyn Clock>,
    pub tuning: Tuning,
}

/// What rarely needs another value.
#[derive(Debug, Clone)]
pub struct Tuning {
    pub deadlines: Deadlines,
    /// Logs of released tasks are kept this long ...
    pub keep_ended: Duration,
    /// ... and of this many tasks at most.
    pub max_ended: usize,
    /// ... and at most this much of the disk, oldest first.
    pub max_log_bytes: u64,
    /// ... and goes, oldest first, while the disk is fuller than this.
    pub disk: Option<DiskMark>,
    pub garbage_period: Duration,
    /// Log streams served at a time; more are refused.
    pub max_log_streams: usize,
    pub sample_period: Duration,
    /// Whose ports tasks are promised.
    pub ports: Ports,
    /// What may be on a GPU beside a task.
    pub ignored_processes: IgnoredProcesses,
    /// The kernel's log, where it is to be heard.
    pub kernel_log: Option<KernelLogOptions>,
    /// What error codes mean.
    pub xid_table: Arc<Table>,
    /// How the hardware is looked at, where it is.
    pub looking: Option<Looking>,
    /// Of this boot, where the kernel's log does not say it; empty: not known.
    pub boot_id: String,
    /// What is done about faults of GPUs that nobody holds.
    pub remediation: Remediation,
    /// What the tasks of one user may hold together, and in which file that is set.
    pub per_user: (UserLimits, String),
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            keep_ended: Duration::from_secs(24 * 60 * 60),
            max_ended: 1000,
            max_log_bytes: 20 * 1024 * 1024 * 1024,
            disk: None,
            garbage_period: Duration::from_secs(30),
            max_log_streams: 1024,
            sample_period: Duration::from_secs(5),
            ports: Ports::default(),
            ignored_processes: IgnoredProcesses::default(),
            kernel_log: None,
            xid_table: Arc::new(Table::builtin().clone()),
            looking: None,
            boot_id: String::new(),
            remediation: Remediation::None,
            per_user: (UserLimits::default(), USUAL_FILE.to_owned()),
        }
    }
}

/// A running agent, to wait for.
#[derive(Debug)]
pub struct AgentRunning {
    tracker: TaskTracker,
    cancel: CancellationToken,
    actor: JoinHandle<()>,
}

impl AgentRunning {
    /// Waits until the agent has ended, which it does when its token is cancelled. Its tasks go on. An actor that
    /// ends by itself is an error: nobody would look after the tasks, so the rest is ended too.
    pub async fn join(mut self) -> Result<(), Error> {
        let result = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Ok(()),
            ended = &mut self.actor => {
                let why = ended.err().map_or_else(|| "it ended by itself".to_owned(), |error| error.to_string());
                Err(Error::internal(format!("running the node: {why}")))
            }
        };
        self.cancel.cancel();
        self.tracker.close();
        if tokio::time::timeout(END_WAIT, self.tracker.wait()).await.is_err() {
            warn!(left = self.tracker.len(), "the agent ends with calls still under way");
        }
        result
    }
}

/// Reads the journal, takes over what is left of earlier tasks, and starts. `cancel` ends the agent, not its tasks.
pub async fn start(mut parts: AgentParts, cancel: CancellationToken) -> Result<(AgentHandle, AgentRunning), Error> {
    let mut journal = journal::load(&parts.store).await?;
    journal::set_aside(&parts.store, &journal.damaged).await;
    // Without them what runs here could be taken for nobody's.
    let records = parts.runtime.recorded(RECORDS_DEADLINE).await;
    let Records { found, mut unread } =
        records.map_err(|error| Error::unavailable(format!("reading the records of tasks: {}", error.message)))?;
    // Of the others the journal tells what there is to know.
    journal.tasks.iter().for_each(|(id, _)| drop(unread.remove(id)));
    for (task, why) in &unread {
        error!(%task, why, "not in the journal, and its records cannot be read: it is left as it is until they can");
    }
    let lost = rebuild::lost(&journal.tasks, found);
    let fresh = JournalId(uuid::Uuid::new_v4().to_string());
    let another_history = !lost.is_empty() || !unread.is_empty();
    let lost = rebuild::mend(&mut journal, lost, !unread.is_empty(), fresh);
    let devices = gpus::devices(&parts.gpus).await;
    let remembered = journal.gpus.of(parts.gpus.setting());
    let known = devices.as_ref().ok().map(|(gpus, _)| gpus.iter().map(|gpu| gpu.uuid.clone()).collect());
    let poll_now = Arc::new(Notify::new());
    let ignored = parts.tuning.ignored_processes.clone();
    let shown = devices.as_ref().map(|(gpus, _)| gpus.as_slice()).map_err(ToString::to_string);
    let answered = shown.is_ok();
    let gpu_book = GpuBook::new(shown, remembered.clone(), ignored.clone(), Arc::clone(&poll_now));
    let (mut devices, topology) = devices.unwrap_or_else(|error| {
        // The node's tasks must be looked after all the same; the poller goes on asking.
        warn!(node = %parts.name, %error, "starting without GPUs");
        (Vec::new(), Topology::default())
    });
    let missing = remembered.missing(&devices);
    devices.extend(missing);
    let inventory = Inventory {
        cpus: parts.cpus,
        memory_mb: parts.memory_mb,
        gpus: devices,
        topology,
        ports: parts.ports,
        labels: parts.labels,
        runtime: parts.runtime.name().to_owned(),
        gpu_driver: parts.gpus.driver(),
        gpu_conditions: Vec::new(),
        features: vec![SEED_FEATURE.to_owned()],
    };
    let facts = NodeFacts {
        name: parts.name.clone(),
        identity: journal.identity.clone(),
        address: parts.address,
        task_ip: parts.task_ip,
        version: parts.version,
    };
    let modes = parts.tuning.looking.as_ref().map_or_else(Modes::default, |looking| looking.modes.clone());
    let tracker = TaskTracker::new();
    let (requests, requests_in) = mpsc::channel(REQUESTS);
    let (inside, inside_in) = mpsc::channel(INSIDE);
    let (hint, hint_in) = watch::channel(ReportHint::default());
    let (adopting, mut adopting_in) = watch::channel(0);
    let executor = Executor {
        runtime: Arc::clone(&parts.runtime),
        gate: Gate { source: Arc::clone(&parts.gpus), ignored },
        deadlines: parts.tuning.deadlines.clone(),
        inside: inside.clone(),
        tracker: tracker.clone(),
        cancel: cancel.clone(),
    };
    let (log, boot_id) = listen(parts.tuning.kernel_log.take());
    let boot_id = if boot_id.is_empty() { parts.tuning.boot_id.clone() } else { boot_id };
    let kept = std::mem::take(&mut journal.faults);
    let listens = log.is_some() || parts.gpu_events.is_some();
    let fault_book = FaultBook::new(kept, boot_id, listens, &facts.identity.node_uid, parts.clock.now());
    let counted = fault_book.done();
    let newest = journal.tasks.iter().map(|(_, task)| task.sequence).max().unwrap_or(0).max(journal.acknowledged);
    let mut ledger = Ledger::of(&inventory);
    let (per_user, file) = parts.tuning.per_user;
    ledger.limit_users(per_user, file);
    let mut actor = Actor {
        watchers: Watchers::new(facts.identity.journal_id.clone(), newest),
        facts,
        ledger,
        inventory,
        entries: BTreeMap::new(),
        cluster_id: journal.cluster_id,
        term: journal.term,
        acknowledged: journal.acknowledged,
        standalone: parts.controller.is_none(),
        registered_before: false,
        register_again_at: None,
        unreported: BTreeMap::new(),
        hint,
        samples: BTreeMap::new(),
        gpu_book,
        fault_book,
        tally: Tally::default(),
        self_checks: SelfChecks::new(modes),
        remedies: Remedies::new(parts.tuning.remediation, journal.remedies),
        writer: Writer::new(Arc::clone(&parts.store), journal.sequence),
        executor,
        clock: Arc::clone(&parts.clock),
        ports: parts.tuning.ports,
        retention: Retention {
            keep_ended: parts.tuning.keep_ended,
            max_ended: parts.tuning.max_ended,
            max_log_bytes: parts.tuning.max_log_bytes,
            period: parts.tuning.garbage_period,
            disk: parts.tuning.disk.clone(),
        },
        released_since: 0,
        looking_at_disk: false,
        clock_steps: ClockSteps::default(),
        ready: BTreeSet::new(),
        adopting,
        unread: unread.clone(),
    };
    // Steps are counted from here on.
    actor.clock_steps.look(&*actor.clock);
    actor.restore(journal.tasks);
    if another_history {
        actor.write_again(&lost);
    }
    if answered {
        actor.remember_gpus();
    }
    actor.take_up_faults();
    actor.take_up_remedies();
    actor.judge_gpus();
    let inbox = Inbox {
        requests: requests_in,
        inside: inside_in,
        runtime_events: parts.runtime_events,
        cancel: cancel.clone(),
    };
    let actor = tracker.spawn(actor.run(inbox));
    let until = |task: &CancellationToken| task.clone().cancelled_owned();
    let period = parts.tuning.sample_period;
    let rounds = parts
        .tuning
        .looking
        .map(|looking| Rounds::new(Arc::clone(&parts.gpus), looking, Arc::clone(&parts.clock), inside.clone()));
    let poller = Poller { source: parts.gpus, period, now: poll_now, inside: inside.clone(), known };
    tracker.spawn(either(until(&cancel), poller.run()));
    if let Some(rounds) = rounds {
        tracker.spawn(either(until(&cancel), rounds.run()));
    }
    tracker.spawn(either(until(&cancel), adopt::list_everything(Arc::clone(&parts.runtime), inside.clone())));
    let read_again = adopt::read_again(Arc::clone(&parts.runtime), inside.clone(), unread.into_keys().collect());
    tracker.spawn(either(until(&cancel), read_again));
    let table = &parts.tuning.xid_table;
    if let Some(log) = log {
        let (clock, inside, cancel) = (Arc::clone(&parts.clock), inside.clone(), cancel.clone());
        tracker.spawn(KernelEar { log, table: Arc::clone(table), clock, inside, done: counted, cancel }.run());
    }
    if let Some(events) = parts.gpu_events {
        let (table, clock) = (Arc::clone(table), Arc::clone(&parts.clock));
        tracker.spawn(either(until(&cancel), GpuEar { events, table, clock, inside: inside.clone() }.run()));
    }
    if let Some(controller) = parts.controller {
        let node = parts.name.to_string();
        let reporter = Reporter { controller, inside, hint: hint_in, clock: parts.clock, node };
        tracker.spawn(either(until(&cancel), reporter.run()));
    }
    // Not an error: tasks that a hung runtime says nothing about refuse their commands meanwhile.
    let _ = tokio::time::timeout(ADOPTION_WAIT, adopting_in.wait_for(|left| *left == 0)).await;
    let handle = AgentHandle {
        node: parts.name.to_string(),
        requests,
        runtime: parts.runtime,
        log_streams: Arc::new(Semaphore::new(parts.tuning.max_log_streams)),
        tracker: tracker.clone(),
        cancel: cancel.clone(),
    };
    Ok((handle, AgentRunning { tracker, cancel, actor }))
}

/// The kernel's log, where it is to be heard and can be, and which boot it is of.
fn listen(options: Option<KernelLogOptions>) -> (Option<KernelLog>, String) {
    let Some(options) = options else { return (None, String::new()) };
    let boot_id = options.boot_id.clone();
    match KernelLog::start(options) {
        Ok(log) => (Some(log), boot_id),
        Err(error) => {
            warn!(%error, "the kernel's log is not heard");
            (None, boot_id)
        }
    }
}

/// Runs `work` until it is done or `end` comes.
async fn either(end: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = end => {}
        () = work => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_actor_that_fails_ends_the_agent_with_an_error() {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let actor = tracker.spawn(async { panic!("as a defect would") });
        let running = AgentRunning { tracker, cancel: cancel.clone(), actor };
        assert!(running.join().await.unwrap_err().to_string().contains("running the node"));
        assert!(cancel.is_cancelled(), "the rest ends with it");
    }
}
