//! Reading the output of the tasks of one run: all of them at once, or one after the other.

use super::View;
use super::print::{Printer, Sink};
use super::select::Source;
use crate::api::ControllerApi;
use crate::api::stream::{LogQuery, LogRecord};
use crate::cli::context::Context;
use crate::cli::fail::Failure;
use crate::cli::patience::Silence;
use crate::domain::command::{Error, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Records that wait to be printed.
const WINDOW: usize = 64;
/// Before a stream that was cut is opened again.
const RECONNECT: Duration = Duration::from_millis(300);
/// Tasks that a message names.
const NAMED: usize = 8;

type Piece = (Source, Result<LogRecord, Error>);

/// Prints the output of `sources`. Ends early only if it cannot be printed; that the output of some tasks could not
/// be read is told at once, and returned at the end.
pub(super) async fn print_sources(
    context: &Context,
    controller: Arc<dyn ControllerApi>,
    sources: Vec<Source>,
    view: View,
    sink: Sink<'_>,
) -> Result<Option<Error>, Failure> {
    let mut printer = Printer::new(context, &sources, view.timestamps, sink);
    let mut failures = Failures { of: sources.len(), first: None, names: Vec::new() };
    let (sender, mut pieces) = mpsc::channel::<Piece>(WINDOW);
    let mut print = pin!(async {
        while let Some((source, piece)) = pieces.recv().await {
            match piece {
                Ok(record) => printer.record(&source, &record)?,
                Err(error) => failures.note(context, &source, error),
            }
        }
        printer.finish()?;
        Ok(failures.into_error())
    });
    tokio::select! {
        // Nobody listens any more: the readers go with `feed`.
        printed = &mut print => return printed,
        () = feed(context, controller, sources, view, sender) => {}
    }
    print.await
}

/// Reads every source into the channel. Dropping it ends the readers.
async fn feed(
    context: &Context,
    controller: Arc<dyn ControllerApi>,
    sources: Vec<Source>,
    view: View,
    sender: mpsc::Sender<Piece>,
) {
    let together = if view.follow { sources.len() } else { 1 };
    let slots = Arc::new(Semaphore::new(together.max(1)));
    let mut readers = JoinSet::new();
    for source in sources {
        let slot = slots.clone().acquire_owned().await;
        let (context, controller) = (context.for_user(None), controller.clone());
        let (view, sender) = (view.clone(), sender.clone());
        readers.spawn(async move {
            let _slot = slot;
            if let Err(error) = read_task(&context, &*controller, &source, view, &sender).await {
                // A printer that has gone does not want the error either.
                let _ = sender.send((source, Err(error))).await;
            }
        });
    }
    drop(sender);
    while readers.join_next().await.is_some() {}
}

/// Reads the output of one task; with `follow` also over a controller that goes away, by the cursor.
async fn read_task(
    context: &Context,
    controller: &dyn ControllerApi,
    source: &Source,
    view: View,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), Error> {
    let mut query = LogQuery {
        task: source.id,
        cursor: view.cursors.get(&source.id).cloned(),
        stream: view.stream,
        follow: view.follow,
        since: view.since,
        tail: view.tail,
    };
    let mut silence = Silence::new(context);
    loop {
        match read_stream(context, controller, source, &mut query, &mut silence, sender).await {
            Ok(()) => return Ok(()),
            Err(error) if query.follow => silence.bear(error)?,
            // Nothing was ever written by a task that is not placed.
            Err(error) if error.kind == ErrorKind::Refused => return Ok(()),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Reads one stream to its end and moves the query's cursor along, so that the next one goes on from there.
async fn read_stream(
    context: &Context,
    controller: &dyn ControllerApi,
    source: &Source,
    query: &mut LogQuery,
    silence: &mut Silence<'_>,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), Error> {
    let mut batches = controller.logs(&context.who, query.clone()).await?;
    silence.opened();
    while let Some(batch) = batches.recv().await {
        let batch = batch?;
        silence.heard();
        for record in batch.records {
            (query.cursor, query.since, query.tail) = (Some(record.cursor.clone()), None, None);
            if sender.send((source.clone(), Ok(record))).await.is_err() {
                return Ok(());
            }
        }
        if batch.exit.is_some() {
            return Ok(());
        }
    }
    if query.follow {
        return Err(Error::unavailable(format!("the output of {} was cut off", source.name())));
    }
    Ok(())
}

/// Tasks whose output could not be read, or not to its end.
struct Failures {
    of: usize,
    first: Option<Error>,
    names: Vec<String>,
}

impl Failures {
    fn note(&mut self, context: &Context, source: &Source, error: Error) {
        // What concerns all of them, as a controller that is away, is said once.
        let same = self.first.as_ref().is_some_and(|first| first.message == error.message);
        if self.of > 1 && !same {
            context.remark(&format!("the output of {} is not complete: {error}", source.name()));
        }
        self.names.push(source.name());
        self.first.get_or_insert(error);
    }

    fn into_error(self) -> Option<Error> {
        let Self { of, first, names } = self;
        let first = first?;
        if of == 1 {
            return Some(first);
        }
        let more = if names.len() > NAMED { ", ..." } else { "" };
        let list = names[..names.len().min(NAMED)].join(", ");
        let count = names.len();
        let message = format!("the output of {count} of {of} tasks is not complete ({list}{more}): {first}");
        Some(Error { message, ..first })
    }
}
