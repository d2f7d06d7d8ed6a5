//! Who may call: tokens, logins, and machines that join.

pub mod args;
mod join;
mod login;
mod token;
mod whoami;

pub use join::join;
pub use login::{Login, login, logout};
pub use token::token;
pub use whoami::whoami;

use super::fail::{Failure, bad_usage};
use crate::config::Endpoint;
use crate::domain::access::token::Token;
use std::io::{self, BufRead, IsTerminal, Write};

/// Longer than any token.
const MAX_LINE: u64 = 1024;

/// A token as it was given, or from standard input.
fn token_of(text: &str) -> Result<Token, Failure> {
    let parsed = |text: &str| text.trim().parse().map_err(|error| bad_usage(format!("{error}")));
    if text != "-" {
        return parsed(text);
    }
    let stdin = io::stdin();
    let line = if stdin.is_terminal() {
        let _ = write!(io::stderr(), "token: ");
        let _ = io::stderr().flush();
        super::terminal::unseen(read_line)?
    } else {
        read_line()?
    };
    parsed(&line)
}

fn read_line() -> io::Result<String> {
    use std::io::Read;
    let mut line = String::new();
    io::stdin().lock().take(MAX_LINE).read_line(&mut line)?;
    Ok(line)
}

/// `HOST:PORT,...` or `unix:PATH`.
fn endpoints_of(text: &str) -> Result<Vec<Endpoint>, Failure> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let found: Result<Vec<Endpoint>, Failure> =
        parts.map(|part| part.parse().map_err(|error| bad_usage(format!("ADDR: {error}")))).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad_usage("ADDR names no address: HOST:PORT is expected")),
        found => found,
    }
}
