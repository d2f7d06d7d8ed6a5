//! What every [`Store`] must do, as checks that run against any of them: in tests, and against a real etcd. They write
//! under the prefix they are given and expect nobody else there. They report, and never panic.

mod basics;
mod model;
mod watching;

use super::limits::check;
use super::{
    Compare, Entry, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES, Op, Outcome, Range, Store, StoreError,
    Transaction,
};
pub use model::{Step, follow_model, random_steps};
use std::sync::Arc;

/// A promise of the contract that a store broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {message}")]
pub struct Breach {
    pub check: &'static str,
    pub message: String,
}

/// Ends the check with a [`Breach`] unless the condition holds.
macro_rules! ensure {
    ($check:expr, $condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::store::contract::Breach { check: $check, message: format!($($message)+) });
        }
    };
}
use ensure;

/// All promises of a working store, under keys that start with `prefix`.
pub async fn run(store: Arc<dyn Store>, prefix: &str) -> Result<(), Breach> {
    let area = |name: &str| format!("{prefix}{name}/");
    basics::writes(&*store, &area("writes")).await?;
    basics::compares(&*store, &area("compares")).await?;
    basics::ranges(&*store, &area("ranges")).await?;
    basics::last_operation_wins(&*store, &area("twice")).await?;
    limits(&*store, &area("limits"), Expected::Accepted).await?;
    watching::history_then_live(&*store, &area("watch")).await?;
    watching::future_is_compacted(&*store, &area("watch")).await?;
    model::follow_model(&*store, &area("model"), &random_steps(1, 60)).await?;
    model::increments(Arc::clone(&store), &area("increments")).await
}

/// What a store promises that cannot work: each call answers `Unavailable` in time, and limits are still named first.
pub async fn run_unavailable(store: &dyn Store) -> Result<(), Breach> {
    const CHECK: &str = "an unavailable store says so";
    let unavailable = |error: Option<StoreError>| matches!(error, Some(StoreError::Unavailable { .. }));
    let get = store.get("key").await.err();
    ensure!(CHECK, unavailable(get.clone()), "get answered {get:?}");
    let range = store.range(Range::prefix("key")).await.err();
    ensure!(CHECK, unavailable(range.clone()), "range answered {range:?}");
    let commit = store.commit(put("key", b"value")).await.err();
    ensure!(CHECK, unavailable(commit.clone()), "commit answered {commit:?}");
    let watch = store.watch("key", 0).await.err();
    ensure!(CHECK, unavailable(watch.clone()), "watch answered {watch:?}");
    limits(store, "limits/", Expected::Unavailable).await
}

/// What happens to transactions within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Accepted,
    Unavailable,
}

async fn limits(store: &dyn Store, prefix: &str, expected: Expected) -> Result<(), Breach> {
    const CHECK: &str = "limits are exact";
    let long = |bytes: usize| format!("{prefix}{}", "k".repeat(bytes.saturating_sub(prefix.len())));
    let puts = |count: usize, bytes: usize| {
        let op = |index| Op::Put { key: format!("{prefix}{index:04}"), value: vec![1; bytes] };
        Transaction { compares: vec![], ops: (0..count).map(op).collect() }
    };
    let absent = |key: String| Transaction { compares: vec![Compare::Absent { key }], ops: vec![] };
    let cases = [
        put(&long(MAX_KEY_BYTES), b""),
        put(&long(MAX_KEY_BYTES + 1), b""),
        put("", b""),
        absent(long(MAX_KEY_BYTES + 1)),
        puts(1, MAX_VALUE_BYTES),
        puts(1, MAX_VALUE_BYTES + 1),
        puts(MAX_OPERATIONS, 1),
        puts(MAX_OPERATIONS + 1, 1),
        puts(4, MAX_VALUE_BYTES - prefix.len() - 4),
        puts(4, MAX_VALUE_BYTES - prefix.len() - 3),
    ];
    for (case, transaction) in cases.into_iter().enumerate() {
        let verdict = check(&transaction);
        let answer = store.commit(transaction).await;
        let right = match (&verdict, &answer) {
            (Err(expected), Err(found)) => expected == found,
            (Ok(()), Ok(Outcome::Committed { .. })) => expected == Expected::Accepted,
            (Ok(()), Err(StoreError::Unavailable { .. })) => expected == Expected::Unavailable,
            _ => false,
        };
        ensure!(CHECK, right, "case {case}: expected {verdict:?}, the store answered {answer:?}");
    }
    let get = store.get(&long(MAX_KEY_BYTES + 1)).await;
    ensure!(CHECK, matches!(get, Err(StoreError::TooLarge { .. })), "get of a long key answered {get:?}");
    Ok(())
}

fn put(key: &str, value: &[u8]) -> Transaction {
    Transaction { compares: vec![], ops: vec![Op::Put { key: key.to_owned(), value: value.to_vec() }] }
}

/// The answer of a call that must work.
fn works<T>(check: &'static str, answer: Result<T, StoreError>) -> Result<T, Breach> {
    answer.map_err(|error| Breach { check, message: error.to_string() })
}

/// The revision of a commit that must apply.
async fn committed(check: &'static str, store: &dyn Store, transaction: Transaction) -> Result<u64, Breach> {
    match works(check, store.commit(transaction).await)? {
        Outcome::Committed { revision } => Ok(revision),
        Outcome::Conflict => Err(Breach { check, message: "a transaction conflicted for no reason".to_owned() }),
    }
}

/// All entries under a prefix.
async fn all(check: &'static str, store: &dyn Store, prefix: &str) -> Result<(Vec<Entry>, u64), Breach> {
    works(check, store.range(Range::prefix(prefix)).await)
}
