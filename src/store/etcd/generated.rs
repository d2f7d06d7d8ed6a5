//! Messages and clients as compiled from `proto/etcd`. Nothing outside this folder may name them.

#![allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]

tonic::include_proto!("etcdserverpb");
