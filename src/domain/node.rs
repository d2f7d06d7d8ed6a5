//! What operators want of a node, and what that means for it. Stored beside the node's registration.
//!
//! ```text
//!            cordon                drain                 nothing is held there any more
//!   Open ------------> Cordoned ----------> Draining --------------------------------> Draining, drained_at
//!     ^                   |                    |                                          |
//!     +-------------------+--------------------+------------------------------------------+   uncordon
//! ```
//!
//! Whether its agent is heard is another matter: an unreachable node keeps its standing, and goes on with it once it
//! is back.

use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest reason that is kept.
pub const MAX_REASON_BYTES: usize = 1024;

/// Whether a node is to take tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    #[default]
    Open,
    /// Takes no new tasks; those that run go on.
    Cordoned,
    /// Is to become empty.
    Draining,
}

/// What is kept of a node beside what its agent says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    pub wish: Wish,
    /// Why, in the words of who wished it; may be empty.
    pub reason: String,
    /// Who wished it, and when.
    pub by: String,
    pub since: Option<Timestamp>,
    /// Of a drain: tasks that still run then are moved. `None`: they may take as long as they like.
    pub deadline: Option<Timestamp>,
    /// How long the drain was given: never waited for longer than this, wherever the clock goes.
    pub allowed_ms: u64,
    /// Nothing was held there any more.
    pub drained_at: Option<Timestamp>,
    /// Not heard since about then; `None` while it is heard.
    pub lost_at: Option<Timestamp>,
}

/// What an operator asks of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeChange {
    Cordon {
        reason: String,
    },
    Uncordon,
    /// With `deadline`: what still runs after that long is stopped and run again elsewhere.
    Drain {
        reason: String,
        deadline: Option<Duration>,
    },
    /// Forgets the node. With `force` also while it may hold tasks.
    Remove {
        force: bool,
    },
}

impl Standing {
    /// The standing after an operator's word; `Err` is a sentence. Removing is not a standing.
    pub fn changed(&self, change: &NodeChange, by: &str, now: Timestamp) -> Result<Self, String> {
        let wished = |wish: Wish, reason: &str| Self {
            wish,
            reason: reason.to_owned(),
            by: by.to_owned(),
            since: Some(now),
            deadline: None,
            allowed_ms: 0,
            drained_at: None,
            lost_at: self.lost_at,
        };
        match change {
            NodeChange::Cordon { .. } if self.wish == Wish::Draining => Err(format!(
                "is being drained by {}: nothing is placed there; to end the drain, uncordon it",
                self.by
            )),
            NodeChange::Cordon { reason } => Ok(wished(Wish::Cordoned, reason)),
            NodeChange::Uncordon => Ok(Self { lost_at: self.lost_at, ..Self::default() }),
            NodeChange::Drain { reason, deadline } => {
                let allowed = deadline.map(|allowed| u64::try_from(allowed.as_millis()).unwrap_or(u64::MAX));
                Ok(Self {
                    deadline: deadline.map(|allowed| now.plus(allowed)),
                    allowed_ms: allowed.unwrap_or_default(),
                    drained_at: self.drained_at,
                    ..wished(Wish::Draining, reason)
                })
            }
            NodeChange::Remove { .. } => Ok(self.clone()),
        }
    }

    /// Tasks that are still there have to go now.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.wish == Wish::Draining && self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// A clock that was set back must not make a drain longer than it was given. Returns whether anything changed.
    pub fn mend_clock(&mut self, now: Timestamp) -> bool {
        let allowed = Duration::from_millis(self.allowed_ms);
        let late = self.deadline.is_some_and(|deadline| deadline.since(now) > allowed);
        if late {
            self.deadline = Some(now.plus(allowed));
        }
        late
    }

    /// The clock was set: the deadline is as far away as it was, and a loss as long ago. Returns whether anything changed.
    pub fn clock_stepped(&mut self, nanos: i64) -> bool {
        let before = (self.deadline, self.lost_at);
        self.deadline = self.deadline.map(|deadline| deadline.moved(nanos));
        self.lost_at = self.lost_at.map(|lost_at| lost_at.moved(nanos));
        before != (self.deadline, self.lost_at)
    }

    /// The node takes tasks as far as its operators are concerned.
    pub fn is_open(&self) -> bool {
        self.wish == Wish::Open
    }

    /// One sentence for people: why it is as it is; nothing for an open node.
    pub fn sentence(&self) -> Option<String> {
        let what = match self.wish {
            Wish::Open => return None,
            Wish::Cordoned => "cordoned",
            Wish::Draining if self.drained_at.is_some() => "drained",
            Wish::Draining => "being drained",
        };
        let why = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        Some(format!("{what} by {}{why}", self.by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(deadline_s: Option<u64>) -> NodeChange {
        NodeChange::Drain { reason: "fan".into(), deadline: deadline_s.map(Duration::from_secs) }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    #[test]
    fn words_of_operators_follow_each_other() {
        let open = Standing::default();
        let cordon = NodeChange::Cordon { reason: "disk".into() };
        let cordoned = open.changed(&cordon, "ann", at(1)).unwrap();
        assert_eq!((cordoned.wish, cordoned.by.as_str(), cordoned.since), (Wish::Cordoned, "ann", Some(at(1))));
        let draining = cordoned.changed(&drain(Some(60)), "bob", at(5)).unwrap();
        assert_eq!((draining.wish, draining.deadline, draining.by.as_str()), (Wish::Draining, Some(at(65)), "bob"));
        let refused = draining.changed(&cordon, "ann", at(6)).unwrap_err();
        assert!(refused.contains("drained by bob"), "{refused}");
        // Asked for again: a new deadline, or none.
        assert_eq!(draining.changed(&drain(None), "bob", at(7)).unwrap().deadline, None);
        let lost = Standing { lost_at: Some(at(3)), drained_at: Some(at(4)), ..draining };
        let again = lost.changed(&drain(Some(1)), "bob", at(8)).unwrap();
        assert_eq!(again.drained_at, Some(at(4)), "what is empty stays empty");
        let opened = lost.changed(&NodeChange::Uncordon, "ann", at(9)).unwrap();
        assert_eq!(opened, Standing { lost_at: Some(at(3)), ..Standing::default() });
    }

    #[test]
    fn a_drain_is_overdue_at_its_deadline_and_never_without_one() {
        let forever = Standing::default().changed(&drain(None), "bob", at(0)).unwrap();
        assert!(!forever.is_overdue(at(1_000_000)));
        let mut timed = Standing::default().changed(&drain(Some(60)), "bob", at(1000)).unwrap();
        assert_eq!([1000, 1059, 1060].map(|now| timed.is_overdue(at(now))), [false, false, true]);
        assert!(!timed.mend_clock(at(1010)));
        // An hour back: still a minute at most.
        assert!(timed.mend_clock(at(1000 - 3600)));
        assert_eq!(timed.deadline, Some(at(1060 - 3600)));
    }

    #[test]
    fn a_sentence_says_who_and_why() {
        let sentence = |change| Standing::default().changed(&change, "bob", at(0)).unwrap().sentence();
        assert_eq!(sentence(drain(None)).as_deref(), Some("being drained by bob: fan"));
        assert_eq!(sentence(NodeChange::Cordon { reason: String::new() }).as_deref(), Some("cordoned by bob"));
        assert_eq!(sentence(NodeChange::Uncordon), None);
    }

    #[test]
    fn what_an_older_version_stored_is_read() {
        assert_eq!(serde_json::from_str::<Standing>("{}").unwrap(), Standing::default());
        let standing = Standing::default().changed(&drain(Some(5)), "bob", at(7)).unwrap();
        let text = serde_json::to_string(&standing).unwrap();
        assert_eq!(serde_json::from_str::<Standing>(&text).unwrap(), standing);
    }
}
