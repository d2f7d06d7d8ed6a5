//! wharf as a later version would be: it writes and speaks the next level, or `WHARF_LEVEL`, and adds to every record and
//! frame what a level may add.

use std::process::ExitCode;
use wharf::domain::level::{Level, next};

fn main() -> ExitCode {
    if let Some(level) = std::env::var("WHARF_LEVEL").ok().and_then(|text| Level::parse(&text)) {
        next::play(level);
    }
    ExitCode::from(wharf::cli::run(std::env::args_os().collect()))
}
