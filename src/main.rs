//! Parses arguments, calls the library, chooses the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(wharf::cli::run(std::env::args_os().collect()))
}
