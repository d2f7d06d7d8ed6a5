//! What a task's exit record says of its output as a whole: the only trace of what was lost at the very end, when
//! the disk had no room for a gap record either.

use crate::shim::exit::{EXIT_FILE_BYTES, ExitRecord, OutputTotals};
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Beside the segments; written by the shim, once, at the end.
const EXIT_FILE: &str = "exit";

/// `None`: there is no whole record, so nothing is known.
pub(super) fn read(dir: &Path) -> Option<OutputTotals> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(dir.join(EXIT_FILE)).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(EXIT_FILE_BYTES as u64).read_to_end(&mut bytes).ok()?;
    ExitRecord::decode_file(&bytes).ok()?.map(|record| record.output)
}
