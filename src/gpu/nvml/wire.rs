//! What is said between the supervisor and the worker: one question, one answer, in turn. On a second socket the worker
//! tells of events, unasked.
//!
//! A frame is its length (4 bytes, little endian) and that many bytes of JSON. Both sides are of one version.

use crate::domain::gpu::occupancy::GpuProcess;
use crate::domain::gpu::{DriverState, Gpu, GpuDriver, GpuSample, LinkKind};
use crate::domain::ids::GpuUuid;
use crate::gpu::snapshot::HealthSnapshot;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// A device with 7 slices and thousands of processes stays far below.
const MAX_FRAME: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    /// The first one.
    Open {
        library: Option<PathBuf>,
        root: PathBuf,
        /// Standard output is a socket for events.
        listens: bool,
    },
    Device {
        index: u32,
    },
    /// How the device reaches those of `others`.
    Links {
        index: u32,
        others: Vec<u32>,
    },
    Sample {
        index: u32,
    },
    Processes {
        index: u32,
    },
    Health {
        index: u32,
    },
    /// Its health, and whether its device node opens.
    Check {
        index: u32,
    },
}

impl Question {
    /// The device that it is about.
    pub(super) const fn index(&self) -> Option<u32> {
        match self {
            Self::Open { .. } => None,
            Self::Device { index }
            | Self::Links { index, .. }
            | Self::Sample { index }
            | Self::Processes { index }
            | Self::Health { index }
            | Self::Check { index } => Some(*index),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Answer {
    Opened(Opened),
    Device(Device),
    Links(Links),
    Sample(Vec<(GpuUuid, GpuSample)>),
    Processes(Processes),
    Health(Box<HealthSnapshot>),
    Checked { health: Box<HealthSnapshot>, node: Option<Result<(), String>> },
    Failed(Failure),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Opened {
    pub driver: GpuDriver,
    pub devices: u32,
}

/// A device, then its slices.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Device {
    pub gpu: Gpu,
    pub slices: Vec<Gpu>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Links {
    /// The far ends of the active NVLinks.
    pub nvlinks: Vec<FarEnd>,
    /// Over PCIe, by index of the other device.
    pub pcie: Vec<(u32, LinkKind)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FarEnd {
    /// By its PCI address.
    Gpu(String),
    Switch,
    Other,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Processes {
    /// Which device answered: indices move.
    pub device: GpuUuid,
    pub processes: Vec<GpuProcess>,
    /// The device cannot say who uses it.
    pub unsupported: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub kind: FailureKind,
    /// One sentence.
    pub sentence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FailureKind {
    /// Nothing can be asked.
    Driver(DriverState),
    /// The device is not there any more.
    Lost,
    /// Workers missed their deadline over this device.
    Hung,
    /// This device cannot be asked.
    Device,
}

pub(super) fn write<T: Serialize>(stream: &mut impl Write, value: &T) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::other(format!("a frame of {length} bytes, at most {MAX_FRAME} are allowed")));
    }
    frame[..4].copy_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_le_bytes());
    stream.write_all(&frame)
}

/// `None` at the end of the stream.
pub(super) fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::other(format!("a frame of {length} bytes, at most {MAX_FRAME} are allowed")));
    }
    let mut json = vec![0; length];
    stream.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_and_oversized_ones_are_refused() {
        let mut stream = Vec::new();
        write(&mut stream, &Question::Sample { index: 3 }).unwrap();
        let mut read_from = stream.as_slice();
        assert!(matches!(read(&mut read_from).unwrap(), Some(Question::Sample { index: 3 })));
        assert!(read::<Question>(&mut read_from).unwrap().is_none());
        assert!(read::<Question>(&mut [255u8; 8].as_slice()).unwrap_err().to_string().contains("at most"));
        assert!(read::<Question>(&mut &stream[..stream.len() - 1]).is_err(), "cut off");
        assert!(write(&mut Vec::new(), &"x".repeat(MAX_FRAME)).is_err());
    }
}
