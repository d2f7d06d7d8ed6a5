//! What the driver says about GPUs without an Xid.

use super::events::Event;
use super::words::{after, cut, first};
use crate::domain::pci::PciAddress;

/// `text` begins behind `NVRM: `.
pub(super) fn parse(text: &str) -> Option<Event> {
    gpu_at(text)
        .or_else(|| fallen_off(text))
        .or_else(|| rate_limited(text))
        .or_else(|| driver_mismatch(text))
        .or_else(|| text.contains("[NV_ERR_RESET_REQUIRED]").then_some(Event::ResetRequired))
}

/// `GPU at PCI:0000:9b:00: GPU-509665ad-...`, without `PCI:` from older drivers; `GPU at 0000:01:00.0 has fallen off ...`.
fn gpu_at(text: &str) -> Option<Event> {
    let rest = text.strip_prefix("GPU at ")?;
    let (place, rest) = rest.split_once(' ')?;
    let pci = address(place)?;
    if rest.starts_with("has fallen off the bus") {
        return Some(Event::FallenOff { pci });
    }
    let uuid = first(rest);
    let known = uuid.starts_with("GPU-") && uuid.len() <= 80 && uuid.is_ascii();
    known.then(|| Event::Identity { pci, uuid: uuid.into() })
}

/// `GPU 0000:91:00.0: GPU has fallen off the bus.`
fn fallen_off(text: &str) -> Option<Event> {
    let (place, rest) = text.strip_prefix("GPU ")?.split_once(' ')?;
    let pci = address(place)?;
    rest.contains("has fallen off the bus").then_some(Event::FallenOff { pci })
}

/// `Rate limiting GSP RPC error prints for GPU at PCI:0000:9b:00 (printing 1 of every 30).`
fn rate_limited(text: &str) -> Option<Event> {
    let rest = text.strip_prefix("Rate limiting ")?;
    Some(Event::RateLimited { pci: after(rest, "GPU at ").map(first).and_then(address) })
}

/// `API mismatch: the client has the version 535.171.04, but`
fn driver_mismatch(text: &str) -> Option<Event> {
    let client = after(text.strip_prefix("API mismatch: ")?, "version ").map(first).unwrap_or_default();
    Some(Event::DriverMismatch { client: cut(client, 32).to_owned() })
}

fn address(place: &str) -> Option<PciAddress> {
    place
        .trim_end_matches([':', ',', '.'])
        .strip_prefix("PCI:")
        .unwrap_or(place.trim_end_matches([':', ',']))
        .parse()
        .ok()
}
