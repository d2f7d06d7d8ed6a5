//! A backup: one file that holds everything of a store at one revision. Lines of JSON, so that it can be looked at:
//!
//! ```text
//! {"wharf_backup":1,"made_at":"2026-11-22T13:49:10.123456789Z","from":"sqlite:/var/lib/wharf/controller","revision":412}
//! {"key":"meta/term","text":"7"}
//! {"key":"x","base64":"AP8="}
//! {"entries":2,"crc32c":"1f2e3d4c"}
//! ```
//!
//! The last line has the checksum of all bytes before it: a file without it was cut short. It is written under another
//! name and gets its own once it is durable, readable by its owner alone: it holds what users have submitted.

use super::{Entry, MAX_VALUE_BYTES, StoreError};
use crate::domain::time::Timestamp;
use crate::shim::crc::crc32c_after;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The version that is written.
const VERSION: u32 = 1;
/// The newest that is read: the version after ours only adds what can be passed over.
const NEWEST: u32 = VERSION + 1;
/// Every byte of a value may become six (`\u0000`).
const MAX_LINE_BYTES: u64 = 6 * MAX_VALUE_BYTES as u64 + 64 * 1024;
/// Entries of a page.
const PAGE: usize = 64;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub wharf_backup: u32,
    pub made_at: Timestamp,
    /// Which store.
    #[serde(default)]
    pub from: String,
    pub revision: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    entries: u64,
    crc32c: String,
}

/// Writes a backup.
#[derive(Debug)]
pub struct BackupWriter {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    entries: u64,
    bytes: u64,
    crc: u32,
}

impl BackupWriter {
    /// Begins the file. One that is there already is never overwritten.
    pub fn create(path: &Path, made_at: Timestamp, from: &str, revision: u64) -> Result<Self, StoreError> {
        if path.exists() {
            return Err(failed(path, "there is a file of that name already; choose another"));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // What an earlier attempt has left is of no use; the file is made anew so that its mode is ours.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&partial, error)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
        let file = BufWriter::new(file.map_err(|error| failed(&partial, error))?);
        let mut writer = Self { path: path.to_owned(), partial, file, entries: 0, bytes: 0, crc: 0 };
        writer.line(&Header { wharf_backup: VERSION, made_at, from: from.to_owned(), revision })?;
        Ok(writer)
    }

    pub fn add(&mut self, entry: Entry) -> Result<(), StoreError> {
        let (text, base64) = match String::from_utf8(entry.value) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        self.entries += 1;
        self.line(&Line { key: entry.key, text, base64 })
    }

    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Makes the file durable under its name, and says how many bytes it has.
    pub fn finish(mut self) -> Result<u64, StoreError> {
        let trailer = Trailer { entries: self.entries, crc32c: format!("{:08x}", self.crc) };
        self.line(&trailer)?;
        let Self { path, partial, file, bytes, .. } = self;
        let written = || -> io::Result<()> {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            // Not a rename: that would put it in the place of a file made meanwhile.
            fs::hard_link(&partial, &path)?;
            fs::remove_file(&partial)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        written().map_err(|error| failed(&path, error))?;
        Ok(bytes)
    }

    fn line<T: Serialize>(&mut self, line: &T) -> Result<(), StoreError> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| failed(&self.partial, error))?;
        bytes.push(b'\n');
        self.crc = crc32c_after(self.crc, &bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(&bytes).map_err(|error| failed(&self.partial, error))
    }
}

/// Reads a backup that was found whole.
#[derive(Debug)]
pub struct BackupReader {
    path: PathBuf,
    file: BufReader<File>,
    header: Header,
    left: u64,
}

impl BackupReader {
    /// Reads the file to its end, and then from its beginning. Blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut file = BufReader::new(File::open(path).map_err(|error| failed(path, error))?);
        let (header, entries) = check(path, &mut file)?;
        let file = BufReader::new(File::open(path).map_err(|error| failed(path, error))?);
        let mut reader = Self { path: path.to_owned(), file, header, left: entries };
        next_line(path, &mut reader.file)?;
        Ok(reader)
    }

    pub const fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn next_page(&mut self) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        while self.left > 0 && entries.len() < PAGE {
            let line = next_line(&self.path, &mut self.file)?;
            entries.push(entry(&self.path, &line)?);
            self.left -= 1;
        }
        Ok(entries)
    }
}

/// Reads everything once: the header and how many entries follow it, or what is wrong.
fn check(path: &Path, file: &mut BufReader<File>) -> Result<(Header, u64), StoreError> {
    let first = next_line(path, file)?;
    let header: Header =
        serde_json::from_slice(&first).map_err(|_| failed(path, "this is no backup of a wharf store"))?;
    if header.wharf_backup > NEWEST {
        let found = header.wharf_backup;
        let message = format!("it was made by a newer wharf: format {found}, this one reads up to {NEWEST}");
        return Err(failed(path, message));
    }
    let mut crc = crc32c_after(0, &first);
    let (mut entries, mut last): (u64, Option<String>) = (0, None);
    loop {
        let line = next_line(path, file)?;
        if !line.ends_with(b"\n") {
            return Err(failed(path, "its end is missing: it was cut short; nothing was changed"));
        }
        if let Ok(trailer) = serde_json::from_slice::<Trailer>(&line) {
            let mut more = [0];
            let goes_on = file.read(&mut more).map_err(|error| failed(path, error))? > 0;
            if trailer.entries != entries || trailer.crc32c != format!("{crc:08x}") || goes_on {
                return Err(failed(path, "it is damaged: its checksum does not fit; nothing was changed"));
            }
            return Ok((header, entries));
        }
        crc = crc32c_after(crc, &line);
        let key = entry(path, &line)?.key;
        if last.is_some_and(|last| last >= key) {
            return Err(failed(path, format!("it is damaged: '{key}' is not in its place; nothing was changed")));
        }
        last = Some(key);
        entries += 1;
    }
}

/// A line with its end; empty at the end of the file.
fn next_line(path: &Path, file: &mut BufReader<File>) -> Result<Vec<u8>, StoreError> {
    let mut line = Vec::new();
    file.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(|error| failed(path, error))?;
    Ok(line)
}

fn entry(path: &Path, line: &[u8]) -> Result<Entry, StoreError> {
    let damaged = |why: String| failed(path, format!("it is damaged: {why}; nothing was changed"));
    let line: Line = serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
    let value = match (line.text, line.base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => STANDARD.decode(text).map_err(|error| damaged(error.to_string()))?,
        _ => return Err(damaged(format!("'{}' has no value", line.key))),
    };
    Ok(Entry { key: line.key, value, mod_revision: 0 })
}

fn failed(path: &Path, error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable { operation: "the backup", message: format!("{}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Snapshot;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn entries(largest: usize) -> Vec<Entry> {
        let entry = |key: &str, value: &[u8]| Entry { key: key.to_owned(), value: value.to_vec(), mod_revision: 0 };
        vec![entry("a", b""), entry("b\n\"", b"text \0 \n"), entry("c", b"\0\xff"), entry("d", &vec![0; largest])]
    }

    fn made(largest: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b");
        let mut writer = BackupWriter::create(&path, Timestamp(5), "sqlite:/x", 9).unwrap();
        entries(largest).into_iter().for_each(|entry| writer.add(entry).unwrap());
        let bytes = writer.finish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
        (folder, path)
    }

    #[tokio::test]
    async fn what_was_written_comes_back_and_only_its_owner_may_read_it() {
        let (folder, path) = made(MAX_VALUE_BYTES);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        let mut snapshot = Snapshot::of_backup(&path).unwrap();
        assert_eq!(snapshot.revision(), 9);
        for expected in entries(MAX_VALUE_BYTES) {
            assert_eq!(snapshot.next().await.unwrap(), Some(expected));
        }
        assert_eq!(snapshot.next().await.unwrap(), None);
        let again = BackupWriter::create(&path, Timestamp(5), "", 9).unwrap_err().to_string();
        assert!(again.contains("already"), "{again}");
    }

    #[test]
    fn every_single_change_is_found() {
        let (_folder, path) = made(100);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(BackupReader::open(&path).is_err(), "byte {at} changed");
            fs::write(&path, &good[..at]).unwrap();
            assert!(BackupReader::open(&path).is_err(), "cut at {at}");
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert!(BackupReader::open(&path).is_err(), "something follows");
        fs::write(&path, good.replace_version()).unwrap();
        let error = BackupReader::open(&path).unwrap_err().to_string();
        assert!(error.contains("newer wharf"), "{error}");
    }

    trait ReplaceVersion {
        fn replace_version(&self) -> Vec<u8>;
    }

    impl ReplaceVersion for Vec<u8> {
        fn replace_version(&self) -> Vec<u8> {
            String::from_utf8_lossy(self).replace("\"wharf_backup\":1", "\"wharf_backup\":3").into_bytes()
        }
    }
}
