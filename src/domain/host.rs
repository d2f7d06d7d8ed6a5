//! What a machine has beside GPUs, as its kernel shows it: functions on the PCI bus, InfiniBand devices and their ports,
//! and what tasks see of their device nodes.

use super::ids::TaskId;
use std::collections::BTreeMap;

/// One function of a PCI device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciFunction {
    /// `0000:1b:00.0`.
    pub address: String,
    pub vendor: u16,
    pub device: u16,
    /// Base class, sub-class and interface, e.g. 0x030200.
    pub class: u32,
    /// The kernel's driver that has it, e.g. `nvidia`.
    pub driver: Option<String>,
    /// None where the kernel does not know it, as of a device that does not answer.
    pub link: Option<PciLink>,
    /// The most that the device can do.
    pub max_link: Option<PciLink>,
}

impl PciFunction {
    /// What it is, by its class.
    pub const fn kind(&self) -> PciKind {
        match self.class >> 8 {
            // VGA, XGA and 3D controllers, and other display controllers.
            0x0300..=0x03ff => PciKind::Gpu,
            0x0680 => PciKind::NvSwitch,
            _ => PciKind::Other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PciKind {
    Gpu,
    /// A bridge of another type, which is what NVIDIA's switches say they are.
    NvSwitch,
    /// E.g. the sound of a display connector.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciLink {
    /// Megatransfers a second of each lane: 2500 is the first generation.
    pub speed_mts: u32,
    /// Lanes.
    pub width: u32,
}

impl PciLink {
    /// 1 to 6 by the speed; none for one of no generation.
    pub const fn generation(&self) -> Option<u32> {
        match self.speed_mts {
            2_500 => Some(1),
            5_000 => Some(2),
            8_000 => Some(3),
            16_000 => Some(4),
            32_000 => Some(5),
            64_000 => Some(6),
            _ => None,
        }
    }
}

/// An InfiniBand device; cards for RoCE too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfinibandDevice {
    /// `mlx5_0`.
    pub name: String,
    /// The address of its PCI function, `0000:18:00.0`.
    pub pci: Option<String>,
    pub firmware: Option<String>,
    /// `MT4129`.
    pub hca_type: Option<String>,
    pub ports: Vec<InfinibandPort>,
}

/// None where the kernel does not say it, or says nothing that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfinibandPort {
    /// From 1.
    pub number: u32,
    pub state: Option<PortState>,
    pub phys_state: Option<PhysState>,
    /// Megabits a second over all lanes.
    pub rate_mbps: Option<u64>,
    pub link_layer: Option<LinkLayer>,
    /// Everything countable of `counters` and `hw_counters`, by the kernel's names. They may be set back by anybody,
    /// and those of the standard stop at their highest value.
    pub counters: BTreeMap<String, u64>,
}

impl InfinibandPort {
    /// How often its link went down.
    pub fn link_downed(&self) -> Option<u64> {
        self.counters.get("link_downed").copied()
    }
}

/// The logical state, as the InfiniBand standard numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    Down,
    /// The subnet manager has not made it ready.
    Init,
    Armed,
    Active,
    ActiveDefer,
    Other(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhysState {
    Sleep,
    /// It looks for another end.
    Polling,
    Disabled,
    Training,
    LinkUp,
    ErrorRecovery,
    PhyTest,
    Other(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    Infiniband,
    Ethernet,
}

/// A task that was promised device nodes, by a process of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceUser {
    pub task: TaskId,
    pub pid: i32,
    /// Names below `/dev`, such as `nvidia0`.
    pub nodes: Vec<String>,
}

/// How its device nodes look right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicesSeen {
    pub task: TaskId,
    pub nodes: Vec<DeviceNode>,
}

/// Major and minor number of a device.
pub type DeviceNumber = (u64, u64);

/// One device node; no number: there is no such device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    pub name: String,
    pub on_host: Option<DeviceNumber>,
    pub inside: Option<DeviceNumber>,
    /// Whether the task's control group lets it be read and written; none where the kernel does not say.
    pub is_allowed: Option<bool>,
}
