//! What `--since` and `--cursor` mean.

use crate::cli::fail::{Failure, bad_usage};
use crate::domain::ids::TaskId;
use crate::domain::time::Timestamp;
use std::collections::HashMap;

/// Several cursors, one per task, separated by commas.
pub(super) fn parse_cursors(text: &str) -> Result<HashMap<TaskId, String>, Failure> {
    let mut cursors = HashMap::new();
    for cursor in text.split(',') {
        let task = cursor.split(':').next().unwrap_or_default();
        let id: TaskId = task.parse().map_err(|error| bad_usage(format!("--cursor {cursor}: {error}")))?;
        cursors.insert(id, cursor.to_owned());
    }
    Ok(cursors)
}

/// A time, or how long ago.
pub(super) fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if let Some(time) = Timestamp::parse_rfc3339(text) {
        return Ok(time);
    }
    let unit_ns: Option<i64> = match text.chars().last() {
        Some('s') => Some(1_000_000_000),
        Some('m') => Some(60 * 1_000_000_000),
        Some('h') => Some(3600 * 1_000_000_000),
        Some('d') => Some(86_400 * 1_000_000_000),
        _ => None,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|digits| digits.parse::<i64>().ok());
    match unit_ns.zip(number).filter(|(_, number)| *number >= 0) {
        Some((unit, number)) => Ok(Timestamp(now.0.saturating_sub(unit.saturating_mul(number)))),
        None => Err(bad_usage(format!(
            "--since {text}: a time such as 2026-01-31T12:00:00Z or a duration such as 90s, 15m, 2h or 1d is expected"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_times_and_durations() {
        let now = Timestamp(1_000_000_000_000);
        assert_eq!(parse_since("90s", now).unwrap(), Timestamp(910_000_000_000));
        assert_eq!(parse_since("2m", now).unwrap(), Timestamp(880_000_000_000));
        assert!(parse_since("1970-01-01T00:00:01Z", now).is_ok_and(|time| time == Timestamp(1_000_000_000)));
        for wrong in ["", "x", "5", "-5s", "5w", "é"] {
            assert!(parse_since(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cursors_are_sorted_by_task() {
        let cursors = parse_cursors("1.1.0.0:5.10,1.1.0.1:2.3").unwrap();
        assert_eq!(cursors.len(), 2);
        assert!(parse_cursors("nonsense").is_err());
    }
}
