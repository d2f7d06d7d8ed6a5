//! What a journal has lost, from the records that lie beside the tasks.
//!
//! A journal that was damaged was set aside, one that was deleted began anew, and one whose end was torn off is older than
//! what is on the machine. The tasks know none of it and go on; so their own records are compared with it at every start.

use super::journal::{Journal, Journalled};
use crate::domain::ids::{JournalId, TaskId};
use crate::domain::lifecycle::TaskRecord;
use crate::domain::task::TaskState;
use crate::runtime::Recorded;
use std::collections::BTreeMap;
use tracing::warn;

/// In the record of a task whose own was lost.
const NOTICE: &str =
    "the record of this task was lost from its node's journal and made again from what lies beside it";

/// Tasks that the journal has lost, or of which it has less than is there.
pub fn lost(journal: &[(TaskId, Journalled)], recorded: Vec<Recorded>) -> Vec<Recorded> {
    let known: BTreeMap<TaskId, &TaskRecord> = journal.iter().map(|(id, task)| (*id, &task.record)).collect();
    let is_lost = |found: &Recorded| {
        let Some(known) = known.get(&found.spec.id) else { return true };
        let behind = matches!(known.state, TaskState::Waiting | TaskState::Staging | TaskState::Preparing);
        let same = known.generation == found.generation;
        known.generation < found.generation || (same && !known.released && behind && found.started_at.is_some())
    };
    recorded.into_iter().filter(is_lost).collect()
}

/// Puts what was lost into the journal's place. It tells then another history than it did before: whoever follows it has
/// to begin anew. `unread`: there are tasks that it may have lost too.
pub fn mend(journal: &mut Journal, lost: Vec<Recorded>, unread: bool, fresh: JournalId) -> Vec<TaskId> {
    if lost.is_empty() && !unread {
        return Vec::new();
    }
    journal.identity.journal_id = fresh;
    journal.acknowledged = 0;
    let mut ids = Vec::new();
    for found in lost {
        let id = found.spec.id;
        journal.tasks.retain(|(known, _)| *known != id);
        journal.tasks.push((id, journalled(found)));
        ids.push(id);
    }
    ids
}

/// The task as the journal would have it.
pub fn journalled(found: Recorded) -> Journalled {
    let (id, started_at) = (found.spec.id, found.started_at);
    warn!(task = %id, ?started_at, "not in the journal: taken from the records beside the task");
    Journalled { sequence: 0, record: record(found), purged: false }
}

/// As far as it is known before anybody looks at the task itself.
fn record(found: Recorded) -> TaskRecord {
    let Recorded { spec, generation, started_at, present } = found;
    TaskRecord {
        generation,
        fence: generation,
        state: if started_at.is_some() { TaskState::Running } else { TaskState::Ready },
        started_at,
        notices: vec![NOTICE.to_owned()],
        // What was removed has given back what it held.
        holding: present,
        residue: true,
        launched: true,
        ..TaskRecord { spec: Some(spec.clone()), ..TaskRecord::unknown(spec.id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Generation;
    use crate::domain::time::Timestamp;

    fn recorded(generation: u64, started: bool) -> Recorded {
        let spec = crate::agent::tests::spec(crate::agent::tests::task(0), &["GPU-0"]);
        let started_at = started.then_some(Timestamp(5));
        Recorded { spec, generation: Generation(generation), started_at, present: true }
    }

    #[test]
    fn only_what_the_journal_does_not_know_better_is_taken() {
        let table = [
            // State and generation in the journal, released; generation beside the task, started; lost.
            (Some((TaskState::Running, 1, false)), (1, true), false),
            (Some((TaskState::Stopping, 1, false)), (1, true), false),
            (Some((TaskState::Preparing, 1, false)), (1, false), false),
            (Some((TaskState::Ready, 1, false)), (1, true), false),
            (Some((TaskState::Failed, 1, true)), (1, true), false),
            (Some((TaskState::Staging, 2, false)), (1, true), false),
            (Some((TaskState::Preparing, 1, false)), (1, true), true),
            (Some((TaskState::Staging, 1, false)), (1, true), true),
            (Some((TaskState::Failed, 1, true)), (2, false), true),
            (None, (1, false), true),
        ];
        for (known, (generation, started), expected) in table {
            let found = recorded(generation, started);
            let id = found.spec.id;
            let journal = known.map(|(state, generation, released)| {
                let record =
                    TaskRecord { state, generation: Generation(generation), released, ..TaskRecord::unknown(id) };
                (id, Journalled { sequence: 1, record, purged: false })
            });
            let lost = lost(journal.as_slice(), vec![found]);
            assert_eq!(lost.len(), usize::from(expected), "{known:?}");
        }
    }

    #[test]
    fn a_task_that_was_removed_holds_nothing_again() {
        assert!(record(recorded(1, true)).holding);
        let removed = Recorded { present: false, ..recorded(1, true) };
        let record = record(removed);
        assert!(!record.holding && record.residue && record.state == TaskState::Running);
    }
}
