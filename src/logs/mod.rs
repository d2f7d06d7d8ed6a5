//! Reads the output of a task that its shim writes: records in segment files, whose form is [`crate::shim::record`].
//!
//! What lies in those files is untrusted: everything here is bounded and nothing panics on any bytes. Nothing is
//! ever written here. What is missing, because a segment was overwritten or bytes are damaged, is delivered as a
//! gap with its size; wrong bytes are never delivered.

pub mod cursor;
pub mod follow;
pub mod lines;
pub mod reader;
pub mod render;
mod seek;
#[cfg(test)]
mod seek_tests;
mod segment;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod totals;
mod wake;

pub use cursor::Cursor;
pub use follow::stream;
pub use lines::{Line, LineSplitter};
pub use reader::{Batch, LogReader, Start};
pub use render::LineRenderer;
