//! NVIDIA's functions on the PCI bus, as the kernel has them: also those that NVML does not show.

use super::{line, names, thousandths};
pub use crate::domain::host::{PciFunction, PciKind, PciLink};
use std::io;
use std::path::Path;

/// The PCI SIG's number for NVIDIA.
const NVIDIA: u16 = 0x10de;

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
