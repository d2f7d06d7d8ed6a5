//! How long one task may run.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A time in whole seconds, such as `90s`, `15m`, `2h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunTime {
    seconds: u32,
}

/// With their seconds, the longest first.
const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl RunTime {
    /// `None`: no number with a unit, nothing at all, or more than 136 years.
    pub fn parse(text: &str) -> Option<Self> {
        let unit = text.chars().last()?;
        let (_, seconds) = UNITS.into_iter().find(|(known, _)| *known == unit)?;
        let digits = text.strip_suffix(unit)?;
        let number = digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0)?;
        Some(Self { seconds })
    }

    pub fn duration(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

impl fmt::Display for RunTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.into_iter().find(|(_, seconds)| self.seconds.is_multiple_of(*seconds));
        let (unit, seconds) = whole.unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.seconds / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_are_said_in_the_longest() {
        for (text, seconds, said) in
            [("90s", 90, "90s"), ("15m", 900, "15m"), ("48h", 172_800, "2d"), ("7d", 604_800, "7d")]
        {
            let time = RunTime::parse(text).unwrap();
            assert_eq!((time.duration(), time.to_string().as_str()), (Duration::from_secs(seconds), said));
        }
        for wrong in ["", "5", "s", "-1s", "+1s", "1w", "0d", "é", "4294967295d"] {
            assert_eq!(RunTime::parse(wrong), None, "{wrong}");
        }
    }
}
