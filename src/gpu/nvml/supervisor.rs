//! Owns the worker: starts it, asks it, abandons it. One thread, which may block; callers wait with a deadline.

use super::abandoned::{Abandoned, Hung, Pause};
use super::event_stream::EventStream;
use super::modprobe::Modprobe;
use super::options::NvmlOptions;
use super::wire::{self, Answer, Failure, FailureKind, Opened, Question};
use super::worker_process::{Silence, Worker};
use crate::domain::checked::DeviceCheck;
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{DriverState, Gpu, GpuDriver, GpuSample, Topology};
use crate::domain::ids::GpuUuid;
use crate::gpu::events::GpuEvent;
use crate::gpu::snapshot::DeviceHealth;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

/// How often ended workers are looked for while nobody asks.
const REAP: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, String>>;

/// What the supervisor is asked.
#[derive(Debug)]
pub(super) enum Job {
    Devices(Reply<(Vec<Gpu>, Topology)>),
    Samples(Reply<Vec<(GpuUuid, GpuSample)>>),
    Processes(Vec<GpuUuid>, Reply<GpuProcesses>),
    Health(Reply<Vec<DeviceHealth>>),
    /// The flag is set once the device itself is asked.
    Check(GpuUuid, Arc<AtomicBool>, Reply<DeviceCheck>),
    Stop(Reply<()>),
    Resume(Reply<()>),
}

impl Job {
    /// A question whose caller waits no longer: answering it would make the next ones wait. What changes something is
    /// done all the same.
    fn is_forgotten(&self) -> bool {
        match self {
            Self::Devices(reply) => reply.is_closed(),
            Self::Samples(reply) => reply.is_closed(),
            Self::Processes(_, reply) => reply.is_closed(),
            Self::Health(reply) => reply.is_closed(),
            Self::Check(_, _, reply) => reply.is_closed(),
            Self::Stop(_) | Self::Resume(_) => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) options: NvmlOptions,
    driver: Arc<Mutex<GpuDriver>>,
    worker: Option<Worker>,
    /// Where workers tell of events, if anybody wants to know.
    events: Option<EventStream>,
    /// The pause before the next worker whose only purpose is to listen.
    relisten: Option<Pause>,
    /// How many the driver shows, as long as there is a worker.
    devices: u32,
    abandoned: Abandoned,
    modprobe: Modprobe,
    hung: Hung,
    /// Why no worker could open the driver, and when the next may try.
    refused: Option<(Pause, DriverState, String)>,
    stopped: bool,
    /// The last good answer for each index.
    pub(super) known: BTreeMap<u32, wire::Device>,
    /// A device was in trouble: only a driver that is opened anew can say that it is mended.
    pub(super) sick: bool,
}

/// Nothing can be asked.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) state: DriverState,
    pub(super) sentence: String,
}

impl Supervisor {
    pub(super) fn new(options: NvmlOptions, driver: Arc<Mutex<GpuDriver>>, events: Option<EventStream>) -> Self {
        Self {
            options,
            driver,
            worker: None,
            events,
            relisten: None,
            devices: 0,
            abandoned: Abandoned::default(),
            modprobe: Modprobe::default(),
            hung: Hung::default(),
            refused: None,
            stopped: false,
            known: BTreeMap::new(),
            sick: false,
        }
    }

    /// Answers until nobody can ask any more.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        loop {
            match queue.recv_timeout(REAP) {
                Ok(job) => self.job(job),
                Err(RecvTimeoutError::Timeout) => self.keep_listening(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.modprobe.look(Instant::now(), &mut self.abandoned);
            self.abandoned.reap();
        }
        let _ = self.end_worker();
    }

    /// Nobody asks anything: a worker that ended would be missed only at the next question, and with it events.
    fn keep_listening(&mut self) {
        if self.events.is_none() || self.stopped {
            return;
        }
        let (now, pauses) = (Instant::now(), self.options.deadlines.retry);
        if let Some(worker) = self.worker.take_if(Worker::has_ended) {
            warn!(worker = worker.pid(), "a GPU worker that listened for events has ended");
            self.abandoned.add(worker.end());
            self.relisten = Some(Pause::after(self.relisten.as_ref(), now, pauses));
        }
        if self.worker.is_none() && self.relisten.as_ref().is_none_or(|pause| pause.is_over(now)) {
            // Why not is in the driver's state.
            let _ = self.open();
        }
    }

    /// Whoever asked may have stopped waiting.
    fn job(&mut self, job: Job) {
        self.abandoned.reap();
        if job.is_forgotten() {
            return;
        }
        match job {
            Job::Devices(reply) => drop(reply.send(self.all_devices())),
            Job::Samples(reply) => drop(reply.send(self.all_samples())),
            Job::Processes(of, reply) => drop(reply.send(self.all_processes(&of))),
            Job::Health(reply) => drop(reply.send(self.all_health())),
            Job::Check(gpu, begun, reply) => drop(reply.send(self.check(&gpu, &begun))),
            Job::Stop(reply) => drop(reply.send(self.stop())),
            Job::Resume(reply) => {
                self.stopped = false;
                self.refused = None;
                self.hung.clear();
                drop(reply.send(Ok(())));
            }
        }
    }

    fn stop(&mut self) -> Result<(), String> {
        self.stopped = true;
        // The driver may be another one when it is resumed.
        self.modprobe.again();
        self.set_driver(DriverState::Stopped, "the GPU worker was stopped, as for a reset".to_owned());
        self.end_worker()
    }

    /// An error: it has not ended, so the driver is still held open.
    pub(super) fn end_worker(&mut self) -> Result<(), String> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        let pid = worker.pid();
        match worker.end() {
            None => Ok(()),
            Some(child) => {
                self.abandoned.add([child]);
                Err(format!("the GPU worker, process {pid}, hangs in the driver and has not ended"))
            }
        }
    }

    /// The number of devices, with a worker that can be asked.
    pub(super) fn open(&mut self) -> Result<u32, Refused> {
        if self.stopped {
            let sentence = "the GPU worker was stopped, as for a reset".to_owned();
            return Err(Refused { state: DriverState::Stopped, sentence });
        }
        if self.worker.is_some() {
            return Ok(self.devices);
        }
        let now = Instant::now();
        if let Some((pause, state, sentence)) = &self.refused
            && !pause.is_over(now)
        {
            return Err(Refused { state: *state, sentence: sentence.clone() });
        }
        if self.abandoned.are_too_many() {
            let sentence = format!("{} GPU workers hang in the driver; a reboot helps", self.abandoned.len());
            return Err(self.refuse(DriverState::Hung, sentence));
        }
        self.start()
    }

    fn start(&mut self) -> Result<u32, Refused> {
        let mut worker = match Worker::start(&self.options, self.events.is_some()) {
            Ok(worker) => worker,
            Err(error) => {
                let sentence = format!("starting the GPU worker {}: {error}", self.options.worker.display());
                return Err(self.refuse(DriverState::Failed, sentence));
            }
        };
        let (library, root) = (self.options.library.clone(), self.options.root.clone());
        let question = Question::Open { library, root, listens: self.events.is_some() };
        let answer = worker.ask(&question, self.options.deadlines.open);
        debug!(worker = worker.pid(), ?answer, "a GPU worker");
        match answer {
            Ok(Answer::Opened(Opened { driver, devices })) => {
                self.listen_to(&worker);
                self.modprobe.begin(&self.options.modprobe, &mut self.abandoned);
                info!(worker = worker.pid(), driver = driver.driver_version, devices, "NVML is open");
                (self.worker, self.devices, self.refused, self.sick) = (Some(worker), devices, None, false);
                *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = driver;
                Ok(devices)
            }
            Ok(Answer::Failed(Failure { kind: FailureKind::Driver(state), sentence })) => {
                self.abandoned.add(worker.end());
                Err(self.refuse(state, sentence))
            }
            Ok(other) => {
                self.abandoned.add(worker.end());
                Err(self.refuse(DriverState::Failed, format!("the GPU worker answered something else: {other:?}")))
            }
            Err(silence @ Silence::Late(_)) => {
                self.tell_given_up(None, &silence);
                self.abandoned.add([worker.abandon()]);
                Err(self.refuse(DriverState::Hung, format!("opening the driver: {silence}")))
            }
            Err(silence @ Silence::Broken(_)) => {
                self.abandoned.add(worker.end());
                Err(self.refuse(DriverState::Failed, format!("opening the driver: {silence}")))
            }
        }
    }

    fn listen_to(&mut self, worker: &Worker) {
        let Some(stream) = &mut self.events else { return };
        let followed = worker.events().and_then(|socket| socket.map_or(Ok(()), |socket| stream.follow(socket)));
        if let Err(error) = followed {
            warn!(worker = worker.pid(), %error, "events of the GPUs are not heard");
        }
    }

    fn tell_given_up(&self, index: Option<u32>, silence: &Silence) {
        let Some(stream) = &self.events else { return };
        let is_late = matches!(silence, Silence::Late(_));
        stream.tell(GpuEvent::WorkerGivenUp { index, is_late, sentence: silence.to_string() });
    }

    fn refuse(&mut self, state: DriverState, sentence: String) -> Refused {
        if matches!(state, DriverState::NoLibrary | DriverState::DriverNotLoaded | DriverState::VersionMismatch) {
            self.modprobe.again();
        }
        let before = self.refused.as_ref().map(|(pause, _, _)| pause);
        let pause = Pause::after(before, Instant::now(), self.options.deadlines.retry);
        let absent = matches!(state, DriverState::NoLibrary | DriverState::DriverNotLoaded);
        let (state, sentence) = if absent && !self.options.insist && !self.options.shows_a_driver() {
            (DriverState::None, format!("this node has no NVIDIA GPUs, as far as can be seen ({sentence})"))
        } else {
            (state, sentence)
        };
        self.refused = Some((pause, state, sentence.clone()));
        self.set_driver(state, sentence.clone());
        Refused { state, sentence }
    }

    fn set_driver(&self, state: DriverState, sentence: String) {
        let driver = GpuDriver { state, sentence: Some(sentence), ..GpuDriver::default() };
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = driver;
    }

    /// Asks about each device in turn. One that does not answer costs a worker; it is asked once more after the others,
    /// since a worker can also be stopped or killed by somebody, and then left out for a while. Devices that are known to
    /// hang come last, and once more is enough for them.
    pub(super) fn each(
        &mut self,
        indices: &[u32],
        question: impl Fn(u32) -> Question,
        limit: Duration,
    ) -> Result<BTreeMap<u32, Result<Answer, Failure>>, Refused> {
        self.each_until(indices, question, limit, None)
    }

    /// The same, and nothing is asked that might not be answered by `end`: what there was no time for is not among the
    /// answers.
    pub(super) fn each_until(
        &mut self,
        indices: &[u32],
        question: impl Fn(u32) -> Question,
        limit: Duration,
        end: Option<Instant>,
    ) -> Result<BTreeMap<u32, Result<Answer, Failure>>, Refused> {
        let is_over = || end.is_some_and(|end| Instant::now() + limit > end);
        let (mut answers, mut late) = (BTreeMap::new(), Vec::new());
        let mut order = indices.to_vec();
        order.sort_by_key(|index| self.hung.is_known(*index, Instant::now()));
        for index in order {
            let left_out = self.hung.left_out(index, Instant::now(), &self.abandoned);
            if let Some(failure) = left_out {
                answers.insert(index, Err(failure.clone()));
                continue;
            }
            if is_over() {
                continue;
            }
            match self.ask(&question(index), limit)? {
                Ok(answer) => drop(answers.insert(index, answer)),
                Err(silence) if self.hung.is_known(index, Instant::now()) => {
                    drop(answers.insert(index, Err(self.blame(index, &silence))));
                }
                Err(silence) => late.push((index, silence)),
            }
        }
        for (index, silence) in late {
            if is_over() {
                // Asked last the next time.
                self.blame(index, &silence);
                continue;
            }
            let answer = match self.ask(&question(index), limit)? {
                Ok(answer) => {
                    self.hung.remove(index);
                    answer
                }
                Err(silence) => Err(self.blame(index, &silence)),
            };
            answers.insert(index, answer);
        }
        Ok(answers)
    }

    /// The device is left out for a while.
    fn blame(&mut self, index: u32, silence: &Silence) -> Failure {
        let kind = match silence {
            Silence::Late(_) => FailureKind::Hung,
            Silence::Broken(_) => FailureKind::Device,
        };
        let failure = Failure { kind, sentence: format!("GPU {index}: {silence}") };
        self.hung.add(index, failure.clone(), Instant::now(), self.options.deadlines.retry);
        failure
    }

    /// One question. The inner error: the worker did not answer, and is gone.
    fn ask(
        &mut self,
        question: &Question,
        limit: Duration,
    ) -> Result<Result<Result<Answer, Failure>, Silence>, Refused> {
        self.open()?;
        let Some(mut worker) = self.worker.take() else {
            return Err(self.refuse(DriverState::Failed, "there is no GPU worker".to_owned()));
        };
        match worker.ask(question, limit) {
            Ok(answer) => {
                self.worker = Some(worker);
                Ok(Ok(match answer {
                    Answer::Failed(failure) => Err(failure),
                    answer => Ok(answer),
                }))
            }
            Err(silence) => {
                warn!(worker = worker.pid(), ?question, %silence, "a GPU worker is given up");
                self.tell_given_up(question.index(), &silence);
                self.abandoned.add([worker.abandon()]);
                Ok(Err(silence))
            }
        }
    }
}
