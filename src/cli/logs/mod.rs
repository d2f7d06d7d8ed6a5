//! `wharf logs`: bytes as the task wrote them, or records as JSON, over all runs of a job.

mod asked;
mod print;
mod read;
mod select;
#[cfg(test)]
mod tests;

pub use select::select_one;

use super::args::{LogsArgs, StreamArg, TaskArgs};
use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::output::reader_gone;
use super::patience::{Pace, Silence};
use super::signals::interrupted;
use super::table;
use super::wait::has_ended;
use crate::api::ControllerApi;
use crate::api::stream::StreamFilter;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::TaskId;
use crate::domain::time::Timestamp;
use crate::domain::view::JobView;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// What is wanted of the output of every task.
#[derive(Debug, Clone, Default)]
struct View {
    stream: StreamFilter,
    follow: bool,
    since: Option<Timestamp>,
    tail: Option<u32>,
    timestamps: bool,
    cursors: HashMap<TaskId, String>,
}

pub async fn logs(context: &Context, args: LogsArgs) -> Result<u8, Failure> {
    let view = View {
        stream: match args.stream {
            StreamArg::All => StreamFilter::All,
            StreamArg::Stdout => StreamFilter::Stdout,
            StreamArg::Stderr => StreamFilter::Stderr,
        },
        follow: args.follow,
        since: args.since.as_deref().map(|text| asked::parse_since(text, table::now())).transpose()?,
        tail: args.tail,
        timestamps: args.timestamps,
        cursors: args.cursor.as_deref().map(asked::parse_cursors).transpose()?.unwrap_or_default(),
    };
    let controller = context.controller()?;
    let work = async {
        let job = controller.get_job(&context.who, &args.job, args.run).await?;
        if args.run.is_some() || !args.follow {
            return print_run(context, controller.clone(), &job, &args.task, view).await;
        }
        // The newest run, and those after it.
        let before = job.run_id.saturating_sub(1);
        let id = job.job_id.to_string();
        follow_runs(context, controller.clone(), &id, before, &args.task, view).await
    };
    tokio::select! {
        result = work => match result? {
            None => Ok(OK),
            Some(incomplete) => Err(incomplete.into()),
        },
        failure = interrupted() => Err(failure),
        () = reader_gone(), if args.follow => Err(Failure::Output(io::ErrorKind::BrokenPipe.into())),
    }
}

/// Follows all output of a job until it has ended, over all of its runs. Returns the error of tasks whose output
/// could not be read while that of others was.
pub async fn follow_job(
    context: &Context,
    controller: Arc<dyn ControllerApi>,
    job: &str,
) -> Result<Option<Error>, Failure> {
    let view = View { follow: true, ..View::default() };
    follow_runs(context, controller, job, 0, &TaskArgs { role: None, index: None }, view).await
}

/// Follows every run after run `last`, one after the other. Runs may begin and end while an earlier one is read.
async fn follow_runs(
    context: &Context,
    controller: Arc<dyn ControllerApi>,
    job: &str,
    mut last: u64,
    task: &TaskArgs,
    mut view: View,
) -> Result<Option<Error>, Failure> {
    let (mut silence, mut pace, mut incomplete) = (Silence::new(context), Pace::new(), None);
    loop {
        match next_run(&*controller, context, job, last).await {
            Ok(Next::Run(run)) => {
                silence.heard();
                (pace, last) = (Pace::new(), run.shown);
                let failed = print_run(context, controller.clone(), &run.view, task, view.clone()).await?;
                incomplete = incomplete.or(failed);
                // The last lines of what is there now; of later runs all is wanted.
                view.tail = None;
                continue;
            }
            Ok(Next::Ended) => return Ok(incomplete),
            Ok(Next::Later) => silence.heard(),
            // A run of long ago that was forgotten meanwhile.
            Err((run, error)) if error.kind == ErrorKind::NotFound && run > last => {
                context.remark(&format!("run {run} is no longer known: {error}"));
                last = run;
                continue;
            }
            Err((_, error)) => silence.bear(error)?,
        }
        tokio::time::sleep(pace.step()).await;
    }
}

enum Next {
    Run(Box<ShownRun>),
    /// The newest run has been read, and another may follow.
    Later,
    Ended,
}

/// A job with the tasks of run `shown`.
struct ShownRun {
    shown: u64,
    view: JobView,
}

/// The oldest run after `last`. An error comes with the run that was asked for, 0 for the job itself.
async fn next_run(
    controller: &dyn ControllerApi,
    context: &Context,
    job: &str,
    last: u64,
) -> Result<Next, (u64, Error)> {
    let now = controller.get_job(&context.who, job, None).await.map_err(|error| (0, error))?;
    let newest = now.run_id;
    let after = now.runs.iter().map(|run| run.run_id).filter(|run| *run > last).min();
    match after.or((newest > last).then_some(newest)) {
        Some(run) if run == newest => Ok(Next::Run(Box::new(ShownRun { shown: run, view: now }))),
        Some(run) => {
            let wanted = i64::try_from(run).unwrap_or(i64::MAX);
            let view = controller.get_job(&context.who, job, Some(wanted)).await.map_err(|error| (run, error))?;
            Ok(Next::Run(Box::new(ShownRun { shown: run, view })))
        }
        None if has_ended(&now) => Ok(Next::Ended),
        None => Ok(Next::Later),
    }
}

/// Prints the output of the tasks of one run: one after the other, or with `follow` as it comes.
async fn print_run(
    context: &Context,
    controller: Arc<dyn ControllerApi>,
    job: &JobView,
    wanted: &TaskArgs,
    view: View,
) -> Result<Option<Error>, Failure> {
    read::print_sources(context, controller, select::select(job, wanted)?, view, &mut print::to_std).await
}
