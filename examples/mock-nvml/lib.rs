//! A `libnvidia-ml.so.1` without a driver: what it answers is in the JSON file that `WHARF_MOCK_NVML` names.
//!
//! It is loaded as the real one is, so that everything above the driver can be tested without a GPU. The file is read
//! anew whenever it has changed, at every call: so devices come, go, fail and hang while a program runs, and several
//! processes share one state. Replace the file by renaming another over it. `state.rs` lists its keys; what is null
//! or missing is NOT_SUPPORTED, and a file that cannot be understood is said on stderr and fails every call.

mod answer;
mod cuda;
mod device;
mod events;
mod health;
mod links;
mod mig;
mod processes;
mod state;
mod system;
