//! A store that is never there: for the question what the rest of wharf does then.

use super::{Change, Entry, Outcome, Range, Store, StoreError, Transaction, limits};
use async_trait::async_trait;
use tokio::sync::mpsc::Receiver;

/// Answers every call with `Unavailable` and this message; what is over a limit is still told so first.
#[derive(Debug, Clone)]
pub struct FailingStore {
    message: String,
}

impl FailingStore {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    fn fail<T>(&self, operation: &'static str) -> Result<T, StoreError> {
        Err(StoreError::Unavailable { operation, message: self.message.clone() })
    }
}

impl Default for FailingStore {
    fn default() -> Self {
        Self::new("this store always fails")
    }
}

#[async_trait]
impl Store for FailingStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        limits::check_key(key)?;
        self.fail("reading a key")
    }

    async fn range(&self, _: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        self.fail("reading a range")
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        self.fail("committing")
    }

    async fn watch(&self, _: &str, _: u64) -> Result<Receiver<Result<Change, StoreError>>, StoreError> {
        self.fail("watching")
    }
}
