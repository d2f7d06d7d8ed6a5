//! InfiniBand devices and their ports, as the kernel has them; RoCE ports of Ethernet cards too.

use super::{line, names, thousandths};
pub use crate::domain::host::{InfinibandDevice, InfinibandPort, LinkLayer, PhysState, PortState};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Counters of one port that are kept; cards have some dozens.
const MOST_COUNTERS: usize = 256;

/// All of them, by name; a machine without has none. `root`: `/`. Blocks as long as a device does not answer.
pub fn devices(root: &Path) -> io::Result<Vec<InfinibandDevice>> {
    let folder = root.join("sys/class/infiniband");
    names(&folder)?.into_iter().map(|name| device(&folder.join(&name), name)).collect()
}

fn device(of: &Path, name: String) -> io::Result<InfinibandDevice> {
    let mut ports = Vec::new();
    for port in names(&of.join("ports"))? {
        if let Ok(number) = port.parse() {
            ports.push(read_port(&of.join("ports").join(port), number)?);
        }
    }
    ports.sort_by_key(|port| port.number);
    let pci = std::fs::canonicalize(of.join("device")).ok();
    Ok(InfinibandDevice {
        name,
        pci: pci.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())),
        firmware: line(&of.join("fw_ver")),
        hca_type: line(&of.join("hca_type")),
        ports,
    })
}

fn read_port(of: &Path, number: u32) -> io::Result<InfinibandPort> {
    let mut counters = BTreeMap::new();
    for folder in ["counters", "hw_counters"] {
        for name in names(&of.join(folder))? {
            let value = line(&of.join(folder).join(&name)).and_then(|text| text.parse().ok());
            if let Some(value) = value.filter(|_| counters.len() < MOST_COUNTERS) {
                counters.insert(name, value);
            }
        }
    }
    Ok(InfinibandPort {
        number,
        state: numbered(&of.join("state")).map(|state| match state {
            1 => PortState::Down,
            2 => PortState::Init,
            3 => PortState::Armed,
            4 => PortState::Active,
            5 => PortState::ActiveDefer,
            other => PortState::Other(other),
        }),
        phys_state: numbered(&of.join("phys_state")).map(|state| match state {
            1 => PhysState::Sleep,
            2 => PhysState::Polling,
            3 => PhysState::Disabled,
            4 => PhysState::Training,
            5 => PhysState::LinkUp,
            6 => PhysState::ErrorRecovery,
            7 => PhysState::PhyTest,
            other => PhysState::Other(other),
        }),
        // `400 Gb/sec (4X NDR)`.
        rate_mbps: line(&of.join("rate"))
            .and_then(|rate| thousandths(rate.strip_suffix(')')?.split(" Gb/sec").next()?)),
        link_layer: line(&of.join("link_layer")).and_then(|layer| match layer.as_str() {
            "InfiniBand" => Some(LinkLayer::Infiniband),
            "Ethernet" => Some(LinkLayer::Ethernet),
            _ => None,
        }),
        counters,
    })
}

/// `4: ACTIVE`.
fn numbered(path: &Path) -> Option<u32> {
    line(path)?.split(':').next()?.trim().parse().ok()
}
