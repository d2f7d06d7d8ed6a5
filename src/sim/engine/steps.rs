//! What each event does to runs and jobs: the same steps of the same cores as in the controller.

use super::super::agents::{ended, status, stopped};
use super::super::events::Event;
use super::super::faults::MISSED_AFTER;
use super::super::live::LiveRun;
use super::super::trace::{TraceError, TraceJob};
use super::Simulation;
use crate::domain::exit::Exit;
use crate::domain::ids::{Generation, RunId};
use crate::domain::retry::{self, Decision};
use crate::domain::run::{Action, CommandFailure, Phase, Run, Verb};
use crate::domain::spec::JobSpec;
use crate::domain::task::TaskState;
use crate::scheduler::NodeState;
use crate::sim::chance::Chance;
use std::collections::BTreeSet;
use std::time::Duration;

/// The purpose of a stream of chance.
const BACK_OFF: u64 = 0xBAC0FF;

/// What a back-off leaves to chance, in 0 to 1: of the run alone, so that policies are compared under the same.
fn chance_of(run: RunId) -> f64 {
    Chance::of(&[BACK_OFF, run.0]).uniform()
}

impl<T: Iterator<Item = Result<TraceJob, TraceError>>> Simulation<T> {
    pub(super) fn happens(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Answers { run, actions } => self.answers(run, actions)?,
            Event::Ends { run, generation, tasks, exit } => self.ends(run, generation, &tasks, &exit),
            Event::Wake { run } => self.enqueue(run),
            Event::Late { run } => {
                let now = self.now;
                let chance = chance_of(run);
                self.change(run, |run, _| run.tick(now, chance));
            }
            Event::NodeDown { node } => {
                self.tally.counts.node_losses += 1;
                self.agents.down(node);
                self.events.add(self.now.plus(MISSED_AFTER), Event::NodeMissed { node });
            }
            Event::NodeMissed { node } => self.missed(node),
            Event::NodeBack { node } => self.back(node),
        }
        Ok(())
    }

    /// Sends commands of one verb; all are answered together.
    pub(super) fn ask(&mut self, run: RunId, actions: Vec<Action>) {
        let Some(first) = actions.first() else { return };
        let latencies = &self.config.latencies;
        let latency = match first.verb {
            Verb::Stage => latencies.stage,
            Verb::Prepare => latencies.prepare,
            Verb::Launch => latencies.launch,
            Verb::Stop => latencies.stop,
            Verb::Release => latencies.release,
        };
        self.events.add(self.now.plus(latency), Event::Answers { run, actions });
    }

    fn answers(&mut self, id: RunId, actions: Vec<Action>) -> Result<(), String> {
        let mut launched = Vec::new();
        for action in actions {
            if !self.agents.is_up(&action.node) {
                self.agents.postpone(id, action);
                continue;
            }
            match action.verb {
                Verb::Stage => self.staged(id, &action),
                Verb::Prepare => self.prepare(id, &action)?,
                Verb::Launch if self.reported(id, &action, TaskState::Running) => launched.push(action),
                Verb::Launch => {}
                Verb::Stop => self.end(id, &action, &stopped()),
                Verb::Release => self.release(id, &action)?,
            }
        }
        self.run_tasks(id, &launched);
        self.command(id);
        Ok(())
    }

    fn staged(&mut self, id: RunId, action: &Action) {
        let now = self.now;
        self.change(id, |run, _| run.staged(action.task.role, action.task.index, action.generation, now));
        let by = self.runs.get(&id).and_then(|live| live.run.prepare_by);
        // Everybody answers in time, unless a machine is down.
        if let Some(by) = by.filter(|_| self.config.faults > 0.0) {
            self.events.add(by, Event::Late { run: id });
        }
    }

    /// The agent holds what was promised, or vetoes.
    fn prepare(&mut self, id: RunId, action: &Action) -> Result<(), String> {
        let Some(live) = self.runs.get(&id).filter(|live| live.run.generation == action.generation) else {
            return Ok(());
        };
        let (role, index) = (action.task.role, action.task.index);
        let Some(at) = live.run.find(role, index) else { return Ok(()) };
        let scripted = self.faults.vetoes(&live.run, action.task);
        let failure = if scripted {
            self.tally.counts.vetoes += 1;
            Some(format!("{}: scripted veto", action.node))
        } else {
            let promise = live.promise_of(&live.run.tasks[at]);
            let veto = self.agents.hold(action.task, promise).err();
            veto.map(|veto| format!("{} was promised to task {}: {veto}", action.node, action.task))
        };
        match failure {
            // The scheduler promised what it should have known to be held.
            Some(why) if !scripted => Err(why),
            Some(why) => {
                let now = self.now;
                self.change(id, |run, spec| run.failed(action, &CommandFailure::Node(why), &spec.roles, now));
                Ok(())
            }
            None => {
                self.reported(id, action, TaskState::Ready);
                Ok(())
            }
        }
    }

    fn reported(&mut self, id: RunId, action: &Action, state: TaskState) -> bool {
        let now = self.now;
        let word = status(action.task, action.generation, state, now);
        let changed = self.change(id, |run, spec| run.reported(&word, &spec.roles, now)) == Some(true);
        if changed && state == TaskState::Running {
            self.tally.running(now, self.gpus_of(id, action), 0);
        }
        changed
    }

    fn end(&mut self, id: RunId, action: &Action, exit: &Exit) {
        let Some((at, live)) =
            self.runs.get(&id).and_then(|live| Some((live.run.find(action.task.role, action.task.index)?, live)))
        else {
            return;
        };
        let ran = live.run.tasks[at].state == TaskState::Running;
        let gpus = live.run.tasks[at].seat.gpus.len() as u64;
        let now = self.now;
        let word = ended(action.task, action.generation, exit, now);
        let changed = self.change(id, |run, spec| run.reported(&word, &spec.roles, now)) == Some(true);
        if changed && ran {
            self.tally.running(now, 0, gpus);
        }
    }

    fn gpus_of(&self, id: RunId, action: &Action) -> u64 {
        let seat = self
            .runs
            .get(&id)
            .and_then(|live| live.run.seat_of(action.task.role, action.task.index, action.generation));
        seat.map_or(0, |seat| seat.gpus.len() as u64)
    }

    /// Tasks have begun: says when and how they will end.
    fn run_tasks(&mut self, id: RunId, launched: &[Action]) {
        let Some(live) = self.runs.get(&id) else { return };
        let (generation, duration) = (live.run.generation, live.duration);
        let mut well = Vec::new();
        for action in launched {
            let Some(at) = live.run.find(action.task.role, action.task.index) else { continue };
            match self.faults.of_task(&live.run, action.task) {
                None => well.push(at),
                Some((part, exit)) => {
                    let after = Duration::from_secs(duration.mul_f64(part).as_secs());
                    let event = Event::Ends { run: id, generation, tasks: vec![at], exit: Box::new(exit) };
                    self.events.add(self.now.plus(after), event);
                }
            }
        }
        if !well.is_empty() {
            let event = Event::Ends { run: id, generation, tasks: well, exit: Box::new(Exit::success()) };
            self.events.add(self.now.plus(duration), event);
        }
    }

    fn ends(&mut self, id: RunId, generation: Generation, tasks: &[usize], exit: &Exit) {
        for at in tasks {
            let Some(live) = self.runs.get(&id).filter(|live| live.run.generation == generation) else { return };
            let Some(task) = live.run.tasks.get(*at) else { return };
            // What was stopped has ended; what was lost with its node is found out when that is back.
            if task.state != TaskState::Running || !self.agents.is_up(&task.seat.node) {
                continue;
            }
            let action = Action {
                verb: Verb::Launch,
                task: live.run.task_id(task.role, task.index),
                generation,
                node: task.seat.node.clone(),
                grace_ms: 0,
            };
            self.end(id, &action, exit);
        }
        self.command(id);
    }

    /// The agent has let go of a task: what was promised to it is free.
    fn release(&mut self, id: RunId, action: &Action) -> Result<(), String> {
        let (task, generation) = (action.task, action.generation);
        self.agents.release(&action.node, task, generation);
        let Some(live) = self.runs.get_mut(&id) else { return Ok(()) };
        let Some(seat) = live.run.seat_of(task.role, task.index, generation).cloned() else { return Ok(()) };
        if !live.run.released(task.role, task.index, generation) {
            return Ok(());
        }
        let promise = live.promise(task.role, generation, &seat);
        let settled = live.run.settled;
        self.snapshot.give_back(&promise);
        self.due = true;
        self.tally.given_back(self.now, seat.gpus.len() as u64);
        if let Some(checks) = &mut self.checks {
            checks.given_back(&promise)?;
            checks.compare(&self.snapshot, [&promise.node])?;
        }
        if settled {
            self.runs.remove(&id);
        } else {
            // A node that was excluded is not any more.
            self.enqueue(id);
        }
        Ok(())
    }

    /// Changes a run, and does what follows from the change.
    fn change<R>(&mut self, id: RunId, change: impl FnOnce(&mut Run, &JobSpec) -> R) -> Option<R> {
        let live = self.runs.get_mut(&id)?;
        let before = live.run.phase;
        let result = change(&mut live.run, &live.spec);
        let after = live.run.phase;
        match after {
            after if after == before => {}
            Phase::Waiting => self.rolled_back(id),
            Phase::Running => self.started(id),
            Phase::Ended => self.ended(id),
            Phase::Staging | Phase::Preparing | Phase::Launching | Phase::Stopping => {}
        }
        Some(result)
    }

    fn rolled_back(&mut self, id: RunId) {
        self.tally.counts.roll_backs += 1;
        let Some(live) = self.runs.get(&id) else { return };
        let run = &live.run;
        let release = |left: &crate::domain::run::Leftover| Action {
            verb: Verb::Release,
            task: run.task_id(left.role, left.index),
            generation: left.generation,
            node: left.seat.node.clone(),
            grace_ms: 0,
        };
        // Of older generations, agents were told before.
        let newest = run.leftovers.iter().filter(|left| left.generation == run.generation);
        let actions: Vec<Action> = newest.map(release).collect();
        self.events.add(run.not_before, Event::Wake { run: id });
        self.ask(id, actions);
    }

    fn started(&mut self, id: RunId) {
        let Some(live) = self.runs.get(&id) else { return };
        let placed = live.run.placed_at.unwrap_or(self.now);
        let Some(job) = self.jobs.get_mut(&live.run.job).filter(|job| !job.started) else { return };
        job.started = true;
        let gpus = job.spec.roles.iter().map(|role| u64::from(role.count) * u64::from(role.gpus)).sum();
        self.tally.started(gpus, placed.since(job.submitted_at));
    }

    /// The run is over: the job is too, or gets another run.
    fn ended(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id).map(|live| &live.run) else { return };
        let Some(outcome) = &run.outcome else { return };
        let Some(job) = self.jobs.get_mut(&run.job).filter(|job| job.newest_run == id) else { return };
        match retry::decide(job.spec.retry_count, &outcome.exit, job.retries, chance_of(id)) {
            Decision::End => {
                match outcome.state {
                    TaskState::Succeeded => self.tally.counts.succeeded += 1,
                    _ => self.tally.counts.failed += 1,
                }
                self.tally.ended(self.now);
                let job = run.job;
                self.jobs.remove(&job);
            }
            Decision::Retry { delay, retries, .. } => {
                self.tally.counts.retries += 1;
                let next = RunId(self.next_run);
                self.next_run += 1;
                (job.retries, job.newest_run) = (retries, next);
                let attempt = run.attempt.saturating_add(1);
                let not_before = self.now.plus(delay);
                let again = LiveRun::new(Run::new(next, job.id, attempt, self.now, not_before), job);
                self.runs.insert(next, again);
                self.events.add(not_before, Event::Wake { run: next });
            }
        }
    }

    pub(super) fn plan_loss(&mut self, node: usize) {
        if let Some((up, down)) = self.agents.next_loss(node, self.faults) {
            let at = self.now.plus(up);
            self.events.add(at, Event::NodeDown { node });
            self.events.add(at.plus(down), Event::NodeBack { node });
        }
    }

    /// The controller notices that a node is silent.
    fn missed(&mut self, node: usize) {
        let name = self.agents.name(node).clone();
        self.snapshot.set_state(&name, NodeState::Unreachable);
        let (now, silent) = (self.now, BTreeSet::from([name]));
        for id in self.runs_on(node, |run| matches!(run.phase, Phase::Staging | Phase::Preparing)) {
            self.change(id, |run, _| run.silent(&silent, now));
            self.command(id);
        }
    }

    /// The node is back, and its agent lists its tasks: none.
    fn back(&mut self, node: usize) {
        let name = self.agents.name(node).clone();
        let postponed = self.agents.back(node);
        self.snapshot.set_state(&name, NodeState::Ready);
        self.due = true;
        for id in self.runs_on(node, |run| run.phase != Phase::Ended) {
            self.lose_tasks(id, node);
            self.command(id);
        }
        for (run, action) in postponed {
            self.ask(run, vec![action]);
        }
        self.plan_loss(node);
    }

    /// What should be on the node and is not.
    fn lose_tasks(&mut self, id: RunId, node: usize) {
        let name = self.agents.name(node).clone();
        let Some(live) = self.runs.get(&id) else { return };
        let known = |state| matches!(state, TaskState::Ready | TaskState::Running | TaskState::Stopping);
        let there = live.run.tasks.iter().filter(|task| task.seat.node == name && known(task.state));
        let there: Vec<(u32, u32, TaskState, u64)> =
            there.map(|task| (task.role, task.index, task.state, task.seat.gpus.len() as u64)).collect();
        let (now, why) = (self.now, format!("{name} has no record of the task any more"));
        for (role, index, state, gpus) in there {
            self.tally.counts.lost_tasks += 1;
            if state == TaskState::Running {
                self.tally.running(now, 0, gpus);
            }
            self.change(id, |run, spec| run.lost(role, index, &why, &spec.roles, now));
        }
    }

    /// In order, so that the same comes out every time.
    fn runs_on(&self, node: usize, is_meant: impl Fn(&Run) -> bool) -> Vec<RunId> {
        let name = self.agents.name(node);
        let there =
            |live: &&LiveRun| is_meant(&live.run) && live.run.tasks.iter().any(|task| task.seat.node == *name);
        let mut ids: Vec<RunId> = self.runs.values().filter(there).map(|live| live.run.id).collect();
        ids.sort_unstable();
        ids
    }
}
