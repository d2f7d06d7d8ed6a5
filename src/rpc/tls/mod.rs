//! TLS between everything of one cluster: its own authority, what certificates say, and both ends of a connection.
//!
//! Names in certificates are of ours and not of the network's: a controller is [`CONTROLLER`], a node is [`of_node`] its
//! name. So addresses may change, and no entry of a name service decides who is believed. TLS 1.3 alone.

pub mod authority;
pub mod client;
pub mod first_contact;
pub mod key;
pub mod refusing;
pub mod server;

use crate::domain::access::token::Fingerprint;
use crate::domain::command::{Error, ErrorKind};
use ring::digest::{SHA256, digest};
use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// What every controller's certificate is for.
pub const CONTROLLER: &str = "controller.wharf.internal";
const NODES: &str = ".node.wharf.internal";
/// Protocols inside of TLS: gRPC, and HTTP for everybody else.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What the certificate of the node `name` is for. Names of nodes may hold more than names of hosts.
pub fn of_node(name: &str) -> String {
    let hash = digest(&SHA256, name.as_bytes());
    let word: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{word}{NODES}")
}

pub fn fingerprint(certificate: &[u8]) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
    Fingerprint(bytes)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("{what}: {error}"))
}
