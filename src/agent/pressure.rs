//! The disk that logs of ended tasks share with everything else: which of them go when it is nearly full.
//!
//! Looked at beside the actor, which never waits for a disk; what comes of it is decided here, without IO.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Freed down to this much below the mark, so that it is not done again and again for little.
const STEP_PERCENT: u64 = 5;
/// Logs stay at least this long after their task was released, however full the disk: somebody may be about to read them.
pub const LEAST_KEPT: Duration = Duration::from_secs(10 * 60);

/// What a file system holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    pub total_bytes: u64,
    /// For whoever is not root.
    pub available_bytes: u64,
}

/// From when on a disk counts as nearly full.
#[derive(Debug, Clone)]
pub struct DiskMark {
    /// Any folder of the file system.
    pub folder: PathBuf,
    /// 1 to 100.
    pub high_percent: u8,
    pub measure: fn(&Path) -> std::io::Result<DiskUse>,
}

impl DiskMark {
    /// Asks the kernel.
    pub fn of(folder: PathBuf, high_percent: u8) -> Self {
        Self { folder, high_percent, measure: statvfs }
    }

    /// How many bytes have to go; 0 below the mark.
    pub fn excess(&self, used: DiskUse) -> u64 {
        let DiskUse { total_bytes, available_bytes } = used;
        let taken = u128::from(total_bytes.saturating_sub(available_bytes));
        let part = |percent: u64| u128::from(total_bytes) * u128::from(percent) / 100;
        let high = u64::from(self.high_percent);
        if taken <= part(high) {
            return 0;
        }
        u64::try_from(taken.saturating_sub(part(high.saturating_sub(STEP_PERCENT)))).unwrap_or(u64::MAX)
    }
}

fn statvfs(folder: &Path) -> std::io::Result<DiskUse> {
    let found = nix::sys::statvfs::statvfs(folder).map_err(std::io::Error::from)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok(DiskUse { total_bytes: bytes(found.blocks()), available_bytes: bytes(found.blocks_available()) })
}

/// A log that could go.
#[derive(Debug, Clone, Copy)]
pub struct Kept<T> {
    pub id: T,
    pub bytes: u64,
    /// Since its task was released.
    pub age: Duration,
    /// Nobody reads it, waits for it or works on it.
    pub free: bool,
}

/// The logs to delete, oldest first, until `excess` bytes are free; `kept` has the oldest first. Those that are empty
/// free nothing and stay.
pub fn to_free<T: Copy>(kept: &[Kept<T>], excess: u64) -> Vec<T> {
    let mut left = excess;
    let mut going = Vec::new();
    for log in kept.iter().filter(|log| log.free && log.bytes > 0 && log.age >= LEAST_KEPT) {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(log.bytes);
        going.push(log.id);
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn used(taken: u64) -> DiskUse {
        DiskUse { total_bytes: 1000, available_bytes: 1000 - taken }
    }

    #[test]
    fn above_the_mark_is_freed_to_a_step_below_it() {
        let mark = DiskMark::of("/".into(), 90);
        let table = [(0, 0), (899, 0), (900, 0), (901, 51), (1000, 150)];
        for (taken, expected) in table {
            assert_eq!(mark.excess(used(taken)), expected, "{taken}");
        }
        assert_eq!(mark.excess(DiskUse { total_bytes: 0, available_bytes: 0 }), 0);
        let huge = DiskUse { total_bytes: u64::MAX, available_bytes: 0 };
        assert!(mark.excess(huge) > u64::MAX / 10);
    }

    #[test]
    fn the_oldest_go_that_nobody_uses_and_only_as_many_as_are_needed() {
        let log = |id: i32, bytes: u64, minutes: u64, free: bool| Kept {
            id,
            bytes,
            age: Duration::from_secs(60 * minutes),
            free,
        };
        let kept = [
            log(1, 10, 99, false),
            log(2, 0, 98, true),
            log(3, 10, 97, true),
            log(4, 10, 20, true),
            log(5, 10, 9, true),
        ];
        assert_eq!(to_free(&kept, 0), Vec::<i32>::new());
        assert_eq!(to_free(&kept, 10), [3]);
        assert_eq!(to_free(&kept, 11), [3, 4]);
        assert_eq!(to_free(&kept, u64::MAX), [3, 4], "the newest stays");
    }

    #[test]
    fn the_kernel_knows_a_folders_disk() {
        let found = statvfs(Path::new("/")).unwrap();
        assert!(found.total_bytes > 0 && found.available_bytes <= found.total_bytes, "{found:?}");
        assert!(statvfs(Path::new("/no/such/folder")).is_err());
    }
}
