//! Errors and gRPC status, both ways.
//!
//! A status of ours carries `ErrorInfo` (domain `wharf`, reason the kind), `BadRequest` with one entry for each
//! violation, and `RetryInfo`. A violation's description reads as a sentence for any gRPC client; `parts` in the
//! `ErrorInfo` says where in it the message and the found text end, so that ours gets the four texts back.
//!
//! All of this travels in HTTP/2 trailers, which clients bound: the list is cut to a budget. Clients of ours
//! announce theirs in the request; everybody else gets what fits the 8 KiB that some gRPC libraries stop at.

use crate::domain::command::{Error, ErrorKind, Violation};
use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// What our clients accept as headers or trailers, in bytes.
pub(super) const MAX_HEADER_LIST_BYTES: u32 = 256 * 1024;
/// Bytes that a status may take for a client that announced nothing, and the most that may be announced.
const PLAIN_BUDGET_BYTES: usize = 6 * 1024;
const OWN_BUDGET_BYTES: usize = 192 * 1024;
const BUDGET_HEADER: &str = "wharf-status-bytes";

const DOMAIN: &str = "wharf";
const PARTS: &str = "parts";
/// `FIRST-LAST`, or one number, with commas between.
const BUSY_PORTS: &str = "busy_ports";
/// Longer lists are cut: the next try finds the rest.
const MAX_BUSY_PORTS_BYTES: usize = 2048;
const MAX_MESSAGE_BYTES: usize = 1024;
/// Texts of a violation are cut to this many bytes when they do not fit whole.
const SHORT_BYTES: usize = 200;
/// `RetryInfo` of more than ten thousand years is not valid; nobody waits a year either.
const MAX_RETRY_MS: u64 = 365 * 24 * 3600 * 1000;

pub(super) fn announce_budget(metadata: &mut MetadataMap) {
    metadata.insert(BUDGET_HEADER, MetadataValue::from(OWN_BUDGET_BYTES as u64));
}

/// How much of a status the caller of this request can take.
pub(super) fn budget(metadata: &MetadataMap) -> usize {
    let announced = metadata.get(BUDGET_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    announced.unwrap_or(PLAIN_BUDGET_BYTES).clamp(PLAIN_BUDGET_BYTES, OWN_BUDGET_BYTES)
}

const fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Refused => Code::FailedPrecondition,
        ErrorKind::Stale => Code::Aborted,
        ErrorKind::NotAllowed => Code::PermissionDenied,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    }
}

/// For a status that some other program or the transport made.
const fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        // An older program without the method.
        Code::FailedPrecondition | Code::Unimplemented => ErrorKind::Refused,
        Code::Aborted => ErrorKind::Stale,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::NotAllowed,
        // The transport says "out of range" of a message above the limit; cursors are ours and carry details.
        Code::ResourceExhausted | Code::OutOfRange => ErrorKind::Exhausted,
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => ErrorKind::Internal,
    }
}

/// The status that carries an error to a caller with this budget.
pub(super) fn to_status(error: Error, budget: usize) -> Status {
    let Error { kind, message, violations, retry_after_ms, busy_ports } = error;
    let busy_ports = ranges(busy_ports);
    let (message, violations) = fit(message, violations, budget.saturating_sub(busy_ports.len() * 4 / 3));
    let mut details = ErrorDetails::new();
    let parts = violations.iter().map(|v| format!("{}:{}", v.message.len(), v.found.len())).collect::<Vec<_>>();
    let mut parts = HashMap::from([(PARTS.to_owned(), parts.join(","))]);
    if !busy_ports.is_empty() {
        parts.insert(BUSY_PORTS.to_owned(), busy_ports);
    }
    details.set_error_info(kind.as_str().to_uppercase(), DOMAIN, parts);
    if !violations.is_empty() {
        let fields = violations.into_iter().map(|v| FieldViolation::new(v.field.clone(), describe(&v)));
        details.set_bad_request(fields.collect::<Vec<_>>());
    }
    if let Some(ms) = retry_after_ms {
        details.set_retry_info(Some(Duration::from_millis(ms.min(MAX_RETRY_MS))));
    }
    Status::with_error_details(code_of(kind), message, details)
}

/// What a violation says, without the field.
fn describe(violation: &Violation) -> String {
    let Violation { field: _, message, found, allowed } = violation;
    let mut text = message.clone();
    if !found.is_empty() {
        text.push_str("; found ");
        text.push_str(found);
    }
    if !allowed.is_empty() {
        text.push_str("; allowed: ");
        text.push_str(allowed);
    }
    text
}

/// The reverse of [`describe`]; `None` if the description is not one of ours.
fn undescribe(field: &str, text: &str, part: &str) -> Option<Violation> {
    let (message_bytes, found_bytes) = part.split_once(':')?;
    let (message_bytes, found_bytes): (usize, usize) = (message_bytes.parse().ok()?, found_bytes.parse().ok()?);
    let (message, mut rest) = text.split_at_checked(message_bytes)?;
    let mut found = "";
    if found_bytes > 0 {
        (found, rest) = rest.strip_prefix("; found ")?.split_at_checked(found_bytes)?;
    }
    let allowed = if rest.is_empty() { "" } else { rest.strip_prefix("; allowed: ")? };
    let own = str::to_owned;
    Some(Violation { field: own(field), message: own(message), found: own(found), allowed: own(allowed) })
}

/// Bytes of text once they travel: details are base64, a message is percent-encoded at worst and travels twice.
fn cost(violation: &Violation) -> usize {
    let text = violation.field.len() + violation.message.len() + violation.found.len() + violation.allowed.len();
    (text + 64) * 4 / 3
}

/// As many violations as fit; the message says when that is not all of them.
fn fit(message: String, violations: Vec<Violation>, budget: usize) -> (String, Vec<Violation>) {
    let message = shorten(message, MAX_MESSAGE_BYTES);
    let total = violations.len();
    let mut left = budget.saturating_sub(message.len() * 2 + 512);
    let mut kept = Vec::new();
    for violation in violations {
        let violation = if cost(&violation) <= left { violation } else { shortened(violation) };
        if cost(&violation) > left {
            break;
        }
        left -= cost(&violation);
        kept.push(violation);
    }
    let more = total - kept.len();
    if more == 0 {
        return (message, kept);
    }
    (format!("{message} ({total} fields are wrong: the first {}, and {more} more)", kept.len()), kept)
}

fn shortened(violation: Violation) -> Violation {
    let Violation { field, message, found, allowed } = violation;
    let cut = |text| shorten(text, SHORT_BYTES);
    Violation { field: cut(field), message: cut(message), found: cut(found), allowed: cut(allowed) }
}

fn shorten(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        let fits = max_bytes.saturating_sub('…'.len_utf8());
        let end = (0..=fits).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The error that a status carries. `peer` (`agent at ADDRESS`) and `method` go into the message of one that the
/// peer did not word itself.
pub(super) fn from_status(status: &Status, peer: &str, method: &str) -> Error {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN);
    let parts: Vec<&str> =
        info.and_then(|info| info.metadata.get(PARTS)).map_or_else(Vec::new, |parts| parts.split(',').collect());
    let fields = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    let violation = |(i, wrong): (usize, &FieldViolation)| {
        let plain = || Violation {
            field: wrong.field.clone(),
            message: wrong.description.clone(),
            found: String::new(),
            allowed: String::new(),
        };
        parts.get(i).and_then(|part| undescribe(&wrong.field, &wrong.description, part)).unwrap_or_else(plain)
    };
    let violations = fields.iter().enumerate().map(violation).collect();
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    let retry_after_ms = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    let (kind, message) = match info {
        Some(info) => (kind_of_reason(&info.reason, status.code()), status.message().to_owned()),
        None => foreign(status, peer, method),
    };
    let ports = info.and_then(|info| info.metadata.get(BUSY_PORTS)).map_or("", String::as_str);
    let busy_ports = of_ranges(ports);
    Error { kind, message, violations, retry_after_ms, busy_ports }
}

/// Ports in order, each once.
fn ranges(mut ports: Vec<u16>) -> String {
    ports.sort_unstable();
    ports.dedup();
    let mut text = String::new();
    for range in ports.chunk_by(|a, b| b - a == 1) {
        let (first, last) = (range[0], range[range.len() - 1]);
        let one = if first == last { first.to_string() } else { format!("{first}-{last}") };
        if text.len() + one.len() >= MAX_BUSY_PORTS_BYTES {
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&one);
    }
    text
}

/// The reverse. What is no port or range is passed over.
fn of_ranges(text: &str) -> Vec<u16> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<u16>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let mut ports: Vec<u16> = text.split(',').filter_map(range).flatten().take(usize::from(u16::MAX)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn kind_of_reason(reason: &str, code: Code) -> ErrorKind {
    match kind_of(code) {
        // The one code that means something else coming from the transport.
        ErrorKind::Exhausted if reason == "OUT_OF_RANGE" => ErrorKind::OutOfRange,
        kind => kind,
    }
}

/// How the message of an error begins when the request was never sent.
const NO_CONNECTION: &str = "no connection to the ";

/// No controller was reached at all, so that nothing can have happened there. Anything else that is unavailable may
/// have broken off after the request had arrived.
pub fn never_sent(error: &Error) -> bool {
    error.kind == ErrorKind::Unavailable
        && error.message.strip_prefix(NO_CONNECTION).is_some_and(|peer| peer.starts_with("controller "))
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |error: &&(dyn std::error::Error + 'static)| (*error).source())
}

/// A status made by the transport, by a library, or by a program that is not ours.
fn foreign(status: &Status, peer: &str, method: &str) -> (ErrorKind, String) {
    if sources(status).any(|error| error.is::<tonic::ConnectError>()) {
        let cause = sources(status).last().map_or_else(|| status.message().to_owned(), ToString::to_string);
        return (ErrorKind::Unavailable, format!("{NO_CONNECTION}{peer}: {cause}"));
    }
    let mut message = status.message().to_owned();
    for error in sources(status) {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
    }
    let expired = message.contains("Timeout expired");
    let kind = match status.code() {
        Code::Cancelled | Code::Unknown if expired => ErrorKind::DeadlineExceeded,
        // Only what this side of the connection made has a source: the connection broke.
        Code::Unknown | Code::Internal | Code::Cancelled if status.source().is_some() => ErrorKind::Unavailable,
        code => kind_of(code),
    };
    if kind == ErrorKind::Unavailable && status.source().is_some() {
        return (kind, format!("{method}: the connection to the {peer} broke ({message})"));
    }
    let message = if message.is_empty() { format!("ended with {:?}", status.code()) } else { message };
    (kind, format!("{method} on the {peer}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [ErrorKind; 11] = [
        ErrorKind::Invalid,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::Refused,
        ErrorKind::Stale,
        ErrorKind::NotAllowed,
        ErrorKind::Exhausted,
        ErrorKind::OutOfRange,
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Internal,
    ];

    fn violation(i: usize) -> Violation {
        Violation {
            field: format!("taskRoles[{i}].gpuNumber"),
            message: "is not a number of GPUs".into(),
            found: "-1; allowed: x".into(),
            allowed: "0 to 16".into(),
        }
    }

    #[test]
    fn every_kind_has_its_own_code_and_comes_back() {
        let mut codes: Vec<i32> = Vec::new();
        for kind in KINDS {
            let error = Error::new(kind, "stopping job 7: no such job");
            let status = to_status(error.clone(), PLAIN_BUDGET_BYTES);
            codes.push(status.code().into());
            assert_eq!(from_status(&status, "agent at x", "Stop"), error);
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KINDS.len());
    }

    #[test]
    fn a_list_above_the_budget_is_cut_and_counted() {
        let error = Error { violations: (0..5000).map(violation).collect(), ..Error::new(ErrorKind::Invalid, "no") };
        for (budget, at_least) in [(PLAIN_BUDGET_BYTES, 20), (OWN_BUDGET_BYTES, 700)] {
            let status = to_status(error.clone(), budget);
            let bytes = status.details().len() * 4 / 3 + status.message().len() * 3;
            assert!(bytes <= budget, "{bytes} > {budget}");
            let back = from_status(&status, "agent at x", "Stop");
            let (kept, more) = (back.violations.len(), 5000 - back.violations.len());
            assert!(kept >= at_least, "{kept}");
            assert_eq!(back.violations, error.violations[..kept]);
            assert_eq!(back.message, format!("no (5000 fields are wrong: the first {kept}, and {more} more)"));
        }
    }

    #[test]
    fn one_enormous_violation_is_shortened_rather_than_lost() {
        let huge = Violation { found: "ü".repeat(1 << 20), ..violation(0) };
        let error = Error { violations: vec![huge], ..Error::new(ErrorKind::Invalid, "é".repeat(1 << 20)) };
        let back = from_status(&to_status(error, PLAIN_BUDGET_BYTES), "agent at x", "Stop");
        assert_eq!(back.violations[0].allowed, "0 to 16");
        assert!(back.violations[0].found.ends_with('…'));
        assert!(back.message.len() <= MAX_MESSAGE_BYTES);
    }

    #[test]
    fn statuses_of_others_name_the_peer() {
        let error = from_status(&Status::unimplemented("no method"), "agent at 10.0.0.7:7601", "Stage");
        assert_eq!(error.kind, ErrorKind::Refused);
        assert_eq!(error.message, "Stage on the agent at 10.0.0.7:7601: no method");
        let error = from_status(&Status::out_of_range("message too large"), "agent at x", "Stage");
        assert_eq!(error.kind, ErrorKind::Exhausted);
        let odd = Status::with_details(Code::NotFound, "", vec![0xff, 0x03, 0x00].into());
        assert_eq!(from_status(&odd, "agent at x", "Stage").kind, ErrorKind::NotFound);
    }

    #[test]
    fn busy_ports_travel_as_ranges_and_never_without_end() {
        assert_eq!(ranges(vec![7, 5, 6, 9, 5, 65_535]), "5-7,9,65535");
        assert_eq!(of_ranges("5-7,9,65535,x,9-,70000,8-6,"), [5, 6, 7, 9, 65_535]);
        assert_eq!(of_ranges(""), [0; 0]);
        let scattered = ranges((0..30_000).map(|n| n * 2).collect());
        assert!(scattered.len() < MAX_BUSY_PORTS_BYTES && of_ranges(&scattered).len() > 300, "{scattered}");
        assert_eq!(of_ranges(&vec!["0-65535"; 1000].join(",")).len(), usize::from(u16::MAX));
    }

    proptest! {
        #[test]
        fn errors_survive(
            kind in 0..KINDS.len(),
            message in ".{0,60}",
            violations in proptest::collection::vec((".{0,9}", ".{0,30}", ".{0,9}", ".{0,9}"), 0..4),
            retry_after_ms in proptest::option::of(0..MAX_RETRY_MS),
            busy_ports in proptest::collection::btree_set(any::<u16>(), 0..100),
        ) {
            let violations = violations
                .into_iter()
                .map(|(field, message, found, allowed)| Violation { field, message, found, allowed })
                .collect();
            let error = Error { kind: KINDS[kind], message, violations, retry_after_ms, busy_ports: busy_ports.into_iter().collect() };
            prop_assert_eq!(from_status(&to_status(error.clone(), OWN_BUDGET_BYTES), "p", "m"), error);
        }

        #[test]
        fn any_description_parses_to_something(text in ".{0,40}", part in "[0-9]{0,3}:?[0-9]{0,3}") {
            let _ = undescribe("field", &text, &part);
        }
    }
}
