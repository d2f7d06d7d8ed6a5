//! Ports that agents found in use by somebody who is none of ours, so that the next placement takes others.
//!
//! 1. At Prepare an agent binds every promised port. Those that it cannot, and what else is taken nearby, are in its veto
//!    as numbers, beside the sentence for people.
//! 2. The run gives its gang back (`domain::run`, `Setback::Ports`): durable like every roll-back, but nothing waits, no
//!    node is left out, and it is no attempt. A port that the job asks for by number is the node's lack instead.
//! 3. The numbers come here, by host: nodes of one host share their ports. The scheduler does not give them out freely.
//! 4. From "go" on the ports are the task's own to bind. If it fails soon after and somebody else has one, its agent says
//!    so in the exit: the run is the platform's failure, run again at once, and the numbers come here as well.
//! 5. A restart of the agent before "go" binds again; what it cannot ends the task with the numbers, as in 2.
//!
//! Of the moment and not stored: after a restart they are found again. A port is left alone for 5 s, twice as long
//! each time it is found in use again, up to 10 minutes, and forgotten once it has not been for as long again. When
//! nothing else is left, jobs wait, with `ports` as their reason, and the ports of the shortest rest come back first.

use crate::domain::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const FIRST_REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(600);
/// Of one host. All ports of all of its agents would be more than any gang meets in ten minutes.
const MAX_PORTS: usize = 4096;
const MAX_HOSTS: usize = 20_000;

#[derive(Debug, Clone, Copy)]
struct Rest {
    since: Timestamp,
    length: Duration,
}

impl Rest {
    /// A clock that was set back lets nothing rest longer.
    fn rests(self, now: Timestamp) -> bool {
        now >= self.since && now.since(self.since) < self.length
    }

    fn counts(self, now: Timestamp) -> bool {
        now >= self.since && now.since(self.since) < self.length * 2
    }
}

/// By host.
#[derive(Debug, Default, Clone)]
pub(super) struct BusyPorts {
    hosts: BTreeMap<String, BTreeMap<u16, Rest>>,
    /// Hosts whose resting ports are others than when [`BusyPorts::changes`] was last asked.
    changed: BTreeSet<String>,
}

impl BusyPorts {
    /// An agent of this host could not have these ports.
    pub(super) fn found(&mut self, host: &str, ports: &[u16], now: Timestamp) {
        if ports.is_empty() || (!self.hosts.contains_key(host) && self.hosts.len() >= MAX_HOSTS) {
            return;
        }
        let known = self.hosts.entry(host.to_owned()).or_default();
        for port in ports {
            if known.len() >= MAX_PORTS && !known.contains_key(port) {
                break;
            }
            let before = known.get(port).filter(|rest| rest.counts(now));
            let length = before.map_or(FIRST_REST, |rest| (rest.length * 2).min(LONGEST_REST));
            known.insert(*port, Rest { since: now, length });
        }
        self.changed.insert(host.to_owned());
    }

    /// The clock was set: nothing has rested longer, or shorter, for that.
    pub(super) fn clock_stepped(&mut self, nanos: i64) {
        for rest in self.hosts.values_mut().flat_map(BTreeMap::values_mut) {
            rest.since = rest.since.moved(nanos);
        }
    }

    /// Time passes. True: a port has rested enough.
    pub(super) fn tick(&mut self, before: Timestamp, now: Timestamp) -> bool {
        let mut rested = false;
        for (host, ports) in &mut self.hosts {
            if ports.values().any(|rest| rest.rests(before) && !rest.rests(now)) {
                rested = true;
                self.changed.insert(host.clone());
            }
            ports.retain(|_, rest| rest.counts(now));
        }
        self.hosts.retain(|_, ports| !ports.is_empty());
        rested
    }

    /// Hosts for which the scheduler has to be told anew, each with all of its resting ports.
    pub(super) fn changes(&mut self, now: Timestamp) -> Vec<(String, BTreeSet<u16>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|host| (self.resting(&host, now), host)).map(|(ports, host)| (host, ports)).collect()
    }

    /// Every host with resting ports: for a picture that is made anew.
    pub(super) fn all(&self, now: Timestamp) -> impl Iterator<Item = (&str, BTreeSet<u16>)> {
        self.hosts.keys().map(move |host| (host.as_str(), self.resting(host, now)))
    }

    fn resting(&self, host: &str, now: Timestamp) -> BTreeSet<u16> {
        let ports = self.hosts.get(host).into_iter().flatten();
        ports.filter(|(_, rest)| rest.rests(now)).map(|(port, _)| *port).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    fn at(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn resting(busy: &BusyPorts, seconds: u64) -> Vec<u16> {
        busy.resting("h", at(seconds)).into_iter().collect()
    }

    #[test]
    fn a_clock_that_is_set_makes_no_port_rest_longer_or_shorter() {
        for seconds in [-3600, 3600] {
            let mut busy = BusyPorts::default();
            busy.found("h", &[7], at(3600));
            let (nanos, found) = (seconds * 1_000_000_000, at(3600));
            busy.clock_stepped(nanos);
            let (soon, later) = (found.moved(nanos).plus(FIRST_REST / 2), found.moved(nanos).plus(FIRST_REST));
            assert!(!busy.tick(found.moved(nanos), soon), "{seconds}");
            assert!(busy.tick(soon, later), "{seconds}: whoever waits for it is woken");
        }
    }

    #[test]
    fn a_port_rests_longer_each_time_it_is_found_in_use() {
        let mut busy = BusyPorts::default();
        busy.found("h", &[7, 8], at(0));
        assert_eq!((resting(&busy, 4), resting(&busy, 5)), (vec![7, 8], vec![]));
        busy.found("h", &[8], at(6));
        assert_eq!((resting(&busy, 15), resting(&busy, 16)), (vec![8], vec![]));
        let mut since = 6;
        for _ in 0..20 {
            since += 600;
            busy.found("h", &[9], at(since));
        }
        assert_eq!(resting(&busy, since + 4), [9], "found again long after, it begins anew");
        for found in 0..12 {
            busy.found("h", &[10], at(since + found));
        }
        assert_eq!(resting(&busy, since + 11 + 599), [10]);
        assert_eq!(resting(&busy, since + 11 + 600), [0; 0], "and never for longer than this");
    }

    #[test]
    fn what_has_rested_is_told_once_and_then_forgotten() {
        let mut busy = BusyPorts::default();
        busy.found("h", &[7], at(0));
        busy.found("other", &[7], at(3));
        assert_eq!(busy.changes(at(3)).len(), 2);
        assert!(busy.changes(at(3)).is_empty());
        assert!(!busy.tick(at(3), at(4)) && busy.changes(at(4)).is_empty());
        assert!(busy.tick(at(4), at(5)));
        assert_eq!(busy.changes(at(5)), [("h".to_owned(), BTreeSet::new())]);
        busy.tick(at(5), at(60));
        assert!(busy.hosts.is_empty(), "{busy:?}");
    }

    #[test]
    fn nothing_grows_without_end_or_rests_for_ever() {
        let mut busy = BusyPorts::default();
        let all: Vec<u16> = (1..=u16::MAX).collect();
        busy.found("h", &all, at(100));
        assert_eq!(busy.hosts["h"].len(), MAX_PORTS);
        // The clock was set back.
        assert_eq!(resting(&busy, 0), [0; 0]);
        busy.tick(at(100), at(0));
        assert!(busy.hosts.is_empty());
    }
}
