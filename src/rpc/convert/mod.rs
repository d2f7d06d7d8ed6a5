//! Domain and protobuf, both ways, one file per area. To the wire cannot fail; from the wire is parsing, and a
//! wrong field is a [`Violation`] with its path in the message. Structs are taken apart field by field on the way
//! out, so that a new field of the domain does not compile until it travels.

pub(super) mod access;
mod checked;
mod command;
mod container;
mod exec;
pub(super) mod fault;
mod gpu;
mod job;
mod logs;
pub(super) mod node;
pub(super) mod node_change;
pub(super) mod principal;
mod task;

pub(super) use exec::{exec_inputs, exec_request, exec_spec, exec_start, launch_request, launch_variables, ssh_seed};
pub(super) use job::{event_filter, job_filter};
pub(super) use logs::{log_query, logs_request};

use crate::domain::command::Violation;
use crate::domain::ids::TaskId;
use crate::domain::time::Timestamp;

/// A value from the wire, or the field that is wrong.
pub(super) type Parsed<T> = Result<T, Violation>;

/// Longest name, id or word in bytes.
pub(super) const MAX_WORD_BYTES: usize = 256;
/// Longest address, image, cursor, page token or job reference (`USER/NAME`).
pub(super) const MAX_LINE_BYTES: usize = 4 * 1024;
/// Longest sentence for a person.
pub(super) const MAX_SENTENCE_BYTES: usize = 64 * 1024;
/// Longest command or value of a variable; the kernel's own limit for all of them is of this order.
pub(super) const MAX_COMMAND_BYTES: usize = 2 * 1024 * 1024;

pub(super) fn wrong(field: &str, message: &str, found: impl ToString, allowed: impl ToString) -> Violation {
    let found: String = found.to_string().chars().take(80).collect();
    Violation { field: field.to_owned(), message: message.to_owned(), found, allowed: allowed.to_string() }
}

/// Puts the path of the enclosing field in front.
pub(super) fn under(field: &str) -> impl Fn(Violation) -> Violation + '_ {
    move |inner| Violation { field: format!("{field}.{}", inner.field), ..inner }
}

pub(super) fn required<T>(value: Option<T>, field: &str) -> Parsed<T> {
    value.ok_or_else(|| wrong(field, "is missing", "", "a value"))
}

/// A message that has to be there.
pub(super) fn inner<P, D: TryFrom<P, Error = Violation>>(value: Option<P>, field: &str) -> Parsed<D> {
    D::try_from(required(value, field)?).map_err(under(field))
}

pub(super) fn optional<P, D: TryFrom<P, Error = Violation>>(value: Option<P>, field: &str) -> Parsed<Option<D>> {
    value.map(|value| D::try_from(value).map_err(under(field))).transpose()
}

pub(super) fn each<P, D: TryFrom<P, Error = Violation>>(values: Vec<P>, field: &str) -> Parsed<Vec<D>> {
    let parse = |(i, value)| D::try_from(value).map_err(|wrong| under(&format!("{field}[{i}]"))(wrong));
    values.into_iter().enumerate().map(parse).collect()
}

/// A text of at most `max` bytes; may be empty.
pub(super) fn text(value: String, field: &str, max: usize) -> Parsed<String> {
    if value.len() > max {
        return Err(wrong(field, "is too long", format!("{} bytes", value.len()), format!("at most {max} bytes")));
    }
    Ok(value)
}

/// A text that may not be empty.
pub(super) fn filled(value: String, field: &str, max: usize) -> Parsed<String> {
    if value.is_empty() {
        return Err(wrong(field, "is empty", "", format!("1 to {max} bytes")));
    }
    text(value, field, max)
}

/// Empty on the wire is absent here.
pub(super) fn maybe(value: String, field: &str, max: usize) -> Parsed<Option<String>> {
    Ok(Some(text(value, field, max)?).filter(|value| !value.is_empty()))
}

pub(super) fn texts(values: Vec<String>, field: &str, max: usize) -> Parsed<Vec<String>> {
    values.into_iter().enumerate().map(|(i, value)| text(value, &format!("{field}[{i}]"), max)).collect()
}

pub(super) fn optional_text(value: Option<String>, field: &str, max: usize) -> Parsed<Option<String>> {
    value.map(|value| text(value, field, max)).transpose()
}

pub(super) fn task_id(value: &str, field: &str) -> Parsed<TaskId> {
    value.parse().map_err(|_| wrong(field, "is not a task id", value, "four numbers, JOB.RUN.ROLE.INDEX"))
}

pub(super) fn port(value: u32, field: &str) -> Parsed<u16> {
    u16::try_from(value).map_err(|_| wrong(field, "is not a port", value, "0 to 65535"))
}

/// A zero time is "not known".
pub(super) fn time(nanos: i64) -> Option<Timestamp> {
    (nanos != 0).then_some(Timestamp(nanos))
}

pub(super) fn nanos(time: Option<Timestamp>) -> i64 {
    time.map_or(0, |time| time.0)
}
