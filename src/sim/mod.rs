//! A whole cluster in one process: the real cores under scripted time.
//!
//! What decides here is what decides in production: [`crate::scheduler::schedule`] over a
//! [`Snapshot`](crate::scheduler::Snapshot) that is fed with promises, the steps and actions of
//! [`Run`](crate::domain::run::Run), [`crate::domain::completion`] and [`crate::domain::retry`] at the ends, and the
//! [`Ledger`](crate::domain::allocation::Ledger) of every agent, which vetoes what was promised twice. Only the agents'
//! answers, the tasks and the time are played.
//!
//! ```text
//! trace --> arrivals --> queue --> scheduler pass --> seats --> Run::place
//!                          ^                                       |  Run::action_of: stage, prepare, launch, ...
//!                          |  roll-back, retry: not before T       v
//!                        Wake <--------- Run steps <---- answers <-- agents (ledgers; scripted vetoes, losses)
//!                                          |                           task ends after the trace's duration
//!                                          +--> completion, retry --> ended --> released --> given back --> pass
//! ```
//!
//! Events are a heap of (time, order of making): everything of one instant is applied, then there is one pass of the
//! scheduler, as the controller does with one batch of messages. Nothing asks a clock or a random number generator:
//! [`chance`] is computed from the seed and from what it is about (this task of this attempt), so one seed gives one
//! outcome, and the same job meets the same fault under either [`Policy`]. How long a pass takes on this machine is measured
//! with a [`Stopwatch`] that the caller brings, and is told apart from what is simulated.
//!
//! At the end, jobs may still wait: jobs without GPUs that only fit beside GPU jobs ([`crate::scheduler::Policy`]), when no
//! more of those come; and gangs for which losses never leave enough nodes. They are told as unfinished.
//!
//! Where this differs from a real cluster: every agent takes the same time to answer ([`Latencies`]); a job that runs
//! again does all of its work again; a job that the cluster could not hold when empty is counted as impossible and
//! left out, rather than waiting for ever.

mod agents;
pub mod chance;
mod checks;
pub mod cluster;
mod engine;
mod events;
mod faults;
mod fifo;
mod histogram;
mod live;
mod queue;
pub mod report;
mod tally;
pub mod trace;

pub use cluster::NodeGroup;
pub use engine::{Ended, Progress, Simulation, Stopwatch};
pub use report::{Report, Speed};
pub use trace::{TraceError, TraceJob};

use std::time::Duration;

#[cfg(test)]
mod tests;

/// Who goes first, and who may pass whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The product's: [`crate::scheduler::schedule`].
    Wharf,
    /// In the same order, but the first that does not fit blocks all others.
    Fifo,
}

impl Policy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wharf => "wharf",
            Self::Fifo => "fifo",
        }
    }
}

/// How long agents take to answer. Whole seconds, as in traces, so that many things happen in one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies {
    pub stage: Duration,
    pub prepare: Duration,
    pub launch: Duration,
    pub stop: Duration,
    pub release: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { stage: seconds(2), prepare: seconds(3), launch: Duration::ZERO, stop: seconds(1), release: seconds(1) }
    }
}

/// What is simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub groups: Vec<NodeGroup>,
    pub policy: Policy,
    pub seed: u64,
    /// How much goes wrong; see [`faults`]. 0 is nothing.
    pub faults: f64,
    pub latencies: Latencies,
    /// Compare every decision with what may be: a mistake of ours ends the simulation.
    pub checks: bool,
}
