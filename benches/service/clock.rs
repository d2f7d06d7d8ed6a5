//! Where stamps arrive, and this side's clock.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest time that anything measured may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program that stamps, and the socket that its stamps come to.
pub struct Stamps {
    pub program: PathBuf,
    socket: UdpSocket,
    pub port: u16,
}

pub fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_nanos()
}

/// Milliseconds since `start_ns`.
#[allow(clippy::cast_precision_loss)]
pub fn ms_between(start_ns: u128, end_ns: u128) -> f64 {
    (end_ns as i128 - start_ns as i128) as f64 / 1e6
}

impl Stamps {
    pub fn build(folder: &Path) -> Self {
        let program = folder.join("stamp");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/service/stamp.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let built = Command::new(rustc)
            .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-o"])
            .arg(&program)
            .arg(source)
            .status();
        assert!(built.expect("rustc starts").success(), "the stamp does not compile");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        let port = socket.local_addr().expect("it is bound").port();
        Self { program, socket, port }
    }

    /// The stamp with this tag: when the command's first instruction ran. Others are late and passed over.
    pub fn wait(&self, tag: &str) -> u128 {
        loop {
            let (found, time) = self.next();
            if found == tag {
                return time;
            }
        }
    }

    /// `count` stamps whose tags begin so.
    pub fn wait_all(&self, tags: &str, count: usize) -> Vec<u128> {
        let mut times = Vec::new();
        while times.len() < count {
            let (found, time) = self.next();
            if found.starts_with(tags) {
                times.push(time);
            }
        }
        times
    }

    fn next(&self) -> (String, u128) {
        let mut buffer = [0; 256];
        let (length, _) = self.socket.recv_from(&mut buffer).expect("a stamp arrives in time");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let (tag, time) = text.split_once(' ').expect("a stamp is a tag and a time");
        (tag.to_owned(), time.parse().expect("stamps are numbers"))
    }
}
