//! Accounts and groups of a node by number.

use std::fmt;
use std::ops::RangeInclusive;

/// Numbers and ranges of them.
/// None by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserIds(Vec<RangeInclusive<u32>>);

impl UserIds {
    /// Everybody, root too.
    pub fn all() -> Self {
        Self(vec![0..=u32::MAX])
    }

    /// Entries such as `1000` and `2000-2999`; `Err` is the one that is neither.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let range = |entry: &'a str| {
            let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
            let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
            range.map(|(first, last)| first..=last).ok_or(entry)
        };
        entries.into_iter().map(range).collect::<Result<_, _>>().map(Self)
    }

    pub fn contains(&self, uid: u32) -> bool {
        self.0.iter().any(|range| range.contains(&uid))
    }
}

impl fmt::Display for UserIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, range) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            let (first, last) = (range.start(), range.end());
            if first == last { write!(f, "{separator}{first}")? } else { write!(f, "{separator}{first}-{last}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges_are_read() {
        let ids = UserIds::parse(["0", "1000-1999"]).unwrap();
        assert!([0, 1000, 1999].into_iter().all(|uid| ids.contains(uid)));
        assert!(![1, 999, 2000, u32::MAX].into_iter().any(|uid| ids.contains(uid)));
        assert_eq!(ids.to_string(), "0, 1000-1999");
        for wrong in ["", "-1", "2-1", "root", "1-2-3", "4294967296"] {
            assert_eq!(UserIds::parse([wrong]), Err(wrong));
        }
        assert!(!UserIds::parse([]).unwrap().contains(0));
        assert!(UserIds::all().contains(0) && UserIds::all().contains(u32::MAX));
    }
}
