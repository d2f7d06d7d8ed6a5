//! Decides where tasks run. Pure functions over a [`snapshot::Snapshot`]: no clock, no randomness, no IO, so the same
//! cluster and the same queue always give the same answer, in a test as in the controller.
//!
//! [`queue::schedule`] walks the waiting jobs in order and [`place::place`]s each gang: all of its tasks or none.
//! `reservation` keeps room for the first that must wait. For one task, `filter` says which nodes can take it, the index in the snapshot and `score` say which is best,
//! `gpus` and `ports` choose on that node. [`mod@explain`] says why a job waits, and whether it ever could run.

pub mod explain;
pub mod filter;
pub mod gpus;
pub mod place;
pub mod ports;
pub mod queue;
pub mod request;
mod reservation;
pub mod score;
pub mod snapshot;

pub use explain::{ever_possible, explain};
pub use place::{Placement, Unplaced, place};
pub use queue::{Decision, Waiting, schedule};
pub use request::Request;
pub use snapshot::{NodeSnapshot, NodeState, Snapshot};

#[cfg(test)]
mod tests;
