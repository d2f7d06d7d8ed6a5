//! Ports that nobody uses any more and the kernel still keeps: connections that were closed from this side stay in
//! TIME_WAIT for a minute, and a socket without SO_REUSEADDR cannot be bound beside them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

/// What the kernel lists, a line per socket. A socket that is only bound is not listed.
const LISTS: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// As the lists write them.
const TIME_WAIT: &str = "06";
const LISTEN: &str = "0A";
/// The lists have no index and are read on the actor's thread, though only after a port was refused: a node with so
/// many sockets that this is not enough says that the port is taken, and the task is asked for again later.
const TIME: Duration = Duration::from_millis(50);
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What the sockets of a local port do.
#[derive(Debug, Clone, Copy)]
struct Sockets {
    /// All of them are in TIME_WAIT.
    lingering: bool,
    /// One of them listens.
    listening: bool,
}

/// Every local port with sockets; `None`: not known.
#[derive(Debug, Default)]
pub struct Lingering(Option<HashMap<u16, Sockets>>);

impl Lingering {
    /// Knows nothing, and so allows nothing, where the lists cannot be read in time.
    pub fn read() -> Self {
        let until = Instant::now() + TIME;
        let mut ports = HashMap::new();
        for list in LISTS {
            match read_list(list, until) {
                Some(text) => add(&mut ports, &text),
                None => return Self::default(),
            }
        }
        Self(Some(ports))
    }

    /// There are sockets of this port, and all of them are only waiting for their time to pass.
    pub fn only(&self, port: u16) -> bool {
        self.0.as_ref().and_then(|ports| ports.get(&port)).is_some_and(|sockets| sockets.lingering)
    }

    /// Of a port that cannot be bound: it is somebody's. One without any listed socket is bound by somebody who does
    /// not listen; one of which there are only connections may be nobody's any more.
    pub fn somebody_has(&self, port: u16) -> bool {
        self.0.as_ref().is_some_and(|ports| ports.get(&port).is_none_or(|sockets| sockets.listening))
    }
}

fn add(ports: &mut HashMap<u16, Sockets>, text: &str) {
    // sl, local address and port in hexadecimal, the remote ones, state, ...
    for line in text.lines().skip(1) {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let port = fields.next().and_then(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok());
        let (Some(port), Some(state)) = (port, fields.nth(1)) else { continue };
        let sockets = ports.entry(port).or_insert(Sockets { lingering: true, listening: false });
        sockets.lingering &= state == TIME_WAIT;
        sockets.listening |= state == LISTEN;
    }
}

/// `None`: not in time, or too long. A list that is not there (no IPv6) is empty.
fn read_list(path: &str, until: Instant) -> Option<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(String::new()),
        opened => opened.ok()?,
    };
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut piece).ok()? {
            0 => return String::from_utf8(bytes).ok(),
            length => bytes.extend_from_slice(&piece[..length]),
        }
        if bytes.len() > MAX_BYTES || Instant::now() > until {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_of_a_port_counts() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let (v4, v6) = ("0100007F", "0000000000000000FFFF00000100007F");
        let list = |ip: &str, sockets: &[(&str, &str)]| {
            let lines = sockets.iter().map(|(port, state)| format!("   0: {ip}:{port} {ip}:1F90 {state} 0:0 0:0\n"));
            format!("{head}{}", lines.collect::<String>())
        };
        let mut ports = HashMap::new();
        add(&mut ports, &list(v4, &[("1F91", "06"), ("1F91", "06"), ("1F92", "06"), ("1F92", "0A"), ("1F93", "06")]));
        add(&mut ports, &list(v6, &[("1F93", "08"), ("1F94", "06"), ("nonsense", "06")]));
        add(&mut ports, "\nshort\n");
        let lingering = Lingering(Some(ports));
        let found: Vec<u16> = (0x1F90..0x1F99).filter(|port| lingering.only(*port)).collect();
        assert_eq!(found, [0x1F91, 0x1F94]);
        let found: Vec<u16> = (0x1F90..0x1F96).filter(|port| lingering.somebody_has(*port)).collect();
        assert_eq!(found, [0x1F90, 0x1F92, 0x1F95]);
        assert!(!Lingering::default().somebody_has(1) && !Lingering::default().only(1), "nothing is known");
    }
}
