//! `NVRM: Xid (PCI:0000:9b:00 GPU-I:01 GPU-CI:02): 119, pid=5220, name=python, Timeout after 45s ...`
//!
//! The driver leaves out process and slice where it knows none; older ones write no `PCI:`; whoever copies lines cuts
//! them. Only the head and a code are asked for.

use super::events::{Event, Xid, XidDetail};
use super::words::{after, between, cut, first, hexadecimal, number, small, small_after};
use crate::domain::pci::PciAddress;

/// A process name: the kernel's have 15 bytes, the driver's up to 100.
const MAX_NAME_BYTES: usize = 100;
/// Longest text between the parentheses.
const MAX_PLACE_BYTES: usize = 64;
/// Of 74 there are seven, of 144 to 150 four to six.
const MAX_REGISTERS: usize = 8;

/// Whether a whole head begins here, amid a line; `text` begins with `NVRM: `. One without an address may be the name of
/// a process.
pub(super) fn is_header(text: &str) -> bool {
    let place = text.strip_prefix("NVRM: ").and_then(head).map(|(place, ..)| place);
    let mut words = place.into_iter().flat_map(str::split_whitespace);
    words.any(|word| word.strip_prefix("PCI:").unwrap_or(word).parse::<PciAddress>().is_ok())
}

/// The place in the parentheses, the code, and what follows.
fn head(text: &str) -> Option<(&str, u32, &str)> {
    let (place, rest) = text.strip_prefix("Xid (")?.split_once(')')?;
    let rest = rest.trim_start().strip_prefix(':')?;
    let (code, rest) = number(rest)?;
    (!place.is_empty() && place.len() <= MAX_PLACE_BYTES).then_some((place, u32::try_from(code).ok()?, rest))
}

/// `text` begins behind `NVRM: `.
pub(super) fn parse(text: &str) -> Option<Event> {
    let (place, code, rest) = head(text)?;
    let mut xid = Xid { code, ..Xid::default() };
    for word in place.split_whitespace() {
        if let Some(instance) = word.strip_prefix("GPU-I:") {
            xid.gpu_instance = small(instance);
        } else if let Some(instance) = word.strip_prefix("GPU-CI:") {
            xid.compute_instance = small(instance);
        } else {
            xid.pci = xid.pci.or_else(|| word.strip_prefix("PCI:").unwrap_or(word).parse().ok());
        }
    }
    let message = process(rest, &mut xid);
    xid.detail = detail(code, message);
    // At the end of the line: what comes before may be a name that somebody chose.
    xid.caused_by = message.rfind("caused by previous Xid ").and_then(|at| small_after(&message[at..], "Xid "));
    Some(Event::Xid(xid))
}

/// Takes `pid=` and `name=` off and returns the message.
fn process<'a>(rest: &'a str, xid: &mut Xid) -> &'a str {
    let mut rest = separated(rest);
    if let Some(value) = rest.strip_prefix("pid=") {
        let end = value.find([',', ' ']).unwrap_or(value.len());
        xid.pid = value[..end].trim_matches('\'').parse().ok();
        rest = separated(&value[end..]);
    }
    if let Some(value) = rest.strip_prefix("name=") {
        // Names have blanks; only where a comma is missing do they end at the first one.
        let end = value.find(", ").or_else(|| value.find(' ')).unwrap_or(value.len());
        let name = cut(value[..end].trim_end_matches(','), MAX_NAME_BYTES);
        let known = !name.is_empty() && name.trim_matches('\'') != "<unknown>";
        xid.process = known.then(|| name.to_owned());
        rest = separated(&value[end..]);
    }
    rest
}

fn separated(text: &str) -> &str {
    text.trim_start_matches([',', ' ', '.'])
}

fn detail(code: u32, message: &str) -> XidDetail {
    match code {
        13 | 31 => engine(message),
        48 | 63 | 64 => address(message),
        94 | 95 => containment(message),
        74 | 137 => nvlink(message),
        144..=150 => Some(nvlink5(message)),
        154 => recovery(message),
        _ => None,
    }
    .unwrap_or_default()
}

/// `(GPC 8, TPC 5, SM 1)`; `GPC3 GPCCLIENT_T1_3`.
fn engine(message: &str) -> Option<XidDetail> {
    let spelled = || Some((small_after(message, "(GPC ")?, small_after(message, "TPC ")?));
    let client = || {
        let at = message.find("GPCCLIENT_T")?;
        let gpc = message[..at].rfind("GPC").and_then(|start| small(&message[start + "GPC".len()..]))?;
        Some((gpc, small_after(&message[at..], "GPCCLIENT_T")?))
    };
    let (gpc, tpc) = spelled().or_else(client)?;
    Some(XidDetail::Engine { gpc, tpc })
}

/// `physAddr 0x18f31d80`; `New row (0x0000000018f31d80)`; `(0x00000000000a8af9)`.
fn address(message: &str) -> Option<XidDetail> {
    let text = after(message, "physAddr ").or_else(|| after(message, "(0x"))?;
    Some(XidDetail::Memory { address: hexadecimal(text)? })
}

/// `RST: Yes, D-RST: No`.
fn containment(message: &str) -> Option<XidDetail> {
    let at = message.rfind("RST: ").map(|at| message[..at].rfind("RST: ").unwrap_or(at))?;
    let flags = &message[at..];
    let reset = first(after(flags, "RST: ")?) == "Yes";
    let drain_and_reset = after(flags, "D-RST: ").is_some_and(|text| first(text) == "Yes");
    Some(XidDetail::Containment { reset, drain_and_reset })
}

/// `on link 14(0x0, 0x0, 0x10000, ...)`; `on link 11 on GPU0`.
fn nvlink(message: &str) -> Option<XidDetail> {
    let link = small_after(message, "link ")?;
    Some(XidDetail::NvLink { link, registers: between(message, "(", ")").map(registers).unwrap_or_default() })
}

/// `NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x025525c6 0x00000000 ...)`.
fn nvlink5(message: &str) -> XidDetail {
    let said = |wanted: &str| message.split_whitespace().take(4).any(|word| word.eq_ignore_ascii_case(wanted));
    let nonfatal = said("Nonfatal") || said("Non-fatal");
    let fatal = (nonfatal || said("Fatal")).then_some(!nonfatal);
    let link = small_after(message, "Link ");
    let status = between(message, "(", ")").map(registers).unwrap_or_default();
    XidDetail::Nvlink5 { unit: cut(first(message), MAX_NAME_BYTES).to_owned(), fatal, link, status }
}

fn registers(text: &str) -> Vec<u32> {
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    words.take(MAX_REGISTERS).filter_map(|word| hexadecimal(word).and_then(|word| u32::try_from(word).ok())).collect()
}

/// `from 0x0 (None) to 0x1 (GPU Reset Required)`: drivers have several texts for one number, so only numbers count.
fn recovery(message: &str) -> Option<XidDetail> {
    let value = |text: &str| hexadecimal(text).and_then(|value| u32::try_from(value).ok());
    let to = value(after(message, " to 0x").or_else(|| after(message, "to 0x"))?)?;
    Some(XidDetail::Recovery { from: after(message, "from 0x").and_then(value), to })
}
