//! TCP ports that are ours for as long as we hold them, against other tests and against the kernel.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Below the ports that the kernel gives to connections, above those that tasks are given.
const PORTS: std::ops::Range<u16> = 30_100..32_700;

/// Ports that one node gives to tasks: below those of which agents without a range take a slice, which may be there too.
const FIRST: u16 = 10_000;
const BLOCK: u16 = 200;
const BLOCKS: std::ops::Range<u16> = 0..25;

/// A name that only one process of the machine can have, and that ends with it.
fn claim(name: &str) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(name).expect("the name is short");
    UnixListener::bind_addr(&name).ok()
}

/// A claim on a port.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _claim: UnixListener,
}

impl Port {
    pub fn claim() -> Self {
        let count = PORTS.end - PORTS.start;
        let first = (std::process::id() % u32::from(count)) as u16;
        for step in 0..count {
            let number = PORTS.start + (first + step) % count;
            let name =
                SocketAddr::from_abstract_name(format!("wharf-test-port-{number}")).expect("the name is short");
            let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
            if std::net::TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _claim: claim };
            }
        }
        panic!("no port from {} to {} is free", PORTS.start, PORTS.end);
    }
}

/// A claim on the ports of one node.
#[derive(Debug)]
pub struct Block {
    pub first: u16,
    pub last: u16,
    _claim: UnixListener,
}

impl Block {
    pub fn claim() -> Self {
        let start = (std::process::id() % u32::from(BLOCKS.end)) as u16;
        let mut blocks = BLOCKS.map(|step| (start + step) % BLOCKS.end);
        let found = blocks.find_map(|block| Some((block, claim(&format!("wharf-test-block-{block}"))?)));
        let (block, claim) = found.expect("not every block of ports is in use");
        let first = FIRST + block * BLOCK;
        Self { first, last: first + BLOCK - 1, _claim: claim }
    }
}
