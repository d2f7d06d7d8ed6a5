//! Hardware faults: from what sources say to who is to blame and what to do. PURE: no clock, no files, no driver.
//!
//! [`kernel_log`] understands messages.

pub mod kernel_log;
