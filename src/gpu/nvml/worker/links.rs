//! How a device reaches the others.

use super::super::wire::{Failure, FarEnd, Links};
use super::Worker;
use super::errors::optional;
use crate::domain::gpu::LinkKind;
use crate::domain::gpu::health::LinkEnd;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::TopologyLevel;
use nvml_wrapper::error::nvml_try;
use nvml_wrapper_sys::bindings::{
    NVML_NVLINK_MAX_LINKS, nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU as TO_GPU,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH as TO_SWITCH,
};

impl Worker {
    /// What cannot be found out is the slowest way: that costs speed, and keeps no GPU from its job.
    pub(super) fn links(&self, index: u32, others: &[u32]) -> Result<Links, Failure> {
        let device = self.handle(index)?;
        let mut links = Links { nvlinks: far_ends(&device), pcie: Vec::new() };
        for other in others {
            let level = self.nvml.device_by_index(*other).and_then(|other| device.topology_common_ancestor(other));
            links.pcie.push((*other, level.map_or(LinkKind::System, |level| kind(&level))));
        }
        Ok(links)
    }
}

fn kind(level: &TopologyLevel) -> LinkKind {
    match level {
        TopologyLevel::Internal | TopologyLevel::Single | TopologyLevel::Multiple => LinkKind::PcieSwitch,
        TopologyLevel::HostBridge | TopologyLevel::Node => LinkKind::NumaNode,
        TopologyLevel::System => LinkKind::System,
    }
}

fn far_ends(device: &Device<'_>) -> Vec<FarEnd> {
    let active = |link: &u32| matches!(device.link_wrapper_for(*link).is_active(), Ok(true));
    (0..NVML_NVLINK_MAX_LINKS).filter(active).map(|link| far_end(device, link)).collect()
}

fn far_end(device: &Device<'_>, link: u32) -> FarEnd {
    let (kind, pci) = (far_kind(device, link), far_address(device, link));
    match (kind, pci) {
        (Some(TO_SWITCH), _) => FarEnd::Switch,
        // Older drivers do not tell the kind.
        (Some(TO_GPU) | None, Some(pci)) => FarEnd::Gpu(pci),
        _ => FarEnd::Other,
    }
}

/// Where a link leads that is up.
pub(super) fn link_end(device: &Device<'_>, link: u32) -> Option<LinkEnd> {
    let pci = far_address(device, link)?.parse().ok()?;
    Some(match far_kind(device, link) {
        Some(TO_SWITCH) => LinkEnd::Switch(pci),
        Some(TO_GPU) | None => LinkEnd::Gpu(pci),
        Some(_) => LinkEnd::Other(pci),
    })
}

fn far_address(device: &Device<'_>, link: u32) -> Option<String> {
    optional(device.link_wrapper_for(link).remote_pci_info()).ok().flatten().map(|pci| pci.bus_id)
}

/// `Device::remote_device_type` of the wrapper always answers Unknown: the library writes to a copy there.
fn far_kind(device: &Device<'_>, link: u32) -> Option<u32> {
    let get = device.nvml().lib().nvmlDeviceGetNvLinkRemoteDeviceType.as_ref().ok()?;
    let mut kind = 0;
    // SAFETY: the function and the handle are of one library, and `kind` lives through the call.
    let code = unsafe { get(device.handle(), link, &raw mut kind) };
    nvml_try(code).ok().map(|()| kind)
}
