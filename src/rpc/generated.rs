//! Messages and services as compiled from `proto/wharf/v1`. Nothing outside `rpc` may name them.

#![allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]

tonic::include_proto!("wharf.v1");

/// The compiled protocol itself, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wharf.v1.bin"));
