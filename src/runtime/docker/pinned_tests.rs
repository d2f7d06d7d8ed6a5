//! What is mounted is what was looked at, and taking it away takes nothing else away.

use super::super::beneath::Held;
use super::super::request::mounts::Folder;
use super::*;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

/// A state directory, a folder of a job's with a file, and a socket of ours in dockerd's place.
struct Site {
    dir: tempfile::TempDir,
    _socket: UnixListener,
}

impl Site {
    /// `None`: only root mounts.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let _socket = UnixListener::bind(dir.path().join("s")).unwrap();
        for name in ["state", "jobs", "jobs/x", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("jobs/x/file"), "of the job").unwrap();
        nix::unistd::Uid::effective().is_root().then_some(Self { dir, _socket })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn files(&self) -> JobMounts {
        let (source, target) = (self.at("jobs/x"), "/x".to_owned());
        let folder = Folder { held: Held::at(&source).unwrap(), source, target, read_only: false };
        JobMounts { folders: vec![folder], ..JobMounts::default() }
    }

    fn pin(&self, files: &JobMounts) -> Pinned {
        Pinned::of(files, &self.at("state"), "wharf-1", &self.at("s")).unwrap()
    }

    fn mounted(&self) -> usize {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().filter(|line| line.contains(self.at("").to_str().unwrap())).count()
    }
}

#[test]
fn a_folder_that_is_replaced_after_it_was_looked_at_is_the_same_for_dockerd() {
    let Some(site) = Site::new() else { return };
    let files = site.files();
    fs::rename(site.at("jobs/x"), site.at("jobs/y")).unwrap();
    symlink(site.at("other"), site.at("jobs/x")).unwrap();
    let pinned = site.pin(&files);
    let given = pinned.files.folders[0].source.clone();
    assert!(given.starts_with(site.at("state")), "{}", given.display());
    assert_eq!(fs::read_to_string(given.join("file")).unwrap(), "of the job");
    drop(pinned);
    assert_eq!((given.exists(), site.mounted()), (false, 0));
    assert_eq!(fs::read_to_string(site.at("jobs/y/file")).unwrap(), "of the job");
}

#[test]
fn what_a_killed_agent_left_goes_and_nothing_else() {
    let Some(site) = Site::new() else { return };
    fs::create_dir(site.at("jobs/x/disk")).unwrap();
    fs::write(site.at("other/file"), "of another disk").unwrap();
    bind(site.at("other").to_str().unwrap(), &site.at("jobs/x/disk")).unwrap();
    // As on most machines: what is mounted in one place is mounted in all its copies.
    mount(None, &site.at("jobs/x/disk"), libc::MS_SHARED).unwrap();
    let pinned = site.pin(&site.files());
    let given = pinned.files.folders[0].source.clone();
    assert_eq!(fs::read_to_string(given.join("disk/file")).unwrap(), "of another disk");
    // Killed between mounting and making it private.
    mount(None, &given.join("disk"), libc::MS_SHARED).unwrap();
    std::mem::forget(pinned);
    release_all(&site.at("state"));
    assert!(!given.exists());
    assert_eq!(fs::read_to_string(site.at("jobs/x/disk/file")).unwrap(), "of another disk");
    unbind(&site.at("jobs/x/disk")).unwrap();
    assert_eq!(site.mounted(), 0);
}

#[test]
fn a_dockerd_that_does_not_see_the_mounts_gets_the_paths() {
    let Some(site) = Site::new() else { return };
    let files = site.files();
    let pinned = Pinned::of(&files, &site.at("state"), "wharf-1", &site.at("none")).unwrap();
    assert_eq!(pinned.files, files);
    drop(pinned);
    assert_eq!(site.mounted(), 0);
}
