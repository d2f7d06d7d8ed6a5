//! `nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)`

use super::events::{Event, Sxid, SxidSeverity};
use super::words::{cut, number, small_after};

pub(super) fn parse(text: &str) -> Option<Event> {
    let (switch, rest) = text.strip_prefix("nvidia-").and_then(|_| text.split_once(": SXid ("))?;
    if switch.contains(char::is_whitespace) {
        return None;
    }
    let (place, rest) = rest.split_once(')')?;
    let (code, rest) = number(rest.trim_start().strip_prefix(':')?)?;
    let message = rest.trim_start_matches([',', ' ']);
    let severity = severity(message);
    Some(Event::Sxid(Sxid {
        switch: cut(switch, 64).to_owned(),
        pci: place.strip_prefix("PCI:").unwrap_or(place).parse().ok(),
        code: u32::try_from(code).ok()?,
        link: if severity == SxidSeverity::FollowUp { None } else { small_after(message, "Link ") },
        severity,
    }))
}

fn severity(message: &str) -> SxidSeverity {
    let says = |word: &str| message.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    match () {
        () if says("Fatal") => SxidSeverity::Fatal,
        () if says("Non-fatal") || says("Nonfatal") => SxidSeverity::NonFatal,
        () if says("Severity ") || says("Data {") => SxidSeverity::FollowUp,
        () => SxidSeverity::Unsaid,
    }
}
