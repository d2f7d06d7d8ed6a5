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

pub mod clearing;
mod faults;
mod heard;
pub mod history;
pub mod kernel_log;
mod observation;
mod scan;
pub mod table;
pub mod verdict;

pub use faults::{Change, Faults, Limits};
pub use heard::{Heard, heard};
pub use observation::{Clears, Engine, Observation, Relation, SeenAt, Source};
pub use scan::Scan;
