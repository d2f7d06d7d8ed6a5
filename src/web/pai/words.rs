//! wharf's states and ends in OpenPAI's words and numbers.

use crate::api::records::JobRecord;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::job::JobState;
use crate::domain::retry::{Reaction, row_of};
use crate::domain::time::Timestamp;
use crate::domain::view::TaskView;
use serde_json::{Value, json};

/// Somebody stopped the job: `APP_STOP_FRAMEWORK_REQUESTED`.
const STOPPED_JOB: i32 = -7351;
/// The job had come to its end before the task: `TASK_STOPPED_ON_APP_COMPLETION`.
const STOPPED_TASK: i32 = -7400;
const PREEMPTED: i32 = -7120;
/// What OpenPAI says of a command that did not run to an end that has a number.
const UNKNOWN_FAILURE: i32 = 255;
const OUT_OF_MEMORY: i32 = 196;
/// What OpenPAI shows for ends that are not the command's and that it has no number of its own for.
const OTHER: i32 = -8000;

/// A job's state: it runs once all of its tasks do.
pub(super) fn state(record: &JobRecord) -> &'static str {
    match record.job.state {
        JobState::Running if !has_started(record) => JobState::Waiting.as_str(),
        state => state.as_str(),
    }
}

/// The state of OpenPAI's launcher.
pub(super) fn sub_state(record: &JobRecord) -> &'static str {
    match record.job.state {
        JobState::Waiting => "FRAMEWORK_WAITING",
        JobState::Running if !has_started(record) => "APPLICATION_WAITING",
        JobState::Running | JobState::Stopping => "APPLICATION_RUNNING",
        JobState::Succeeded | JobState::Failed | JobState::Stopped => "FRAMEWORK_COMPLETED",
    }
}

pub(super) fn execution_type(record: &JobRecord) -> &'static str {
    if record.job.stop_asked { "STOP" } else { "START" }
}

fn has_started(record: &JobRecord) -> bool {
    record.view.runs.last().is_some_and(|run| run.started_at.is_some())
}

/// A task that is being stopped still runs.
pub(super) fn task_state(task: &TaskView) -> &'static str {
    match task.state.as_str() {
        "RUNNING" | "STOPPING" => "RUNNING",
        "SUCCEEDED" => "SUCCEEDED",
        "FAILED" => "FAILED",
        "STOPPED" => "STOPPED",
        _ => "WAITING",
    }
}

pub(super) fn job_exit_code(record: &JobRecord) -> Option<i32> {
    match record.job.state {
        JobState::Succeeded => Some(0),
        JobState::Stopped => Some(STOPPED_JOB),
        JobState::Failed => Some(record.job.exit.as_ref().map_or(OTHER, code)),
        _ => None,
    }
}

pub(super) fn task_exit_code(task: &TaskView) -> Option<i32> {
    match task_state(task) {
        "SUCCEEDED" => Some(0),
        "STOPPED" => Some(STOPPED_TASK),
        "FAILED" => Some(task.exit.as_ref().map_or(OTHER, code)),
        _ => None,
    }
}

/// Of an end that is no success: the command's own code where there is one, a shell's for a signal, else OpenPAI's.
fn code(exit: &Exit) -> i32 {
    match (exit.code, exit.signal) {
        _ if exit.oom => OUT_OF_MEMORY,
        // A command may end well and the task fail all the same.
        (Some(code), _) if code != 0 => code,
        (_, Some(signal)) => 128 + signal,
        _ => match exit.class {
            ExitClass::User => UNKNOWN_FAILURE,
            ExitClass::Preempted => PREEMPTED,
            _ => OTHER,
        },
    }
}

/// The launcher's class of an end, which decides retries.
pub(super) fn exit_type(exit: &Exit) -> &'static str {
    match row_of(exit).reaction {
        Reaction::Succeeded => "SUCCEEDED",
        Reaction::Unknown => "UNKNOWN",
        Reaction::NonTransient | Reaction::Final => "NON_TRANSIENT",
        Reaction::Transient => "TRANSIENT_NORMAL",
        Reaction::PlaceAgain => "TRANSIENT_CONFLICT",
    }
}

/// What OpenPAI's table of ends says of one, as far as it is known here.
pub(super) fn exit_spec(code: Option<i32>, exit: Option<&Exit>) -> Value {
    let (Some(code), Some(exit)) = (code, exit) else { return Value::Null };
    let (causer, kind) = match exit.class {
        ExitClass::Success => ("USER_CONTAINER", "USER_SUCCESS"),
        ExitClass::User | ExitClass::TimeLimit | ExitClass::Watchdog => ("USER_CONTAINER", "USER_FAILURE"),
        ExitClass::Stopped => ("USER_STOP", "USER_STOP"),
        ExitClass::Hardware => ("PAI_HW", "PLATFORM_FAILURE"),
        ExitClass::Platform | ExitClass::Preempted => ("PAI_RUNTIME", "PLATFORM_FAILURE"),
    };
    json!({
        "code": code,
        "phrase": exit.class.as_str(),
        "causer": causer,
        "type": kind,
        "behavior": exit_type(exit),
        "reason": exit.reason,
    })
}

/// Milliseconds since 1970.
pub(super) fn millis(time: Timestamp) -> i64 {
    time.0.div_euclid(1_000_000)
}

/// How often it was run again, and after whose failures. Conflicts over resources are never retried here: a gang is
/// placed only where it fits.
pub(super) fn retries(record: &JobRecord) -> (u64, Value) {
    let retries = record.job.retries;
    let platform = retries.platform.saturating_add(retries.hardware).saturating_add(retries.asked);
    let details = json!({ "user": retries.counted, "platform": platform, "resource": 0 });
    (retries.counted.saturating_add(platform), details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_openpais_numbers() {
        let of = |class, code, signal, oom| Exit { code, signal, oom, ..Exit::without_status(class, "why") };
        for (exit, number, kind) in [
            (of(ExitClass::User, Some(3), None, false), 3, "UNKNOWN"),
            (of(ExitClass::User, None, Some(9), false), 137, "UNKNOWN"),
            (of(ExitClass::User, None, Some(11), false), 139, "NON_TRANSIENT"),
            (of(ExitClass::User, None, Some(9), true), 196, "NON_TRANSIENT"),
            (of(ExitClass::User, None, None, false), 255, "NON_TRANSIENT"),
            (of(ExitClass::User, Some(0), None, false), 255, "UNKNOWN"),
            (of(ExitClass::Platform, None, Some(15), false), 143, "TRANSIENT_NORMAL"),
            (of(ExitClass::Platform, None, None, false), -8000, "TRANSIENT_NORMAL"),
            (of(ExitClass::Preempted, None, None, false), -7120, "TRANSIENT_NORMAL"),
            (of(ExitClass::Watchdog, None, None, false), -8000, "NON_TRANSIENT"),
        ] {
            assert_eq!((code(&exit), exit_type(&exit)), (number, kind), "{exit:?}");
        }
    }
}
