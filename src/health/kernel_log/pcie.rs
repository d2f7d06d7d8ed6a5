//! PCI Express advanced error reporting, in the words of kernels before and since 6.x.
//!
//! ```text
//! pcieport 0000:00:01.0: AER: Multiple Uncorrected (Fatal) error received: 0000:01:00.0      (or id=0100)
//! pcieport 0000:00:01.0: AER: Uncorrectable (Fatal) error message received from 0000:01:00.0
//! nvidia 0000:01:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)
//! nvidia 0000:01:00.0: AER: can't recover (no error_detected callback)
//! ```

use super::events::{AerSeverity, Event};
use super::words::{after, cut, first};
use crate::domain::pci::PciAddress;

pub(super) fn parse(text: &str) -> Option<Event> {
    let (driver, device, rest) = reporter(text)?;
    let aer = rest.strip_prefix("AER: ").unwrap_or(rest);
    if let Some(severity) = aer.strip_prefix("PCIe Bus Error: severity=").and_then(severity) {
        return Some(Event::Aer { severity, device, driver, announcement: false });
    }
    if rest.len() == aer.len() {
        return None;
    }
    if aer.starts_with("can't recover") || aer.starts_with("device recovery failed") {
        return Some(Event::AerUnrecovered { device: device?, driver: driver? });
    }
    let aer = aer.strip_prefix("Multiple ").unwrap_or(aer);
    let source = after(aer, "error received: ").or_else(|| after(aer, "error message received from "))?;
    // An old `id=0010` is a number on the reporter's own bus: bus, device and function in 16 bits.
    let place = first(source);
    let told = place.parse().ok().or_else(|| of_id(place.strip_prefix("id=")?, device?));
    Some(Event::Aer { severity: severity(aer)?, device: told, driver: None, announcement: true })
}

/// `DRIVER ADDRESS: `, or `AER: ` alone from some kernels.
fn reporter(text: &str) -> Option<(Option<String>, Option<PciAddress>, &str)> {
    if text.starts_with("AER: ") {
        return Some((None, None, text));
    }
    let (driver, rest) = text.split_once(' ')?;
    let (place, rest) = rest.split_once(": ")?;
    let known = driver.len() <= 32 && !driver.ends_with(':');
    known.then_some((Some(cut(driver, 32).to_owned()), Some(place.parse().ok()?), rest))
}

fn severity(text: &str) -> Option<AerSeverity> {
    if text.starts_with("Correct") {
        return Some(AerSeverity::Corrected);
    }
    let rest = text.strip_prefix("Uncorrected").or_else(|| text.strip_prefix("Uncorrectable"))?;
    Some(if rest.trim_start().starts_with("(Fatal)") { AerSeverity::Fatal } else { AerSeverity::NonFatal })
}

fn of_id(id: &str, reporter: PciAddress) -> Option<PciAddress> {
    let [bus, rest] = u16::from_str_radix(id, 16).ok()?.to_be_bytes();
    Some(PciAddress { domain: reporter.domain, bus, device: rest >> 3, function: rest & 7 })
}
