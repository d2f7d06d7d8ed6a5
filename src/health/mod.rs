//! Hardware faults: from what sources say to who is to blame and what to do. PURE: no clock, no files, no driver.
//!
//! [`kernel_log`] understands messages. [`table`] says what codes mean, from one file that a site can override.
//! [`verdict`] judges one observation: by what the driver says itself first, by the table second.

pub mod kernel_log;
pub mod table;
pub mod verdict;
