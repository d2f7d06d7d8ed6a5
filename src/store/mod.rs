//! Ordered keys with transactions: what the controller must not forget, and the agent's journal.
//!
//! Keys are text, compared by bytes. Every successful transaction raises the revision, and every key
//! remembers the revision that wrote it. Limits hold in every implementation, so that what works on one works
//! on all: see [`MAX_VALUE_BYTES`], [`MAX_OPERATIONS`], [`MAX_TRANSACTION_BYTES`]. A decision too big for one
//! transaction is written in chunks and made true by flipping one header key.

pub mod backup;
pub mod chunked;
pub mod contract;
pub mod etcd;
pub mod failing;
pub mod file;
pub mod flaky;
pub mod history;
pub mod limits;
pub mod memory;
mod reader;
pub mod sealed;
pub mod snapshot;
pub mod sqlite;
mod worker;

use async_trait::async_trait;

pub const MAX_KEY_BYTES: usize = 1024;
pub const MAX_VALUE_BYTES: usize = 256 * 1024;
/// Compares and operations together.
pub const MAX_OPERATIONS: usize = 100;
/// Keys and values of all compares and operations together.
pub const MAX_TRANSACTION_BYTES: usize = 1024 * 1024;

/// A value and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// Revision of the last write of this key.
    pub mod_revision: u64,
}

/// What must hold for a transaction to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    Absent { key: String },
    ModRevision { key: String, revision: u64 },
    Value { key: String, value: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Durable, at this revision.
    Committed { revision: u64 },
    /// A compare did not hold; nothing was written.
    Conflict,
}

/// A range of keys, `start` included, `end` excluded; `end: None` is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub start: String,
    pub end: Option<String>,
    /// At most this many entries.
    pub limit: usize,
}

impl Range {
    /// All keys that start with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        // Keys are UTF-8, so the greatest char sorts after every continuation of the prefix.
        Self { start: prefix.to_owned(), end: Some(format!("{prefix}\u{10FFFF}")), limit: usize::MAX }
    }
}

/// One change, in the order of revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub revision: u64,
    pub key: String,
    /// `None` when deleted.
    pub value: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{what} is {found} bytes, at most {allowed} are allowed")]
    TooLarge { what: String, found: usize, allowed: usize },
    #[error("the transaction has {found} operations, at most {allowed} are allowed")]
    TooManyOperations { found: usize, allowed: usize },
    #[error("the key is empty")]
    EmptyKey,
    /// History before this revision is gone: read everything anew, then watch from there.
    #[error("revision {asked} is compacted, the oldest is {oldest}")]
    Compacted { asked: u64, oldest: u64 },
    /// The store cannot answer now; nothing is known about a write in flight.
    #[error("{operation}: {message}")]
    Unavailable { operation: &'static str, message: String },
    /// What is on the disk makes no sense: waiting will not help.
    #[error("{operation}: {message}")]
    Damaged { operation: &'static str, message: String },
}

/// Ordered keys. Implementations: [`sqlite`], [`etcd`]. The suite in `contract` runs against each.
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Entries in key order, read at one revision, which is returned with them.
    async fn range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError>;

    /// All or nothing; durable before it returns `Committed`. After `Unavailable` nothing is known, until a later commit
    /// of the same store is answered: then the one before it has happened or never will.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;

    /// Changes of keys with `prefix` after `revision`, in order, then as they happen. The channel is bounded:
    /// a reader too slow for it is cut off with an error and starts over.
    async fn watch(
        &self,
        prefix: &str,
        after_revision: u64,
    ) -> Result<tokio::sync::mpsc::Receiver<Result<Change, StoreError>>, StoreError>;
}
