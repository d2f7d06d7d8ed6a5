//! wharf seen from outside: real processes of the built program, driven by its command line.
//!
//! One test binary, because each one costs a link. Tests wait for conditions with a deadline, never for time to
//! pass, share nothing, and say what they could not try (`harness::skip`).

mod bad_input;
mod containers;
mod demo;
mod etcd;
mod exec;
mod failover;
mod harness;
mod kill;
mod lifecycle;
mod logs;
mod main_job;
mod nonsense;
mod pipes;
mod random_jobs;
mod sharing;
mod stopping;
mod store;
