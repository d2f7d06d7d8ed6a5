//! Hears what the GPUs tell unasked, and tells the actor. One batch at a time is with the actor: more waits in the worker.

use super::Observed;
use super::told::Told;
use crate::agent::message::Inside;
use crate::gpu::events::{GpuEvent, GpuEvents, Unwatched};
use crate::health::table::Table;
use crate::health::{Observation, SeenAt};
use crate::telemetry::clock::Clock;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

/// Events in one batch.
const BATCH: usize = 256;

/// Runs until its source ends; dropped to cancel.
#[derive(Debug)]
pub struct GpuEar {
    pub events: GpuEvents,
    pub table: Arc<Table>,
    pub clock: Arc<dyn Clock>,
    pub inside: mpsc::Sender<Inside>,
}

impl GpuEar {
    pub async fn run(mut self) {
        let (mut told, mut order) = (Told::default(), 0);
        while let Some(first) = self.events.next().await {
            let (mut observations, mut event) = (Vec::new(), Some(first));
            while let Some(one) = event {
                say(&one);
                order += 1;
                observations.extend(self.hear(&mut told, &one, order));
                event = if observations.len() < BATCH { self.events.ready() } else { None };
            }
            if !observations.is_empty() && self.tell(observations).await.is_none() {
                return;
            }
        }
    }

    fn hear(&self, told: &mut Told, event: &GpuEvent, order: u64) -> Option<Observation> {
        let boot_us = u64::try_from(self.clock.boottime().as_micros()).ok();
        told.hear(event, &self.table, SeenAt { time: Some(self.clock.now()), boot_us, order })
    }

    /// `None`: the actor is gone.
    async fn tell(&self, observations: Vec<Observation>) -> Option<()> {
        let (reply, taken) = oneshot::channel();
        let observed = Observed { observations, looked: None, reply };
        self.inside.send(Inside::Observed(Box::new(observed))).await.ok()?;
        taken.await.ok()
    }
}

fn say(event: &GpuEvent) {
    match event {
        GpuEvent::Unwatched { why: Unwatched::NotSupported, sentence, .. } => {
            info!(why = sentence, "a GPU tells of no events; it is looked at");
        }
        GpuEvent::Unwatched { sentence, .. } => warn!(why = sentence, "events of a GPU are not heard"),
        _ => {}
    }
}
