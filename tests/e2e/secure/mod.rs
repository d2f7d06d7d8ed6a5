//! A cluster as it is by default: nobody is believed. What may be done is done, and the same is tried by those who may
//! not.

mod attack;
mod membership;
mod people;

use crate::harness::{Cluster, Node};

/// One node, which has joined.
fn cluster() -> Cluster {
    let cluster = Cluster::secured(vec![Node::new("n0", "sim:2xH100")], "");
    cluster.wait_ready();
    cluster
}
