//! Writing, comparing, reading ranges.

use super::{Breach, all, committed, ensure, put, works};
use crate::store::{Compare, Entry, Op, Outcome, Range, Store, Transaction};

pub(super) async fn writes(store: &dyn Store, prefix: &str) -> Result<(), Breach> {
    const CHECK: &str = "what is committed is read at once";
    let key = format!("{prefix}é\u{0}\n");
    ensure!(CHECK, works(CHECK, store.get(&key).await)?.is_none(), "a key is there before it was written");
    for value in [&b""[..], b"\0\xff", b"text"] {
        let revision = committed(CHECK, store, put(&key, value)).await?;
        let expected = Entry { key: key.clone(), value: value.to_vec(), mod_revision: revision };
        let found = works(CHECK, store.get(&key).await)?;
        ensure!(CHECK, found.as_ref() == Some(&expected), "expected {expected:?}, found {found:?}");
        let (entries, at) = all(CHECK, store, prefix).await?;
        ensure!(CHECK, entries == [expected] && at >= revision, "the range at {at} has {entries:?}");
    }
    let before = all(CHECK, store, prefix).await?.1;
    let delete = || Transaction { compares: vec![], ops: vec![Op::Delete { key: key.clone() }] };
    let revision = committed(CHECK, store, delete()).await?;
    ensure!(CHECK, revision > before, "revision {revision} does not follow {before}");
    ensure!(CHECK, works(CHECK, store.get(&key).await)?.is_none(), "a deleted key is still there");
    let again = committed(CHECK, store, delete()).await?;
    ensure!(CHECK, again > revision, "a transaction that deletes nothing has revision {again} after {revision}");
    Ok(())
}

pub(super) async fn compares(store: &dyn Store, prefix: &str) -> Result<(), Breach> {
    const CHECK: &str = "a transaction applies if all compares hold, else not at all";
    let (here, gone) = (format!("{prefix}here"), format!("{prefix}gone"));
    let revision = committed(CHECK, store, put(&here, b"value")).await?;
    let absent = |key: &String| Compare::Absent { key: key.clone() };
    let at = |key: &String, revision| Compare::ModRevision { key: key.clone(), revision };
    let equal = |key: &String, value: &[u8]| Compare::Value { key: key.clone(), value: value.to_vec() };
    let cases = [
        (absent(&gone), true),
        (absent(&here), false),
        (at(&here, revision), true),
        (at(&here, revision + 1), false),
        (at(&gone, revision), false),
        (equal(&here, b"value"), true),
        (equal(&here, b"valu"), false),
        (equal(&here, b""), false),
        (equal(&gone, b""), false),
    ];
    for (index, (compare, holds)) in cases.into_iter().enumerate() {
        let target = format!("{prefix}target/{index}");
        // The one that holds first, so that an implementation that looks at one compare only is found.
        let compares = vec![absent(&gone), compare.clone()];
        let ops = vec![Op::Put { key: target.clone(), value: vec![] }, Op::Delete { key: format!("{prefix}other") }];
        let before = all(CHECK, store, prefix).await?;
        let outcome = works(CHECK, store.commit(Transaction { compares, ops }).await)?;
        let applied = matches!(outcome, Outcome::Committed { .. });
        ensure!(CHECK, applied == holds, "{compare:?} gave {outcome:?}");
        let written = works(CHECK, store.get(&target).await)?.is_some();
        ensure!(CHECK, written == holds, "{compare:?} gave {outcome:?}, and the key is there: {written}");
        let after = all(CHECK, store, prefix).await?;
        // Others may have written elsewhere, so that the revision is another.
        ensure!(CHECK, holds || before.0 == after.0, "{compare:?} conflicted and changed the store");
    }
    Ok(())
}

pub(super) async fn ranges(store: &dyn Store, prefix: &str) -> Result<(), Breach> {
    const CHECK: &str = "ranges are in the order of bytes, with their bounds";
    // Where languages sort, case folds and numbers count, the order would be another.
    let names = ["", "!", "10", "9", "A", "a", "a/", "a/b", "a0", "b", "é", "\u{ffff}", "\u{10000}"];
    let ops = names.iter().rev().map(|name| Op::Put { key: format!("{prefix}k{name}"), value: vec![] }).collect();
    committed(CHECK, store, Transaction { compares: vec![], ops }).await?;
    let cases: [(&str, Option<&str>, usize, &[&str]); 7] = [
        ("", Some("\u{10FFFF}"), usize::MAX, &names),
        ("", Some("\u{10FFFF}"), 3, &names[..3]),
        ("a", Some("b"), usize::MAX, &["a", "a/", "a/b", "a0"]),
        ("a/", Some("a0"), usize::MAX, &["a/", "a/b"]),
        ("b", Some("a"), usize::MAX, &[]),
        ("a", Some("a"), usize::MAX, &[]),
        ("", Some("b"), 0, &[]),
    ];
    for (start, end, limit, expected) in cases {
        let bound = |name: &str| format!("{prefix}k{name}");
        let range = Range { start: bound(start), end: end.map(bound), limit };
        let (entries, _) = works(CHECK, store.range(range.clone()).await)?;
        let found: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        let expected: Vec<_> = expected.iter().map(|name| bound(name)).collect();
        ensure!(CHECK, found == expected, "{range:?} gave {found:?} instead of {expected:?}");
    }
    let open = Range { start: format!("{prefix}k\u{10000}"), end: None, limit: 1 };
    let (entries, _) = works(CHECK, store.range(open).await)?;
    ensure!(CHECK, entries.len() == 1, "a range without an end gave {entries:?}");
    Ok(())
}

pub(super) async fn last_operation_wins(store: &dyn Store, prefix: &str) -> Result<(), Breach> {
    const CHECK: &str = "of several operations on one key the last one counts";
    let key = |name: &str| format!("{prefix}{name}");
    let put = |name: &str, value: &[u8]| Op::Put { key: key(name), value: value.to_vec() };
    let delete = |name: &str| Op::Delete { key: key(name) };
    let ops = vec![put("a", b"1"), put("b", b"1"), delete("b"), delete("c"), put("c", b"1"), put("a", b"2")];
    let revision = committed(CHECK, store, Transaction { compares: vec![], ops }).await?;
    let (found, _) = all(CHECK, store, prefix).await?;
    let entry = |name: &str, value: &[u8]| Entry { key: key(name), value: value.to_vec(), mod_revision: revision };
    ensure!(CHECK, found == [entry("a", b"2"), entry("c", b"1")], "found {found:?}");
    Ok(())
}
