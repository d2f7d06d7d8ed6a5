//! Random transactions against an ordered map, and many writers on one counter.

use super::{Breach, all, ensure, put, works};
use crate::store::{Compare, Entry, Op, Outcome, Store, Transaction};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys are few, so that steps meet each other.
const KEYS: u8 = 8;

/// One transaction, without its prefix; compares name what the model holds or something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Key, and whether the compare shall hold, as far as there is a choice.
    pub compares: Vec<(u8, bool)>,
    /// Key, and the value to put or `None` to delete.
    pub ops: Vec<(u8, Option<Vec<u8>>)>,
}

/// Steps from a seed: the same for the same seed.
pub fn random_steps(seed: u64, count: usize) -> Vec<Step> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut step = || {
        let compares = (0..random.random_range(0..3)).map(|_| (random.random(), random.random_bool(0.8))).collect();
        let ops = (0..random.random_range(0..6))
            .map(|_| {
                let length = random.random_range(0..20);
                let value: Vec<u8> = (0..length).map(|_| random.random()).collect();
                (random.random(), random.random_bool(0.7).then_some(value))
            })
            .collect();
        Step { compares, ops }
    };
    (0..count).map(|_| step()).collect()
}

/// Applies the steps to the store and to an ordered map; both must agree after each.
pub async fn follow_model(store: &dyn Store, prefix: &str, steps: &[Step]) -> Result<(), Breach> {
    const CHECK: &str = "transactions do what they do to an ordered map";
    let mut model: BTreeMap<String, Entry> =
        all(CHECK, store, prefix).await?.0.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    let (_, mut last) = all(CHECK, store, prefix).await?;
    for (number, step) in steps.iter().enumerate() {
        let transaction = transaction(&model, prefix, step);
        let expected = transaction.compares.iter().all(|compare| holds(&model, compare));
        let outcome = works(CHECK, store.commit(transaction.clone()).await)?;
        match outcome {
            Outcome::Committed { revision } if expected && revision > last => {
                last = revision;
                apply(&mut model, &transaction, revision);
            }
            Outcome::Conflict if !expected => {}
            _ => ensure!(CHECK, false, "step {number}: {transaction:?} gave {outcome:?} after revision {last}"),
        }
        let (entries, revision) = all(CHECK, store, prefix).await?;
        let same = entries.iter().eq(model.values());
        ensure!(CHECK, same, "step {number}: {transaction:?}: the store has {entries:?}, the model {model:?}");
        ensure!(CHECK, revision >= last, "step {number}: read at revision {revision}, written at {last}");
    }
    Ok(())
}

fn transaction(model: &BTreeMap<String, Entry>, prefix: &str, step: &Step) -> Transaction {
    let name = |key: u8| format!("{prefix}{}", key % KEYS);
    let compare = |(key, right): &(u8, bool)| {
        let key = name(*key);
        match model.get(&key) {
            None if *right => Compare::Absent { key },
            None => Compare::ModRevision { key, revision: 1 },
            Some(_) if !*right => Compare::Absent { key },
            Some(entry) if entry.value.len() % 2 == 0 => Compare::ModRevision { revision: entry.mod_revision, key },
            Some(entry) => Compare::Value { value: entry.value.clone(), key },
        }
    };
    let op = |(key, value): &(u8, Option<Vec<u8>>)| match value {
        Some(value) => Op::Put { key: name(*key), value: value.clone() },
        None => Op::Delete { key: name(*key) },
    };
    Transaction { compares: step.compares.iter().map(compare).collect(), ops: step.ops.iter().map(op).collect() }
}

fn holds(model: &BTreeMap<String, Entry>, compare: &Compare) -> bool {
    match compare {
        Compare::Absent { key } => !model.contains_key(key),
        Compare::ModRevision { key, revision } => model.get(key).is_some_and(|entry| entry.mod_revision == *revision),
        Compare::Value { key, value } => model.get(key).is_some_and(|entry| entry.value == *value),
    }
}

fn apply(model: &mut BTreeMap<String, Entry>, transaction: &Transaction, mod_revision: u64) {
    for op in &transaction.ops {
        match op {
            Op::Put { key, value } => {
                let entry = Entry { key: key.clone(), value: value.clone(), mod_revision };
                model.insert(key.clone(), entry);
            }
            Op::Delete { key } => drop(model.remove(key)),
        }
    }
}

/// 16 tasks add one to one number, by compare and swap, some times each.
pub(super) async fn increments(store: Arc<dyn Store>, prefix: &str) -> Result<(), Breach> {
    const CHECK: &str = "no increment by compare and swap is lost";
    const TASKS: u64 = 16;
    const EACH: u64 = 12;
    let key = format!("{prefix}counter");
    works(CHECK, store.commit(put(&key, b"0")).await)?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (store, key) = (Arc::clone(&store), key.clone());
        tasks.spawn(async move {
            for _ in 0..EACH {
                increment(&*store, &key).await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(|error| Err(Breach { check: CHECK, message: error.to_string() }))?;
    }
    let total = number(works(CHECK, store.get(&key).await)?);
    ensure!(CHECK, total == Some(TASKS * EACH), "{TASKS} tasks added {EACH} each, the sum is {total:?}");
    Ok(())
}

async fn increment(store: &dyn Store, key: &str) -> Result<(), Breach> {
    const CHECK: &str = "no increment by compare and swap is lost";
    // Each round at least one of the tasks gets through.
    for _ in 0..1000 {
        let entry = works(CHECK, store.get(key).await)?;
        let revision = entry.as_ref().map_or(0, |entry| entry.mod_revision);
        let next = number(entry).map_or(0, |number| number + 1);
        let mut transaction = put(key, next.to_string().as_bytes());
        transaction.compares.push(Compare::ModRevision { key: key.to_owned(), revision });
        if let Outcome::Committed { .. } = works(CHECK, store.commit(transaction).await)? {
            return Ok(());
        }
    }
    Err(Breach { check: CHECK, message: "1000 conflicts in a row".to_owned() })
}

fn number(entry: Option<Entry>) -> Option<u64> {
    std::str::from_utf8(&entry?.value).ok()?.parse().ok()
}
