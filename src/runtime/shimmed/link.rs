//! The agent's end of a shim's socket: listening, knowing who connects, frames and descriptors. Keeps no state of a
//! task and decides nothing.

use super::layout::{SOCKET_NAME, TaskDir};
use crate::shim::protocol::{AgentFrame, Frame, FrameBuffer, ShimFrame};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Socket paths end at 108 bytes; longer ones are reached through a descriptor of their directory.
const MAX_SOCKET_PATH_BYTES: usize = 100;
/// A shim that does not read for this long is silent.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// How often the socket of a task without a connection is looked for.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
const FAILED_LOOK_PERIOD: Duration = Duration::from_secs(30);
/// After somebody who is not the shim has connected, nobody is let in for this long.
const STRANGER_PAUSE: Duration = Duration::from_millis(20);
const STRANGER_TELL_PERIOD: Duration = Duration::from_secs(60);

/// A socket that listens at its place in the file system.
#[derive(Debug)]
pub struct Bound {
    listener: std::os::unix::net::UnixListener,
    file: FileId,
}

/// Device and inode: which file is at a path.
type FileId = (u64, u64);

/// Binds the socket of a task anew; blocking. A socket that an earlier agent left is replaced, and a folder that a
/// cleaner of temporary files took away is made again.
pub fn bind(dir: &TaskDir) -> io::Result<Bound> {
    dir.create_socket_dir()?;
    let path = dir.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(&path, error)),
        _ => {}
    }
    let (reach, _open) = reach(dir)?;
    let listener = std::os::unix::net::UnixListener::bind(reach).map_err(|error| named(&path, error))?;
    if dir.mounted {
        // Anybody may knock; only the shim is let in.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
            .map_err(|error| named(&path, error))?;
    }
    listener.set_nonblocking(true)?;
    let file = file_at(&path).map_err(|error| named(&path, error))?;
    Ok(Bound { listener, file })
}

/// A path to the socket that is short enough, good for as long as what comes with it.
fn reach(dir: &TaskDir) -> io::Result<(PathBuf, Option<File>)> {
    let path = dir.socket();
    if path.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH_BYTES {
        return Ok((path, None));
    }
    let open = File::open(&dir.socket_dir).map_err(|error| named(&path, error))?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", open.as_raw_fd())), Some(open)))
}

fn file_at(path: &Path) -> io::Result<FileId> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Whether a shim that connects finds somebody: us, or an agent that came after us. A look of an agent that gave up on
/// it may have put a socket there that nobody listens at any more. Blocking.
fn is_served(dir: &TaskDir, ours: FileId) -> bool {
    match file_at(&dir.socket()) {
        Ok(found) => found == ours || listens(dir).unwrap_or(true),
        Err(_) => false,
    }
}

fn listens(dir: &TaskDir) -> io::Result<bool> {
    let (reach, _open) = reach(dir)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    Ok(nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(&reach)?) != Err(Errno::ECONNREFUSED))
}

impl Bound {
    fn into_listener(self) -> io::Result<(UnixListener, FileId)> {
        Ok((UnixListener::from_std(self.listener)?, self.file))
    }
}

/// By what paths a shim that was started in the socket's folder finds its socket: that folder may be moved, or be
/// deleted and made again.
pub fn ways(dir: &TaskDir) -> Vec<PathBuf> {
    let whole = std::path::absolute(dir.socket()).ok();
    let whole = whole.filter(|path| path.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH_BYTES);
    std::iter::once(PathBuf::from(SOCKET_NAME)).chain(whole).collect()
}

/// The agent's end of one task: listens, and listens anew when the socket has vanished.
#[derive(Debug)]
pub struct Endpoint {
    dir: TaskDir,
    listener: Option<(UnixListener, FileId)>,
    look_at: Instant,
    /// A look whether the socket is still there, and the new one if it is not.
    looking: Option<JoinHandle<io::Result<Option<Bound>>>>,
    strangers: Strangers,
}

impl Endpoint {
    /// Without a socket it tries again to get one: a shim that cannot be talked to can still be followed.
    pub fn new(dir: TaskDir, bound: io::Result<Bound>) -> Self {
        let listener = bound.and_then(Bound::into_listener);
        if let Err(error) = &listener {
            tracing::warn!(%error, "a task cannot be talked to for now");
        }
        Self {
            dir,
            listener: listener.ok(),
            look_at: Instant::now() + LOOK_PERIOD,
            looking: None,
            strangers: Strangers::new(),
        }
    }

    /// Accepts until the process with this pid connects; everybody else is turned away. Safe to cancel.
    pub async fn accept_from(&mut self, pid: i32, connected: bool) -> io::Result<Connection> {
        loop {
            tokio::select! {
                accepted = accept(self.listener.as_ref().map(|(listener, _)| listener), self.strangers.pause_until) => {
                    match checked(accepted?, pid) {
                        Ok(connection) => return Ok(connection),
                        Err(stranger) => self.strangers.note(&self.dir, stranger),
                    }
                }
                looked = look(&mut self.looking) => {
                    self.looking = None;
                    match looked.and_then(|bound| bound.map(Bound::into_listener).transpose()) {
                        Ok(None) => {}
                        Ok(Some(new)) => self.listener = Some(new),
                        Err(error) => {
                            tracing::warn!(%error, "a task cannot be talked to for now");
                            self.look_at = Instant::now() + FAILED_LOOK_PERIOD;
                        }
                    }
                }
                () = tokio::time::sleep_until(self.look_at), if !connected && self.looking.is_none() => {
                    self.look_at = Instant::now() + LOOK_PERIOD;
                    let (dir, ours) = (self.dir.clone(), self.listener.as_ref().map(|(_, file)| *file));
                    let served = move |dir: &TaskDir| ours.is_some_and(|ours| is_served(dir, ours));
                    let look = move || if served(&dir) { Ok(None) } else { bind(&dir).map(Some) };
                    self.looking = Some(tokio::task::spawn_blocking(look));
                }
            }
        }
    }
}

/// Who else has connected. In a container everybody can: a task that does so all the time must keep nobody from being
/// heard, and fill no log.
#[derive(Debug)]
struct Strangers {
    turned_away: u64,
    pause_until: Instant,
    tell_at: Instant,
}

impl Strangers {
    fn new() -> Self {
        Self { turned_away: 0, pause_until: Instant::now(), tell_at: Instant::now() }
    }

    fn note(&mut self, dir: &TaskDir, last: Option<i32>) {
        let now = Instant::now();
        self.turned_away += 1;
        self.pause_until = now + STRANGER_PAUSE;
        if now >= self.tell_at {
            self.tell_at = now + STRANGER_TELL_PERIOD;
            let (socket, turned_away) = (dir.socket(), self.turned_away);
            tracing::warn!(socket = %socket.display(), turned_away, ?last, "others than its shim connect for a task");
        }
    }
}

async fn accept(listener: Option<&UnixListener>, pause_until: Instant) -> io::Result<UnixStream> {
    tokio::time::sleep_until(pause_until).await;
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn look(looking: &mut Option<JoinHandle<io::Result<Option<Bound>>>>) -> io::Result<Option<Bound>> {
    match looking {
        Some(looking) => looking.await.map_err(io::Error::other)?,
        None => std::future::pending().await,
    }
}

/// The connection, if it is this process's; else whose it is, where the kernel can say.
fn checked(stream: UnixStream, pid: i32) -> Result<Connection, Option<i32>> {
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    if peer == Some(pid) { Ok(Connection { stream, buffer: FrameBuffer::default() }) } else { Err(peer) }
}

/// A connection whose other end is the shim, as the kernel says.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    buffer: FrameBuffer,
}

impl Connection {
    /// The next frame; `None` at the end of the connection. Safe to cancel.
    pub async fn next(&mut self) -> io::Result<Option<ShimFrame>> {
        loop {
            if let Some(frame) = self.buffer.next_frame().map_err(io::Error::other)? {
                return Ok(Some(frame));
            }
            self.stream.readable().await?;
            let mut bytes = [0; 4096];
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.buffer.push(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub async fn send(&self, frame: &AgentFrame, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = frame.encode().map_err(io::Error::other)?;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the shim does not read its socket");
        tokio::time::timeout(SEND_DEADLINE, self.send_bytes(&bytes, descriptors)).await.map_err(late)?
    }

    async fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut sent = 0;
        while sent < bytes.len() {
            // Descriptors belong to the first byte of their frame.
            let rights = [ControlMessage::ScmRights(&raw)];
            let control: &[ControlMessage<'_>] = if sent == 0 && !raw.is_empty() { &rights } else { &[] };
            let rest = [IoSlice::new(&bytes[sent..])];
            let send = || {
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                sendmsg::<()>(self.stream.as_raw_fd(), &rest, control, flags, None).map_err(io::Error::from)
            };
            sent += self.stream.async_io(Interest::WRITABLE, send).await?;
        }
        Ok(())
    }
}

fn named(path: &std::path::Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("listening on {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::*;
    use crate::domain::ids::{JobId, RunId, TaskId};

    #[test]
    fn a_socket_that_nobody_listens_at_is_not_taken_for_one() {
        let state = tempfile::tempdir().unwrap();
        // Too long for a socket's path in one of the two.
        for run in ["r".to_owned(), "r".repeat(120)] {
            let layout = Layout::create(state.path(), &state.path().join(run)).unwrap();
            let dir = layout.task(TaskId { job: JobId(1), run: RunId(2), role: 3, index: 4 });
            dir.create().unwrap();
            let ours = bind(&dir).unwrap();
            assert!(is_served(&dir, ours.file));
            // Another agent's, while it lives.
            let theirs = bind(&dir).unwrap();
            assert!(is_served(&dir, ours.file));
            drop(theirs);
            assert!(!is_served(&dir, ours.file), "left behind by whoever gave up");
            std::fs::remove_file(dir.socket()).unwrap();
            assert!(!is_served(&dir, ours.file));
        }
    }
}
