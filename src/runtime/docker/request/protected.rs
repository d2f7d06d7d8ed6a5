//! What no job may reach by any path: not by its name alone, but by where it is in its file system, so that another mount
//! of the same folder leads there no more than the folder itself. Blocking, but asks no disk beyond names.

use super::nested::{self, Mount};
use crate::domain::policy::MountRule;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What the kernel tells of itself and of devices: no folders for jobs, wherever they are mounted.
const KERNELS: [&str; 16] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "nsfs",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// A folder or file in its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    device: String,
    path: PathBuf,
}

impl Place {
    /// One lies in the other, or is it.
    fn meets(&self, other: &Self) -> bool {
        self.device == other.device && (self.path.starts_with(&other.path) || other.path.starts_with(&self.path))
    }
}

/// What is kept from jobs, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protected {
    /// By its name on the node, and where it is.
    places: Vec<(PathBuf, Place)>,
    /// The node's `/`, of which everything is a part: only itself is kept from jobs, and what it lies in.
    root: Option<Place>,
}

impl Protected {
    /// Of these paths, those that are there.
    pub fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> io::Result<Self> {
        let mounts = nested::mounts()?;
        let place = |path: &Path| Some((path.to_owned(), place(&mounts, path)?));
        let root = place(Path::new("/")).map(|(_, place)| place);
        Ok(Self { places: paths.filter_map(place).collect(), root })
    }

    /// What the folder at `path`, or something mounted in it, would give away; `held` is the folder.
    pub fn reached_by(&self, path: &Path, held: BorrowedFd<'_>) -> io::Result<Option<String>> {
        let mounts = nested::mounts()?;
        let found = places_at(&mounts, path, held)?.into_iter();
        Ok(found.into_iter().find_map(|(mount, place)| self.given_away(mount, &place)))
    }

    /// The same of folders that a process has by mounts of their own, wherever they are and whatever has become of their
    /// paths on the node.
    pub fn reached_in(&self, pid: i32, folders: &[OwnedFd]) -> io::Result<Option<String>> {
        let mounts = nested::mounts_of(pid)?;
        for folder in folders {
            let whose = mount_of(&mounts, folder.as_fd())?;
            let with_it = mounts.iter().filter(|mount| mount.point.starts_with(&whose.point));
            if let Some(what) = with_it.into_iter().find_map(|mount| self.given_away(mount, &root_of(mount))) {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }

    fn given_away(&self, mount: &Mount, place: &Place) -> Option<String> {
        if KERNELS.contains(&mount.kind.as_str()) {
            return Some(format!("{} of the kernel at {}", mount.kind, mount.point.display()));
        }
        // Above the root, or it.
        if self.root.as_ref().is_some_and(|root| root.device == place.device && root.path.starts_with(&place.path)) {
            return Some(format!("the node's / at {}", mount.point.display()));
        }
        let found = self.places.iter().find(|(_, protected)| protected.meets(place));
        found.map(|(path, _)| format!("{}, by a mount at {}", path.display(), mount.point.display()))
    }
}

/// Whether a folder, or something in it, is for reading alone: the rule for what is nearest around it decides, by whatever
/// path it is reached; of the same folder twice, the one that says less. `held` is the folder at `path`, or what it would
/// be made in.
pub fn is_read_only(rules: &[MountRule], path: &Path, held: BorrowedFd<'_>) -> io::Result<bool> {
    let mounts = nested::mounts()?;
    let of_rule = |rule: &MountRule| Some((place(&mounts, &rule.path)?, rule.read_only));
    let rules: Vec<_> = rules.iter().filter_map(of_rule).collect();
    let found = places_at(&mounts, path, held)?;
    Ok(found.iter().any(|(_, place)| {
        let around =
            rules.iter().filter(|(rule, _)| place.device == rule.device && place.path.starts_with(&rule.path));
        let nearest = around.max_by_key(|(rule, read_only)| (rule.path.components().count(), *read_only));
        let in_it = |rule: &Place| place.device == rule.device && rule.path.starts_with(&place.path);
        nearest.is_some_and(|(_, read_only)| *read_only)
            || rules.iter().any(|(rule, read_only)| *read_only && rule != place && in_it(rule))
    }))
}

/// Where a folder is, and what is mounted in it. `held` is the folder at `path`, or what it would be made in.
fn places_at<'a>(mounts: &'a [Mount], path: &Path, held: BorrowedFd<'_>) -> io::Result<Vec<(&'a Mount, Place)>> {
    let whose = mount_of(mounts, held)?;
    let below = mounts.iter().filter(|mount| mount.point.starts_with(path) && mount.point != path);
    Ok(std::iter::once((whose, place_in(whose, path))).chain(below.map(|mount| (mount, root_of(mount)))).collect())
}

/// Where a path leads today; `None` where nothing is.
fn place(mounts: &[Mount], path: &Path) -> Option<Place> {
    let real = fs::canonicalize(path).ok()?;
    let file = File::options().read(true).custom_flags(libc::O_PATH).open(&real).ok()?;
    let mount = mount_of(mounts, file.as_fd()).ok()?;
    Some(place_in(mount, &real))
}

fn place_in(mount: &Mount, path: &Path) -> Place {
    let below = path.strip_prefix(&mount.point).unwrap_or(Path::new(""));
    // Joining nothing would add a slash.
    let path = if below.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(below) };
    Place { device: mount.device.clone(), path }
}

fn root_of(mount: &Mount) -> Place {
    Place { device: mount.device.clone(), path: mount.root.clone() }
}

/// The mount that an open file was reached by. Of one that is not in the list nothing is known: an error.
fn mount_of<'a>(mounts: &'a [Mount], file: BorrowedFd<'_>) -> io::Result<&'a Mount> {
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse::<u64>().ok());
    let id = id.ok_or_else(|| io::Error::other("/proc/thread-self/fdinfo names no mount"))?;
    let found = mounts.iter().find(|mount| mount.id == id);
    found.ok_or_else(|| io::Error::other(format!("the kernel lists no mount {id}, by which it was reached")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, device: &str, root: &str, point: &str, kind: &str) -> Mount {
        Mount { id, device: device.into(), root: root.into(), point: point.into(), kind: kind.into() }
    }

    fn at(device: &str, path: &str) -> Place {
        Place { device: device.into(), path: path.into() }
    }

    #[test]
    fn another_mount_of_the_same_folder_is_the_same_folder() {
        let protected = Protected {
            places: vec![
                ("/etc".into(), at("8:1", "/etc")),
                ("/run".into(), at("0:25", "/")),
                ("/mnt/disk/wharf".into(), at("8:2", "/wharf")),
            ],
            root: Some(at("8:1", "/")),
        };
        let gives = |mount: &Mount| protected.given_away(mount, &root_of(mount));
        for (device, root, kind, word) in [
            ("8:1", "/etc", "ext4", "/etc"),
            ("8:1", "/etc/ssl", "ext4", "/etc"),
            ("8:1", "/", "ext4", "the node's /"),
            ("0:25", "/docker", "tmpfs", "/run"),
            ("8:2", "/", "xfs", "/mnt/disk/wharf"),
            ("8:2", "/wharf/agent", "xfs", "/mnt/disk/wharf"),
            ("0:4", "/", "proc", "proc"),
            ("0:5", "/", "devtmpfs", "devtmpfs"),
            ("0:22", "/", "sysfs", "sysfs"),
        ] {
            let said = gives(&mount(1, device, root, "/srv/x", kind)).expect(root);
            assert!(said.contains(word) && said.contains("/srv/x"), "{said}");
        }
        for (device, root, kind) in
            [("8:1", "/srv/x", "ext4"), ("8:1", "/etcetera", "ext4"), ("8:2", "/jobs", "xfs"), ("0:99", "/", "tmpfs")]
        {
            assert_eq!(gives(&mount(1, device, root, "/srv/x", kind)), None, "{root}");
        }
        // A container of which the node is a part.
        let inside = Protected { places: Vec::new(), root: Some(at("8:1", "/machines/a")) };
        assert!(
            inside.given_away(&mount(1, "8:1", "/machines", "/srv/x", "ext4"), &at("8:1", "/machines")).is_some()
        );
        assert!(inside.given_away(&mount(1, "8:1", "/jobs", "/srv/x", "ext4"), &at("8:1", "/jobs")).is_none());
    }

    #[test]
    fn what_is_there_is_found_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("own/deep")).unwrap();
        fs::create_dir_all(root.join("jobs")).unwrap();
        let protected = Protected::of([root.join("own").as_path(), Path::new("/no/such")].into_iter()).unwrap();
        let reached = |path: &Path| {
            let file = File::open(path).unwrap();
            protected.reached_by(path, file.as_fd()).unwrap()
        };
        assert_eq!(reached(&root.join("jobs")), None);
        for path in ["own", "own/deep", ""] {
            assert!(reached(&root.join(path)).is_some(), "{path}");
        }
        assert!(reached(Path::new("/")).is_some());
        assert!(reached(Path::new("/proc")).unwrap().contains("proc"));
        let own = std::process::id() as i32;
        let reached_in = |path: &Path| protected.reached_in(own, &[File::open(path).unwrap().into()]).unwrap();
        assert!(reached_in(Path::new("/proc")).unwrap().contains("proc"));
        // Everything else of the machine is in its mount as well.
        assert!(reached_in(&root.join("jobs")).is_some());
        let unlisted = mount_of(&[], File::open("/").unwrap().as_fd()).unwrap_err().to_string();
        assert!(unlisted.contains("lists no mount"), "{unlisted}");
    }

    #[test]
    fn read_only_is_a_folder_and_not_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("all/data/out")).unwrap();
        fs::create_dir_all(root.join("all/other")).unwrap();
        let rule = |path: &str, read_only| MountRule { path: root.join(path), read_only };
        let rules = [rule("all", false), rule("all/data", true), rule("all/data/out", false)];
        let of = |path: &str, held: &str| {
            let held = File::open(root.join(held)).unwrap();
            is_read_only(&rules, &root.join(path), held.as_fd()).unwrap()
        };
        for (path, held, read_only) in [
            ("all/data", "all/data", true),
            ("all/data/new", "all/data", true),
            ("all", "all", true),
            ("all/data/out", "all/data/out", false),
            ("all/data/out/new", "all/data/out", false),
            ("all/other", "all/other", false),
        ] {
            assert_eq!(of(path, held), read_only, "{path}");
        }
    }
}
