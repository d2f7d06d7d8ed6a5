//! Network adapters: `mlx5_core` and the network stack's own watchdog.

use super::events::{Event, NicTrouble};
use super::words::{after, cut, first, number};
use crate::domain::pci::PciAddress;

/// What lines hold, the more particular ones first.
const TROUBLES: [(&str, NicTrouble); 14] = [
    ("timeout. Will cause a leak of a command resource", NicTrouble::CommandTimeout),
    ("canceled on out of queue timeout", NicTrouble::CommandTimeout),
    ("ACCESS_REG", NicTrouble::RegisterAccess),
    ("insufficient power", NicTrouble::Power),
    ("Cable unplugged", NicTrouble::Unplugged),
    ("Module unplugged", NicTrouble::Unplugged),
    ("High Temperature", NicTrouble::Temperature),
    ("High temperature", NicTrouble::Temperature),
    ("Cable error", NicTrouble::Cable),
    ("Port module event[error]", NicTrouble::Cable),
    ("health compromised", NicTrouble::Unhealthy),
    ("TX timeout", NicTrouble::QueueTimeout),
    ("RX timeout", NicTrouble::QueueTimeout),
    ("NETDEV WATCHDOG", NicTrouble::QueueTimeout),
];

pub(super) fn parse(text: &str) -> Option<Event> {
    let (device, port, rest) = adapter(text)?;
    let told = TROUBLES.iter().find(|(words, _)| rest.contains(words)).map(|(_, trouble)| *trouble);
    let trouble = told.or_else(|| is_fatal(rest).then_some(NicTrouble::Unhealthy))?;
    Some(Event::Nic { device, port, trouble })
}

/// `poll_health:745:(pid 0): Fatal error 1 detected`, without the number from older drivers.
fn is_fatal(rest: &str) -> bool {
    let Some(after) = after(rest, "Fatal error ") else { return false };
    number(after).map_or(after, |(_, after)| after.trim_start()).starts_with("detected")
}

/// `mlx5_core 0000:65:00.0 ens15np0: `, `mlx5_port_module_event:1131:(pid 0): `, `NETDEV WATCHDOG: eth0 (ixgbe): `.
fn adapter(text: &str) -> Option<(Option<PciAddress>, Option<String>, &str)> {
    let name = |word: &str| Some(cut(word, 32).to_owned()).filter(|name| !name.is_empty());
    if let Some(rest) = text.strip_prefix("NETDEV WATCHDOG: ") {
        return Some((None, name(first(rest)), text));
    }
    if text.starts_with("mlx5_port_module_event:") {
        return Some((None, None, text));
    }
    let (place, rest) = text.strip_prefix("mlx5_core ")?.split_once(' ')?;
    let device: PciAddress = place.trim_end_matches(':').parse().ok()?;
    let port = if place.ends_with(':') { None } else { name(first(rest)) };
    Some((Some(device), port, rest))
}
