//! Every parser of input from outside, in one list, under the same attack: files and messages that are right, changed by
//! flips, cuts, splices, doubled pieces and words that are wrong somewhere; bytes that are nothing; and pieces repeated
//! until they fill the largest input there may be, which shows what takes more than its share of time.
//!
//! `WHARF_FUZZ_CASES` says how many inputs each parser gets; they are the same in every run. A parser that panics, breaks
//! its own promise or does not come to an end fails the test, which shows the smallest input that does it.

#[path = "../../tests/e2e/harness/attack.rs"]
#[allow(dead_code)]
mod attack;
mod input;
mod targets;
mod tests;

/// A parser, what it is fed, and what has to hold of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Inputs that are right.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Parses; panics if something is not as it has to be.
    pub(crate) parse: fn(&[u8]),
    /// The largest input that gets this far.
    pub(crate) most_bytes: usize,
}
