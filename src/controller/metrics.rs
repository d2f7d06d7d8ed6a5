//! What monitoring reads of the fleet, counted at that moment.

use super::core::{Controller, read};
use super::drain;
use super::holdings::Holdings;
use super::state::State;
use super::views;
use crate::domain::gpu::GpuState;
use crate::domain::job::JobState;
use crate::domain::metrics::{self, Sample, counted};
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;
use crate::scheduler::NodeState;

pub(super) fn of(controller: &Controller) -> Vec<Sample> {
    let now = controller.parts.clock.now();
    let state = read(&controller.shared);
    let mut samples = vec![
        metrics::build("controller"),
        Sample::new(&metrics::LEADS, 1.0),
        Sample::new(&metrics::QUEUE, state.queue.len() as f64),
    ];
    samples.extend(state.launches.samples(&metrics::LAUNCH));
    samples.extend(jobs(&state));
    samples.extend(nodes(&state, now));
    samples.extend(gpus(&state));
    let tasks = state.unsettled.iter().filter_map(|run| state.runs.get(run)).flat_map(|run| &run.tasks);
    samples.extend(counted(
        &metrics::TASKS,
        TaskState::ALL.map(TaskState::as_str),
        tasks.map(|task| task.state.as_str()),
    ));
    samples.extend(metrics::of_faults(state.nodes.values().flat_map(|node| &node.faults)));
    samples
}

fn jobs(state: &State) -> Vec<Sample> {
    let words = JobState::ALL.map(JobState::as_str);
    counted(&metrics::JOBS, words, state.jobs.values().map(|job| job.state.as_str()))
}

fn nodes(state: &State, now: Timestamp) -> Vec<Sample> {
    let words = NodeState::ALL.map(NodeState::as_str);
    let states = state.nodes.values().map(|node| drain::state_of(node).as_str());
    let age = |node: &super::state::Node| {
        // Of one that was lost before this controller began, since then.
        let age = now.since(node.last_heartbeat.or(node.standing.lost_at)?).as_secs_f64();
        Some(Sample::with(&metrics::HEARTBEAT_AGE, &[node.registration.name.0.as_str()], age))
    };
    let mut samples = counted(&metrics::NODES, words, states);
    samples.extend(state.nodes.values().filter_map(age));
    samples
}

fn gpus(state: &State) -> Vec<Sample> {
    let holdings = Holdings::of(state);
    let gpus = state.nodes.values().flat_map(|node| views::gpus(state, node, &holdings));
    let states: Vec<&str> = gpus.map(|gpu| gpu.state.as_str()).collect();
    counted(&metrics::GPUS, GpuState::ALL.map(GpuState::as_str), states)
}
