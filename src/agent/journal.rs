//! The agent's memory on disk: what is read at the start, and how it is written.
//!
//! | key | value |
//! |---|---|
//! | `meta/level` | the highest [`Level`] that has written here; the mark of the whole state directory |
//! | `meta/node_uid`, `meta/journal_id` | text, made at the first start |
//! | `meta/cluster_id`, `meta/term` | of the controller this node belongs to |
//! | `meta/acknowledged` | the controller has every status up to this sequence |
//! | `meta/sequence` | sequences up to here may have been given out; see `commit` |
//! | `meta/gpus` | the devices of the node and since when they are absent; see `gpus/remembered` |
//! | `meta/faults` | how far the kernel's log is counted in the faults, and how faults ended; see `faults/kept` |
//! | `meta/gpu_marks` | what GPUs that wait for a reset will have forgotten after it; see `health::resets` |
//! | `meta/remedies` | what was done about faults; see `faults/remedy` |
//! | `fault/ID` | a fault of this node |
//! | `task/ID` | the record with the sequence of its newest status |
//! | `damaged/task/ID` | one that made no sense and was set aside |
//!
//! A status is the whole state of a task, so the newest one per task is all there is to report: the outbox is
//! the tasks whose sequence is above `meta/acknowledged`, bounded by the tasks themselves. The environment of
//! a task is never written.

use super::faults::{Done, KeptFaults};
use super::gpus::Remembered;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::{JournalId, NodeUid, TaskId, Term};
use crate::domain::level::{self, Level};
use crate::domain::lifecycle::TaskRecord;
use crate::store::{Compare, Entry, MAX_VALUE_BYTES, Op, Outcome, Range, Store, StoreError, Transaction};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, warn};

pub const LEVEL: &str = "meta/level";
pub const NODE_UID: &str = "meta/node_uid";
pub const JOURNAL_ID: &str = "meta/journal_id";
pub const CLUSTER_ID: &str = "meta/cluster_id";
pub const TERM: &str = "meta/term";
pub const ACKNOWLEDGED: &str = "meta/acknowledged";
pub const SEQUENCE: &str = "meta/sequence";
pub const GPUS: &str = "meta/gpus";
pub const FAULTS: &str = "meta/faults";
pub const RESETS: &str = "meta/gpu_marks";
pub const WORKED: &str = "meta/worked";
pub const REMEDIES: &str = "meta/remedies";
const FAULT_PREFIX: &str = "fault/";
pub const TASK_PREFIX: &str = "task/";
const DAMAGED_PREFIX: &str = "damaged/";

/// Longest record; the rest of a value is for the reasons and notices that come later.
pub const MAX_RECORD_BYTES: usize = MAX_VALUE_BYTES - 32 * 1024;
/// Stands in the journal for what was too long for it.
const LEFT_OUT: &str = "left out: too long for the node's journal";
/// For reading at the start; later writes are waited for without end, one at a time.
const READ_DEADLINE: Duration = Duration::from_secs(30);
const PAGE: usize = 200;

/// Who this node is; needed before its runtime and GPUs are built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub node_uid: NodeUid,
    pub journal_id: JournalId,
}

/// Everything that an earlier process of this agent left.
#[derive(Debug)]
pub struct Journal {
    pub identity: Identity,
    /// `None` until the first registration.
    pub cluster_id: Option<String>,
    pub term: Term,
    pub acknowledged: u64,
    /// Nothing above it was given out.
    pub sequence: u64,
    pub tasks: Vec<(TaskId, Journalled)>,
    /// Entries of tasks that make no sense: their tasks are looked for as those of a lost journal are.
    pub damaged: Vec<Entry>,
    pub gpus: Remembered,
    pub faults: KeptFaults,
    pub remedies: Done,
}

/// The value of a `task/ID` key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Journalled {
    pub sequence: u64,
    pub record: TaskRecord,
    /// Its log is gone; the record stays as a tombstone.
    #[serde(default)]
    pub purged: bool,
}

/// Reads the node's identity, or makes it at the first start. `known`: the node's, should the journal be a new one. A
/// journal of a level that is not known is an error, before anything is changed.
pub async fn load_identity(store: &Arc<dyn Store>, known: Option<NodeUid>) -> Result<Identity, Error> {
    mark_level(store).await?;
    let fresh = || uuid::Uuid::new_v4().to_string();
    let node_uid = get_or_make(store, NODE_UID, known.map_or_else(fresh, |known| known.0)).await?;
    let journal_id = get_or_make(store, JOURNAL_ID, fresh()).await?;
    Ok(Identity { node_uid: NodeUid(node_uid), journal_id: JournalId(journal_id) })
}

/// What is marked already is not written: a full disk must not keep an agent from its tasks.
async fn mark_level(store: &Arc<dyn Store>) -> Result<(), Error> {
    let found = match get_text(store, LEVEL).await? {
        Some(text) => Some(Level::parse(&text).ok_or_else(|| {
            Error::internal(format!("reading the journal: {LEVEL} is '{text}', not the number of a level"))
        })?),
        None => None,
    };
    found.unwrap_or(Level::FIRST).check_kept("the agent's journal")?;
    let of_ours = found.unwrap_or(Level::FIRST) >= Level::own();
    if of_ours && (found.is_some() || get_text(store, NODE_UID).await?.is_some()) {
        return Ok(());
    }
    let ops = vec![put(LEVEL, Level::own().to_string().into_bytes())];
    bounded(store.commit(Transaction { compares: Vec::new(), ops })).await.map(drop)
}

async fn get_or_make(store: &Arc<dyn Store>, key: &str, fresh: String) -> Result<String, Error> {
    if let Some(text) = get_text(store, key).await? {
        return Ok(text);
    }
    let transaction = Transaction {
        compares: vec![Compare::Absent { key: key.to_owned() }],
        ops: vec![put(key, fresh.clone().into_bytes())],
    };
    match bounded(store.commit(transaction)).await? {
        Outcome::Committed { .. } => Ok(fresh),
        // Somebody else was first: theirs holds.
        Outcome::Conflict => get_text(store, key)
            .await?
            .ok_or_else(|| Error::internal(format!("reading the journal: {key} is there and is not"))),
    }
}

/// Whether the journal can be understood. `Err` with why: it is damaged, and better set aside than half believed.
pub async fn check(store: &Arc<dyn Store>) -> Result<Result<(), String>, Error> {
    match load(store).await {
        Ok(_) => Ok(Ok(())),
        Err(error) if error.kind == ErrorKind::Internal => Ok(Err(error.message)),
        Err(error) => Err(error),
    }
}

/// Reads the whole journal. Where it says of itself what cannot be understood that is an error of the kind `Internal`;
/// where it says so of a task, the entry is among the damaged.
pub async fn load(store: &Arc<dyn Store>) -> Result<Journal, Error> {
    let identity = load_identity(store, None).await?;
    let cluster_id = get_text(store, CLUSTER_ID).await?;
    let term = Term(get_number(store, TERM).await?);
    let acknowledged = get_number(store, ACKNOWLEDGED).await?;
    let mut sequence = get_number(store, SEQUENCE).await?.max(acknowledged);
    let gpus = get_text(store, GPUS).await?.map_or_else(Remembered::default, |text| {
        serde_json::from_str(&text).unwrap_or_else(|error| {
            // It tells an operator of lost devices, and no more: the tasks must be looked after.
            warn!(key = GPUS, %error, "what the journal says of GPUs cannot be read and is forgotten");
            Remembered::default()
        })
    });
    let (mut tasks, mut damaged) = (Vec::new(), Vec::new());
    let mut range = Range { limit: PAGE, ..Range::prefix(TASK_PREFIX) };
    loop {
        let (entries, _) = bounded(store.range(range.clone())).await?;
        let full = entries.len() >= PAGE;
        for entry in entries {
            // The next key after this one in byte order.
            range.start = format!("{}\0", entry.key);
            match decode(&entry) {
                Ok((id, journalled)) => {
                    sequence = sequence.max(journalled.sequence);
                    tasks.push((id, journalled));
                }
                Err(why) => {
                    error!(key = entry.key, why, "a record of the journal is damaged: its task is looked for");
                    damaged.push(entry);
                }
            }
        }
        if !full {
            break;
        }
    }
    let faults = load_faults(store).await?;
    let remedies = get_text(store, REMEDIES).await?.map_or_else(Done::default, |text| {
        serde_json::from_str(&text).unwrap_or_else(|error| {
            warn!(key = REMEDIES, %error, "what was done about faults cannot be read");
            Done::default()
        })
    });
    Ok(Journal { identity, cluster_id, term, acknowledged, sequence, tasks, damaged, gpus, faults, remedies })
}

/// What cannot be read of them is left out and said: the tasks must be looked after.
async fn load_faults(store: &Arc<dyn Store>) -> Result<KeptFaults, Error> {
    let mut kept = KeptFaults::default();
    if let Some(text) = get_text(store, FAULTS).await? {
        kept.header = serde_json::from_str(&text).unwrap_or_else(|error| {
            warn!(key = FAULTS, %error, "how far the kernel's log is counted cannot be read; it is counted from its start");
            Default::default()
        });
    }
    if let Some(text) = get_text(store, RESETS).await? {
        kept.resets = serde_json::from_str(&text).unwrap_or_else(|error| {
            warn!(key = RESETS, %error, "what GPUs remembered cannot be read; a reset until now is not seen");
            Default::default()
        });
    }
    if let Some(text) = get_text(store, WORKED).await? {
        kept.worked = serde_json::from_str(&text).unwrap_or_else(|error| {
            warn!(key = WORKED, %error, "which links and ports have worked cannot be read; those that are down are not missed");
            Default::default()
        });
    }
    let mut range = Range { limit: PAGE, ..Range::prefix(FAULT_PREFIX) };
    loop {
        let (entries, _) = bounded(store.range(range.clone())).await?;
        let Some(last) = entries.last() else { return Ok(kept) };
        range.start = format!("{}\0", last.key);
        for entry in &entries {
            match serde_json::from_slice(&entry.value) {
                Ok(fault) => kept.faults.push(fault),
                Err(error) => {
                    error!(key = entry.key, %error, "a fault in the journal cannot be read and is left out")
                }
            }
        }
    }
}

/// Keeps what makes no sense where it is not read again, to be looked into. Not now is at the next start: a full disk
/// must not keep an agent from its tasks.
pub async fn set_aside(store: &Arc<dyn Store>, damaged: &[Entry]) {
    for Entry { key, value, .. } in damaged {
        let kept = put(&format!("{DAMAGED_PREFIX}{key}"), value.clone());
        let ops = vec![kept, Op::Delete { key: key.clone() }];
        if let Err(error) = bounded(store.commit(Transaction { compares: Vec::new(), ops })).await {
            return warn!(key, %error, "a damaged record stays in the journal");
        }
    }
}

fn decode(entry: &Entry) -> Result<(TaskId, Journalled), String> {
    let id = entry.key.strip_prefix(TASK_PREFIX).unwrap_or_default().parse();
    let id: TaskId = id.map_err(|error: crate::domain::ids::InvalidTaskId| error.to_string())?;
    let journalled = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    Ok((id, journalled))
}

/// The write of a record. It always fits a value of the store: a write that is refused for its size would be tried
/// for ever, and everybody else's with it. Specifications are checked against [`MAX_RECORD_BYTES`] when they come in;
/// where reasons and notices take more than is left (JSON writes some characters in six bytes), they are left out.
pub fn put_task(id: TaskId, journalled: &Journalled) -> Result<Op, Error> {
    let mut bytes = encode(id, journalled)?;
    if bytes.len() > MAX_VALUE_BYTES {
        let mut smaller = journalled.clone();
        smaller.record.notices = vec![LEFT_OUT.to_owned()];
        bytes = encode(id, &smaller)?;
        if let Some(exit) = smaller.record.exit.as_mut().filter(|_| bytes.len() > MAX_VALUE_BYTES) {
            exit.reason = LEFT_OUT.to_owned();
            bytes = encode(id, &smaller)?;
        }
    }
    if bytes.len() > MAX_VALUE_BYTES {
        let found = bytes.len();
        return Err(Error::internal(format!("the record is {found} bytes, at most {MAX_VALUE_BYTES} are allowed")));
    }
    Ok(put(&task_key(id), bytes))
}

fn encode(id: TaskId, journalled: &Journalled) -> Result<Vec<u8>, Error> {
    // Records are numbers and text: there is nothing to refuse in them.
    let encoded = serde_json::to_vec(journalled);
    encoded.map(level::grown).map_err(|error| Error::internal(format!("write the record of {id}: {error}")))
}

pub fn put(key: &str, value: Vec<u8>) -> Op {
    Op::Put { key: key.to_owned(), value }
}

pub fn put_number(key: &str, number: u64) -> Op {
    put(key, number.to_string().into_bytes())
}

/// In the order of the ids.
pub fn fault_key(id: FaultId) -> String {
    format!("{FAULT_PREFIX}{:020}", id.0)
}

/// Evidence is cut when it is taken, so it always fits.
pub fn fault_value(fault: &Fault) -> Vec<u8> {
    serde_json::to_vec(fault).unwrap_or_default()
}

pub fn task_key(id: TaskId) -> String {
    format!("{TASK_PREFIX}{id}")
}

/// `None`: more than a value of the store may be, which no machine comes near.
pub fn gpus_text(gpus: &Remembered) -> Option<String> {
    serde_json::to_string(gpus).ok().filter(|text| text.len() <= MAX_VALUE_BYTES)
}

async fn get_text(store: &Arc<dyn Store>, key: &str) -> Result<Option<String>, Error> {
    let Some(entry) = bounded(store.get(key)).await? else { return Ok(None) };
    let text = String::from_utf8(entry.value)
        .map_err(|_| Error::internal(format!("reading the journal: {key} is not text")))?;
    Ok(Some(text))
}

async fn get_number(store: &Arc<dyn Store>, key: &str) -> Result<u64, Error> {
    let Some(text) = get_text(store, key).await? else { return Ok(0) };
    text.parse().map_err(|_| Error::internal(format!("reading the journal: {key} is '{text}', not a number")))
}

async fn bounded<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, Error> {
    match tokio::time::timeout(READ_DEADLINE, call).await {
        Ok(answer) => answer.map_err(|error| Error::unavailable(format!("reading the journal: {error}"))),
        Err(_) => {
            let message = format!("reading the journal: no answer within {} s", READ_DEADLINE.as_secs());
            Err(Error::new(ErrorKind::DeadlineExceeded, message))
        }
    }
}
