//! Network adapters: `mlx5_core` and the network stack's own watchdog.

use super::events::{Event, NicTrouble};
use super::words::{cut, first};
use crate::domain::pci::PciAddress;

/// What lines hold, the more particular ones first.
const TROUBLES: [(&str, NicTrouble); 14] = [
    ("ACCESS_REG", NicTrouble::RegisterAccess),
    ("insufficient power", NicTrouble::Power),
    ("Cable unplugged", NicTrouble::Unplugged),
    ("Module unplugged", NicTrouble::Unplugged),
    ("High Temperature", NicTrouble::Cable),
    ("High temperature", NicTrouble::Cable),
    ("Cable error", NicTrouble::Cable),
    ("Port module event[error]", NicTrouble::Cable),
    ("health compromised", NicTrouble::Unhealthy),
    ("Fatal error detected", NicTrouble::Unhealthy),
    ("Will cause a leak of a command resource", NicTrouble::CommandTimeout),
    ("TX timeout", NicTrouble::QueueTimeout),
    ("RX timeout", NicTrouble::QueueTimeout),
    ("NETDEV WATCHDOG", NicTrouble::QueueTimeout),
];

pub(super) fn parse(text: &str) -> Option<Event> {
    let (device, port, rest) = adapter(text)?;
    let (_, trouble) = TROUBLES.iter().find(|(words, _)| rest.contains(words))?;
    Some(Event::Nic { device, port, trouble: *trouble })
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
