//! The state as callers are shown it.

use super::deaf::Unanswered;
use super::faults;
use super::holdings::Holdings;
use super::state::{Node, State};
use super::{drain, permits, schedule};
use crate::domain::exit::ExitClass;
use crate::domain::gpu::Gpu;
use crate::domain::ids::{GpuUuid, TaskId};
use crate::domain::job::Job;
use crate::domain::retry::Retries;
use crate::domain::run::{Phase, Run, RunTask};
use crate::domain::spec::JobSpec;
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;
use crate::domain::view::{GpuHolder, GpuView, JobView, NodeView, RetriesView, RunView, TaskView};
use std::collections::{BTreeMap, BTreeSet};

/// A job; with the tasks of `tasks_of`, where given.
pub(super) fn job(state: &State, job: &Job, tasks_of: Option<&Run>) -> JobView {
    let spec = state.specs.get(&job.id);
    let newest = state.runs.get(&job.newest_run());
    let running = newest.map_or(0, |run| run.tasks.iter().filter(|task| task.state == TaskState::Running).count());
    JobView {
        job_id: job.id.0,
        name: job.name.clone(),
        user: job.user.clone(),
        state: job.state.as_str().to_owned(),
        priority: job.priority,
        chain_id: job.chain_id.clone(),
        run_id: job.newest_run().0,
        submitted_at: job.submitted_at,
        exit: job.exit.clone(),
        reason: reason(state, job, newest),
        runs: job.runs.iter().filter_map(|id| state.runs.get(id)).map(run).collect(),
        tasks: tasks_of.zip(spec).map(|(run, spec)| tasks(state, run, spec)),
        tasks_running: u32::try_from(running).unwrap_or(u32::MAX),
        tasks_total: spec.map_or(0, |spec| spec.task_count()),
        gpus_total: spec.map_or(0, |spec| spec.roles.iter().map(|role| role.gpus.saturating_mul(role.count)).sum()),
        retries: RetriesView {
            user: job.retries.counted,
            platform: job.retries.platform,
            hardware: job.retries.hardware,
            asked: job.retries.asked,
        },
        next_run_at: newest.and_then(next_run_at).filter(|_| !job.state.is_terminal()),
    }
}

/// The run waits, and was told until when. In the past once it only waits for a place.
fn next_run_at(run: &Run) -> Option<Timestamp> {
    let told = run.phase == Phase::Waiting && run.not_before > run.queued_at;
    told.then_some(run.not_before)
}

/// Why a run that is not the first waits: what the one before it ended of, and how often that has been.
fn again(state: &State, job: &Job, run: &Run) -> Option<String> {
    let before = job.runs.iter().rev().nth(1).and_then(|id| state.runs.get(id));
    let why = before.and_then(|run| run.outcome.as_ref()).map_or("", |outcome| outcome.exit.reason.as_str());
    let count = |times: u64, whose: &str| (times > 0).then(|| format!("{times} {whose}"));
    let Retries { counted, platform, hardware, asked } = job.retries;
    let counts =
        [count(counted, "user"), count(platform, "platform"), count(hardware, "hardware"), count(asked, "asked")];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    if counts.is_empty() {
        return None;
    }
    let at = next_run_at(run).map_or_else(String::new, |at| format!(" not before {}", at.to_rfc3339()));
    Some(format!("run again (attempt {}{at}; retries: {}) after: {why}", run.attempt, counts.join(", ")))
}

/// The first of the tasks that are kept for somebody to look at.
fn held(run: &Run, spec: &JobSpec) -> Option<String> {
    let held = run.tasks.iter().filter_map(|task| Some((task, task.held_until?)));
    let (task, until) = held.min_by_key(|(task, until)| (*until, task.role, task.index))?;
    let role = spec.roles.get(task.role as usize).map_or("?", |role| role.name.as_str());
    let why = task.notices.last().map_or_else(String::new, |notice| format!(": {notice}"));
    Some(format!("held until {}: task {role}[{}]{why}", until.to_rfc3339(), task.index))
}

/// One sentence on where the job stands.
fn reason(state: &State, job: &Job, run: Option<&Run>) -> Option<String> {
    if let Some(exit) = &job.exit {
        return Some(exit.reason.clone());
    }
    let run = run?;
    match run.phase {
        Phase::Waiting => {
            let again = if run.rolled_back.is_none() { again(state, job, run) } else { None };
            Some(again.unwrap_or_else(|| schedule::why_waiting(state, run)))
        }
        Phase::Stopping => {
            let unreachable: BTreeSet<&str> = run
                .tasks
                .iter()
                .filter(|task| !task.state.is_terminal())
                .filter(|task| state.nodes.get(&task.seat.node).is_none_or(|node| !node.answers()))
                .map(|task| task.seat.node.0.as_str())
                .collect();
            let names = unreachable.into_iter().collect::<Vec<_>>().join(", ");
            let preempted = run.outcome.as_ref().filter(|outcome| outcome.exit.class == ExitClass::Preempted);
            match names.is_empty() {
                false => Some(format!("its tasks on {names} cannot be reached")),
                true => preempted.map(|outcome| format!("it makes room: {}", outcome.exit.reason)),
            }
        }
        Phase::Staging => Some("its images and code are being fetched".to_owned()),
        Phase::Preparing | Phase::Launching => Some("its tasks are being prepared".to_owned()),
        Phase::Running => held(run, state.specs.get(&job.id)?),
        Phase::Ended => None,
    }
}

fn run(run: &Run) -> RunView {
    let nodes: BTreeSet<_> = run.tasks.iter().map(|task| &task.seat.node).collect();
    RunView {
        run_id: run.id.0,
        attempt: run.attempt,
        state: crate::domain::job::JobState::of_run(run).as_str().to_owned(),
        node_count: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        started_at: run.started_at,
        ended_at: run.ended_at,
        exit: run.outcome.as_ref().filter(|_| run.phase == Phase::Ended).map(|outcome| outcome.exit.clone()),
    }
}

/// Tasks of a run; a waiting run has seatless ones.
fn tasks(state: &State, run: &Run, spec: &JobSpec) -> Vec<TaskView> {
    if run.tasks.is_empty() {
        return spec.tasks().map(|(role, index)| seatless(run, spec, role, index)).collect();
    }
    run.tasks.iter().map(|task| seated(state, run, spec, task)).collect()
}

fn seated(state: &State, run: &Run, spec: &JobSpec, task: &RunTask) -> TaskView {
    let shown = shown_state(run, task);
    // Only staging takes so long that somebody tells of it; what comes late is of no state any more.
    let told = state.nodes.get(&task.seat.node).filter(|node| node.reachable && shown == TaskState::Staging);
    let progress = told.and_then(|node| node.progress.get(&run.task_id(task.role, task.index)));
    TaskView {
        node: Some(task.seat.node.0.clone()),
        ip: Some(task.seat.ip.clone()),
        ports: task.seat.ports.iter().map(|ports| (ports.label.clone(), ports.ports.clone())).collect(),
        gpus: task.seat.gpus.iter().map(|gpu| gpu.0.clone()).collect(),
        state: shown.as_str().to_owned(),
        progress: progress.cloned(),
        held_until: task.held_until,
        started_at: task.started_at,
        ended_at: task.ended_at,
        exit: task.exit.clone(),
        notices: task.notices.clone(),
        ..seatless(run, spec, task.role, task.index)
    }
}

/// What a task is about to be, where the agent has not said yet.
fn shown_state(run: &Run, task: &RunTask) -> TaskState {
    match (run.phase, task.state) {
        (Phase::Staging, TaskState::Waiting) => TaskState::Staging,
        (Phase::Preparing, TaskState::Waiting) => TaskState::Preparing,
        (Phase::Stopping, state) if !state.is_terminal() => TaskState::Stopping,
        (_, state) => state,
    }
}

fn seatless(run: &Run, spec: &JobSpec, role: u32, index: u32) -> TaskView {
    let stopped = run.phase == Phase::Ended;
    TaskView {
        id: run.task_id(role, index).to_string(),
        role: spec.roles.get(role as usize).map_or_else(String::new, |role| role.name.clone()),
        index,
        state: if stopped { TaskState::Stopped } else { TaskState::Waiting }.as_str().to_owned(),
        node: None,
        ip: None,
        ports: BTreeMap::new(),
        gpus: Vec::new(),
        started_at: None,
        ended_at: None,
        exit: None,
        notices: Vec::new(),
        progress: None,
        held_until: None,
    }
}

/// Every node.
pub(super) fn nodes(state: &State) -> Vec<NodeView> {
    let holdings = Holdings::of(state);
    state.nodes.values().map(|each| node(state, each, &holdings)).collect()
}

pub(super) fn node(state: &State, node: &Node, holdings: &Holdings) -> NodeView {
    let inventory = &node.registration.inventory;
    let divided = |gpu: &Gpu| inventory.gpus.iter().any(|other| other.mig_parent.as_ref() == Some(&gpu.uuid));
    let usable: Vec<&Gpu> = inventory.gpus.iter().filter(|gpu| !divided(gpu)).collect();
    let barred = |gpu: &GpuUuid| inventory.gpu_conditions.iter().any(|condition| condition.gpu == *gpu);
    let free = usable.iter().filter(|gpu| !holdings.gpus.contains_key(&gpu.uuid) && !barred(&gpu.uuid)).count();
    NodeView {
        name: node.registration.name.0.clone(),
        address: node.registration.address.clone(),
        state: drain::state_of(node).as_str().to_owned(),
        reason: why(state, node),
        by: Some(node.standing.by.clone()).filter(|by| !by.is_empty()),
        since: node.standing.since.or(node.standing.lost_at),
        deadline: node.standing.deadline,
        standing: drain::standing_of(&node.standing).as_str().to_owned(),
        tasks_held: holdings.tasks_on(&node.registration.name),
        gpus_total: u32::try_from(usable.len()).unwrap_or(u32::MAX),
        gpus_free: u32::try_from(free).unwrap_or(u32::MAX),
        cpus: inventory.cpus,
        memory_mb: inventory.memory_mb,
        labels: inventory.labels.clone(),
        version: node.registration.version.clone(),
        node_uid: node.uid().0.clone(),
        last_heartbeat: node.last_heartbeat,
        gpu_driver: inventory.gpu_driver.clone(),
    }
}

/// One sentence on why a node takes no tasks.
fn why(state: &State, node: &Node) -> Option<String> {
    let wished = node.standing.sentence();
    if node.answers() {
        let goes = permits::why(node);
        let parts: Vec<String> = wished.into_iter().chain(faults::why(state, node)).chain(goes).collect();
        return Some(parts.join("; ")).filter(|why| !why.is_empty());
    }
    let doubt = state.suspicion.filter(|_| node.standing.lost_at.is_some());
    let deaf = node.unanswered.as_ref().filter(|_| node.reachable);
    let silent = deaf.map_or_else(|| "its agent has not been heard".to_owned(), Unanswered::sentence);
    let parts = std::iter::once(silent).chain(doubt.map(|doubt| doubt.to_string())).chain(wished);
    Some(parts.collect::<Vec<_>>().join("; "))
}

pub(super) fn gpus(state: &State, node: &Node, holdings: &Holdings) -> Vec<GpuView> {
    let inventory = &node.registration.inventory;
    let view = |gpu: &Gpu| {
        let sample = node.samples.get(&gpu.uuid).cloned().unwrap_or_default();
        let condition = inventory.gpu_conditions.iter().find(|condition| condition.gpu == gpu.uuid);
        let holder = holdings.gpus.get(&gpu.uuid).map(|task| holder(state, *task));
        let faults = faults::of_gpu(&node.faults, gpu.mig_parent.as_ref().unwrap_or(&gpu.uuid));
        GpuView { faults, ..GpuView::of(&node.registration.name.0, gpu, &sample, condition, holder) }
    };
    inventory.gpus.iter().map(view).collect()
}

fn holder(state: &State, task: TaskId) -> GpuHolder {
    let job = state.jobs.get(&task.job);
    let run = state.runs.get(&task.run);
    GpuHolder {
        task: task.to_string(),
        job: job.map(|job| job.name.clone()),
        user: job.map(|job| job.user.clone()),
        since: run.and_then(|run| run.tasks.get(run.find(task.role, task.index)?)?.started_at),
    }
}
