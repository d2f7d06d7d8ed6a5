//! Reads of an SQLite file on a connection and a thread of their own, so that a slow write does not hold them up.

use super::StoreError;
use super::file::{failed, open_reader};
use super::worker::{Inbox, Jobs, Worker};
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;

const QUEUE: usize = 1024;

/// A read, with the place for its answer inside.
pub(crate) type ReadJob = Box<dyn FnOnce(&mut Connection) + Send>;

/// Starts the reading thread of a file that its writer has opened.
pub(crate) fn start(path: &Path) -> Result<Worker<ReadJob>, StoreError> {
    let mut connection = open_reader(path)?;
    Worker::start("store-reader", QUEUE, move |mut inbox: Inbox<ReadJob>| {
        while let Some(job) = inbox.next() {
            job(&mut connection);
        }
    })
}

/// Runs `query` in one read transaction, as job `J`, and waits for its result.
///
/// The transaction begins after the call, so it sees everything that was answered before.
pub(crate) async fn read<J, T, Q>(
    jobs: &Jobs<J>,
    operation: &'static str,
    deadline: Duration,
    path: &Path,
    query: Q,
) -> Result<T, StoreError>
where
    J: From<ReadJob>,
    T: Send + 'static,
    Q: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let path = path.to_owned();
    let make = move |reply: super::worker::Reply<T>| -> J {
        let job: ReadJob = Box::new(move |connection| {
            if reply.expired() {
                return;
            }
            let answer = in_transaction(connection, query);
            reply.send(answer.map_err(|error| failed(operation, &path, &error)));
        });
        job.into()
    };
    jobs.ask(operation, deadline, make).await
}

fn in_transaction<T>(
    connection: &mut Connection,
    query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction()?;
    let answer = query(&transaction)?;
    transaction.commit()?;
    Ok(answer)
}
