//! wharf seen from outside: real processes of the built program, driven by its command line.
//!
//! One test binary, because each one costs a link. Tests wait for conditions with a deadline, never for time to
//! pass, share nothing, and say what they could not try (`harness::skip`).

mod adoption;
mod attacks;
mod bad_input;
mod bounded;
mod chaos;
mod checks;
mod clocks;
mod completion;
mod containers;
mod debug_hold;
mod demo;
mod disks;
mod dockerd;
mod drain;
mod etcd;
mod exec;
mod failover;
mod fault_actions;
mod faults;
mod faults_named;
mod faults_nvml;
mod faults_scan;
mod harness;
mod hostile_task;
mod isolation;
mod kernel_log;
mod kill;
mod lifecycle;
mod logs;
mod main_job;
mod metrics;
// The mock of the driver's library; not all that it has is used here.
#[allow(dead_code)]
#[path = "../gpu/mock.rs"]
mod mock;
mod node_lost;
mod nonsense;
mod partition;
mod pipes;
mod placement;
mod policy;
mod ports;
mod random_jobs;
mod rest;
mod score;
mod secrets;
mod secure;
mod sharing;
mod simulate;
mod ssh;
mod stopping;
mod store;
mod versions;
