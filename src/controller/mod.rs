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
//! One task owns every change. It takes what has arrived, changes the state in memory, commits all of it as one
//! batch, and only then answers and sends commands. Readers look at the state in memory under a short lock and
//! so never wait for a disk. When a commit fails nothing is known about it: the state is read anew from the
//! store and the work goes on from there, as after a restart.
//!
//! Of several controllers on one store one leads: [`election`]. A whole store is put into another by [`transfer`].

mod api;
mod apply;
mod core;
mod dispatch;
pub mod election;
mod forget;
mod gang;
mod logs;
mod node_detail;
mod nodes;
mod persist;
mod pulse;
mod resolve;
mod schedule;
mod state;
mod submit;
pub mod transfer;
mod views;

pub use self::core::{Controller, ControllerParts, ControllerRunning, start};
pub use self::pulse::Pulse;

#[cfg(test)]
mod tests;
