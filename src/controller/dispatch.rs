//! Sends commands to agents: each once at a time, again after a while until it has done its work.

use super::core::{ControllerParts, Message};
use super::nodes::must_know;
use super::state::State;
use crate::api::AgentApi;
use crate::domain::command::{CommandHeader, Error, ErrorKind};
use crate::domain::ids::{JobId, NodeName, RunId, TaskId};
use crate::domain::principal::{Principal, Role};
use crate::domain::run::{Action, Run, RunTask, Verb};
use crate::domain::spec::{JobSpec, OnNodeLost};
use crate::domain::task::{TaskSpec, TaskStatus};
use crate::jobfile::env::{EnvContext, TaskSeat, task_environment};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Commands under way to one agent.
const PER_NODE: usize = 64;
/// Launches under way, of all nodes together: each carries a whole environment. More than one hung agent can take.
const LAUNCHES: usize = 256;
/// An answered command that is still wanted is asked again after this: its effect is usually on the way.
const ASK_AGAIN: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Between two attempts to get the list of all tasks of an agent.
const LIST_PAUSE: Duration = Duration::from_secs(1);
/// Pages of such a list; an agent that has more is out of its mind.
const MAX_PAGES: usize = 1000;

pub(super) struct Dispatcher {
    parts: Arc<ControllerParts>,
    messages: mpsc::Sender<Message>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    in_flight: HashSet<Action>,
    held_off: HashMap<Action, HeldOff>,
    /// Runs to look at again, by time.
    due: BTreeMap<Instant, HashSet<RunId>>,
    slots: HashMap<(NodeName, bool), Arc<Semaphore>>,
    launches: Arc<Semaphore>,
    /// Nodes whose agents are being asked for everything.
    listing: HashSet<NodeName>,
    requests: u64,
}

#[derive(Debug, Clone, Copy)]
struct HeldOff {
    until: Instant,
    failures: u32,
}

impl Dispatcher {
    pub(super) fn new(
        parts: Arc<ControllerParts>,
        messages: mpsc::Sender<Message>,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            parts,
            messages,
            tracker,
            cancel,
            in_flight: HashSet::new(),
            held_off: HashMap::new(),
            due: BTreeMap::new(),
            slots: HashMap::new(),
            launches: Arc::new(Semaphore::new(LAUNCHES)),
            listing: HashSet::new(),
            requests: 0,
        }
    }

    /// Notes an answer, before the state sees it.
    pub(super) fn answered(&mut self, action: &Action, result: &Result<TaskStatus, Error>, now: Instant) {
        self.in_flight.remove(action);
        let failures = match result {
            Ok(_) => 0,
            Err(_) => self.held_off.get(action).map_or(0, |held| held.failures).saturating_add(1),
        };
        let wait = match failures {
            0 => ASK_AGAIN,
            n => FIRST_RETRY.saturating_mul(1 << n.min(8)).min(LAST_RETRY),
        };
        let until = now + wait;
        self.held_off.insert(action.clone(), HeldOff { until, failures });
        self.due.entry(until).or_default().insert(action.task.run);
    }

    /// How often in a row a command has failed.
    pub(super) fn failures(&self, action: &Action) -> u32 {
        self.held_off.get(action).map_or(0, |held| held.failures)
    }

    /// Looks at a run with the next tick.
    pub(super) fn look_again(&mut self, run: RunId, now: Instant) {
        self.due.entry(now).or_default().insert(run);
    }

    /// Runs whose commands may be asked again.
    pub(super) fn due(&mut self, now: Instant) -> HashSet<RunId> {
        let later = self.due.split_off(&now);
        let due = std::mem::replace(&mut self.due, later);
        // What nobody has asked for a long while is forgotten, so that this does not grow with uptime.
        self.held_off.retain(|_, held| held.until + 4 * LAST_RETRY > now);
        due.into_values().flatten().collect()
    }

    /// Sends what agents should have been told about a run by now.
    pub(super) fn dispatch(&mut self, state: &State, id: RunId) {
        if let Some(run) = state.runs.get(&id) {
            self.send_wanted(state, run, run.actions());
        }
    }

    /// The same for one task, where nothing else of its run has changed.
    pub(super) fn dispatch_task(&mut self, state: &State, id: TaskId) {
        if let Some(run) = state.runs.get(&id.run)
            && let Some(at) = run.find(id.role, id.index)
        {
            self.send_wanted(state, run, run.action_of(at));
        }
    }

    fn send_wanted(&mut self, state: &State, run: &Run, wanted: impl IntoIterator<Item = Action>) {
        let Some(spec) = state.specs.get(&run.job) else { return };
        let now = Instant::now();
        let mut gang: Option<Arc<Gang>> = None;
        for action in wanted {
            if self.in_flight.contains(&action) || self.held_off.get(&action).is_some_and(|held| held.until > now) {
                continue;
            }
            let Some(node) = state.nodes.get(&action.node).filter(|node| node.reachable) else { continue };
            let command = match action.verb {
                Verb::Stage => Command::Stage(task_spec(state, run, spec, &action)),
                Verb::Prepare => Command::Prepare(task_spec(state, run, spec, &action)),
                Verb::Launch => {
                    let gang = gang.get_or_insert_with(|| Arc::new(Gang::of(state, run, spec, &self.parts)));
                    Command::Launch(gang.clone(), self.launches.clone())
                }
                Verb::Stop => Command::Stop,
                Verb::Release => Command::Release,
            };
            let address = node.registration.address.clone();
            self.send(state, action, command, &address);
        }
    }

    /// Ends what no run looks after. If it does not work, the next comparison with the agent asks again.
    pub(super) fn dispatch_orphan(&mut self, state: &State, action: Action) {
        let command = if action.verb == Verb::Stop { Command::Stop } else { Command::Release };
        let Some(node) = state.nodes.get(&action.node).filter(|node| node.reachable) else { return };
        if !self.in_flight.contains(&action) {
            let address = node.registration.address.clone();
            self.send(state, action, command, &address);
        }
    }

    /// Asks an agent for everything it knows, unless that is under way.
    pub(super) fn list(&mut self, state: &State, node: &NodeName) {
        let Some(known) = state.nodes.get(node).filter(|known| known.reachable) else { return };
        if !self.listing.insert(node.clone()) {
            return;
        }
        let (asked, node, node_uid) = (must_know(state, node), node.clone(), known.uid().clone());
        let agent = self.parts.dialer.dial(&known.registration.address);
        let (messages, cancel) = (self.messages.clone(), self.cancel.clone());
        self.tracker.spawn(async move {
            let listing = async {
                let result = match agent {
                    Ok(agent) => list_all(&*agent).await,
                    Err(error) => Err(error),
                };
                if result.is_err() {
                    // It is asked again; not at once.
                    tokio::time::sleep(LIST_PAUSE).await;
                }
                result
            };
            let Some(result) = cancel.run_until_cancelled(listing).await else { return };
            // The core is gone only when everything is.
            let _ = messages.send(Message::Listed { node, node_uid, asked, result }).await;
        });
    }

    /// Notes that an agent has answered with everything it knows, or has not.
    pub(super) fn listed(&mut self, node: &NodeName) {
        self.listing.remove(node);
    }

    fn send(&mut self, state: &State, action: Action, command: Command, address: &str) {
        self.in_flight.insert(action.clone());
        self.requests += 1;
        let header = CommandHeader {
            cluster_id: state.cluster_id.clone(),
            term: state.term,
            generation: action.generation,
            request_id: format!("{}.{}", state.term, self.requests),
            deadline_ms: deadline_ms(action.verb),
            principal: controller_principal(),
        };
        let agent = self.parts.dialer.dial(address);
        // Fetching images and waiting for the end of things takes long; what is quick must not queue behind it.
        let quick = matches!(action.verb, Verb::Launch | Verb::Stop);
        let slots =
            self.slots.entry((action.node.clone(), quick)).or_insert_with(|| Arc::new(Semaphore::new(PER_NODE)));
        let slots = slots.clone();
        let (messages, cancel) = (self.messages.clone(), self.cancel.clone());
        self.tracker.spawn(async move {
            let call = async {
                let _slot = slots.acquire().await.map_err(|_| Error::internal("the controller is shutting down"))?;
                let agent = agent?;
                let limit = Duration::from_millis(u64::from(header.deadline_ms) + 2_000);
                let answer = command.call(&*agent, header, &action);
                tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
                    let message = format!("{:?} {} on {}: no answer in time", action.verb, action.task, action.node);
                    Err(Error::new(ErrorKind::DeadlineExceeded, message))
                })
            };
            let Some(result) = cancel.run_until_cancelled(call).await else { return };
            let result = result.and_then(|status| about(&action, status));
            let _ = messages.send(Message::Answered { action, result }).await;
        });
    }
}

/// An answer about another task is nonsense: nothing may follow from it, least of all that something is free.
fn about(action: &Action, status: TaskStatus) -> Result<TaskStatus, Error> {
    if status.id == action.task {
        return Ok(status);
    }
    let message = format!("{:?} {}: the agent answered about another task, {}", action.verb, action.task, status.id);
    Err(Error::internal(message))
}

enum Command {
    Stage(TaskSpec),
    Prepare(TaskSpec),
    /// The environment is written when it is this task's turn.
    Launch(Arc<Gang>, Arc<Semaphore>),
    Stop,
    Release,
}

impl Command {
    async fn call(self, agent: &dyn AgentApi, header: CommandHeader, action: &Action) -> Result<TaskStatus, Error> {
        match self {
            Self::Stage(task) => agent.stage(header, task).await,
            Self::Prepare(task) => agent.prepare(header, task).await,
            Self::Launch(gang, turns) => {
                let _turn = turns.acquire().await.map_err(|_| Error::internal("the controller is shutting down"))?;
                agent.launch(header, action.task, gang.environment(action.task)?).await
            }
            Self::Stop => agent.stop(header, action.task, action.grace_ms).await,
            Self::Release => agent.release(header, action.task).await,
        }
    }
}

const fn deadline_ms(verb: Verb) -> u32 {
    match verb {
        // Images are pulled while staging; progress and patience are the agent's business.
        Verb::Stage => 600_000,
        Verb::Prepare | Verb::Release => 60_000,
        Verb::Launch | Verb::Stop => 15_000,
    }
}

/// What the controller is to its agents.
pub(super) fn controller_principal() -> Principal {
    Principal { user: "controller".into(), uid: None, roles: vec![Role::Controller] }
}

async fn list_all(agent: &dyn AgentApi) -> Result<Vec<TaskStatus>, Error> {
    let (mut all, mut token) = (Vec::new(), String::new());
    for _ in 0..MAX_PAGES {
        let (page, next) = agent.list_tasks(&controller_principal(), 1000, &token).await?;
        all.extend(page);
        if next.is_empty() || next == token {
            return Ok(all);
        }
        token = next;
    }
    Err(Error::internal(format!("the agent's list of tasks does not end after {MAX_PAGES} pages")))
}

fn task_spec(state: &State, run: &Run, spec: &JobSpec, action: &Action) -> TaskSpec {
    let role = &spec.roles[action.task.role as usize];
    let seat = run.find(action.task.role, action.task.index).map(|at| run.tasks[at].seat.clone());
    let seat = seat.expect("actions name tasks of the run");
    TaskSpec {
        id: action.task,
        job_name: spec.name.clone(),
        user: state.jobs.get(&run.job).map_or_else(String::new, |job| job.user.clone()),
        role_name: role.name.clone(),
        image: spec.image.clone(),
        command: role.command.clone(),
        command_style: spec.command_style,
        cpus: role.cpus,
        memory_mb: role.memory_mb,
        shm_mb: role.shm_mb,
        gpus: seat.gpus,
        ports: seat.ports,
        lease_s: match spec.on_node_lost {
            OnNodeLost::Wait => None,
            OnNodeLost::Restart { lease_s } => Some(lease_s),
        },
    }
}

/// What the environments of a run's tasks are written from.
struct Gang {
    spec: Arc<JobSpec>,
    user: String,
    default_fs_uri: String,
    job: JobId,
    run: RunId,
    seats: Vec<TaskSeat>,
    in_container: bool,
}

impl Gang {
    fn of(state: &State, run: &Run, spec: &Arc<JobSpec>, parts: &ControllerParts) -> Self {
        let seat = |task: &RunTask| TaskSeat {
            role: task.role,
            index: task.index,
            ip: task.seat.ip.clone(),
            ports: task.seat.ports.clone(),
            gpus: task.seat.gpus.clone(),
        };
        let is_process = |task: &RunTask| {
            state.nodes.get(&task.seat.node).is_some_and(|node| node.registration.inventory.runtime == "process")
        };
        Self {
            spec: spec.clone(),
            user: state.jobs.get(&run.job).map_or_else(String::new, |job| job.user.clone()),
            default_fs_uri: parts.default_fs_uri.clone(),
            job: run.job,
            run: run.id,
            seats: run.tasks.iter().map(seat).collect(),
            in_container: !run.tasks.first().is_some_and(is_process),
        }
    }

    /// Every task is told of every other, so all of them together would take a gigabyte for a thousand tasks.
    fn environment(&self, task: TaskId) -> Result<Vec<(String, String)>, Error> {
        let context = EnvContext {
            spec: &self.spec,
            user: &self.user,
            default_fs_uri: &self.default_fs_uri,
            job: self.job,
            run: self.run,
            seats: &self.seats,
            in_container: self.in_container,
        };
        // Placing gives every task what its role asks for, so this is a mistake of ours: nothing is launched.
        task_environment(&context, task.role, task.index)
            .map_err(|error| Error::internal(format!("the environment of task {task} cannot be written: {error}")))
    }
}
