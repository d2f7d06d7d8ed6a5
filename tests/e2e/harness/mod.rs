//! What the tests stand on: a cluster of real processes, its command line, and what the kernel says of both.

pub mod attack;
pub mod cables;
pub mod cluster;
pub mod disk;
pub mod docker;
pub mod etcd;
pub mod job;
pub mod moments;
pub mod net;
pub mod port;
pub mod proc;
pub mod pty;
pub mod random;
pub mod running;
mod secured;
pub mod skip;
pub mod wait;

pub use attack::attack;
pub use cables::{Cables, Way};
pub use cluster::{Cluster, Node};
pub use etcd::Etcd;
pub use job::{job, role};
pub use net::{Cut, Net};
pub use running::{Output, Running};
pub use skip::skip;
pub use wait::until;
