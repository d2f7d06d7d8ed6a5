//! What comes out: of the simulated cluster, the same for one seed on any day; and of this machine, which is not.

use super::histogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// What happened, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub jobs: u64,
    pub tasks: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// More than the cluster has, even empty.
    pub impossible: u64,
    /// Further runs of jobs.
    pub retries: u64,
    /// Placements that were given back before their tasks ran.
    pub roll_backs: u64,
    /// By agents' scripts.
    pub vetoes: u64,
    pub node_losses: u64,
    /// Tasks whose node went down with them.
    pub lost_tasks: u64,
    /// Passes of the scheduler over the queue, and answers it gave about a job.
    pub passes: u64,
    pub decisions: u64,
    /// Gangs, and tasks, that were given places.
    pub gangs_placed: u64,
    pub tasks_placed: u64,
    pub longest_queue: u64,
}

impl Counts {
    /// Jobs that wait or run.
    pub fn unfinished(&self) -> u64 {
        self.jobs - self.succeeded - self.failed - self.impossible
    }
}

/// How long jobs of one size waited, from their submission to the placement that they started with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaitReport {
    /// GPUs of the job.
    pub gpus: String,
    pub jobs: u64,
    pub mean_s: f64,
    pub p50_s: f64,
    pub p90_s: f64,
    pub p99_s: f64,
    pub max_s: f64,
}

/// The outcome of a simulation. Follows from its configuration, trace and seed alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub counts: Counts,
    /// Part of all GPUs that a task ran on, from the first submission to the end; none without GPUs.
    pub gpu_utilisation: Option<f64>,
    /// The same until the last submission: without the time in which only what is left runs out.
    pub gpu_utilisation_while_submitting: Option<f64>,
    /// Part of all GPUs that was promised to a job.
    pub gpu_allocation: Option<f64>,
    /// From the first submission until everything had ended and was released.
    pub makespan_s: f64,
    /// All jobs first, then by size.
    pub waits: Vec<WaitReport>,
}

/// How fast this machine was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// In passes of the scheduler.
    pub scheduler_s: f64,
    /// Tasks given their places, and answers about jobs, for each second in passes of the scheduler.
    pub placements_per_s: f64,
    pub decisions_per_s: f64,
    /// How long the pass took that placed a gang.
    pub placement_p50_ms: f64,
    pub placement_p99_ms: f64,
    pub placement_max_ms: f64,
    /// How long any pass took.
    pub pass_p50_ms: f64,
    pub pass_p99_ms: f64,
    pub pass_max_ms: f64,
}

impl WaitReport {
    /// From how often each waiting time, in milliseconds, was seen.
    pub(super) fn of(gpus: &str, waits: &BTreeMap<u64, u64>) -> Self {
        let jobs: u64 = waits.values().sum();
        let seconds = |millis: u64| Duration::from_millis(millis).as_secs_f64();
        let percentile = |percent: u64| {
            let rank = (jobs * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let hit = waits.iter().find(|(_, count)| {
                seen += **count;
                seen >= rank
            });
            hit.map_or(0.0, |(wait, _)| seconds(*wait))
        };
        let sum: u128 = waits.iter().map(|(wait, count)| u128::from(*wait) * u128::from(*count)).sum();
        Self {
            gpus: gpus.to_owned(),
            jobs,
            mean_s: seconds(u64::try_from(sum / u128::from(jobs.max(1))).unwrap_or(u64::MAX)),
            p50_s: percentile(50),
            p90_s: percentile(90),
            p99_s: percentile(99),
            max_s: percentile(100),
        }
    }
}

impl Speed {
    pub(super) fn of(counts: &Counts, placing: &Histogram, passing: &Histogram, passing_ns: u128) -> Self {
        let scheduler_s = passing_ns as f64 / 1e9;
        let rate = |count: u64| if passing_ns == 0 { 0.0 } else { count as f64 / scheduler_s };
        let ms = |nanos: u64| nanos as f64 / 1e6;
        Self {
            scheduler_s,
            placements_per_s: rate(counts.tasks_placed),
            decisions_per_s: rate(counts.decisions),
            placement_p50_ms: ms(placing.percentile(50)),
            placement_p99_ms: ms(placing.percentile(99)),
            placement_max_ms: ms(placing.max()),
            pass_p50_ms: ms(passing.percentile(50)),
            pass_p99_ms: ms(passing.percentile(99)),
            pass_max_ms: ms(passing.max()),
        }
    }
}
