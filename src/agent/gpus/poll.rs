//! Asks the source for devices, samples and processes, round after round, and reports each round as a whole.

use super::super::message::Inside;
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{DriverState, Gpu, GpuDriver, GpuSample, Topology};
use crate::domain::ids::GpuUuid;
use crate::gpu::{GpuError, GpuSource};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

/// The source has deadlines of its own; this one is for a source that breaks its word.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Devices are asked for anew after this many rounds, and at once when the samples are of others.
const DEVICES_EVERY: u32 = 12;
/// Rounds without an answer until the GPUs count as unusable: one may be lost to a worker that was restarted.
const MISSES: u32 = 2;

/// The devices, asked once at the start.
pub async fn devices(source: &Arc<dyn GpuSource>) -> Result<(Vec<Gpu>, Topology), GpuError> {
    bounded("devices", source.devices()).await
}

/// What the GPUs do, and who is on them.
pub type Answers = (Vec<(GpuUuid, GpuSample)>, GpuProcesses);

/// What one round found.
#[derive(Debug)]
pub struct GpuReport {
    /// Before the first question of the round.
    pub begun: Instant,
    pub driver: GpuDriver,
    /// Only where they were asked for.
    pub devices: Option<(Vec<Gpu>, Topology)>,
    /// `None`: there was no answer, and it is too early to say that there will be none.
    pub answers: Option<Answers>,
    /// Why the GPUs cannot be used.
    pub unanswered: Option<String>,
}

/// Asks every `period`, or when told. Dropped to cancel.
#[derive(Debug)]
pub struct Poller {
    pub source: Arc<dyn GpuSource>,
    pub period: Duration,
    pub now: Arc<Notify>,
    pub inside: mpsc::Sender<Inside>,
    /// The devices of the last answer; `None` until there was one.
    pub known: Option<BTreeSet<GpuUuid>>,
}

impl Poller {
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(self.period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut rounds, mut misses) = (0, 0);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.now.notified() => {}
            }
            let begun = Instant::now();
            let due = rounds % DEVICES_EVERY == DEVICES_EVERY - 1;
            rounds += 1;
            let mut report = match self.round(due).await {
                Ok(report) => {
                    misses = 0;
                    report
                }
                Err(error) => {
                    misses += 1;
                    if misses == 1 {
                        warn!(source = self.source.name(), %error, "the GPUs do not answer");
                    }
                    self.silence(&error, misses)
                }
            };
            report.begun = begun;
            if self.inside.send(Inside::Gpus(Box::new(report))).await.is_err() {
                return;
            }
        }
    }

    async fn round(&mut self, due: bool) -> Result<GpuReport, GpuError> {
        let mut devices = None;
        if due || self.known.is_none() {
            devices = Some(self.ask_devices().await?);
        }
        let mut samples = bounded("samples", self.source.samples()).await?;
        let sampled: BTreeSet<GpuUuid> = samples.iter().map(|(gpu, _)| gpu.clone()).collect();
        if devices.is_none() && self.known.as_ref().is_some_and(|known| *known != sampled) {
            devices = Some(self.ask_devices().await?);
            samples = bounded("samples", self.source.samples()).await?;
        }
        let processes = bounded("processes", self.source.processes(&[])).await?;
        let driver = self.source.driver();
        let answers = Some((samples, processes));
        Ok(GpuReport { begun: Instant::now(), driver, devices, answers, unanswered: None })
    }

    async fn ask_devices(&mut self) -> Result<(Vec<Gpu>, Topology), GpuError> {
        let answer = devices(&self.source).await?;
        self.known = Some(answer.0.iter().map(|gpu| gpu.uuid.clone()).collect());
        Ok(answer)
    }

    /// A round without an answer.
    fn silence(&self, error: &GpuError, misses: u32) -> GpuReport {
        let driver = self.source.driver();
        let certain = misses >= MISSES || !matches!(driver.state, DriverState::Ok | DriverState::Hung);
        let why = driver.sentence.clone().unwrap_or_else(|| error.message.clone());
        GpuReport {
            begun: Instant::now(),
            driver,
            devices: None,
            answers: certain.then(Default::default),
            unanswered: certain.then_some(why),
        }
    }
}

pub(in crate::agent) async fn bounded<T>(
    question: &'static str,
    call: impl Future<Output = Result<T, GpuError>>,
) -> Result<T, GpuError> {
    tokio::time::timeout(ANSWER_DEADLINE, call).await.unwrap_or_else(|_| {
        Err(GpuError { question, message: format!("no answer within {} s", ANSWER_DEADLINE.as_secs()) })
    })
}
