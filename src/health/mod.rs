//! Hardware faults: from what sources say to who is to blame and what to do. PURE: no clock, no files, no driver.
//!
//! ```text
//!  kernel_log::Parser ── events ──> heard() ─┐  (table, verdict: judged here)
//!  checks of counters and states ────────────┴─ Observation ──> Faults ── Change ──> agent, command line
//!                                                                 │
//!                                           clearing, history ────┘
//! ```
//!
//! [`kernel_log`] understands messages. [`table`] says what codes mean, from one file that a site can override.
//! [`verdict`] judges one observation: by what the driver says itself first, by the table second. [`Faults`] counts
//! observations of one thing as one fault, puts consequences to their cause, and stays small in a storm. [`clearing`]
//! says when a fault is over, [`history`] when the same thing has happened too often.
//!
//! Whoever follows a node's log makes a [`kernel_log::Record`] of each message, gives it to one [`kernel_log::Parser`],
//! and each thing seen to [`heard()`]; adds to the observation what it alone knows (the node, the task that had the GPU at
//! that moment, an escalated judgement); and gives it to [`Faults`]. [`checks`] make observations of their own, of what
//! devices and the kernel show when they are asked.

pub mod checks;
pub mod clearing;
mod faults;
mod heard;
pub mod history;
pub mod kernel_log;
mod observation;
pub mod resets;
mod scan;
pub mod self_check;
pub mod table;
pub mod verdict;

pub use faults::{Change, ENDED, Faults, Limits, NOT_REMEDIED, REMEDIATION};
pub use heard::{Heard, heard};
pub use observation::{Clears, Engine, Observation, Relation, SeenAt, Source};
pub use scan::Scan;
