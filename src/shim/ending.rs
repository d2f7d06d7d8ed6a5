//! From the end of the command to the end of the shim: kill what is left, drain, record, tell. Every stage has a
//! deadline, because the disk may hang and a process may be stuck in the kernel.

use super::exit::{ExitRecord, MAX_LEFTOVERS, OutputTotals, Why};
use super::supervise::{Stage, Supervisor};
use super::sys::{self, SIGKILL};
use super::{descendants, exit};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// For processes that do not die of SIGKILL.
const KILL_TIME: Duration = Duration::from_secs(10);
/// A disk that takes nothing for so long gets no more chance.
const DRAIN_TIME: Duration = Duration::from_secs(10);
const RECORD_TIME: Duration = Duration::from_secs(10);
/// For the agent's `Bye`.
const BYE_TIME: Duration = Duration::from_secs(5);
/// A task's last words, once nothing of it should be left to say more.
const LAST_READ_TIME: Duration = Duration::from_secs(2);
/// An outside signal explains an end of another kind than by that signal only if it came so soon.
const CALM_END: Duration = Duration::from_secs(30);

/// Killing, and what it found.
pub struct Ending {
    until: Instant,
    next_look: Instant,
    pause: Duration,
    killed: u32,
    nothing_left: bool,
}

impl Ending {
    pub fn new(now: Instant) -> Self {
        let pause = Duration::from_millis(1);
        Self { until: now + KILL_TIME, next_look: now, pause, killed: 0, nothing_left: false }
    }

    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// A process other than the command was reaped.
    pub fn reaped(&mut self, status: i32) {
        self.killed += u32::from(signal_of(status) == Some(SIGKILL));
    }

    pub fn nothing_left(&mut self) {
        self.nothing_left = true;
    }
}

/// The exit record on its way to disk, in a thread that may hang.
pub struct Recording {
    record: Box<ExitRecord>,
    written: Receiver<bool>,
    until: Instant,
}

/// The exit status in a wait status.
pub(super) fn code_of(status: i32) -> Option<i32> {
    if status & 0x7f == 0 { Some((status >> 8) & 0xff) } else { None }
}

pub(super) fn signal_of(status: i32) -> Option<i32> {
    Some(status & 0x7f).filter(|signal| *signal != 0)
}

impl Supervisor {
    pub(super) fn advance_ending(&mut self, now: Instant) {
        match &mut self.stage {
            Stage::Killing(_) => self.kill(now),
            Stage::Draining { .. } => self.drain(now),
            Stage::Recording(recording) => {
                let written = match recording.written.try_recv() {
                    Ok(written) => written,
                    Err(TryRecvError::Empty) if now < recording.until => return,
                    Err(_) => false,
                };
                let mut record = recording.record.clone();
                record.durable &= written;
                self.stage = Stage::Ended { record, until: now + BYE_TIME };
                self.repeat(now);
                self.leave_if_done(now);
            }
            Stage::Ended { .. } => self.leave_if_done(now),
            Stage::NeedSpec | Stage::Barrier | Stage::Running | Stage::Gone { .. } => {}
        }
    }

    fn kill(&mut self, now: Instant) {
        self.reap();
        let (Stage::Killing(ending), Some(task)) = (&mut self.stage, &self.task) else { return };
        let command = self.run.as_ref().filter(|run| run.end.is_none()).map(|run| run.pid);
        if ending.nothing_left || now >= ending.until {
            return self.read_last_words(now);
        }
        if now >= ending.next_look {
            descendants::kill_all(&task.files, command);
            ending.next_look = now + ending.pause;
            ending.pause = (ending.pause * 2).min(Duration::from_millis(50));
        }
    }

    /// What stands in the pipes is the task's; then they are closed, whoever still holds the other end.
    fn read_last_words(&mut self, now: Instant) {
        let (leftover_pids, killed) = match (&self.stage, &self.task) {
            (Stage::Killing(ending), Some(task)) if !ending.nothing_left => {
                let mut pids = descendants::leftovers(&task.files);
                let command = self.run.as_ref().filter(|run| run.end.is_none()).map(|run| run.pid as u32);
                pids.extend(command.filter(|pid| !pids.contains(pid)));
                pids.truncate(MAX_LEFTOVERS);
                (pids, ending.killed)
            }
            (Stage::Killing(ending), _) => (Vec::new(), ending.killed),
            _ => return,
        };
        if let (Some(run), Some(task)) = (&mut self.run, &self.task) {
            let until = Instant::now() + LAST_READ_TIME;
            for stream in &mut run.streams {
                while stream.read(&task.queue) && Instant::now() < until {}
                stream.close(&task.queue);
            }
        }
        self.remains = (leftover_pids, killed);
        self.begin_draining(now);
    }

    pub(super) fn begin_draining(&mut self, now: Instant) {
        self.task.iter().for_each(|task| task.queue.close());
        self.stage = Stage::Draining { written_bytes: 0, since: now, gave_up: false };
        self.drain(now);
    }

    fn drain(&mut self, now: Instant) {
        let Stage::Draining { written_bytes, since, gave_up } = &mut self.stage else { return };
        if let Some(task) = &self.task {
            let progress = task.queue.progress();
            if !progress.finished {
                if progress.written_bytes > *written_bytes {
                    (*written_bytes, *since) = (progress.written_bytes, now);
                }
                // A writer that is not stuck in the kernel notices at once, and its word on what it wrote is the last.
                let patience = if *gave_up { DRAIN_TIME + Duration::from_secs(1) } else { DRAIN_TIME };
                if now < *since + patience {
                    return;
                }
                if !*gave_up {
                    *gave_up = true;
                    return task.queue.give_up();
                }
            }
        }
        self.record(now);
    }

    fn record(&mut self, now: Instant) {
        let record = self.exit_record(now);
        let file = self.task.as_mut().and_then(|task| task.files.exit.take());
        let (tell, written) = sync_channel(1);
        let bytes = record.encode_file();
        if let Some(file) = file {
            let bell = self.bell.clone();
            let write = move || {
                // Nobody listens any more after the deadline.
                let _ = tell.send(write_record(&file, &bytes).is_ok());
                bell.ring();
            };
            // Without a thread nothing is written, which the dropped sender says.
            let _ = std::thread::Builder::new().name("record".to_owned()).stack_size(128 * 1024).spawn(write);
        }
        self.stage = Stage::Recording(Recording { record: Box::new(record), written, until: now + RECORD_TIME });
    }

    fn exit_record(&self, now: Instant) -> ExitRecord {
        let end = self.run.as_ref().and_then(|run| run.end);
        let why = self.why(end.map(|end| end.status), end.map_or(now, |end| end.at));
        let ran = !matches!(why, Why::ExecFailed { .. });
        let status = end.map(|end| end.status).filter(|_| ran);
        let held = self.run.as_ref().and_then(|run| run.hold.as_ref());
        let ended_realtime_ns = end.filter(|_| held.is_none()).map_or_else(sys::realtime_ns, |end| end.realtime_ns);
        let memory = self.task.as_ref().map(|task| (task.memory_before, task.files.memory_counts()));
        let (before, counted) = memory.unwrap_or_default();
        let after = held.map_or(counted, |hold| hold.memory);
        let limit_hits = after.limit_hits.map(|hits| hits.saturating_sub(before.limit_hits.unwrap_or(0)));
        ExitRecord {
            code: status.and_then(code_of),
            signal: status.and_then(signal_of),
            oom_kills: after.oom_kills.saturating_sub(before.oom_kills),
            limit_hits,
            started_realtime_ns: self.run.as_ref().and_then(|run| Some(run.started.as_ref()?.realtime_ns)),
            output: self.task.as_ref().map_or_else(OutputTotals::default, |task| task.queue.totals()),
            leftover_pids: self.remains.0.clone(),
            killed_at_end: self.remains.1,
            held_since_realtime_ns: held.and(end).map(|end| end.realtime_ns),
            ..ExitRecord::without_status(why, ended_realtime_ns)
        }
    }

    /// Whose doing it was.
    pub(super) fn why(&self, status: Option<i32>, ended_at: Instant) -> Why {
        if let Some(stop) = &self.stop {
            return stop.why.clone();
        }
        if let Some(why) = &self.never_ran {
            return why.clone();
        }
        match &self.outside {
            Some(outside)
                if status.and_then(signal_of) == Some(outside.signal)
                    || ended_at.saturating_duration_since(outside.at) < CALM_END =>
            {
                outside.why.clone()
            }
            _ => Why::OwnEnd,
        }
    }

    /// Without an agent at once: the record is on disk.
    fn leave_if_done(&mut self, now: Instant) {
        let Stage::Ended { record, until } = &self.stage else { return };
        if now >= *until || !self.channel.is_connected() {
            let never_ran = match record.why {
                Why::ExecFailed { errno: sys::ENOENT, .. } => 127,
                Why::ExecFailed { .. } => 126,
                _ => 125,
            };
            let exit_code = record.code.or(record.signal.map(|signal| 128 + signal)).unwrap_or(never_ran);
            self.stage = Stage::Gone { exit_code };
        }
    }
}

fn write_record(file: &File, bytes: &[u8]) -> std::io::Result<()> {
    debug_assert!(bytes.len() <= exit::EXIT_FILE_BYTES, "every field of a record is bounded");
    file.write_all_at(bytes, 0)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_read() {
        assert_eq!((code_of(0), signal_of(0)), (Some(0), None));
        assert_eq!((code_of(3 << 8), signal_of(3 << 8)), (Some(3), None));
        // 0x80 is the core dump.
        assert_eq!((code_of(11 | 0x80), signal_of(11 | 0x80)), (None, Some(11)));
    }
}
