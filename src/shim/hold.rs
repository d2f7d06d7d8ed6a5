//! Debugging: a task whose command has failed by itself is kept as it is, with everything that it holds, until
//! somebody has looked at it or its time is over.
//!
//! 1. The command is reaped and its output is read as at any end. If it failed, and nobody and nothing else had a part in
//!    it (no stop, no lease, no signal from outside, no kill for memory), the shim stays in [`Stage::Running`] with a
//!    [`Hold`] instead of going on to kill what is left.
//! 2. The agent is told by a frame after `Started`, and again after every reconnect. The time is the shim's own, on
//!    CLOCK_BOOTTIME, so that neither the agent's end nor the clock's jumps nor a suspend move it.
//! 3. A stop, the lease, or a signal from outside ends it at once; the command's status stays the record's.

use super::ending::{Ending, code_of, signal_of};
use super::exit::Why;
use super::protocol::ShimFrame;
use super::record::{Kind, Stamp};
use super::supervise::{Stage, Supervisor};
use super::sys;
use super::task::MemoryCounts;
use std::time::Instant;

/// Until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    pub until_boottime_ns: u64,
    pub until_realtime_ns: u64,
    /// As the command had left it: what is tried beside it later is not its doing.
    pub memory: MemoryCounts,
}

impl Supervisor {
    /// The hold that is going on.
    pub(super) fn hold(&self) -> Option<Hold> {
        self.run.as_ref().and_then(|run| run.hold).filter(|_| matches!(self.stage, Stage::Running))
    }

    /// Begins a hold where this end is worth one. False: the task ends.
    pub(super) fn begin_hold(&mut self, now: Instant) -> bool {
        let Some(task) = &self.task else { return false };
        let Some(hold_s) = task.spec.debug_hold_s.filter(|seconds| *seconds > 0) else { return false };
        let memory = task.files.memory_counts();
        let killed_for_memory = memory.oom_kills > task.memory_before.oom_kills;
        let Some((status, at)) = self.run.as_ref().and_then(|run| run.end).map(|end| (end.status, end.at)) else {
            return false;
        };
        let by_itself = self.stop.is_none() && matches!(self.why(Some(status), at), Why::OwnEnd);
        if code_of(status) == Some(0) || !by_itself || killed_for_memory {
            return false;
        }
        let length_ns = u64::from(hold_s) * 1_000_000_000;
        let hold = Hold {
            until_boottime_ns: sys::boottime_ns().saturating_add(length_ns),
            until_realtime_ns: sys::realtime_ns().saturating_add(length_ns),
            memory,
        };
        let stamp = Stamp { realtime_ns: sys::realtime_ns() as i64, boottime_ns: sys::boottime_ns() };
        task.queue.push(Kind::Stderr, stamp, notice(status, hold_s).as_bytes());
        if let Some(run) = &mut self.run {
            run.hold = Some(hold);
        }
        self.held_frame().iter().for_each(|held| self.channel.send(held, now));
        true
    }

    /// Is it over?
    pub(super) fn look_at_hold(&mut self, now: Instant) {
        if self.hold().is_some_and(|hold| sys::boottime_ns() >= hold.until_boottime_ns) {
            self.end_hold(now);
        }
    }

    /// Kills what is left, and then tells the end of the command.
    pub(super) fn end_hold(&mut self, now: Instant) {
        self.stage = Stage::Killing(Ending::new(now));
        self.advance_ending(now);
    }

    pub(super) fn held_frame(&self) -> Option<ShimFrame> {
        let hold = self.hold()?;
        let status = self.run.as_ref()?.end?.status;
        let (code, signal) = (code_of(status), signal_of(status));
        let Hold { until_realtime_ns, until_boottime_ns, .. } = hold;
        Some(ShimFrame::Held { code, signal, until_realtime_ns, until_boottime_ns })
    }
}

/// What whoever reads the task's output is told.
fn notice(status: i32, hold_s: u32) -> String {
    let how = match (code_of(status), signal_of(status)) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    format!(
        "wharf: the command {how}. isDebug is set, so the task is kept as it is for {hold_s} s; \
         'wharf exec' looks inside, 'wharf stop' frees it.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notice_says_how_it_ended_and_for_how_long_it_stays() {
        assert!(notice(3 << 8, 60).contains("ended with status 3.") && notice(3 << 8, 60).contains("for 60 s"));
        assert!(notice(11, 60).contains("was ended by signal 11."));
    }
}
