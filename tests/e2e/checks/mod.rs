//! Every check of the hardware from end to end: something is made wrong, and a fault is told with its verdict, its GPU
//! is used no more or goes on to be, its job goes on or runs elsewhere, other jobs notice nothing, and the fault is over
//! once it is mended.
//!
//! Many GPUs are ill at once, each with another thing, under one agent and one controller.

pub(crate) mod bench;
mod gpus;
mod links;
mod nodes;
mod rates;
mod silence;
mod states;

use bench::{Bench, Ill};
