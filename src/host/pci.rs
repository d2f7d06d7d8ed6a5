//! NVIDIA's functions on the PCI bus, as the kernel has them: also those that NVML does not show.

use super::{line, names, thousandths};
use std::io;
use std::path::Path;

/// The PCI SIG's number for NVIDIA.
const NVIDIA: u16 = 0x10de;

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

/// All of NVIDIA's functions, by their address. A machine without PCI has none. `root`: `/`. Blocks as long as a device
/// does not answer.
pub fn nvidia_functions(root: &Path) -> io::Result<Vec<PciFunction>> {
    let folder = root.join("sys/bus/pci/devices");
    let found = names(&folder)?.into_iter();
    Ok(found.filter_map(|address| function(&folder.join(&address), address)).collect())
}

/// None: it is not NVIDIA's, or went while it was looked at.
fn function(of: &Path, address: String) -> Option<PciFunction> {
    let vendor = u16::try_from(hexadecimal(&of.join("vendor"))?).ok().filter(|vendor| *vendor == NVIDIA)?;
    let driver = std::fs::read_link(of.join("driver")).ok();
    Some(PciFunction {
        address,
        vendor,
        device: u16::try_from(hexadecimal(&of.join("device"))?).ok()?,
        class: hexadecimal(&of.join("class"))?,
        driver: driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())),
        link: link(of, "current"),
        max_link: link(of, "max"),
    })
}

fn hexadecimal(path: &Path) -> Option<u32> {
    u32::from_str_radix(line(path)?.strip_prefix("0x")?, 16).ok()
}

/// `16.0 GT/s PCIe`, `8 GT/s`, `Unknown`; the width is 0 or 255 (63 before Linux 5.14) where there is none.
fn link(of: &Path, which: &str) -> Option<PciLink> {
    let speed = line(&of.join(format!("{which}_link_speed")))?;
    let (number, unit) = speed.split_once(' ')?;
    let speed = thousandths(number).filter(|_| unit.starts_with("GT/s"))?;
    let width = line(&of.join(format!("{which}_link_width")))?.parse().ok()?;
    Some(PciLink { speed_mts: u32::try_from(speed).ok()?, width }).filter(|link| (1..=32).contains(&link.width))
}
