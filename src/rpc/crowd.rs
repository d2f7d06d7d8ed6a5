//! Connections that speak gRPC: so many of one address, and so many in all.
//!
//! Who comes is always let in. One that has said nothing for longest has to go instead, of the same address if that has its
//! share, else of the address with the most: an idle connection is made anew when it is needed, and what goes on over it
//! can be resumed. So a flood of connections costs its own, and the descriptors of the process are never used up.

use super::peer::Peer;
use super::undecided::Origin;
use nix::sys::resource::{Resource, getrlimit};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Of all listeners of a server, where the process may open enough files.
const MAX_ALL: usize = 16_384;
/// Fewer serve no cluster.
const MIN_ALL: usize = 128;
/// The log says so often that connections had to go.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// All of a server; copies are the same.
#[derive(Debug, Clone)]
pub(super) struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    began: Instant,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    next: u64,
    all: BTreeMap<u64, Member>,
    each: HashMap<Origin, usize>,
    /// Since it was said last.
    ended: u64,
    said: Option<Instant>,
}

#[derive(Debug)]
struct Member {
    origin: Origin,
    heard_ms: Arc<AtomicU64>,
    end: CancellationToken,
}

/// A connection's place, left when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    of: Crowd,
    number: u64,
    heard_ms: Arc<AtomicU64>,
}

impl Crowd {
    /// Half of the files that this process may open: the rest is for tasks, stores and everything else.
    pub(super) fn of_process() -> Self {
        let files =
            getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX));
        Self::of((files / 2).clamp(MIN_ALL, MAX_ALL))
    }

    fn of(most: usize) -> Self {
        Self(Arc::new(Shared { most, began: Instant::now(), members: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        // No code panics while it holds this.
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A place for one more; `end` is how it is told to go.
    pub(super) fn enter(&self, peer: &Peer, end: CancellationToken) -> Seat {
        let (origin, heard_ms) = (Origin::from(peer), Arc::new(AtomicU64::new(self.now_ms())));
        let mut members = self.lock();
        if let Some(quietest) = members.who_goes(origin, self.0.most) {
            members.leave(quietest).inspect(|member| member.end.cancel());
            members.say(origin);
        }
        let number = members.next;
        members.next += 1;
        members.all.insert(number, Member { origin, heard_ms: heard_ms.clone(), end });
        *members.each.entry(origin).or_default() += 1;
        drop(members);
        Seat { of: self.clone(), number, heard_ms }
    }
}

impl Members {
    fn leave(&mut self, number: u64) -> Option<Member> {
        let member = self.all.remove(&number)?;
        if let Some(count) = self.each.get_mut(&member.origin) {
            *count -= 1;
            if *count == 0 {
                self.each.remove(&member.origin);
            }
        }
        Some(member)
    }

    /// An address has half of all at most.
    fn who_goes(&self, origin: Origin, most: usize) -> Option<u64> {
        let own = self.each.get(&origin).copied().unwrap_or_default();
        let of = if own >= most / 2 {
            origin
        } else if self.all.len() >= most {
            self.each.iter().max_by_key(|(_, count)| **count).map(|(origin, _)| *origin)?
        } else {
            return None;
        };
        let members = self.all.iter().filter(|(_, member)| member.origin == of);
        members.min_by_key(|(_, member)| member.heard_ms.load(Ordering::Relaxed)).map(|(number, _)| *number)
    }

    fn say(&mut self, origin: Origin) {
        self.ended += 1;
        if self.said.is_some_and(|said| said.elapsed() < NOTICE_INTERVAL) {
            return;
        }
        tracing::warn!(
            ?origin,
            ended = self.ended,
            connections = self.all.len(),
            "too many connections: the quietest end"
        );
        (self.ended, self.said) = (0, Some(Instant::now()));
    }
}

impl Seat {
    /// The other end has said something.
    pub(super) fn heard(&self) {
        self.heard_ms.store(self.of.now_ms(), Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.of.lock().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(crowd: &Crowd, ip: u32) -> (Seat, CancellationToken) {
        let end = CancellationToken::new();
        (crowd.enter(&Peer::Tcp((std::net::Ipv4Addr::from_bits(ip), 1).into()), end.clone()), end)
    }

    fn told(seats: &[(Seat, CancellationToken)]) -> Vec<usize> {
        seats.iter().enumerate().filter(|(_, (_, end))| end.is_cancelled()).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_flood_costs_its_own_and_the_quietest_first() {
        let crowd = Crowd::of(8);
        let other = enter(&crowd, 9);
        let mut flood: Vec<_> = (0..4).map(|_| enter(&crowd, 1)).collect();
        // Whoever speaks is not the quietest.
        let later = crowd.now_ms() + 1000;
        for (at, (seat, _)) in flood.iter().enumerate() {
            seat.heard_ms.store(later - at as u64, Ordering::Relaxed);
        }
        flood.push(enter(&crowd, 1));
        assert_eq!((told(&flood), other.1.is_cancelled()), (vec![3], false));
        drop(flood.remove(0));
        flood.push(enter(&crowd, 1));
        assert_eq!(told(&flood), [2], "a place that was left is free");
        drop((flood, other));
        assert!(crowd.lock().all.is_empty() && crowd.lock().each.is_empty());
    }

    #[test]
    fn many_addresses_have_no_more_than_all_and_the_biggest_gives_way() {
        let crowd = Crowd::of(8);
        let few: Vec<_> = (10..14).map(|ip| enter(&crowd, ip)).collect();
        let big: Vec<_> = (0..4).map(|_| enter(&crowd, 1)).collect();
        let new = enter(&crowd, 20);
        assert_eq!((told(&few), told(&big).len(), new.1.is_cancelled()), (vec![], 1, false));
        assert_eq!(crowd.lock().all.len(), 8);
    }
}
