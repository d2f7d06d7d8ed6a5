//! Follows one shim from its first connection to its end: answers its frames, passes requests on, tells events.
//! One task of the executor per shim; it owns everything it changes. What it knows is watched through [`State`].

use super::exit::{self, Promised};
use super::kind::Remains;
use super::layout::{StartRecord, TaskDir};
use super::link::{Connection, Endpoint};
use super::outbox::Outbox;
use super::process_id::{ProcessEnd, ProcessId};
use super::wanted::Wanted;
use crate::domain::exit::Exit;
use crate::domain::ids::TaskId;
use crate::domain::time::Timestamp;
use crate::runtime::{RuntimeEvent, RuntimeEventKind};
use crate::shim::exit::ExitRecord;
use crate::shim::protocol::{AgentFrame, Check, Phase, ShimFrame, Slot};
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a shim that has been told of the end may take to leave.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// From SIGTERM to SIGKILL for a task that has run for too long.
const OVER_GRACE: Duration = Duration::from_secs(30);
/// How long a small record may take to reach the disk before nobody waits for it any more.
const RECORD_DEADLINE: Duration = Duration::from_millis(500);

/// How far the task is, as far as its shim has said.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// The shim has not called back yet.
    Connecting,
    /// It connected and will never get its specification.
    Unprepared {
        reason: String,
    },
    Waiting {
        checks: Vec<Check>,
    },
    Running {
        started_at: Timestamp,
        child_pid: u32,
    },
    Ended {
        started_at: Option<Timestamp>,
        at: Timestamp,
        exit: Exit,
    },
}

/// What others ask of the shim. Answers come once the shim has been told, or the task has ended; to a stop once it is
/// certain that it will come about, if need be over the shim's head.
#[derive(Debug)]
pub enum Request {
    Launch { command: File, answer: oneshot::Sender<()> },
    Stop { grace: Duration, answer: oneshot::Sender<()> },
    Renew { until_boottime: Duration, answer: oneshot::Sender<()> },
}

/// Descriptors for the shim, with what each is.
pub type SpecFiles = Vec<(Slot, File)>;

#[derive(Debug)]
pub struct Supervisor {
    pub id: TaskId,
    pub dir: TaskDir,
    pub promised: Promised,
    pub shim: ProcessId,
    pub shim_end: ProcessEnd,
    pub endpoint: Endpoint,
    pub nonce: String,
    /// An earlier agent process started the shim.
    pub adopting: bool,
    /// For the shim, until it has taken it. When adopting it has it, or will never get it.
    pub spec: Option<SpecFiles>,
    pub requests: mpsc::Receiver<Request>,
    pub events: mpsc::Sender<RuntimeEvent>,
    pub state: watch::Sender<State>,
    pub cancel: CancellationToken,
    pub remains: Arc<dyn Remains>,
    pub wanted: Wanted,
}

/// What happened next.
enum Step {
    Connected(io::Result<Connection>),
    Frame(io::Result<Option<ShimFrame>>),
    Asked(Option<Request>),
    ShimEnded,
    LeaveOverdue,
    StopOverdue,
    /// It has run for as long as its node lets it.
    RunOver,
    Cancelled,
}

impl Supervisor {
    pub async fn run(mut self) {
        let mut outbox = Outbox::new(self.events.clone(), self.id);
        let mut connection: Option<Connection> = None;
        let mut leave_by: Option<Instant> = None;
        loop {
            let ended = matches!(*self.state.borrow(), State::Ended { .. });
            if leave_by.is_none() && ended {
                leave_by = Some(Instant::now() + LEAVE_DEADLINE);
            }
            let over_at = if ended { None } else { self.over_at() };
            let force_at = if ended { None } else { self.wanted.force_at() };
            let connected = connection.is_some();
            let step = tokio::select! {
                // What the shim said comes before its end.
                biased;
                () = self.cancel.cancelled() => Step::Cancelled,
                () = outbox.deliver(), if !outbox.is_empty() => continue,
                frame = next_frame(&mut connection) => Step::Frame(frame),
                accepted = self.endpoint.accept_from(self.shim.pid, connected) => Step::Connected(accepted),
                request = self.requests.recv() => Step::Asked(request),
                _ = self.shim_end.ended() => Step::ShimEnded,
                () = sleep_until(leave_by) => Step::LeaveOverdue,
                () = sleep_until(force_at) => Step::StopOverdue,
                () = sleep_until(over_at) => Step::RunOver,
            };
            match step {
                Step::Cancelled => return outbox.flush(),
                Step::Connected(Ok(new)) => connection = Some(new),
                Step::Connected(Err(error)) => {
                    tracing::warn!(task = %self.id, %error, "accepting the shim's connection");
                    // Descriptors may be short; trying again at once would spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Step::Frame(Ok(Some(frame))) => {
                    let told = self.on_frame(frame, connection.as_ref(), &mut outbox).await;
                    drop_on_error(self.id, &mut connection, told);
                }
                Step::Frame(Ok(None)) => connection = None,
                Step::Frame(Err(error)) => drop_on_error(self.id, &mut connection, Err(error)),
                Step::Asked(Some(request)) => {
                    let told = self.on_request(request, connection.as_ref()).await;
                    drop_on_error(self.id, &mut connection, told);
                }
                // The runtime is gone and with it everybody who could ask.
                Step::Asked(None) => return outbox.flush(),
                Step::ShimEnded => {
                    self.on_shim_ended(connection.take(), &mut outbox).await;
                    return outbox.finish(&self.cancel).await;
                }
                Step::LeaveOverdue => {
                    self.shim_end.kill().ok();
                    leave_by = None;
                }
                Step::StopOverdue => self.end_by_force().await,
                Step::RunOver => {
                    self.wanted.over = true;
                    self.wanted.stop(Instant::now(), OVER_GRACE);
                    let told = self.say_stop(connection.as_ref()).await;
                    drop_on_error(self.id, &mut connection, told);
                }
            }
        }
    }

    /// When it is to be stopped for how long it has run; `None` also where it is to be stopped anyway.
    fn over_at(&self) -> Option<Instant> {
        let most = self.promised.max_run_time.filter(|_| self.wanted.stop_by.is_none())?;
        // The wall clock may be set.
        let ran = super::clock::boottime()?.saturating_sub(self.wanted.started_boottime?);
        Some(Instant::now() + most.duration().saturating_sub(ran))
    }

    pub(super) async fn on_frame(
        &mut self,
        frame: ShimFrame,
        link: Option<&Connection>,
        outbox: &mut Outbox,
    ) -> io::Result<()> {
        match frame {
            ShimFrame::Hello { phase: Phase::NeedSpec, .. } => {
                if self.spec.is_none() {
                    // An earlier agent process made it, and did not get to giving it.
                    let reason = "its preparation was cut off".to_owned();
                    self.state.send_replace(State::Unprepared { reason });
                    return Ok(());
                }
                let sent = self.send_spec(link).await;
                if let Err(error) = &sent {
                    let reason = format!("giving its shim the specification: {error}");
                    self.state.send_replace(State::Unprepared { reason });
                }
                sent
            }
            ShimFrame::Hello { phase, .. } => {
                if let Phase::Running { child_pid, started_realtime_ns, started_boottime_ns } = phase {
                    self.wanted.started_boottime = Some(Duration::from_nanos(started_boottime_ns));
                    self.on_started(child_pid, started_realtime_ns, outbox).await;
                }
                self.say_stop(link).await?;
                self.say_lease(link).await
            }
            ShimFrame::Ready { checks } => {
                self.spec = None;
                self.state.send_replace(State::Waiting { checks });
                // A command that is to be stopped is not begun.
                if self.wanted.stop_by.is_some() { self.say_stop(link).await } else { self.say_go(link).await }
            }
            ShimFrame::Started { child_pid, started_realtime_ns, started_boottime_ns, .. } => {
                self.wanted.started_boottime = Some(Duration::from_nanos(started_boottime_ns));
                self.on_started(child_pid, started_realtime_ns, outbox).await;
                Ok(())
            }
            ShimFrame::Held { code, signal, until_realtime_ns, .. } => {
                let until = exit::timestamp(until_realtime_ns);
                outbox.push(RuntimeEventKind::Held { until, why: exit::held(code, signal) });
                Ok(())
            }
            ShimFrame::StopAck => {
                self.wanted.stop_taken = true;
                Ok(())
            }
            ShimFrame::Ended { exit } => {
                self.on_ended(&exit, outbox);
                match link {
                    Some(link) => link.send(&AgentFrame::Bye, &[]).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn on_request(&mut self, request: Request, link: Option<&Connection>) -> io::Result<()> {
        if matches!(*self.state.borrow(), State::Ended { .. }) {
            // Dropping the request's channel would read as a failure.
            match request {
                Request::Launch { answer, .. } | Request::Stop { answer, .. } | Request::Renew { answer, .. } => {
                    answer.send(()).ok();
                }
            }
            return Ok(());
        }
        match request {
            Request::Launch { command, answer } => {
                self.wanted.command.get_or_insert(command);
                wait_with(&mut self.wanted.launches, answer);
                self.say_go(link).await
            }
            Request::Stop { grace, answer } => {
                self.wanted.stop(Instant::now(), grace);
                let told = self.say_stop(link).await;
                // From here on it comes about, whatever the shim does.
                answer.send(()).ok();
                told
            }
            Request::Renew { until_boottime, answer } => {
                self.wanted.lease_until = self.wanted.lease_until.max(Some(until_boottime));
                wait_with(&mut self.wanted.renewals, answer);
                self.say_lease(link).await
            }
        }
    }

    async fn send_spec(&self, link: Option<&Connection>) -> io::Result<()> {
        let (Some(link), Some(files)) = (link, &self.spec) else { return Ok(()) };
        let slots = files.iter().map(|(slot, _)| *slot).collect();
        let descriptors: Vec<_> = files.iter().map(|(_, file)| file.as_fd()).collect();
        link.send(&AgentFrame::Spec { descriptors: slots }, &descriptors).await
    }

    async fn say_go(&mut self, link: Option<&Connection>) -> io::Result<()> {
        let running = matches!(*self.state.borrow(), State::Running { .. });
        if running || self.wanted.stop_by.is_some() {
            answer(&mut self.wanted.launches);
        }
        let at_barrier = matches!(*self.state.borrow(), State::Waiting { .. }) && self.wanted.stop_by.is_none();
        let (Some(link), Some(command), true) = (link, &mut self.wanted.command, at_barrier) else { return Ok(()) };
        // The descriptor's place is shared with the shim, which may have read the file before a reconnect.
        command.rewind()?;
        link.send(&AgentFrame::Go, &[command.as_fd()]).await?;
        answer(&mut self.wanted.launches);
        Ok(())
    }

    async fn say_stop(&self, link: Option<&Connection>) -> io::Result<()> {
        let (Some(link), Some(by)) = (link, self.wanted.stop_by) else { return Ok(()) };
        if matches!(*self.state.borrow(), State::Connecting) && !self.adopting {
            // Its first answer will be Ready; a stop makes sense from there on.
            return Ok(());
        }
        let grace = by.saturating_duration_since(Instant::now());
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        link.send(&AgentFrame::Stop { grace_ms }, &[]).await
    }

    async fn say_lease(&mut self, link: Option<&Connection>) -> io::Result<()> {
        let (Some(link), Some(until)) = (link, self.wanted.lease_until) else { return Ok(()) };
        let until_boottime_ns = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        link.send(&AgentFrame::Renew { until_boottime_ns }, &[]).await?;
        answer(&mut self.wanted.renewals);
        Ok(())
    }

    async fn on_started(&mut self, child_pid: u32, started_realtime_ns: u64, outbox: &mut Outbox) {
        // After a reconnect it is said again.
        if !matches!(*self.state.borrow(), State::Connecting | State::Waiting { .. }) {
            return;
        }
        let started_at = exit::timestamp(started_realtime_ns);
        // Whoever adopts a running task is told so by the adoption.
        let adopted = self.adopting && matches!(*self.state.borrow(), State::Connecting);
        if !adopted {
            outbox.push(RuntimeEventKind::Started { at: started_at });
        }
        self.state.send_replace(State::Running { started_at, child_pid });
        self.wanted.command = None;
        answer(&mut self.wanted.launches);
        let (dir, nonce) = (self.dir.clone(), self.nonce.clone());
        let write = tokio::task::spawn_blocking(move || {
            let child = i32::try_from(child_pid).ok().and_then(|pid| ProcessId::of(pid).ok());
            dir.write_start(&StartRecord { started_at, child_pid, nonce, child })
        });
        // Without the record an adoption takes a second longer; a slow disk is not waited for.
        if let Ok(Ok(Err(error))) = tokio::time::timeout(RECORD_DEADLINE, write).await {
            tracing::warn!(task = %self.id, %error, "writing when the command began");
        }
    }

    pub(super) fn on_ended(&mut self, record: &ExitRecord, outbox: &mut Outbox) {
        let started_at = record.started_realtime_ns.map(exit::timestamp);
        let promised = Promised { over: self.wanted.over, ..self.promised };
        self.end(started_at, exit::ended_at(record), exit::exit_of(record, promised), outbox);
    }

    pub(super) fn end(&mut self, started_at: Option<Timestamp>, at: Timestamp, exit: Exit, outbox: &mut Outbox) {
        let before = self.state.borrow().clone();
        if !matches!(before, State::Ended { .. }) {
            // A shim that ended between two looks of ours ran all the same.
            if let (State::Waiting { .. }, Some(at)) = (&before, started_at) {
                outbox.push(RuntimeEventKind::Started { at });
            }
            outbox.push(RuntimeEventKind::Exited { at, exit: exit.clone() });
            let known = if let State::Running { started_at, .. } = before { Some(started_at) } else { None };
            self.state.send_replace(State::Ended { started_at: started_at.or(known), at, exit });
        }
        let wanted = &mut self.wanted;
        [&mut wanted.launches, &mut wanted.renewals].into_iter().for_each(answer);
    }
}

async fn next_frame(connection: &mut Option<Connection>) -> io::Result<Option<ShimFrame>> {
    match connection {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A connection that failed is of no more use; the shim makes another.
fn drop_on_error(id: TaskId, connection: &mut Option<Connection>, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(task = %id, %error, "the connection to the shim ended");
        *connection = None;
    }
}

/// One more who waits; those who have given up meanwhile are forgotten.
fn wait_with(waiting: &mut Vec<oneshot::Sender<()>>, answer: oneshot::Sender<()>) {
    waiting.retain(|earlier| !earlier.is_closed());
    waiting.push(answer);
}

fn answer(waiting: &mut Vec<oneshot::Sender<()>>) {
    for answer in waiting.drain(..) {
        answer.send(()).ok();
    }
}
