//! Lets time go by: applies what happens in one instant, then asks the scheduler, then goes on to the next.

mod steps;

use super::agents::Agents;
use super::checks::Checks;
use super::cluster;
use super::events::Events;
use super::faults::Faults;
use super::live::{LiveJob, LiveRun};
use super::queue::Queue;
use super::report::{Report, Speed};
use super::tally::Tally;
use super::trace::{TraceError, TraceJob};
use super::{Config, Policy, fifo};
use crate::domain::ids::{JobId, RunId};
use crate::domain::retry::Retries;
use crate::domain::run::{Phase, Run};
use crate::domain::time::Timestamp;
use crate::scheduler::{self, Decision, EmptyCluster, Feasibility, Placement, Quotas, Request, Snapshot};
use std::collections::{BTreeSet, HashMap};
use std::iter::Peekable;
use std::time::Duration;

/// Instants between two words to the caller.
const TELL_EVERY: u64 = 256;
/// What cannot be placed for so long, with nothing running, never will be.
const STUCK: Duration = Duration::from_secs(30 * 86_400);

/// Measures how long something takes on this machine.
pub trait Stopwatch {
    /// Nanoseconds since any fixed point.
    fn nanos(&mut self) -> u64;
}

/// How far a simulation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Simulated time.
    pub now: Timestamp,
    pub submitted: u64,
    pub unfinished: u64,
    pub waiting: u64,
}

/// Why time stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left to do.
    Done,
    /// The caller wanted no more.
    Interrupted,
    Trace(TraceError),
    /// A decision was wrong: a mistake of ours, found by the checks.
    Broken(String),
}

/// A cluster, what is submitted to it, and the time.
#[derive(Debug)]
pub struct Simulation<T: Iterator<Item = Result<TraceJob, TraceError>>> {
    config: Config,
    trace: Peekable<T>,
    now: Timestamp,
    events: Events,
    snapshot: Snapshot,
    /// The same nodes, always ready and empty.
    empty: EmptyCluster,
    /// What holds for every job; plain FIFO has no rules.
    rules: scheduler::Policy,
    agents: Agents,
    faults: Faults,
    queue: Queue,
    jobs: HashMap<JobId, LiveJob>,
    runs: HashMap<RunId, LiveRun>,
    next_job: u64,
    next_run: u64,
    /// Something was freed, or waits anew.
    due: bool,
    /// Since when nothing ran.
    idle_since: Timestamp,
    checks: Option<Checks>,
    tally: Tally,
    /// Whether the empty cluster could hold jobs of a shape: tasks; GPUs, CPUs and memory of each; GPU types.
    possible: HashMap<(u32, u32, u32, u64, Vec<String>), bool>,
}

/// Shapes of jobs that are remembered.
const MAX_SHAPES: usize = 100_000;

impl<T: Iterator<Item = Result<TraceJob, TraceError>>> Simulation<T> {
    pub fn new(config: Config, trace: T) -> Self {
        let nodes = cluster::nodes(&config.groups);
        let snapshot = Snapshot::new(cluster::snapshot_of(&nodes));
        let mut simulation = Self {
            trace: trace.peekable(),
            now: Timestamp(0),
            events: Events::default(),
            empty: EmptyCluster::of(&snapshot),
            rules: match config.policy {
                Policy::Wharf => scheduler::Policy::default(),
                Policy::Fifo => scheduler::Policy { kept_for_gpus_percent: 0, ..Default::default() },
            },
            snapshot,
            agents: Agents::new(&nodes),
            faults: Faults { seed: config.seed, rate: config.faults },
            queue: Queue::default(),
            jobs: HashMap::new(),
            runs: HashMap::new(),
            next_job: 1,
            next_run: 1,
            due: false,
            idle_since: Timestamp(0),
            checks: config.checks.then(Checks::default),
            tally: Tally::default(),
            possible: HashMap::new(),
            config,
        };
        (0..simulation.agents.len()).for_each(|node| simulation.plan_loss(node));
        simulation
    }

    /// Until nothing is left, or `go_on` says no; it is asked now and then.
    pub fn run(&mut self, watch: &mut dyn Stopwatch, go_on: &mut dyn FnMut(Progress) -> bool) -> Ended {
        for instant in 0u64.. {
            if instant % TELL_EVERY == 0 && !go_on(self.progress()) {
                return Ended::Interrupted;
            }
            match self.instant(watch) {
                Ok(true) => {}
                Ok(false) => break,
                Err(ended) => return ended,
            }
        }
        match &self.checks {
            Some(checks) if self.tally.counts.unfinished() == 0 && !checks.is_empty() => {
                Ended::Broken("everything has ended, and something is promised still".to_owned())
            }
            _ => Ended::Done,
        }
    }

    /// What is known now.
    pub fn report(&mut self) -> (Report, Speed) {
        let report = self.tally.report(self.now, cluster::gpus_of(&self.config.groups));
        let tally = &self.tally;
        let speed = Speed::of(&tally.counts, &tally.placing, &tally.passing, tally.passing_ns);
        (report, speed)
    }

    fn progress(&self) -> Progress {
        Progress {
            now: self.now,
            submitted: self.tally.counts.jobs,
            unfinished: self.tally.counts.unfinished(),
            waiting: self.queue.len() as u64,
        }
    }

    /// Everything of the next instant. False if there is none.
    fn instant(&mut self, watch: &mut dyn Stopwatch) -> Result<bool, Ended> {
        let arrival = match self.trace.peek() {
            Some(Ok(job)) => Some(job.submitted_at),
            Some(Err(error)) => return Err(Ended::Trace(error.clone())),
            None => None,
        };
        if arrival.is_none() && self.jobs.is_empty() && self.runs.is_empty() {
            return Ok(false);
        }
        let Some(next) = arrival.into_iter().chain(self.events.next_at()).min() else { return Ok(false) };
        self.now = self.now.max(next);
        if self.is_stuck(arrival.is_none()) {
            return Ok(false);
        }
        while let Some(Ok(job)) = self.trace.next_if(|job| job.as_ref().is_ok_and(|job| job.submitted_at <= next)) {
            self.submit(&job);
        }
        loop {
            while let Some(event) = self.events.due(self.now) {
                self.happens(event).map_err(Ended::Broken)?;
            }
            if !self.pass(watch).map_err(Ended::Broken)? {
                return Ok(true);
            }
        }
    }

    /// Something waits for ever: scripted losses never leave enough nodes at once.
    fn is_stuck(&mut self, all_submitted: bool) -> bool {
        let waiting_alone = all_submitted && self.tally.is_idle();
        if !waiting_alone {
            self.idle_since = self.now;
        }
        waiting_alone && self.now.since(self.idle_since) > STUCK
    }

    fn submit(&mut self, job: &TraceJob) {
        let id = self.next_job;
        self.next_job += 1;
        let run = self.next_run_id();
        self.tally.submitted(self.now, job.tasks);
        let live = LiveJob {
            id: JobId(id),
            newest_run: run,
            spec: job.spec(self.faults.retry_count(id)),
            submitted_at: job.submitted_at,
            duration: job.duration,
            retries: Retries::default(),
            started: false,
        };
        if !self.is_possible(job, &live) {
            self.tally.counts.impossible += 1;
            return;
        }
        let run = LiveRun::new(Run::new(run, live.id, 1, self.now, self.now), &live);
        self.queue.insert(live.waiting(&run.run, &self.rules));
        self.due = true;
        self.runs.insert(run.run.id, run);
        self.jobs.insert(live.id, live);
    }

    /// Whether the cluster could hold the job if nothing else were there.
    fn is_possible(&mut self, job: &TraceJob, live: &LiveJob) -> bool {
        let shape = (job.tasks, job.gpus, job.cpus, job.memory_mb, job.gpu_types.clone());
        if let Some(known) = self.possible.get(&shape) {
            return *known;
        }
        let request = Request::under(&self.rules, &live.spec);
        let judged = self.empty.judge(&request, &Quotas::default());
        let possible = matches!(judged, Feasibility::Possible | Feasibility::BesideGpuJobs);
        if self.possible.len() < MAX_SHAPES {
            self.possible.insert(shape, possible);
        }
        possible
    }

    /// Asks the scheduler, if there is a reason to. Whether anything is left to do in this instant.
    fn pass(&mut self, watch: &mut dyn Stopwatch) -> Result<bool, String> {
        let counts = &mut self.tally.counts;
        counts.longest_queue = counts.longest_queue.max(self.queue.len() as u64);
        if !std::mem::take(&mut self.due) || self.queue.len() == 0 {
            return Ok(false);
        }
        let before = watch.nanos();
        let decisions = match self.config.policy {
            Policy::Wharf => {
                let quotas = &mut Quotas::default();
                scheduler::schedule_within(&mut self.snapshot, quotas, self.queue.first(), self.now)
            }
            Policy::Fifo => fifo::schedule(&mut self.snapshot, self.queue.first()),
        };
        let took = watch.nanos().saturating_sub(before);
        let is_placed = |decision: &Decision| matches!(decision, Decision::Placed(_));
        let placed: Vec<bool> = decisions.iter().map(|(_, decision)| is_placed(decision)).collect();
        let (mut gpus_taken, mut kept_off, mut vetoed) = (false, false, Vec::new());
        for (waiting, placed) in self.queue.first().iter().zip(&placed) {
            gpus_taken |= *placed && waiting.request.gpu_count() > 0;
            kept_off |= !placed && waiting.request.keeps_for_gpus().is_some();
            if !placed && !waiting.request.avoid.is_empty() {
                vetoed.push(waiting.job);
            }
        }
        // As the controller does: GPUs that are in use keep nothing any more from jobs without GPUs.
        self.due |= gpus_taken && kept_off;
        let gangs = placed.iter().filter(|placed| **placed).count() as u64;
        let counts = &mut self.tally.counts;
        counts.passes += 1;
        counts.decisions += decisions.len() as u64;
        counts.gangs_placed += gangs;
        self.tally.placing.add(took, gangs);
        self.tally.passing.add(took, 1);
        self.tally.passing_ns += u128::from(took);
        if gangs > 0 {
            // One answer for each that waits, in the same order; with plain FIFO, for some.
            let mut answers = placed.into_iter();
            self.queue.remove(|_| answers.next().unwrap_or(false));
        }
        let mut seated = BTreeSet::new();
        for (job, decision) in decisions {
            let Decision::Placed(placements) = decision else { continue };
            if self.checks.is_some() {
                seated.extend(placements.iter().map(|placement| placement.node.clone()));
            }
            self.place(job, placements)?;
        }
        vetoed.into_iter().for_each(|job| self.forgive(job));
        if let Some(checks) = &self.checks {
            checks.compare(&self.snapshot, &seated)?;
        }
        Ok(self.due || self.events.next_at().is_some_and(|at| at <= self.now))
    }

    fn place(&mut self, job: JobId, placements: Vec<Placement>) -> Result<(), String> {
        let now = self.now;
        let Some(live) = self.newest_run(job) else { return Err(format!("job {job} was placed and does not wait")) };
        let id = live.run.id;
        live.place(placements, now);
        let live = &self.runs[&id];
        let gpus = live.run.tasks.iter().map(|task| task.seat.gpus.len() as u64).sum();
        self.tally.placed(now, live.run.tasks.len() as u64, gpus);
        if let Some(checks) = &mut self.checks {
            let promises: Vec<_> = live.run.tasks.iter().map(|task| live.promise_of(task)).collect();
            checks.placed(&live.run, &live.spec, &promises, &self.snapshot)?;
        }
        self.command(id);
        Ok(())
    }

    /// As the controller does: if nobody else can take the gang, the nodes that vetoed are asked again.
    fn forgive(&mut self, job: JobId) {
        let Some(live) = self.newest_run(job).filter(|live| !live.run.avoid.is_empty()) else { return };
        live.run.avoid.clear();
        let id = live.run.id;
        self.enqueue(id);
    }

    fn next_run_id(&mut self) -> RunId {
        self.next_run += 1;
        RunId(self.next_run - 1)
    }

    /// The run of a job that waits.
    fn newest_run(&mut self, job: JobId) -> Option<&mut LiveRun> {
        let id = self.jobs.get(&job)?.newest_run;
        self.runs.get_mut(&id).filter(|live| live.run.phase == Phase::Waiting)
    }

    /// Has a run wait for its turn, or say anew what it asks for.
    fn enqueue(&mut self, id: RunId) {
        let Some(live) = self.runs.get(&id).filter(|live| live.run.phase == Phase::Waiting) else { return };
        // Until then, `Wake` is on its way.
        if live.run.not_before > self.now {
            return;
        }
        if let Some(job) = self.jobs.get(&live.run.job) {
            self.queue.insert(job.waiting(&live.run, &self.rules));
            self.due = true;
        }
    }

    /// Gives the agents of a run the commands that they were not given yet.
    fn command(&mut self, id: RunId) {
        let Some(live) = self.runs.get_mut(&id) else { return };
        let mut news = live.news();
        while let Some(first) = news.first() {
            let verb = first.verb;
            let others = news.iter().position(|action| action.verb != verb).unwrap_or(news.len());
            let rest = news.split_off(others);
            self.ask(id, std::mem::replace(&mut news, rest));
        }
    }
}
