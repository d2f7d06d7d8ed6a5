//! A place in the output of one task, as text that a client keeps and hands back: `TASK:SEQUENCE.OFFSET`.

use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::ids::TaskId;
use std::fmt;

/// How much of a log was consumed. Ordered: further is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Sequence of the last record consumed to its end; 0 is none.
    pub sequence: u64,
    /// Output bytes consumed, of both streams, lost ones included. More than the end of record `sequence` is a
    /// part of the next one.
    pub offset: u64,
}

/// A [`Place`] in the log of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    pub task: TaskId,
    pub place: Place,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}", self.task, self.place.sequence, self.place.offset)
    }
}

impl Cursor {
    /// Reads a cursor of `task`; one of another task is refused.
    pub fn parse(text: &str, task: TaskId) -> Result<Self, Error> {
        let (owner, place) = text.split_once(':').ok_or_else(|| malformed(text))?;
        let (sequence, offset) = place.split_once('.').ok_or_else(|| malformed(text))?;
        let owner: TaskId = owner.parse().map_err(|_| malformed(text))?;
        let place = Place {
            sequence: number(sequence).ok_or_else(|| malformed(text))?,
            offset: number(offset).ok_or_else(|| malformed(text))?,
        };
        if owner != task {
            let message = format!("the cursor belongs to task {owner}, the logs asked for are those of task {task}");
            return Err(invalid(text, message, format!("a cursor that begins with {task}:")));
        }
        Ok(Self { task, place })
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn malformed(text: &str) -> Error {
    invalid(text, "not a log cursor".to_owned(), "TASK:SEQUENCE.OFFSET, as a log record carries it".to_owned())
}

fn invalid(found: &str, message: String, allowed: String) -> Error {
    let found = format!("'{}'", found.chars().take(120).collect::<String>());
    let mut error = Error::new(ErrorKind::Invalid, format!("cursor {found}: {message}; allowed: {allowed}"));
    error.violations.push(Violation { field: "cursor".to_owned(), message, found, allowed });
    error
}

impl Cursor {
    /// The cursor has the right form, but the log has no such place.
    pub(super) fn does_not_fit(self, why: &str) -> Error {
        invalid(&self.to_string(), why.to_owned(), "a cursor that a record of this log carried".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(text: &str) -> TaskId {
        text.parse().unwrap()
    }

    #[test]
    fn cursors_survive_text() {
        let cursor = Cursor { task: task("1.2.3.4"), place: Place { sequence: 5, offset: u64::MAX } };
        assert_eq!(cursor.to_string(), format!("1.2.3.4:5.{}", u64::MAX));
        assert_eq!(Cursor::parse(&cursor.to_string(), task("1.2.3.4")), Ok(cursor));
    }

    #[test]
    fn other_texts_are_refused_with_the_field() {
        for text in [
            "",
            ":",
            "1.2.3.4",
            "1.2.3.4:5",
            "1.2.3.4:+5.6",
            "1.2.3:5.6",
            "1.2.3.4:5.6.7",
            "1.2.3.4:5.99999999999999999999",
        ] {
            let error = Cursor::parse(text, task("1.2.3.4")).unwrap_err();
            assert_eq!((error.kind, error.violations[0].field.as_str()), (ErrorKind::Invalid, "cursor"), "{text}");
            assert!(error.message.contains("TASK:SEQUENCE.OFFSET"), "{error}");
        }
    }

    #[test]
    fn a_cursor_of_another_task_is_refused_naming_both() {
        let error = Cursor::parse("1.2.3.4:5.6", task("1.2.3.5")).unwrap_err();
        assert!(error.message.contains("1.2.3.4") && error.message.contains("1.2.3.5"), "{error}");
    }
}
