//! How devices reach each other.

use crate::answer::{Code, on, put, supported};
use crate::device::pci_info;
use crate::state::{Device, NvLink};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEnableState_t, nvmlGpuTopologyLevel_t, nvmlIntNvLinkDeviceType_t, nvmlPciInfo_t, nvmlReturn_t,
};
use std::ffi::{c_uint, c_ulonglong};

/// Boards without NVLink do not know the question.
fn link(device: &Device, link: c_uint) -> Result<Option<&NvLink>, Code> {
    if device.nvlinks.is_empty() {
        return Err(Code::named("NOT_SUPPORTED"));
    }
    Ok(device.nvlinks.get(link as usize))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    number: c_uint,
    active: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetNvLinkState", device, |of| {
        put(active, nvmlEnableState_t::from(link(of.whole()?, number)?.is_some_and(|link| !link.down)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetNvLinkErrorCounter(
    device: nvmlDevice_t,
    number: c_uint,
    counter: c_uint,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    on("nvmlDeviceGetNvLinkErrorCounter", device, |of| {
        let wrong = || Code::named("INVALID_ARGUMENT");
        let link = link(of.whole()?, number)?.ok_or_else(wrong)?;
        let names = ["replay", "recovery", "crc_flit", "crc_data", "ecc_data"];
        let name = names.get(counter as usize).ok_or_else(wrong)?;
        put(count, link.errors.get(*name).copied().unwrap_or(0))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: nvmlDevice_t,
    number: c_uint,
    pci: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetNvLinkRemotePciInfo_v2", device, |of| {
        let link = link(of.whole()?, number)?.ok_or_else(|| Code::named("INVALID_ARGUMENT"))?;
        put(pci, pci_info(&link.pci)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetNvLinkRemoteDeviceType(
    device: nvmlDevice_t,
    number: c_uint,
    kind: *mut nvmlIntNvLinkDeviceType_t,
) -> nvmlReturn_t {
    on("nvmlDeviceGetNvLinkRemoteDeviceType", device, |of| {
        let link = link(of.whole()?, number)?.ok_or_else(|| Code::named("INVALID_ARGUMENT"))?;
        put(
            kind,
            match link.to.as_str() {
                "gpu" => 0,
                "cpu" => 1,
                "switch" => 2,
                other => {
                    eprintln!("mock-nvml: an NVLink leads to 'gpu', 'switch' or 'cpu', not to '{other}'");
                    255
                }
            },
        )
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTopologyCommonAncestor(
    device: nvmlDevice_t,
    other: nvmlDevice_t,
    level: *mut nvmlGpuTopologyLevel_t,
) -> nvmlReturn_t {
    let mut other_index = 0;
    let code = on("nvmlDeviceGetTopologyCommonAncestor", other, |of| {
        other_index = of.index;
        Ok(())
    });
    if code != 0 {
        return code;
    }
    on("nvmlDeviceGetTopologyCommonAncestor", device, |of| {
        let levels =
            [("INTERNAL", 0), ("SINGLE", 10), ("MULTIPLE", 20), ("HOSTBRIDGE", 30), ("NODE", 40), ("SYSTEM", 50)];
        let name = supported(of.whole()?.ancestors.get(other_index).and_then(Option::as_deref))?;
        let found = levels.iter().find(|(known, _)| *known == name).map(|(_, level)| *level);
        put(level, found.ok_or_else(|| Code::named("UNKNOWN"))?)
    })
}
