//! A store that fails on a script, the same way every time: for tests and simulations of what uses a store.

use super::{Change, Entry, Outcome, Range, Store, StoreError, Transaction, limits};
use async_trait::async_trait;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::Receiver;

/// How a commit fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing is written.
    NotWritten,
    /// It is written, but the answer is lost: what a caller must take into account for any `Unavailable`.
    AnswerLost,
}

/// Passes everything on, except the commits that the script names.
#[derive(Debug)]
pub struct FlakyStore {
    inner: Arc<dyn Store>,
    script: Mutex<Vec<(RangeInclusive<u64>, Failure)>>,
    commits: AtomicU64,
}

impl FlakyStore {
    /// Fails the commits numbered `failing`; the first commit is 1.
    pub fn new(inner: Arc<dyn Store>, failing: RangeInclusive<u64>, failure: Failure) -> Self {
        Self::scripted(inner, vec![(failing, failure)])
    }

    /// As [`new`](Self::new) with several ranges; the first that holds a commit's number decides.
    pub fn scripted(inner: Arc<dyn Store>, script: Vec<(RangeInclusive<u64>, Failure)>) -> Self {
        Self { inner, script: Mutex::new(script), commits: AtomicU64::new(0) }
    }

    /// Fails the next commit, which nobody may have asked for yet.
    pub fn fail_next(&self, failure: Failure) {
        let next = self.commits() + 1;
        self.script.lock().unwrap_or_else(PoisonError::into_inner).push((next..=next, failure));
    }

    /// Commits asked for so far, those over a limit left out.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }
}

#[async_trait]
impl Store for FlakyStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.inner.get(key).await
    }

    async fn range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        self.inner.range(range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        let number = self.commits.fetch_add(1, Ordering::AcqRel) + 1;
        let failure = {
            let script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
            script.iter().find(|(numbers, _)| numbers.contains(&number)).map(|(_, failure)| *failure)
        };
        match failure {
            None => return self.inner.commit(transaction).await,
            Some(Failure::AnswerLost) => drop(self.inner.commit(transaction).await?),
            Some(Failure::NotWritten) => {}
        }
        let message = format!("commit {number} fails as scripted");
        Err(StoreError::Unavailable { operation: "committing", message })
    }

    async fn watch(
        &self,
        prefix: &str,
        after_revision: u64,
    ) -> Result<Receiver<Result<Change, StoreError>>, StoreError> {
        self.inner.watch(prefix, after_revision).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::super::sqlite::SqliteStore;
    use super::*;

    #[tokio::test]
    async fn exactly_the_scripted_commits_fail() {
        let inner = Arc::new(SqliteStore::open_in_memory().unwrap());
        let script = vec![(2..=3, Failure::NotWritten), (5..=5, Failure::AnswerLost)];
        let store = FlakyStore::scripted(inner, script);
        let mut answers = Vec::new();
        for number in 1..=6 {
            let ops = vec![Op::Put { key: format!("k{number}"), value: vec![] }];
            answers.push(store.commit(Transaction { compares: vec![], ops }).await.is_ok());
        }
        assert_eq!(answers, [true, false, false, true, false, true]);
        let (entries, revision) = store.range(Range::prefix("k")).await.unwrap();
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!((keys, revision), (vec!["k1", "k4", "k5", "k6"], 4));
        assert_eq!(store.commits(), 6);
    }
}
