//! Puts everything of one store, or of a backup, into another: for `wharf store restore` and `wharf store move`.
//!
//! ```text
//!   begin   one transaction: the marker `meta/transfer`, and a term above the target's   -> no controller starts here
//!   clear   what the target had is deleted
//!   copy    every entry, those that belong together in one transaction
//!   compare source and target are read once more, side by side
//!   (move)  the source is marked `meta/moved`                                          -> no controller starts there
//!   finish  one transaction: term and next id, without the marker                      -> a controller may start here
//! ```
//!
//! The caller has made sure that nobody leads on either. Cut short anywhere, it is done again from the start by the
//! same command: until the end the source has everything, and after it the target has. At no moment a controller can
//! start on both.
//!
//! A restored store must not give out again what was given out after the backup was made: agents refuse terms below
//! the highest they have seen, and may hold tasks of later runs. How many there were nobody knows any more. Leaders do
//! not change more than once a second on the average, so the seconds since 1970 are above any term in use; and ids go
//! on as if [`IDS_PER_SECOND`] had been taken since the backup.

use super::persist::{self, LEVEL, MOVED, NEXT_ID, TERM, TRANSFER};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::level::Level;
use crate::domain::time::Timestamp;
use crate::store::snapshot::Snapshot;
use crate::store::{
    Compare, Entry, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Op, Outcome, Range, Store, StoreError, Transaction,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Jobs and runs that a cluster begins at most, on the average of the time since a backup.
const IDS_PER_SECOND: u64 = 10;
/// And so many at once.
const IDS_AT_LEAST: u64 = 10_000;
/// Left free in a transaction for its compare.
const ROOM_BYTES: usize = 4096;

/// What is put where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// From a backup made at this time; now it is `now`.
    Restore { made_at: Timestamp, now: Timestamp },
    /// From a store that is given up for it.
    Move,
}

/// The source, which is read more than once.
#[async_trait::async_trait]
pub trait Source: Send + Sync {
    /// Says which it is, the same each time it is named: `sqlite:DIR`, or a file.
    fn name(&self) -> String;
    /// From the beginning.
    async fn open(&self) -> Result<Snapshot, StoreError>;
    /// The store itself, to be marked when it has been moved.
    fn store(&self) -> Option<Arc<dyn Store>>;
}

/// How far it is, for whoever waits.
pub type Progress<'a> = &'a (dyn Fn(&str, u64) + Send + Sync);

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transferred {
    pub entries: u64,
    pub cluster_id: String,
    pub term: u64,
    pub next_id: u64,
}

/// What the target says of a transfer that is under way, so that it can be taken up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    from: String,
    /// The highest of both that the target had.
    term: u64,
    next_id: u64,
}

/// The few numbers that a store is known by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Facts {
    entries: bool,
    level: Option<Level>,
    cluster_id: String,
    term: u64,
    next_id: u64,
    marker: Option<Marker>,
    moved: Option<String>,
}

/// Does it. `target_name` is how the source is told where it went; a target that holds something else is refused unless
/// `replace` is set.
pub async fn transfer(
    source: &dyn Source,
    target: &Arc<dyn Store>,
    target_name: &str,
    kind: Kind,
    replace: bool,
    progress: Progress<'_>,
) -> Result<Transferred, Error> {
    let from = source.name();
    let theirs = facts_of(source.open().await.map_err(reading)?).await?;
    check_source(&theirs, &from, target_name)?;
    let ours = facts(&**target).await?;
    let arrived = theirs.moved.as_deref() == Some(target_name) && ours.cluster_id == theirs.cluster_id;
    if arrived && ours.marker.is_none() {
        // Only the answer was lost.
        let Facts { cluster_id, term, next_id, .. } = ours;
        return Ok(Transferred { entries: 0, cluster_id, term, next_id });
    }
    check_target(&ours, &from, target_name, replace)?;
    let marker = begin(&**target, &from, &ours).await?;
    clear(&**target, progress).await?;
    let entries = copy(source, &**target, progress).await?;
    compare(source, target, progress).await?;
    if let Some(store) = source.store() {
        let op = put(MOVED, target_name.as_bytes().to_vec());
        commit(&*store, vec![], vec![op]).await?;
    }
    let (term, next_id) = numbers(&kind, &theirs, &marker);
    let ops = vec![
        put(TERM, term.to_string().into_bytes()),
        put(NEXT_ID, next_id.to_string().into_bytes()),
        Op::Delete { key: TRANSFER.into() },
    ];
    commit(&**target, vec![marked(&marker)?], ops).await?;
    Ok(Transferred { entries, cluster_id: theirs.cluster_id, term, next_id })
}

fn check_source(facts: &Facts, from: &str, target_name: &str) -> Result<(), Error> {
    // Before anything is deleted for it.
    facts.level.unwrap_or(Level::FIRST).check_kept(from)?;
    if facts.cluster_id.is_empty() {
        return Err(Error::refused(format!("{from} holds nothing of a controller")));
    }
    if let Some(marker) = &facts.marker {
        let message =
            format!("{from} is half-written: the transfer from {} was cut short; finish that one", marker.from);
        return Err(Error::refused(message));
    }
    match &facts.moved {
        Some(moved) if moved != target_name => Err(Error::refused(format!("{from} was moved to {moved} already"))),
        _ => Ok(()),
    }
}

fn check_target(facts: &Facts, from: &str, target_name: &str, replace: bool) -> Result<(), Error> {
    let goes_on = facts.marker.as_ref().is_some_and(|marker| marker.from == from);
    // What was moved away is history.
    if !facts.entries || goes_on || facts.moved.is_some() || replace {
        return Ok(());
    }
    let what = match &facts.marker {
        Some(marker) => format!("is half-written: the transfer from {} was cut short", marker.from),
        None => format!("holds the state of cluster {} already", facts.cluster_id),
    };
    Err(Error::new(ErrorKind::AlreadyExists, format!("{target_name} {what}; --replace puts {from} in its place")))
}

fn numbers(kind: &Kind, theirs: &Facts, marker: &Marker) -> (u64, u64) {
    let term = theirs.term.max(marker.term) + 1;
    match kind {
        Kind::Move => (term, theirs.next_id.max(1)),
        Kind::Restore { made_at, now } => {
            let seconds = u64::try_from(now.0 / 1_000_000_000).unwrap_or(0);
            let ids = now.since(*made_at).as_secs().saturating_mul(IDS_PER_SECOND).max(IDS_AT_LEAST);
            (term.max(seconds), theirs.next_id.max(marker.next_id).saturating_add(ids))
        }
    }
}

/// From here on no controller starts on the target, and one that was frozen is deposed.
async fn begin(target: &dyn Store, from: &str, facts: &Facts) -> Result<Marker, Error> {
    let before = facts.marker.clone().unwrap_or(Marker { from: String::new(), term: 0, next_id: 0 });
    let marker = Marker {
        from: from.to_owned(),
        term: facts.term.max(before.term) + 1,
        next_id: facts.next_id.max(before.next_id),
    };
    let ops = vec![
        put(TRANSFER, encode(&marker)?),
        put(TERM, marker.term.to_string().into_bytes()),
        Op::Delete { key: MOVED.into() },
    ];
    commit(target, vec![], ops).await?;
    Ok(marker)
}

async fn clear(target: &dyn Store, progress: Progress<'_>) -> Result<(), Error> {
    let (mut start, mut deleted) = (String::new(), 0);
    loop {
        let range = Range { start: start.clone(), end: None, limit: MAX_OPERATIONS };
        let (entries, _) = target.range(range).await.map_err(reading)?;
        let Some(last) = entries.last() else { return Ok(()) };
        start = format!("{}\0", last.key);
        let stays = |key: &str| key == TRANSFER || key == TERM;
        let ops: Vec<Op> =
            entries.into_iter().filter(|e| !stays(&e.key)).map(|e| Op::Delete { key: e.key }).collect();
        deleted += ops.len() as u64;
        if !ops.is_empty() {
            commit(target, vec![], ops).await?;
        }
        progress("deleted", deleted);
    }
}

async fn copy(source: &dyn Source, target: &dyn Store, progress: Progress<'_>) -> Result<u64, Error> {
    let mut snapshot = source.open().await.map_err(reading)?;
    let (mut ops, mut bytes, mut copied) = (Vec::new(), 0, 0);
    let mut group: Vec<Entry> = Vec::new();
    loop {
        let entry = next(&mut snapshot).await?;
        let together = match (&entry, group.last()) {
            (Some(entry), Some(last)) => persist::written_together(&last.key, &entry.key),
            _ => group.is_empty(),
        };
        if !together {
            let size: usize = group.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
            let full = ops.len() + group.len() > MAX_OPERATIONS || bytes + size > MAX_TRANSACTION_BYTES - ROOM_BYTES;
            if full && !ops.is_empty() {
                commit(target, vec![], std::mem::take(&mut ops)).await?;
                bytes = 0;
            }
            bytes += size;
            copied += group.len() as u64;
            ops.extend(group.drain(..).map(|entry| put(&entry.key, entry.value)));
            progress("copied", copied);
        }
        match entry {
            Some(entry) => group.push(entry),
            None => break,
        }
    }
    if !ops.is_empty() {
        commit(target, vec![], ops).await?;
    }
    Ok(copied)
}

/// Everything that was to be copied is there, and nothing else.
async fn compare(source: &dyn Source, target: &Arc<dyn Store>, progress: Progress<'_>) -> Result<(), Error> {
    let mut wanted = source.open().await.map_err(reading)?;
    let mut found = Snapshot::of_quiet(target.clone());
    let mut compared = 0;
    loop {
        let (wanted, found) = (next(&mut wanted).await?, next(&mut found).await?);
        let different = match (&wanted, &found) {
            (None, None) => return Ok(()),
            (Some(wanted), Some(found)) if wanted.key == found.key && wanted.value == found.value => None,
            (Some(wanted), Some(found)) => Some(wanted.key.clone().min(found.key.clone())),
            (wanted, found) => wanted.as_ref().or(found.as_ref()).map(|entry| entry.key.clone()),
        };
        if let Some(key) = different {
            let message = format!("what was written is not what was read: '{key}' differs; the target is not in use");
            return Err(Error::internal(message));
        }
        compared += 1;
        progress("compared", compared);
    }
}

/// The next entry that is copied as it is: the numbers and marks of a store are its own.
async fn next(snapshot: &mut Snapshot) -> Result<Option<Entry>, Error> {
    loop {
        match snapshot.next().await.map_err(reading)? {
            Some(entry) if [TERM, NEXT_ID, TRANSFER, MOVED].contains(&entry.key.as_str()) => {}
            other => return Ok(other),
        }
    }
}

async fn facts(store: &dyn Store) -> Result<Facts, Error> {
    let mut facts = Facts::default();
    let range = Range { start: String::new(), end: None, limit: 1 };
    facts.entries = !store.range(range).await.map_err(reading)?.0.is_empty();
    for entry in store.range(Range::prefix("meta/")).await.map_err(reading)?.0 {
        note(&mut facts, &entry)?;
    }
    Ok(facts)
}

async fn facts_of(mut snapshot: Snapshot) -> Result<Facts, Error> {
    let mut facts = Facts::default();
    while let Some(entry) = snapshot.next().await.map_err(reading)? {
        facts.entries = true;
        note(&mut facts, &entry)?;
    }
    Ok(facts)
}

fn note(facts: &mut Facts, entry: &Entry) -> Result<(), Error> {
    let text = || String::from_utf8_lossy(&entry.value).into_owned();
    match entry.key.as_str() {
        LEVEL => {
            let level = Level::parse(&text());
            let wrong = || Error::internal(format!("reading '{LEVEL}': '{}' is not the number of a level", text()));
            facts.level = Some(level.ok_or_else(wrong)?);
        }
        persist::CLUSTER_ID => facts.cluster_id = text(),
        TERM => facts.term = text().parse().unwrap_or(0),
        NEXT_ID => facts.next_id = text().parse().unwrap_or(0),
        MOVED => facts.moved = Some(text()),
        TRANSFER => {
            let marker = serde_json::from_slice(&entry.value);
            facts.marker = Some(marker.map_err(|error| Error::internal(format!("reading '{TRANSFER}': {error}")))?);
        }
        _ => {}
    }
    Ok(())
}

fn encode(marker: &Marker) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(marker).map_err(|error| Error::internal(error.to_string()))
}

fn marked(marker: &Marker) -> Result<Compare, Error> {
    Ok(Compare::Value { key: TRANSFER.into(), value: encode(marker)? })
}

fn put(key: &str, value: Vec<u8>) -> Op {
    Op::Put { key: key.to_owned(), value }
}

async fn commit(store: &dyn Store, compares: Vec<Compare>, ops: Vec<Op>) -> Result<(), Error> {
    match store.commit(Transaction { compares, ops }).await {
        Ok(Outcome::Committed { .. }) => Ok(()),
        Ok(Outcome::Conflict) => Err(Error::refused("somebody else writes to the store; nothing is in use yet")),
        Err(error) => {
            Err(Error::unavailable(format!("writing the store: {error}; the same command takes it up again")))
        }
    }
}

fn reading(error: StoreError) -> Error {
    Error::unavailable(format!("reading: {error}"))
}
