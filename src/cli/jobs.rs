//! `wharf jobs`, and the tables of jobs and tasks.

use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::table;
use crate::api::ControllerApi;
use crate::api::controller::JobFilter;
use crate::domain::exit::Exit;
use crate::domain::view::{JobView, TaskView};

const PAGE: u32 = 500;

pub async fn list(context: &Context, all: bool, user: Option<String>) -> Result<u8, Failure> {
    let controller = context.controller()?;
    let jobs = every_job(&*controller, context, JobFilter { all, user }).await?;
    if context.json {
        context.print_json(&jobs)?;
        return Ok(OK);
    }
    if jobs.is_empty() {
        context.remark(if all { "there are no jobs" } else { "no unfinished jobs; --all shows ended ones" });
        return Ok(OK);
    }
    context.print(&table::paint(jobs_table(&jobs), context.color))?;
    Ok(OK)
}

async fn every_job(
    controller: &dyn ControllerApi,
    context: &Context,
    filter: JobFilter,
) -> Result<Vec<JobView>, Failure> {
    let (mut jobs, mut token) = (Vec::new(), String::new());
    loop {
        let (page, next) = controller.list_jobs(&context.who, filter.clone(), PAGE, &token).await?;
        jobs.extend(page);
        if next.is_empty() || next == token {
            return Ok(jobs);
        }
        token = next;
    }
}

pub fn jobs_table(jobs: &[JobView]) -> String {
    let mut rows = table::table(["JOB", "NAME", "USER", "STATE", "TASKS", "GPUS", "AGE", "REASON"]);
    table::right(&mut rows, &[0, 4, 5]);
    for job in jobs {
        table::row(
            &mut rows,
            [
                job.job_id.to_string(),
                table::short(&job.name, 28),
                table::short(&job.user, 12),
                job.state.clone(),
                format!("{}/{}", job.tasks_running, job.tasks_total),
                job.gpus_total.to_string(),
                table::ago(job.submitted_at),
                job.reason.clone().unwrap_or_default(),
            ],
        );
    }
    table::text(&rows)
}

pub fn tasks_table(tasks: &[TaskView]) -> String {
    let mut rows = table::table(["ROLE", "INDEX", "STATE", "NODE", "GPUS", "PORTS", "RAN", "EXIT", "REASON"]);
    table::right(&mut rows, &[1, 4, 6]);
    for task in tasks {
        let ports: Vec<String> = task.ports.values().flatten().map(ToString::to_string).collect();
        // Without an end, what stands between it and its start, or its end.
        let held = task.held_until.map(|until| format!("held until {}", until.to_rfc3339()));
        let progress = held.as_deref().or(task.progress.as_deref()).unwrap_or_default();
        let (exit, reason) =
            task.exit.as_ref().map_or_else(|| ("-".to_owned(), progress), |exit| (how(exit), exit.reason.as_str()));
        table::row(
            &mut rows,
            [
                table::short(&task.role, 24),
                task.index.to_string(),
                task.state.clone(),
                table::short(task.node.as_deref().unwrap_or("-"), 20),
                task.gpus.len().to_string(),
                table::short(&ports.join(","), 17),
                table::ran(task.started_at, task.ended_at),
                exit,
                reason.to_owned(),
            ],
        );
    }
    table::text(&rows)
}

/// `0`, `SIGKILL`, `SIGKILL (OOM)`: how a command ended, in a word.
pub fn how(exit: &Exit) -> String {
    let end = match (exit.code, exit.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => signal_name(signal),
        (None, None) => "-".to_owned(),
    };
    if exit.oom { format!("{end} (OOM)") } else { end }
}

pub fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |name| name.to_string())
}
