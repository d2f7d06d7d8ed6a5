//! Reads job files of every format into `domain::spec::JobSpec`, and writes the environment of their tasks. Pure.
//!
//! [`parse`] tells the format and hands over to its reader; today there is one, OpenPAI's JSON (`openpai`). A new
//! format is a new `Format` and a module beside `openpai`. [`mod@env`] says what a task finds in its environment.

pub mod env;
mod fields;
mod json;
mod openpai;
mod report;
mod secrets;
#[cfg(test)]
mod tests;
mod uri;

pub use report::{MAX_FOUND_CHARS, MAX_REPORTED};
pub use secrets::masked;
pub use uri::substitute;

use crate::domain::command::Violation;
use crate::domain::quantity::MAX_JOB_FILE_BYTES;
use crate::domain::spec::JobSpec;
use json::Lines;
use report::Report;

/// A valid job, and what its author may not have meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// URIs as in the file; see [`substitute`].
    pub spec: JobSpec,
    /// One sentence each, beginning with the field.
    pub warnings: Vec<String>,
}

/// Formats of job files, told apart by content first and by name second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    OpenPai,
    /// Known by sight, not read.
    Other(&'static str),
}

/// Reads a job file. Every mistake in it is found at once, up to [`MAX_REPORTED`] of them; a syntax error hides
/// those after it. `file_name` is for messages and to tell the format; empty or `-` for standard input.
pub fn parse(file_name: &str, content: &[u8]) -> Result<Parsed, Vec<Violation>> {
    let file = shown_name(file_name);
    let text = text_of(&file, content).map_err(|violation| vec![violation])?;
    match format_of(file_name, text) {
        Format::OpenPai => parse_openpai(&file, text),
        Format::Other(found) => {
            Err(vec![of_file(&file, "is of a format that is not read", found, "a job in OpenPAI's JSON")])
        }
    }
}

fn parse_openpai(file: &str, text: &str) -> Result<Parsed, Vec<Violation>> {
    let lines = Lines::of(text);
    let mut document = json::read(text).map_err(|error| {
        let (line, column) = lines.position(error.at);
        let message = format!("syntax error at line {line}, column {column}: {}", error.problem);
        vec![of_file(file, message, "", error.allowed)]
    })?;
    let mut report = Report::new(&lines);
    if let Some(first) = document.trailing_commas.first() {
        let count = document.trailing_commas.len();
        report.warn(
            file,
            *first,
            format_args!("{count} commas after a last entry, which strict JSON does not allow"),
        );
    }
    let secrets = secrets::lift(&mut document.root);
    let (duplicates, nuls) = json::check(&document.root, MAX_REPORTED + 1);
    for twice in duplicates {
        let first = report.line(twice.first_at);
        let message = format!("stands twice, first on line {first}");
        report.violation(&twice.path, twice.second_at, message, "", "each key once");
    }
    for nul in nuls {
        let found = json::quote(&nul.text, MAX_FOUND_CHARS);
        report.violation(&nul.path, nul.at, "holds a NUL character", found, "a text without \\u0000");
    }
    let spec = openpai::read(&document.root, secrets, file, &mut report);
    let warnings = report.finish(file)?;
    match spec {
        Some(spec) => Ok(Parsed { spec, warnings }),
        // A reader that gives nothing has said why; should one forget, the job is refused all the same.
        None => Err(vec![of_file(file, "could not be read", "", "a job in OpenPAI's JSON")]),
    }
}

/// A job file as JSON that every reader takes: as it is if it is strict JSON, else written anew without comments and
/// commas after last entries, numbers and the order of keys as they were. `None` if it is no job file.
pub fn strict_json(content: &[u8]) -> Option<Vec<u8>> {
    // As a whole value: what is only looked over may hold text that is no UTF-8, and halves of characters.
    if serde_json::from_slice::<serde_json::Value>(content).is_ok() {
        return Some(content.to_vec());
    }
    let text = text_of("job file", content).ok()?;
    json::read(text).ok().map(|document| json::to_text(&document.root.value).into_bytes())
}

/// The text of a file, without a byte order mark; what is no text at all is a violation.
fn text_of<'a>(file: &str, content: &'a [u8]) -> Result<&'a str, Violation> {
    if content.len() > MAX_JOB_FILE_BYTES {
        let found = format!("{} bytes", content.len());
        return Err(of_file(file, "is too large", found, format!("at most {MAX_JOB_FILE_BYTES} bytes")));
    }
    if content.starts_with(&[0xff, 0xfe]) || content.starts_with(&[0xfe, 0xff]) {
        return Err(of_file(file, "is UTF-16", "a UTF-16 byte order mark", "text in UTF-8"));
    }
    let text = std::str::from_utf8(content).map_err(|error| {
        let at = error.valid_up_to();
        let line = content[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("is not UTF-8: byte {at}, counted from 0, on line {line}");
        of_file(file, message, format!("byte 0x{:02x}", content[at]), "text in UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(of_file(file, "is empty", "", "a job in OpenPAI's JSON"));
    }
    Ok(text)
}

fn format_of(file_name: &str, text: &str) -> Format {
    let text = text.trim_start();
    let lower = file_name.to_ascii_lowercase();
    // JSON is YAML too, so the content decides before the name.
    if text.starts_with('{') || lower.ends_with(".json") {
        Format::OpenPai
    } else if text.starts_with("#!") {
        Format::Other("a script (#!)")
    } else if lower.ends_with(".yaml") || lower.ends_with(".yml") {
        Format::Other("YAML")
    } else {
        Format::OpenPai
    }
}

fn of_file(
    file: &str,
    message: impl Into<String>,
    found: impl Into<String>,
    allowed: impl Into<String>,
) -> Violation {
    Violation { field: file.to_owned(), message: message.into(), found: found.into(), allowed: allowed.into() }
}

/// A file's name for messages: printable and short.
fn shown_name(file_name: &str) -> String {
    if file_name.is_empty() || file_name == "-" {
        return "job file".to_owned();
    }
    file_name.chars().map(|c| if c.is_control() { '?' } else { c }).take(MAX_FOUND_CHARS).collect()
}
