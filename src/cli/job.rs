//! `wharf job show`, `wharf job explain`, `wharf stop`: one job.

use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::jobs::{how, signal_name, tasks_table};
use super::table;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::time::Timestamp;
use crate::domain::view::{ExplainedReason, Explanation, JobView, RetriesView, RunView, TaskView};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// Runs, notices and tasks that a person is shown of each; `--json` has all.
const MAX_LINES: usize = 200;

pub async fn show(context: &Context, job: &str, run: Option<i64>) -> Result<u8, Failure> {
    let job = context.controller()?.get_job(&context.who, job, run).await?;
    if context.json {
        context.print_json(&job)?;
    } else {
        context.print(&table::paint(job_text(&job, table::now()), context.color))?;
    }
    Ok(OK)
}

/// What is wrong comes first, then where, then everything else, and at the end what to type next.
fn job_text(job: &JobView, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        text.push_str(&table::paragraph(&format!("{name:<10} "), value));
    };
    line("Job", &job.job_id.to_string());
    line("Name", &format!("{}/{}", job.user, job.name));
    line("State", &state(job, now));
    if let Some(reason) = &job.reason {
        line("Reason", reason);
    }
    if let Some(exit) = &job.exit {
        line("Exit", &exit_text(exit));
    }
    let tasks = job.tasks.as_deref().unwrap_or_default();
    if let Some(first) = first_failure(tasks) {
        line("First", &failure_text(first));
    }
    line("Tasks", &format!("{} of {} running, {} GPUs in all", job.tasks_running, job.tasks_total, job.gpus_total));
    line("Submitted", &format!("{} ({} ago)", job.submitted_at.to_rfc3339(), span_to(job.submitted_at, now)));
    line("Run", &run_text(job));
    if let Some(retries) = retries_text(job) {
        line("Retries", &retries);
    }
    line("Chain", &job.chain_id);
    if job.runs.len() > 1 {
        let _ = write!(text, "\n{}", runs_table(&job.runs));
    }
    if !tasks.is_empty() {
        let _ = write!(text, "\n{}", tasks_table(&tasks[..tasks.len().min(MAX_LINES)]));
        if tasks.len() > MAX_LINES {
            let _ = writeln!(text, "... and {} more tasks; --json shows all", tasks.len() - MAX_LINES);
        }
    }
    for (notice, of) in notices(tasks) {
        let who = if of.len() == 1 { of[0].clone() } else { format!("{} and {} others", of[0], of.len() - 1) };
        text.push_str(&table::paragraph("Notice     ", &format!("{who}: {notice}")));
    }
    let _ = write!(text, "\nNext: {}\n", next_step(job, tasks));
    text
}

/// How often it was run again, by whose doing, and when the next run may begin.
fn retries_text(job: &JobView) -> Option<String> {
    let RetriesView { user, platform, hardware, asked } = job.retries;
    let counts = [("user", user), ("platform", platform), ("hardware", hardware), ("asked for", asked)];
    let counts: Vec<String> =
        counts.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}")).collect();
    let next = job.next_run_at.map(|at| format!("the next run not before {}", at.to_rfc3339()));
    let parts: Vec<String> = counts.into_iter().chain(next).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn span_to(from: Timestamp, to: Timestamp) -> String {
    table::span(to.since(from))
}

/// The state, since when, and how long it ran.
fn state(job: &JobView, now: Timestamp) -> String {
    let newest = job.runs.iter().find(|run| run.run_id == job.run_id);
    match newest.map(|run| (run.started_at, run.ended_at)) {
        Some((Some(started), Some(ended))) => {
            format!("{}, {} ago, after {}", job.state, span_to(ended, now), span_to(started, ended))
        }
        Some((None, Some(ended))) => format!("{}, {} ago, without having run", job.state, span_to(ended, now)),
        Some((Some(started), None)) => format!("{}, begun {} ago", job.state, span_to(started, now)),
        _ => job.state.clone(),
    }
}

fn exit_text(exit: &Exit) -> String {
    let end = match (exit.code, exit.signal) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("{} (signal {signal})", signal_name(signal)),
        (None, None) => "no status".to_owned(),
    };
    let oom = if exit.oom { ", out of memory" } else { "" };
    format!("{end}{oom}; {}", whose(exit.class))
}

/// Whose doing an end was, in words.
const fn whose(class: ExitClass) -> &'static str {
    match class {
        ExitClass::Success => "class success",
        ExitClass::User => "class user: the command itself failed",
        ExitClass::Hardware => "class hardware: a hardware fault ended it",
        ExitClass::Platform => "class platform: wharf, the runtime or the host ended it",
        ExitClass::Preempted => "class preempted: a job of higher priority needed the place",
        ExitClass::Stopped => "class stopped: somebody asked for it, or the job had ended",
        ExitClass::TimeLimit => "class time_limit: it ran longer than allowed",
        ExitClass::Watchdog => "class watchdog: it made no progress",
    }
}

/// The task that failed before all others: the rest often fails because of it.
fn first_failure(tasks: &[TaskView]) -> Option<&TaskView> {
    tasks.iter().filter(|task| task.state == "FAILED").min_by_key(|task| (task.ended_at.is_none(), task.ended_at))
}

fn failure_text(task: &TaskView) -> String {
    let mut text = format!("{}[{}] failed", task.role, task.index);
    if let Some(node) = &task.node {
        let _ = write!(text, " on {node}");
    }
    if let Some(ended) = task.ended_at {
        let _ = write!(text, " at {}", ended.to_rfc3339());
    }
    if let Some(exit) = &task.exit {
        let _ = write!(text, " ({}): {}", how(exit), exit.reason);
    }
    text
}

fn run_text(job: &JobView) -> String {
    let newest = job.runs.iter().find(|run| run.run_id == job.run_id);
    let Some(run) = newest else { return job.run_id.to_string() };
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), Timestamp::to_rfc3339);
    format!("{} (attempt {}), began {}, ended {}", run.run_id, run.attempt, time(run.started_at), time(run.ended_at))
}

fn runs_table(runs: &[RunView]) -> String {
    let mut rows = table::table(["RUN", "ATTEMPT", "STATE", "NODES", "STARTED", "RAN", "EXIT", "REASON"]);
    table::right(&mut rows, &[0, 1, 3, 5]);
    for run in runs {
        table::row(
            &mut rows,
            [
                run.run_id.to_string(),
                run.attempt.to_string(),
                run.state.clone(),
                run.node_count.to_string(),
                run.started_at.map_or_else(|| "-".to_owned(), Timestamp::to_rfc3339),
                table::ran(run.started_at, run.ended_at),
                run.exit.as_ref().map_or_else(|| "-".to_owned(), how),
                run.exit.as_ref().map_or_else(String::new, |exit| exit.reason.clone()),
            ],
        );
    }
    table::text(&rows)
}

/// Every notice once, with the tasks that have it.
fn notices(tasks: &[TaskView]) -> BTreeMap<&str, Vec<String>> {
    let mut notices: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for task in tasks {
        for notice in &task.notices {
            notices.entry(notice).or_default().push(format!("{}[{}]", task.role, task.index));
        }
    }
    notices
}

/// The command that tells more.
fn next_step(job: &JobView, tasks: &[TaskView]) -> String {
    let id = job.job_id;
    let run = tasks.first().and_then(|task| task.id.split('.').nth(1)).filter(|run| *run != job.run_id.to_string());
    let run = run.map_or_else(String::new, |run| format!(" --run {run}"));
    let behind = |task: &TaskView| task.exit.as_ref()?.faults.first().copied();
    match (first_failure(tasks), job.state.as_str()) {
        (Some(task), _) if behind(task).is_some() => {
            format!("wharf fault show {}", behind(task).unwrap_or_default())
        }
        (Some(task), _) => format!("wharf logs {id}{run} --role {} --index {} --tail 50", task.role, task.index),
        (None, "WAITING") => format!("wharf job explain {id}"),
        (None, "RUNNING" | "STOPPING") if run.is_empty() => format!("wharf logs {id} --follow --tail 20"),
        (None, _) => format!("wharf logs {id}{run} --tail 50"),
    }
}

pub async fn explain(context: &Context, job: &str) -> Result<u8, Failure> {
    let explanation = context.controller()?.explain_job(&context.who, job).await?;
    if context.json {
        context.print_json(&explanation)?;
    } else {
        context.print(&table::paint(explanation_text(&explanation), context.color))?;
    }
    Ok(OK)
}

fn explanation_text(explanation: &Explanation) -> String {
    let name = table::short(&explanation.name, 40);
    let head = format!("Job {} ({name}) is {}: ", explanation.job_id, explanation.state);
    let mut text = table::paragraph("", &format!("{head}{}", explanation.summary));
    if let Some(position) = explanation.queue_position {
        let of = explanation.queue_length.map_or_else(String::new, |length| format!(" of {length}"));
        let _ = writeln!(text, "Place in the queue: {position}{of}");
    }
    if !explanation.virtual_cluster.is_empty() && explanation.virtual_cluster != "default" {
        let _ =
            writeln!(text, "Virtual cluster: {}", table::short(&table::one_line(&explanation.virtual_cluster), 80));
    }
    match explanation.earliest {
        Some(time) => text.push_str(&table::paragraph(
            "Earliest: ",
            &format!("{}: {}", time.to_rfc3339(), explanation.earliest_note),
        )),
        None if !explanation.earliest_note.is_empty() => {
            let unknown = if explanation.never_possible { "" } else { "not known: " };
            text.push_str(&table::paragraph("Earliest: ", &format!("{unknown}{}", explanation.earliest_note)));
        }
        None => {}
    }
    if !explanation.reasons.is_empty() {
        let _ = write!(text, "\n{}", reasons_table(explanation));
    }
    if !explanation.tasks.is_empty() {
        let _ = write!(text, "\n{}", progress_table(explanation));
    }
    if !explanation.decisions.is_empty() {
        let _ = write!(text, "\n{}", decisions_table(explanation));
    }
    text
}

/// Nodes of which the same is to be said share a line.
fn reasons_table(explanation: &Explanation) -> String {
    let mut lines: Vec<(&ExplainedReason, u32)> = Vec::new();
    let mut known: HashMap<(&str, &str, &str), usize> = HashMap::new();
    for reason in &explanation.reasons {
        if reason.node.is_none() {
            lines.push((reason, 0));
            continue;
        }
        let words = (reason.reason.as_str(), reason.need.as_str(), reason.have.as_str());
        match known.get(&words) {
            Some(at) => lines[*at].1 += 1,
            None => {
                known.insert(words, lines.len());
                lines.push((reason, 0));
            }
        }
    }
    let mut rows = table::table(["NODE", "WHAT", "NEED", "HAVE"]);
    for (reason, more) in lines.iter().take(MAX_LINES) {
        let node = reason.node.as_deref().unwrap_or("-");
        let node =
            if *more > 0 { format!("{} and {more} more nodes", table::short(node, 40)) } else { node.to_owned() };
        // Nothing of this is said elsewhere: it wraps rather than being cut.
        rows.add_row([&node, &reason.reason, &reason.need, &reason.have].map(|text| table::one_line(text)));
    }
    let mut text = table::text(&rows);
    let left_out = lines.len().saturating_sub(MAX_LINES);
    if left_out > 0 {
        let _ = writeln!(text, "... and {left_out} more lines; --json has them");
    }
    if explanation.nodes_left_out > 0 {
        let _ = writeln!(text, "... and {} more nodes", explanation.nodes_left_out);
    }
    text
}

fn progress_table(explanation: &Explanation) -> String {
    let mut rows = table::table(["TASK", "NODE", "STATE", "DETAIL"]);
    for task in explanation.tasks.iter().take(MAX_LINES) {
        let name = format!("{}[{}]", table::short(&task.role, 40), task.index);
        rows.add_row([&name, &task.node, &task.state, &task.detail].map(|text| table::one_line(text)));
    }
    let mut text = table::text(&rows);
    let left_out = explanation.tasks.len().saturating_sub(MAX_LINES) + explanation.tasks_left_out as usize;
    if left_out > 0 {
        let _ = writeln!(text, "... and {left_out} more tasks; 'wharf job show {}' has them", explanation.job_id);
    }
    text
}

/// How the job came where it is.
fn decisions_table(explanation: &Explanation) -> String {
    let mut rows = table::table(["TIME", "EVENT", "WHAT"]);
    for decision in &explanation.decisions {
        let of = [decision.task.as_deref(), decision.node.as_deref()];
        let mut what: Vec<&str> = of.into_iter().flatten().filter(|name| !decision.detail.contains(name)).collect();
        what.push(&decision.detail);
        // A second is exact enough for people.
        let time = decision.time.to_rfc3339().chars().take(19).collect::<String>();
        rows.add_row([&format!("{time}Z"), &decision.event, &what.join(": ")].map(|text| table::one_line(text)));
    }
    let mut text = table::text(&rows);
    if explanation.decisions_left_out > 0 {
        let (count, job) = (explanation.decisions_left_out, explanation.job_id);
        let _ = writeln!(text, "... without {count} in between; 'wharf events --job {job}' has them");
    }
    text
}

pub async fn stop(context: &Context, job: &str, grace_s: Option<u64>) -> Result<u8, Failure> {
    let grace_ms = grace_s.map(|seconds| seconds * 1000);
    let job = context.controller()?.stop_job(&context.who, job, grace_ms).await?;
    if context.json {
        context.print_json(&job)?;
    } else {
        let name = table::short(&job.name, 40);
        context.print(&format!("job {} ({name}) is {}\n", job.job_id, job.state))?;
    }
    Ok(OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;
    use crate::domain::gpu::GpuState;
    use crate::domain::view::{ExplainedDecision, GpuView, NodeView};

    const NOW: Timestamp = Timestamp(1_763_819_950_000_000_000);

    /// Everything as long as it can be.
    fn worst() -> JobView {
        let long = |text: &str| text.repeat(300).chars().take(255).collect::<String>();
        let mut job =
            samples::with_runs(samples::with_tasks(samples::job(4_000_000_007), 30), &[4_000_000_007, 4_000_000_009]);
        (job.name, job.user, job.state) = (long("n"), "u".repeat(64), "FAILED".into());
        let reason = "the command was ended by a signal that nobody knows ".repeat(4);
        let exit = Exit { signal: Some(9), oom: true, ..Exit::without_status(ExitClass::Platform, reason.clone()) };
        job.reason = Some(reason);
        job.exit = Some(exit.clone());
        for run in &mut job.runs {
            run.exit = Some(exit.clone());
            (run.started_at, run.ended_at) = (Some(job.submitted_at), Some(NOW));
        }
        for task in job.tasks.iter_mut().flatten() {
            (task.role, task.node, task.state) = (long("r"), Some(long("h")), "FAILED".into());
            task.ports = [("p".to_owned(), (20_000..20_100).collect())].into();
            task.gpus = (0..8).map(|gpu| format!("GPU-{gpu}")).collect();
            (task.started_at, task.ended_at) = (Some(job.submitted_at), Some(NOW));
            task.exit = Some(exit.clone());
            task.notices = vec!["memory is not enforced here\x1b[31m ".repeat(6)];
        }
        job
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn progress_is_a_tasks_reason_until_it_ends() {
        let mut job = worst();
        let tasks = job.tasks.as_mut().unwrap();
        tasks.truncate(1);
        tasks[0].progress = Some("pulling a:1: 3 of 7 layers".into());
        assert!(!tasks_table(tasks).contains("layers"));
        (tasks[0].exit, tasks[0].role, tasks[0].node) = (None, "worker".into(), Some("n0".into()));
        tasks[0].ports.clear();
        assert!(tasks_table(tasks).contains("3 of 7 layers"), "{}", tasks_table(tasks));
    }

    #[test]
    fn tables_stay_within_a_hundred_columns_and_one_line_for_each_row() {
        let job = worst();
        let tasks = tasks_table(job.tasks.as_deref().unwrap());
        assert!(widest(&tasks) <= 100 && tasks.lines().count() == 31, "{tasks}");
        let jobs = crate::cli::jobs::jobs_table(&[job.clone(), job.clone()]);
        assert!(widest(&jobs) <= 100 && jobs.lines().count() == 3, "{jobs}");
        let runs = runs_table(&job.runs);
        assert!(widest(&runs) <= 100 && runs.lines().count() == 3, "{runs}");
        let node = NodeView {
            name: "h".repeat(255),
            address: "h".repeat(255),
            state: "UNREACHABLE".into(),
            reason: Some("its agent has not been heard ".repeat(5)),
            gpus_total: 16,
            gpus_free: 16,
            cpus: 512,
            memory_mb: 4_000_000,
            labels: BTreeMap::new(),
            version: "10.11.12".into(),
            node_uid: String::new(),
            last_heartbeat: None,
            ..NodeView::default()
        };
        let nodes = crate::cli::nodes::nodes_table(&[node]);
        assert!(widest(&nodes) <= 100 && nodes.lines().count() == 2, "{nodes}");
        let gpu = GpuView {
            node: "h".repeat(255),
            uuid: "GPU-1".into(),
            index: 15,
            model: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".into(),
            memory_mb: 141_000,
            memory_used_mb: Some(141_000),
            utilization: Some(100),
            temperature_c: Some(100),
            power_w: Some(1000),
            state: GpuState::Withheld,
            task: Some("4000000007.4000000009.12.1000".into()),
            ..GpuView::default()
        };
        let gpus = crate::cli::nodes::gpus_table(&[gpu]);
        assert!(widest(&gpus) <= 100 && gpus.lines().count() == 2, "{gpus}");
    }

    #[test]
    fn a_failed_job_says_what_where_and_what_next() {
        let mut job = samples::with_tasks(samples::job(7), 3);
        job.state = "FAILED".into();
        let tasks = job.tasks.as_mut().unwrap();
        for (task, ended) in tasks.iter_mut().zip([9, 5, 8]) {
            task.state = "FAILED".into();
            task.ended_at = Some(Timestamp(ended));
            task.exit = Some(Exit { code: Some(3), ..Exit::without_status(ExitClass::User, "it said no") });
        }
        let text = job_text(&job, NOW);
        assert!(text.contains("worker[1] failed on n0") && text.contains("it said no"), "{text}");
        assert!(text.ends_with("Next: wharf logs 7 --role worker --index 1 --tail 50\n"), "{text}");
        job.tasks = None;
        job.state = "WAITING".into();
        assert!(job_text(&job, NOW).ends_with("Next: wharf job explain 7\n"));
    }

    #[test]
    fn nothing_that_a_task_says_moves_the_cursor() {
        let text = job_text(&worst(), NOW);
        assert!(!text.contains('\x1b'), "{text:?}");
        // A notice of all tasks is told once.
        assert_eq!(text.matches("Notice ").count(), 1, "{text}");
    }

    #[test]
    fn an_explanation_is_shown_whole() {
        let have = "0 of 8 free on it, 4 withheld, and the rest held by jobs of others until they end".to_owned();
        let reason = ExplainedReason { node: Some("n0".into()), reason: "gpus".into(), need: "8".into(), have };
        let explanation = Explanation {
            job_id: 7,
            name: "n".repeat(255),
            state: "WAITING".into(),
            summary: "no node has 8 free GPUs ".repeat(8),
            queue_position: Some(3),
            reasons: ["8", "9", "10"].map(|need| ExplainedReason { need: need.into(), ..reason.clone() }).into(),
            decisions: vec![
                ExplainedDecision {
                    time: NOW,
                    event: "run.placed".into(),
                    task: None,
                    node: Some("n0".into()),
                    detail: "run 7 on n0 ".repeat(20),
                };
                2
            ],
            decisions_left_out: 4,
            ..Explanation::default()
        };
        let text = explanation_text(&explanation);
        assert!(widest(&text) <= 100 && text.matches("until").count() == 3, "{text}");
        assert!(text.contains("2025-11-22T13:59:10Z  run.placed") && text.contains("without 4 in between"), "{text}");
    }

    #[test]
    fn nodes_like_each_other_share_a_line() {
        let reason = |node: usize, have: &str| ExplainedReason {
            node: Some(format!("n{node}")),
            reason: "gpus".into(),
            need: "8".into(),
            have: have.into(),
        };
        let mut reasons: Vec<ExplainedReason> = (0..40).map(|node| reason(node, "0 free of 8")).collect();
        reasons.push(reason(40, "1 free of 8"));
        let explanation = Explanation { job_id: 7, reasons, nodes_left_out: 3, ..Explanation::default() };
        let text = explanation_text(&explanation);
        assert!(
            text.contains("n0 and 39 more nodes") && text.contains("n40") && text.contains("3 more nodes"),
            "{text}"
        );
        assert_eq!(text.matches("gpus").count(), 2, "{text}");
    }
}
