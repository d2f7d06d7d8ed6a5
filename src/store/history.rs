//! The events that operators and users read (`wharf events`): numbered, kept in an SQLite file of their own, the oldest
//! forgotten. They do not belong into the store: there are many, and losing old ones loses no job.

use super::StoreError;
use super::file::{Format, WriterFile, failed, open_in_memory, open_writer};
use super::reader::{self, ReadJob};
use super::worker::{Inbox, Reply, Worker};
use crate::domain::event::Event;
use rusqlite::{Connection, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

const FORMAT: Format = Format {
    name: "event log",
    application_id: 0x7768_4556,
    migrations: &["CREATE TABLE events (sequence INTEGER PRIMARY KEY, event TEXT NOT NULL);"],
};
/// Not a version of its own: a program that does not know it keeps it up to date all the same.
const INDEX: &str = "CREATE INDEX IF NOT EXISTS events_of_job ON events (json_extract(event, '$.job'), sequence);";
const APPENDING: &str = "appending events";
const READING: &str = "reading events";
const DEADLINE: Duration = Duration::from_secs(10);
const QUEUE: usize = 1024;
/// Most calls that share one sync of the disk.
const GROUP: usize = 256;
/// Events that are looked at for those to be appended once: that many in any case, and at most.
const LOOKED_AT: u64 = 2_000;
const MOST_LOOKED_AT: u64 = 20_000;
/// Calls in the queue beyond which another that may be there already is refused: the disk hangs.
const WAITING: usize = 8;

/// The event log. Dropping it finishes what is queued and closes the file; that may block for a moment.
pub struct EventLog {
    path: PathBuf,
    last: watch::Receiver<u64>,
    place: Place,
}

enum Place {
    File {
        // Before the writer, whose connection empties the journal as the last to close.
        reader: Worker<ReadJob>,
        writer: Worker<Append>,
    },
    /// Written and read by whoever asks.
    Memory(Mutex<Writer>),
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub events: Vec<Event>,
    /// Sequence number of the oldest event that is kept; the next to be given if there is none.
    pub oldest: u64,
}

/// What history has of one job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OfJob {
    /// By sequence number.
    pub events: Vec<Event>,
    /// How many there are besides.
    pub left_out: usize,
}

struct Append {
    events: Vec<Event>,
    after: Option<u64>,
    reply: Reply<u64>,
}

/// What one call appends.
#[derive(Clone, Copy)]
struct Appended<'a> {
    events: &'a [Event],
    /// What follows this number may be the same events.
    after: Option<u64>,
}

impl EventLog {
    /// Opens or makes the log at `path`, which keeps the newest `keep` events (at least one). Blocks.
    pub fn open(path: impl AsRef<Path>, keep: usize) -> Result<Self, StoreError> {
        let file = open_writer(path.as_ref(), FORMAT)?;
        file.connection.execute_batch(INDEX).map_err(|e| failed("opening the event log", &file.path, &e))?;
        let reader = reader::start(path.as_ref())?;
        let path = file.path.clone();
        let newest = last_sequence(&file.connection).map_err(|e| failed("opening the event log", &path, &e))?;
        let (sender, last) = watch::channel(newest);
        let keep = i64::try_from(keep.max(1)).unwrap_or(i64::MAX);
        let mut writer = Writer { file, keep, last: sender };
        let writer = Worker::start("event-log", QUEUE, move |mut inbox| writer.run(&mut inbox))?;
        Ok(Self { path, last, place: Place::File { reader, writer } })
    }

    /// A log without a file and without threads, for simulations: it answers at once, in their time.
    pub fn in_memory(keep: usize) -> Result<Self, StoreError> {
        let file = open_in_memory(FORMAT)?;
        let (sender, last) = watch::channel(0);
        let path = file.path.clone();
        let keep = i64::try_from(keep.max(1)).unwrap_or(i64::MAX);
        Ok(Self { path, last, place: Place::Memory(Mutex::new(Writer { file, keep, last: sender })) })
    }

    /// Numbers the events in their order, whatever `sequence` they have, and writes them. Returns the last number, with
    /// nothing of others in between. Durable when it returns.
    pub async fn append(&self, events: Vec<Event>) -> Result<u64, StoreError> {
        self.write(events, None).await
    }

    /// As `append`, but for those that are among the newest already, at least all after number `after`: so who does not
    /// know what came of an append says the same again, with the last number there was before it. That number may be of
    /// another log, where another controller has led.
    pub async fn append_once(&self, after: u64, events: Vec<Event>) -> Result<u64, StoreError> {
        self.write(events, Some(after)).await
    }

    async fn write(&self, events: Vec<Event>, after: Option<u64>) -> Result<u64, StoreError> {
        match &self.place {
            Place::File { writer, .. } => {
                if after.is_some() && writer.jobs().waiting() > WAITING {
                    let message = "what was to be appended before is not yet".to_owned();
                    return Err(StoreError::Unavailable { operation: APPENDING, message });
                }
                writer.jobs().ask(APPENDING, DEADLINE, move |reply| Append { events, after, reply }).await
            }
            Place::Memory(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let appended = Appended { events: &events, after };
                let lasts = writer.write(&[appended]).map_err(|error| failed(APPENDING, &self.path, &error))?;
                Ok(writer.tell(&lasts))
            }
        }
    }

    /// The first `limit` events after sequence number `after`. A caller whose `after + 1` is below `oldest` missed
    /// some.
    pub async fn read(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.ask(move |connection| read_page(connection, after, limit)).await
    }

    /// The first and the last events of a job: those of its single tasks, or all others. Beginnings of tasks are left
    /// out, as every task that ends has begun.
    pub async fn of_job(&self, job: u64, tasks: bool, first: usize, last: usize) -> Result<OfJob, StoreError> {
        self.ask(move |connection| read_job(connection, job, tasks, first, last)).await
    }

    async fn ask<T, Q>(&self, query: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        match &self.place {
            Place::File { reader, .. } => reader::read(reader.jobs(), READING, DEADLINE, &self.path, query).await,
            Place::Memory(writer) => {
                let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                query(&writer.file.connection).map_err(|error| failed(READING, &self.path, &error))
            }
        }
    }

    /// The last sequence number, changing with each append; 0 before the first event.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.clone()
    }
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").field("path", &self.path).finish_non_exhaustive()
    }
}

struct Writer {
    file: WriterFile,
    keep: i64,
    last: watch::Sender<u64>,
}

impl Writer {
    fn run(&mut self, inbox: &mut Inbox<Append>) {
        while let Some(first) = inbox.next() {
            let mut group = vec![first];
            while group.len() < GROUP {
                let Some(next) = inbox.try_next() else { break };
                group.push(next);
            }
            group.retain(|append| !append.reply.expired());
            let appended: Vec<Appended<'_>> =
                group.iter().map(|append| Appended { events: &append.events, after: append.after }).collect();
            match self.write(&appended) {
                Ok(lasts) => {
                    self.tell(&lasts);
                    group.into_iter().zip(lasts).for_each(|(append, last)| append.reply.send(Ok(last)));
                }
                Err(error) => {
                    let error = failed(APPENDING, &self.file.path, &error);
                    group.into_iter().for_each(|append| append.reply.send(Err(error.clone())));
                }
            }
        }
    }

    /// Lets everybody know of the last number, and says it.
    fn tell(&self, lasts: &[u64]) -> u64 {
        if let Some(last) = lasts.last() {
            self.last.send_replace(*last);
        }
        *self.last.borrow()
    }

    /// The last sequence number of each call.
    fn write(&mut self, group: &[Appended<'_>]) -> rusqlite::Result<Vec<u64>> {
        let transaction = self.file.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut sequence = last_sequence(&transaction)?;
        let mut lasts = Vec::with_capacity(group.len());
        {
            let mut insert = transaction.prepare_cached("INSERT INTO events (sequence, event) VALUES (?1, ?2)")?;
            for Appended { events, after } in group {
                let mut there = match after {
                    Some(after) => newest(&transaction, *after, sequence)?,
                    None => Vec::new(),
                };
                for event in *events {
                    if let Some(found) = there.iter().position(|found| is_same(found, event)) {
                        there.swap_remove(found);
                        continue;
                    }
                    sequence += 1;
                    let text = serde_json::to_string(&Event { sequence, ..event.clone() })
                        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
                    insert.execute((signed(sequence), text))?;
                }
                lasts.push(sequence);
            }
            let forget = signed(sequence).saturating_sub(self.keep);
            transaction.prepare_cached("DELETE FROM events WHERE sequence <= ?1")?.execute([forget])?;
        }
        transaction.commit()?;
        Ok(lasts)
    }
}

/// What may have been appended since the last number was `after`, by this log's count or another's. A row that cannot be
/// read is no event's equal.
fn newest(connection: &Connection, after: u64, last: u64) -> rusqlite::Result<Vec<Event>> {
    let from = after.min(last.saturating_sub(LOOKED_AT));
    let mut select =
        connection.prepare_cached("SELECT event FROM events WHERE sequence > ?1 ORDER BY sequence DESC LIMIT ?2")?;
    let mut rows = select.query((signed(from), signed(MOST_LOOKED_AT)))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.extend(event_of(row).ok());
    }
    Ok(events)
}

fn is_same(one: &Event, other: &Event) -> bool {
    *other == Event { sequence: other.sequence, ..one.clone() }
}

/// The newest event is always kept, so numbers are never given twice.
fn last_sequence(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT coalesce(max(sequence), 0) FROM events", [], |row| row.get(0)).map(unsigned)
}

fn read_job(connection: &Connection, job: u64, tasks: bool, first: usize, last: usize) -> rusqlite::Result<OfJob> {
    const OF_JOB: &str = "FROM events WHERE json_extract(event, '$.job') = ?1
        AND (json_extract(event, '$.kind') LIKE 'task.%') = ?2
        AND json_extract(event, '$.kind') <> 'task.started'";
    let count = format!("SELECT count(*) {OF_JOB}");
    let count: i64 = connection.prepare_cached(&count)?.query_row((signed(job), tasks), |row| row.get(0))?;
    let count = usize::try_from(count).unwrap_or(0);
    let mut found = OfJob { events: Vec::new(), left_out: count.saturating_sub(first + last) };
    let mut read = |order: &str, limit: usize| -> rusqlite::Result<()> {
        let select = format!("SELECT event {OF_JOB} ORDER BY sequence {order} LIMIT ?3");
        let mut select = connection.prepare_cached(&select)?;
        let mut rows = select.query((signed(job), tasks, i64::try_from(limit).unwrap_or(i64::MAX)))?;
        while let Some(row) = rows.next()? {
            found.events.push(event_of(row)?);
        }
        Ok(())
    };
    read("ASC", first.min(count))?;
    read("DESC", last.min(count.saturating_sub(first)))?;
    found.events.sort_by_key(|event| event.sequence);
    Ok(found)
}

fn event_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    let text: String = row.get(0)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))
}

fn read_page(connection: &Connection, after: u64, limit: usize) -> rusqlite::Result<Page> {
    let mut first = connection.prepare_cached("SELECT coalesce(min(sequence), 1) FROM events")?;
    let oldest = first.query_row([], |row| row.get(0)).map(unsigned)?;
    let mut select =
        connection.prepare_cached("SELECT event FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2")?;
    let mut rows = select.query((signed(after), i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event_of(row)?);
    }
    Ok(Page { events, oldest })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn event(message: &str) -> Event {
        let (time, kind) = (Timestamp::from_nanos(1_763_819_350_123_456_789), "job.submitted".to_owned());
        Event { sequence: 0, time, kind, job: Some(7), task: None, node: None, message: message.to_owned() }
    }

    #[tokio::test]
    async fn a_log_in_memory_is_no_other() {
        let log = EventLog::in_memory(2).unwrap();
        assert_eq!(log.append(vec![event("a"), event("b")]).await.unwrap(), 2);
        assert_eq!(log.append(vec![event("c")]).await.unwrap(), 3);
        assert_eq!(*log.subscribe().borrow(), 3);
        let page = log.read(0, 10).await.unwrap();
        assert_eq!((page.oldest, page.events.len()), (2, 2));
        assert_eq!(log.of_job(7, false, 5, 5).await.unwrap().events.len(), 2);
    }

    #[tokio::test]
    async fn what_is_appended_again_is_there_once() {
        let log = EventLog::in_memory(100).unwrap();
        let messages = async || {
            let events = log.read(0, 100).await.unwrap().events;
            events.into_iter().map(|event| event.message).collect::<String>()
        };
        assert_eq!(log.append_once(0, vec![event("a"), event("b")]).await.unwrap(), 2);
        assert_eq!(log.append_once(2, vec![event("c"), event("d")]).await.unwrap(), 4);
        // All of it, some more, and less than was there.
        log.append_once(2, vec![event("c"), event("d")]).await.unwrap();
        log.append_once(2, vec![event("c"), event("d"), event("e")]).await.unwrap();
        log.append_once(2, vec![event("d")]).await.unwrap();
        // By the count of another log, lower or higher.
        log.append_once(0, vec![event("d"), event("e")]).await.unwrap();
        log.append_once(50, vec![event("d"), event("e"), event("f")]).await.unwrap();
        assert_eq!(messages().await, "abcdef");
        // The same words at another time are another event, as are two where one is there.
        let later = Event { time: Timestamp::from_nanos(1_763_819_350_123_456_790), ..event("f") };
        log.append_once(6, vec![later]).await.unwrap();
        log.append_once(6, vec![event("a"), event("a")]).await.unwrap();
        assert_eq!(messages().await, "abcdeffa");
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_holds_no_append_up() {
        let log = EventLog::in_memory(100).unwrap();
        log.append(vec![event("a")]).await.unwrap();
        let Place::Memory(writer) = &log.place else { panic!("it is in memory") };
        writer.lock().unwrap().file.connection.execute("INSERT INTO events VALUES (2, '{')", []).unwrap();
        assert_eq!(log.append_once(0, vec![event("a"), event("b")]).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn events_are_numbered_kept_and_forgotten_from_the_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let log = EventLog::open(&path, 3).unwrap();
        assert_eq!(log.read(0, 10).await.unwrap(), Page { events: vec![], oldest: 1 });
        assert_eq!(log.append(vec![event("a"), event("b")]).await.unwrap(), 2);
        assert_eq!(log.append(vec![event("c"), event("d")]).await.unwrap(), 4);
        assert_eq!(log.append(vec![]).await.unwrap(), 4);
        drop(log);

        let log = EventLog::open(&path, 3).unwrap();
        assert_eq!(*log.subscribe().borrow(), 4);
        assert_eq!(log.append(vec![event("e")]).await.unwrap(), 5);
        let page = log.read(0, 10).await.unwrap();
        let seen: Vec<_> = page.events.iter().map(|event| (event.sequence, event.message.as_str())).collect();
        assert_eq!((seen, page.oldest), (vec![(3, "c"), (4, "d"), (5, "e")], 3));
        assert_eq!(page.events[0].time, event("c").time);
        assert_eq!(log.read(3, 1).await.unwrap().events[0].message, "d");
        assert!(log.read(5, 10).await.unwrap().events.is_empty());
    }

    #[tokio::test]
    async fn a_jobs_events_are_found_among_all_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let log = EventLog::open(&path, 10_000).unwrap();
        let of = |job: u64, kind: &str, i: u32| Event {
            job: Some(job),
            kind: kind.to_owned(),
            ..event(&format!("{kind} {i}"))
        };
        for i in 0..50 {
            let others = Event { job: None, ..of(0, "node.joined", i) };
            let kinds = ["run.placed", "task.started", "task.ended"];
            let mut events: Vec<Event> = kinds.iter().map(|kind| of(7, kind, i)).collect();
            events.extend([of(8, "run.placed", i), others]);
            log.append(events).await.unwrap();
        }
        drop(log);
        // The index is there or made, whoever wrote the file.
        let log = EventLog::open(&path, 10_000).unwrap();
        let messages = |found: &OfJob| found.events.iter().map(|event| event.message.clone()).collect::<Vec<_>>();
        let runs = log.of_job(7, false, 2, 3).await.unwrap();
        assert_eq!(messages(&runs), [0, 1, 47, 48, 49].map(|i| format!("run.placed {i}")));
        assert_eq!(runs.left_out, 45);
        let tasks = log.of_job(7, true, 100, 100).await.unwrap();
        assert_eq!((tasks.events.len(), tasks.left_out), (50, 0));
        assert!(tasks.events.iter().all(|event| event.kind == "task.ended"));
        assert_eq!(log.of_job(9, false, 5, 5).await.unwrap(), OfJob::default());
    }

    #[tokio::test]
    async fn a_follower_that_waits_for_the_number_misses_nothing() {
        const WRITERS: u64 = 8;
        const EACH: u64 = 25;
        let directory = tempfile::tempdir().unwrap();
        let log = std::sync::Arc::new(EventLog::open(directory.path().join("events.db"), 10_000).unwrap());
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let log = std::sync::Arc::clone(&log);
            writers.spawn(async move {
                for i in 0..EACH {
                    log.append(vec![event(&format!("{writer}.{i}"))]).await.unwrap();
                }
            });
        }
        let (mut last, mut seen) = (log.subscribe(), 0);
        while seen < WRITERS * EACH {
            for event in log.read(seen, 10).await.unwrap().events {
                assert_eq!(event.sequence, seen + 1);
                seen += 1;
            }
            let ready = tokio::time::timeout(Duration::from_secs(20), last.wait_for(|last| *last > seen));
            if seen < WRITERS * EACH {
                ready.await.unwrap().unwrap();
            }
        }
        writers.join_all().await;
    }

    #[tokio::test]
    async fn a_store_is_not_taken_for_an_event_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        drop(super::super::sqlite::SqliteStore::open(&path).unwrap());
        let error = EventLog::open(&path, 3).unwrap_err().to_string();
        assert!(error.contains("database of another kind"), "{error}");
    }
}
