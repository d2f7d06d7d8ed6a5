//! How commands fail: a sentence on stderr, with `--json` an object on stdout, and the exit code of the contract.

use super::exit_code::{FAILED, NOT_ALLOWED, OK, UNREACHED, USAGE};
use super::output;
use crate::domain::command::{Error, ErrorKind, Violation};
use clap::error::ContextKind;
use serde_json::json;
use std::io::{self, Write};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    Error(Error),
    /// Our own output could not be written.
    Output(io::Error),
    /// Everything has been said; only the code is left.
    Silent(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A mistake in what the user typed.
pub fn bad_usage(message: impl Into<String>) -> Failure {
    Failure::Error(Error::new(ErrorKind::Invalid, message))
}

/// The exit code of an error; every kind has chosen one.
pub const fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid | ErrorKind::NotFound => USAGE,
        ErrorKind::AlreadyExists
        | ErrorKind::Refused
        | ErrorKind::Stale
        | ErrorKind::Exhausted
        | ErrorKind::OutOfRange
        | ErrorKind::Internal => FAILED,
        ErrorKind::NotAllowed => NOT_ALLOWED,
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => UNREACHED,
    }
}

/// Says what went wrong and returns the exit code.
pub fn finish(result: Result<u8, Failure>, json: bool) -> u8 {
    match result {
        Ok(code) | Err(Failure::Silent(code)) => code,
        // Whoever reads us has seen enough, as with `| head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => OK,
        Err(Failure::Output(error)) => {
            let _ = writeln!(io::stderr(), "wharf: writing the output: {error}");
            FAILED
        }
        Err(Failure::Error(error)) => {
            report(&error, json);
            code_of(error.kind)
        }
    }
}

/// A sentence on stderr, and with `--json` an object on stdout.
pub fn report(error: &Error, json: bool) {
    if json {
        let first = error.violations.first();
        let object = json!({ "error": {
            "code": error.kind.as_str(),
            "message": error.message,
            "field": first.map(|violation| &violation.field),
            "found": first.map(|violation| &violation.found),
            "allowed": first.map(|violation| &violation.allowed),
            "violations": error.violations,
        }});
        // If stdout is gone, stderr still says it.
        let _ = output::write_all(format!("{object}\n").as_bytes());
    }
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "wharf: {}", error.message);
    for violation in listed(error) {
        let _ = writeln!(stderr, "  {violation}");
    }
}

/// A single violation is in the message already.
fn listed(error: &Error) -> &[Violation] {
    match error.violations.as_slice() {
        [only] if error.message.contains(&only.message) => &[],
        all => all,
    }
}

/// What clap says of the arguments: help and version are no failures.
pub fn usage(error: &clap::Error, json: bool) -> u8 {
    use clap::error::ErrorKind as Kind;
    if matches!(error.kind(), Kind::DisplayHelp | Kind::DisplayVersion) {
        return finish(error.print().map(|()| OK).map_err(Failure::from), json);
    }
    if json {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let object = json!({ "error": {
            "code": ErrorKind::Invalid.as_str(),
            "message": message,
            "field": said(error, ContextKind::InvalidArg),
            "found": said(error, ContextKind::InvalidValue).or_else(|| said(error, ContextKind::InvalidSubcommand)),
            "allowed": said(error, ContextKind::ValidValue).or_else(|| said(error, ContextKind::SuggestedSubcommand)),
            "violations": [],
        }});
        let _ = output::write_all(format!("{object}\n").as_bytes());
    }
    let _ = error.print();
    USAGE
}

/// What the parser knows of one side of a mistake.
fn said(error: &clap::Error, kind: ContextKind) -> Option<String> {
    error.get(kind).map(ToString::to_string).filter(|text| !text.is_empty())
}
