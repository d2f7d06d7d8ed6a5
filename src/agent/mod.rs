//! The node agent: owns the state of all tasks of one node.
//!
//! ```text
//!  AgentHandle ──requests──> actor (domain::lifecycle, ledger) ──transactions──> journal
//!  health ──what sources saw────^   │ durable: effects                              │
//!   runtime events ────────────┤   └──> executor ──calls──> runtime                │
//!   results, commits, samples ─┴───────────┴──────────────────────────────────────-┘
//!  reporter <── durable statuses ── actor          reporter ──> controller
//! ```
//!
//! The actor decides and waits for nothing. An effect runs, and a caller is answered, once the decision is in the
//! journal; only a stop and the report of an end do not wait for a journal that fails. Everything that may hang
//! (runtime, GPUs, controller, disk) is called from tasks of its own with a deadline. The end of the agent stops
//! no task, and neither does the loss of the journal: `rebuild` takes tasks over from the records beside their shims.

mod actor;
mod adopt;
mod api;
mod backoff;
mod commands;
mod commit;
mod entry;
mod executor;
mod faults;
mod garbage;
mod gpus;
mod health;
mod journal;
mod lingering;
mod message;
mod metrics;
mod output;
mod own_table;
mod port_claim;
mod ports;
pub mod pressure;
mod queries;
mod rebuild;
mod report;
mod start;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

pub use api::AgentHandle;
pub use executor::Deadlines;
pub use health::Looking;
pub use journal::{Identity, check as check_journal, load_identity};
pub use port_claim::PortClaim;
pub use ports::Ports;
pub use start::{AgentParts, AgentRunning, Tuning, start};
