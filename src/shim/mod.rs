//! The static program under every task's command, and the parts of it that the agent speaks too.
//!
//! `main.rs` in this folder is compiled by `build.rs` into a program of its own that uses std and nothing else; the
//! modules declared here belong to both crates, so they name each other with `super::`. The agent's side of a
//! conversation is: give the program [`BINARY`] a socket to connect to, read [`protocol::ShimFrame`]s with
//! [`protocol::FrameBuffer`], answer with [`protocol::AgentFrame`]s.

pub mod check;
pub mod crc;
pub mod exit;
pub mod frame;
pub mod protocol;
pub mod record;
pub mod spec;
/// The shim's half of SSH; the agent needs its names.
#[allow(dead_code)]
pub mod ssh;
pub mod wire;

/// The program itself, an ELF file for this machine without a dynamic loader.
pub const BINARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wharf-shim"));
