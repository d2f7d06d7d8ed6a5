//! The limits of the [`Store`](super::Store) contract, checked by every implementation before anything else, so that
//! what is accepted by one is accepted by all. No IO.

use super::{
    Compare, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, MAX_VALUE_BYTES, Op, StoreError, Transaction,
};
use std::collections::HashSet;

/// Refuses a key that no store would hold.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::EmptyKey);
    }
    if key.len() > MAX_KEY_BYTES {
        let what = format!("the key '{}'", shortened(key));
        return Err(StoreError::TooLarge { what, found: key.len(), allowed: MAX_KEY_BYTES });
    }
    Ok(())
}

/// Refuses a transaction over any limit: operations, each key, each value, all bytes together.
pub fn check(transaction: &Transaction) -> Result<(), StoreError> {
    let operations = transaction.compares.len() + transaction.ops.len();
    if operations > MAX_OPERATIONS {
        return Err(StoreError::TooManyOperations { found: operations, allowed: MAX_OPERATIONS });
    }
    let mut total = 0;
    for compare in &transaction.compares {
        total += match compare {
            Compare::Absent { key } | Compare::ModRevision { key, .. } => check_pair(key, &[])?,
            Compare::Value { key, value } => check_pair(key, value)?,
        };
    }
    for op in &transaction.ops {
        total += match op {
            Op::Put { key, value } => check_pair(key, value)?,
            Op::Delete { key } => check_pair(key, &[])?,
        };
    }
    if total > MAX_TRANSACTION_BYTES {
        let what = "the transaction".to_owned();
        return Err(StoreError::TooLarge { what, found: total, allowed: MAX_TRANSACTION_BYTES });
    }
    Ok(())
}

/// The operations that count, in their order: of several on one key only the last.
///
/// Stores differ here (one applies them in turn, another refuses them), so the contract says "the last wins" and no
/// implementation sees two of one key: a watcher gets one change per key and revision.
pub fn effective(ops: &[Op]) -> Vec<&Op> {
    let mut seen = HashSet::with_capacity(ops.len());
    let mut kept: Vec<&Op> = ops.iter().rev().filter(|op| seen.insert(key_of(op))).collect();
    kept.reverse();
    kept
}

/// The key that an operation writes.
pub fn key_of(op: &Op) -> &str {
    match op {
        Op::Put { key, .. } | Op::Delete { key } => key,
    }
}

fn check_pair(key: &str, value: &[u8]) -> Result<usize, StoreError> {
    check_key(key)?;
    if value.len() > MAX_VALUE_BYTES {
        let what = format!("the value of '{}'", shortened(key));
        return Err(StoreError::TooLarge { what, found: value.len(), allowed: MAX_VALUE_BYTES });
    }
    Ok(key.len() + value.len())
}

/// A key may be as long as a caller's mistake; a message may not.
fn shortened(key: &str) -> String {
    const SHOWN: usize = 80;
    match key.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &key[..at]),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, bytes: usize) -> Op {
        Op::Put { key: key.to_owned(), value: vec![0; bytes] }
    }

    #[test]
    fn the_last_operation_of_a_key_wins() {
        let ops = [put("a", 1), put("b", 2), Op::Delete { key: "a".into() }];
        assert_eq!(effective(&ops), [&put("b", 2), &Op::Delete { key: "a".into() }]);
    }

    #[test]
    fn what_fits_exactly_is_accepted_and_one_byte_more_is_not() {
        let key = "k".repeat(MAX_KEY_BYTES);
        assert_eq!(check(&Transaction { compares: vec![], ops: vec![put(&key, MAX_VALUE_BYTES)] }), Ok(()));
        let error = check(&Transaction { compares: vec![], ops: vec![put("k", MAX_VALUE_BYTES + 1)] }).unwrap_err();
        assert_eq!(error.to_string(), "the value of 'k' is 262145 bytes, at most 262144 are allowed");
        let error = check_key(&"é".repeat(MAX_KEY_BYTES)).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { found: 2048, .. }), "{error}");
    }

    #[test]
    fn compares_count_too() {
        let compares = (0..60).map(|i| Compare::Absent { key: format!("k{i}") }).collect();
        let ops = (0..41).map(|i| put(&format!("k{i}"), 1)).collect();
        let error = check(&Transaction { compares, ops }).unwrap_err();
        assert_eq!(error, StoreError::TooManyOperations { found: 101, allowed: 100 });
    }
}
