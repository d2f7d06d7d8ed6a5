//! One node with everything on it, as `wharf node show` prints it.

use super::holdings::Holdings;
use super::state::{Node, State};
use super::views;
use crate::domain::ids::TaskId;
use crate::domain::run::{Run, Seat};
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;
use crate::domain::view::{NodeDetail, NodeTask};

/// The node, its GPUs, and every task that holds anything of it, by task id.
pub(super) fn of(state: &State, node: &Node) -> NodeDetail {
    let holdings = Holdings::of(state);
    let mut tasks: Vec<_> = state
        .unsettled
        .iter()
        .filter_map(|id| state.runs.get(id))
        .flat_map(|run| tasks(state, run, &node.registration.name.0))
        .collect();
    tasks.sort_by_key(|(id, _)| *id);
    let tasks: Vec<NodeTask> = tasks.into_iter().map(|(_, task)| task).collect();
    let cpus_held = tasks.iter().fold(0u32, |sum, task| sum.saturating_add(task.cpus));
    let memory_held = tasks.iter().fold(0u64, |sum, task| sum.saturating_add(task.memory_mb));
    let view = views::node(state, node, &holdings);
    NodeDetail {
        cpus_free: view.cpus.saturating_sub(cpus_held),
        memory_free_mb: view.memory_mb.saturating_sub(memory_held),
        gpus: views::gpus(state, node, &holdings),
        node: view,
        tasks,
    }
}

/// What one run has on the node called `name`: its seats there, and what earlier placements have not given back yet.
fn tasks(state: &State, run: &Run, name: &str) -> Vec<(TaskId, NodeTask)> {
    let seated = run.tasks.iter().filter(|task| !task.released && task.seat.node.0 == name);
    let seated =
        seated.map(|task| view(state, run, (task.role, task.index), &task.seat, task.state, task.started_at));
    let left = run.leftovers.iter().filter(|left| left.seat.node.0 == name);
    let left = left.map(|left| view(state, run, (left.role, left.index), &left.seat, TaskState::Stopping, None));
    seated.chain(left).collect()
}

fn view(
    state: &State,
    run: &Run,
    (role, index): (u32, u32),
    seat: &Seat,
    task_state: TaskState,
    started_at: Option<Timestamp>,
) -> (TaskId, NodeTask) {
    let id = run.task_id(role, index);
    let shape = state.specs.get(&run.job).and_then(|spec| spec.roles.get(role as usize));
    let job = state.jobs.get(&run.job);
    let task = NodeTask {
        id: id.to_string(),
        job_id: run.job.0,
        job: job.map_or_else(String::new, |job| job.name.clone()),
        user: job.map_or_else(String::new, |job| job.user.clone()),
        role: shape.map_or_else(String::new, |role| role.name.clone()),
        index,
        state: task_state.as_str().to_owned(),
        gpus: seat.gpus.iter().map(|gpu| gpu.0.clone()).collect(),
        cpus: shape.map_or(0, |role| role.cpus),
        memory_mb: shape.map_or(0, |role| role.memory_mb),
        started_at,
    };
    (id, task)
}
