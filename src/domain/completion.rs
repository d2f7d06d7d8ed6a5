//! When a run is over: OpenPAI's `minFailedTaskCount` and `minSucceededTaskCount`, per role.

use super::exit::Exit;
use super::spec::RoleSpec;

/// A task that ended, in the order of the ends.
#[derive(Debug, Clone, Copy)]
pub struct TaskEnd<'a> {
    pub role: u32,
    pub index: u32,
    pub exit: &'a Exit,
}

/// What the ends so far mean for the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    /// Enough tasks of a role succeeded, or all tasks ended without a rule being hit. The others are stopped.
    Succeed {
        reason: String,
    },
    /// Enough tasks of a role failed: this task's exit becomes the run's.
    Fail {
        role: u32,
        index: u32,
    },
}

/// Judges a run by `ends`, which hold each ended task once, of `total` tasks in all.
///
/// The first end that completes a rule decides. A failure rule goes before a success rule of the same task;
/// when every task has ended and no rule was hit the run has succeeded, even if tasks failed.
pub fn judge(roles: &[RoleSpec], ends: &[TaskEnd<'_>], total: usize) -> Verdict {
    let mut failed = vec![0u32; roles.len()];
    let mut succeeded = vec![0u32; roles.len()];
    for end in ends {
        let Some(role) = roles.get(end.role as usize) else { continue };
        let slot = end.role as usize;
        if end.exit.is_success() {
            succeeded[slot] += 1;
            if role.min_succeeded.is_some_and(|least| succeeded[slot] >= least) {
                let reason = format!(
                    "task {name}[{}] was the last that was needed: {} of {} tasks of role {name} succeeded",
                    end.index,
                    succeeded[slot],
                    role.count,
                    name = role.name
                );
                return Verdict::Succeed { reason };
            }
        } else {
            failed[slot] += 1;
            if role.min_failed.is_some_and(|least| failed[slot] >= least) {
                return Verdict::Fail { role: end.role, index: end.index };
            }
        }
    }
    if ends.len() < total {
        return Verdict::Continue;
    }
    let failures: u32 = failed.iter().sum();
    let reason = match failures {
        0 => "every task succeeded".to_owned(),
        n => format!("every task ended; {n} failed, which the job allows"),
    };
    Verdict::Succeed { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::exit::ExitClass;

    fn role(count: u32, min_failed: Option<u32>, min_succeeded: Option<u32>) -> RoleSpec {
        RoleSpec {
            name: "worker".into(),
            count,
            cpus: 1,
            memory_mb: 100,
            shm_mb: 64,
            gpus: 0,
            ports: vec![],
            command: "true".into(),
            min_failed,
            min_succeeded,
        }
    }

    /// `ends`: role and success, e.g. `[(0, true)]`; the index is the position.
    fn verdict(roles: &[RoleSpec], ends: &[(u32, bool)]) -> Verdict {
        let (good, bad) = (Exit::success(), Exit::without_status(ExitClass::User, "no"));
        let ends: Vec<TaskEnd<'_>> = ends
            .iter()
            .enumerate()
            .map(|(i, (role, ok))| TaskEnd { role: *role, index: i as u32, exit: if *ok { &good } else { &bad } })
            .collect();
        judge(roles, &ends, roles.iter().map(|role| role.count as usize).sum())
    }

    fn succeeds(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Succeed { .. })
    }

    #[test]
    fn one_failure_fails_by_default() {
        let roles = [role(3, Some(1), None)];
        assert_eq!(verdict(&roles, &[(0, true)]), Verdict::Continue);
        assert_eq!(verdict(&roles, &[(0, true), (0, false)]), Verdict::Fail { role: 0, index: 1 });
    }

    #[test]
    fn with_both_rules_off_the_run_succeeds_whatever_its_tasks_do() {
        let roles = [role(2, None, None)];
        assert_eq!(verdict(&roles, &[(0, false)]), Verdict::Continue);
        assert!(succeeds(&verdict(&roles, &[(0, false), (0, false)])));
    }

    #[test]
    fn enough_successes_end_the_run_early() {
        let roles = [role(1, Some(1), None), role(3, Some(1), Some(2))];
        assert_eq!(verdict(&roles, &[(1, true)]), Verdict::Continue);
        assert!(succeeds(&verdict(&roles, &[(1, true), (1, true)])));
    }

    #[test]
    fn the_first_rule_hit_decides() {
        let roles = [role(2, Some(1), Some(1))];
        assert!(succeeds(&verdict(&roles, &[(0, true), (0, false)])));
        assert_eq!(verdict(&roles, &[(0, false), (0, true)]), Verdict::Fail { role: 0, index: 0 });
    }

    #[test]
    fn with_both_rules_on_each_counts_only_its_own_kind() {
        let roles = [role(4, Some(2), Some(2))];
        assert_eq!(verdict(&roles, &[(0, true), (0, false)]), Verdict::Continue);
        assert_eq!(verdict(&roles, &[(0, true), (0, false), (0, false)]), Verdict::Fail { role: 0, index: 2 });
        assert!(succeeds(&verdict(&roles, &[(0, false), (0, true), (0, true), (0, false)])));
        // Neither is ever reached.
        let roles = [role(2, Some(2), Some(2))];
        assert!(succeeds(&verdict(&roles, &[(0, false), (0, true)])), "as OpenPAI: no rule was hit");
    }

    #[test]
    fn rules_are_of_one_role_and_the_deciding_task_is_named() {
        let roles = [role(2, Some(2), None), role(3, Some(1), Some(2))];
        assert_eq!(
            verdict(&roles, &[(0, false), (1, true)]),
            Verdict::Continue,
            "failures of roles are not added up"
        );
        let Verdict::Succeed { reason } = verdict(&roles, &[(0, false), (1, true), (1, true)]) else {
            panic!("two of role 1 succeeded")
        };
        assert!(reason.contains("worker[2]") && reason.contains("2 of 3"), "{reason}");
        assert_eq!(verdict(&roles, &[(1, true), (1, false)]), Verdict::Fail { role: 1, index: 1 });
        let stopped = Exit::without_status(ExitClass::Stopped, "by somebody");
        let ends = [TaskEnd { role: 1, index: 0, exit: &stopped }];
        assert_eq!(
            judge(&roles, &ends, 5),
            Verdict::Fail { role: 1, index: 0 },
            "a task that was stopped did not succeed"
        );
    }

    #[test]
    fn nothing_is_decided_by_ends_of_roles_that_are_not_there() {
        let roles = [role(1, Some(1), None)];
        assert_eq!(verdict(&roles, &[]), Verdict::Continue);
        assert_eq!(verdict(&roles, &[(7, false)]), Verdict::Succeed { reason: "every task succeeded".into() });
        assert_eq!(verdict(&[], &[]), Verdict::Succeed { reason: "every task succeeded".into() });
    }

    #[test]
    fn several_failures_can_be_asked_for() {
        let roles = [role(4, Some(3), None)];
        assert_eq!(verdict(&roles, &[(0, false), (0, false)]), Verdict::Continue);
        assert_eq!(verdict(&roles, &[(0, false), (0, false), (0, false)]), Verdict::Fail { role: 0, index: 2 });
    }
}
