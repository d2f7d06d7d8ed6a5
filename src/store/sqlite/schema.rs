//! The tables of the store's file, and the numbers in them. Keys are blobs: compared byte by byte, any text allowed.

use crate::store::file::Format;
use rusqlite::Connection;

pub(super) const FORMAT: Format = Format { name: "store", application_id: 0x7768_4b56, migrations: &[VERSION_1] };

/// `changes.id` is the revision times [`POSITIONS`] plus the place in its transaction: in order, and in one index.
const VERSION_1: &str = "
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        revision INTEGER NOT NULL,
        -- Changes up to this revision are gone.
        compacted INTEGER NOT NULL,
        -- Keys and values in the change log, in bytes.
        change_bytes INTEGER NOT NULL
    );
    INSERT INTO meta VALUES (1, 0, 0, 0);
    CREATE TABLE entries (key BLOB PRIMARY KEY, mod_revision INTEGER NOT NULL, value BLOB NOT NULL);
    CREATE TABLE changes (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB);
";

/// More than a transaction has operations.
const POSITIONS: u64 = 128;
const _: () = assert!(crate::store::MAX_OPERATIONS < 128);

/// The row of `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) revision: u64,
    pub(super) compacted: u64,
    pub(super) change_bytes: u64,
}

impl Meta {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached("SELECT revision, compacted, change_bytes FROM meta")?;
        statement.query_row([], |row| {
            let number = |index| row.get::<_, i64>(index).map(from_sql);
            Ok(Self { revision: number(0)?, compacted: number(1)?, change_bytes: number(2)? })
        })
    }

    pub(super) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement =
            connection.prepare_cached("UPDATE meta SET revision = ?1, compacted = ?2, change_bytes = ?3")?;
        statement.execute([to_sql(self.revision), to_sql(self.compacted), to_sql(self.change_bytes)])?;
        Ok(())
    }
}

/// The id of a change; `position` 0 is the first of its revision.
pub(super) fn change_id(revision: u64, position: u64) -> u64 {
    revision.saturating_mul(POSITIONS).saturating_add(position)
}

pub(super) fn revision_of(change_id: u64) -> u64 {
    change_id / POSITIONS
}

/// SQLite's integers are signed; none of ours comes near the end.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A key as it was written; anything but UTF-8 is damage.
pub(super) fn key_text(bytes: Vec<u8>) -> rusqlite::Result<String> {
    String::from_utf8(bytes)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error)))
}
