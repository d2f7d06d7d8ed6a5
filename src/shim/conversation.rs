//! What the shim tells the agent about itself, and what each of the agent's frames makes it do.

use super::channel::Delivery;
use super::child;
use super::exit::Why;
use super::output::Stream;
use super::protocol::{AgentFrame, PROTOCOL_VERSION, Phase, ShimFrame, Slot};
use super::queue::Queue;
use super::record::Kind;
use super::spec::ShimSpec;
use super::supervise::{Run, Stage, Supervisor, Task};
use super::sys::{self, PollFd};
use super::task::{self, Files};
use super::wire;
use super::writer;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Supervisor {
    /// Says who we are and, once more, where we are.
    pub(super) fn greet(&mut self, now: Instant) {
        let phase = match (&self.stage, self.run.as_ref().and_then(|run| Some((run.pid, run.started.as_ref()?)))) {
            (Stage::NeedSpec, _) => Phase::NeedSpec,
            (Stage::Ended { .. } | Stage::Gone { .. }, _) => Phase::Ended,
            (_, Some((pid, started))) => Phase::Running {
                child_pid: pid as u32,
                started_realtime_ns: started.realtime_ns,
                started_boottime_ns: started.boottime_ns,
            },
            (_, None) => Phase::AtBarrier,
        };
        let hello = ShimFrame::Hello {
            version: PROTOCOL_VERSION,
            pid: std::process::id(),
            started_boottime_ns: self.started_boottime_ns,
            phase,
        };
        self.channel.send(&hello, now);
        self.repeat(now);
    }

    /// Sends the frame that belongs to the stage.
    pub(super) fn repeat(&mut self, now: Instant) {
        let started = self.run.as_ref().and_then(|run| Some((run.pid, run.started.as_ref()?)));
        let frame = match (&self.stage, started) {
            (Stage::NeedSpec | Stage::Gone { .. }, _) => return,
            (Stage::Ended { record, .. }, _) => ShimFrame::Ended { exit: (**record).clone() },
            (_, Some((pid, started))) => ShimFrame::Started {
                child_pid: pid as u32,
                started_realtime_ns: started.realtime_ns,
                started_boottime_ns: started.boottime_ns,
                alternative: started.alternative,
                program: started.program.clone(),
            },
            (_, None) => match &self.task {
                Some(task) => ShimFrame::Ready { checks: task.checks.clone() },
                None => return,
            },
        };
        self.channel.send(&frame, now);
        if let Some(held) = self.held_frame() {
            self.channel.send(&held, now);
        }
    }

    pub(super) fn obey(&mut self, delivery: Delivery, now: Instant) {
        match delivery.frame {
            AgentFrame::Spec { descriptors } if matches!(self.stage, Stage::NeedSpec) => {
                self.accept(&descriptors, delivery.descriptors);
                self.repeat(now);
            }
            AgentFrame::Go if matches!(self.stage, Stage::Barrier) => self.go(delivery.descriptors, now),
            AgentFrame::Spec { .. } | AgentFrame::Go => self.repeat(now),
            AgentFrame::Stop { grace_ms } => self.stop_by_agent(Duration::from_millis(grace_ms.into()), now),
            AgentFrame::Kill => self.stop_by_agent(Duration::ZERO, now),
            AgentFrame::Signal { number } => self.forward(number.into()),
            AgentFrame::Renew { until_boottime_ns } => {
                let lease = self.task.as_mut().and_then(|task| task.lease_until_boottime_ns.as_mut());
                lease.into_iter().for_each(|until| *until = until_boottime_ns.max(*until));
            }
            AgentFrame::Bye => {
                if let Stage::Ended { until, .. } = &mut self.stage {
                    *until = now;
                }
            }
        }
    }

    fn stop_by_agent(&mut self, grace: Duration, now: Instant) {
        self.channel.send(&ShimFrame::StopAck, now);
        self.order_stop(Why::StoppedByAgent, grace, now);
        if matches!(self.stage, Stage::Ended { .. }) {
            self.repeat(now);
        }
    }

    fn accept(&mut self, slots: &[Slot], descriptors: Vec<OwnedFd>) {
        let (mut files, spec_file) = Files::sort(slots, descriptors);
        let spec = task::read_spec(spec_file.as_ref()).unwrap_or_else(|message| {
            self.fail("read the specification", message);
            ShimSpec::default()
        });
        let checks = task::inspect(&spec, &mut files);
        let queue = Arc::new(Queue::default());
        let segments = std::mem::take(&mut files.segments);
        if segments.is_empty() {
            queue.finish();
        } else if let Err(error) = writer::start(queue.clone(), segments, spec.segment_bytes, self.bell.clone()) {
            self.fail("start the log writer", error.to_string());
            queue.finish();
        }
        let lease_ns = spec.lease_s.map(|seconds| u64::from(seconds) * 1_000_000_000);
        self.task = Some(Task {
            lease_until_boottime_ns: lease_ns.map(|lease_ns| sys::boottime_ns().saturating_add(lease_ns)),
            memory_before: files.memory_counts(),
            spec,
            files,
            checks,
            queue,
        });
        self.stage = Stage::Barrier;
    }

    fn fail(&mut self, step: &str, message: String) {
        let why = Why::ExecFailed { step: step.to_owned(), errno: sys::EINVAL, message };
        self.never_ran.get_or_insert(why);
    }

    fn go(&mut self, mut descriptors: Vec<OwnedFd>, now: Instant) {
        let Some((task, file)) = self.task.as_ref().zip(descriptors.pop()) else { return };
        let command = match task::read_command(&file.into()) {
            Ok(command) => command,
            Err(message) => return self.fail("read the command", message),
        };
        if let Some(banner) = &task.spec.banner {
            show(banner);
        }
        match child::launch(&command, &task.spec, &task.files) {
            Ok((launch, [stdout, stderr])) => {
                let streams = [Stream::new(Kind::Stdout, stdout), Stream::new(Kind::Stderr, stderr)];
                self.run = Some(Run { pid: launch.pid, launch: Some(launch), streams, started: None, end: None, settled: None, hold: None });
                self.stage = Stage::Running;
                self.look_at_start(now);
            }
            Err(why) => self.never_ran = Some(why),
        }
    }
}

/// One line for `docker logs`; whoever reads there too slowly does not get it.
fn show(banner: &str) {
    let mut out = [PollFd { fd: 1, events: sys::POLLOUT, revents: 0 }];
    sys::wait(&mut out, Duration::ZERO);
    if out[0].revents & sys::POLLOUT != 0 {
        let line = format!("{}\n", wire::cut(banner, 1024));
        let _ = sys::write_fd(1, line.as_bytes());
    }
}
