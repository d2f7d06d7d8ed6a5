//! Values larger than one value may be, as chunks `KEY/000000`, `KEY/000001`, ... written and read as one: for job
//! specifications. All chunks of a value are written by one transaction, so it is never half there.

use super::{Compare, Entry, MAX_VALUE_BYTES, Op, Range, Store, StoreError};
use std::collections::BTreeMap;

/// The largest value; leaves over 100 KiB of the transaction for the rest of a decision.
pub const MAX_CHUNKED_BYTES: usize = 900 * 1024;
/// What a value takes of a transaction's operations, large or small.
pub const OPERATIONS: usize = MAX_CHUNKED_BYTES.div_ceil(MAX_VALUE_BYTES);

/// The operations that write `value` in place of whatever `key` held.
pub fn put(key: &str, value: &[u8]) -> Result<Vec<Op>, StoreError> {
    if value.len() > MAX_CHUNKED_BYTES {
        let what = format!("the value of '{key}'");
        return Err(StoreError::TooLarge { what, found: value.len(), allowed: MAX_CHUNKED_BYTES });
    }
    // An empty value has one empty chunk: it is there.
    let used = value.len().div_ceil(MAX_VALUE_BYTES).max(1);
    let op = |index: usize| {
        let key = chunk_key(key, index);
        if index >= used {
            // A longer value may have been there before.
            return Op::Delete { key };
        }
        let end = value.len().min((index + 1) * MAX_VALUE_BYTES);
        Op::Put { key, value: value[index * MAX_VALUE_BYTES..end].to_vec() }
    };
    Ok((0..OPERATIONS).map(op).collect())
}

/// The operations that remove the value of `key`.
pub fn delete(key: &str) -> Vec<Op> {
    (0..OPERATIONS).map(|index| Op::Delete { key: chunk_key(key, index) }).collect()
}

/// Holds if `key` has no chunked value.
pub fn absent(key: &str) -> Compare {
    Compare::Absent { key: chunk_key(key, 0) }
}

/// The value of `key` as one transaction wrote it.
pub async fn read(store: &dyn Store, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let range = Range { start: chunk_key(key, 0), end: Some(chunk_key(key, OPERATIONS)), limit: OPERATIONS };
    let (entries, _) = store.range(range).await?;
    Ok(assemble(entries)?.remove(key))
}

/// The values in `entries`, by their keys without the chunk numbers: for a range over many of them.
///
/// Entries whose key is not one of a chunk are an error, as are missing chunks: somebody else wrote there.
pub fn assemble(entries: Vec<Entry>) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
    let broken = |key: &str, what: &str| StoreError::Unavailable {
        operation: "reading a chunked value",
        message: format!("'{key}' {what}; the store was written by something else than wharf"),
    };
    let mut values: BTreeMap<String, (u64, usize, Vec<u8>)> = BTreeMap::new();
    for entry in entries {
        let Some((key, index)) = split(&entry.key) else { return Err(broken(&entry.key, "is no chunk")) };
        let (revision, next, value) =
            values.entry(key.to_owned()).or_insert_with(|| (entry.mod_revision, 0, Vec::new()));
        if index != *next || entry.mod_revision != *revision {
            return Err(broken(&entry.key, "does not follow the chunk before it"));
        }
        *next += 1;
        value.extend_from_slice(&entry.value);
    }
    Ok(values.into_iter().map(|(key, (_, _, value))| (key, value)).collect())
}

fn chunk_key(key: &str, index: usize) -> String {
    format!("{key}/{index:06}")
}

fn split(chunk_key: &str) -> Option<(&str, usize)> {
    let (key, index) = chunk_key.rsplit_once('/')?;
    let digits = index.len() == 6 && index.bytes().all(|byte| byte.is_ascii_digit());
    if digits { index.parse().ok().map(|index| (key, index)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::sqlite::SqliteStore;
    use super::super::{Outcome, Transaction};
    use super::*;

    async fn write(store: &SqliteStore, ops: Vec<Op>) {
        let outcome = store.commit(Transaction { compares: vec![], ops }).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed { .. }));
    }

    #[tokio::test]
    async fn values_of_every_size_come_back_and_longer_ones_leave_nothing_behind() {
        let store = SqliteStore::open_in_memory().unwrap();
        let sizes = [MAX_CHUNKED_BYTES, 0, 1, MAX_VALUE_BYTES, MAX_VALUE_BYTES + 1, 3 * MAX_VALUE_BYTES, 17];
        for size in sizes {
            let value: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            write(&store, put("spec/7", &value).unwrap()).await;
            assert_eq!(read(&store, "spec/7").await.unwrap().as_ref(), Some(&value), "{size}");
        }
        assert_eq!(store.range(Range::prefix("spec/7/")).await.unwrap().0.len(), 1);
        write(&store, delete("spec/7")).await;
        assert_eq!(read(&store, "spec/7").await.unwrap(), None);
    }

    #[tokio::test]
    async fn keys_that_begin_alike_are_kept_apart() {
        let store = SqliteStore::open_in_memory().unwrap();
        let taken = Transaction { compares: vec![absent("s/1")], ops: put("s/1", b"one").unwrap() };
        assert!(matches!(store.commit(taken.clone()).await.unwrap(), Outcome::Committed { .. }));
        assert_eq!(store.commit(taken).await.unwrap(), Outcome::Conflict);
        write(&store, put("s/10", b"ten").unwrap()).await;
        write(&store, put("s/1/note", b"note").unwrap()).await;
        assert_eq!(read(&store, "s/1").await.unwrap().as_deref(), Some(&b"one"[..]));
        let all = assemble(store.range(Range::prefix("s/")).await.unwrap().0).unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["s/1", "s/1/note", "s/10"]);
    }

    #[tokio::test]
    async fn what_is_broken_or_too_large_is_named() {
        let error = put("spec/7", &vec![0; MAX_CHUNKED_BYTES + 1]).unwrap_err();
        assert_eq!(error.to_string(), "the value of 'spec/7' is 921601 bytes, at most 921600 are allowed");
        let store = SqliteStore::open_in_memory().unwrap();
        write(&store, vec![Op::Put { key: "spec/7/000001".into(), value: vec![] }]).await;
        let error = read(&store, "spec/7").await.unwrap_err().to_string();
        assert!(error.contains("'spec/7/000001' does not follow"), "{error}");
    }
}
