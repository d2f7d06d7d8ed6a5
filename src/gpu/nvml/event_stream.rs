//! Brings what workers hear to whoever wants it: a thread per worker, which reads its second socket.

use super::wire;
use crate::gpu::events::GpuEvent;
use std::io;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use tokio::sync::mpsc::Sender;
use tracing::warn;

/// Where events go, over all workers.
#[derive(Debug)]
pub(super) struct EventStream {
    told: Sender<GpuEvent>,
    /// Of the worker before.
    reader: Option<JoinHandle<()>>,
}

impl EventStream {
    pub(super) const fn new(told: Sender<GpuEvent>) -> Self {
        Self { told, reader: None }
    }

    /// Something that no device told. Never waits: where nobody takes events, the state of the devices says it too.
    pub(super) fn tell(&self, event: GpuEvent) {
        if let Err(error) = self.told.try_send(event) {
            warn!(%error, "an event of the GPUs is dropped");
        }
    }

    /// Until the socket ends. What an earlier worker told comes first.
    pub(super) fn follow(&mut self, mut socket: UnixStream) -> io::Result<()> {
        let (told, before) = (self.told.clone(), self.reader.take());
        let reader = std::thread::Builder::new().name("gpu-events".to_owned()).spawn(move || {
            if let Some(before) = before {
                let _ = before.join();
            }
            // A frame that is cut off is the end too.
            while let Ok(Some(event)) = wire::read(&mut socket) {
                if told.blocking_send(event).is_err() {
                    return;
                }
            }
            let _ = told.blocking_send(GpuEvent::Interrupted);
        })?;
        self.reader = Some(reader);
        Ok(())
    }
}
