//! The words of wharf and its pure decisions. No IO, no clock, no randomness:
//! time, ids and chance come in as arguments.

pub mod access;
pub mod allocation;
pub mod checked;
pub mod command;
pub mod completion;
pub mod container;
pub mod event;
pub mod exit;
pub mod fault;
pub mod gpu;
pub mod host;
pub mod ids;
pub mod job;
pub mod level;
pub mod lifecycle;
pub mod metrics;
pub mod nearest;
pub mod node;
pub mod node_lost;
pub mod pci;
pub mod placement;
pub mod policy;
pub mod principal;
pub mod promise;
pub mod quantity;
pub mod reconcile;
pub mod remediation;
pub mod retry;
pub mod run;
pub mod secret;
pub mod spec;
pub mod ssh;
pub mod task;
pub mod time;
pub mod view;
