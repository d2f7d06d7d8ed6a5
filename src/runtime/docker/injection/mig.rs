//! The capability files of MIG slices: which `/dev/nvidia-caps/nvidia-capN` opens which slice.

use super::driver::{below, names, text};
use crate::domain::gpu::{Gpu, MigSlice};
use crate::runtime::docker::injection::HostDriver;
use std::collections::BTreeMap;
use std::path::Path;

/// Minor numbers by the driver's names, without `access` capabilities of no slice (`config`, `monitor`).
///
/// The driver lists all of them in `/proc/driver/nvidia-caps/mig-minors` as `gpu0/gi1/ci0/access 21`; older ones have
/// only a file for each slice, `/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access`, with `DeviceFileMinor: 21`.
pub(super) fn minors(root: &Path) -> BTreeMap<String, u32> {
    match text(&below(root, "/proc/driver/nvidia-caps/mig-minors")) {
        Some(text) => text.lines().filter_map(listed).collect(),
        None => files(&below(root, "/proc/driver/nvidia/capabilities")),
    }
}

fn listed(line: &str) -> Option<(String, u32)> {
    let (name, minor) = line.trim().rsplit_once(' ')?;
    Some((name.trim().to_owned(), minor.parse().ok()?))
}

fn files(capabilities: &Path) -> BTreeMap<String, u32> {
    let mut minors = BTreeMap::new();
    let mut add = |name: String, file: &Path| {
        let text = text(&file.join("access")).unwrap_or_default();
        let minor = text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:")?.trim().parse().ok());
        minors.extend(minor.map(|minor| (format!("{name}/access"), minor)));
    };
    for gpu in names(capabilities).into_iter().filter(|name| name.starts_with("gpu")) {
        let mig = capabilities.join(&gpu).join("mig");
        for gi in names(&mig).into_iter().filter(|name| name.starts_with("gi")) {
            add(format!("{gpu}/{gi}"), &mig.join(&gi));
            for ci in names(&mig.join(&gi)).into_iter().filter(|name| name.starts_with("ci")) {
                add(format!("{gpu}/{gi}/{ci}"), &mig.join(&gi).join(&ci));
            }
        }
    }
    minors
}

/// The nodes that open a slice: its GPU instance's and its compute instance's. Their numbers are NVML's word, where it
/// gave it, else the driver's files'.
pub(super) fn nodes(driver: &HostDriver, gpu: &Gpu) -> Option<[String; 2]> {
    let node = |minor: u32| format!("/dev/nvidia-caps/nvidia-cap{minor}");
    let told = driver.mig_slices.get(&gpu.uuid);
    if let Some(MigSlice { gpu_instance_minor: Some(gi), compute_instance_minor: Some(ci), .. }) = told {
        return Some([node(*gi), node(*ci)]);
    }
    let (gi, ci) = told.map(|slice| (slice.gpu_instance, slice.compute_instance)).or_else(|| in_uuid(gpu))?;
    let gi = format!("gpu{}/gi{gi}", gpu.minor);
    let listed = |name: String| driver.mig_minors.get(&name).copied().map(node);
    Some([listed(format!("{gi}/access"))?, listed(format!("{gi}/ci{ci}/access"))?])
}

/// GPU instance and compute instance as drivers before 470 wrote them into the UUID: `MIG-GPU-.../1/0`.
fn in_uuid(gpu: &Gpu) -> Option<(u32, u32)> {
    let mut parts = gpu.uuid.0.strip_prefix("MIG-GPU-")?.split('/').skip(1);
    let (gi, ci) = (parts.next()?, parts.next()?);
    Some((gi.parse().ok()?, ci.parse().ok()?))
}
