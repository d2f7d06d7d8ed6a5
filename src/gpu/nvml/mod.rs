//! Real GPUs, asked through NVML, the driver's library.
//!
//! ```text
//!  agent ── NvmlGpus ──bounded queue──> supervisor thread ──socket pair──> wharf gpu-worker ──dlopen──> NVML
//!    ^                                                                          │ a thread and an event set per GPU
//!    └── GpuEvents <──bounded queue── event thread <──────────second socket pair┘
//! ```
//!
//! A call of NVML can hang in the kernel for ever, the library can crash, and an open handle stands in the way of
//! resets and upgrades. So it is loaded in a worker process, which is asked one device at a time, each question with a
//! deadline. A worker that misses one is killed, not waited for, and replaced; a device that made two workers miss it
//! is left out for a while. The library is opened anew with every worker: what is missing or broken is found once it
//! is mended, without a restart of the agent.

mod abandoned;
mod answers;
mod check;
mod event_stream;
mod modprobe;
mod options;
mod round;
mod supervisor;
mod topology;
mod wire;
pub mod worker;
mod worker_process;

pub use options::{Deadlines, NvmlOptions};

use super::events::GpuEvents;
use super::snapshot::DeviceHealth;
use super::{CHECK_DEADLINE, GpuError, GpuSource};
use crate::domain::checked::{DeepCheck, DeviceCheck};
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{Gpu, GpuDriver, GpuSample, Topology};
use crate::domain::ids::GpuUuid;
use async_trait::async_trait;
use event_stream::EventStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use supervisor::{Job, Supervisor};
use tokio::sync::oneshot;

/// Questions that wait for the supervisor; more are refused.
const QUEUE: usize = 16;

/// Events that nobody took yet; more wait in the worker's socket, then in the driver.
const EVENTS: usize = 256;

/// What the supervisor answers.
type Answer<T> = Result<T, String>;

/// The GPUs that NVML shows.
#[derive(Debug)]
pub struct NvmlGpus {
    jobs: SyncSender<Job>,
    driver: Arc<Mutex<GpuDriver>>,
    patience: Duration,
    /// The program that is started for what must not happen in this process.
    worker: PathBuf,
}

impl NvmlGpus {
    /// Starts the supervisor, which ends with this value and takes its worker with it. Asks nothing yet.
    pub fn new(options: NvmlOptions) -> std::io::Result<Self> {
        Self::start(options, None)
    }

    /// As [`NvmlGpus::new`], with a worker that also listens to what the devices tell unasked. It is kept alive for
    /// that, also while nobody asks anything.
    pub fn with_events(options: NvmlOptions) -> std::io::Result<(Self, GpuEvents)> {
        let (sender, told) = tokio::sync::mpsc::channel(EVENTS);
        Ok((Self::start(options, Some(EventStream::new(sender)))?, GpuEvents::new(told)))
    }

    fn start(options: NvmlOptions, events: Option<EventStream>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let driver = Arc::new(Mutex::new(GpuDriver::default()));
        let (patience, worker) = (options.deadlines.whole, options.worker.clone());
        let supervisor = Supervisor::new(options, Arc::clone(&driver), events);
        // A thread of its own: it blocks, and the worker dies with the very thread that started it.
        std::thread::Builder::new().name("gpu-supervisor".to_owned()).spawn(move || supervisor.run(&queue))?;
        Ok(Self { jobs, driver, patience, worker })
    }

    /// Lets go of the driver, as before a reset, until [`NvmlGpus::resume`]. Answers once the worker is gone; meanwhile
    /// every question is refused.
    pub async fn stop_worker(&self) -> Result<(), GpuError> {
        self.ask("the end of its worker", Job::Stop).await
    }

    /// Undoes [`NvmlGpus::stop_worker`].
    pub async fn resume(&self) -> Result<(), GpuError> {
        self.ask("a new worker", Job::Resume).await
    }

    async fn ask<T>(
        &self,
        question: &'static str,
        job: impl FnOnce(oneshot::Sender<Answer<T>>) -> Job,
    ) -> Result<T, GpuError> {
        let failed = |message: String| GpuError { question, message };
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(job(reply)).map_err(|refused| match refused {
            TrySendError::Full(_) => failed(format!("{QUEUE} questions wait already")),
            TrySendError::Disconnected(_) => failed("the supervisor of the GPU worker has ended".to_owned()),
        })?;
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answer)) => answer.map_err(failed),
            Ok(Err(_)) => Err(failed("the supervisor of the GPU worker has ended".to_owned())),
            Err(_) => Err(failed(format!("no answer within {} ms", self.patience.as_millis()))),
        }
    }
}

#[async_trait]
impl GpuSource for NvmlGpus {
    fn name(&self) -> &'static str {
        "nvml"
    }

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError> {
        self.ask("devices", Job::Devices).await
    }

    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError> {
        self.ask("samples", Job::Samples).await
    }

    async fn processes(&self, of: &[GpuUuid]) -> Result<GpuProcesses, GpuError> {
        self.ask("processes", |reply| Job::Processes(of.to_vec(), reply)).await
    }

    async fn health(&self) -> Result<Vec<DeviceHealth>, GpuError> {
        self.ask("their health", Job::Health).await
    }

    fn tells_health(&self) -> bool {
        true
    }

    async fn check(&self, gpu: &GpuUuid) -> Result<DeviceCheck, GpuError> {
        let begun = Arc::new(AtomicBool::new(false));
        let asked = self.ask("a check", |reply| Job::Check(gpu.clone(), Arc::clone(&begun), reply));
        match tokio::time::timeout(CHECK_DEADLINE, asked).await {
            Ok(answer) => answer,
            Err(_) => check::late(gpu, begun.load(Ordering::Relaxed)),
        }
    }

    async fn let_go(&self) -> Result<(), GpuError> {
        self.stop_worker().await
    }

    async fn take_up(&self) -> Result<(), GpuError> {
        self.resume().await
    }

    async fn deep_check(&self, gpu: &GpuUuid) -> Result<DeepCheck, GpuError> {
        check::deep(&self.worker, gpu).await
    }

    fn driver(&self) -> GpuDriver {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
