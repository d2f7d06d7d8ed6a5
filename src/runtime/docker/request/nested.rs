//! Mounts of the node below a folder that a job is to read only: before version 25, Docker makes the folder read-only
//! and leaves what is mounted below it writable.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Where anything is mounted. Blocking, but asks no disk.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    std::fs::read("/proc/self/mountinfo").map(|text| parse(&text))
}

/// The fifth field of every line of mountinfo, in which space, tab, newline and backslash are octal (proc(5)).
fn parse(text: &[u8]) -> Vec<PathBuf> {
    let lines = text.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(|point| PathBuf::from(std::ffi::OsString::from_vec(plain(point)))).collect()
}

fn plain(mut rest: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        result.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_spaces_and_all() {
        let text =
            b"22 1 8:1 / / rw - ext4 /dev/sda rw\n30 22 0:5 / /mnt/a\\040b\\134c rw shared:2 - nfs s:/e rw\nbad\n";
        assert_eq!(parse(text), [PathBuf::from("/"), PathBuf::from("/mnt/a b\\c")]);
        assert_eq!(plain(b"end\\04"), b"end\\04");
        assert!(mount_points().unwrap().contains(&PathBuf::from("/proc")));
    }
}
