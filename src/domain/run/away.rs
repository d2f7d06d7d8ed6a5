//! Nodes that are taken away from a run, by an operator or by a failure.

use super::{Phase, Run};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::NodeName;
use crate::domain::retry::Setback;
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;
use std::collections::BTreeSet;

impl Run {
    /// Has a task on one of `nodes` that has not ended.
    pub fn lives_on(&self, nodes: &BTreeSet<NodeName>) -> bool {
        self.tasks.iter().any(|task| !task.state.is_terminal() && nodes.contains(&task.seat.node))
    }

    /// A gang that nothing of the user's runs of yet is placed anew, elsewhere. Returns whether anything changed.
    pub fn leave(&mut self, nodes: &BTreeSet<NodeName>, why: &str, now: Timestamp) -> bool {
        if !matches!(self.phase, Phase::Staging | Phase::Preparing) || !self.lives_on(nodes) {
            return false;
        }
        let here = self.tasks.iter().map(|task| &task.seat.node).filter(|node| nodes.contains(*node));
        let avoid = here.cloned().collect();
        self.roll_back(Setback::Refused, avoid, why, now, 0.0);
        true
    }

    /// The gang has to make room on `nodes`: all of it ends, which is nobody's failure. Returns whether anything
    /// changed.
    ///
    /// The class is `preempted`: it is retried without being counted, while `stopped` would end the job and
    /// `platform` would say that something broke.
    pub fn preempt(&mut self, nodes: &BTreeSet<NodeName>, why: &str, now: Timestamp) -> bool {
        if !matches!(self.phase, Phase::Launching | Phase::Running) || !self.lives_on(nodes) {
            return false;
        }
        self.decide(TaskState::Failed, Exit::without_status(ExitClass::Preempted, why), now);
        true
    }

    /// Nothing of this run can be alive on `nodes` any more, though no agent has said so: its tasks there have ended,
    /// and with them the gang. Returns the positions of those tasks.
    ///
    /// Whatever the job allows to fail: a job whose other tasks have ended would succeed by the loss of a node.
    pub fn gone(&mut self, nodes: &BTreeSet<NodeName>, why: &str, now: Timestamp) -> Vec<usize> {
        let class = match self.phase {
            Phase::Launching | Phase::Running => ExitClass::Platform,
            Phase::Stopping => ExitClass::Stopped,
            Phase::Waiting | Phase::Staging | Phase::Preparing | Phase::Ended => return Vec::new(),
        };
        let exit = Exit::without_status(class, why);
        let mut ended = Vec::new();
        for (at, task) in self.tasks.iter_mut().enumerate() {
            if !task.state.is_terminal() && nodes.contains(&task.seat.node) {
                task.state = TaskState::of_exit(&exit);
                task.ended_at = Some(now);
                task.exit = Some(exit.clone());
                ended.push(at);
            }
        }
        match self.phase {
            _ if ended.is_empty() => {}
            Phase::Stopping => self.end_if_all_ended(now),
            _ => self.decide(TaskState::Failed, exit, now),
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{JobId, RunId};
    use crate::domain::retry::{Decision, Retries, decide};
    use crate::domain::run::{Seat, Verb};

    const NOON: Timestamp = Timestamp(1_000_000_000_000);

    /// A gang of one task on each of these nodes.
    fn gang(phase: Phase, nodes: &[&str]) -> Run {
        let mut run = Run::new(RunId(7), JobId(7), 1, NOON, NOON);
        let seat = |name: &&str| Seat {
            node: NodeName::from(*name),
            ip: String::new(),
            gpus: Vec::new(),
            ports: Vec::new(),
            passed: None,
        };
        run.place((0..).zip(nodes).map(|(index, node)| (0, index, seat(node))).collect(), NOON);
        run.phase = phase;
        run
    }

    fn on(names: &[&str]) -> BTreeSet<NodeName> {
        names.iter().map(|name| NodeName::from(*name)).collect()
    }

    #[test]
    fn only_what_has_not_begun_leaves_and_only_what_has_is_preempted() {
        use Phase::*;
        // Phase, does it leave, is it preempted, is it gone.
        let table = [
            (Waiting, false, false, false),
            (Staging, true, false, false),
            (Preparing, true, false, false),
            (Launching, false, true, true),
            (Running, false, true, true),
            (Stopping, false, false, true),
            (Ended, false, false, false),
        ];
        for (phase, leaves, preempted, gone) in table {
            let made = || gang(phase, &["a", "b"]);
            assert_eq!(made().leave(&on(&["a"]), "why", NOON), leaves, "{phase:?}");
            assert_eq!(made().preempt(&on(&["a"]), "why", NOON), preempted, "{phase:?}");
            assert_eq!(!made().gone(&on(&["a"]), "why", NOON).is_empty(), gone, "{phase:?}");
            let elsewhere = on(&["c"]);
            assert!(!made().leave(&elsewhere, "why", NOON) && !made().preempt(&elsewhere, "why", NOON));
            assert_eq!(made().gone(&elsewhere, "why", NOON), Vec::<usize>::new());
        }
    }

    #[test]
    fn a_gang_that_leaves_is_placed_again_without_the_node() {
        let mut run = gang(Phase::Preparing, &["a", "b"]);
        assert!(run.leave(&on(&["a", "c"]), "a is drained", NOON));
        assert_eq!((run.phase, &run.avoid, run.leftovers.len()), (Phase::Waiting, &on(&["a"]), 2));
    }

    #[test]
    fn a_preempted_gang_is_stopped_whole_and_run_again_uncounted() {
        let mut run = gang(Phase::Running, &["a", "b"]);
        run.tasks.iter_mut().for_each(|task| task.state = TaskState::Running);
        assert!(run.preempt(&on(&["a"]), "a is drained", NOON));
        assert!(!run.preempt(&on(&["b"]), "b is drained too", NOON), "once is enough");
        let verbs: Vec<Verb> = run.actions().into_iter().map(|action| action.verb).collect();
        assert_eq!(verbs, [Verb::Stop; 2]);
        let exit = run.outcome.unwrap().exit;
        assert_eq!((exit.class, exit.reason.as_str()), (ExitClass::Preempted, "a is drained"));
        let Decision::Retry { retries, .. } = decide(0, &exit, Retries::default(), 0.5) else {
            panic!("it ended the job")
        };
        assert_eq!(retries.counted, 0);
    }

    #[test]
    fn the_loss_of_a_node_ends_the_gang_but_only_its_own_tasks_at_once() {
        let mut run = gang(Phase::Running, &["a", "b", "a"]);
        run.tasks.iter_mut().for_each(|task| task.state = TaskState::Running);
        run.tasks[2].state = TaskState::Succeeded;
        assert_eq!(run.gone(&on(&["a"]), "a is lost", NOON), [0]);
        assert_eq!(run.phase, Phase::Stopping);
        assert_eq!(
            [0, 1, 2].map(|at| run.tasks[at].state),
            [TaskState::Failed, TaskState::Running, TaskState::Succeeded]
        );
        // What is left of it there is still to be released: by then the node is back.
        assert_eq!(run.action_of(0).map(|action| action.verb), Some(Verb::Release));
        assert_eq!(run.gone(&on(&["b"]), "b is lost", NOON), [1]);
        assert_eq!((run.phase, run.tasks[1].state, run.settled), (Phase::Ended, TaskState::Stopped, false));
    }
}
