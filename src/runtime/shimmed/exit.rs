//! Turns the shim's exit record into the end of a task. Pure.

use crate::domain::exit::{Exit, ExitClass};
use crate::domain::policy::RunTime;
use crate::domain::time::Timestamp;
use crate::shim::exit::{ExitRecord, Why};
use std::time::Duration;

/// What a reason needs to know beside the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promised {
    pub memory_mb: u64,
    pub lease_s: Option<u32>,
    /// Whom the task runs as.
    pub uid: u32,
    /// The job named the working directory.
    pub named_cwd: bool,
    /// The longest that the node lets it run.
    pub max_run_time: Option<RunTime>,
    /// It was stopped for that.
    pub over: bool,
}

pub fn exit_of(record: &ExitRecord, promised: Promised) -> Exit {
    let oom = record.oom_kills > 0;
    let (class, mut reason) = class_of(record, promised);
    if let Some(since) = record.held_since_realtime_ns {
        let seconds = record.ended_realtime_ns.saturating_sub(since) / 1_000_000_000;
        reason.push_str(&format!("; it had been held for debugging for {seconds} s"));
    }
    let lost = record.output.lost_bytes;
    if lost > 0 {
        reason.push_str(&format!("; {lost} bytes of its output were lost because the disk was slow or full"));
    }
    if !record.leftover_pids.is_empty() {
        let pids: Vec<_> = record.leftover_pids.iter().map(u32::to_string).collect();
        reason.push_str(&format!("; these processes of it did not end: {}", pids.join(", ")));
    }
    if !record.durable {
        reason.push_str("; the end of its log may not be on disk");
    }
    Exit { code: record.code, signal: record.signal, oom, ..Exit::without_status(class, reason) }
}

/// It has run for as long as its node lets it, and is stopped for that by whoever follows it.
fn ran_out(record: &ExitRecord, promised: Promised) -> Option<String> {
    let most = promised.max_run_time?;
    // An agent that stopped it may have been replaced since.
    let ran = record.ended_realtime_ns.saturating_sub(record.started_realtime_ns?);
    (promised.over || Duration::from_nanos(ran) >= most.duration()).then(|| over(most))
}

/// Why a task is stopped that nobody has asked to stop.
pub fn over(most: RunTime) -> String {
    format!(
        "it has run for {most}, the longest that this node lets a task run (policy.max_run_time in its agent.toml)"
    )
}

/// What people are told of a task that is kept for debugging.
pub fn held(code: Option<i32>, signal: Option<i32>) -> String {
    format!("{}; isDebug keeps the task for whoever looks at it", status_of(code, signal))
}

/// An end that no record tells of.
pub fn without_record(stop_requested: bool, detail: &str) -> Exit {
    if stop_requested {
        return Exit::without_status(
            ExitClass::Stopped,
            format!("stopped as asked; its shim left no record{detail}"),
        );
    }
    Exit::without_status(ExitClass::Platform, format!("the task ended without an exit record{detail}"))
}

pub fn ended_at(record: &ExitRecord) -> Timestamp {
    timestamp(record.ended_realtime_ns)
}

pub fn timestamp(realtime_ns: u64) -> Timestamp {
    Timestamp::from_nanos(i64::try_from(realtime_ns).unwrap_or(i64::MAX))
}

fn class_of(record: &ExitRecord, promised: Promised) -> (ExitClass, String) {
    match &record.why {
        Why::OwnEnd => own_end(record, promised),
        Why::StoppedByAgent if record.started_realtime_ns.is_none() => {
            (ExitClass::Stopped, "stopped as asked, before its command ran".to_owned())
        }
        Why::StoppedByAgent => match ran_out(record, promised) {
            Some(why) => (ExitClass::User, format!("{why}: {}", status(record))),
            None => (ExitClass::Stopped, format!("stopped as asked: {}", status(record))),
        },
        Why::OutsideSignal { signal, pid: 0, .. } => {
            let name = signal_name(*signal);
            (ExitClass::Platform, format!("ended by {name} from outside the task; wharf did not send it"))
        }
        Why::OutsideSignal { signal, pid, uid } => {
            let name = signal_name(*signal);
            (ExitClass::Platform, format!("ended by {name} from process {pid} of uid {uid}; wharf did not send it"))
        }
        Why::LeaseExpired => {
            let lease = promised.lease_s.map(|lease| format!(" of {lease} s")).unwrap_or_default();
            let why = format!("its lease{lease} ran out: no renewal came from the controller");
            match record.held_since_realtime_ns {
                // Its command had failed before that.
                Some(_) => (own_end(record, promised).0, format!("{}; {why}", status(record))),
                // Whoever lost the connection, it was not the job: it is to be run elsewhere.
                None => (ExitClass::Platform, why),
            }
        }
        Why::ExecFailed { step, message, .. } => {
            (exec_class(step, promised), format!("the command did not run: {message}"))
        }
        Why::AbandonedBeforeGo => {
            (ExitClass::Platform, "the agent was away for too long before the launch".to_owned())
        }
    }
}

/// Programs and named directories are the job's; groups, namespaces, processes and the rest are ours.
fn exec_class(step: &str, promised: Promised) -> ExitClass {
    match step {
        "exec" => ExitClass::User,
        "chdir" if promised.named_cwd => ExitClass::User,
        _ => ExitClass::Platform,
    }
}

fn own_end(record: &ExitRecord, promised: Promised) -> (ExitClass, String) {
    let success = record.code == Some(0);
    let mut reason = status(record);
    // Version 2 of control groups says whether the task met its own limit; where nothing says it, that is assumed.
    let machine_wide = record.oom_kills > 0 && record.limit_hits == Some(0);
    if record.oom_kills > 0 {
        let limit = match promised.memory_mb {
            _ if machine_wide => ", which was within its limit, because the node had no memory left".to_owned(),
            0 => String::new(),
            limit => format!("; its limit is {limit} MB"),
        };
        let count = record.oom_kills;
        let processes = if count == 1 { "1 process".to_owned() } else { format!("{count} processes") };
        reason = format!("out of memory: the kernel killed {processes} of the task{limit} ({reason})");
    }
    let class = match (success, machine_wide) {
        (true, _) => ExitClass::Success,
        (false, true) => ExitClass::Platform,
        (false, false) => ExitClass::User,
    };
    (class, reason)
}

fn status(record: &ExitRecord) -> String {
    status_of(record.code, record.signal)
}

fn status_of(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("the command ended with status {code}"),
        (None, Some(signal)) => format!("the command was ended by {}", signal_name(signal)),
        (None, None) => "the command ended without a status".to_owned(),
    }
}

fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => format!("signal {signal} ({known})"),
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISED: Promised =
        Promised { memory_mb: 8192, lease_s: Some(1800), uid: 0, named_cwd: true, max_run_time: None, over: false };

    fn record(why: Why) -> ExitRecord {
        ExitRecord { started_realtime_ns: Some(1), ..ExitRecord::without_status(why, 2) }
    }

    fn mapped(record: &ExitRecord) -> (ExitClass, String) {
        let exit = exit_of(record, PROMISED);
        (exit.class, exit.reason)
    }

    #[test]
    fn statuses_and_signals_are_the_commands() {
        let of = |code, signal| mapped(&ExitRecord { code, signal, ..record(Why::OwnEnd) });
        assert_eq!(of(Some(0), None), (ExitClass::Success, "the command ended with status 0".into()));
        assert_eq!(of(Some(3), None), (ExitClass::User, "the command ended with status 3".into()));
        assert_eq!(of(None, Some(11)), (ExitClass::User, "the command was ended by signal 11 (SIGSEGV)".into()));
    }

    #[test]
    fn out_of_memory_names_the_limit() {
        let exit = exit_of(&ExitRecord { signal: Some(9), oom_kills: 1, ..record(Why::OwnEnd) }, PROMISED);
        assert!(exit.oom && exit.class == ExitClass::User);
        assert!(exit.reason.contains("8192 MB") && exit.reason.contains("1 process of"), "{}", exit.reason);
        let survived = exit_of(&ExitRecord { code: Some(0), oom_kills: 2, ..record(Why::OwnEnd) }, PROMISED);
        assert!(survived.oom && survived.class == ExitClass::Success);
    }

    #[test]
    fn a_node_out_of_memory_is_the_platforms() {
        let killed = |limit_hits| ExitRecord { signal: Some(9), oom_kills: 1, limit_hits, ..record(Why::OwnEnd) };
        let (class, reason) = mapped(&killed(Some(0)));
        assert_eq!(class, ExitClass::Platform);
        assert!(reason.contains("the node had no memory left") && !reason.contains("8192"), "{reason}");
        let (class, reason) = mapped(&killed(Some(1)));
        assert!(class == ExitClass::User && reason.contains("8192 MB"), "{reason}");
        let survived = ExitRecord { code: Some(0), signal: None, ..killed(Some(0)) };
        assert_eq!(mapped(&survived).0, ExitClass::Success);
    }

    #[test]
    fn what_others_did_is_not_the_users() {
        let outside = mapped(&record(Why::OutsideSignal { signal: 15, pid: 77, uid: 0 }));
        assert_eq!(outside.0, ExitClass::Platform);
        assert!(outside.1.contains("process 77"), "{}", outside.1);
        assert_eq!(mapped(&record(Why::StoppedByAgent)).0, ExitClass::Stopped);
        let lease = mapped(&record(Why::LeaseExpired));
        assert_eq!(lease.0, ExitClass::Platform);
        assert!(lease.1.contains("1800 s"), "{}", lease.1);
        assert_eq!(mapped(&record(Why::AbandonedBeforeGo)).0, ExitClass::Platform);
    }

    #[test]
    fn a_command_that_cannot_run_is_told_in_a_sentence() {
        let failed = |step: &str| {
            let message = "/no/such/program: No such file or directory".to_owned();
            mapped(&record(Why::ExecFailed { step: step.into(), errno: 2, message }))
        };
        assert_eq!(failed("exec").0, ExitClass::User);
        assert!(failed("exec").1.contains("/no/such/program"));
        assert_eq!(failed("join cgroup").0, ExitClass::Platform);
    }

    #[test]
    fn a_hold_is_part_of_the_reason_and_never_of_whose_doing_it_was() {
        let failed = |why| ExitRecord {
            code: Some(3),
            held_since_realtime_ns: Some(5_000_000_000),
            ended_realtime_ns: 65_000_000_000,
            ..record(why)
        };
        let (class, reason) = mapped(&failed(Why::OwnEnd));
        assert!(class == ExitClass::User && reason.contains("status 3") && reason.contains("for 60 s"), "{reason}");
        let (class, reason) = mapped(&failed(Why::StoppedByAgent));
        assert!(class == ExitClass::Stopped && reason.contains("status 3"), "{reason}");
        let (class, reason) = mapped(&failed(Why::LeaseExpired));
        assert!(class == ExitClass::User && reason.contains("status 3") && reason.contains("lease"), "{reason}");
    }

    #[test]
    fn whoever_has_run_for_too_long_is_told_the_rule() {
        let promised = Promised { max_run_time: RunTime::parse("2m"), ..PROMISED };
        let stopped = |seconds: u64| ExitRecord {
            ended_realtime_ns: 1 + seconds * 1_000_000_000,
            signal: Some(15),
            ..record(Why::StoppedByAgent)
        };
        let exit = exit_of(&stopped(120), promised);
        assert_eq!(exit.class, ExitClass::User);
        assert!(exit.reason.contains("run for 2m") && exit.reason.contains("policy.max_run_time"), "{}", exit.reason);
        assert_eq!(exit_of(&stopped(119), promised).class, ExitClass::Stopped, "somebody stopped it");
        assert_eq!(exit_of(&stopped(119), Promised { over: true, ..promised }).class, ExitClass::User);
        assert_eq!(exit_of(&stopped(120), PROMISED).class, ExitClass::Stopped);
    }

    #[test]
    fn lost_output_is_mentioned() {
        let mut lossy = ExitRecord { code: Some(0), ..record(Why::OwnEnd) };
        lossy.output.lost_bytes = 900;
        assert!(mapped(&lossy).1.contains("900 bytes"));
    }
}
