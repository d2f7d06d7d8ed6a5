//! Settings that are a word: which GPUs, which runtime, which ports. The same texts in files and on the command line.

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Most GPUs that are simulated on one node.
const MAX_SIMULATED: u32 = 1024;

/// A text that is none of the allowed ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found '{found}'; allowed: {allowed}")]
pub struct InvalidChoice {
    pub found: String,
    pub allowed: String,
}

impl InvalidChoice {
    fn new(found: &str, allowed: impl Into<String>) -> Self {
        Self { found: found.chars().take(120).collect(), allowed: allowed.into() }
    }
}

/// Where a node's GPUs come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GpuChoice {
    /// NVML if the driver is there, else none.
    #[default]
    Auto,
    Nvml,
    Sim {
        count: u32,
        model: String,
    },
    None,
}

impl fmt::Display for GpuChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Nvml => f.write_str("nvml"),
            Self::Sim { count, model } => write!(f, "sim:{count}x{model}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for GpuChoice {
    type Err = InvalidChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            let sim = format!("sim:COUNTxMODEL with COUNT from 1 to {MAX_SIMULATED}, e.g. sim:8xA100");
            InvalidChoice::new(text, format!("auto, nvml, none, {sim}"))
        };
        match text {
            "auto" => return Ok(Self::Auto),
            "nvml" => return Ok(Self::Nvml),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let (count, model) = text.strip_prefix("sim:").and_then(|sim| sim.split_once('x')).ok_or_else(invalid)?;
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count| digits && (1..=MAX_SIMULATED).contains(count));
        let printable = !model.is_empty() && model.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        match count {
            Some(count) if printable => Ok(Self::Sim { count, model: model.to_owned() }),
            _ => Err(invalid()),
        }
    }
}

/// What runs tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// Docker if it answers or is installed, else processes.
    #[default]
    Auto,
    Docker,
    Process,
}

impl fmt::Display for RuntimeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Docker => "docker",
            Self::Process => "process",
        })
    }
}

impl FromStr for RuntimeChoice {
    type Err = InvalidChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "docker" => Ok(Self::Docker),
            "process" => Ok(Self::Process),
            _ => Err(InvalidChoice::new(text, "auto, docker, process")),
        }
    }
}

/// Ports that tasks are given, `FIRST-LAST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl FromStr for PortRange {
    type Err = InvalidChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| -> Option<u16> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse().ok() } else { None }
        };
        match text.split_once('-').map(|(first, last)| (number(first), number(last))) {
            // Ports below 1024 are the system's services.
            Some((Some(first), Some(last))) if first >= 1024 && first <= last => Ok(Self(first..=last)),
            _ => Err(InvalidChoice::new(text, "FIRST-LAST with 1024 <= FIRST <= LAST <= 65535, e.g. 15000-29999")),
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
as_text!(GpuChoice, RuntimeChoice, PortRange);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_text() {
        for text in ["auto", "nvml", "none", "sim:8xA100", "sim:1xNVIDIA H100 80GB HBM3", "sim:2xjd_a100x"] {
            assert_eq!(text.parse::<GpuChoice>().unwrap().to_string(), text);
        }
        for text in ["auto", "docker", "process"] {
            assert_eq!(text.parse::<RuntimeChoice>().unwrap().to_string(), text);
        }
        assert_eq!("15000-29999".parse(), Ok(PortRange(15_000..=29_999)));
        assert_eq!("2000-2000".parse(), Ok(PortRange(2000..=2000)));
    }

    #[test]
    fn other_words_are_refused_with_what_is_allowed() {
        for text in ["", "AUTO", "sim", "sim:", "sim:8", "sim:0xA100", "sim:8x", "sim:+8xA100", "sim:9999xA100"] {
            let error = text.parse::<GpuChoice>().unwrap_err().to_string();
            assert!(error.contains("sim:8xA100"), "{error}");
        }
        for text in ["", "5-", "1-2000", "3000-2000", "2000-70000", "2000", "+2000-3000", "2000-3000-4000"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
        let error = "podman".parse::<RuntimeChoice>().unwrap_err().to_string();
        assert_eq!(error, "found 'podman'; allowed: auto, docker, process");
    }
}
