//! The shim's one state: which stage its task is in, and what moves it on. A single thread waits for the agent, for
//! signals, for the task's output and for deadlines; nothing in here waits for anything else.

use super::bell::Bell;
use super::channel::Channel;
use super::child::{Launch, Outcome};
use super::descendants;
use super::hold::Hold;
use super::ending::{Ending, Recording};
use super::exit::{ExitRecord, Why};
use super::output::Stream;
use super::protocol::Check;
use super::queue::Queue;
use super::spec::ShimSpec;
use super::sys::{self, POLLIN, PollFd, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use super::task::{Files, MemoryCounts};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the shim takes notice of.
pub const SIGNALS: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGCHLD];
/// Before `Go`, a shim without an agent leaves after this.
const ABANDONED_AFTER: Duration = Duration::from_secs(120);
/// How long grandchildren may hold the output after the command has ended.
const HOLD_OUTPUT: Duration = Duration::from_secs(2);
const LEASE_GRACE: Duration = Duration::from_secs(10);
/// How often a process group is looked at: nobody tells of the end of one whose processes are not our children.
const GROUP_LOOK: Duration = Duration::from_millis(50);
/// The lease counts on a clock that poll's timeout does not follow through a suspend.
const LEASE_LOOK: Duration = Duration::from_secs(5);
/// Threads ring when they are done; this is for a shim that got no bell.
const THREAD_LOOK: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Where the task is. Stages only go forward.
pub enum Stage {
    NeedSpec,
    Barrier,
    /// The command is being started, runs, or its grandchildren hold the output.
    Running,
    /// Everything that is left is being killed.
    Killing(Ending),
    /// The last output goes to disk.
    Draining {
        written_bytes: u64,
        since: Instant,
        gave_up: bool,
    },
    /// The exit record goes to disk.
    Recording(Recording),
    /// All is told or will be repeated; leave at `until`.
    Ended {
        record: Box<ExitRecord>,
        until: Instant,
    },
    Gone {
        exit_code: i32,
    },
}

/// A task that has its specification.
pub struct Task {
    pub spec: ShimSpec,
    pub files: Files,
    pub checks: Vec<Check>,
    pub queue: Arc<Queue>,
    pub lease_until_boottime_ns: Option<u64>,
    pub memory_before: MemoryCounts,
}

/// The command as a process.
pub struct Run {
    pub pid: i32,
    /// While it is being started.
    pub launch: Option<Launch>,
    pub streams: [Stream; 2],
    pub started: Option<Started>,
    pub end: Option<End>,
    /// The command has ended, and nobody is left who was promised time. From here on the output is only held.
    pub settled: Option<Instant>,
    /// It has failed, and is kept for somebody to look at.
    pub hold: Option<Hold>,
}

#[derive(Clone)]
pub struct Started {
    pub realtime_ns: u64,
    pub boottime_ns: u64,
    pub alternative: u32,
    pub program: String,
}

/// The command was reaped.
#[derive(Clone, Copy)]
pub struct End {
    pub status: i32,
    pub at: Instant,
    pub realtime_ns: u64,
}

/// Somebody with the right to it wants the task to end.
pub struct Stop {
    pub why: Why,
    kill_at: Instant,
}

/// A signal that the agent did not send.
pub struct Outside {
    pub signal: i32,
    pub why: Why,
    pub at: Instant,
}

pub struct Supervisor {
    pub(super) channel: Channel,
    signals: OwnedFd,
    /// Rung by the threads that write to disk.
    pub(super) bell: Bell,
    pub(super) started_boottime_ns: u64,
    pub(super) stage: Stage,
    pub(super) task: Option<Task>,
    pub(super) run: Option<Run>,
    pub(super) stop: Option<Stop>,
    pub(super) outside: Option<Outside>,
    /// Why the command never ran.
    pub(super) never_ran: Option<Why>,
    /// Processes that are left at the end, and how many had to be killed.
    pub(super) remains: (Vec<u32>, u32),
}

impl Supervisor {
    pub fn new(socket_paths: Vec<Vec<u8>>, signals: OwnedFd) -> Self {
        Self {
            channel: Channel::new(socket_paths, Instant::now()),
            signals,
            bell: Bell::new(),
            started_boottime_ns: sys::boottime_ns(),
            stage: Stage::NeedSpec,
            task: None,
            run: None,
            stop: None,
            outside: None,
            never_ran: None,
            remains: (Vec::new(), 0),
        }
    }

    /// Runs until nothing is left to do; the exit code is the command's as a shell would tell it.
    pub fn run(mut self) -> i32 {
        loop {
            let now = Instant::now();
            if self.channel.connect(now) {
                self.greet(now);
            }
            self.advance(now);
            if let Stage::Gone { exit_code } = self.stage {
                return exit_code;
            }
            self.wait(Instant::now());
            self.take_signals();
            let now = Instant::now();
            self.channel.flush(now);
            while let Some(delivery) = self.channel.receive(now) {
                self.obey(delivery, now);
            }
        }
    }

    /// Waits for the next thing to happen, and takes the output that has come.
    fn wait(&mut self, now: Instant) {
        let entry = |fd| PollFd { fd, events: POLLIN, revents: 0 };
        let mut list = vec![entry(self.signals.as_raw_fd())];
        list.extend(self.bell.poll_entry());
        list.extend(self.channel.poll_entry());
        let others = list.len();
        if let Some(run) = &self.run {
            list.extend(run.launch.as_ref().map(|launch| entry(launch.report.as_raw_fd())));
            list.extend(run.streams.iter().filter_map(|stream| stream.descriptor().map(entry)));
        }
        sys::wait(&mut list, self.next_deadline(now).saturating_duration_since(now));
        self.bell.silence();
        let ready = |fd| list[others..].iter().any(|entry| entry.fd == fd && entry.revents != 0);
        if let (Some(run), Some(task)) = (&mut self.run, &self.task) {
            for stream in &mut run.streams {
                if stream.is_unfinished() || stream.is_held_off() || stream.descriptor().is_some_and(ready) {
                    stream.read(&task.queue);
                }
            }
        }
    }

    fn next_deadline(&self, now: Instant) -> Instant {
        let run = self.run.as_ref();
        let own = match &self.stage {
            Stage::NeedSpec | Stage::Barrier if !self.channel.is_connected() => {
                now + ABANDONED_AFTER.saturating_sub(self.channel.unreachable_for(now))
            }
            Stage::Running => {
                let held = run.filter(|run| run.hold.is_none()).and_then(|run| run.settled);
                let held = held.map(|settled| settled + HOLD_OUTPUT);
                let look = run.is_some_and(|run| run.end.is_some() && run.settled.is_none()).then(|| now + GROUP_LOOK);
                let killed = self.stop.as_ref().map(|stop| stop.kill_at);
                [held, look, killed].into_iter().flatten().min().unwrap_or(now + LONGEST_WAIT)
            }
            Stage::Killing(ending) => ending.next_look(),
            Stage::Draining { .. } | Stage::Recording(_) => now + THREAD_LOOK,
            Stage::Ended { until, .. } => *until,
            _ => now + LONGEST_WAIT,
        };
        let lease = self.task.as_ref().and_then(|task| task.lease_until_boottime_ns);
        let lease = lease.filter(|_| matches!(self.stage, Stage::Barrier | Stage::Running));
        let on_boottime =
            |until: u64| now + Duration::from_nanos(until.saturating_sub(sys::boottime_ns())).min(LEASE_LOOK);
        let (lease, hold) = (lease.map(on_boottime), self.hold().map(|hold| on_boottime(hold.until_boottime_ns)));
        let unfinished = run.is_some_and(|run| run.streams.iter().any(Stream::is_unfinished)).then_some(now);
        let held_off = run.is_some_and(|run| run.streams.iter().any(Stream::is_held_off));
        let held_off = held_off.then_some(now + Duration::from_millis(1));
        [Some(own), self.channel.next_attempt(), lease, hold, unfinished, held_off]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(own)
    }

    fn take_signals(&mut self) {
        // struct signalfd_siginfo: number, errno, code, pid, uid, ... 128 bytes in all.
        let mut info = [0; 128];
        while let Ok(128) = sys::read_fd(self.signals.as_raw_fd(), &mut info) {
            let word =
                |place: usize| u32::from_ne_bytes([info[place], info[place + 1], info[place + 2], info[place + 3]]);
            let (signal, pid, uid) = (word(0) as i32, word(12), word(16));
            if signal != SIGCHLD {
                self.outside_signal(signal, pid, uid);
            }
        }
        self.reap();
    }

    fn outside_signal(&mut self, signal: i32, pid: u32, uid: u32) {
        let ends = matches!(signal, SIGTERM | SIGINT | SIGQUIT);
        if ends && self.command_may_end() && !self.is_from_task(pid, uid) {
            let why = Why::OutsideSignal { signal, pid, uid };
            self.outside = Some(Outside { signal, why, at: Instant::now() });
        } else if ends && self.hold().is_some() && !self.is_from_task(pid, uid) {
            // Whoever ends the container or the service waits for no one; the command's own end stays what it was.
            self.end_hold(Instant::now());
        }
        self.forward(signal);
    }

    /// A task may signal its shim, but what it sends is its own doing.
    fn is_from_task(&self, pid: u32, uid: u32) -> bool {
        // 0: from outside our process namespace.
        let (Some(task), true, true) = (&self.task, self.run.is_some(), pid != 0) else { return false };
        // Nobody but the task is in a container: also what was started beside its command.
        if std::process::id() == 1 {
            return true;
        }
        descendants::is_below(&task.files, pid).unwrap_or_else(|| {
            // It has ended since, and nobody knows where it was. Only who could have been the task counts as the task.
            uid == task.spec.uid.unwrap_or_else(sys::own_uid)
        })
    }

    /// To the command's process group, as long as its number is surely the command's.
    pub(super) fn forward(&self, signal: i32) {
        if let Some(run) = self.run.as_ref().filter(|run| run.end.is_none()) {
            // The child makes its group first thing; until then there is only itself.
            if sys::send_signal(-run.pid, signal).is_err() {
                let _ = sys::send_signal(run.pid, signal);
            }
        }
    }

    /// Not so once the command has ended: what comes later is no reason for that end.
    fn command_may_end(&self) -> bool {
        match self.stage {
            Stage::NeedSpec | Stage::Barrier => true,
            Stage::Running => self.run.as_ref().is_some_and(|run| run.end.is_none()),
            _ => false,
        }
    }

    /// Takes note of every child that has ended.
    pub(super) fn reap(&mut self) {
        loop {
            match sys::reap() {
                Ok(Some((pid, status))) => {
                    let killing = if let Stage::Killing(ending) = &mut self.stage { Some(ending) } else { None };
                    match self.run.as_mut().filter(|run| run.pid == pid) {
                        Some(run) => {
                            run.end = Some(End { status, at: Instant::now(), realtime_ns: sys::realtime_ns() });
                        }
                        None => killing.into_iter().for_each(|ending| ending.reaped(status)),
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    if let Stage::Killing(ending) = &mut self.stage {
                        ending.nothing_left();
                    }
                    return;
                }
            }
        }
    }

    /// SIGTERM once, SIGKILL after the shortest grace that was ever given. The first reason stays.
    pub(super) fn order_stop(&mut self, why: Why, grace: Duration, now: Instant) {
        let kill_at = now + grace;
        if let Some(stop) = &mut self.stop {
            stop.kill_at = stop.kill_at.min(kill_at);
        } else if self.command_may_end() {
            self.stop = Some(Stop { why, kill_at });
            if !grace.is_zero() {
                self.forward(SIGTERM);
            }
        } else if self.hold().is_some() {
            self.stop = Some(Stop { why, kill_at });
            self.end_hold(now);
        } else if matches!(self.stage, Stage::Running) {
            // Only grandchildren are left, and nobody wants to wait for them.
            self.stage = Stage::Killing(Ending::new(now));
        }
    }

    /// Has the child said what became of the start?
    pub(super) fn look_at_start(&mut self, now: Instant) {
        let Some(run) = self.run.as_mut() else { return };
        let Some(launch) = run.launch.as_mut() else { return };
        let Some(outcome) = launch.outcome() else { return };
        let (realtime_ns, boottime_ns) = launch.at_ns;
        run.launch = None;
        match outcome {
            Outcome::Runs { alternative, program } => {
                run.started = Some(Started { realtime_ns, boottime_ns, alternative, program });
                self.repeat(now);
            }
            Outcome::Failed(why) => self.never_ran = Some(why),
        }
    }

    /// Moves on whatever is due.
    fn advance(&mut self, now: Instant) {
        self.watch_lease(now);
        match &self.stage {
            Stage::NeedSpec | Stage::Barrier => {
                if self.channel.unreachable_for(now) > ABANDONED_AFTER {
                    self.never_ran.get_or_insert(Why::AbandonedBeforeGo);
                }
                if self.stop.is_some() || self.outside.is_some() || self.never_ran.is_some() {
                    self.begin_draining(now);
                }
            }
            Stage::Running => {
                self.look_at_start(now);
                self.look_at_group(now);
                let run = self.run.as_ref();
                let closed = run.is_some_and(|run| run.launch.is_none() && !run.streams.iter().any(Stream::is_open));
                let ended = run.and_then(|run| run.settled).is_some_and(|at| closed || now >= at + HOLD_OUTPUT);
                let killed = self.stop.as_ref().is_some_and(|stop| now >= stop.kill_at);
                if self.hold().is_some() {
                    self.look_at_hold(now);
                } else if killed || (ended && !self.begin_hold(now)) {
                    self.stage = Stage::Killing(Ending::new(now));
                    self.advance_ending(now);
                }
            }
            _ => self.advance_ending(now),
        }
    }

    /// A stop promises its grace to the whole process group: a shell dies of the group's SIGTERM at once, while the
    /// program that it runs still saves its work.
    fn look_at_group(&mut self, now: Instant) {
        let stopping = self.stop.is_some();
        let Some(run) = self.run.as_mut().filter(|run| run.settled.is_none()) else { return };
        let Some(end) = run.end else { return };
        if !stopping {
            run.settled = Some(end.at);
        } else if !sys::group_exists(run.pid) {
            // The number was the group's as long as it had a process, and is not looked at again.
            run.settled = Some(now);
        }
    }

    /// Goes on while a stop with a long grace is under way: nothing of the task may outlive its lease.
    fn watch_lease(&mut self, now: Instant) {
        let kept = self.hold().is_some();
        let lives = self.command_may_end() || kept || (self.stop.is_some() && matches!(self.stage, Stage::Running));
        let Some(task) = self.task.as_mut().filter(|_| lives) else { return };
        if task.lease_until_boottime_ns.is_some_and(|until| sys::boottime_ns() >= until) {
            // Acted upon: a late renewal takes nothing back, and nobody waits for that moment again.
            task.lease_until_boottime_ns = None;
            self.order_stop(Why::LeaseExpired, LEASE_GRACE, now);
        }
    }
}
