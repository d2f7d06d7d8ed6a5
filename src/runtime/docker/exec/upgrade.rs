//! Starts a command that dockerd has made, and takes over the connection: from its answer on there is no HTTP any more
//! but the command's own bytes. Done by hand because with a terminal every byte is the command's, also one that looks
//! like a frame of a command without.

use crate::api::stream::ExecOutput;
use bollard::errors::Error as ClientError;
use std::io;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

const READ_BYTES: usize = 32 * 1024;
/// dockerd's is some 150 bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Of an error's text.
const MAX_ERROR_BYTES: usize = 64 * 1024;
const FRAME_HEAD_BYTES: usize = 8;

/// Where the command's input goes; closing it is its end.
pub type Input = OwnedWriteHalf;

/// What the command writes.
#[derive(Debug)]
pub struct Output {
    from: OwnedReadHalf,
    frames: Frames,
}

impl Output {
    /// The next piece; `None` is the end. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<io::Result<ExecOutput>> {
        loop {
            match self.frames.take() {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
            self.frames.pending.reserve(READ_BYTES);
            match self.from.read_buf(&mut self.frames.pending).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The caller has a deadline for it.
pub async fn start(
    socket: &Path,
    (major, minor): (usize, usize),
    exec: &str,
    tty: bool,
) -> Result<(Output, Input), ClientError> {
    let mut stream = UnixStream::connect(socket).await?;
    let body = format!(r#"{{"Detach":false,"Tty":{tty}}}"#);
    let request = format!(
        "POST /v{major}.{minor}/exec/{exec}/start HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n\
         Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let (head, rest) = read_head(&mut stream).await?;
    let status = status(&head).ok_or_else(|| broken("no HTTP", &head))?;
    // 200 is what dockerd says to those that do not ask for an upgrade.
    if !matches!(status, 101 | 200) {
        let message = message(&head, rest, &mut stream).await;
        return Err(ClientError::DockerResponseServerError { status_code: status, message });
    }
    let (from, input) = stream.into_split();
    Ok((Output { from, frames: Frames { pending: rest, framed: !tty, ..Frames::default() } }, input))
}

fn broken(what: &str, head: &str) -> io::Error {
    let begin: String = head.chars().take(80).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} in dockerd's answer: '{}'", begin.escape_default()))
}

/// Everything up to the empty line, and what came after it already.
async fn read_head(stream: &mut UnixStream) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::with_capacity(1024);
    loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&read).into_owned(), rest));
        }
        if read.len() >= MAX_HEAD_BYTES {
            return Err(broken("no end of the head", &String::from_utf8_lossy(&read)));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "dockerd closed the connection without an answer",
            ));
        }
    }
}

/// `HTTP/1.1 101 UPGRADED`
fn status(head: &str) -> Option<u16> {
    let mut words = head.lines().next()?.split(' ');
    words.next().filter(|word| word.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

/// What dockerd says of an error, as far as it can be read.
async fn message(head: &str, mut body: Vec<u8>, stream: &mut UnixStream) -> String {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.unwrap_or(MAX_ERROR_BYTES).min(MAX_ERROR_BYTES);
    while body.len() < length && stream.read_buf(&mut body).await.is_ok_and(|read| read > 0) {}
    body.truncate(length);
    let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let said = said.as_ref().and_then(|said| said.get("message")?.as_str());
    said.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned)
}

/// Cuts the bytes into pieces. Without a terminal they come in frames: one byte says which output, four how long the
/// frame is. With one, they are what they are.
#[derive(Debug, Default)]
struct Frames {
    pending: Vec<u8>,
    framed: bool,
    /// Of the frame that is being read.
    stderr: bool,
    left: usize,
}

impl Frames {
    /// The next piece of what has come, which may be a part of a frame.
    fn take(&mut self) -> io::Result<Option<ExecOutput>> {
        if !self.framed {
            let piece = std::mem::take(&mut self.pending);
            return Ok(Some(piece).filter(|piece| !piece.is_empty()).map(ExecOutput::Stdout));
        }
        while self.left == 0 {
            let Some(&[kind, 0, 0, 0, a, b, c, d]) = self.pending.first_chunk::<FRAME_HEAD_BYTES>() else {
                if self.pending.len() < FRAME_HEAD_BYTES {
                    return Ok(None);
                }
                return Err(io::Error::new(io::ErrorKind::InvalidData, "dockerd sent something that is no frame"));
            };
            self.stderr = kind == 2;
            self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            self.pending.drain(..FRAME_HEAD_BYTES);
        }
        if self.pending.is_empty() {
            return Ok(None);
        }
        let piece: Vec<u8> = self.pending.drain(..self.left.min(self.pending.len())).collect();
        self.left -= piece.len();
        Ok(Some(if self.stderr { ExecOutput::Stderr(piece) } else { ExecOutput::Stdout(piece) }))
    }
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
