//! Numbers that look random and follow from a seed: SplitMix64 (Steele, Lea, Flood 2014), and the few
//! distributions that traces and faults need.

/// A stream of numbers. Streams of different keys have nothing in common.
#[derive(Debug, Clone)]
pub struct Chance(u64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

const fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Chance {
    /// The stream of a key, such as seed, purpose, job, attempt.
    pub fn of(key: &[u64]) -> Self {
        Self(key.iter().fold(STEP, |state, word| mixed(state ^ mixed(word.wrapping_add(STEP)))))
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        // A double has 53 bits.
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// Time to the next event of a Poisson process with this mean time between two.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    /// Log-normal: `median` times e to a normal of standard deviation `sigma` (Box-Muller).
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        median * (sigma * radius * angle.cos()).exp()
    }

    /// One of `choices`, each as likely as its weight says.
    pub fn weighted<T: Copy>(&mut self, choices: &[(T, f64)]) -> Option<T> {
        let total: f64 = choices.iter().map(|(_, weight)| weight).sum();
        let mut left = self.uniform() * total;
        let hit = choices.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        hit.or(choices.last()).map(|(choice, _)| *choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(count: u32, mut of: impl FnMut() -> f64) -> f64 {
        (0..count).map(|_| of()).sum::<f64>() / f64::from(count)
    }

    #[test]
    fn one_key_gives_one_stream() {
        let take = |key: &[u64]| {
            let mut chance = Chance::of(key);
            [chance.bits(), chance.bits(), chance.bits()]
        };
        assert_eq!(take(&[1, 2]), take(&[1, 2]));
        assert_ne!(take(&[1, 2]), take(&[2, 1]));
        assert_ne!(take(&[1]), take(&[1, 0]));
    }

    #[test]
    fn distributions_have_their_means() {
        let mut chance = Chance::of(&[7]);
        assert!((mean(20_000, || chance.uniform()) - 0.5).abs() < 0.02);
        assert!((mean(20_000, || chance.exponential(3.0)) - 3.0).abs() < 0.15);
        let expected = 10.0 * (0.5f64 * 0.5 / 2.0).exp();
        assert!((mean(20_000, || chance.log_normal(10.0, 0.5)) - expected).abs() < 0.3);
        let heads =
            mean(20_000, || if chance.weighted(&[(true, 3.0), (false, 1.0)]) == Some(true) { 1.0 } else { 0.0 });
        assert!((heads - 0.75).abs() < 0.02);
    }
}
