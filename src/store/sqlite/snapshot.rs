//! Reads a whole file at one revision, page by page, while its writer may go on.

use super::schema::{FORMAT, Meta, from_sql, key_text};
use crate::store::file::{check_owner, failed, open_reader};
use crate::store::{Entry, StoreError};
use rusqlite::Connection;
use std::path::{Path, PathBuf};

const READING: &str = "reading the store";
/// Entries of a page; each may be as large as a value.
const PAGE: i64 = 64;

/// An open read transaction.
#[derive(Debug)]
pub(crate) struct SqliteSnapshot {
    /// Away only while a thread reads.
    connection: Option<Connection>,
    path: PathBuf,
    revision: u64,
    after: Option<Vec<u8>>,
}

impl SqliteSnapshot {
    /// The state as it is now. Blocks for a moment.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.is_file() {
            let message = format!("there is no store at {}", path.display());
            return Err(StoreError::Unavailable { operation: READING, message });
        }
        let connection = open_reader(path)?;
        check_owner(&connection, path, FORMAT)?;
        let begin = || {
            connection.execute_batch("BEGIN")?;
            // The first read fixes what is seen.
            Meta::read(&connection)
        };
        let revision = begin().map_err(|error| failed(READING, path, &error))?.revision;
        Ok(Self { connection: Some(connection), path: path.to_owned(), revision, after: None })
    }

    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The next entries; none at the end.
    pub(crate) async fn next_page(&mut self) -> Result<Vec<Entry>, StoreError> {
        let lost = || StoreError::Unavailable { operation: READING, message: "reading was cut short".to_owned() };
        let connection = self.connection.take().ok_or_else(lost)?;
        let after = self.after.clone();
        let read = tokio::task::spawn_blocking(move || (page(&connection, after.as_deref()), connection));
        let (entries, connection) = read.await.map_err(|_| lost())?;
        self.connection = Some(connection);
        let entries = entries.map_err(|error| failed(READING, &self.path, &error))?;
        if let Some(last) = entries.last() {
            self.after = Some(last.key.as_bytes().to_vec());
        }
        Ok(entries)
    }
}

fn page(connection: &Connection, after: Option<&[u8]>) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "SELECT key, mod_revision, value FROM entries WHERE ?1 IS NULL OR key > ?1 ORDER BY key LIMIT ?2",
    )?;
    let entries = statement.query_map((after, PAGE), |row| {
        Ok(Entry { key: key_text(row.get(0)?)?, mod_revision: from_sql(row.get(1)?), value: row.get(2)? })
    })?;
    entries.collect()
}
