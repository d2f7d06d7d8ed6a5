//! Connections that have not said yet what they speak: so many of one address, and so many in all.
//!
//! Who comes is always let in. The oldest has to go instead, of the same address if that has its share, else of all:
//! it has had the most time. So those that say nothing cost each other their places, and nobody else waits.

use super::peer::Peer;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Connections of one address, of one `/64` in IPv6, of one user.
pub(super) const MAX_EACH: usize = 64;
const MAX_ALL: usize = 1024;

/// Who shares a number of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    Address(IpAddr),
    User(u32),
}

impl From<&Peer> for Origin {
    fn from(peer: &Peer) -> Self {
        let ip = match peer {
            Peer::Unix { uid } => return Self::User(*uid),
            Peer::Tcp(address) | Peer::Local { address, .. } | Peer::Tls { address, .. } => address.ip(),
        };
        Self::Address(match ip.to_canonical() {
            // What one network is given as a rule.
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
            v4 => v4,
        })
    }
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    all: BTreeMap<u64, (Origin, CancellationToken)>,
    each: HashMap<Origin, usize>,
}

impl Waiting {
    fn leave(&mut self, number: u64) -> Option<CancellationToken> {
        let (origin, gone) = self.all.remove(&number)?;
        if let Some(count) = self.each.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.each.remove(&origin);
            }
        }
        Some(gone)
    }

    /// Who has to go for one more of `origin`.
    fn oldest(&self, origin: Origin) -> Option<u64> {
        let own = self.each.get(&origin).is_some_and(|count| *count >= MAX_EACH);
        if !own && self.all.len() < MAX_ALL {
            return None;
        }
        self.all.iter().find(|(_, (of, _))| !own || *of == origin).map(|(number, _)| *number)
    }
}

/// All of a listener; copies are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Undecided(Arc<Mutex<Waiting>>);

/// A place, left when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Undecided,
    number: u64,
    gone: CancellationToken,
}

impl Undecided {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code panics while it holds this.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, peer: &Peer) -> Place {
        let (origin, gone) = (Origin::from(peer), CancellationToken::new());
        let mut waiting = self.lock();
        if let Some(oldest) = waiting.oldest(origin).and_then(|oldest| waiting.leave(oldest)) {
            oldest.cancel();
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, (origin, gone.clone()));
        *waiting.each.entry(origin).or_default() += 1;
        drop(waiting);
        Place { of: self.clone(), number, gone }
    }
}

impl Place {
    /// Returns once somebody else has the place.
    pub(super) async fn lost(&self) {
        self.gone.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: u32) -> Peer {
        Peer::Tcp((std::net::Ipv4Addr::from_bits(ip), 1).into())
    }

    fn lost(places: &[Place]) -> Vec<usize> {
        places.iter().enumerate().filter(|(_, place)| place.gone.is_cancelled()).map(|(at, _)| at).collect()
    }

    #[test]
    fn who_says_nothing_makes_room_for_its_own_first() {
        let undecided = Undecided::default();
        let other = undecided.enter(&of(9));
        let mut silent: Vec<Place> = (0..MAX_EACH + 2).map(|_| undecided.enter(&of(1))).collect();
        assert_eq!((lost(&silent), other.gone.is_cancelled()), (vec![0, 1], false));
        silent.truncate(10);
        silent.push(undecided.enter(&of(1)));
        assert_eq!(lost(&silent), [0, 1], "a place that was left is free");
        drop((silent, other));
        assert!(undecided.lock().all.is_empty() && undecided.lock().each.is_empty());
    }

    #[test]
    fn many_addresses_have_no_more_than_all_places() {
        let undecided = Undecided::default();
        let count = u32::try_from(MAX_ALL).unwrap() + 3;
        let silent: Vec<Place> = (0..count).map(|ip| undecided.enter(&of(ip))).collect();
        assert_eq!((lost(&silent), undecided.lock().all.len()), (vec![0, 1, 2], MAX_ALL));
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin() {
        let origin = |text: &str| Origin::from(&Peer::Tcp(text.parse().unwrap()));
        assert_eq!(origin("[2001:db8::1]:1"), origin("[2001:db8::ffff:0:1]:2"));
        assert_ne!(origin("[2001:db8::1]:1"), origin("[2001:db8:0:1::1]:1"));
        assert_eq!(origin("[::ffff:10.0.0.1]:1"), origin("10.0.0.1:2"));
        assert_ne!(Origin::from(&Peer::Unix { uid: 1 }), Origin::from(&Peer::Unix { uid: 2 }));
    }
}
