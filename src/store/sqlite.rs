//! The store in one SQLite file: for a single controller, for an agent's journal, and in memory for tests.
//!
//! One thread writes, another reads, so neither async code nor a read waits for a slow write; everything that waits has
//! a deadline. See the file `write` for how many small transactions share one sync of the disk.

mod schema;
pub(super) mod snapshot;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use super::file::{WriterFile, open_in_memory, open_writer};
use super::reader::{self, ReadJob};
use super::worker::{Jobs, Worker};
use super::{Change, Entry, MAX_TRANSACTION_BYTES, Outcome, Range, Store, StoreError, Transaction, limits};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};
use schema::{FORMAT, Meta, from_sql, key_text};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use watch::Pump;
use write::{Commit, Writer};

/// What may differ between stores; the defaults suit a controller.
#[derive(Debug, Clone, Copy)]
pub struct SqliteSettings {
    /// A call that has no answer by then is `Unavailable`.
    pub deadline: Duration,
    /// A watch may start this many revisions back; at least 1.
    pub keep_revisions: u64,
    /// Less than that if their keys and values are larger together; at least one transaction's.
    pub keep_change_bytes: u64,
    /// A watch whose reader takes nothing for so long is cut off.
    pub watch_stall: Duration,
    /// Transactions that may wait; callers beyond that wait for their deadline.
    pub queue: usize,
}

impl Default for SqliteSettings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            keep_revisions: 10_000,
            keep_change_bytes: 64 * 1024 * 1024,
            watch_stall: Duration::from_secs(30),
            queue: 256,
        }
    }
}

/// A [`Store`] in one file.
///
/// Dropping it finishes what is queued, closes the file and lets others open it; that may block for a moment.
pub struct SqliteStore {
    path: PathBuf,
    settings: SqliteSettings,
    closing: CancellationToken,
    watches: TaskTracker,
    revision: tokio::sync::watch::Receiver<u64>,
    // In this order: the writer's connection is closed last, and as the last it empties the journal.
    reader: Option<Worker<ReadJob>>,
    writer: Worker<WriteJob>,
}

/// What the writing thread does. In memory there is one connection only, so it reads as well.
enum WriteJob {
    Commit(Commit),
    Read(ReadJob),
}

impl From<ReadJob> for WriteJob {
    fn from(job: ReadJob) -> Self {
        Self::Read(job)
    }
}

/// Where reads go.
#[derive(Clone)]
enum ReadSide {
    File(Jobs<ReadJob>, PathBuf),
    Memory(Jobs<WriteJob>, PathBuf),
}

impl ReadSide {
    async fn read<T, Q>(&self, operation: &'static str, deadline: Duration, query: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        match self {
            Self::File(jobs, path) => reader::read(jobs, operation, deadline, path, query).await,
            Self::Memory(jobs, path) => reader::read(jobs, operation, deadline, path, query).await,
        }
    }
}

impl SqliteStore {
    /// Opens or makes the file at `path`; its directory must exist. Blocks: call it from a blocking thread or before
    /// the runtime is busy.
    ///
    /// A file that is damaged, of another program, of a newer version or in use is `Unavailable`, with what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, SqliteSettings::default())
    }

    /// As [`open`](Self::open), with other settings.
    pub fn open_with(path: impl AsRef<Path>, settings: SqliteSettings) -> Result<Self, StoreError> {
        let file = open_writer(path.as_ref(), FORMAT)?;
        let reader = reader::start(path.as_ref())?;
        Self::start(file, Some(reader), settings)
    }

    /// A store that is gone when it is dropped.
    pub fn open_in_memory() -> Result<Self, StoreError> {
        Self::open_in_memory_with(SqliteSettings::default())
    }

    /// As [`open_in_memory`](Self::open_in_memory), with other settings.
    pub fn open_in_memory_with(settings: SqliteSettings) -> Result<Self, StoreError> {
        Self::start(open_in_memory(FORMAT)?, None, settings)
    }

    fn start(
        file: WriterFile,
        reader: Option<Worker<ReadJob>>,
        settings: SqliteSettings,
    ) -> Result<Self, StoreError> {
        let path = file.path.clone();
        let settings = SqliteSettings {
            keep_revisions: settings.keep_revisions.max(1),
            // Else a watch that keeps up could miss the last transaction.
            keep_change_bytes: settings.keep_change_bytes.max(MAX_TRANSACTION_BYTES as u64),
            ..settings
        };
        let meta = Meta::read(&file.connection).map_err(|e| super::file::failed("opening the store", &path, &e))?;
        let (sender, revision) = tokio::sync::watch::channel(meta.revision);
        let writer = Writer { file, settings, revision: sender };
        let writer = Worker::start("store-writer", settings.queue.max(1), move |inbox| writer.run(inbox))?;
        let (closing, watches) = (CancellationToken::new(), TaskTracker::new());
        Ok(Self { path, settings, closing, watches, revision, reader, writer })
    }

    /// The file, `:memory:` for none.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last durable revision; 0 for a store never written.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    fn reads(&self) -> ReadSide {
        match &self.reader {
            Some(reader) => ReadSide::File(reader.jobs().clone(), self.path.clone()),
            None => ReadSide::Memory(self.writer.jobs().clone(), self.path.clone()),
        }
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.closing.cancel();
        self.watches.close();
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        limits::check_key(key)?;
        let key = key.to_owned();
        self.reads().read("reading a key", self.settings.deadline, move |connection| read_one(connection, key)).await
    }

    async fn range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        let query = move |connection: &Connection| read_range(connection, &range);
        self.reads().read("reading a range", self.settings.deadline, query).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        let make = move |reply| WriteJob::Commit(Commit { transaction, reply });
        self.writer.jobs().ask("committing", self.settings.deadline, make).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after_revision: u64,
    ) -> Result<Receiver<Result<Change, StoreError>>, StoreError> {
        let (revision, closing) = (self.revision.clone(), self.closing.clone());
        let from = (prefix, after_revision);
        let (pump, changes) = Pump::new(self.reads(), self.settings, revision, closing, from).await?;
        self.watches.spawn(pump.run());
        Ok(changes)
    }
}

fn read_one(connection: &Connection, key: String) -> rusqlite::Result<Option<Entry>> {
    let mut statement = connection.prepare_cached("SELECT mod_revision, value FROM entries WHERE key = ?1")?;
    let found = statement.query_row([key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.map(|(revision, value)| Entry { key, value, mod_revision: from_sql(revision) }))
}

fn read_range(connection: &Connection, range: &Range) -> rusqlite::Result<(Vec<Entry>, u64)> {
    let revision = Meta::read(connection)?.revision;
    let mut statement = connection.prepare_cached(
        "SELECT key, mod_revision, value FROM entries WHERE key >= ?1 AND (?2 IS NULL OR key < ?2)
         ORDER BY key LIMIT ?3",
    )?;
    let limit = i64::try_from(range.limit).unwrap_or(i64::MAX);
    let mut rows = statement.query((range.start.as_bytes(), range.end.as_ref().map(String::as_bytes), limit))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let key = key_text(row.get(0)?)?;
        entries.push(Entry { key, mod_revision: from_sql(row.get(1)?), value: row.get(2)? });
    }
    Ok((entries, revision))
}
