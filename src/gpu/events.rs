//! What the driver says by itself: events, as it has them, without a verdict.
//!
//! NVML loses some: where several of a kind come before it is listened to again, it tells of the last. So they are the
//! fast word about a device and never the only one.

use crate::domain::ids::GpuUuid;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Receiver;

/// The stream of events of all devices, in the order in which they were told. It has an end only when its source has.
#[derive(Debug)]
pub struct GpuEvents {
    told: Receiver<GpuEvent>,
}

impl GpuEvents {
    pub(super) const fn new(told: Receiver<GpuEvent>) -> Self {
        Self { told }
    }

    /// The next one; waits for it. Nothing is lost when the wait is given up. `None`: the source has ended.
    pub async fn next(&mut self) -> Option<GpuEvent> {
        self.told.recv().await
    }

    /// One that is there already; never waits.
    pub fn ready(&mut self) -> Option<GpuEvent> {
        self.told.try_recv().ok()
    }
}

/// One thing that was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuEvent {
    /// From now on events of this device are seen; again after each [`GpuEvent::Interrupted`].
    Watching {
        index: u32,
        gpu: GpuUuid,
        /// Bits of `nvmlEventType...`: what the device can tell of, of those that concern faults.
        types: u64,
    },
    /// The device tells of something.
    Happened {
        index: u32,
        gpu: GpuUuid,
        kind: EventKind,
        /// The code of an Xid; for the others what the driver gives, mostly 0.
        data: u64,
        /// The MIG GPU instance that it happened in, where the driver says one.
        gpu_instance: Option<u32>,
        /// The compute instance of that GPU instance, where the driver says one.
        compute_instance: Option<u32>,
    },
    /// Events of this device are not seen, the others' are. What is not for ever is tried again; said when it changes.
    Unwatched {
        index: u32,
        /// None where not even its name could be asked for.
        gpu: Option<GpuUuid>,
        why: Unwatched,
        /// One sentence.
        sentence: String,
    },
    /// A process that asked the devices did not answer in time (`is_late`) or fell, and was given up. One that answers
    /// for another may be asked at once; that a device is to blame is known when it happens again.
    WorkerGivenUp {
        /// Of the device that was asked; none where the driver was.
        index: Option<u32>,
        is_late: bool,
        /// One sentence.
        sentence: String,
    },
    /// The process that listened has ended: nothing is seen of any device until it is watched again.
    Interrupted,
}

/// Why events of a device are not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unwatched {
    /// The device tells of nothing.
    NotSupported,
    /// It is not on the bus any more.
    Lost,
    /// Anything else; the sentence says it.
    Failed,
}

/// What kind of event, after `nvmlEventType...` of NVML 13.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// One that was corrected.
    SingleBitEcc,
    DoubleBitEcc,
    Xid,
    SingleBitEccStorm,
    DramRetirement,
    DramRetirementFailure,
    NonFatalPoison,
    FatalPoison,
    GpuUnavailable,
    /// What the driver recommends has changed.
    RecoveryAction,
    /// A kind that is not known here: its bit.
    Other(u64),
}

impl EventKind {
    /// All kinds that concern faults, with their bit. Not listened to are performance states, clocks, the power source
    /// and the MIG mode, which change on healthy devices.
    pub const ALL: [(Self, u64); 10] = [
        (Self::SingleBitEcc, 1),
        (Self::DoubleBitEcc, 2),
        (Self::Xid, 8),
        (Self::SingleBitEccStorm, 512),
        (Self::DramRetirement, 1024),
        (Self::DramRetirementFailure, 2048),
        (Self::NonFatalPoison, 4096),
        (Self::FatalPoison, 8192),
        (Self::GpuUnavailable, 16384),
        (Self::RecoveryAction, 32768),
    ];

    /// The bits of all kinds.
    pub fn mask() -> u64 {
        Self::ALL.iter().fold(0, |mask, (_, bit)| mask | bit)
    }

    pub fn of_bit(bit: u64) -> Self {
        Self::ALL.iter().find(|(_, known)| *known == bit).map_or(Self::Other(bit), |(kind, _)| *kind)
    }
}
