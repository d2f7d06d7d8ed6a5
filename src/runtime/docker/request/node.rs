//! What of the machine a request needs to know, read from the kernel's files. Blocking; decides nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// CPUs of each NUMA node below `root`, which is `/` but for tests. Source: `/sys/devices/system/node/nodeN/cpulist`.
pub fn numa_cpus(root: &Path) -> BTreeMap<u32, String> {
    let entries = fs::read_dir(root.join("sys/devices/system/node")).into_iter().flatten().flatten();
    let node = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let cpus = fs::read_to_string(entry.path().join("cpulist")).ok()?.trim().to_owned();
        // Memory without CPUs.
        (!cpus.is_empty()).then_some((number, cpus))
    };
    entries.filter_map(node).collect()
}

/// Whether there are InfiniBand devices for user programs.
pub fn has_infiniband(root: &Path) -> bool {
    fs::read_dir(root.join("dev/infiniband")).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (node, cpus) in [("node0", "0-15\n"), ("node1", "16-31,48\n"), ("node2", "\n"), ("power", "")] {
            let node = root.join("sys/devices/system/node").join(node);
            fs::create_dir_all(&node).unwrap();
            fs::write(node.join("cpulist"), cpus).unwrap();
        }
        assert_eq!(numa_cpus(root), BTreeMap::from([(0, "0-15".to_owned()), (1, "16-31,48".to_owned())]));
        fs::create_dir_all(root.join("dev/infiniband")).unwrap();
        assert!(!has_infiniband(root));
        fs::write(root.join("dev/infiniband/uverbs0"), "").unwrap();
        assert!(has_infiniband(root));
        assert!(numa_cpus(Path::new("/no/such/root")).is_empty());
    }
}
