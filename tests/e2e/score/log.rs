//! Where a driver's words are written: a file in the kernel's form, or the kernel's own log.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const KERNELS: &str = "/dev/kmsg";

#[derive(Debug)]
pub(super) enum Log {
    File { folder: tempfile::TempDir, next: Cell<u64> },
    Kernels,
}

impl Log {
    pub(super) fn file() -> Self {
        let folder = tempfile::Builder::new().prefix("wk-").tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("kmsg"), "").expect("the folder is ours");
        Self::File { folder, next: Cell::new(0) }
    }

    /// If this user may write to it.
    pub(super) fn kernels() -> Result<Self, String> {
        let opened = OpenOptions::new().write(true).open(KERNELS);
        opened.map(|_| Self::Kernels).map_err(|error| format!("{KERNELS}: {error}"))
    }

    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::File { folder, .. } => folder.path().join("kmsg"),
            Self::Kernels => Path::new(KERNELS).to_owned(),
        }
    }

    pub(super) fn say(&self, lines: &[String]) {
        self.say_at(lines, uptime_us());
    }

    /// As of a moment since the boot, where the log lets us say so.
    pub(super) fn say_at(&self, lines: &[String], at_boot_us: u64) {
        match self {
            Self::File { next, .. } => {
                let record = |line: &String| {
                    let sequence = next.replace(next.get() + 1);
                    format!("3,{sequence},{at_boot_us},-;{line}\n")
                };
                let text: String = lines.iter().map(record).collect();
                let mut file = OpenOptions::new().append(true).open(self.path()).expect("it is ours");
                file.write_all(text.as_bytes()).expect("there is room");
            }
            // The kernel counts how much comes over one descriptor, and drops the rest.
            Self::Kernels => lines.iter().for_each(|line| {
                let mut log = OpenOptions::new().write(true).open(KERNELS).expect("it was there");
                log.write_all(format!("<3>{line}\n").as_bytes()).expect("the kernel takes it");
            }),
        }
    }
}

pub(super) fn uptime_us() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").expect("Linux has it");
    let seconds: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).expect("it is a number");
    (seconds * 1e6) as u64
}
