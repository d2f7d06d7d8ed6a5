//! The measured command: says by UDP to 127.0.0.1:PORT at what CLOCK_REALTIME its first instruction ran.
//! Built by the benchmark as a static program, so that it runs in any image: `stamp PORT TAG`.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().unwrap_or_default();
    let tag = arguments.next().unwrap_or_default();
    let sent = std::net::UdpSocket::bind("127.0.0.1:0")
        .and_then(|socket| socket.send_to(format!("{tag} {now}").as_bytes(), format!("127.0.0.1:{port}")));
    if sent.is_err() {
        std::process::exit(1);
    }
}
