//! Where a device is on the PCI bus.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// `domain:bus:device.function`, hexadecimal. Sources write it in several ways: sysfs `0000:1b:00.0`, NVML
/// `00000000:1B:00.0`, the driver's log `0000:1b:00`; all of them are one address. Shown as sysfs does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u8,
    pub device: u8,
    /// 0 where it is not written: a GPU's is always 0.
    pub function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is not a PCI address: DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal is expected, as 0000:1b:00.0")]
pub struct InvalidPciAddress {
    pub found: String,
}

impl FromStr for PciAddress {
    type Err = InvalidPciAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidPciAddress { found: text.chars().take(40).collect() })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (place, function) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = place.split(':');
    let mut next = |digits: usize| parts.next().and_then(|part| hexadecimal(part, digits));
    let (domain, bus, device) = (next(8)?, next(2)?, next(2)?);
    let function = hexadecimal(function, 1)?;
    parts.next().is_none().then_some(())?;
    Some(PciAddress { domain, bus: byte(bus)?, device: byte(device)?, function: byte(function)? })
}

fn hexadecimal(text: &str, digits: usize) -> Option<u32> {
    let fits = (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn byte(number: u32) -> Option<u8> {
    u8::try_from(number).ok()
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_is_one_address() {
        for text in ["0000:1b:00.0", "00000000:1B:00.0", "0000:1b:00", "0:1b:0"] {
            assert_eq!(
                text.parse::<PciAddress>().map(|address| address.to_string()),
                Ok("0000:1b:00.0".into()),
                "{text}"
            );
        }
        assert_eq!("0000:41:00.1".parse::<PciAddress>().unwrap().function, 1);
        assert_eq!("00010000:C4:00.0".parse::<PciAddress>().unwrap().to_string(), "10000:c4:00.0");
        assert_eq!("000f:01:00".parse::<PciAddress>().unwrap().to_string(), "000f:01:00.0");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "...",
            "1b:00.0",
            "0000:1b",
            "0000:1b:00.0.0",
            "0000:1b:00:0",
            "0000:xx:00",
            "000000000:1b:00",
            "0000:+b:00",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }
}
