//! The two services as traits. `agent` and `controller` implement them, `rpc` carries them over gRPC in both
//! directions (a server over an implementation, a client that is one), `cli` and the peers use them.
//! So nobody but `rpc` sees the wire.

pub mod agent;
pub mod controller;
pub mod stream;

pub use agent::AgentApi;
pub use controller::ControllerApi;
