//! Streams a task's log to one receiver: what is there, then what comes, until the task has ended.
//!
//! Reading blocks, so it runs on blocking threads, a bounded piece at a time; waiting costs no thread.

use super::reader::{Batch, LogReader, Start};
use super::wake::Wake;
use crate::api::stream::{LogBatch, LogQuery};
use crate::domain::command::Error;
use crate::domain::exit::Exit;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Output in one message, for who reads as fast as it comes.
const BATCH_BYTES: usize = 1024 * 1024;
/// For who has not read what was sent before, and for the first: what waits for a thousand that never read must fit into
/// memory. It doubles with each message that is taken at once.
const FIRST_BYTES: usize = 64 * 1024;
/// Passes over a log that grows all the time begin at least this far apart: fewer, larger batches.
const PASS_INTERVAL: Duration = Duration::from_millis(4);
/// Reads at a time. The threads for blocking work are one pool for the whole process, and a thousand followers of a
/// disk that hangs must not keep runtime and journal from theirs.
const MAX_READS: usize = 32;
static READS: Semaphore = Semaphore::const_new(MAX_READS);

/// Answers `query` from the log in `dir`, which need not exist yet.
///
/// `ended` holds the task's exit once its output is completely on disk; with it the last batch is sent. If its
/// sender goes away without an exit, the stream ends without one. Ends early when the receiver is dropped, or,
/// with an error, by `cancel`.
pub async fn stream(
    dir: PathBuf,
    query: LogQuery,
    ended: watch::Receiver<Option<Exit>>,
    out: mpsc::Sender<Result<LogBatch, Error>>,
    cancel: CancellationToken,
) {
    let task = query.task;
    let end = tokio::select! {
        biased;
        () = out.closed() => return,
        () = cancel.cancelled() => {
            // Nobody waits for room here: a receiver that is behind sees the channel close.
            let _ = out.try_send(Err(Error::unavailable(format!("read the log of task {task}: the agent is stopping"))));
            return;
        }
        end = deliver(dir, query, ended, &out) => end,
    };
    if let Err(error) = end {
        // The receiver may be gone; then nobody wants to know.
        let _ = out.send(Err(error)).await;
    }
}

async fn deliver(
    dir: PathBuf,
    query: LogQuery,
    mut ended: watch::Receiver<Option<Exit>>,
    out: &mpsc::Sender<Result<LogBatch, Error>>,
) -> Result<(), Error> {
    let start = Start::from_query(&query)?;
    let mut wake = query.follow.then(|| Wake::new(&dir));
    // Before the first read: what is said to have ended is complete on disk from here on.
    let mut exit = ended.borrow_and_update().clone();
    let mut abandoned = ended.has_changed().is_err();
    if let Some(wake) = &mut wake {
        wake.arm().await;
    }
    let mut reader = blocking(move || LogReader::open(&dir, query.task, start)).await?;
    let mut size = FIRST_BYTES;
    loop {
        let began = Instant::now();
        let last_batch;
        (reader, last_batch) = drain(reader, &mut size, out).await?;
        let Some(wake) = wake.as_mut().filter(|_| exit.is_none() && !abandoned) else {
            return end(reader, last_batch, exit, out).await;
        };
        send(last_batch, out).await;
        tokio::select! {
            () = wake.changed() => {}
            changed = ended.changed() => abandoned = changed.is_err(),
        }
        exit = ended.borrow_and_update().clone();
        if exit.is_none() {
            tokio::time::sleep_until(began + PASS_INTERVAL).await;
        }
        wake.arm().await;
    }
}

/// Sends all that is there but the last batch, which it returns.
async fn drain(
    mut reader: LogReader,
    size: &mut usize,
    out: &mpsc::Sender<Result<LogBatch, Error>>,
) -> Result<(LogReader, LogBatch), Error> {
    loop {
        let is_behind = out.capacity() < out.max_capacity();
        let bytes = if is_behind { FIRST_BYTES } else { *size };
        *size = if is_behind { FIRST_BYTES } else { (*size * 2).min(BATCH_BYTES) };
        let read: Batch;
        (reader, read) = blocking(move || {
            let read = reader.read_batch(bytes)?;
            if is_behind {
                reader.forget_buffer();
            }
            Ok((reader, read))
        })
        .await?;
        let batch = LogBatch { records: read.records, exit: None };
        if read.end_of_data {
            return Ok((reader, batch));
        }
        send(batch, out).await;
    }
}

async fn end(
    mut reader: LogReader,
    mut batch: LogBatch,
    exit: Option<Exit>,
    out: &mpsc::Sender<Result<LogBatch, Error>>,
) -> Result<(), Error> {
    if exit.is_some() {
        batch.records.extend(blocking(move || reader.finish()).await?);
    }
    batch.exit = exit;
    send(batch, out).await;
    Ok(())
}

async fn send(batch: LogBatch, out: &mpsc::Sender<Result<LogBatch, Error>>) {
    if !batch.records.is_empty() || batch.exit.is_some() {
        // A dropped receiver ends the whole stream by `closed`.
        let _ = out.send(Ok(batch)).await;
    }
}

/// Waits for a turn, then reads on a blocking thread. A read that was given up keeps its turn until it is over.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("read a task's log: {error}"));
    let turn = READS.acquire().await.map_err(|error| failed(&error))?;
    let work = move || {
        let _turn = turn;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(failed(&error)),
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
