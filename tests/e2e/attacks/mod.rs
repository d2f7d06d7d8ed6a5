//! Limits under attack: connections, requests and messages that nobody would send, readers and writers that are slow on
//! purpose, floods of output, and tasks that fork without end, against both daemons on every socket. Each has a twin that
//! is allowed and succeeds.
//!
//! An ordinary run tries some of each; `tests/security` and the long suites all of it. What is bounded is the daemons' own
//! peak of memory, never a time.

mod connections;
mod floods;
mod forks;
mod malformed;
mod memory;
mod site;
mod slow;
mod wire;

use crate::harness::skip::is_long;

/// Everything was asked for.
fn is_whole() -> bool {
    is_long() || std::env::var_os("WHARF_SECURITY_ROWS").is_some()
}

fn amount(whole: usize, some: usize) -> usize {
    if is_whole() { whole } else { some }
}
