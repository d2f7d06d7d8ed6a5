//! The shim's end of the conversation: connects, reconnects with back-off, cuts frames, pairs them with their
//! descriptors. Decides nothing about the task. Never blocks.

use super::protocol::{AgentFrame, Frame, FrameBuffer, MAX_DESCRIPTORS, ShimFrame};
use super::socket::{self, Received};
use super::sys::{POLLIN, POLLOUT, PollFd};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// An agent that reads nothing while this much waits for it has hung: start over.
const MAX_UNSENT_BYTES: usize = 512 * 1024;

/// A frame with the descriptors that came for it.
pub struct Delivery {
    pub frame: AgentFrame,
    pub descriptors: Vec<OwnedFd>,
}

struct Connection {
    socket: OwnedFd,
    buffer: FrameBuffer,
    descriptors: VecDeque<OwnedFd>,
    unsent: Vec<u8>,
}

pub struct Channel {
    /// Ways to the one socket.
    paths: Vec<Vec<u8>>,
    connection: Option<Connection>,
    retry_at: Instant,
    retry_after: Duration,
    /// Since when there has been no connection.
    lost_at: Instant,
    /// Who listened at first. Nobody else but root is taken for the agent later.
    agent_uid: Option<u32>,
}

impl Channel {
    pub fn new(paths: Vec<Vec<u8>>, now: Instant) -> Self {
        Self { paths, connection: None, retry_at: now, retry_after: FIRST_RETRY, lost_at: now, agent_uid: None }
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub fn unreachable_for(&self, now: Instant) -> Duration {
        if self.is_connected() { Duration::ZERO } else { now.saturating_duration_since(self.lost_at) }
    }

    /// When to call [`Channel::connect`] next; `None` while connected.
    pub fn next_attempt(&self) -> Option<Instant> {
        if self.is_connected() { None } else { Some(self.retry_at) }
    }

    /// Tries to connect if it is time. True: a new connection stands, and wants to hear who we are.
    pub fn connect(&mut self, now: Instant) -> bool {
        if self.is_connected() || now < self.retry_at {
            return false;
        }
        self.retry_at = now + self.retry_after;
        self.retry_after = (self.retry_after * 2).min(LAST_RETRY);
        let Some(socket) = self.paths.iter().find_map(|path| socket::connect_to(path).ok()) else { return false };
        let Ok(uid) = socket::peer_uid(&socket) else { return false };
        if uid != 0 && *self.agent_uid.get_or_insert(uid) != uid {
            return false;
        }
        self.agent_uid.get_or_insert(uid);
        self.connection = Some(Connection {
            socket,
            buffer: FrameBuffer::default(),
            descriptors: VecDeque::new(),
            unsent: Vec::new(),
        });
        true
    }

    pub fn poll_entry(&self) -> Option<PollFd> {
        let connection = self.connection.as_ref()?;
        let events = if connection.unsent.is_empty() { POLLIN } else { POLLIN | POLLOUT };
        Some(PollFd { fd: connection.socket.as_raw_fd(), events, revents: 0 })
    }

    /// Sends, or keeps until the socket takes it. Lost with the connection: what matters is repeated after a reconnect.
    pub fn send(&mut self, frame: &ShimFrame, now: Instant) {
        let Some(connection) = self.connection.as_mut() else { return };
        // A frame that is too long cannot come about: every list and text in it is bounded where it is made.
        let Ok(bytes) = frame.encode() else { return };
        connection.unsent.extend_from_slice(&bytes);
        self.flush(now);
    }

    pub fn flush(&mut self, now: Instant) {
        let Some(connection) = self.connection.as_mut() else { return };
        while !connection.unsent.is_empty() {
            match socket::send_some(&connection.socket, &connection.unsent) {
                Ok(0) => break,
                Ok(sent) => drop(connection.unsent.drain(..sent)),
                Err(_) => return self.disconnect(now),
            }
        }
        if connection.unsent.len() > MAX_UNSENT_BYTES {
            self.disconnect(now);
        }
    }

    /// The next frame that has arrived. A broken or senseless stream ends the connection.
    pub fn receive(&mut self, now: Instant) -> Option<Delivery> {
        let mut bytes = [0; 16 * 1024];
        loop {
            let connection = self.connection.as_mut()?;
            match connection.next_delivery() {
                Err(()) => self.disconnect(now),
                Ok(Some(delivery)) => {
                    self.retry_after = FIRST_RETRY;
                    return Some(delivery);
                }
                Ok(None) => {
                    let mut arrived = Vec::new();
                    let result = socket::receive_some(&connection.socket, &mut bytes, &mut arrived);
                    connection.descriptors.extend(arrived);
                    match result {
                        Ok(Received::Nothing) => return None,
                        Ok(Received::Bytes(length)) => connection.buffer.push(&bytes[..length]),
                        Ok(Received::Closed) | Err(_) => self.disconnect(now),
                    }
                }
            }
        }
    }

    fn disconnect(&mut self, now: Instant) {
        self.connection = None;
        self.lost_at = now;
        self.retry_at = now + self.retry_after;
    }
}

impl Connection {
    fn next_delivery(&mut self) -> Result<Option<Delivery>, ()> {
        let Some(frame) = self.buffer.next_frame::<AgentFrame>().map_err(drop)? else {
            // Descriptors without their frame: at most what one frame may bring.
            return if self.descriptors.len() > MAX_DESCRIPTORS { Err(()) } else { Ok(None) };
        };
        let count = frame.descriptor_count();
        if count > self.descriptors.len() {
            return Err(());
        }
        Ok(Some(Delivery { descriptors: self.descriptors.drain(..count).collect(), frame }))
    }
}
