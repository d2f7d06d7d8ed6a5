//! The store in etcd (version 3.4 and later): for several controllers, of which one leads.
//!
//! ```text
//!   Store::get, range --> range.rs   pages at one revision --------------+
//!   Store::commit ------> commit.rs  compares and writes, session -------+--> link.rs --> a member of etcd
//!   Store::watch -------> watch.rs   a stream, resumed where it was -----+      (the next one when it is away)
//!   campaign -----------> lease.rs   a key bound to a lease -------------+
//! ```
//!
//! Revisions are etcd's: they rise with everybody's writes, ours or not, so they have gaps, but they rise with each of
//! our transactions, and reading, comparing and watching agree on them. Reads are linearizable: they need a quorum, as
//! writes do, because a controller reads only to take the lead or to find out what the store took. Everything has a
//! deadline. A write without an answer is `Unavailable`; see `commit.rs` for how its outcome is settled.
//!
//! History is compacted by etcd as it is told to (`--auto-compaction-retention`); without that its database grows
//! until it is full, which is answered with a sentence.

mod commit;
mod generated;
mod keys;
pub mod lease;
mod link;
mod range;
mod watch;

pub(crate) use range::Reading;

use super::{Change, Entry, Outcome, Range, Store, StoreError, Transaction, limits};
use async_trait::async_trait;
use commit::Session;
use keys::Keys;
use link::Link;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where etcd is, and what may differ between stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `HOST:PORT` of its members.
    pub endpoints: Vec<String>,
    /// Of all keys; one cluster of wharf has it for itself.
    pub prefix: String,
    /// A call that has no answer by then is `Unavailable`.
    pub deadline: Duration,
    /// A watch whose reader takes nothing for so long is cut off.
    pub watch_stall: Duration,
    /// A watch that no member serves for so long ends.
    pub watch_patience: Duration,
    /// None: what is said to it can be read and changed on the way.
    pub tls: Option<EtcdTls>,
}

/// Whom to believe as etcd, and what to show it; all in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdTls {
    pub ca: String,
    /// A certificate and its private key, where it asks for one.
    pub identity: Option<(String, String)>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

impl EtcdSettings {
    /// The prefix where none is named.
    pub const DEFAULT_PREFIX: &'static str = "/wharf/";

    /// These members, and the usual rest.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: Self::DEFAULT_PREFIX.to_owned(),
            deadline: Duration::from_secs(10),
            watch_stall: Duration::from_secs(30),
            watch_patience: Duration::from_secs(60),
            tls: None,
        }
    }
}

/// A [`Store`] in etcd.
pub struct EtcdStore {
    settings: EtcdSettings,
    keys: Keys,
    link: Arc<Link>,
    session: Session,
    closing: CancellationToken,
    watches: TaskTracker,
}

impl EtcdStore {
    /// Does not connect yet. Has to be called inside a tokio runtime.
    pub fn new(settings: EtcdSettings) -> Result<Self, StoreError> {
        let link = Arc::new(Link::new(&settings.endpoints, settings.tls.as_ref())?);
        let keys = Keys::new(&settings.prefix);
        let session = Session::new(keys.session(&uuid::Uuid::new_v4().to_string()));
        let (closing, watches) = (CancellationToken::new(), TaskTracker::new());
        Ok(Self { settings, keys, link, session, closing, watches })
    }
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.closing.cancel();
        self.watches.close();
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        limits::check_key(key)?;
        let range = Range { start: key.to_owned(), end: Some(format!("{key}\0")), limit: 1 };
        Ok(self.read_range(range).await?.0.pop())
    }

    async fn range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        self.read_range(range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        self.transact(&transaction).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after_revision: u64,
    ) -> Result<Receiver<Result<Change, StoreError>>, StoreError> {
        self.start_watch(prefix, after_revision).await
    }
}
