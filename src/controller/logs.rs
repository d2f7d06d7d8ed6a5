//! Streams through the controller: a task's output from its agent, and the history of events.

use super::core::{Controller, read};
use super::resolve;
use super::state::State;
use crate::api::AgentApi;
use crate::api::controller::EventFilter;
use crate::api::stream::{Answers, LogBatch, LogQuery};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::event::Event;
use crate::domain::exit::Exit;
use crate::domain::ids::{Generation, JobId, TaskId};
use crate::domain::principal::Principal;
use crate::domain::run::{Phase, Run};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Answers waiting for a slow reader.
const WINDOW: usize = 2;
/// Between two attempts to reach an agent that went away in mid-stream.
const RECONNECT: Duration = Duration::from_millis(500);
/// Events read from history at a time.
const EVENTS: usize = 500;

/// Where a task's output can be had.
enum Source {
    Agent(Arc<dyn AgentApi>),
    /// Not placed yet.
    Later,
    /// Ended without ever being placed.
    Never(Option<Exit>),
}

/// The agent that has a task.
pub(super) fn agent_of(controller: &Controller, task: TaskId) -> Result<Arc<dyn AgentApi>, Error> {
    match source(controller, task)? {
        Source::Agent(agent) => Ok(agent),
        Source::Later => Err(Error::refused(format!("task {task} waits for a node; 'wharf job explain' says why"))),
        Source::Never(_) => Err(Error::refused(format!("task {task} ended before it was placed on a node"))),
    }
}

fn source(controller: &Controller, task: TaskId) -> Result<Source, Error> {
    let state = read(&controller.shared);
    resolve::job(&state, task.job)?;
    let run = state.runs.get(&task.run).filter(|run| run.job == task.job);
    let run = run.ok_or_else(|| Error::not_found(format!("job {} has no run {}", task.job, task.run)))?;
    match run.find(task.role, task.index) {
        Some(at) => {
            let name = &run.tasks[at].seat.node;
            let node = state.nodes.get(name).ok_or_else(|| Error::unavailable(format!("node {name} was removed")))?;
            Ok(Source::Agent(controller.parts.dialer.dial(name, &node.registration.address)?))
        }
        None if !exists(&state, run, task) => Err(Error::not_found(format!("run {} has no task {task}", task.run))),
        None if run.phase == Phase::Ended => {
            Ok(Source::Never(run.outcome.as_ref().map(|outcome| outcome.exit.clone())))
        }
        None => Ok(Source::Later),
    }
}

fn exists(state: &State, run: &Run, task: TaskId) -> bool {
    let role = state.specs.get(&run.job).and_then(|spec| spec.roles.get(task.role as usize).map(|role| role.count));
    role.is_some_and(|count| task.index < count)
}

/// The output of one task. With `follow` it waits for the task to be placed and survives restarts of its agent:
/// the cursor of the last record delivered resumes the stream without loss or repeat.
pub(super) fn logs(controller: &Controller, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
    source(controller, query.task)?;
    let (sender, answers) = mpsc::channel(WINDOW);
    let (controller, who) = (controller.clone(), who.clone());
    controller.tracker.clone().spawn(async move {
        let forwarding = forward(&controller, &who, query, &sender);
        let result = tokio::select! {
            result = forwarding => result,
            () = sender.closed() => Ok(()),
            () = controller.cancel.cancelled() => Err(Error::unavailable("the controller is shutting down")),
        };
        if let Err(error) = result {
            // A reader that has gone does not want the error either.
            let _ = sender.send(Err(error)).await;
        }
    });
    Ok(answers)
}

async fn forward(
    controller: &Controller,
    who: &Principal,
    mut query: LogQuery,
    sender: &mpsc::Sender<Result<LogBatch, Error>>,
) -> Result<(), Error> {
    let mut changed = controller.changed.clone();
    let mut certain = false;
    loop {
        let placed = generation(controller, query.task);
        let agent = match source(controller, query.task)? {
            Source::Agent(agent) => agent,
            Source::Never(exit) => {
                let _ = sender.send(Ok(LogBatch { records: Vec::new(), exit })).await;
                return Ok(());
            }
            Source::Later if query.follow => {
                if changed.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            Source::Later => return Ok(()),
        };
        match pass_on(&*agent, who, &mut query, sender).await {
            Ok(Some(exit)) => {
                // An agent may tell the end of an earlier placement, or one that is news here. Once it is certain that
                // the task has ended, the rest of its output is read once more.
                if query.follow && !certain {
                    certain = has_ended(controller, query.task, placed, &mut changed).await;
                    continue;
                }
                // The reader may have gone.
                let _ = sender.send(Ok(LogBatch { records: Vec::new(), exit: Some(exit) })).await;
                return Ok(());
            }
            Ok(None) => return Ok(()),
            Err(error) if query.follow && worth_asking_again(controller, &query, &error) => {
                tokio::time::sleep(RECONNECT).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The placement that a task has now, if any.
fn generation(controller: &Controller, task: TaskId) -> Option<Generation> {
    let state = read(&controller.shared);
    let run = state.runs.get(&task.run)?;
    run.find(task.role, task.index).map(|_| run.generation)
}

/// Whether the end that an agent told is the task's: a placement that was rolled back ends too, and then the task
/// goes on with the next one. If it is not, the agent is worth asking again when this returns.
async fn has_ended(
    controller: &Controller,
    task: TaskId,
    placed: Option<Generation>,
    changed: &mut watch::Receiver<u64>,
) -> bool {
    let ended = {
        let state = read(&controller.shared);
        state.runs.get(&task.run).is_none_or(|run| {
            let ended = |at: usize| Some(run.generation) == placed && run.tasks[at].state.is_terminal();
            run.phase == Phase::Ended || run.find(task.role, task.index).is_some_and(ended)
        })
    };
    if !ended {
        // What the agent knew is on its way here, or what it does not know yet on its way there.
        let _ = tokio::time::timeout(RECONNECT, changed.changed()).await;
    }
    ended
}

/// Passes on what an agent sends, moving the query's cursor along; returns the end that it told.
async fn pass_on(
    agent: &dyn AgentApi,
    who: &Principal,
    query: &mut LogQuery,
    sender: &mpsc::Sender<Result<LogBatch, Error>>,
) -> Result<Option<Exit>, Error> {
    let mut batches = agent.logs(who, query.clone()).await?;
    while let Some(batch) = batches.recv().await {
        let mut batch = batch?;
        let cursor = batch.records.last().map(|record| record.cursor.clone());
        let exit = batch.exit.take();
        if !batch.records.is_empty() && sender.send(Ok(batch)).await.is_err() {
            return Ok(None);
        }
        if cursor.is_some() {
            // What was asked relative to the start has been answered; from here on the cursor counts.
            (query.cursor, query.tail, query.since) = (cursor, None, None);
        }
        if exit.is_some() {
            return Ok(exit);
        }
    }
    if query.follow { Err(Error::unavailable(format!("the stream of {} was cut", query.task))) } else { Ok(None) }
}

/// An agent that went away comes back, unless the task is one it does not have yet for another reason.
fn worth_asking_again(controller: &Controller, query: &LogQuery, error: &Error) -> bool {
    match error.kind {
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => true,
        // The seat is decided a moment before the agent hears of the task.
        ErrorKind::NotFound => {
            let state = read(&controller.shared);
            state.runs.get(&query.task.run).is_some_and(|run| {
                run.find(query.task.role, query.task.index).is_some_and(|at| !run.tasks[at].state.is_terminal())
            })
        }
        _ => false,
    }
}

/// Events after a sequence number, then as they happen.
pub(super) async fn watch(
    controller: &Controller,
    filter: EventFilter,
    job: Option<JobId>,
) -> Result<Answers<Event>, Error> {
    let history = controller.parts.history.clone();
    let reading = |error| Error::unavailable(format!("reading the history of events: {error}"));
    let mut news = history.subscribe();
    if let Some(after) = filter.after {
        let oldest = history.read(after, 1).await.map_err(reading)?.oldest;
        if after.saturating_add(1) < oldest {
            let message = format!("events after {after} are gone, the oldest kept is {oldest}");
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
    }
    let (sender, answers) = mpsc::channel(EVENTS);
    let cancel = controller.cancel.clone();
    controller.tracker.spawn(async move {
        let mut after = filter.after.unwrap_or(0);
        let sending = async {
            loop {
                news.mark_unchanged();
                let page = match history.read(after, EVENTS).await {
                    Ok(page) => page.events,
                    Err(error) => {
                        let _ = sender.send(Err(reading(error))).await;
                        return;
                    }
                };
                let full = page.len() == EVENTS;
                for event in page {
                    after = event.sequence;
                    if wanted(&event, &filter, job) && sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                if !full && (!filter.follow || news.changed().await.is_err()) {
                    return;
                }
            }
        };
        tokio::select! {
            () = sending => {}
            () = sender.closed() => {}
            () = cancel.cancelled() => {}
        }
    });
    Ok(answers)
}

fn wanted(event: &Event, filter: &EventFilter, job: Option<JobId>) -> bool {
    job.is_none_or(|job| event.job == Some(job.0))
        && filter.node.as_ref().is_none_or(|node| event.node.as_ref() == Some(node))
}
