//! From what changed to transactions, fenced by the term.

use super::super::access::Access;
use super::super::state::{Dirty, State};
use super::keys::{
    LAST_EVENTS, LEVEL, MOVED, TRANSFER, file_key, job_key, key_of_certificate, key_of_faults, key_of_node,
    key_of_standing, key_of_token, plan_key, run_key, spec_key, task_key,
};
use super::record::{StoredNode, StoredSeat, StoredTask, json, stored_task};
use super::secret;
use crate::domain::event::Event;
use crate::domain::ids::{JobId, Term};
use crate::domain::level::Level;
use crate::domain::node::Standing;
use crate::domain::run::Run;
use crate::domain::spec::JobSpec;
use crate::store::{
    Compare, Entry, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, MAX_VALUE_BYTES, Op, Outcome, Range, Store, StoreError,
    Transaction, chunked,
};
use std::collections::{BTreeMap, HashMap};

/// More than the compare with the term takes of a transaction.
const FENCE_BYTES: usize = 256;
const CHUNK_BYTES: usize = MAX_VALUE_BYTES - 1024;

/// Units of writing, each applied whole or not at all, in order.
#[derive(Debug, Default)]
pub(in crate::controller) struct Writes {
    units: Vec<Vec<Op>>,
    /// The unit that makes a task's or a job's events true, by its place in `units`.
    of_task: HashMap<String, usize>,
    of_job: HashMap<u64, usize>,
    /// The last that is of a node.
    of_node: HashMap<String, usize>,
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub(in crate::controller) enum WriteError {
    #[error("another controller has taken over: its term is newer than {0}")]
    Deposed(Term),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Writes {
    /// Turns what changed into operations.
    pub(in crate::controller) fn of(state: &State, dirty: &Dirty) -> Self {
        let mut writes = Self::default();
        for id in &dirty.plans {
            if let Some(run) = state.runs.get(id) {
                writes.plan(run);
            }
        }
        // Before the jobs that make them known; one without its job is written over by the next job of its id.
        for (id, file) in &dirty.files {
            writes
                .units
                .push(chunked::put(&file_key(*id), file).expect("a job file is smaller than a chunked value"));
        }
        // Likewise, and before what has lost it.
        for id in &dirty.secrets {
            let known = state.jobs.get(id).zip(state.specs.get(id));
            writes.units.extend(known.and_then(|(job, spec)| secret::put(job, spec)).map(|op| vec![op]));
        }
        let mut unit = Vec::new();
        if dirty.next_id {
            unit.push(put("meta/next_id".into(), state.next_id.to_string().into_bytes()));
        }
        for id in &dirty.specs {
            if let (Some(job), Some(spec)) = (state.jobs.get(id), state.specs.get(id)) {
                let mut whole = std::mem::take(&mut unit);
                whole.extend(spec_ops(*id, spec));
                whole.push(put(job_key(*id), json(job)));
                if let Some(run) = state.runs.get(&job.newest_run()) {
                    whole.push(put(run_key(run.id), json(run)));
                }
                writes.of_job.insert(id.0, writes.units.len());
                writes.units.push(whole);
            }
        }
        if !unit.is_empty() {
            writes.units.push(unit);
        }
        for id in &dirty.tasks {
            let found = state.runs.get(&id.run).and_then(|run| Some((run, &run.tasks[run.find(id.role, id.index)?])));
            if let Some((run, task)) = found {
                writes.of_task.insert(id.to_string(), writes.units.len());
                writes.units.push(vec![put(task_key(*id, run.generation), json(&stored_task(task)))]);
            }
        }
        for (id, generation) in &dirty.freed {
            writes.units.push(vec![put(task_key(*id, *generation), json(&StoredTask::freed()))]);
        }
        writes.headers(state, dirty);
        for name in &dirty.nodes {
            let key = key_of_node(name);
            writes.of_node.insert(name.0.clone(), writes.units.len());
            writes.units.push(vec![match state.nodes.get(name) {
                Some(node) => put(key, json(&StoredNode::of(&node.registration))),
                None => Op::Delete { key },
            }]);
        }
        for name in dirty.faults.union(&dirty.nodes) {
            let (key, node) = (key_of_faults(name), state.nodes.get(name));
            let unchanged = node.is_some() && !dirty.faults.contains(name);
            if !unchanged {
                writes.of_node.insert(name.0.clone(), writes.units.len());
            }
            writes.units.extend((!unchanged).then(|| {
                vec![match node.map(|node| &node.faults).filter(|faults| !faults.is_empty()) {
                    Some(faults) => put(key, json(faults)),
                    None => Op::Delete { key },
                }]
            }));
        }
        for name in &dirty.standings {
            let (key, node) = (key_of_standing(name), state.nodes.get(name));
            writes.of_node.insert(name.0.clone(), writes.units.len());
            writes.units.push(vec![match node.map(|node| &node.standing).filter(|s| **s != Standing::default()) {
                Some(standing) => put(key, json(standing)),
                None => Op::Delete { key },
            }]);
        }
        writes
    }

    /// What changed of who may call.
    pub(in crate::controller) fn access(&mut self, access: &mut Access) {
        for id in std::mem::take(&mut access.dirty_tokens) {
            let key = key_of_token(&id);
            self.units.push(vec![match access.tokens.get(&id) {
                Some(token) => put(key, json(token)),
                None => Op::Delete { key },
            }]);
        }
        for name in std::mem::take(&mut access.dirty_nodes) {
            let key = key_of_certificate(&name);
            self.units.push(vec![match access.nodes.get(&name) {
                Some(node) => put(key, json(node)),
                None => Op::Delete { key },
            }]);
        }
    }

    /// A job and its runs that changed together are written together.
    fn headers(&mut self, state: &State, dirty: &Dirty) {
        let mut by_job: BTreeMap<JobId, Vec<Op>> = BTreeMap::new();
        for id in dirty.jobs.difference(&dirty.specs) {
            if let Some(job) = state.jobs.get(id) {
                by_job.entry(*id).or_default().push(put(job_key(*id), json(job)));
            }
        }
        for id in &dirty.runs {
            if let Some(run) = state.runs.get(id) {
                by_job.entry(run.job).or_default().push(put(run_key(*id), json(run)));
            }
        }
        for (id, ops) in by_job {
            self.of_job.insert(id.0, self.units.len());
            self.units.push(ops);
        }
    }

    fn plan(&mut self, run: &Run) {
        let seats: Vec<StoredSeat> = run
            .tasks
            .iter()
            .map(|task| StoredSeat { role: task.role, index: task.index, seat: task.seat.clone() })
            .collect();
        let bytes = json(&seats);
        let count = bytes.chunks(CHUNK_BYTES).len();
        for (number, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            // Each says how many belong together: a longer plan of the same generation may have been begun before.
            let mut value = format!("{count}\n").into_bytes();
            value.extend_from_slice(chunk);
            self.units.push(vec![put(plan_key(run.id, run.generation, number), value)]);
        }
    }

    pub(in crate::controller) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Writes everything in order, as few transactions as the limits allow, fenced by the term. Each transaction keeps,
    /// as `keep` makes them a value, those of `events` that are true by then: so none is told before it is true, and
    /// none is lost once it is.
    pub(in crate::controller) async fn commit(
        self,
        store: &dyn Store,
        term: Term,
        events: &[Event],
        keep: impl Fn(&[Event]) -> Option<Vec<u8>>,
    ) -> Result<(), WriteError> {
        let fence = fence(term);
        let kept = |events: &[Event]| keep(events).map(|value| put(LAST_EVENTS.into(), value));
        let all = kept(events);
        let reserved = if all.is_some() { LAST_EVENTS.len() + MAX_VALUE_BYTES } else { 0 };
        let true_with: Vec<Option<usize>> = events.iter().map(|event| self.unit_of(event)).collect();
        let mut ops: Vec<Op> = Vec::new();
        let mut bytes = 0;
        for (at, unit) in self.units.into_iter().enumerate() {
            let unit_bytes: usize = unit.iter().map(op_bytes).sum();
            let full = ops.len() + unit.len() + 2 > MAX_OPERATIONS
                || bytes + unit_bytes + reserved > MAX_TRANSACTION_BYTES - FENCE_BYTES;
            if full && !ops.is_empty() {
                let by_now = events.iter().zip(&true_with).filter(|(_, unit)| unit.is_some_and(|unit| unit < at));
                let by_now: Vec<Event> = by_now.map(|(event, _)| event.clone()).collect();
                if bytes + reserved <= MAX_TRANSACTION_BYTES - FENCE_BYTES {
                    ops.extend(kept(&by_now));
                }
                flush(store, &fence, std::mem::take(&mut ops), term).await?;
                bytes = 0;
            }
            bytes += unit_bytes;
            ops.extend(unit);
        }
        // One unit may take more than what is not reserved.
        if bytes + reserved > MAX_TRANSACTION_BYTES - FENCE_BYTES && !ops.is_empty() {
            flush(store, &fence, std::mem::take(&mut ops), term).await?;
        }
        ops.extend(all);
        if ops.is_empty() { Ok(()) } else { flush(store, &fence, ops, term).await }
    }

    /// The unit with which an event becomes true; none for what is true with the whole.
    fn unit_of(&self, event: &Event) -> Option<usize> {
        // A fault names whom it hit, and is its node's.
        let is_fault = event.kind.starts_with("fault.");
        match (&event.task, event.job, &event.node) {
            (task, job, Some(node)) if is_fault || task.is_none() && job.is_none() => self.of_node.get(node).copied(),
            (Some(task), ..) => self.of_task.get(task).copied(),
            (None, Some(job), _) => self.of_job.get(&job).copied(),
            (None, None, _) => None,
        }
    }
}

async fn flush(store: &dyn Store, fence: &Compare, ops: Vec<Op>, term: Term) -> Result<(), WriteError> {
    match store.commit(Transaction { compares: vec![fence.clone()], ops }).await? {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Conflict => Err(WriteError::Deposed(term)),
    }
}

/// Takes the lead: a new term, durable before anything else is done. A store of a level that is not known is left as it
/// is.
pub(in crate::controller) async fn take_term(
    store: &dyn Store,
    fresh_cluster_id: &str,
) -> Result<(String, Term), StoreError> {
    loop {
        refuse_unusable(store).await?;
        let cluster = store.get("meta/cluster_id").await?;
        let term = store.get("meta/term").await?;
        let level = store.get(LEVEL).await?;
        let found = known_level(level.as_ref())?;
        let old = term.as_ref().and_then(|entry| super::load::parse_number(&entry.value)).unwrap_or(0);
        let new = Term(old + 1);
        let mut transaction = Transaction::default();
        transaction.compares.push(match &term {
            Some(entry) => Compare::ModRevision { key: "meta/term".into(), revision: entry.mod_revision },
            None => Compare::Absent { key: "meta/term".into() },
        });
        if found < Level::own() || cluster.is_none() {
            transaction.compares.push(match &level {
                Some(entry) => Compare::ModRevision { key: LEVEL.into(), revision: entry.mod_revision },
                None => Compare::Absent { key: LEVEL.into() },
            });
            transaction.ops.push(put(LEVEL.into(), Level::own().max(found).to_string().into_bytes()));
        }
        // What was looked at before may have changed since.
        transaction.compares.extend([TRANSFER, MOVED].map(|key| Compare::Absent { key: key.into() }));
        transaction.ops.push(put("meta/term".into(), new.to_string().into_bytes()));
        let cluster_id = match &cluster {
            Some(entry) => String::from_utf8_lossy(&entry.value).into_owned(),
            None => {
                transaction.ops.push(put("meta/cluster_id".into(), fresh_cluster_id.as_bytes().to_vec()));
                fresh_cluster_id.to_owned()
            }
        };
        if let Outcome::Committed { .. } = store.commit(transaction).await? {
            return Ok((cluster_id, new));
        }
    }
}

/// The mark of the store, if this program can make sense of what is there.
fn known_level(entry: Option<&Entry>) -> Result<Level, StoreError> {
    let refused = |message: String| StoreError::Unavailable { operation: "taking the store", message };
    let Some(entry) = entry else { return Ok(Level::FIRST) };
    let text = String::from_utf8_lossy(&entry.value);
    let level = Level::parse(&text);
    let level = level.ok_or_else(|| refused(format!("{LEVEL} is '{text}', not the number of a level")))?;
    level.check_kept("the controller's store").map_err(|error| refused(error.message))?;
    Ok(level)
}

/// Whether this controller may use the store at all.
pub(in crate::controller) async fn check_usable(store: &dyn Store) -> Result<(), StoreError> {
    refuse_unusable(store).await?;
    known_level(store.get(LEVEL).await?.as_ref()).map(drop)
}

/// A store that is half-written, or that has been moved elsewhere, has no controller.
async fn refuse_unusable(store: &dyn Store) -> Result<(), StoreError> {
    let refused = |message: String| StoreError::Unavailable { operation: "taking the store", message };
    if store.get(TRANSFER).await?.is_some() {
        let message = "it was being filled by 'wharf store restore' or 'wharf store move' when that was cut short; \
            run the same command again";
        return Err(refused(message.to_owned()));
    }
    if let Some(entry) = store.get(MOVED).await? {
        let to = String::from_utf8_lossy(&entry.value).into_owned();
        return Err(refused(format!("it was moved to {to}; let the settings say so, or move it back")));
    }
    Ok(())
}

/// Deletes each of `keys`; one that ends with `/` stands for all below it. In their order.
pub(in crate::controller) async fn delete_all(
    store: &dyn Store,
    term: Term,
    keys: &[String],
) -> Result<(), WriteError> {
    for key in keys {
        let exact = || Range { start: key.clone(), end: Some(format!("{key}\0")), limit: 1 };
        let range = if key.ends_with('/') { Range::prefix(key) } else { exact() };
        loop {
            let (entries, _) = store.range(Range { limit: MAX_OPERATIONS - 1, ..range.clone() }).await?;
            if entries.is_empty() {
                break;
            }
            let ops = entries.into_iter().map(|entry| Op::Delete { key: entry.key }).collect();
            flush(store, &fence(term), ops, term).await?;
        }
    }
    Ok(())
}

/// Writes these together.
pub(in crate::controller) async fn write(store: &dyn Store, term: Term, ops: Vec<Op>) -> Result<(), WriteError> {
    flush(store, &fence(term), ops, term).await
}

/// Waits until everything that was sent to the store before has happened or never will: a commit whose answer was
/// lost may still be on its way.
pub(in crate::controller) async fn barrier(store: &dyn Store, term: Term) -> Result<(), WriteError> {
    flush(store, &fence(term), vec![put("meta/barrier".into(), term.to_string().into_bytes())], term).await
}

fn fence(term: Term) -> Compare {
    Compare::Value { key: "meta/term".into(), value: term.to_string().into_bytes() }
}

fn spec_ops(id: JobId, spec: &JobSpec) -> Vec<Op> {
    chunked::put(&spec_key(id), &json(spec)).expect("admission refuses specifications above the limit")
}

fn put(key: String, value: Vec<u8>) -> Op {
    Op::Put { key, value }
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use crate::store::flaky::{Failure, FlakyStore};
    use crate::store::memory::MemoryStore;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    const TASKS: usize = 250;

    fn ended(task: &str) -> Event {
        let (kind, message) = ("task.ended".to_owned(), String::new());
        let task = Some(task.to_owned());
        Event { sequence: 0, time: Timestamp(0), kind, job: Some(1), task, node: None, message }
    }

    /// Ends of many tasks, each with its record, and then the job's.
    fn ends() -> (Writes, Vec<Event>) {
        let (mut writes, mut events) = (Writes::default(), Vec::new());
        for task in (0..TASKS).map(|task| format!("task-{task}")) {
            writes.of_task.insert(task.clone(), writes.units.len());
            writes.units.push(vec![put(task.clone(), vec![0; 100])]);
            events.push(ended(&task));
        }
        writes.of_job.insert(1, writes.units.len());
        writes.units.push(vec![put("job-1".into(), Vec::new())]);
        events.push(Event { kind: "job.ended".to_owned(), task: None, ..ended("") });
        writes.of_node.insert("n1".to_owned(), writes.units.len());
        writes.units.push(vec![put("n1".into(), Vec::new())]);
        let (kind, node) = ("fault.opened".to_owned(), Some("n1".to_owned()));
        events.push(Event { kind, node, ..ended("task-0") });
        (writes, events)
    }

    fn names(events: &[Event]) -> Option<Vec<u8>> {
        let name = |event: &Event| {
            let of = event.node.clone().or_else(|| event.task.clone());
            of.unwrap_or_else(|| "job-1".to_owned())
        };
        (!events.is_empty()).then(|| json(&events.iter().map(name).collect::<BTreeSet<_>>()))
    }

    #[tokio::test]
    async fn events_are_durable_with_what_makes_them_true_wherever_it_ends() {
        let mut written = Vec::new();
        for failing in 1..=4 {
            let inner = Arc::new(MemoryStore::default());
            let ops = vec![put("meta/term".into(), b"7".to_vec())];
            inner.commit(Transaction { ops, ..Transaction::default() }).await.unwrap();
            let store = FlakyStore::new(inner, failing..=99, Failure::NotWritten);
            let (writes, events) = ends();
            let done = writes.commit(&store, Term(7), &events, names).await;
            let (entries, _) = store.range(Range { limit: 1000, ..Range::prefix("") }).await.unwrap();
            let there: BTreeSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
            let kept = entries.iter().find(|entry| entry.key == LAST_EVENTS);
            let kept: BTreeSet<String> =
                kept.map(|entry| serde_json::from_slice(&entry.value).unwrap()).unwrap_or_default();
            let records = there.into_iter().filter(|key| !key.starts_with("meta/")).collect::<BTreeSet<_>>();
            assert_eq!(kept, records, "transaction {failing}");
            written.push((records.len(), done.is_ok()));
        }
        assert_eq!(written.last(), Some(&(TASKS + 2, true)), "{written:?}");
        assert!(written.iter().any(|(count, _)| *count > 0 && *count < TASKS), "{written:?}");
    }
}
