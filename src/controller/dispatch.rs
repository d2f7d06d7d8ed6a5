//! Sends commands to agents: each once at a time, again after a while until it has done its work.

use super::core::{ControllerParts, Message};
use super::gang::{Gang, in_container, task_spec};
use super::nodes::must_know;
use super::state::State;
use crate::api::AgentApi;
use crate::domain::command::{CommandHeader, Error, ErrorKind};
use crate::domain::ids::{Generation, NodeName, RunId, TaskId};
use crate::domain::level::Level;
use crate::domain::principal::{Principal, Role};
use crate::domain::run::{Action, Run, Verb};
use crate::domain::secret::TaskSecrets;
use crate::domain::spec::JobSpec;
use crate::domain::task::{TaskSpec, TaskStatus};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
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
    /// Gangs that are being launched: the generation, and what all of its launches share as long as one is under way.
    gangs: HashMap<RunId, (Generation, Weak<Gang>)>,
    /// Nodes whose agents are being asked for everything.
    listing: HashSet<NodeName>,
    /// Nodes on which something was that no run looks after: how often it was found, and when they are asked again.
    orphaned: HashMap<NodeName, Orphaned>,
    requests: u64,
}

#[derive(Debug, Clone, Copy)]
struct HeldOff {
    until: Instant,
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
struct Orphaned {
    found: u32,
    until: Instant,
    /// The agent was asked again, and has found nothing since.
    asked: bool,
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
            gangs: HashMap::new(),
            listing: HashSet::new(),
            orphaned: HashMap::new(),
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
            n => pause_after(n),
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
        self.gangs.retain(|_, (_, gang)| gang.strong_count() > 0);
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
        for action in wanted {
            if self.in_flight.contains(&action) || self.held_off.get(&action).is_some_and(|held| held.until > now) {
                continue;
            }
            let Some(node) = state.nodes.get(&action.node).filter(|node| node.reachable) else { continue };
            let command = match action.verb {
                Verb::Stage => Command::Stage(task_spec(state, run, spec, &action)),
                Verb::Prepare => Command::Prepare(task_spec(state, run, spec, &action)),
                Verb::Launch => {
                    let (gang, inventory) = (self.gang(state, run, spec), &node.registration.inventory);
                    Command::Launch {
                        secrets: gang.secrets_for(inventory),
                        in_container: in_container(inventory),
                        turns: self.launches.clone(),
                        gang,
                    }
                }
                Verb::Stop => Command::Stop,
                Verb::Release => Command::Release,
            };
            let address = node.registration.address.clone();
            self.send(state, action, command, &address);
        }
    }

    fn gang(&mut self, state: &State, run: &Run, spec: &Arc<JobSpec>) -> Arc<Gang> {
        let known = self.gangs.get(&run.id).filter(|(generation, _)| *generation == run.generation);
        known.and_then(|(_, gang)| gang.upgrade()).unwrap_or_else(|| {
            let gang = Arc::new(Gang::of(state, run, spec, &self.parts));
            self.gangs.insert(run.id, (run.generation, Arc::downgrade(&gang)));
            gang
        })
    }

    /// Ends what no run looks after. No run asks again if that does not work: the agent is compared again, until it has
    /// nothing of the kind.
    pub(super) fn dispatch_orphan(&mut self, state: &State, action: Action, now: Instant) {
        let orphaned =
            self.orphaned.entry(action.node.clone()).or_insert(Orphaned { found: 0, until: now, asked: true });
        if orphaned.asked {
            let found = orphaned.found.saturating_add(1);
            *orphaned = Orphaned { found, until: now + pause_after(found), asked: false };
        }
        let command = if action.verb == Verb::Stop { Command::Stop } else { Command::Release };
        let Some(node) = state.nodes.get(&action.node).filter(|node| node.reachable) else { return };
        if !self.in_flight.contains(&action) {
            let address = node.registration.address.clone();
            self.send(state, action, command, &address);
        }
    }

    /// Nodes to be compared again for what no run looks after there.
    pub(super) fn due_lists(&mut self, now: Instant) -> Vec<NodeName> {
        // Nothing more was found there for a while.
        self.orphaned.retain(|_, orphaned| orphaned.until + 4 * LAST_RETRY > now);
        let due = self.orphaned.iter_mut().filter(|(_, orphaned)| !orphaned.asked && orphaned.until <= now);
        due.map(|(node, orphaned)| {
            orphaned.asked = true;
            node.clone()
        })
        .collect()
    }

    /// Asks an agent for everything it knows, unless that is under way.
    pub(super) fn list(&mut self, state: &State, node: &NodeName) {
        let Some(known) = state.nodes.get(node).filter(|known| known.reachable) else { return };
        if !self.listing.insert(node.clone()) {
            return;
        }
        let (asked, node, node_uid) = (must_know(state, node), node.clone(), known.uid().clone());
        let agent = self.parts.dialer.dial(&node, &known.registration.address);
        let (messages, cancel) = (self.messages.clone(), self.cancel.clone());
        self.tracker.spawn(async move {
            let listing = async {
                let result = match agent {
                    Ok(agent) => list_all(&*agent).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = &result {
                    // It is asked again; not at once, and not before it says.
                    let said = Duration::from_millis(error.retry_after_ms.unwrap_or(0));
                    tokio::time::sleep(said.clamp(LIST_PAUSE, LAST_RETRY)).await;
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
            level: Level::own(),
        };
        let agent = self.parts.dialer.dial(&action.node, address);
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

/// After so many failures in a row, from the first on.
fn pause_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(8)).min(LAST_RETRY)
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
    Launch {
        gang: Arc<Gang>,
        turns: Arc<Semaphore>,
        /// On the task's node: a gang may be on nodes of both kinds.
        in_container: bool,
        secrets: TaskSecrets,
    },
    Stop,
    Release,
}

impl Command {
    async fn call(self, agent: &dyn AgentApi, header: CommandHeader, action: &Action) -> Result<TaskStatus, Error> {
        match self {
            Self::Stage(task) => agent.stage(header, task).await,
            Self::Prepare(task) => agent.prepare(header, task).await,
            Self::Launch { gang, turns, in_container, secrets } => {
                let _turn = turns.acquire().await.map_err(|_| Error::internal("the controller is shutting down"))?;
                let environment = gang.environment(action.task, in_container).await?;
                agent.launch(header, action.task, environment, secrets).await
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
