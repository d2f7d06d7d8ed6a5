//! Small disks of a node that can be filled: one for its state, one within for its tasks' logs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILLER: &str = "filler";

/// Dropping it takes them away, with everything on them.
#[derive(Debug)]
pub struct Disks {
    /// Inner ones last.
    mounted: Vec<PathBuf>,
}

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    State,
    Logs,
}

impl Disks {
    /// For the node whose state is in `data_dir`.
    pub fn of(data_dir: &Path, logs_mb: u64) -> Self {
        let mut disks = Self { mounted: Vec::new() };
        for (folder, megabytes) in [(data_dir.to_owned(), 64), (data_dir.join("tasks"), logs_mb)] {
            fs::create_dir_all(&folder).expect("the folder is ours");
            let options = format!("size={megabytes}m,mode=755");
            let mut command = Command::new("mount");
            command.args(["-t", "tmpfs", "-o", &options, "wharf-chaos"]).arg(&folder);
            let output = command.output().expect("mount starts");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "mounting on {}: {said}", folder.display());
            disks.mounted.push(folder);
        }
        disks
    }

    fn filler(&self, disk: Disk) -> PathBuf {
        self.mounted[usize::from(disk == Disk::Logs)].join(FILLER)
    }

    /// To the last byte.
    pub fn fill(&self, disk: Disk) {
        let mut file = File::create(self.filler(disk)).expect("a name fits");
        let block = vec![0x5a; 1 << 20];
        let mut size = block.len();
        while size > 0 {
            match file.write(&block[..size]) {
                Ok(1..) => {}
                _ => size /= 2,
            }
        }
    }

    pub fn empty(&self, disk: Disk) {
        fs::remove_file(self.filler(disk)).expect("it was filled");
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for folder in self.mounted.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(folder).status();
        }
    }
}
