//! A disk in memory that can be full, and can hang.

use crate::store::{Change, Entry, Op, Outcome, Range, Store, StoreError, Transaction};
use crate::store::{MAX_OPERATIONS, MAX_VALUE_BYTES};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::{mpsc, watch};

#[derive(Debug)]
pub struct MemoryStore {
    content: Mutex<(BTreeMap<String, Entry>, u64)>,
    full: watch::Sender<bool>,
    hangs: watch::Sender<bool>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { content: Mutex::default(), full: watch::channel(false).0, hangs: watch::channel(false).0 }
    }
}

impl MemoryStore {
    pub fn set_full(&self, full: bool) {
        self.full.send_replace(full);
    }

    /// Writes wait until this is taken back.
    pub fn set_hanging(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    pub fn text(&self, key: &str) -> Option<String> {
        let content = self.content.lock().unwrap();
        content.0.get(key).map(|entry| String::from_utf8(entry.value.clone()).unwrap())
    }

    pub fn everything(&self) -> String {
        let content = self.content.lock().unwrap();
        content.0.values().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).collect()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.content.lock().unwrap().0.get(key).cloned())
    }

    async fn range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        let content = self.content.lock().unwrap();
        let within = content.0.range(range.start.clone()..).map(|(_, entry)| entry.clone());
        let entries = within.take_while(|entry| range.end.as_ref().is_none_or(|end| entry.key < *end));
        Ok((entries.take(range.limit).collect(), content.1))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let _ = self.hangs.subscribe().wait_for(|hangs| !hangs).await;
        if *self.full.borrow() {
            return Err(StoreError::Unavailable { operation: "commit", message: "the disk is full".to_owned() });
        }
        assert!(transaction.ops.len() <= MAX_OPERATIONS, "{} operations", transaction.ops.len());
        let mut content = self.content.lock().unwrap();
        content.1 += 1;
        let revision = content.1;
        for op in transaction.ops {
            match op {
                Op::Put { key, value } => {
                    assert!(value.len() <= MAX_VALUE_BYTES);
                    content.0.insert(key.clone(), Entry { key, value, mod_revision: revision });
                }
                Op::Delete { key } => drop(content.0.remove(&key)),
            }
        }
        Ok(Outcome::Committed { revision })
    }

    async fn watch(&self, _: &str, _: u64) -> Result<mpsc::Receiver<Result<Change, StoreError>>, StoreError> {
        Err(StoreError::Unavailable { operation: "watch", message: "not scripted".to_owned() })
    }
}
