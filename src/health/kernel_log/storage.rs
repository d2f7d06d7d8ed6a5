//! Disks and file systems.

use super::events::{DiskTrouble, Event};
use super::words::{after, between, cut, first};

/// A name of a device or file system.
const MAX_NAME_BYTES: usize = 64;

pub(super) fn parse(text: &str) -> Option<Event> {
    nvme(text).or_else(|| block(text)).or_else(|| scsi(text)).or_else(|| file_system(text))
}

/// `nvme nvme0: I/O 161 QID 2 timeout, aborting`; `nvme nvme0: controller is down; will reset: CSTS=0x3 ...`.
fn nvme(text: &str) -> Option<Event> {
    const TROUBLE: [(&str, bool); 8] = [
        // Nearly always it comes back; if not, one of the other lines follows.
        ("controller is down", false),
        ("Device not ready", true),
        ("Removing after probe failure", true),
        ("Disabling device after reset failure", true),
        ("reset controller", false),
        ("disable controller", false),
        ("timeout, completion polled", false),
        (" timeout, aborting", false),
    ];
    let (device, rest) = text.strip_prefix("nvme ")?.split_once(": ")?;
    let (_, gone) = TROUBLE.iter().find(|(words, _)| rest.contains(words))?;
    Some(Event::Nvme { device: name(device)?, gone: *gone })
}

/// `Buffer I/O error on dev sda1, logical block 0`; `I/O error, dev nvme0n1, sector 8 op 0x0:(READ)`;
/// `critical medium error, dev sda, sector 8`; the last two also behind `blk_update_request: ` or `end_request: `.
fn block(text: &str) -> Option<Event> {
    let rest =
        text.strip_prefix("blk_update_request: ").or_else(|| text.strip_prefix("end_request: ")).unwrap_or(text);
    let medium = rest.starts_with("critical medium error");
    let known = medium
        || ["Buffer I/O error on dev", "I/O error, dev ", "critical target error"]
            .iter()
            .any(|start| rest.starts_with(start));
    known.then_some(())?;
    let device = after(rest, "on device ").or_else(|| after(rest, "dev "))?;
    let trouble = if medium { DiskTrouble::Medium } else { DiskTrouble::Failed };
    Some(Event::BlockIo { device: name(first(device))?, trouble })
}

/// `sd 2:0:0:0: Device offlined - not ready after error recovery`; `sd 2:0:0:0: [sda] rejecting I/O to offline device`.
fn scsi(text: &str) -> Option<Event> {
    let (device, rest) = text.strip_prefix("sd ")?.split_once(": ")?;
    let gone = rest.contains("Device offlined") || rest.contains("rejecting I/O to offline device");
    (gone && device.len() <= MAX_NAME_BYTES && device.split(':').count() == 4).then_some(())?;
    Some(Event::BlockIo { device: name(device)?, trouble: DiskTrouble::Gone })
}

/// `EXT4-fs (sda1): Remounting filesystem read-only`; `XFS (dm-0): Filesystem has been shut down due to log error`;
/// `BTRFS info (device sdb): forced readonly`.
fn file_system(text: &str) -> Option<Event> {
    const ENDS: [&str; 6] = [
        "Remounting filesystem read-only",
        "Filesystem has been shut down",
        "Shutting down filesystem",
        "shut down filesystem",
        "forced readonly",
        "remounting read-only",
    ];
    let known = ["EXT4-fs", "EXT3-fs", "EXT2-fs", "XFS", "BTRFS", "F2FS-fs", "JBD2"]
        .iter()
        .any(|name| text.starts_with(name));
    (known && ENDS.iter().any(|end| text.contains(end))).then_some(())?;
    let device = between(text, "(", ")").map(|device| device.strip_prefix("device ").unwrap_or(device));
    Some(Event::ReadOnly { device: name(device.unwrap_or("unknown"))? })
}

fn name(word: &str) -> Option<String> {
    Some(cut(word.trim(), MAX_NAME_BYTES).to_owned()).filter(|name| !name.is_empty())
}
