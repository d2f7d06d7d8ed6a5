//! Jobs and runs that are not over yet, and what is promised to them.

use crate::domain::allocation::Claim;
use crate::domain::ids::{Generation, JobId, RunId};
use crate::domain::promise::Promise;
use crate::domain::retry::Retries;
use crate::domain::run::{Action, Run, RunTask, Seat, Verb};
use crate::domain::spec::JobSpec;
use crate::domain::time::Timestamp;
use crate::scheduler::{self, Placement, Request, Waiting};
use std::time::Duration;

/// A job with its newest run.
#[derive(Debug)]
pub(super) struct LiveJob {
    pub(super) id: JobId,
    pub(super) newest_run: RunId,
    pub(super) spec: JobSpec,
    pub(super) submitted_at: Timestamp,
    pub(super) duration: Duration,
    pub(super) retries: Retries,
    /// Its tasks have run.
    pub(super) started: bool,
}

impl LiveJob {
    pub(super) fn waiting(&self, run: &Run, rules: &scheduler::Policy) -> Waiting {
        Waiting {
            job: self.id,
            priority: self.spec.priority,
            submitted_at: self.submitted_at,
            not_before: None,
            request: Request { avoid: run.excluded_nodes(), ..Request::under(rules, &self.spec) },
        }
    }
}

/// A run until all of it is released; its job may have another one by then.
#[derive(Debug)]
pub(super) struct LiveRun {
    pub(super) run: Run,
    pub(super) spec: JobSpec,
    pub(super) duration: Duration,
    /// What the agent of each task was told last.
    told: Vec<Option<Verb>>,
}

impl LiveRun {
    pub(super) fn new(run: Run, job: &LiveJob) -> Self {
        Self { run, spec: job.spec.clone(), duration: job.duration, told: Vec::new() }
    }

    pub(super) fn place(&mut self, placements: Vec<Placement>, now: Timestamp) {
        let seat = |placement: Placement| {
            let Placement { role, index, node, gpus, ports, passed } = placement;
            // A node is its own host.
            (role, index, Seat { ip: node.0.clone(), node, gpus, ports, passed })
        };
        self.run.place(placements.into_iter().map(seat).collect(), now);
        self.told = vec![None; self.run.tasks.len()];
    }

    /// Commands that were not given yet.
    pub(super) fn news(&mut self) -> Vec<Action> {
        let mut news = Vec::new();
        for at in 0..self.run.tasks.len() {
            if let Some(action) = self.run.action_of(at).filter(|action| self.told[at] != Some(action.verb)) {
                self.told[at] = Some(action.verb);
                news.push(action);
            }
        }
        news
    }

    pub(super) fn promise(&self, role: u32, generation: Generation, seat: &Seat) -> Promise {
        promise(&self.spec, role, generation, seat)
    }

    pub(super) fn promise_of(&self, task: &RunTask) -> Promise {
        self.promise(task.role, self.run.generation, &task.seat)
    }
}

/// What a seat takes from its node.
fn promise(spec: &JobSpec, role: u32, generation: Generation, seat: &Seat) -> Promise {
    let (cpus, memory_mb) = spec.roles.get(role as usize).map_or((0, 0), |role| (role.cpus, role.memory_mb));
    Promise {
        generation,
        node: seat.node.clone(),
        host: seat.ip.clone(),
        claim: Claim {
            gpus: seat.gpus.clone(),
            ports: seat.ports.iter().flat_map(|ports| ports.ports.iter().copied()).collect(),
            cpus,
            memory_mb,
            ..Claim::default()
        },
        passed: seat.passed,
    }
}
