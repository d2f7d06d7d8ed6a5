//! Durations as people write them: `90s`, `15m`, `2h`, `1d`.

use super::fail::{Failure, bad_usage};
use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// `flag` is where it was given, for the message.
pub fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    let seconds = match text.chars().last() {
        Some('s') => Some(1),
        Some('m') => Some(60),
        Some('h') => Some(3600),
        Some('d') => Some(86_400),
        _ => None,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|digits| digits.parse::<u32>().ok());
    let found = seconds.zip(number).map(|(seconds, number)| Duration::from_secs(u64::from(number) * seconds));
    found.filter(|duration| *duration <= LONGEST).ok_or_else(|| {
        bad_usage(format!("{flag} {text}: a duration of at most a year is expected, such as 90s, 15m, 2h or 1d"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        let seconds = |text| duration("--deadline", text).map(|duration| duration.as_secs()).ok();
        assert_eq!(["0s", "90s", "15m", "2h", "1d"].map(seconds), [0, 90, 900, 7200, 86_400].map(Some));
        for wrong in ["", "5", "s", "-1s", "1w", "é", "4000000000d", "366d"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
