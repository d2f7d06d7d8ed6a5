//! What has to be true of every schedule, by what the machines have written down and what the controller says.

use super::fleet::{Fleet, user};
use super::machine::{Cause, Execution};
use crate::api::ControllerApi;
use crate::domain::event::Event;
use crate::domain::exit::ExitClass;
use crate::domain::ids::TaskId;
use crate::domain::view::TaskView;
use std::collections::BTreeMap;
use std::fmt;

/// What was seen, for a table.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub schedules: u64,
    pub faults: u64,
    pub jobs: u64,
    pub executions: u64,
    pub exits: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.faults += other.faults;
        self.jobs += other.jobs;
        self.executions += other.executions;
        self.exits += other.exits;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedules, faults, jobs, executions, exits } = self;
        write!(f, "{schedules} schedules: {faults} faults, {jobs} jobs, {executions} executions, {exits} ends told")
    }
}

pub async fn audit(fleet: &Fleet) -> Result<Figures, String> {
    let executions: Vec<Execution> = fleet.nodes.iter().flat_map(|node| node.machine.executions()).collect();
    nothing_twice(&executions)?;
    let tasks = tasks(fleet).await?;
    for execution in &executions {
        let asked = was_asked_to_end(fleet, execution, &executions, &tasks);
        end_is_told(fleet, execution, asked, &tasks)?;
        if execution.cause == Some(Cause::Stopped) && !asked {
            return Err(format!("ended without a reason: {execution:?}"));
        }
    }
    let exits = events_come_once(fleet, &executions).await?;
    Ok(Figures {
        schedules: 1,
        faults: fleet.faults,
        jobs: fleet.jobs().await.len() as u64,
        executions: executions.len() as u64,
        exits,
    })
}

/// Every task of every run, as the controller has it.
async fn tasks(fleet: &Fleet) -> Result<BTreeMap<String, TaskView>, String> {
    let controller = fleet.leader().ok_or("nobody leads")?;
    let mut tasks = BTreeMap::new();
    for job in fleet.jobs().await {
        for run in &job.runs {
            let asked = i64::try_from(run.run_id).map_err(|error| error.to_string())?;
            let shown = controller.get_job(&user(), &job.job_id.to_string(), Some(asked)).await;
            let shown = shown.map_err(|error| format!("job {}: {error}", job.job_id))?;
            tasks.extend(shown.tasks.unwrap_or_default().into_iter().map(|task| (task.id.clone(), task)));
        }
    }
    Ok(tasks)
}

/// No command ran twice, no two of the same place in a job at once, and no two had anything in common.
fn nothing_twice(executions: &[Execution]) -> Result<(), String> {
    for (place, one) in executions.iter().enumerate() {
        if one.until.is_none() {
            return Err(format!("still runs: {one:?}"));
        }
        for other in &executions[place + 1..] {
            if one.task == other.task {
                return Err(format!("ran twice: {one:?} and {other:?}"));
            }
            let apart = one.until <= Some(other.from) || other.until <= Some(one.from);
            let same_place = |id: TaskId| (id.job, id.role, id.index);
            let shares = one.node == other.node
                && (one.gpus.iter().any(|gpu| other.gpus.contains(gpu))
                    || one.ports.iter().any(|port| other.ports.contains(port)));
            if !apart && (shares || same_place(one.task) == same_place(other.task)) {
                return Err(format!("at the same time: {one:?} and {other:?}"));
            }
        }
    }
    Ok(())
}

/// How it ended is what the controller says.
fn end_is_told(
    fleet: &Fleet,
    execution: &Execution,
    asked: bool,
    tasks: &BTreeMap<String, TaskView>,
) -> Result<(), String> {
    let task = tasks.get(&execution.task.to_string()).ok_or_else(|| format!("nobody knows of {execution:?}"))?;
    let exit = task.exit.as_ref().ok_or_else(|| format!("no end is told of {execution:?}: {task:?}"))?;
    let own = if execution.own_code == 0 { ExitClass::Success } else { ExitClass::User };
    let told = match (execution.cause, exit.class) {
        // Its machine was rebooted, or lost for longer than its lease, before anybody heard of it.
        (Some(Cause::Own), ExitClass::Platform) => {
            fleet.rebooted || exit.reason.contains("lost") || exit.reason.contains("lease")
        }
        (Some(Cause::Own), ExitClass::Stopped) => asked,
        (Some(Cause::Own), class) => class == own && exit.code.unwrap_or(0) == execution.own_code,
        (Some(Cause::Stopped | Cause::Reboot | Cause::LeaseRanOut), class) => {
            matches!(class, ExitClass::Stopped | ExitClass::Platform)
        }
        (None, _) => false,
    };
    if told { Ok(()) } else { Err(format!("told otherwise: {execution:?}: {task:?}")) }
}

/// Whether anybody had a reason to end a command: its job was stopped, or the end of another task decided its run.
fn was_asked_to_end(
    fleet: &Fleet,
    execution: &Execution,
    all: &[Execution],
    tasks: &BTreeMap<String, TaskView>,
) -> bool {
    let mut siblings =
        all.iter().filter(|other| other.task.run == execution.task.run && other.task != execution.task);
    let failed = |other: &Execution| match other.cause {
        Some(Cause::Own) => other.own_code != 0,
        Some(Cause::Stopped) | None => false,
        Some(Cause::LeaseRanOut | Cause::Reboot) => true,
    };
    let run = format!("{}.{}.", execution.task.job, execution.task.run);
    let told = |(id, task): (&String, &TaskView)| {
        let class = task.exit.as_ref().map(|exit| exit.class);
        id.starts_with(&run) && matches!(class, Some(ExitClass::Platform | ExitClass::User))
    };
    fleet.stopped.contains(&execution.task.job.0) || siblings.any(failed) || tasks.iter().any(told)
}

/// The end of a task and of a job is told once, also when the controller was killed between the store and the history.
/// Returns how many ends of tasks were told.
async fn events_come_once(fleet: &Fleet, executions: &[Execution]) -> Result<u64, String> {
    let page = fleet.history.read(0, usize::MAX >> 1).await.map_err(|error| error.to_string())?;
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let is_end = |event: &&Event| matches!(event.kind.as_str(), "task.ended" | "task.lost" | "job.ended");
    for event in page.events.iter().filter(is_end) {
        let what = match &event.task {
            Some(task) => format!("task {task}"),
            None => format!("job {:?}", event.job),
        };
        let told = seen.entry(what.clone()).or_default();
        told.push(format!("{} {}", event.time.to_rfc3339(), event.message));
        if told.len() > 1 {
            return Err(format!("the end of {what} was told more than once: {told:?}"));
        }
    }
    if let Some(untold) = executions.iter().find(|one| !seen.contains_key(&format!("task {}", one.task))) {
        let job = untold.task.job.0;
        let of_job: Vec<String> = (page.events.iter().filter(|event| event.job == Some(job)))
            .map(|event| format!("{} {} {}", event.kind, event.task.as_deref().unwrap_or("-"), event.message))
            .collect();
        return Err(format!("history does not have the end of {untold:?}, but of its job\n{}", of_job.join("\n")));
    }
    Ok(seen.keys().filter(|what| what.starts_with("task")).count() as u64)
}
