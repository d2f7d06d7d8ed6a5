//! Ports of InfiniBand devices, RoCE cards too: those that were active once are to be active, to stay so, and to be as
//! fast as they were. Ports that nothing is plugged into have never been active, and are nothing; what somebody switched
//! off is not missed until it is switched on again.

use super::Look;
use super::growth::{Counter, Rate, elapsed};
use super::modes::Check;
use super::round::{Finding, Round};
use crate::domain::fault::{Action, Part, Subject, Verdict};
use crate::domain::host::{InfinibandDevice, InfinibandPort, LinkLayer, PhysState, PortState};
use crate::domain::pci::PciAddress;
use crate::health::SeenAt;
use crate::health::verdict::Judgement;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Ports that are remembered.
const MOST_PORTS: usize = 128;
/// Rounds in a row: a port is configured anew when the subnet manager has changed.
const ROUNDS: u8 = 2;
const FLAP_WINDOW: Duration = Duration::from_secs(3600);
/// So many times down within the window: a cable or module that does not hold.
const MOST_FLAPS: usize = 3;
const ERROR_WINDOW: Duration = Duration::from_secs(300);
/// Counters of the kernel's, and how much within the window is too much. 10 symbol errors are 120 an hour, which is
/// where NVSentinel warns; the others are ours.
const LIMITS: [(&str, f64); 5] = [
    ("symbol_error", 10.0),
    ("link_error_recovery", 2.0),
    ("port_rcv_errors", 50.0),
    ("local_link_integrity_errors", 0.0),
    ("excessive_buffer_overrun_errors", 0.0),
];

/// What is remembered of all ports, by their names.
#[derive(Debug, Default)]
pub(super) struct Infiniband {
    ports: BTreeMap<String, Port>,
}

/// What is remembered of one port.
#[derive(Debug, Default)]
struct Port {
    pci: Option<PciAddress>,
    was_active: bool,
    /// In the round before.
    was_off: bool,
    down_rounds: u8,
    /// The highest rate while it was active.
    best_mbps: Option<u64>,
    slow_rounds: u8,
    link_downed: Counter,
    flaps: VecDeque<SeenAt>,
    errors: [Rate; LIMITS.len()],
}

impl Infiniband {
    /// Ports that were active, and how fast.
    pub fn worked(&self) -> BTreeMap<String, Option<u64>> {
        let active = self.ports.iter().filter(|(_, port)| port.was_active);
        active.map(|(name, port)| (name.clone(), port.best_mbps)).collect()
    }

    pub fn take_up(&mut self, ports: &BTreeMap<String, Option<u64>>) {
        let known = |(name, best): (&String, &Option<u64>)| {
            (name.clone(), Port { was_active: true, best_mbps: *best, ..Port::default() })
        };
        self.ports.extend(ports.iter().take(MOST_PORTS).map(known));
    }

    /// All that was seen of a port.
    pub fn forget(&mut self, name: &str) {
        self.ports.remove(name);
    }

    pub fn look(&mut self, look: &Look<'_>, round: &mut Round<'_>) {
        let Some(devices) = look.infiniband else { return };
        let mut unseen: Vec<String> = self.ports.keys().cloned().collect();
        for (name, device, port) in ports(devices) {
            unseen.retain(|other| *other != name);
            if self.ports.len() >= MOST_PORTS && !self.ports.contains_key(&name) {
                continue;
            }
            let memory = self.ports.entry(name.clone()).or_default();
            memory.pci = device.pci.as_deref().and_then(|pci| pci.parse().ok());
            let subject = Subject { pci: memory.pci, ..Subject::device(name) };
            let (is_off, was_off) = (is_switched_off(port), memory.was_off);
            memory.was_off = is_off;
            round.file(Check::InfinibandState, &subject, memory.state(port));
            // Where somebody did it the kernel counts it as well.
            round.file(Check::InfinibandFlaps, &subject, memory.flaps(port, look.seen, is_off || was_off));
            round.file(Check::InfinibandRate, &subject, memory.rate(port));
            round.file(Check::InfinibandErrors, &subject, memory.errors(port, look.seen));
        }
        // What is gone and was never used is not missed.
        self.ports.retain(|name, port| port.was_active || !unseen.contains(name));
        for name in unseen {
            let Some(memory) = self.ports.get_mut(&name) else { continue };
            let subject = Subject { part: Part::Device, pci: memory.pci, device: Some(name), ..Subject::default() };
            round.file(Check::InfinibandState, &subject, memory.gone());
        }
    }
}

/// By its administrator. The kernel says the same of every Ethernet port without a link, whatever the reason.
fn is_switched_off(port: &InfinibandPort) -> bool {
    port.phys_state == Some(PhysState::Disabled) && port.link_layer != Some(LinkLayer::Ethernet)
}

/// Every port with its name, as `mlx5_0:1`.
fn ports(devices: &[InfinibandDevice]) -> impl Iterator<Item = (String, &InfinibandDevice, &InfinibandPort)> {
    devices.iter().flat_map(|device| {
        let named = move |port| -> (String, &InfinibandDevice, &InfinibandPort) {
            let port: &InfinibandPort = port;
            (format!("{}:{}", device.name, port.number), device, port)
        };
        device.ports.iter().map(named)
    })
}

impl Port {
    fn state(&mut self, port: &InfinibandPort) -> Finding {
        let Some(state) = port.state else { return Finding::Unseen };
        if matches!(state, PortState::Active | PortState::ActiveDefer) {
            (self.was_active, self.down_rounds) = (true, 0);
            return Finding::InOrder;
        }
        if is_switched_off(port) {
            self.down_rounds = 0;
            return if self.was_active { Finding::InOrder } else { Finding::NotThere };
        }
        let (verdict, action, reason) = match (state, port.phys_state) {
            (PortState::Init | PortState::Armed, Some(PhysState::LinkUp)) => (
                Verdict::Fabric,
                Action::Inspect,
                "A port that was active is connected and not made ready: the network's subnet manager is missing.",
            ),
            _ => (
                Verdict::Link,
                Action::Inspect,
                "A port that was active is down: its cable, its module, the switch at the other end, or itself.",
            ),
        };
        let physical = port.phys_state.map_or_else(String::new, |state| format!(", physical state {state:?}"));
        self.down(Judgement::new(verdict, action, reason), format!("state {state:?}{physical}; it was active"))
    }

    /// Its device is not there.
    fn gone(&mut self) -> Finding {
        let reason = "A network adapter whose port was active is gone.";
        let judgement = Judgement::new(Verdict::Node, Action::Reboot, reason);
        self.down(judgement, "the kernel does not show the port any more; it was active".to_owned())
    }

    fn down(&mut self, judgement: Judgement, evidence: String) -> Finding {
        if !self.was_active {
            return Finding::NotThere;
        }
        self.down_rounds = self.down_rounds.saturating_add(1);
        if self.down_rounds < ROUNDS { Finding::Unseen } else { Finding::fault(judgement, evidence) }
    }

    fn flaps(&mut self, port: &InfinibandPort, seen: SeenAt, by_somebody: bool) -> Finding {
        let Some(value) = port.link_downed() else { return Finding::NotThere };
        let grown = self.link_downed.step(value, seen).filter(|_| self.was_active && !by_somebody);
        if let Some(growth) = grown {
            let times = usize::try_from(growth.by()).unwrap_or(MOST_FLAPS).min(MOST_FLAPS);
            self.flaps.extend(std::iter::repeat_n(seen, times));
            let surplus = self.flaps.len().saturating_sub(MOST_FLAPS);
            self.flaps.drain(..surplus);
        }
        self.flaps.retain(|flap| elapsed(flap, &seen).is_some_and(|past| past <= FLAP_WINDOW));
        let (action, reason) = match self.flaps.len() {
            0 => return if self.was_active { Finding::InOrder } else { Finding::NotThere },
            MOST_FLAPS.. => (Action::Inspect, "A port goes down again and again: its cable or module does not hold."),
            _ => (Action::None, "A port went down and came back."),
        };
        let evidence = format!("link_downed: {value} now, {} times or more in the last hour", self.flaps.len());
        let judgement = Judgement::new(Verdict::Link, action, reason);
        // Not news in every round, but there is no other way to say that it is not clean.
        Finding::Fault { judgement, evidence, count: 1 }
    }

    fn rate(&mut self, port: &InfinibandPort) -> Finding {
        let (Some(rate), Some(PortState::Active)) = (port.rate_mbps, port.state) else { return Finding::NotThere };
        let best = self.best_mbps.map_or(rate, |best| best.max(rate));
        self.best_mbps = Some(best);
        if rate == best {
            self.slow_rounds = 0;
            return Finding::InOrder;
        }
        self.slow_rounds = self.slow_rounds.saturating_add(1);
        if self.slow_rounds < ROUNDS {
            return Finding::Unseen;
        }
        let reason = "A port is slower than it was: its link has lost lanes or speed.";
        let evidence = format!("{} Gb/s, was {} Gb/s", rate / 1000, best / 1000);
        Finding::fault(Judgement::new(Verdict::Link, Action::Inspect, reason), evidence)
    }

    fn errors(&mut self, port: &InfinibandPort, seen: SeenAt) -> Finding {
        let mut finding = Finding::NotThere;
        if !self.was_active {
            return finding;
        }
        for ((name, most), rate) in LIMITS.iter().zip(&mut self.errors) {
            let Some(value) = port.counters.get(*name) else { continue };
            match rate.over(ERROR_WINDOW, *value, seen) {
                Some(growth) if growth.is_above(*most, ERROR_WINDOW) => {
                    let reason = "A port counts errors of its link: a cable or module goes bad.";
                    let evidence = format!("{name}: {growth}; allowed: {most} in {} s", ERROR_WINDOW.as_secs());
                    return Finding::fault(Judgement::new(Verdict::Link, Action::Inspect, reason), evidence);
                }
                Some(_) if finding == Finding::NotThere => finding = Finding::InOrder,
                Some(_) => {}
                None => finding = Finding::Unseen,
            }
        }
        finding
    }
}

#[cfg(test)]
#[path = "infiniband_tests.rs"]
mod tests;
