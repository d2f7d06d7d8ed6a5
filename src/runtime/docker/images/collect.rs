//! Which images go: those that nobody has needed for long, and more of them while the disk is nearly full. Pure.

use std::time::Duration;

/// Freed down to this much below the mark, so that it is not done again and again for little.
const STEP_PERCENT: u64 = 5;
/// An image stays this long after its last use, however full the disk is: between a task's staging and its container
/// nothing else holds it, and the rest of its gang may be staging for half an hour.
pub const LEAST_KEPT: Duration = Duration::from_secs(60 * 60);

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRules {
    /// Those not needed for so long go; `None`: never for that.
    pub keep: Option<Duration>,
    /// While the disk is fuller than this, the longest unused go; 100: never for that.
    pub high_percent: u8,
    /// Between two looks.
    pub every: Duration,
}

impl Default for ImageRules {
    fn default() -> Self {
        Self { keep: Some(Duration::from_secs(14 * 24 * 3600)), high_percent: 85, every: Duration::from_secs(600) }
    }
}

impl ImageRules {
    pub const fn is_off(&self) -> bool {
        self.keep.is_none() && self.high_percent >= 100
    }

    /// How many bytes of a disk have to go; 0 below the mark.
    pub fn excess(&self, total_bytes: u64, available_bytes: u64) -> u64 {
        let taken = u128::from(total_bytes.saturating_sub(available_bytes));
        let part = |percent: u64| u128::from(total_bytes) * u128::from(percent) / 100;
        let high = u64::from(self.high_percent);
        if high >= 100 || taken <= part(high) {
            return 0;
        }
        u64::try_from(taken.saturating_sub(part(high.saturating_sub(STEP_PERCENT)))).unwrap_or(u64::MAX)
    }
}

/// An image on the node that wharf has pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: String,
    pub bytes: u64,
    /// Since anybody needed it.
    pub unused: Duration,
    /// Some container, whosever, running or not, is made of it.
    pub in_use: bool,
    /// Somebody has given it a name of theirs.
    pub named_by_others: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Age,
    DiskPressure,
}

/// The images to remove, longest unused first, until `excess` bytes are free. What layers they share is not known, so
/// fewer may be freed; the next look tells.
pub fn to_remove(candidates: &[Candidate], rules: &ImageRules, excess: u64) -> Vec<(String, Why)> {
    let mut free: Vec<&Candidate> =
        candidates.iter().filter(|image| !image.in_use && !image.named_by_others).collect();
    free.sort_by(|a, b| b.unused.cmp(&a.unused).then_with(|| a.id.cmp(&b.id)));
    let mut left = excess;
    let mut going = Vec::new();
    for image in free {
        let why = if rules.keep.is_some_and(|keep| image.unused >= keep) {
            Why::Age
        } else if left > 0 && image.unused >= LEAST_KEPT {
            Why::DiskPressure
        } else {
            continue;
        };
        left = left.saturating_sub(image.bytes);
        going.push((image.id.clone(), why));
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hours an image is kept, bytes too many, what goes.
    type Row = (Option<u32>, u64, &'static [(&'static str, Why)]);

    const HOUR: Duration = Duration::from_secs(3600);

    fn image(id: &str, bytes: u64, hours: u32) -> Candidate {
        Candidate { id: id.into(), bytes, unused: HOUR * hours, in_use: false, named_by_others: false }
    }

    fn rules(keep_hours: Option<u32>) -> ImageRules {
        ImageRules { keep: keep_hours.map(|hours| HOUR * hours), ..ImageRules::default() }
    }

    #[test]
    fn age_and_pressure_take_the_longest_unused_and_nothing_that_anybody_needs() {
        let held = Candidate { in_use: true, ..image("held", 100, 99) };
        let theirs = Candidate { named_by_others: true, ..image("theirs", 100, 98) };
        let fresh = Candidate { unused: LEAST_KEPT / 2, ..image("fresh", 100, 0) };
        let all = [fresh, image("b", 10, 5), held, image("a", 10, 50), theirs, image("c", 10, 2)];
        let table: [Row; 6] = [
            (None, 0, &[]),
            (Some(24), 0, &[("a", Why::Age)]),
            (Some(5), 0, &[("a", Why::Age), ("b", Why::Age)]),
            // What goes for its age counts.
            (Some(24), 10, &[("a", Why::Age)]),
            (Some(24), 11, &[("a", Why::Age), ("b", Why::DiskPressure)]),
            (None, u64::MAX, &[("a", Why::DiskPressure), ("b", Why::DiskPressure), ("c", Why::DiskPressure)]),
        ];
        for (keep, excess, expected) in table {
            let found = to_remove(&all, &rules(keep), excess);
            let found: Vec<(&str, Why)> = found.iter().map(|(id, why)| (id.as_str(), *why)).collect();
            assert_eq!(found, expected, "{keep:?} {excess}");
        }
    }

    #[test]
    fn a_disk_is_freed_to_a_step_below_the_mark() {
        let rules = ImageRules { high_percent: 80, ..ImageRules::default() };
        for (taken, expected) in [(0, 0), (800, 0), (801, 51), (1000, 250)] {
            assert_eq!(rules.excess(1000, 1000 - taken), expected, "{taken}");
        }
        let never = ImageRules { high_percent: 100, keep: None, ..rules };
        assert!(never.is_off() && never.excess(1000, 0) == 0 && !rules.is_off());
    }
}
