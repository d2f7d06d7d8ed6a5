//! The writing thread: takes what is queued, applies each transaction in a savepoint of its own, commits them all with
//! one sync of the disk, and only then answers. One conflict or failure leaves the others alone.

use super::schema::{Meta, change_id, from_sql, revision_of, to_sql};
use super::{SqliteSettings, WriteJob};
use crate::store::file::{WriterFile, failed};
use crate::store::limits::effective;
use crate::store::worker::{Inbox, Reply};
use crate::store::{Compare, Op, Outcome, StoreError, Transaction};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use tokio::sync::watch;

/// Most transactions and bytes in one commit: a bound on what is lost time for the first one in it.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 8 * 1024 * 1024;

const COMMITTING: &str = "committing";

/// A transaction that waits for its turn. Its limits were checked by the caller's side.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) transaction: Transaction,
    pub(super) reply: Reply<Outcome>,
}

pub(super) struct Writer {
    pub(super) file: WriterFile,
    pub(super) settings: SqliteSettings,
    /// Wakes the watches; holds the last durable revision.
    pub(super) revision: watch::Sender<u64>,
}

impl Writer {
    pub(super) fn run(mut self, mut inbox: Inbox<WriteJob>) {
        while let Some(job) = inbox.next() {
            let mut reads = Vec::new();
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    WriteJob::Commit(commit) if commit.reply.expired() => drop(commit),
                    WriteJob::Commit(commit) => {
                        bytes += size(&commit.transaction);
                        group.push(commit);
                    }
                    WriteJob::Read(read) => reads.push(read),
                }
                next = if group.len() + reads.len() < GROUP && bytes < GROUP_BYTES { inbox.try_next() } else { None };
            }
            if !group.is_empty() {
                self.commit(group);
            }
            for read in reads {
                read(&mut self.file.connection);
            }
        }
    }

    fn commit(&mut self, group: Vec<Commit>) {
        match self.write(&group) {
            Ok((answers, revision)) => {
                self.revision.send_replace(revision);
                for (commit, answer) in group.into_iter().zip(answers) {
                    commit.reply.send(answer);
                }
            }
            Err(error) => {
                let error = failed(COMMITTING, &self.file.path, &error);
                tracing::warn!(%error, transactions = group.len(), "the store could not commit");
                for commit in group {
                    commit.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// The answer to each transaction, true once this returns, and the revision after them.
    fn write(&mut self, group: &[Commit]) -> rusqlite::Result<(Vec<Result<Outcome, StoreError>>, u64)> {
        let mut transaction = self.file.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut meta = Meta::read(&transaction)?;
        let mut answers = Vec::with_capacity(group.len());
        for commit in group {
            // Getting the write lock may have taken longer than anybody waits.
            if commit.reply.expired() {
                let message = "nobody waits for the answer any more".to_owned();
                answers.push(Err(StoreError::Unavailable { operation: COMMITTING, message }));
                continue;
            }
            let savepoint = transaction.savepoint()?;
            let applied = apply(&savepoint, &commit.transaction, meta.revision + 1);
            match applied {
                Ok(Some(bytes)) => {
                    savepoint.commit()?;
                    meta.revision += 1;
                    meta.change_bytes += bytes;
                    answers.push(Ok(Outcome::Committed { revision: meta.revision }));
                }
                Ok(None) => answers.push(Ok(Outcome::Conflict)),
                // SQLite itself rolled everything back (disk full, IO error): there is no group any more.
                Err(error) if savepoint.is_autocommit() => return Err(error),
                Err(error) => answers.push(Err(failed(COMMITTING, &self.file.path, &error))),
            }
        }
        compact(&transaction, &mut meta, &self.settings)?;
        meta.write(&transaction)?;
        transaction.commit()?;
        Ok((answers, meta.revision))
    }
}

/// Writes the transaction and its changes; `None` if a compare does not hold. Says how much the change log grew.
fn apply(connection: &Connection, transaction: &Transaction, revision: u64) -> rusqlite::Result<Option<u64>> {
    for compare in &transaction.compares {
        if !holds(connection, compare)? {
            return Ok(None);
        }
    }
    let mut put = connection.prepare_cached(
        "INSERT INTO entries (key, mod_revision, value) VALUES (?1, ?2, ?3)
         ON CONFLICT (key) DO UPDATE SET mod_revision = ?2, value = ?3",
    )?;
    let mut delete = connection.prepare_cached("DELETE FROM entries WHERE key = ?1")?;
    let mut change = connection.prepare_cached("INSERT INTO changes (id, key, value) VALUES (?1, ?2, ?3)")?;
    let mut bytes = 0;
    for (op, position) in effective(&transaction.ops).into_iter().zip(0..) {
        let id = to_sql(change_id(revision, position));
        let (key, value) = match op {
            Op::Put { key, value } => {
                put.execute((key.as_bytes(), to_sql(revision), value))?;
                (key, Some(value))
            }
            Op::Delete { key } => {
                if delete.execute([key.as_bytes()])? == 0 {
                    continue;
                }
                (key, None)
            }
        };
        change.execute((id, key.as_bytes(), value))?;
        bytes += key.len() + value.map_or(0, Vec::len);
    }
    Ok(Some(bytes as u64))
}

fn holds(connection: &Connection, compare: &Compare) -> rusqlite::Result<bool> {
    let revision = |key: &str| -> rusqlite::Result<Option<u64>> {
        let mut statement = connection.prepare_cached("SELECT mod_revision FROM entries WHERE key = ?1")?;
        Ok(statement.query_row([key.as_bytes()], |row| row.get(0)).optional()?.map(from_sql))
    };
    Ok(match compare {
        Compare::Absent { key } => revision(key)?.is_none(),
        Compare::ModRevision { key, revision: expected } => revision(key)? == Some(*expected),
        Compare::Value { key, value } => {
            let mut statement = connection.prepare_cached("SELECT value = ?2 FROM entries WHERE key = ?1")?;
            statement.query_row((key.as_bytes(), value), |row| row.get(0)).optional()?.unwrap_or(false)
        }
    })
}

/// Forgets changes that are older than the settings keep, by number of revisions and by bytes.
fn compact(connection: &Connection, meta: &mut Meta, settings: &SqliteSettings) -> rusqlite::Result<()> {
    let by_count = meta.revision.saturating_sub(settings.keep_revisions);
    let until = by_count.max(oldest_by_bytes(connection, meta, settings.keep_change_bytes)?);
    if until <= meta.compacted {
        return Ok(());
    }
    let end = to_sql(change_id(until + 1, 0));
    let mut sum = connection.prepare_cached(
        "SELECT coalesce(sum(length(key) + coalesce(length(value), 0)), 0) FROM changes WHERE id < ?1",
    )?;
    let freed = sum.query_row([end], |row| row.get(0)).map(from_sql)?;
    connection.prepare_cached("DELETE FROM changes WHERE id < ?1")?.execute([end])?;
    meta.change_bytes = meta.change_bytes.saturating_sub(freed);
    meta.compacted = until;
    Ok(())
}

/// The last revision that must go for the rest to fit into `keep_bytes`; 0 if all fit.
fn oldest_by_bytes(connection: &Connection, meta: &Meta, keep_bytes: u64) -> rusqlite::Result<u64> {
    let mut excess = meta.change_bytes.saturating_sub(keep_bytes);
    let mut until = 0;
    if excess == 0 {
        return Ok(until);
    }
    let mut statement =
        connection.prepare_cached("SELECT id, length(key) + coalesce(length(value), 0) FROM changes ORDER BY id")?;
    let mut rows = statement.query([])?;
    while excess > 0 {
        let Some(row) = rows.next()? else { break };
        until = revision_of(from_sql(row.get(0)?));
        excess = excess.saturating_sub(from_sql(row.get(1)?));
    }
    Ok(until)
}

fn size(transaction: &Transaction) -> usize {
    let op_bytes = |op: &Op| match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
    };
    transaction.ops.iter().map(op_bytes).sum()
}
