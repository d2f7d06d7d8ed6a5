//! A small disk of memory in a folder's place, which can be filled.

use super::skip;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Dropping it takes the disk away, whoever still uses it: drop it before the folder's owner.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// None, with the reason on the list of skips, where nothing can be mounted.
    pub fn can_be(what: &str) -> bool {
        let root = nix::unistd::Uid::effective().is_root();
        if !root {
            skip(what, "only root may mount small disks");
        }
        root
    }

    /// In place of the folder, with everything that is in it. Nobody may be using it.
    pub fn replace(folder: &Path, megabytes: u32) -> Self {
        let kept = folder.with_extension("kept");
        fs::rename(folder, &kept).expect("the folder is there");
        fs::create_dir(folder).expect("its parent is ours");
        let options = format!("size={megabytes}m,mode=755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "wharf-test"]).arg(folder));
        let disk = Self { folder: folder.to_owned() };
        run(Command::new("cp").arg("-a").arg(kept.join(".")).arg(folder));
        fs::remove_dir_all(&kept).expect("it is ours");
        disk
    }

    /// Takes every byte that is free.
    pub fn fill(&self) {
        let mut ballast = File::create(self.folder.join("ballast")).expect("one more file fits");
        let mut size = 64 * 1024;
        while size > 0 {
            if ballast.write(&vec![7; size]).is_err() {
                size /= 2;
            }
        }
    }

    /// Gives back what [`Self::fill`] took.
    pub fn make_room(&self) {
        fs::remove_file(self.folder.join("ballast")).expect("it was filled");
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once, even while files on it are open.
        Command::new("umount").arg("--lazy").arg(&self.folder).status().ok();
    }
}
