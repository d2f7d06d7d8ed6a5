//! When a task on a node that is not heard may be taken for dead, and when the controller must doubt itself instead.
//!
//! ```text
//!   agent:       sends a heartbeat at s ------------- is answered: its shims live until s + lease
//!   controller:            hears it at h >= s, answers   (h = the last renewal that it may have granted)
//!   shim:        no renewal by s + lease: TERM, 10 s later KILL; after a suspend it looks within 5 s
//!   controller:  replaces at h + lease + drift + 30 s, and not before; h is its own start where it has heard nothing
//! ```
//!
//! So whatever is lost on the way (the heartbeat, its answer, both, the agent, the whole node, the controller), the old
//! copy is dead when the new one begins. Times are of one monotonic clock that begins with the controller.

use super::time::Timestamp;
use std::time::Duration;

/// From the end of a lease to the end of everything of the task: the shim's grace (10 s), how late it may look (5 s),
/// and killing.
pub const LEASE_MARGIN: Duration = Duration::from_secs(30);
/// Two clocks may be slewed against each other by twice the 500 ppm that the kernel allows each.
const DRIFT_DIVISOR: u32 = 1000;
/// Losses that follow each other by no more than this are one event.
pub const AT_ONCE: Duration = Duration::from_secs(120);
/// Fewer nodes than this can fail at once by themselves.
pub const FEWEST: usize = 3;

/// When tasks with this lease are certainly dead. `renewed`: the last renewal that this controller may have granted;
/// `None`: none since its start, before which another controller may have granted some.
pub fn dead_at(renewed: Option<Duration>, lease: Duration) -> Duration {
    renewed.unwrap_or_default() + lease + lease / DRIFT_DIVISOR + LEASE_MARGIN
}

/// What is known of a node's reachability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Heard lately, or still given its time to be heard after the controller's start.
    pub heard: bool,
    /// Since when it is not heard.
    pub lost_at: Option<Timestamp>,
}

/// Most nodes vanished at once: more likely it is the controller that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion {
    pub lost: usize,
    /// Nodes that were heard before.
    pub of: usize,
}

/// More than half of the nodes that were heard, and at least [`FEWEST`], went silent within [`AT_ONCE`] of each other
/// and still are. It ends by itself when enough of them are back, or when operators remove them.
pub fn suspicion(nodes: impl IntoIterator<Item = Reach>) -> Option<Suspicion> {
    let (mut heard, mut losses) = (0, Vec::new());
    for node in nodes {
        match node.lost_at {
            Some(lost_at) if !node.heard => losses.push(lost_at),
            _ => heard += 1,
        }
    }
    losses.sort_unstable();
    let mut begin = 0;
    for end in 1..=losses.len() {
        if end < losses.len() && losses[end].since(losses[end - 1]) <= AT_ONCE {
            continue;
        }
        // What was lost later was still heard when these were lost.
        let (lost, of) = (end - begin, heard + losses.len() - begin);
        if lost >= FEWEST && 2 * lost > of {
            return Some(Suspicion { lost, of });
        }
        begin = end;
    }
    None
}

impl std::fmt::Display for Suspicion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lost, of } = self;
        write!(f, "{lost} of {of} nodes went silent at once: the controller may be the one that is cut off, so it ")?;
        write!(f, "replaces no tasks until more of them are back, or those that are dead are removed with --force")
    }
}

#[cfg(test)]
mod tests;
