//! A watch that outlives its connection: where it was is known to the event, so what follows a broken stream goes on
//! there, with nothing lost and nothing told twice.

use super::generated as pb;
use super::generated::event::EventType;
use super::generated::watch_request::RequestUnion;
use super::keys::{Keys, after_prefix};
use super::link::{self, Link};
use super::{EtcdSettings, EtcdStore};
use crate::store::{Change, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

pub(super) const WATCHING: &str = "watching";
/// Changes that wait for the reader in memory.
const CHANNEL: usize = 64;
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// Between attempts to open the stream again.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) type Changes = mpsc::Receiver<Result<Change, StoreError>>;

/// One watch.
struct Pump {
    link: Arc<Link>,
    keys: Keys,
    settings: EtcdSettings,
    prefix: Vec<u8>,
    place: Place,
    sender: mpsc::Sender<Result<Change, StoreError>>,
}

/// How far a watch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Everything before this revision has been told.
    revision: u64,
    /// And so many events of it.
    events: usize,
    /// Events of `revision` met in this stream, those told before it included.
    met: usize,
}

impl Place {
    /// Whether an event of `revision` is new; it counts as told then.
    fn takes(&mut self, revision: u64) -> bool {
        if revision > self.revision {
            *self = Self { revision, events: 0, met: 0 };
        }
        if revision < self.revision {
            return false;
        }
        self.met += 1;
        let new = self.met > self.events;
        self.events = self.events.max(self.met);
        new
    }

    /// All of `revision`, and of those before it, has been told.
    fn complete(&mut self, revision: u64) {
        if revision >= self.revision {
            *self = Self { revision: revision + 1, events: 0, met: 0 };
        }
    }
}

/// Why a stream is at its end.
enum Ended {
    /// It can be opened again.
    Broken(String),
    /// The watch is over.
    For(StoreError),
}

impl EtcdStore {
    /// Fails with `Compacted` if `after` was never reached: then etcd was restored from a backup, and the caller's
    /// picture of it is wrong. History that is gone is told by the first answer of the channel.
    pub(super) async fn start_watch(&self, prefix: &str, after: u64) -> Result<Changes, StoreError> {
        let newest = self.newest_revision(WATCHING).await?;
        if after > newest {
            return Err(StoreError::Compacted { asked: after, oldest: newest });
        }
        // One place more than changes take: for the reason of the end.
        let (sender, receiver) = mpsc::channel(CHANNEL + 1);
        let farewell = sender.clone().reserve_owned().await.map_err(|_| ended("the channel closed".to_owned()))?;
        let pump = Pump {
            link: self.link.clone(),
            keys: self.keys.clone(),
            settings: self.settings.clone(),
            prefix: self.keys.entry(prefix),
            place: Place { revision: after + 1, events: 0, met: 0 },
            sender,
        };
        self.watches.spawn(pump.run(self.closing.clone(), farewell));
        Ok(receiver)
    }
}

impl Pump {
    async fn run(mut self, closing: CancellationToken, farewell: mpsc::OwnedPermit<Result<Change, StoreError>>) {
        let gone = self.sender.clone();
        let end = tokio::select! {
            biased;
            () = closing.cancelled() => Some(ended("the store is being closed".to_owned())),
            () = gone.closed() => None,
            error = self.deliver() => Some(error),
        };
        if let Some(error) = end {
            farewell.send(Err(error));
        }
    }

    /// Stream after stream, until one says that the watch is over or none has begun for too long.
    async fn deliver(&mut self) -> StoreError {
        let mut last = Instant::now();
        loop {
            let broken = match self.open().await {
                Ok(stream) => match self.follow(stream, &mut last).await {
                    Ended::For(error) => return error,
                    Ended::Broken(why) => why,
                },
                Err(why) => why,
            };
            if last.elapsed() > self.settings.watch_patience {
                let patience = self.settings.watch_patience.as_secs();
                return ended(format!("no stream for {patience} s: {broken}"));
            }
            tracing::debug!(why = broken, "a watch on etcd is opened again");
            self.link.turn();
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open(&mut self) -> Result<Streaming<pb::WatchResponse>, String> {
        self.place.met = 0;
        let create = pb::WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: after_prefix(self.prefix.clone()),
            start_revision: i64::try_from(self.place.revision).unwrap_or(i64::MAX),
            progress_notify: true,
            fragment: true,
        };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open as long as the answers do.
        let requests = tokio_stream::StreamExt::chain(tokio_stream::once(create), tokio_stream::pending());
        let mut client = link::watch(self.link.channel());
        match timeout(OPEN_LIMIT, client.watch(link::request(requests))).await {
            Ok(Ok(stream)) => Ok(stream.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("no answer within {} ms", OPEN_LIMIT.as_millis())),
        }
    }

    async fn follow(&mut self, mut stream: Streaming<pb::WatchResponse>, last: &mut Instant) -> Ended {
        loop {
            let answer = match stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ended::Broken("the stream ended".to_owned()),
                Err(status) => return Ended::Broken(status.message().to_owned()),
            };
            *last = Instant::now();
            if answer.compact_revision > 0 {
                let oldest = u64::try_from(answer.compact_revision).unwrap_or(0);
                let asked = self.place.revision.saturating_sub(1);
                return Ended::For(StoreError::Compacted { asked, oldest });
            }
            if answer.canceled {
                return Ended::Broken(format!("etcd ended it: {}", answer.cancel_reason));
            }
            if let Err(error) = self.tell(&answer).await {
                return Ended::For(error);
            }
        }
    }

    async fn tell(&mut self, answer: &pb::WatchResponse) -> Result<(), StoreError> {
        let mut newest = None;
        for event in &answer.events {
            let Some(kv) = &event.kv else { continue };
            let revision = u64::try_from(kv.mod_revision).unwrap_or(0);
            newest = Some(revision);
            if !self.place.takes(revision) {
                continue;
            }
            let Some(key) = self.keys.name(&kv.key) else { continue };
            let value = (event.r#type() == EventType::Put).then(|| kv.value.clone());
            let change = Ok(Change { revision, key, value });
            if timeout(self.settings.watch_stall, self.sender.send(change)).await.is_err() {
                let stall = self.settings.watch_stall.as_millis();
                return Err(ended(format!("the reader took nothing for {stall} ms; read everything anew")));
            }
        }
        match newest {
            // Only the last piece of an answer ends with a whole revision.
            Some(revision) if !answer.fragment => self.place.complete(revision),
            // Without events an answer says how far etcd has looked; the first one has no such meaning.
            None if !answer.created && !answer.fragment => {
                self.place.complete(super::commit::revision(answer.header.as_ref()));
            }
            _ => {}
        }
        Ok(())
    }
}

fn ended(message: String) -> StoreError {
    StoreError::Unavailable { operation: WATCHING, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(revision: u64) -> Place {
        Place { revision, events: 0, met: 0 }
    }

    #[test]
    fn a_stream_opened_again_tells_the_rest_of_a_revision_and_nothing_twice() {
        let mut place = place(5);
        assert!(!place.takes(4), "before the beginning");
        assert!([5, 5, 7, 7].into_iter().all(|revision| place.takes(revision)));
        // Broken within revision 7: the new stream begins with it.
        place.met = 0;
        assert_eq!(place.revision, 7);
        assert_eq!([7, 7, 7, 8].map(|revision| place.takes(revision)), [false, false, true, true]);
        place.complete(8);
        place.met = 0;
        assert_eq!((place.revision, place.takes(8), place.takes(9)), (9, false, true));
        place.complete(7);
        assert_eq!(place.revision, 9, "an old word on progress changes nothing");
    }
}
