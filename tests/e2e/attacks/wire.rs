//! Connections and bytes by hand: what no client library would send.

use crate::harness::wait::PATIENCE;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// Of a PING and of SETTINGS.
pub(super) const ACK: u8 = 1;

/// A connection of either kind.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn connect(address: &str) -> io::Result<Self> {
        let stream = match address.strip_prefix("unix:") {
            Some(path) => Self::Unix(UnixStream::connect(path)?),
            None => Self::Tcp(TcpStream::connect(address)?),
        };
        stream.set_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    pub(super) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
        }
    }

    pub(super) fn is_blocking(&self, blocking: bool) {
        let set = match self {
            Self::Tcp(stream) => stream.set_nonblocking(!blocking),
            Self::Unix(stream) => stream.set_nonblocking(!blocking),
        };
        set.expect("a descriptor has modes");
    }

    /// False: the other end has closed it.
    pub(super) fn say(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).is_ok(),
            Self::Unix(stream) => stream.write_all(bytes).is_ok(),
        }
    }

    pub(super) fn say_no_more(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    /// What comes until the other end closes it, the first MB of it; `None` if that is never.
    pub(super) fn rest(&mut self) -> Option<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Some(all),
                Ok(count) if all.len() < 1 << 20 => all.extend_from_slice(&buffer[..count]),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return None;
                }
                // It was cut: an end as well.
                Err(_) => return Some(all),
            }
        }
    }

    /// Whether it has been closed, looking at what has come so far.
    pub(super) fn has_ended(&mut self) -> bool {
        self.is_blocking(false);
        let mut buffer = [0; 16 * 1024];
        let ended = loop {
            match self.read(&mut buffer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
            }
        };
        self.is_blocking(true);
        ended
    }

    /// The next frame of HTTP/2: kind, flags, stream, payload. `None`: the end.
    pub(super) fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.exactly(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.exactly(&mut payload)?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Agrees to what the other end has said of its windows, which count from then on.
    pub(super) fn settle(&mut self) -> bool {
        let settings =
            std::iter::from_fn(|| self.frame()).find(|(kind, flags, ..)| *kind == SETTINGS && flags & ACK == 0);
        settings.is_some() && self.say(&frame(SETTINGS, ACK, 0, &[]))
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Option<()> {
        let mut read = 0;
        while read < buffer.len() {
            match self.read(&mut buffer[read..]) {
                Ok(0) => return None,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(())
    }
}

/// One frame of HTTP/2.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a connection begins with.
pub(super) fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A header field in HPACK, without any compression.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The fields of a gRPC request.
pub(super) fn fields(path: &str) -> Vec<u8> {
    let fields = [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", "localhost"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ];
    fields.concat()
}

/// A request's headers and this much of its body; `end`: there is no more.
pub(super) fn request(stream: u32, path: &str, body: &[u8], end: bool) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &fields(path));
    let pieces: Vec<&[u8]> = if body.is_empty() { vec![body] } else { body.chunks(16 * 1024).collect() };
    for (number, piece) in pieces.iter().enumerate() {
        let last = end && number + 1 == pieces.len();
        bytes.extend(frame(DATA, if last { END_STREAM } else { 0 }, stream, piece));
    }
    bytes
}

/// A message as gRPC frames it.
pub(super) fn message(content: &[u8]) -> Vec<u8> {
    [&announced(u32::try_from(content.len()).expect("small")), content].concat()
}

/// The beginning of a message of this many bytes.
pub(super) fn announced(bytes: u32) -> Vec<u8> {
    [&[0][..], &bytes.to_be_bytes()].concat()
}

/// A field of a message that holds bytes, text or another message.
pub(super) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 127 {
        bytes.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

/// A principal, the first field of every request: user `root`.
pub(super) fn principal() -> Vec<u8> {
    field(1, &field(1, b"root"))
}
