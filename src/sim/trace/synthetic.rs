//! A trace made from a seed, in the shape that operators of shared GPU clusters have published: most jobs have one GPU,
//! few are huge and have much of the GPU time, durations have a heavy tail, and more is submitted by day.
//!
//! | what | how |
//! |---|---|
//! | GPUs of a job | 0: 4 %, 1: 72 %, 2: 9 %, 4: 5 %, 8: 6.5 %, 16: 2 %, 32: 0.8 %, 64: 0.4 %, 128: 0.2 %, 256: 0.1 %; none with more than a quarter of the cluster |
//! | tasks | one, as long as a node has enough GPUs; else whole nodes |
//! | CPUs of a task | 4 (half of the jobs), 8 (40 %) or 12 for each GPU; 1, 4 or 16 without GPUs |
//! | memory | 4000 MB for each CPU |
//! | duration | log-normal, median 10 minutes, sigma 1.8 (mean 51 minutes, one in a hundred over 11 hours), 10 s to 7 days |
//! | arrivals | Poisson, half as many more at 15:00 and half as many fewer at 3:00; in whole seconds |
//!
//! The rate of arrivals follows from the load: the GPUs that jobs ask for, by time, over those of the cluster.

use super::{TraceError, TraceJob};
use crate::domain::time::Timestamp;
use crate::sim::chance::Chance;
use crate::sim::cluster::{NodeGroup, gpus_of};
use std::time::Duration;

const SIZES: [(u32, f64); 10] =
    [(0, 4.0), (1, 72.0), (2, 9.0), (4, 5.0), (8, 6.5), (16, 2.0), (32, 0.8), (64, 0.4), (128, 0.2), (256, 0.1)];
const CPUS_PER_GPU: [(u32, f64); 3] = [(4, 5.0), (8, 4.0), (12, 1.0)];
const CPUS_ALONE: [(u32, f64); 3] = [(1, 1.0), (4, 1.0), (16, 1.0)];
const MEMORY_MB_PER_CPU: u64 = 4000;
const MEDIAN_S: f64 = 600.0;
const SIGMA: f64 = 1.8;
const SHORTEST_S: f64 = 10.0;
const LONGEST_S: f64 = 7.0 * DAY_S;
const DAY_S: f64 = 86_400.0;
/// How much more at the peak than on average, and when that is.
const SWING: f64 = 0.5;
const PEAK_S: f64 = 15.0 * 3600.0;

/// Jobs without end; take as many as are wanted.
#[derive(Debug, Clone)]
pub struct Synthetic {
    chance: Chance,
    sizes: Vec<(u32, f64)>,
    gpus_per_node: u32,
    /// Arrivals a second, at the peak.
    peak_rate: f64,
    now_s: f64,
}

impl Synthetic {
    /// For a cluster; `load` 1 asks on average for all of its GPUs (for all of its CPUs where it has no GPUs).
    pub fn new(groups: &[NodeGroup], load: f64, seed: u64) -> Self {
        let gpus = gpus_of(groups);
        // Jobs of whole nodes must find nodes that have as much.
        let gpus_per_node = groups.iter().map(|group| group.gpus).filter(|gpus| *gpus > 0).min().unwrap_or(0);
        let fits = |size: u32| size <= 1 || u64::from(size) * 4 <= gpus;
        let whole = |size: u32| size <= gpus_per_node || size.is_multiple_of(gpus_per_node.max(1));
        let sizes: Vec<(u32, f64)> = match gpus {
            0 => vec![(0, 1.0)],
            _ => SIZES.into_iter().filter(|(size, _)| fits(*size) && whole(*size)).collect(),
        };
        let mean = |values: &[(u32, f64)]| {
            let weights: f64 = values.iter().map(|(_, weight)| weight).sum();
            values.iter().map(|(value, weight)| f64::from(*value) * weight).sum::<f64>() / weights
        };
        let (capacity, need) = match gpus {
            0 => {
                let cpus: u64 = groups.iter().map(|group| u64::from(group.nodes) * u64::from(group.cpus)).sum();
                (cpus as f64, mean(&CPUS_ALONE))
            }
            gpus => (gpus as f64, mean(&sizes)),
        };
        let mean_s = MEDIAN_S * (SIGMA * SIGMA / 2.0).exp();
        let rate = load * capacity / (need * mean_s);
        Self {
            chance: Chance::of(&[seed, 0x7_2ACE]),
            sizes,
            gpus_per_node,
            peak_rate: rate * (1.0 + SWING),
            now_s: 0.0,
        }
    }

    /// The next arrival: of those at the peak's rate, as many as the time of day lets through.
    fn advance(&mut self) {
        loop {
            self.now_s += self.chance.exponential(1.0 / self.peak_rate);
            let day = (self.now_s - PEAK_S) / DAY_S * std::f64::consts::TAU;
            if self.chance.happens((1.0 + SWING * day.cos()) / (1.0 + SWING)) {
                return;
            }
        }
    }

    fn job(&mut self) -> TraceJob {
        self.advance();
        let size = self.chance.weighted(&self.sizes).unwrap_or(0);
        let (tasks, gpus) = match size {
            size if size <= self.gpus_per_node => (1, size),
            size => (size / self.gpus_per_node.max(1), self.gpus_per_node),
        };
        let cpus = match gpus {
            0 => self.chance.weighted(&CPUS_ALONE).unwrap_or(1),
            gpus => gpus * self.chance.weighted(&CPUS_PER_GPU).unwrap_or(4),
        };
        let duration_s = self.chance.log_normal(MEDIAN_S, SIGMA).clamp(SHORTEST_S, LONGEST_S);
        TraceJob {
            submitted_at: Timestamp(0).plus(Duration::from_secs(self.now_s as u64)),
            duration: Duration::from_secs(duration_s as u64),
            tasks,
            gpus,
            cpus,
            memory_mb: u64::from(cpus) * MEMORY_MB_PER_CPU,
            priority: 0,
            gpu_types: Vec::new(),
        }
    }
}

impl Iterator for Synthetic {
    type Item = Result<TraceJob, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(Ok(self.job()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(groups: &[NodeGroup], load: f64, seed: u64, count: usize) -> Vec<TraceJob> {
        Synthetic::new(groups, load, seed).take(count).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_seed_makes_a_trace_in_order() {
        let groups = [NodeGroup::of(100, 8, "H100")];
        let made = jobs(&groups, 0.9, 1, 2000);
        assert_eq!(made, jobs(&groups, 0.9, 1, 2000));
        assert_ne!(made, jobs(&groups, 0.9, 2, 2000));
        assert!(made.is_sorted_by_key(|job| job.submitted_at));
    }

    #[test]
    fn most_are_small_few_are_huge_and_the_load_is_what_was_asked_for() {
        let groups = [NodeGroup::of(500, 8, "H100")];
        let made = jobs(&groups, 0.8, 3, 40_000);
        let part = |of: &dyn Fn(&TraceJob) -> bool| made.iter().filter(|job| of(job)).count() as f64 / 40_000.0;
        assert!((0.7..0.75).contains(&part(&|job| job.gpu_count() == 1)));
        assert!((0.004..0.01).contains(&part(&|job| job.gpu_count() >= 64)));
        assert!(made.iter().all(|job| job.gpus <= 8 && (job.tasks == 1 || job.gpus == 8)));
        let asked: f64 = made.iter().map(|job| job.gpu_count() as f64 * job.duration.as_secs_f64()).sum();
        let span = made.last().unwrap().submitted_at.since(Timestamp(0)).as_secs_f64();
        let load = asked / (span * 4000.0);
        assert!((0.6..1.0).contains(&load), "{load}");
    }

    #[test]
    fn jobs_fit_the_machines_there_are() {
        for (gpus, nodes) in [(0, 3), (1, 1), (3, 40), (4, 10), (16, 100)] {
            let groups = [NodeGroup::of(nodes, gpus, "T4"), NodeGroup::of(1, 0, "")];
            for job in jobs(&groups, 1.0, 4, 500) {
                assert!(job.gpus <= gpus && job.tasks >= 1);
                assert!(job.gpu_count() <= 1 || job.gpu_count() * 4 <= u64::from(gpus * nodes));
            }
        }
    }
}
