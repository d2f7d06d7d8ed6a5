//! A watch reads the change log from where it is to its end, then waits for the next commit, and so on: history and
//! live changes come the same way, so there is no seam with a gap or a repeat, and what waits lies on disk, not in
//! memory.

use super::schema::{Meta, change_id, from_sql, key_text, revision_of, to_sql};
use super::{ReadSide, SqliteSettings};
use crate::store::{Change, StoreError};
use rusqlite::Connection;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(super) const WATCHING: &str = "watching";
/// Changes read at once; each may be as large as a value.
const BATCH: usize = 64;
/// Changes that wait for the reader in memory.
const CHANNEL: usize = 64;

pub(super) type Changes = mpsc::Receiver<Result<Change, StoreError>>;

/// One watch.
pub(super) struct Pump {
    reads: ReadSide,
    settings: SqliteSettings,
    revision: watch::Receiver<u64>,
    closing: CancellationToken,
    prefix: Vec<u8>,
    /// The id of the next change to look at.
    next: u64,
    sender: mpsc::Sender<Result<Change, StoreError>>,
    /// A place in the channel that no change can take: for the reason of the end.
    farewell: mpsc::OwnedPermit<Result<Change, StoreError>>,
}

/// Some changes, and where to go on.
struct Batch {
    changes: Vec<Change>,
    next: u64,
    /// There is more to read already.
    full: bool,
}

impl Pump {
    /// Fails with `Compacted` if history does not reach back to `after`, or if `after` was never reached: then the
    /// store was restored from a backup, and the caller's picture of it is wrong.
    pub(super) async fn new(
        reads: ReadSide,
        settings: SqliteSettings,
        revision: watch::Receiver<u64>,
        closing: CancellationToken,
        (prefix, after): (&str, u64),
    ) -> Result<(Self, Changes), StoreError> {
        let meta = reads.read(WATCHING, settings.deadline, Meta::read).await?;
        if after < meta.compacted || after > meta.revision {
            return Err(StoreError::Compacted { asked: after, oldest: meta.compacted });
        }
        let (sender, receiver) = mpsc::channel(CHANNEL + 1);
        let farewell = sender.clone().reserve_owned().await.map_err(|_| ended("the channel closed"))?;
        let (prefix, next) = (prefix.as_bytes().to_vec(), change_id(after + 1, 0));
        Ok((Self { reads, settings, revision, closing, prefix, next, sender, farewell }, receiver))
    }

    pub(super) async fn run(mut self) {
        let closing = self.closing.clone();
        let gone = self.sender.clone();
        let end = tokio::select! {
            biased;
            () = closing.cancelled() => Some(ended("the store is being closed")),
            () = gone.closed() => None,
            error = self.deliver() => Some(error),
        };
        if let Some(error) = end {
            self.farewell.send(Err(error));
        }
    }

    /// Runs until something ends it.
    async fn deliver(&mut self) -> StoreError {
        loop {
            self.revision.borrow_and_update();
            let batch = match self.read().await {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            for change in batch.changes {
                let sent = tokio::time::timeout(self.settings.watch_stall, self.sender.send(Ok(change))).await;
                if sent.is_err() {
                    let stall = self.settings.watch_stall.as_millis();
                    return ended(&format!("the reader took nothing for {stall} ms; read everything anew"));
                }
            }
            self.next = batch.next;
            if !batch.full && self.revision.changed().await.is_err() {
                return ended("the store's writer has stopped");
            }
        }
    }

    async fn read(&self) -> Result<Batch, StoreError> {
        let (prefix, next) = (self.prefix.clone(), self.next);
        let query = move |connection: &Connection| read_batch(connection, &prefix, next);
        self.reads.read(WATCHING, self.settings.deadline, query).await?
    }
}

fn read_batch(connection: &Connection, prefix: &[u8], next: u64) -> rusqlite::Result<Result<Batch, StoreError>> {
    let meta = Meta::read(connection)?;
    if next < change_id(meta.compacted + 1, 0) {
        let asked = revision_of(next).saturating_sub(1);
        return Ok(Err(StoreError::Compacted { asked, oldest: meta.compacted }));
    }
    let mut statement = connection.prepare_cached(
        "SELECT id, key, value FROM changes WHERE id >= ?1 AND substr(key, 1, ?2) = ?3 ORDER BY id LIMIT ?4",
    )?;
    let limits = (to_sql(next), to_sql(prefix.len() as u64), prefix, to_sql(BATCH as u64));
    let mut rows = statement.query(limits)?;
    let mut changes = Vec::new();
    let mut after_last = next;
    while let Some(row) = rows.next()? {
        let id = from_sql(row.get(0)?);
        changes.push(Change { revision: revision_of(id), key: key_text(row.get(1)?)?, value: row.get(2)? });
        after_last = id + 1;
    }
    let full = changes.len() == BATCH;
    let next = if full { after_last } else { change_id(meta.revision + 1, 0) };
    Ok(Ok(Batch { changes, next, full }))
}

fn ended(message: &str) -> StoreError {
    StoreError::Unavailable { operation: WATCHING, message: message.to_owned() }
}
