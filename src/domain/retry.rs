//! Whether a job gets another run: OpenPAI's `retryCount` against how the last run ended.

use super::exit::{Exit, ExitClass};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often a job was run again, by reason. Only `counted` is held against `retryCount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retries {
    /// After failures of the job's own.
    pub counted: u64,
    /// After failures of the platform.
    pub platform: u64,
    /// After hardware faults.
    pub hardware: u64,
}

/// What an end asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reaction {
    Succeeded,
    /// Worth a counted retry: the failure may or may not come again.
    Unknown,
    /// Not the job's doing: retried without counting.
    Transient,
    /// Will come again: never retried, except with `retryCount` -2.
    NonTransient,
    /// Somebody wanted the end: never retried.
    Final,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The job has ended.
    End,
    /// Another run, not before `delay` has passed.
    Retry { delay: Duration, retries: Retries, why: String },
}

/// Hardware faults that a job may be restarted after.
pub const MAX_HARDWARE_RETRIES: u64 = 5;

/// Signals that a program brings upon itself: ILL, BUS, FPE, SEGV, PIPE.
const OWN_SIGNALS: [i32; 5] = [4, 7, 8, 11, 13];

/// Classifies an end by whose doing it was.
pub fn reaction(exit: &Exit) -> Reaction {
    match exit.class {
        ExitClass::Success => Reaction::Succeeded,
        ExitClass::Hardware | ExitClass::Platform | ExitClass::Preempted => Reaction::Transient,
        ExitClass::Stopped => Reaction::Final,
        ExitClass::TimeLimit | ExitClass::Watchdog => Reaction::NonTransient,
        ExitClass::User if exit.oom => Reaction::NonTransient,
        ExitClass::User if exit.signal.is_some_and(|signal| OWN_SIGNALS.contains(&signal)) => Reaction::NonTransient,
        ExitClass::User => Reaction::Unknown,
    }
}

/// Decides by the table of `retryCount`:
///
/// | end | -2 | -1 | 0 | N |
/// |---|---|---|---|---|
/// | succeeded | retry | end | end | end |
/// | unknown failure | retry | retry | end | retry while counted < N |
/// | transient | retry | retry | retry | retry, never counted |
/// | non-transient | retry | end | end | end |
/// | stopped | end | end | end | end |
pub fn decide(retry_count: i64, exit: &Exit, retries: Retries) -> Decision {
    let reaction = reaction(exit);
    let allowed = match (retry_count, reaction) {
        (_, Reaction::Final) => false,
        (-2, _) => true,
        (_, Reaction::Succeeded | Reaction::NonTransient) => false,
        (_, Reaction::Transient) => exit.class != ExitClass::Hardware || retries.hardware < MAX_HARDWARE_RETRIES,
        (-1, Reaction::Unknown) => true,
        (limit, Reaction::Unknown) => u64::try_from(limit).is_ok_and(|limit| retries.counted < limit),
    };
    if !allowed {
        return Decision::End;
    }
    let mut after = retries;
    let nth = match exit.class {
        ExitClass::Hardware => increment(&mut after.hardware),
        ExitClass::Platform | ExitClass::Preempted => increment(&mut after.platform),
        _ => increment(&mut after.counted),
    };
    Decision::Retry { delay: back_off(nth), retries: after, why: format!("retry {nth} after: {}", exit.reason) }
}

fn increment(counter: &mut u64) -> u64 {
    *counter = counter.saturating_add(1);
    *counter
}

/// 1 s, doubling up to 5 minutes: a job that fails at once does not keep a node busy with failing.
pub fn back_off(nth: u64) -> Duration {
    let doublings = u32::try_from(nth.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    Duration::from_secs(1u64 << doublings).min(Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(class: ExitClass) -> Exit {
        Exit::without_status(class, "why")
    }

    fn retried(retry_count: i64, exit: &Exit, retries: Retries) -> bool {
        matches!(decide(retry_count, exit, retries), Decision::Retry { .. })
    }

    #[test]
    fn the_table_of_retry_count_holds() {
        use ExitClass::*;
        let oom = Exit { oom: true, ..exit(User) };
        let segfault = Exit { signal: Some(11), ..exit(User) };
        // Columns: -2, -1, 0, 3 (none used yet), 3 (three used).
        let table = [
            (exit(Success), [true, false, false, false, false]),
            (exit(User), [true, true, false, true, false]),
            (exit(Platform), [true, true, true, true, true]),
            (exit(Preempted), [true, true, true, true, true]),
            (exit(Hardware), [true, true, true, true, true]),
            (exit(TimeLimit), [true, false, false, false, false]),
            (exit(Watchdog), [true, false, false, false, false]),
            (oom, [true, false, false, false, false]),
            (segfault, [true, false, false, false, false]),
            (exit(Stopped), [false, false, false, false, false]),
        ];
        for (exit, row) in table {
            let used = Retries { counted: 3, ..Retries::default() };
            let columns =
                [(-2, Retries::default()), (-1, used), (0, Retries::default()), (3, Retries::default()), (3, used)];
            for ((count, retries), expected) in columns.into_iter().zip(row) {
                assert_eq!(
                    retried(count, &exit, retries),
                    expected,
                    "{exit:?} with retryCount {count} and {retries:?}"
                );
            }
        }
    }

    #[test]
    fn hardware_restarts_are_capped() {
        let retries = Retries { hardware: MAX_HARDWARE_RETRIES, ..Retries::default() };
        assert!(!retried(0, &exit(ExitClass::Hardware), retries));
    }

    #[test]
    fn only_own_failures_are_counted() {
        let Decision::Retry { retries, .. } = decide(0, &exit(ExitClass::Platform), Retries::default()) else {
            panic!("a platform failure is retried")
        };
        assert_eq!(retries, Retries { platform: 1, ..Retries::default() });
    }

    #[test]
    fn the_back_off_doubles_up_to_five_minutes() {
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, u64::MAX].map(|nth| back_off(nth).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300]);
    }
}
