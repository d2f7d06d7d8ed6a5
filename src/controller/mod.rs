//! The controller: admits jobs, queues them, places them on nodes and sees them through to their end.
//!
//! ```text
//!   ControllerApi (api.rs) --messages--> core.rs: apply (state.rs, apply.rs, schedule.rs)
//!        |  reads                            |
//!        v                                   v  one batch
//!   Shared state <------------------- commit to the store (persist.rs)
//!                                            |  durable
//!                                            v
//!                      answers to callers, events to history, commands to agents (dispatch.rs, gang.rs)
//! ```
//!
//! What the scheduler needs from one pass to the next is derived from the state: `placing.rs` has the books of what is
//! promised and the queues, `possible.rs` knows which jobs could never run, `schedule.rs` asks and obeys. `explain.rs` asks
//! the scheduler over copies of these, and `decisions.rs` tells from history and records how a job came where it is.
//!
//! One task owns every change. It takes what has arrived, changes the state in memory, commits all of it as one
//! batch, and only then answers and sends commands. Readers look at the state in memory under a short lock and
//! so never wait for a disk. When a commit fails nothing is known about it: the state is read anew from the
//! store and the work goes on from there, as after a restart. [`telling`] brings each event to history once.
//!
//! Who may call is known by [`access`]: tokens, nodes' certificates, and what of them was revoked.
//!
//! Of several controllers on one store one leads: [`election`]. A whole store is put into another by [`transfer`].

mod access;
mod api;
mod apply;
mod busy_ports;
mod clock_step;
mod core;
mod deaf;
mod decisions;
mod dispatch;
mod drain;
pub mod election;
mod explain;
mod faults;
mod forget;
mod gang;
mod holdings;
mod logs;
mod lost;
mod metrics;
mod node_detail;
mod nodes;
mod permits;
mod persist;
mod placing;
mod possible;
mod pulse;
mod records;
mod resolve;
mod schedule;
pub mod seal;
mod state;
mod submit;
mod superseded;
mod telling;
pub mod transfer;
mod views;

pub use self::access::revocations::Revocations;
pub use self::access::{Certification, authority_of, claim_authority};
pub use self::core::{Controller, ControllerParts, ControllerRunning, start};
pub use self::pulse::Pulse;

#[cfg(test)]
pub(crate) mod tests;
