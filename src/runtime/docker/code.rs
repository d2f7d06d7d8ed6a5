//! A job's code: from a folder of the node into a container's working directory, before the command starts. The folder
//! itself is mounted read-only at [`CODE_TARGET`](super::request::CODE_TARGET); what commands write beside their code goes
//! to the copy.
//!
//! Links stay links and are never followed: what they point to is decided in the container. All is read through one
//! descriptor of the folder, so that a link put in a folder's place leads nowhere. Only regular files, folders and links
//! are copied. The copy is owned by the container's user.

use super::beneath::{self, Held};
use super::request::mounts::Folder;
use bollard::Docker;
use bollard::query_parameters::UploadToContainerOptionsBuilder;
use nix::fcntl::readlinkat;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// OpenPAI's limit.
pub const MAX_BYTES: u64 = 200_000_000;
/// Folders of small files cost more than their bytes say.
const MAX_ENTRIES: u64 = 100_000;
const MAX_DEPTH: usize = 64;
/// Of the tar stream on its way.
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS: usize = 8;
/// Beyond it the disk or dockerd hangs.
const COPY_DEADLINE: Duration = Duration::from_secs(300);

/// Why a job's code is not in its container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("codeDir: {} is bigger than 200 MB", path.display())]
    TooBig { path: PathBuf },
    #[error("codeDir: {} holds more than {MAX_ENTRIES} files, or folders deeper than {MAX_DEPTH}", path.display())]
    TooMany { path: PathBuf },
    #[error("codeDir: {} is empty", path.display())]
    Empty { path: PathBuf },
    #[error("codeDir: reading {}: {error}", path.display())]
    Read { path: PathBuf, error: String },
    #[error("codeDir: copying it to {target} of the container: {said}")]
    Copy { target: String, said: String },
}

impl CodeError {
    /// The job asked for something that cannot be: retrying elsewhere would not help.
    pub fn is_user_error(&self) -> bool {
        matches!(self, Self::TooBig { .. } | Self::TooMany { .. } | Self::Empty { .. })
    }
}

/// Something below the folder, seen without following links.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Below the folder.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Folder,
    File { bytes: u64 },
    Link(PathBuf),
}

/// Copies the content of `folder` into `target`, an existing folder of a created container. `owner` is the numbers of
/// the container's user; root's where they are not known. Dropping the future ends it.
pub async fn copy(
    docker: &Docker,
    container: &str,
    folder: &Folder,
    target: &str,
    owner: Option<(u32, u32)>,
) -> Result<(), CodeError> {
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let read = {
        let code = Code { path: folder.source.clone(), held: folder.held.clone() };
        // Ends when the receiver is gone.
        tokio::task::spawn_blocking(move || {
            let mut to = Chunks { sender, pending: Vec::with_capacity(CHUNK_BYTES) };
            let packed = code.list().and_then(|entries| code.pack(&entries, owner.unwrap_or((0, 0)), &mut to));
            if packed.is_err() {
                // dockerd must not take half of it for all.
                let cut = io::Error::other("the code could not be read");
                to.sender.blocking_send(Err(cut)).ok();
            }
            packed
        })
    };
    let docker = docker.clone().with_timeout(COPY_DEADLINE);
    let options = UploadToContainerOptionsBuilder::new().path(target).build();
    let body = bollard::body_try_stream(ReceiverStream::new(chunks));
    let sent = tokio::time::timeout(COPY_DEADLINE, docker.upload_to_container(container, Some(options), body)).await;
    let failed = |said: String| CodeError::Copy { target: target.to_owned(), said };
    let sent = match sent {
        Ok(sent) => sent.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed(format!("not done within {} s", COPY_DEADLINE.as_secs()))),
    };
    match tokio::time::timeout(COPY_DEADLINE, read).await {
        // The reader knows better what went wrong, unless it only met the end of the upload.
        Ok(Ok(Err(error))) if !matches!(error, CodeError::Copy { .. }) => Err(error),
        Ok(Err(_)) => Err(failed("the reader ended without a word".to_owned())),
        _ => sent,
    }
}

/// The folder that is copied.
struct Code {
    /// For errors.
    path: PathBuf,
    held: Held,
}

impl Code {
    fn failed(&self, below: &Path, error: io::Error) -> CodeError {
        CodeError::Read { path: self.path.join(below), error: error.to_string() }
    }

    /// Everything below the folder, folders before what is in them, within the limits. Blocking.
    fn list(&self) -> Result<Vec<Entry>, CodeError> {
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        let mut open = vec![(PathBuf::new(), 0)];
        while let Some((below, depth)) = open.pop() {
            let dir = self.held.open(&below, libc::O_RDONLY | libc::O_DIRECTORY);
            let dir = dir.map_err(|error| self.failed(&below, error))?;
            for name in beneath::names(dir.as_fd()).map_err(|error| self.failed(&below, error))? {
                let path = below.join(&name);
                let kind = self.kind(&path).map_err(|error| self.failed(&path, error))?;
                match &kind {
                    None => continue,
                    Some(Kind::Folder) => open.push((path.clone(), depth + 1)),
                    Some(Kind::File { bytes: more }) => bytes = bytes.saturating_add(*more),
                    Some(Kind::Link(_)) => {}
                }
                entries.extend(kind.map(|kind| Entry { path, kind }));
                if bytes > MAX_BYTES {
                    return Err(CodeError::TooBig { path: self.path.clone() });
                }
                if entries.len() as u64 > MAX_ENTRIES || depth >= MAX_DEPTH {
                    return Err(CodeError::TooMany { path: self.path.clone() });
                }
            }
        }
        if entries.is_empty() {
            return Err(CodeError::Empty { path: self.path.clone() });
        }
        Ok(entries)
    }

    /// `None`: what is not copied.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        // Of a link, the link itself.
        let fd = self.held.open(path, libc::O_PATH | libc::O_NOFOLLOW)?;
        let found = beneath::metadata(fd.as_fd())?;
        Ok(if found.is_dir() {
            Some(Kind::Folder)
        } else if found.is_symlink() {
            Some(Kind::Link(readlinkat(&fd, "")?.into()))
        } else {
            found.is_file().then_some(Kind::File { bytes: found.len() })
        })
    }

    /// Writes the entries as a tar stream. Blocking.
    fn pack(&self, entries: &[Entry], owner: (u32, u32), to: impl Write) -> Result<(), CodeError> {
        let ended = |error: io::Error| CodeError::Copy { target: "the archive".to_owned(), said: error.to_string() };
        let mut archive = tar::Builder::new(to);
        for entry in entries {
            append(&mut archive, &self.held, entry, owner).map_err(|error| match error.kind() {
                // Not the file: whoever takes the archive.
                io::ErrorKind::BrokenPipe => ended(error),
                _ => self.failed(&entry.path, error),
            })?;
        }
        archive.into_inner().and_then(|mut to| to.flush()).map_err(ended)
    }
}

/// Opens what is read: what was a file or a folder must not have become a link or a pipe meanwhile.
fn open(root: &Held, path: &Path, flags: i32) -> io::Result<(OwnedFd, fs::Metadata)> {
    let fd = root.open(path, flags | libc::O_NOFOLLOW)?;
    let found = beneath::metadata(fd.as_fd())?;
    Ok((fd, found))
}

fn append(archive: &mut tar::Builder<impl Write>, root: &Held, entry: &Entry, owner: (u32, u32)) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_uid(owner.0.into());
    header.set_gid(owner.1.into());
    match &entry.kind {
        Kind::Folder => {
            let (_, found) = open(root, &entry.path, libc::O_PATH | libc::O_DIRECTORY)?;
            header.set_entry_type(tar::EntryType::Directory);
            // Without them its user could not enter the copy.
            header.set_mode((found.permissions().mode() & 0o777) | 0o700);
            header.set_mtime(mtime(&found));
            header.set_size(0);
            archive.append_data(&mut header, &entry.path, io::empty())
        }
        Kind::Link(to) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, &entry.path, to)
        }
        Kind::File { bytes } => {
            let (fd, found) = open(root, &entry.path, libc::O_RDONLY | libc::O_NONBLOCK)?;
            if !found.is_file() {
                return Err(io::Error::other("it changed while it was read"));
            }
            header.set_entry_type(tar::EntryType::Regular);
            // No set-user-id for files whose owner becomes another.
            header.set_mode((found.permissions().mode() & 0o777) | 0o400);
            header.set_mtime(mtime(&found));
            header.set_size(*bytes);
            archive.append_data(&mut header, &entry.path, Exactly { file: File::from(fd), left: *bytes })
        }
    }
}

fn mtime(found: &fs::Metadata) -> u64 {
    u64::try_from(found.mtime()).unwrap_or(0)
}

/// The number of bytes that the header promises, of a file that may change while it is read.
struct Exactly {
    file: File,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::other("it got shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Sends what is written as chunks of the request.
struct Chunks<B> {
    sender: mpsc::Sender<io::Result<B>>,
    pending: Vec<u8>,
}

impl<B: From<Vec<u8>>> Write for Chunks<B> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK_BYTES));
        // Whoever took them has given up.
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

#[cfg(test)]
#[path = "code_tests.rs"]
mod tests;
