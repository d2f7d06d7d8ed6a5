//! HTTP/1.1 by hand: what `curl` would not send.

use crate::harness::Cluster;
use crate::harness::wait::PATIENCE;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A connection.
pub struct Raw {
    stream: TcpStream,
    /// Read beyond the last answer.
    rest: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}{}", self.head, self.text()))
    }
}

/// A request with JSON, or without content.
pub fn request(method: &str, target: &str, content: &[u8]) -> Vec<u8> {
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    if !content.is_empty() {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", content.len());
    }
    let mut request = (request + "\r\n").into_bytes();
    request.extend_from_slice(content);
    request
}

impl Raw {
    pub fn connect(cluster: &Cluster) -> Self {
        let stream = TcpStream::connect(cluster.address()).expect("the controller listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out can be set");
        Self { stream, rest: Vec::new() }
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn ask(cluster: &Cluster, request: &[u8]) -> Answer {
        let mut raw = Self::connect(cluster);
        raw.send(request);
        raw.answer().expect("there is an answer")
    }

    /// The other end may have closed already: then the answer, or none, tells more.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next answer; `None` when the connection ends before one begins.
    pub fn answer(&mut self) -> Option<Answer> {
        let head = loop {
            if let Some(end) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                let behind = self.rest.split_off(end + 4);
                break std::mem::replace(&mut self.rest, behind);
            }
            self.more()?;
        };
        let head = String::from_utf8(head).expect("headers of answers are text");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let value = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .clone()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let body = if value("transfer-encoding").as_deref() == Some("chunked") {
            self.chunks()
        } else {
            let length = value("content-length").map_or(0, |length| length.parse().expect("a length"));
            self.exactly(length)
        };
        Some(Answer { status, head, body })
    }

    /// Whatever has come and not been looked at; `None` when the connection has ended.
    pub fn some(&mut self) -> Option<Vec<u8>> {
        if self.rest.is_empty() {
            self.more()?;
        }
        Some(std::mem::take(&mut self.rest))
    }

    /// Reads until the other end closes it, which it does.
    pub fn ends(&mut self) -> bool {
        while self.some().is_some() {}
        true
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(count) => {
                self.rest.extend_from_slice(&buffer[..count]);
                Some(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("reading an answer: {error}; so far {:?}", String::from_utf8_lossy(&self.rest)),
        }
    }

    fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.rest.len() < length {
            self.more().expect("the whole body comes");
        }
        let behind = self.rest.split_off(length);
        std::mem::replace(&mut self.rest, behind)
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            while !self.rest.windows(2).any(|two| two == b"\r\n") {
                self.more().expect("the whole body comes");
            }
            let end = self.rest.windows(2).position(|two| two == b"\r\n").expect("it is there");
            let size = String::from_utf8(self.exactly(end + 2)).expect("a size");
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            let chunk = self.exactly(size + 2);
            if size == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
}
