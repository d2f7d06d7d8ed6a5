//! Events on their way from a decision to history, each told once.
//!
//! What is decided and what is told of it are durable together: the events of a commit are part of it, under one key that
//! the next commit writes over, with what is not in history yet. Whoever leads next appends what it finds there; history
//! itself knows what it has already. A controller that leads on another machine has a history of its own, so each of them
//! tells an end once. The store holds the words of one commit only: there are too many events for etcd.
//!
//! A decision of several transactions has each event with the one that makes it true: a crash in between leaves those of
//! the rest to whoever decides it anew.

use super::persist::LAST_EVENTS;
use crate::domain::event::Event;
use crate::store::history::EventLog;
use crate::store::{MAX_VALUE_BYTES, Store, StoreError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Events kept while history cannot be written; the oldest go first.
const MAX_UNTOLD: usize = 10_000;
/// How long everybody waits for history, once in a while: leases depend on answers.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Events that history may have or not, and its last number before them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Untold {
    after: u64,
    events: Vec<Event>,
}

pub(super) struct Telling {
    history: Arc<EventLog>,
    untold: Untold,
    /// After a failure: how long it is left alone, and until when.
    pause: Option<(Duration, Instant)>,
}

impl Telling {
    pub(super) fn new(history: Arc<EventLog>) -> Self {
        Self { history, untold: Untold::default(), pause: None }
    }

    /// What a commit has to keep of the events that follow it, as the value of [`LAST_EVENTS`].
    pub(super) fn to_keep(&self, events: &[Event]) -> Option<Vec<u8>> {
        if events.is_empty() {
            return None;
        }
        let mut untold = self.with(events);
        let mut value = bytes(&untold);
        if value.len() > MAX_VALUE_BYTES {
            // A gang of many hundreds that starts at once: what must not be missing are ends.
            untold.events.retain(|event| [".ended", ".lost"].iter().any(|end| event.kind.ends_with(end)));
            value = bytes(&untold);
        }
        while value.len() > MAX_VALUE_BYTES {
            untold.events.drain(..untold.events.len().div_ceil(2));
            value = bytes(&untold);
        }
        Some(value)
    }

    /// Appends the events of a commit that is durable, and what history has not taken before. History is for people: one
    /// that cannot be written holds the others up for a moment once in a while, and is told later.
    pub(super) async fn tell(&mut self, events: &[Event]) {
        if events.is_empty() && self.untold.events.is_empty() {
            return;
        }
        if self.pause.is_some_and(|(_, until)| Instant::now() < until) {
            if !events.is_empty() {
                self.keep(self.with(events));
            }
            return;
        }
        let untold = self.with(events);
        let Untold { after, events } = untold.clone();
        let append = async {
            if self.untold.events.is_empty() {
                self.history.append(events).await
            } else {
                self.history.append_once(after, events).await
            }
        };
        let why = match tokio::time::timeout(PATIENCE, append).await {
            Ok(Ok(_)) => {
                if self.pause.take().is_some() {
                    tracing::info!(events = untold.events.len(), "history is written again");
                }
                self.untold = Untold::default();
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        let pause = self.pause.map_or(FIRST_PAUSE, |(pause, _)| (pause * 2).min(LONGEST_PAUSE));
        self.pause = Some((pause, Instant::now() + pause));
        tracing::warn!(why, events = untold.events.len(), "events are not in history yet");
        self.keep(untold);
    }

    /// What was seen is true whatever became of the commit that was to write down what follows from it; decisions are made
    /// anew after a failed one, and told then.
    pub(super) fn hold(&mut self, events: &[Event]) {
        let seen: Vec<Event> = events.iter().filter(|event| is_seen(event)).cloned().collect();
        if !seen.is_empty() {
            self.keep(self.with(&seen));
        }
    }

    fn keep(&mut self, untold: Untold) {
        self.untold = untold;
        let surplus = self.untold.events.len().saturating_sub(MAX_UNTOLD);
        self.untold.events.drain(..surplus);
    }

    /// Appends what the last commit has kept, whoever made it.
    pub(super) async fn resume(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let Some(entry) = store.get(LAST_EVENTS).await? else { return Ok(()) };
        match serde_json::from_slice::<Untold>(&entry.value) {
            Ok(kept) => self.take_up(kept).await,
            Err(error) => tracing::warn!(%error, key = LAST_EVENTS, "what should be told cannot be read"),
        }
        Ok(())
    }

    async fn take_up(&mut self, kept: Untold) {
        // What we have not told yet follows or is the same.
        let own = std::mem::replace(&mut self.untold, kept).events;
        let more: Vec<Event> = own.into_iter().filter(|event| !self.untold.events.contains(event)).collect();
        self.tell(&more).await;
    }

    /// What is not told yet, with more.
    fn with(&self, events: &[Event]) -> Untold {
        let after =
            if self.untold.events.is_empty() { *self.history.subscribe().borrow() } else { self.untold.after };
        Untold { after, events: self.untold.events.iter().chain(events).cloned().collect() }
    }
}

/// Nobody decided it, and what is known of it outlives a failed commit: it would not be seen again.
fn is_seen(event: &Event) -> bool {
    matches!(event.kind.as_str(), "node.unreachable" | "node.answers" | "node.journal_lost" | "clock.set")
        || event.kind.starts_with("gpu.")
}

fn bytes(untold: &Untold) -> Vec<u8> {
    serde_json::to_vec(untold).expect("words and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use crate::store::memory::MemoryStore;
    use crate::store::{Op, Transaction};

    fn event(kind: &str, message: &str) -> Event {
        let (kind, message) = (kind.to_owned(), message.to_owned());
        Event { sequence: 0, time: Timestamp::from_nanos(7), kind, job: Some(1), task: None, node: None, message }
    }

    async fn told(history: &EventLog) -> Vec<String> {
        history.read(0, 100_000).await.unwrap().events.into_iter().map(|event| event.message).collect()
    }

    /// A commit of these events, by one that dies before it tells them unless `tells`.
    async fn commit(telling: &mut Telling, store: &dyn Store, events: &[Event], tells: bool) {
        let value = telling.to_keep(events).unwrap();
        let ops = vec![Op::Put { key: LAST_EVENTS.into(), value }];
        store.commit(Transaction { ops, ..Transaction::default() }).await.unwrap();
        if tells {
            telling.tell(events).await;
        }
    }

    #[tokio::test]
    async fn the_next_leader_tells_what_was_committed_once() {
        let (store, history) = (MemoryStore::default(), Arc::new(EventLog::in_memory(1000).unwrap()));
        let mut first = Telling::new(history.clone());
        first.resume(&store).await.unwrap();
        commit(&mut first, &store, &[event("job.submitted", "a")], true).await;
        commit(&mut first, &store, &[event("task.ended", "b"), event("job.ended", "c")], false).await;
        assert_eq!(told(&history).await, ["a"]);
        for _ in 0..3 {
            Telling::new(history.clone()).resume(&store).await.unwrap();
            assert_eq!(told(&history).await, ["a", "b", "c"]);
        }
        // A leader elsewhere has a history of its own.
        let elsewhere = Arc::new(EventLog::in_memory(1000).unwrap());
        Telling::new(elsewhere.clone()).resume(&store).await.unwrap();
        assert_eq!(told(&elsewhere).await, ["b", "c"]);
    }

    #[tokio::test]
    async fn what_was_seen_is_told_although_its_commit_failed() {
        let (store, history) = (MemoryStore::default(), Arc::new(EventLog::in_memory(1000).unwrap()));
        let mut telling = Telling::new(history.clone());
        commit(&mut telling, &store, &[event("job.submitted", "a")], true).await;
        let lost = [event("node.unreachable", "b"), event("task.ended", "decided again")];
        // Written or not: the answer is lost.
        for is_written in [false, true] {
            if is_written {
                commit(&mut telling, &store, &lost[..1], false).await;
            }
            telling.hold(&lost);
            telling.resume(&store).await.unwrap();
            telling.resume(&store).await.unwrap();
            assert_eq!(told(&history).await, ["a", "b"], "{is_written}");
        }
    }

    #[tokio::test]
    async fn damage_holds_nobody_up() {
        let (store, history) = (MemoryStore::default(), Arc::new(EventLog::in_memory(1000).unwrap()));
        let ops = vec![Op::Put { key: LAST_EVENTS.into(), value: b"{\"after\":".to_vec() }];
        store.commit(Transaction { ops, ..Transaction::default() }).await.unwrap();
        Telling::new(history.clone()).resume(&store).await.unwrap();
        assert_eq!(told(&history).await, [""; 0]);
    }

    #[test]
    fn of_too_many_events_the_ends_are_kept() {
        let telling = Telling::new(Arc::new(EventLog::in_memory(1000).unwrap()));
        let kept = |events: &[Event]| {
            let value = telling.to_keep(events).unwrap();
            assert!(value.len() <= MAX_VALUE_BYTES);
            serde_json::from_slice::<Untold>(&value).unwrap().events
        };
        let mut events = vec![event("task.started", &"x".repeat(1000)); 300];
        events.push(event("task.ended", "y"));
        assert_eq!(kept(&events), events[300..]);
        let ends = vec![event("task.ended", &"x".repeat(1000)); 300];
        assert_eq!(kept(&ends), ends[150..]);
        assert_eq!(telling.to_keep(&[]), None);
    }
}
