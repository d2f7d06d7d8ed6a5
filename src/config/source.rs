//! From a TOML text to checked settings. What is wrong is told all at once, with file, line and key.

use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::nearest::nearest;
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use toml::de::DeTable;

/// Larger files are some other file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The settings of one kind of daemon.
pub trait Settings: DeserializeOwned {
    /// Every key a file may have.
    const KEYS: &'static [&'static str];

    /// What cannot work, by field; for flags as for files.
    fn check(&self) -> Vec<Violation>;

    /// They are from this file.
    fn are_from(&mut self, _file: &Path) {}
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1; `None` for what the file does not say.
    pub line: Option<usize>,
    pub violation: Violation,
}

/// Why there are no settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// As the operator named it.
    pub file: String,
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let line = problem.line.map(|line| format!("{line}: ")).unwrap_or_else(|| " ".to_owned());
            write!(f, "{separator}{}:{line}{}", self.file, problem.violation)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        let message = format!("the configuration is not valid\n{error}");
        let violations = error.problems.into_iter().map(|problem| problem.violation).collect();
        Self { violations, ..Self::new(ErrorKind::Invalid, message) }
    }
}

/// Reads and checks a file. Blocks.
pub fn load<T: Settings>(path: &Path) -> Result<T, ConfigError> {
    let file = path.display().to_string();
    let read = || -> std::io::Result<String> {
        if std::fs::metadata(path)?.len() > MAX_FILE_BYTES {
            return Err(std::io::Error::other("the file is over 1 MiB, so it is no configuration"));
        }
        std::fs::read_to_string(path)
    };
    match read() {
        Ok(text) => {
            let mut settings: T = parse(&file, &text)?;
            settings.are_from(path);
            Ok(settings)
        }
        Err(error) => {
            let violation = violation("file", format!("cannot be read: {error}"), "", "");
            Err(ConfigError { file, problems: vec![Problem { line: None, violation }] })
        }
    }
}

/// Checks a text; `file` is its name in messages.
pub fn parse<T: Settings>(file: &str, text: &str) -> Result<T, ConfigError> {
    let wrong = |problems| Err(ConfigError { file: file.to_owned(), problems });
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => return wrong(vec![from_toml(text, &[], &error)]),
    };
    let keys: Vec<Key<'_>> =
        table.get_ref().iter().map(|(name, _)| Key { name: name.get_ref(), at: name.span() }).collect();
    let unknown: Vec<_> = keys.iter().filter(|key| !T::KEYS.contains(&key.name)).collect();
    if !unknown.is_empty() {
        return wrong(unknown.into_iter().map(|key| unknown_key(text, key, T::KEYS)).collect());
    }
    let settings: T = match toml::from_str(text) {
        Ok(settings) => settings,
        Err(error) => return wrong(vec![from_toml(text, &keys, &error)]),
    };
    let violations = settings.check();
    if violations.is_empty() {
        return Ok(settings);
    }
    let place = |violation: Violation| {
        let first = violation.field.split(['.', '[']).next().unwrap_or_default();
        let line = keys.iter().find(|key| key.name == first).map(|key| line_of(text, key.at.start));
        Problem { line, violation }
    };
    wrong(violations.into_iter().map(place).collect())
}

/// A key at the top of a file, and where it is.
struct Key<'a> {
    name: &'a str,
    at: Range<usize>,
}

fn unknown_key(text: &str, key: &Key<'_>, known: &[&str]) -> Problem {
    let message = match nearest(key.name, known.iter().copied()) {
        Some(near) => format!("unknown key; did you mean '{near}'?"),
        None => "unknown key".to_owned(),
    };
    let violation = violation(key.name, message, "", known.join(", "));
    Problem { line: Some(line_of(text, key.at.start)), violation }
}

fn from_toml(text: &str, keys: &[Key<'_>], error: &toml::de::Error) -> Problem {
    let span = error.span();
    // The key that begins last before the place: what belongs to a key follows it.
    let before = |key: &&Key<'_>| span.as_ref().is_some_and(|span| key.at.start <= span.start);
    let field = keys.iter().filter(before).max_by_key(|key| key.at.start).map_or("syntax", |key| key.name);
    let found = span.clone().and_then(|span| text.get(span)).unwrap_or_default().trim();
    // Not twice; and a broken text may go on to the end of the file.
    let told = error.message().contains(found.trim_matches(['\'', '"']));
    let found: String = if told || found.contains('\n') { String::new() } else { found.chars().take(120).collect() };
    let violation = violation(field, error.message().replace('\n', ", "), found, "");
    Problem { line: span.map(|span| line_of(text, span.start)), violation }
}

fn violation(
    field: &str,
    message: impl Into<String>,
    found: impl Into<String>,
    allowed: impl Into<String>,
) -> Violation {
    Violation { field: field.to_owned(), message: message.into(), found: found.into(), allowed: allowed.into() }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::super::{AgentConfig, ControllerConfig};
    use super::*;

    fn message(text: &str) -> String {
        parse::<AgentConfig>("agent.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn unknown_keys_are_told_all_at_once_with_line_and_nearest() {
        let text = message("# mine\nname = 'n'\ndata-dir = '/x'\n\n[lables]\na = '1'\n[zzzzzzzzzz]\n");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines.iter().any(|l| l.starts_with("agent.toml:3: data-dir: unknown key; did you mean 'data_dir'?")));
        assert!(lines.iter().any(|l| l.starts_with("agent.toml:5: lables: unknown key; did you mean 'labels'?")));
        assert!(lines.iter().any(|l| l.starts_with("agent.toml:7: zzzzzzzzzz: unknown key; allowed: data_dir")));
    }

    #[test]
    fn wrong_types_texts_and_syntax_name_line_and_key() {
        let text = message("name = 'n'\nlog_segments = 'many'\n");
        assert!(text.starts_with("agent.toml:2: log_segments: invalid type"), "{text}");
        let text = message("name = 'n'\ngpus = 'sim:x'\n");
        assert!(text.starts_with("agent.toml:2: gpus: found 'sim:x'; allowed: auto"), "{text}");
        let text = message("listen = [\n  '127.0.0.1:1',\n  'nowhere',\n]\n");
        assert!(text.contains(": listen: there is no port; found 'nowhere'; allowed: HOST:PORT"), "{text}");
        let text = message("[labels]\na = 7\n");
        assert!(text.starts_with("agent.toml:2: labels: invalid type"), "{text}");
        let text = message("name = 'n'\nlisten = = 3\n");
        assert!(text.starts_with("agent.toml:2: syntax: "), "{text}");
        let text = message("name = 'n'\nname = 'm'\n");
        assert!(text.starts_with("agent.toml:2: syntax: duplicate key"), "{text}");
    }

    #[test]
    fn what_cannot_work_names_its_line_too() {
        let text = message("name = 'n'\n\ncpus = 0\nlog_segments = 0\n");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("agent.toml:3: cpus: "), "{text}");
        assert!(lines[1].starts_with("agent.toml:4: log_segments: "), "{text}");
        let error = Error::from(parse::<AgentConfig>("agent.toml", "log_segments = 0").unwrap_err());
        assert_eq!((error.kind, error.violations[0].field.as_str()), (ErrorKind::Invalid, "log_segments"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = load::<ControllerConfig>(Path::new("/nonexistent/c.toml")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/c.toml: file: cannot be read: No such file"), "{error}");
    }

    /// The list of keys is written by hand; serde knows the true one.
    #[test]
    fn the_keys_are_those_of_the_settings() {
        fn check<T: Settings + std::fmt::Debug>() {
            let error = toml::from_str::<T>("no_such_key = 1").unwrap_err().to_string();
            let expected: Vec<_> = error.split('`').skip(3).step_by(2).collect();
            assert_eq!(T::KEYS, expected);
        }
        check::<AgentConfig>();
        check::<ControllerConfig>();
    }
}
