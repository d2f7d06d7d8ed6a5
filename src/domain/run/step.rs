//! What happens to a run: placing, words of agents, failures, stops, time.

use super::{Action, CommandFailure, Leftover, Outcome, PREPARE_DEADLINE, Phase, Run, RunTask, Seat, Verb};
use crate::domain::completion::{self, TaskEnd, Verdict};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::{Generation, NodeName};
use crate::domain::quantity::DEFAULT_GRACE_MS;
use crate::domain::retry::{Setback, row_before, wait};
use crate::domain::spec::RoleSpec;
use crate::domain::task::{TaskState, TaskStatus};
use crate::domain::time::Timestamp;
use std::collections::BTreeSet;

/// Of what decided a run, in the reason of each task that was stopped for it.
const MAX_DECIDED_BYTES: usize = 512;

impl Run {
    /// The scheduler found seats for the whole gang.
    pub fn place(&mut self, mut seats: Vec<(u32, u32, Seat)>, now: Timestamp) {
        seats.sort_by_key(|(role, index, _)| (*role, *index));
        self.generation = Generation(self.generation.0 + 1);
        self.phase = Phase::Staging;
        self.placed_at = Some(now);
        self.avoid.clear();
        self.tasks = seats
            .into_iter()
            .map(|(role, index, seat)| RunTask {
                role,
                index,
                seat,
                state: TaskState::Waiting,
                staged: false,
                released: false,
                started_at: None,
                ended_at: None,
                exit: None,
                notices: Vec::new(),
                held_until: None,
            })
            .collect();
    }

    /// An agent said that a task is staged.
    pub fn staged(&mut self, role: u32, index: u32, generation: Generation, now: Timestamp) {
        if generation != self.generation || self.phase != Phase::Staging {
            return;
        }
        if let Some(at) = self.find(role, index) {
            self.tasks[at].staged = true;
        }
        if self.tasks.iter().all(|task| task.staged) {
            self.phase = Phase::Preparing;
            self.prepare_by = Some(now.plus(PREPARE_DEADLINE));
        }
    }

    /// An agent's word on one task: a report or the answer to a command. Returns whether anything changed.
    /// Words on other generations, and older words than the last, change nothing.
    pub fn reported(&mut self, status: &TaskStatus, roles: &[RoleSpec], now: Timestamp) -> bool {
        if status.generation != self.generation || self.phase == Phase::Waiting {
            return false;
        }
        let Some(at) = self.find(status.id.role, status.id.index) else { return false };
        let task = &mut self.tasks[at];
        if task.state.is_terminal() || rank(status.state) < rank(task.state) {
            return false;
        }
        let before = task.clone();
        task.state = status.state;
        task.started_at = status.started_at.or(task.started_at);
        task.notices.clone_from(&status.notices);
        task.held_until = status.held_until.filter(|_| status.state == TaskState::Running);
        if status.state.is_terminal() {
            task.ended_at = status.ended_at.or(Some(now));
            let missing = || Exit::without_status(ExitClass::Platform, "the agent reported an end without an exit");
            let exit = status.exit.clone().unwrap_or_else(missing);
            let outcome = self.outcome.as_ref().filter(|_| self.phase == Phase::Stopping);
            task.exit = Some(match outcome {
                Some(outcome) if exit.class == ExitClass::Stopped => stopped_for(outcome, exit),
                _ => exit,
            });
        }
        if *task == before {
            return false;
        }
        self.advance(at, roles, now);
        true
    }

    /// The agent gave back everything of a task. Returns whether anything changed.
    pub fn released(&mut self, role: u32, index: u32, generation: Generation) -> bool {
        let leftovers = self.leftovers.len();
        self.leftovers.retain(|left| (left.role, left.index, left.generation) != (role, index, generation));
        let mut changed = leftovers != self.leftovers.len();
        if changed && !self.leftovers.iter().any(|left| left.generation == generation) {
            self.unsettled.remove(&generation);
        }
        if generation == self.generation
            && let Some(at) = self.find(role, index)
            && self.tasks[at].state.is_terminal()
            && !self.tasks[at].released
        {
            self.tasks[at].released = true;
            changed = true;
        }
        self.settle();
        changed
    }

    /// A command failed for good. Transport trouble with Launch, Stop and Release is not told here: those are
    /// asked again until they are answered.
    pub fn failed(&mut self, action: &Action, failure: &CommandFailure, roles: &[RoleSpec], now: Timestamp) {
        if action.generation != self.generation {
            return;
        }
        match (self.phase, failure) {
            (Phase::Staging | Phase::Preparing, CommandFailure::Job(why)) => {
                self.decide(TaskState::Failed, Exit::without_status(ExitClass::User, why.clone()), now);
            }
            // The node is as good as before; only a port that the job insists on would be taken there again.
            (Phase::Staging | Phase::Preparing, CommandFailure::Ports { why, ports })
                if !insists_on_any(roles, action.task.role, ports) =>
            {
                self.roll_back(Setback::Ports, BTreeSet::new(), why, now, 0.0);
            }
            (Phase::Staging | Phase::Preparing, failure) => {
                let nodes = BTreeSet::from([action.node.clone()]);
                self.roll_back(Setback::Refused, nodes, failure.why(), now, 0.0);
            }
            // A Stage or Prepare whose answer was lost: the agent has reported meanwhile how the task really is.
            (Phase::Launching | Phase::Running | Phase::Stopping, _)
                if matches!(action.verb, Verb::Stage | Verb::Prepare) => {}
            (Phase::Launching | Phase::Running | Phase::Stopping, _) => {
                self.lost(action.task.role, action.task.index, failure.why(), roles, now);
            }
            (Phase::Waiting | Phase::Ended, _) => {}
        }
    }

    /// A task that its agent should know is unknown there: it ended without a record.
    pub fn lost(&mut self, role: u32, index: u32, why: &str, roles: &[RoleSpec], now: Timestamp) {
        if matches!(self.phase, Phase::Staging | Phase::Preparing)
            && let Some(at) = self.find(role, index)
        {
            let node = self.tasks[at].seat.node.clone();
            return self.roll_back(Setback::Refused, BTreeSet::from([node]), why, now, 0.0);
        }
        let class = if self.phase == Phase::Stopping { ExitClass::Stopped } else { ExitClass::Platform };
        let exit = Exit::without_status(class, why);
        let status = TaskStatus {
            id: self.task_id(role, index),
            generation: self.generation,
            state: TaskState::of_exit(&exit),
            started_at: None,
            ended_at: Some(now),
            exit: Some(exit),
            holding: false,
            notices: Vec::new(),
            progress: None,
            held_until: None,
        };
        self.reported(&status, roles, now);
    }

    /// Somebody asks for the end. Stopping a run that is ending already can only shorten its grace.
    pub fn stop(&mut self, grace_ms: u64, why: &str, now: Timestamp) {
        match self.phase {
            Phase::Ended => {}
            Phase::Stopping => {
                if let Some(outcome) = &mut self.outcome {
                    outcome.grace_ms = outcome.grace_ms.min(grace_ms);
                    if outcome.exit.class == ExitClass::Preempted {
                        // It was to be run again, and that is what nobody wants any more.
                        outcome.state = TaskState::Stopped;
                        outcome.exit = Exit::without_status(ExitClass::Stopped, why);
                    }
                }
            }
            Phase::Waiting | Phase::Staging | Phase::Preparing | Phase::Launching | Phase::Running => {
                self.decide(TaskState::Stopped, Exit::without_status(ExitClass::Stopped, why), now);
                if let Some(outcome) = &mut self.outcome {
                    outcome.grace_ms = grace_ms;
                }
            }
        }
    }

    /// Nodes went silent before the gang was ready: it is rolled back. Returns whether anything changed.
    pub fn silent(&mut self, nodes: &BTreeSet<NodeName>, now: Timestamp) -> bool {
        let missing = |task: &RunTask| match self.phase {
            Phase::Staging => !task.staged && nodes.contains(&task.seat.node),
            Phase::Preparing => task.state != TaskState::Ready && nodes.contains(&task.seat.node),
            _ => false,
        };
        let late: BTreeSet<NodeName> =
            self.tasks.iter().filter(|task| missing(task)).map(|task| task.seat.node.clone()).collect();
        if late.is_empty() {
            return false;
        }
        let why = format!("{} cannot be reached", names(&late));
        self.roll_back(Setback::Silent, late, &why, now, 0.0);
        true
    }

    /// Time passes: a gang that is not ready in time is rolled back. Returns whether anything changed. `chance` is in
    /// 0 to 1: gangs that were late together should not be tried again together.
    pub fn tick(&mut self, now: Timestamp, chance: f64) -> bool {
        let Some(by) = self.prepare_by.filter(|_| self.phase == Phase::Preparing) else { return false };
        if by.since(now) > 2 * PREPARE_DEADLINE {
            // The clock was set back: a gang that hangs would hang for as long.
            self.prepare_by = Some(now.plus(PREPARE_DEADLINE));
            return true;
        }
        if now < by {
            return false;
        }
        let late: BTreeSet<NodeName> = self
            .tasks
            .iter()
            .filter(|task| task.state != TaskState::Ready)
            .map(|task| task.seat.node.clone())
            .collect();
        let why = format!("not ready within {} s on {}", PREPARE_DEADLINE.as_secs(), names(&late));
        self.roll_back(Setback::Late, late, &why, now, chance);
        true
    }

    /// The clock was set, and `now` is after that: what is waited for is as far away as it was. Returns whether anything
    /// changed.
    pub fn clock_stepped(&mut self, nanos: i64, now: Timestamp) -> bool {
        let (prepare_by, not_before) = (self.prepare_by, self.not_before);
        self.prepare_by = prepare_by.map(|by| by.moved(nanos));
        if not_before > now.moved(nanos.saturating_neg()) {
            self.not_before = not_before.moved(nanos);
        }
        (self.prepare_by, self.not_before) != (prepare_by, not_before)
    }

    /// Looks at the whole again after it was read from a store, where tasks may be newer than the run's header.
    pub fn reconsider(&mut self, roles: &[RoleSpec], now: Timestamp) {
        if self.phase == Phase::Staging && self.tasks.iter().all(|task| task.staged) {
            self.phase = Phase::Preparing;
        }
        if self.phase == Phase::Preparing && self.prepare_by.is_none() {
            self.prepare_by = Some(now.plus(PREPARE_DEADLINE));
        }
        if self.phase == Phase::Ended {
            // The last task may have been let go of just before the header that says so.
            return self.settle();
        }
        // An end decides more than anything else, so it is looked at first.
        if let Some(at) = self.tasks.iter().position(|task| task.state.is_terminal()) {
            self.advance(at, roles, now);
        } else if !self.tasks.is_empty() {
            self.advance(0, roles, now);
        } else {
            self.end_if_all_ended(now);
        }
    }

    /// Looks at the whole after the task at `at` changed.
    fn advance(&mut self, at: usize, roles: &[RoleSpec], now: Timestamp) {
        match self.phase {
            Phase::Staging | Phase::Preparing if self.tasks[at].state.is_terminal() => {
                self.ended_early(at, roles, now);
            }
            Phase::Preparing if self.tasks.iter().all(|task| task.state == TaskState::Ready) => {
                self.phase = Phase::Launching;
                self.prepare_by = None;
            }
            Phase::Launching | Phase::Running => {
                if self.phase == Phase::Launching
                    && self.tasks.iter().all(|task| rank(task.state) >= rank(TaskState::Running))
                {
                    self.phase = Phase::Running;
                    self.started_at = Some(now);
                }
                if self.tasks[at].state.is_terminal() {
                    self.judge(roles, now);
                }
            }
            Phase::Stopping => self.end_if_all_ended(now),
            Phase::Waiting | Phase::Staging | Phase::Preparing | Phase::Ended => {}
        }
    }

    /// A task ended before the gang was launched.
    fn ended_early(&mut self, at: usize, roles: &[RoleSpec], now: Timestamp) {
        let task = &self.tasks[at];
        let (node, role, exit) = (task.seat.node.clone(), task.role, task.exit.clone());
        let Some(exit) = exit else {
            let why = "a task ended before its launch";
            return self.roll_back(Setback::Refused, BTreeSet::from([node]), why, now, 0.0);
        };
        if exit.class == ExitClass::User {
            return self.decide(TaskState::Failed, exit, now);
        }
        if !exit.busy_ports.is_empty() && !insists_on_any(roles, role, &exit.busy_ports) {
            return self.roll_back(Setback::Ports, BTreeSet::new(), &exit.reason, now, 0.0);
        }
        self.roll_back(Setback::Refused, BTreeSet::from([node]), &exit.reason, now, 0.0);
    }

    fn judge(&mut self, roles: &[RoleSpec], now: Timestamp) {
        let mut ended: Vec<&RunTask> = self.tasks.iter().filter(|task| task.exit.is_some()).collect();
        ended.sort_by_key(|task| (task.ended_at, task.role, task.index));
        let ends: Vec<TaskEnd<'_>> = ended
            .iter()
            .filter_map(|task| Some(TaskEnd { role: task.role, index: task.index, exit: task.exit.as_ref()? }))
            .collect();
        match completion::judge(roles, &ends, self.tasks.len()) {
            Verdict::Continue => {}
            Verdict::Succeed { reason } => {
                let exit = Exit { reason, ..Exit::success() };
                self.decide(TaskState::Succeeded, exit, now);
            }
            Verdict::Fail { role, index } => {
                let exit = self.find(role, index).and_then(|at| self.tasks[at].exit.clone());
                let mut exit = exit.unwrap_or_else(|| Exit::without_status(ExitClass::Platform, "a task failed"));
                let name = roles.get(role as usize).map_or("?", |role| role.name.as_str());
                exit.reason = format!("task {name}[{index}]: {}", exit.reason);
                let state = match TaskState::of_exit(&exit) {
                    TaskState::Stopped => TaskState::Stopped,
                    _ => TaskState::Failed,
                };
                self.decide(state, exit, now);
            }
        }
    }

    pub(super) fn decide(&mut self, state: TaskState, exit: Exit, now: Timestamp) {
        self.outcome = Some(Outcome { state, exit, grace_ms: DEFAULT_GRACE_MS });
        self.phase = Phase::Stopping;
        self.prepare_by = None;
        self.end_if_all_ended(now);
    }

    pub(super) fn end_if_all_ended(&mut self, now: Timestamp) {
        if self.phase == Phase::Stopping && self.tasks.iter().all(|task| task.state.is_terminal()) {
            self.phase = Phase::Ended;
            self.ended_at = Some(now);
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.settled =
            self.phase == Phase::Ended && self.leftovers.is_empty() && self.tasks.iter().all(|task| task.released);
    }

    /// Gives the whole gang back and queues again, without `nodes` next time.
    pub(super) fn roll_back(
        &mut self,
        setback: Setback,
        nodes: BTreeSet<NodeName>,
        why: &str,
        now: Timestamp,
        chance: f64,
    ) {
        let generation = self.generation;
        let tasks = std::mem::take(&mut self.tasks);
        self.leftovers.extend(tasks.into_iter().map(|task| Leftover {
            generation,
            role: task.role,
            index: task.index,
            seat: task.seat,
        }));
        self.unsettled.insert(generation);
        if setback == Setback::Ports {
            self.port_conflicts = self.port_conflicts.saturating_add(1);
        } else {
            self.rollbacks = self.rollbacks.saturating_add(1);
            self.late = self.late.saturating_add(u32::from(setback == Setback::Late));
        }
        let nth = match setback {
            Setback::Ports => self.port_conflicts,
            Setback::Late => self.late,
            Setback::Refused | Setback::Silent => self.rollbacks,
        };
        self.rolled_back = Some(why.to_owned());
        self.not_before = now.plus(wait(row_before(setback).back_off, nth.into(), chance));
        self.avoid = nodes;
        self.phase = Phase::Waiting;
        self.placed_at = None;
        self.prepare_by = None;
    }
}

/// One of these ports is one that the role asks for by its number.
fn insists_on_any(roles: &[RoleSpec], role: u32, ports: &[u16]) -> bool {
    roles.get(role as usize).is_some_and(|role| ports.iter().any(|port| role.insists_on(*port)))
}

/// The end of a task that was stopped because its run was over: what decided that comes first.
fn stopped_for(outcome: &Outcome, exit: Exit) -> Exit {
    let decided = &outcome.exit.reason;
    let decided = &decided[..decided.floor_char_boundary(MAX_DECIDED_BYTES)];
    let reason = match outcome.exit.class {
        ExitClass::Stopped => format!("{decided} ({})", exit.reason),
        _ => format!("stopped, since the run was decided: {decided} ({})", exit.reason),
    };
    Exit { reason, ..exit }
}

fn names(nodes: &BTreeSet<NodeName>) -> String {
    nodes.iter().map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ")
}

/// Order of task states in time; a report of a lower rank is old news.
const fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Waiting | TaskState::Staging => 0,
        TaskState::Preparing => 1,
        TaskState::Ready => 2,
        TaskState::Running => 3,
        TaskState::Stopping => 4,
        TaskState::Succeeded | TaskState::Failed | TaskState::Stopped => 5,
    }
}
