//! Filling a store is cut short after every one of its commits, written or not, and taken up again.

use crate::controller::transfer::{Kind, Source, transfer};
use crate::domain::time::Timestamp;
use crate::store::flaky::{Failure, FlakyStore};
use crate::store::snapshot::Snapshot;
use crate::store::sqlite::SqliteStore;
use crate::store::{Entry, MAX_VALUE_BYTES, Op, Range, Store, StoreError, Transaction, chunked};
use std::sync::Arc;

#[derive(Debug)]
struct Old(Arc<dyn Store>);

#[async_trait::async_trait]
impl Source for Old {
    fn name(&self) -> String {
        "sqlite:/from".to_owned()
    }

    async fn open(&self) -> Result<Snapshot, StoreError> {
        Ok(Snapshot::of_quiet(self.0.clone()))
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(self.0.clone())
    }
}

fn put(key: &str, value: &[u8]) -> Op {
    Op::Put { key: key.to_owned(), value: value.to_vec() }
}

async fn filled() -> Arc<dyn Store> {
    let store = SqliteStore::open_in_memory().unwrap();
    let meta = vec![put("meta/cluster_id", b"c"), put("meta/term", b"7"), put("meta/next_id", b"42")];
    let spec = chunked::put("spec/00000000000000000001", &vec![9; 2 * MAX_VALUE_BYTES + 5]).unwrap();
    let tasks = (0..95).map(|index| put(&format!("task/1/1/0/{index:06}"), b"{}")).collect();
    for ops in [meta, spec, tasks, vec![put("job/1", b"{}")]] {
        store.commit(Transaction { compares: vec![], ops }).await.unwrap();
    }
    Arc::new(store)
}

async fn all(store: &dyn Store, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let pair = |entry: Entry| (entry.key, entry.value);
    store.range(Range::prefix(prefix)).await.unwrap().0.into_iter().map(pair).collect()
}

async fn without_meta(store: &dyn Store) -> Vec<(String, Vec<u8>)> {
    all(store, "").await.into_iter().filter(|(key, _)| !key.starts_with("meta/")).collect()
}

#[tokio::test]
async fn a_move_cut_short_anywhere_is_taken_up_and_no_controller_starts_on_half() {
    for failure in [Failure::NotWritten, Failure::AnswerLost] {
        for failing in 1.. {
            let source = Old(filled().await);
            let wanted = without_meta(&*source.0).await;
            let target = Arc::new(SqliteStore::open_in_memory().unwrap());
            let old = vec![put("job/9", b"old"), put("meta/cluster_id", b"x"), put("meta/term", b"99")];
            target.commit(Transaction { compares: vec![], ops: old }).await.unwrap();
            let flaky: Arc<dyn Store> = Arc::new(FlakyStore::new(target.clone(), failing..=failing, failure));
            let tell = |_: &str, _: u64| {};
            let first = transfer(&source, &flaky, "etcd:to", Kind::Move, true, &tell).await;
            let Err(error) = first else {
                assert!(failing > 3, "{failing} commits are too few");
                break;
            };
            assert!(error.message.contains("takes it up again"), "{error}");
            assert_eq!(without_meta(&*source.0).await, wanted, "the source is whole");
            // Not on both, at any time; on neither is right while it is not done.
            let usable = |meta: &[(String, Vec<u8>)]| {
                meta.iter().any(|(key, _)| key == "meta/cluster_id")
                    && !meta.iter().any(|(key, _)| key == "meta/transfer" || key == "meta/moved")
            };
            let (from, to) = (all(&*source.0, "meta/").await, all(&*target, "meta/").await);
            let both = usable(&from) && usable(&to) && to.iter().any(|(_, value)| value == b"c");
            assert!(!both, "commit {failing}: {from:?} {to:?}");
            let done = transfer(&source, &flaky, "etcd:to", Kind::Move, true, &tell).await.unwrap();
            assert_eq!(without_meta(&*target).await, wanted);
            assert_eq!((done.cluster_id.as_str(), done.next_id), ("c", 42));
            assert!(done.term > 99, "above the target's old term: {}", done.term);
            assert!(all(&*target, "meta/transfer").await.is_empty() && usable(&all(&*target, "meta/").await));
            let spec = chunked::read(&*target, "spec/00000000000000000001").await.unwrap().unwrap();
            assert_eq!(spec.len(), 2 * MAX_VALUE_BYTES + 5, "chunks of one value were written together");
        }
    }
}

#[tokio::test]
async fn a_restored_store_is_above_the_backup_and_above_what_it_replaces() {
    let source = Old(filled().await);
    let target: Arc<dyn Store> = Arc::new(SqliteStore::open_in_memory().unwrap());
    let second = 1_000_000_000;
    let (made_at, now) = (Timestamp(1000 * second), Timestamp(5000 * second));
    let kind = Kind::Restore { made_at, now };
    let done = transfer(&source, &target, "sqlite:/to", kind.clone(), false, &|_, _| {}).await.unwrap();
    assert_eq!((done.term, done.next_id), (5000, 42 + 40_000));
    let refused = transfer(&Old(filled().await), &target, "sqlite:/to", kind.clone(), false, &|_, _| {}).await;
    assert!(refused.unwrap_err().message.contains("--replace"));
    let again = transfer(&Old(filled().await), &target, "sqlite:/to", kind, true, &|_, _| {}).await.unwrap();
    assert!(again.term > done.term && again.next_id > done.next_id, "{again:?}");
}
