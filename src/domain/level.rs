//! One number for everything that wharf keeps and says: the level of its journals, stores, records of tasks and calls.
//!
//! A wharf works with one of the level before and of the level after its own, and goes on with what they have left;
//! so a fleet is upgraded, and taken back, node by node and one step at a time. That holds as long as a level
//!
//! - only adds fields, kinds of records and frames: what is not known is passed over, what is missing has a default that
//!   is safe, and nothing is taken away while a task of the level before it may live;
//! - writes a new word in a field that is there already (a state, a class, a kind of check) only if the level before
//!   can read it: a word is learned one level before it is said.
//!
//! What breaks one of these rules raises [`Level::OURS`]. What is on disk is marked with the highest level that has ever
//! written there: older levels are always read, one newer is, and beyond that it is refused as it is.

use super::command::Error;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub u32);

impl Level {
    /// Of everything from before there were marks.
    pub const FIRST: Self = Self(1);

    /// What this program writes and speaks.
    pub const OURS: Self = Self(1);

    /// What this program writes and speaks: [`Self::OURS`], unless it is built to stand for a later one.
    pub fn own() -> Self {
        #[cfg(feature = "next-level")]
        return Self(next::PLAYED.load(std::sync::atomic::Ordering::Relaxed));
        #[cfg(not(feature = "next-level"))]
        Self::OURS
    }

    /// The newest that this program can make sense of.
    pub fn newest() -> Self {
        Self(Self::own().0 + 1)
    }

    /// The level as it travels; calls from before there were levels say nothing.
    pub const fn of_wire(found: u32) -> Self {
        if found == 0 { Self::FIRST } else { Self(found) }
    }

    /// The mark as it is kept.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|level| *level > 0).map(Self)
    }

    /// Whether what `what` names, on disk and with this mark, can be used.
    pub fn check_kept(self, what: impl fmt::Display) -> Result<(), Error> {
        if self <= Self::newest() {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{what} was written by a newer wharf: its level is {self}, this one is of level {} and reads up to {}; \
             nothing was changed. Install the newer wharf again, or go back one level at a time",
            Self::own(),
            Self::newest()
        )))
    }

    /// Whether this program can work with `who`, which speaks this level.
    pub fn check_peer(self, who: impl fmt::Display) -> Result<(), Error> {
        let own = Self::own();
        if self.0.abs_diff(own.0) <= 1 {
            return Ok(());
        }
        let older = if self < own { "it" } else { "this one" };
        Err(Error::refused(format!(
            "{who} speaks level {self}, and this wharf, of level {own}, works with {} to {}; upgrade {older} one level \
             at a time",
            own.0.saturating_sub(1).max(Self::FIRST.0),
            Self::newest()
        )))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record as it is kept: as it is, but in a program that stands for a later level, which adds to it.
pub fn grown(record: Vec<u8>) -> Vec<u8> {
    #[cfg(feature = "next-level")]
    return next::grown(record);
    #[cfg(not(feature = "next-level"))]
    record
}

/// For tests of upgrades: a build that stands for a later level, with what such a level may add.
#[cfg(feature = "next-level")]
pub mod next {
    use super::Level;
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(super) static PLAYED: AtomicU32 = AtomicU32::new(Level::OURS.0 + 1);

    /// From here on this program is of `level`. Before anything else is done.
    pub fn play(level: Level) {
        PLAYED.store(level.0, Ordering::Relaxed);
    }

    /// A field that this level does not have, in every object; what is none is left as it is.
    pub(super) fn grown(record: Vec<u8>) -> Vec<u8> {
        let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&record) else { return record };
        match &mut value {
            serde_json::Value::Object(_) => grow(&mut value),
            serde_json::Value::Array(all) => all.iter_mut().for_each(grow),
            _ => return record,
        }
        serde_json::to_vec(&value).unwrap_or(record)
    }

    fn grow(value: &mut serde_json::Value) {
        if let Some(object) = value.as_object_mut() {
            let more = serde_json::json!({ "level": Level::own(), "words": ["of", "the", "next", "level"] });
            object.insert("of_the_next_level".to_owned(), more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_up_to_one_level_above() {
        let own = Level::own().0;
        (1..=own + 1).for_each(|level| Level(level).check_kept("the journal").unwrap());
        let error = Level(own + 2).check_kept("the journal j").unwrap_err().message;
        let said = format!("its level is {}, this one is of level {own} and reads up to {}", own + 2, own + 1);
        assert!(error.starts_with("the journal j was written by a newer wharf") && error.contains(&said), "{error}");
    }

    #[test]
    fn peers_are_one_level_away_at_most() {
        let own = Level::own().0;
        (own.saturating_sub(1)..=own + 1).for_each(|level| Level(level).check_peer("the agent").unwrap());
        let error = Level(own + 2).check_peer("the agent of n1").unwrap_err().message;
        assert!(error.contains(&format!("the agent of n1 speaks level {}", own + 2)), "{error}");
        assert!(error.contains("upgrade this one one level"), "{error}");
    }

    #[test]
    fn a_level_that_is_not_told_is_the_first() {
        assert_eq!((Level::of_wire(0), Level::of_wire(7)), (Level::FIRST, Level(7)));
        assert_eq!((Level::parse("3"), Level::parse("0"), Level::parse("3.1")), (Some(Level(3)), None, None));
    }
}
