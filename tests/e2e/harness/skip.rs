//! Skips are never silent: `tests/run` prints what this collects.

use std::io::Write;

/// Says that `what` was not tried, and why.
pub fn skip(what: &str, why: &str) {
    let line = format!("{what}: {why}\n");
    eprint!("not run here: {line}");
    let Some(path) = std::env::var_os("WHARF_SKIPS") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skips can be written");
}

/// The long suites were asked for (`tests/run all`).
pub fn is_long() -> bool {
    std::env::var_os("WHARF_LONG").is_some_and(|value| value == "1")
}
