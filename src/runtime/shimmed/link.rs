//! The agent's end of a shim's socket: listening, knowing who connects, frames and descriptors. Keeps no state of a
//! task and decides nothing.

use super::layout::{SOCKET_NAME, TaskDir};
use crate::shim::protocol::{AgentFrame, Frame, FrameBuffer, ShimFrame};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
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
pub struct Bound(std::os::unix::net::UnixListener);

/// Binds the socket of a task anew; blocking. A socket that an earlier agent left is replaced, and a folder that a
/// cleaner of temporary files took away is made again.
pub fn bind(dir: &TaskDir) -> io::Result<Bound> {
    dir.create_socket_dir()?;
    let path = dir.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(&path, error)),
        _ => {}
    }
    let (reach, _open) = if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
        let open = File::open(&dir.socket_dir).map_err(|error| named(&path, error))?;
        (PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", open.as_raw_fd())), Some(open))
    } else {
        (path.clone(), None)
    };
    let listener = std::os::unix::net::UnixListener::bind(reach).map_err(|error| named(&path, error))?;
    if dir.mounted {
        // Anybody may knock; only the shim is let in.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
            .map_err(|error| named(&path, error))?;
    }
    listener.set_nonblocking(true)?;
    Ok(Bound(listener))
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
    listener: Option<UnixListener>,
    look_at: Instant,
    /// A look whether the socket is still there, and the new one if it is not.
    looking: Option<JoinHandle<io::Result<Option<Bound>>>>,
    strangers: Strangers,
}

impl Endpoint {
    /// Without a socket it tries again to get one: a shim that cannot be talked to can still be followed.
    pub fn new(dir: TaskDir, bound: io::Result<Bound>) -> Self {
        let listener = bound.and_then(|Bound(listener)| UnixListener::from_std(listener));
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
                accepted = accept(self.listener.as_ref(), self.strangers.pause_until) => {
                    match checked(accepted?, pid) {
                        Ok(connection) => return Ok(connection),
                        Err(stranger) => self.strangers.note(&self.dir, stranger),
                    }
                }
                looked = look(&mut self.looking) => {
                    self.looking = None;
                    match looked.and_then(|bound| bound.map(|Bound(new)| UnixListener::from_std(new)).transpose()) {
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
                    let (dir, listening) = (self.dir.clone(), self.listener.is_some());
                    // A socket that is there is ours, or of an agent that came after us: not to be replaced.
                    let there = move |dir: &TaskDir| listening && std::fs::symlink_metadata(dir.socket()).is_ok();
                    let look = move || if there(&dir) { Ok(None) } else { bind(&dir).map(Some) };
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
