//! Whether tasks can still open the devices that they hold: a container may lose them while the GPU is fine. What failed
//! is the machine's set-up, so no GPU is condemned, and what runs there has to be run again to get its devices back.

use super::Look;
use super::modes::Check;
use super::round::{Finding, Round};
use crate::domain::fault::{Action, Subject, Verdict};
use crate::domain::host::{DeviceNode, DevicesSeen};
use crate::domain::ids::TaskId;
use crate::health::verdict::Judgement;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds in a row: a task may be ending.
const ROUNDS: u8 = 2;
/// Tasks that are remembered.
const MOST_TASKS: usize = 256;

/// What is remembered of all tasks that hold devices.
#[derive(Debug, Default)]
pub(super) struct DeviceAccess {
    tasks: BTreeMap<TaskId, Memory>,
}

/// What is remembered of one task.
#[derive(Debug, Default)]
struct Memory {
    /// Nodes that it once had.
    had: BTreeSet<String>,
    /// Nodes that its control group once let it open.
    allowed: BTreeSet<String>,
    bad_rounds: u8,
}

impl DeviceAccess {
    pub fn look(&mut self, look: &Look<'_>, round: &mut Round<'_>) {
        let Some(seen) = look.devices else { return };
        for task in seen.iter().take(MOST_TASKS) {
            let finding = self.tasks.entry(task.task).or_default().look(task);
            round.file_of_task(Check::DeviceAccess, &subject(task.task), finding, task.task);
        }
        // Of a task that has ended nothing is wrong any more; one that could not be looked at is told by nobody.
        let gone: Vec<TaskId> = self.tasks.keys().filter(|task| !look.device_users.contains(task)).copied().collect();
        for task in gone {
            self.tasks.remove(&task);
            round.file_of_task(Check::DeviceAccess, &subject(task), Finding::InOrder, task);
        }
    }
}

fn subject(task: TaskId) -> Subject {
    Subject::device(format!("task {task}"))
}

impl Memory {
    fn look(&mut self, seen: &DevicesSeen) -> Finding {
        let lost: Vec<String> = seen.nodes.iter().filter_map(|node| self.lost(node)).collect();
        self.had.extend(seen.nodes.iter().filter(|node| node.inside.is_some()).map(|node| node.name.clone()));
        let allowed = seen.nodes.iter().filter(|node| node.is_allowed == Some(true));
        self.allowed.extend(allowed.map(|node| node.name.clone()));
        if lost.is_empty() {
            self.bad_rounds = 0;
            let says = seen.nodes.iter().any(|node| node.inside.is_some() || node.is_allowed.is_some());
            return if says { Finding::InOrder } else { Finding::NotThere };
        }
        self.bad_rounds = self.bad_rounds.saturating_add(1);
        if self.bad_rounds < ROUNDS {
            return Finding::Unseen;
        }
        let reason = "A task cannot open its GPUs any more, though they are well: its container has lost them, and gets \
                      them back when it is started anew.";
        let judgement = Judgement::new(Verdict::Node, Action::RestartApp, reason);
        Finding::fault(judgement, format!("task {}: {}", seen.task, lost.join("; ")))
    }

    /// What is wrong with a node that the task is to have.
    fn lost(&self, node: &DeviceNode) -> Option<String> {
        let DeviceNode { name, on_host, inside, is_allowed } = node;
        match (inside, on_host) {
            (None, _) if self.had.contains(name) => Some(format!("/dev/{name} was there, and is gone")),
            (Some(inside), Some(on_host)) if inside != on_host => Some(format!(
                "/dev/{name} is device {}:{} there, and {}:{} on the machine",
                inside.0, inside.1, on_host.0, on_host.1
            )),
            // A list says nothing of a node that was never the task's.
            _ if *is_allowed == Some(false) && (inside.is_some() || self.allowed.contains(name)) => {
                let (major, minor) = inside.or(*on_host)?;
                Some(format!("its control group does not allow /dev/{name}, device {major}:{minor}, any more"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, told};
    use super::*;
    use crate::domain::host::DeviceNumber;

    const FAULT: Told = Told::Fault(Verdict::Node, Action::RestartApp);
    const THERE: Option<DeviceNumber> = Some((195, 0));

    fn node(on_host: Option<DeviceNumber>, inside: Option<DeviceNumber>, is_allowed: Option<bool>) -> DevicesSeen {
        let node = DeviceNode { name: "nvidia0".to_owned(), on_host, inside, is_allowed };
        DevicesSeen { task: "1.1.0.0".parse().unwrap(), nodes: vec![node] }
    }

    /// After these rounds.
    fn after(rounds: &[DevicesSeen]) -> Told {
        let mut memory = Memory::default();
        rounds.iter().map(|seen| told(&memory.look(seen))).last().unwrap()
    }

    #[test]
    fn what_a_task_had_and_cannot_open_is_told_the_second_time() {
        let fine = || node(THERE, THERE, Some(true));
        assert_eq!(after(&[fine()]), Told::InOrder);
        for lost in [
            node(THERE, None, None),
            node(None, None, None),
            node(Some((511, 0)), THERE, None),
            node(THERE, THERE, Some(false)),
        ] {
            assert_eq!(after(&[fine(), lost.clone()]), Told::Unseen, "{lost:?}");
            assert_eq!(after(&[fine(), lost.clone(), lost.clone()]), FAULT, "{lost:?}");
            assert_eq!(after(&[fine(), lost.clone(), fine(), lost]), Told::Unseen);
        }
    }

    #[test]
    fn what_it_never_had_is_not_missed() {
        // Simulated GPUs, or a machine that shows its nodes to nobody.
        assert_eq!(after(&vec![node(None, None, None); 3]), Told::NotThere);
        assert_eq!(after(&vec![node(THERE, None, None); 3]), Told::NotThere);
        assert_eq!(after(&vec![node(THERE, None, Some(false)); 3]), Told::InOrder, "and its list leaves it out");
        assert_eq!(after(&vec![node(None, THERE, None); 3]), Told::InOrder, "an agent that sees other nodes");
    }
}
