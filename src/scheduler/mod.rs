//! Decides where tasks run. Pure functions over a [`snapshot::Snapshot`]: no clock, no randomness, no IO, so the same
//! cluster and the same queue always give the same answer, in a test as in the controller.
//!
//! [`queue::schedule`] walks the waiting jobs in order and [`place::place`]s each gang: all of its tasks or none.
//! `reservation` keeps room for the first that must wait. For one task, `filter` says which nodes can take it, the index in the snapshot and `score` say which is best,
//! `gpus` and `ports` choose on that node; gangs that want to be spread go by `spread`. `eligible` knows which nodes a
//! selector admits, [`quota`] what a virtual cluster may hold. [`mod@explain`] says why a job waits, [`feasible`] whether
//! it ever could run.

mod eligible;
pub mod explain;
pub mod feasible;
pub mod filter;
pub mod gpus;
pub mod place;
pub mod policy;
pub mod ports;
pub mod queue;
pub mod quota;
pub mod request;
mod reservation;
pub mod score;
pub mod snapshot;
mod spread;

pub use explain::{ever_possible, explain};
pub use feasible::{EmptyCluster, Feasibility};
pub use place::{Placement, Unplaced, place};
pub use policy::Policy;
pub use queue::{Decision, Waiting, schedule, schedule_within};
pub use quota::Quotas;
pub use request::Request;
pub use snapshot::{NodeSnapshot, NodeState, Snapshot};

#[cfg(test)]
mod tests;
