//! The events that operators and users read (`wharf events`): numbered, kept in an SQLite file of their own, the oldest
//! forgotten. They do not belong into the store: there are many, and losing old ones loses no job.

use super::StoreError;
use super::file::{Format, WriterFile, failed, open_writer};
use super::reader::{self, ReadJob};
use super::worker::{Inbox, Reply, Worker};
use crate::domain::event::Event;
use rusqlite::{Connection, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

const FORMAT: Format = Format {
    name: "event log",
    application_id: 0x7768_4556,
    migrations: &["CREATE TABLE events (sequence INTEGER PRIMARY KEY, event TEXT NOT NULL);"],
};
const APPENDING: &str = "appending events";
const READING: &str = "reading events";
const DEADLINE: Duration = Duration::from_secs(10);
const QUEUE: usize = 1024;
/// Most calls that share one sync of the disk.
const GROUP: usize = 256;

/// The event log. Dropping it finishes what is queued and closes the file; that may block for a moment.
pub struct EventLog {
    path: PathBuf,
    last: watch::Receiver<u64>,
    // Before the writer, whose connection empties the journal as the last to close.
    reader: Worker<ReadJob>,
    writer: Worker<Append>,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub events: Vec<Event>,
    /// Sequence number of the oldest event that is kept; the next to be given if there is none.
    pub oldest: u64,
}

struct Append {
    events: Vec<Event>,
    reply: Reply<u64>,
}

impl EventLog {
    /// Opens or makes the log at `path`, which keeps the newest `keep` events (at least one). Blocks.
    pub fn open(path: impl AsRef<Path>, keep: usize) -> Result<Self, StoreError> {
        let file = open_writer(path.as_ref(), FORMAT)?;
        let reader = reader::start(path.as_ref())?;
        let path = file.path.clone();
        let newest = last_sequence(&file.connection).map_err(|e| failed("opening the event log", &path, &e))?;
        let (sender, last) = watch::channel(newest);
        let keep = i64::try_from(keep.max(1)).unwrap_or(i64::MAX);
        let mut writer = Writer { file, keep, last: sender };
        let writer = Worker::start("event-log", QUEUE, move |mut inbox| writer.run(&mut inbox))?;
        Ok(Self { path, last, reader, writer })
    }

    /// Numbers the events in their order, whatever `sequence` they have, and writes them. Returns the last number, with
    /// nothing of others in between. Durable when it returns.
    pub async fn append(&self, events: Vec<Event>) -> Result<u64, StoreError> {
        self.writer.jobs().ask(APPENDING, DEADLINE, move |reply| Append { events, reply }).await
    }

    /// The first `limit` events after sequence number `after`. A caller whose `after + 1` is below `oldest` missed
    /// some.
    pub async fn read(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        let query = move |connection: &Connection| read_page(connection, after, limit);
        reader::read(self.reader.jobs(), READING, DEADLINE, &self.path, query).await
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
            match self.write(&group) {
                Ok(lasts) => {
                    if let Some(last) = lasts.last() {
                        self.last.send_replace(*last);
                    }
                    group.into_iter().zip(lasts).for_each(|(append, last)| append.reply.send(Ok(last)));
                }
                Err(error) => {
                    let error = failed(APPENDING, &self.file.path, &error);
                    group.into_iter().for_each(|append| append.reply.send(Err(error.clone())));
                }
            }
        }
    }

    /// The last sequence number of each call.
    fn write(&mut self, group: &[Append]) -> rusqlite::Result<Vec<u64>> {
        let transaction = self.file.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut sequence = last_sequence(&transaction)?;
        let mut lasts = Vec::with_capacity(group.len());
        {
            let mut insert = transaction.prepare_cached("INSERT INTO events (sequence, event) VALUES (?1, ?2)")?;
            for append in group {
                for event in &append.events {
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

/// The newest event is always kept, so numbers are never given twice.
fn last_sequence(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT coalesce(max(sequence), 0) FROM events", [], |row| row.get(0)).map(unsigned)
}

fn read_page(connection: &Connection, after: u64, limit: usize) -> rusqlite::Result<Page> {
    let mut first = connection.prepare_cached("SELECT coalesce(min(sequence), 1) FROM events")?;
    let oldest = first.query_row([], |row| row.get(0)).map(unsigned)?;
    let mut select =
        connection.prepare_cached("SELECT event FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2")?;
    let mut rows = select.query((signed(after), i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        let event = serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
        })?;
        events.push(event);
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
