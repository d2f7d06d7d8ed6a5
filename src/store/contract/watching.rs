//! Watches: history, then what happens, without a seam.

use super::{Breach, all, committed, ensure, put, works};
use crate::store::{Change, Op, Store, StoreError, Transaction};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

const WAIT: Duration = Duration::from_secs(20);

pub(super) async fn history_then_live(store: &dyn Store, prefix: &str) -> Result<(), Breach> {
    const CHECK: &str = "a watch gives every change after its revision once, in order";
    let mut expected = Vec::new();
    let (_, start) = all(CHECK, store, prefix).await?;
    let mut middle = start;
    for round in 0..40 {
        if round == 20 {
            middle = all(CHECK, store, prefix).await?.1;
        }
        write_round(store, prefix, round, &mut expected).await?;
    }
    let mut from_start = works(CHECK, store.watch(prefix, start).await)?;
    let mut from_middle = works(CHECK, store.watch(prefix, middle).await)?;
    for round in 40..200 {
        write_round(store, prefix, round, &mut expected).await?;
        // In step with the writes here, and further below from far behind.
        receive(&mut from_start, &expected[usize::try_from(round - 40).unwrap_or(0) * 2..][..2]).await?;
    }
    receive(&mut from_start, &expected[320..]).await?;
    receive(&mut from_middle, &expected[40..]).await?;
    drop((from_start, from_middle));
    let (_, end) = all(CHECK, store, prefix).await?;
    let mut from_end = works(CHECK, store.watch(prefix, end).await)?;
    write_round(store, prefix, 200, &mut expected).await?;
    receive(&mut from_end, &expected[400..]).await
}

/// Two changes, and some that a watch of the prefix must not give.
async fn write_round(store: &dyn Store, prefix: &str, round: u32, expected: &mut Vec<Change>) -> Result<(), Breach> {
    const CHECK: &str = "writing for a watch";
    let (key, other) = (format!("{prefix}{}", round % 7), format!("{prefix}deleted"));
    let outside = format!("{}!", &prefix[..prefix.len() - 1]);
    committed(CHECK, store, put(&other, b"x")).await.map(drop)?;
    let value = round.to_be_bytes().to_vec();
    let ops = vec![
        Op::Put { key: outside, value: vec![] },
        Op::Put { key: key.clone(), value: value.clone() },
        Op::Delete { key: format!("{prefix}never there") },
    ];
    // The first write of the round is a change as well: the expected two are it and this one.
    let first = works(CHECK, store.get(&other).await)?;
    let first = first.ok_or(Breach { check: CHECK, message: "a write is missing".to_owned() })?;
    let revision = committed(CHECK, store, Transaction { compares: vec![], ops }).await?;
    expected.push(Change { revision: first.mod_revision, key: other, value: Some(b"x".to_vec()) });
    expected.push(Change { revision, key, value: Some(value) });
    Ok(())
}

async fn receive(watch: &mut Receiver<Result<Change, StoreError>>, expected: &[Change]) -> Result<(), Breach> {
    const CHECK: &str = "a watch gives every change after its revision once, in order";
    for expected in expected {
        let found = tokio::time::timeout(WAIT, watch.recv()).await;
        let right = matches!(&found, Ok(Some(Ok(found))) if found == expected);
        ensure!(CHECK, right, "expected {expected:?}, found {found:?}");
    }
    Ok(())
}

pub(super) async fn future_is_compacted(store: &dyn Store, prefix: &str) -> Result<(), Breach> {
    const CHECK: &str = "a watch from a revision that never was starts over";
    let (_, revision) = all(CHECK, store, prefix).await?;
    let answer = store.watch(prefix, revision + 1000).await.err();
    ensure!(CHECK, matches!(answer, Some(StoreError::Compacted { .. })), "answered {answer:?}");
    Ok(())
}
