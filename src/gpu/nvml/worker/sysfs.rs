//! What the kernel says that NVML does not. Files that are missing or strange say nothing.

use std::path::Path;

/// The NUMA node of the CPUs that a device is near. NVML's own question for a node is about the device's memory,
/// and on most machines not supported. `pci`: as NVML writes it, `00000000:1B:00.0`.
pub(super) fn numa_node(root: &Path, pci: &str) -> Option<u32> {
    // The kernel writes the domain with four digits.
    let address = pci.get(pci.len().checked_sub(12)?..)?.to_lowercase();
    let text = std::fs::read_to_string(root.join("sys/bus/pci/devices").join(address).join("numa_node")).ok()?;
    // -1 where there is only one.
    text.trim().parse().ok()
}

/// The minor of `/dev/nvidia-caps/nvidia-capN` that opens a GPU instance, or a compute instance of it.
pub(super) fn cap_minor(root: &Path, gpu_minor: u32, instance: u32, compute: Option<u32>) -> Option<u32> {
    let compute = compute.map(|compute| format!("ci{compute}/")).unwrap_or_default();
    let path = format!("proc/driver/nvidia/capabilities/gpu{gpu_minor}/mig/gi{instance}/{compute}access");
    let text = std::fs::read_to_string(root.join(path)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:")?.trim().parse().ok())
}

/// The version of the kernel module that is loaded.
pub(super) fn module_version(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("sys/module/nvidia/version")).ok()?;
    Some(text.trim().to_owned()).filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_kernel_s_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "sys/bus/pci/devices/0000:1b:00.0/numa_node", "1\n");
        put(root, "sys/bus/pci/devices/0000:1c:00.0/numa_node", "-1\n");
        let caps = "proc/driver/nvidia/capabilities/gpu0/mig/gi7";
        put(root, &format!("{caps}/access"), "DeviceFileMinor: 66\nDeviceFileMode: 292\nDeviceFileModify: 1\n");
        put(root, &format!("{caps}/ci0/access"), "DeviceFileMinor: 67\nDeviceFileMode: 292\n");
        put(root, "sys/module/nvidia/version", "580.95.05\n");
        let nodes =
            ["00000000:1B:00.0", "00000000:1C:00.0", "00000000:1D:00.0", "x", ""].map(|pci| numa_node(root, pci));
        assert_eq!(nodes, [Some(1), None, None, None, None]);
        assert_eq!(cap_minor(root, 0, 7, None), Some(66));
        assert_eq!(cap_minor(root, 0, 7, Some(0)), Some(67));
        assert_eq!(cap_minor(root, 1, 7, None), None);
        assert_eq!(module_version(root).as_deref(), Some("580.95.05"));
    }
}
