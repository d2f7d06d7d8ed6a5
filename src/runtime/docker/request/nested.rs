//! What is mounted where, as the kernel says it. Blocking, but asks no disk.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A line of mountinfo (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    /// Numbers of the file system.
    pub device: String,
    /// What of the file system is mounted.
    pub root: PathBuf,
    pub point: PathBuf,
    /// Of file system.
    pub kind: String,
}

/// Where anything is mounted.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(mounts()?.into_iter().map(|mount| mount.point).collect())
}

/// As the agent sees them.
pub fn mounts() -> io::Result<Vec<Mount>> {
    std::fs::read("/proc/thread-self/mountinfo").map(|text| parse(&text))
}

/// As a process sees them.
pub fn mounts_of(pid: i32) -> io::Result<Vec<Mount>> {
    std::fs::read(format!("/proc/{pid}/mountinfo")).map(|text| parse(&text))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Space, tab, newline and backslash are octal in it.
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let path = |field: &[u8]| PathBuf::from(OsString::from_vec(plain(field)));
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = text(fields.nth(1)?);
    let (root, point) = (path(fields.next()?), path(fields.next()?));
    // After any number of optional fields.
    let kind = text(fields.skip_while(|field| *field != b"-").nth(1)?);
    Some(Mount { id, device, root, point, kind })
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
    fn mounts_are_read_with_spaces_and_all() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda rw\n\
            30 22 0:5 /x /mnt/a\\040b\\134c rw shared:2 master:1 - nfs s:/e rw\nbad\n";
        let mount = |id, device: &str, root: &str, point: &str, kind: &str| {
            let (root, point) = (root.into(), point.into());
            Mount { id, device: device.into(), root, point, kind: kind.into() }
        };
        let want = [mount(22, "8:1", "/", "/", "ext4"), mount(30, "0:5", "/x", "/mnt/a b\\c", "nfs")];
        assert_eq!(parse(text), want);
        assert_eq!(plain(b"end\\04"), b"end\\04");
        assert!(mount_points().unwrap().contains(&PathBuf::from("/proc")));
    }
}
