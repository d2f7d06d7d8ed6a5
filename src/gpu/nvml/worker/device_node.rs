//! Whether the device's node opens, as every program that uses it does first.

use super::super::wire::Failure;
use super::Worker;
use super::errors::Asked;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

impl Worker {
    /// `None`: this machine has no nodes of the driver's at all, as in a container or without the driver's module.
    pub(super) fn device_node(&self, index: u32) -> Result<Option<Result<(), String>>, Failure> {
        if !self.root.join("dev/nvidiactl").exists() {
            return Ok(None);
        }
        let minor = self.handle(index)?.minor_number().asked(index, "for its minor number")?;
        let path = self.root.join(format!("dev/nvidia{minor}"));
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        Ok(Some(opened.map(drop).map_err(|error| format!("{}: {error}", path.display()))))
    }
}
