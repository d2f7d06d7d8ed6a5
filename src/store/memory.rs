//! A store without a disk: for tests and simulations of what uses a store. It answers at once and never fails by
//! itself; what lies in it lives as long as it does.

use super::{Change, Compare, Entry, Op, Outcome, Range, Store, StoreError, Transaction, limits};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc;

/// Changes that wait for a watcher that does not read; more cut it off.
const WATCH_QUEUE: usize = 4096;

#[derive(Debug, Default)]
pub struct MemoryStore {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    entries: BTreeMap<String, Entry>,
    revision: u64,
    /// Every change there ever was: none is compacted.
    history: Vec<Change>,
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    sender: mpsc::Sender<Result<Change, StoreError>>,
}

impl MemoryStore {
    fn with<T>(&self, work: impl FnOnce(&mut Content) -> T) -> T {
        work(&mut self.content.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Content {
    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent { key } => !self.entries.contains_key(key),
            Compare::ModRevision { key, revision } => {
                self.entries.get(key).is_some_and(|entry| entry.mod_revision == *revision)
            }
            Compare::Value { key, value } => self.entries.get(key).is_some_and(|entry| entry.value == *value),
        }
    }

    fn commit(&mut self, transaction: Transaction) -> Outcome {
        if !transaction.compares.iter().all(|compare| self.holds(compare)) {
            return Outcome::Conflict;
        }
        self.revision += 1;
        let revision = self.revision;
        // The last operation on a key is the one that counts.
        let mut last: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for op in transaction.ops {
            match op {
                Op::Put { key, value } => last.insert(key, Some(value)),
                Op::Delete { key } => last.insert(key, None),
            };
        }
        for (key, value) in last {
            let existed = match value.clone() {
                Some(value) => {
                    self.entries.insert(key.clone(), Entry { key: key.clone(), value, mod_revision: revision });
                    true
                }
                None => self.entries.remove(&key).is_some(),
            };
            if existed {
                self.tell(Change { revision, key, value });
            }
        }
        Outcome::Committed { revision }
    }

    fn tell(&mut self, change: Change) {
        self.watchers.retain(|watcher| {
            !change.key.starts_with(&watcher.prefix) || watcher.sender.try_send(Ok(change.clone())).is_ok()
        });
        self.history.push(change);
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        limits::check_key(key)?;
        Ok(self.with(|content| content.entries.get(key).cloned()))
    }

    async fn range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        Ok(self.with(|content| {
            let from = content.entries.range(range.start.clone()..).map(|(_, entry)| entry);
            let within = from.take_while(|entry| range.end.as_ref().is_none_or(|end| entry.key < *end));
            (within.take(range.limit).cloned().collect(), content.revision)
        }))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        Ok(self.with(|content| content.commit(transaction)))
    }

    async fn watch(
        &self,
        prefix: &str,
        after_revision: u64,
    ) -> Result<mpsc::Receiver<Result<Change, StoreError>>, StoreError> {
        self.with(|content| {
            if after_revision > content.revision {
                return Err(StoreError::Compacted { asked: after_revision, oldest: content.revision });
            }
            let missed = content
                .history
                .iter()
                .filter(|change| change.revision > after_revision && change.key.starts_with(prefix));
            let missed: Vec<Change> = missed.cloned().collect();
            let (sender, receiver) = mpsc::channel(WATCH_QUEUE + missed.len());
            for change in missed {
                // There is room for all of them.
                let _ = sender.try_send(Ok(change));
            }
            content.watchers.push(Watcher { prefix: prefix.to_owned(), sender });
            Ok(receiver)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn the_contract_holds() {
        contract::run(Arc::new(MemoryStore::default()), "test/").await.unwrap();
    }
}
