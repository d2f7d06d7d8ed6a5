//! NVML through the ordinary path: the real worker process, which loads a mock of the driver's library.

mod checks;
mod cluster;
mod events;
mod facts;
mod frozen;
// What it has for other tests too is not all used here.
#[allow(dead_code, unused_imports)]
#[path = "../e2e/harness/mod.rs"]
mod harness;
mod health;
mod mock;
mod trouble;
