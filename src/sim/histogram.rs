//! Percentiles of as many durations as come, in little memory.

/// Parts that each power of two is divided into: values are kept to 1/64, 1.6 percent.
const PARTS: u32 = 64;
/// log2 of [`PARTS`].
const PART_BITS: u32 = PARTS.trailing_zeros();

/// Counts of whole numbers by their leading bits.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; ((64 - PART_BITS + 1) * PARTS) as usize], total: 0, max: 0 }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, value: u64, times: u64) {
        self.counts[bucket(value)] += times;
        self.total += times;
        if times > 0 {
            self.max = self.max.max(value);
        }
    }

    /// The value that `percent` of all are not above, rounded up to its bucket's end; 0 without values.
    pub(super) fn percentile(&self, percent: u32) -> u64 {
        let rank = (u128::from(self.total) * u128::from(percent)).div_ceil(100).max(1);
        let mut seen = 0u128;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return end_of(at).min(self.max);
            }
        }
        self.max
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(value: u64) -> usize {
    let power = 63 - value.max(1).leading_zeros();
    if power < PART_BITS {
        return value as usize;
    }
    let shift = power - PART_BITS;
    let part = (value >> shift) as u32 - PARTS;
    ((shift + 1) * PARTS + part) as usize
}

fn end_of(bucket: usize) -> u64 {
    let (row, part) = (bucket as u64 / u64::from(PARTS), bucket as u64 % u64::from(PARTS));
    match row {
        0 => part,
        row => {
            let end = u128::from(u64::from(PARTS) + part + 1) << (row - 1);
            u64::try_from(end - 1).unwrap_or(u64::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_values_are_exact() {
        let mut histogram = Histogram::default();
        (1..=100).for_each(|value| histogram.add(value / 2, 1));
        assert_eq!((histogram.percentile(50), histogram.percentile(100), histogram.max()), (25, 50, 50));
        assert_eq!(Histogram::default().percentile(99), 0);
    }

    proptest! {
        #[test]
        fn values_are_kept_to_a_sixty_fourth(value in any::<u64>()) {
            let end = end_of(bucket(value));
            prop_assert!(end >= value);
            prop_assert!(end - value <= value / u64::from(PARTS));
        }
    }
}
