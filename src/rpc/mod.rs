//! Carries the two services of [`crate::api`] over gRPC, in both directions, and is the only place that sees
//! generated code.
//!
//! * [`convert`]: domain and protobuf, both ways. What comes off the wire is parsed, never trusted: a wrong field
//!   of a request is the caller's mistake and named, a wrong field of an answer is an internal error that names
//!   the peer. Nothing here panics on nonsense.
//! * [`status`]: errors and gRPC status, both ways, in one exhaustive match.
//! * [`agent_server`], [`controller_server`]: a service over an implementation of a trait.
//!   [`agent_client`], [`controller_client`]: an implementation of a trait over a connection.
//! * [`bind()`], [`serve()`]: sockets and their shutdown. The caller owns both. [`door`], [`http1`], [`rest`]: HTTP on
//!   the same sockets, answered by [`crate::web`]. [`crowd`], [`undecided`], [`intake`]: how many connections, requests
//!   and bytes there may be.
//! * [`tls`], [`security`], [`credentials`]: the cluster's own authority, and what each end shows and believes.
//! * [`admission`]: who calls, by certificate, token or the kernel's word, and whether they may. [`peer`],
//!   [`local_account`]: what connections say of that.
//!
//! It may not decide anything about jobs, tasks or nodes, and keeps no state but connections.

mod admission;
pub mod agent_client;
mod agent_server;
pub mod bind;
mod call;
mod channel;
mod connection;
pub mod controller_client;
mod controller_server;
mod convert;
pub mod credentials;
mod crowd;
pub mod dialer;
mod door;
mod exec;
mod generated;
mod http1;
mod intake;
mod local_account;
mod peer;
mod rest;
pub mod routes;
pub mod security;
pub mod serve;
mod status;
mod stream;
pub mod tls;
mod undecided;
mod vigil;

#[cfg(test)]
pub(crate) mod tests;

pub use agent_client::AgentClient;
pub use bind::{BoundListener, bind};
pub use controller_client::ControllerClient;
pub use credentials::Credentials;
pub use dialer::Dialer;
pub use local_account::of_listener;
pub use routes::{Routes, agent_routes, controller_routes};
pub use security::{Plain, Security};
pub use serve::serve;
pub use status::never_sent;
