//! The chain of decisions about a job: from history, and from the job's records where history has forgotten.
//!
//! History is bounded, so it may lack what happened long ago, and another controller has its own. The
//! job's records are durable, and know of each run that is kept when it was placed, began and ended. An entry of the
//! records is told unless history has one of its kind at its time.

use super::explain::cut;
use super::state::State;
use crate::domain::event::Event;
use crate::domain::job::Job;
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::domain::view::{ExplainedDecision, Explanation};
use crate::store::history::EventLog;
use std::collections::BTreeSet;

/// Decisions about the job and its runs that are told: the first and the last.
const FIRST: usize = 60;
const LAST: usize = 240;
/// Words on single tasks, of which a gang of thousands has many.
const FIRST_OF_TASKS: usize = 40;
const LAST_OF_TASKS: usize = 160;
/// Runs whose records are looked at: the newest.
const RUNS: usize = 20;
/// Nodes that are named.
const NODES: usize = 16;

/// What the job's own records tell.
pub(super) struct Records {
    job: u64,
    told: Vec<ExplainedDecision>,
}

impl Records {
    pub(super) fn of(state: &State, job: &Job) -> Self {
        let spec = state.specs.get(&job.id);
        let tasks = spec.map_or(0, |spec| spec.task_count());
        let submitted = format!("'{}' by {}: {tasks} tasks", job.name, job.user);
        let mut told = vec![decision(job.submitted_at, "job.submitted", submitted)];
        let newest = job.runs.len().saturating_sub(RUNS);
        for run in job.runs[newest..].iter().filter_map(|id| state.runs.get(id)) {
            of_run(run, &mut told);
        }
        if let (Some(ended), Some(exit)) = (job.ended_at, &job.exit) {
            told.push(decision(ended, "job.ended", format!("{}: {}", job.state.as_str(), exit.reason)));
            if !exit.is_success()
                && let Some(spec) = spec
            {
                let counted = job.retries.counted;
                let stopped = if job.stop_asked { ", and somebody asked for the stop" } else { "" };
                let why = format!(
                    "not run again: the end is of class {}, retryCount is {}, {counted} retries were counted{stopped}",
                    exit.class, spec.retry_count,
                );
                told.push(decision(ended, "job.not_retried", why));
            }
        }
        Self { job: job.id.0, told }
    }
}

fn of_run(run: &Run, told: &mut Vec<ExplainedDecision>) {
    let id = run.id;
    if let Some(placed) = run.placed_at {
        let nodes: BTreeSet<&str> = run.tasks.iter().map(|task| task.seat.node.0.as_str()).collect();
        let more = nodes.len().saturating_sub(NODES);
        let named = nodes.into_iter().take(NODES).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more nodes") } else { String::new() };
        told.push(decision(placed, "run.placed", format!("run {id} on {named}{more}")));
    }
    if let Some(started) = run.started_at {
        told.push(decision(started, "run.started", format!("run {id}: every task runs")));
    }
    if let (Some(ended), Some(outcome)) = (run.ended_at, &run.outcome) {
        let message = format!("run {id}: {}: {}", outcome.state, outcome.exit.reason);
        told.push(decision(ended, "run.ended", message));
    }
}

fn decision(time: Timestamp, event: &str, detail: String) -> ExplainedDecision {
    ExplainedDecision { time, event: event.to_owned(), task: None, node: None, detail: cut(detail) }
}

fn of_event(event: Event) -> ExplainedDecision {
    let Event { time, kind, task, node, message, .. } = event;
    ExplainedDecision { time, event: kind, task, node, detail: cut(message) }
}

/// Puts the chain into the explanation. Without history there still are the records.
pub(super) async fn tell(history: &EventLog, records: Records, explanation: &mut Explanation) {
    let read = async {
        let of_job = history.of_job(records.job, false, FIRST, LAST).await?;
        let of_tasks = history.of_job(records.job, true, FIRST_OF_TASKS, LAST_OF_TASKS).await?;
        Ok::<_, crate::store::StoreError>((of_job, of_tasks))
    };
    let mut chain = Vec::new();
    match read.await {
        Ok((of_job, of_tasks)) => {
            let left_out = of_job.left_out + of_tasks.left_out;
            explanation.decisions_left_out = u32::try_from(left_out).unwrap_or(u32::MAX);
            let mut events = of_job.events;
            events.extend(of_tasks.events);
            events.sort_by_key(|event| event.sequence);
            chain.extend(events.into_iter().map(of_event));
        }
        Err(error) => tracing::warn!(%error, job = records.job, "history was not read for an explanation"),
    }
    let left_out = explanation.decisions_left_out > 0;
    for record in records.told {
        let known = |told: &ExplainedDecision| (told.time, &told.event) == (record.time, &record.event);
        if chain.iter().any(known) || (left_out && record.event.starts_with("run.")) {
            continue;
        }
        // Behind everything of its time: what was told by history has its order from there.
        let at = chain.partition_point(|told| told.time <= record.time);
        chain.insert(at, record);
    }
    explanation.decisions = chain;
}
