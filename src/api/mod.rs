//! The two services as traits. `agent` and `controller` implement them, `rpc` carries them over gRPC in both
//! directions (a server over an implementation, a client that is one), `cli` and the peers use them.
//! So nobody but `rpc` sees the wire. [`records`] is for `web`, in the controller's own process; [`caller`] is who is
//! at the other end of its connections.

pub mod agent;
pub mod authority;
pub mod caller;
pub mod controller;
pub mod records;
pub mod stream;

pub use agent::AgentApi;
pub use caller::Caller;
pub use controller::ControllerApi;
pub use records::RecordsApi;
