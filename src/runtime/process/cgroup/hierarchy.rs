//! Which control group hierarchies this machine has: v2 alone, v1 controllers, or both side by side.
//! Reads the mount table and nothing else; creates no group.

use std::path::{Path, PathBuf};

/// Controllers that carry a limit of ours. Groups are made in their hierarchies only.
const LIMITING: [&str; 3] = ["memory", "cpu", "pids"];
/// systemd follows a unit's processes here (v1 and hybrid); a shim must leave the agent's unit.
const SYSTEMD: &str = "name=systemd";

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    pub unified: bool,
    /// Controllers of this hierarchy that carry a limit.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// The hierarchies worth a group per task, from the kernel's mount table.
pub fn detect() -> Vec<Hierarchy> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let read = |mount: &Path| std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    parse(&table, read)
}

/// `unified_controllers` tells the content of `cgroup.controllers` at a v2 mount.
fn parse(mountinfo: &str, unified_controllers: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some(hierarchy) = parse_line(line, &unified_controllers) else { continue };
        let known = found
            .iter()
            .any(|other| other.unified == hierarchy.unified && other.controllers == hierarchy.controllers);
        // A second mount of the same hierarchy shows the same groups.
        if !known {
            found.push(hierarchy);
        }
    }
    found
}

fn parse_line(line: &str, unified_controllers: &impl Fn(&Path) -> String) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mount = PathBuf::from(unescape(left.split(' ').nth(4)?));
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1).unwrap_or_default();
    match kind {
        "cgroup2" => {
            let text = unified_controllers(&mount);
            let controllers = select(text.split_whitespace());
            Some(Hierarchy { mount, unified: true, controllers })
        }
        "cgroup" => {
            let controllers = select(options.split(','));
            let useful = !controllers.is_empty() || options.split(',').any(|option| option == SYSTEMD);
            useful.then_some(Hierarchy { mount, unified: false, controllers })
        }
        _ => None,
    }
}

fn select<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.filter(|name| LIMITING.contains(name)).map(str::to_owned).collect()
}

/// The mount table writes blanks as octal escapes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
34 30 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
36 30 0:31 / /mnt/with\\040blank rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_machine_has_v1_controllers_and_a_bare_unified_hierarchy() {
        let found = parse(HYBRID, |_| String::new());
        let shown: Vec<_> =
            found.iter().map(|h| (h.mount.to_str().unwrap(), h.unified, h.controllers.clone())).collect();
        assert_eq!(
            shown,
            [
                ("/sys/fs/cgroup/cpu", false, vec!["cpu".to_owned()]),
                ("/sys/fs/cgroup/memory", false, vec!["memory".to_owned()]),
                ("/sys/fs/cgroup/systemd", false, vec![]),
                ("/sys/fs/cgroup/unified", true, vec![]),
            ]
        );
    }

    #[test]
    fn a_unified_machine_has_one_hierarchy() {
        let table = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = parse(table, |_| "cpuset cpu io memory hugetlb pids rdma misc\n".to_owned());
        assert_eq!(found.len(), 1);
        assert!(found[0].unified && found[0].has("memory") && found[0].has("cpu") && found[0].has("pids"));
    }

    #[test]
    fn mounts_with_blanks_are_read() {
        let table = "36 30 0:31 / /mnt/with\\040blank rw - cgroup2 cgroup2 rw\n";
        assert_eq!(parse(table, |_| String::new())[0].mount, Path::new("/mnt/with blank"));
    }

    #[test]
    fn no_groups_at_all_is_fine() {
        assert_eq!(parse("", |_| String::new()), []);
    }
}
