//! Keeps the newest GPU samples, so that no query ever waits for a driver.

use super::message::Inside;
use crate::domain::gpu::{Gpu, Topology};
use crate::gpu::{GpuError, GpuSource};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// The source has deadlines of its own; this one is for a source that breaks its word.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The devices, asked once at the start.
pub async fn devices(source: &Arc<dyn GpuSource>) -> Result<(Vec<Gpu>, Topology), GpuError> {
    bounded("devices", source.devices()).await
}

/// Asks for samples every `period`, and for the devices until they are known. Dropped to cancel.
pub async fn poll(source: Arc<dyn GpuSource>, mut known: bool, period: Duration, inside: mpsc::Sender<Inside>) {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent = false;
    loop {
        tick.tick().await;
        let answer = if known {
            bounded("samples", source.samples()).await.map(Inside::Samples)
        } else {
            bounded("devices", source.devices()).await.map(|(gpus, topology)| Inside::Devices(gpus, topology))
        };
        match answer {
            Ok(word) => {
                silent = false;
                known = true;
                if inside.send(word).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut silent, true) {
                    warn!(source = source.name(), %error, "the GPUs do not answer");
                }
                // Old numbers that look like new ones are worse than none.
                if known && inside.send(Inside::Samples(Vec::new())).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn bounded<T>(question: &'static str, call: impl Future<Output = Result<T, GpuError>>) -> Result<T, GpuError> {
    tokio::time::timeout(ANSWER_DEADLINE, call).await.unwrap_or_else(|_| {
        Err(GpuError { question, message: format!("no answer within {} s", ANSWER_DEADLINE.as_secs()) })
    })
}
