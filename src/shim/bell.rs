//! How the shim's threads wake it when they are done, so that it need not look again and again.

use super::sys::{self, POLLIN, PollFd};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Clones ring the same bell. Without a descriptor for it, it is silent, and whoever waits has to look now and then.
#[derive(Clone)]
pub struct Bell(Option<Arc<OwnedFd>>);

impl Bell {
    pub fn new() -> Self {
        Self(sys::event_descriptor().ok().map(Arc::new))
    }

    pub fn ring(&self) {
        if let Some(fd) = &self.0 {
            // Full only after more rings than there is time for, and then it is heard all the same.
            let _ = sys::write_fd(fd.as_raw_fd(), &1_u64.to_ne_bytes());
        }
    }

    pub fn silence(&self) {
        if let Some(fd) = &self.0 {
            let _ = sys::read_fd(fd.as_raw_fd(), &mut [0; 8]);
        }
    }

    pub fn poll_entry(&self) -> Option<PollFd> {
        self.0.as_ref().map(|fd| PollFd { fd: fd.as_raw_fd(), events: POLLIN, revents: 0 })
    }
}
