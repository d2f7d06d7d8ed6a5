//! What a process can reach as long as it lives: after a SIGKILL nothing of what it was about to do happens any more.

use crate::store::{Change, Entry, Outcome, Range, Store, StoreError, Transaction};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Closed when its process is killed.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    pub fn close(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Never returns to a dead process.
    pub async fn pass(&self) {
        if self.0.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }
}

/// What is wrong with a disk.
#[derive(Debug, Default)]
pub struct DiskFaults {
    pub full: AtomicBool,
    /// So many of the next commits are written, but the answers are lost.
    pub answers_lost: AtomicU32,
}

/// The disk of one process: what it writes takes a moment, in which it may be killed, before or after the write.
#[derive(Debug)]
pub struct Disk {
    pub store: Arc<dyn Store>,
    pub faults: Arc<DiskFaults>,
    pub gate: Gate,
}

const WRITE: Duration = Duration::from_micros(300);

#[async_trait]
impl Store for Disk {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.gate.pass().await;
        self.store.get(key).await
    }

    async fn range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        self.gate.pass().await;
        self.store.range(range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let failed =
            |message: &str| Err(StoreError::Unavailable { operation: "committing", message: message.to_owned() });
        tokio::time::sleep(WRITE).await;
        self.gate.pass().await;
        if self.faults.full.load(Ordering::Acquire) {
            return failed("the disk is full");
        }
        let outcome = self.store.commit(transaction).await;
        tokio::time::sleep(WRITE).await;
        self.gate.pass().await;
        let lose = |left: u32| left.checked_sub(1);
        if self.faults.answers_lost.fetch_update(Ordering::AcqRel, Ordering::Acquire, lose).is_ok() {
            return failed("no answer in time");
        }
        outcome
    }

    async fn watch(
        &self,
        prefix: &str,
        after: u64,
    ) -> Result<mpsc::Receiver<Result<Change, StoreError>>, StoreError> {
        self.gate.pass().await;
        self.store.watch(prefix, after).await
    }
}
