//! What is not waited for: workers that were killed and have not ended, and devices that hang.
//!
//! A process that hangs in the kernel ends when its call does, perhaps never. So there is a bound on how many of them
//! there may be, and a device that hangs is not asked again while they are many.

use super::wire::Failure;
use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

/// With as many as this, hung devices are not asked again.
const MANY: usize = 4;
/// With as many as this, no worker is started.
const MOST: usize = 8;
/// For so long after its last pause a device is known to hang, unless it answers when it is asked again.
const KNOWN_FOR: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Abandoned(Vec<Child>);

impl Abandoned {
    pub(super) fn add(&mut self, child: impl IntoIterator<Item = Child>) {
        self.0.extend(child);
    }

    /// Takes the ended ones out of the kernel's table.
    pub(super) fn reap(&mut self) {
        self.0.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    pub(super) fn are_many(&self) -> bool {
        self.0.len() >= MANY
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.0.len() >= MOST
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A pause that doubles, from a first to a longest one.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    until: Instant,
    length: Duration,
}

impl Pause {
    /// The pause after another failure.
    pub(super) fn after(before: Option<&Self>, now: Instant, (first, longest): (Duration, Duration)) -> Self {
        let length = before.map_or(first, |pause| (pause.length * 2).min(longest));
        Self { until: now + length, length }
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }
}

/// Devices that do not come back, by index, with a sentence.
#[derive(Debug, Default)]
pub(super) struct Hung(BTreeMap<u32, (Pause, Failure)>);

impl Hung {
    pub(super) fn add(&mut self, index: u32, why: Failure, now: Instant, pauses: (Duration, Duration)) {
        let pause = Pause::after(self.0.get(&index).map(|(pause, _)| pause), now, pauses);
        self.0.insert(index, (pause, why));
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.0.remove(&index);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// It did not answer the last time that it was asked, and that is not long ago.
    pub(super) fn is_known(&self, index: u32, now: Instant) -> bool {
        self.0.get(&index).is_some_and(|(pause, _)| now < pause.until + KNOWN_FOR)
    }

    /// Why the device is not to be asked now.
    pub(super) fn left_out(&self, index: u32, now: Instant, abandoned: &Abandoned) -> Option<&Failure> {
        let (pause, why) = self.0.get(&index)?;
        (!pause.is_over(now) || abandoned.are_many()).then_some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::FailureKind;
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (now, limits) = (Instant::now(), (Duration::from_secs(1), Duration::from_secs(3)));
        let mut hung = Hung::default();
        for seconds in [1, 2, 3, 3] {
            let why = Failure { kind: FailureKind::Hung, sentence: "it hangs".to_owned() };
            hung.add(5, why.clone(), now, limits);
            let at = |offset: u64| hung.left_out(5, now + Duration::from_millis(offset), &Abandoned::default());
            assert_eq!((at(seconds * 1000 - 1), at(seconds * 1000)), (Some(&why), None));
            assert_eq!(hung.left_out(4, now, &Abandoned::default()), None);
        }
        assert!(
            hung.is_known(5, now + KNOWN_FOR) && !hung.is_known(5, now + 2 * KNOWN_FOR) && !hung.is_known(4, now)
        );
        hung.remove(5);
        assert_eq!(hung.left_out(5, now, &Abandoned::default()), None);
    }
}
