//! One fault while it is kept: what makes it the same, what it learns, how gravely it is judged.

use super::repeats::Repeats;
use crate::domain::fault::{Action, Fault, FaultKind, FaultState, Subject, Verdict};
use crate::domain::ids::NodeName;
use crate::health::Change;
use crate::health::observation::{Observation, SeenAt, Source};
use crate::health::verdict::Judgement;

/// Lines of evidence that a fault keeps: the first ones and the last.
pub const EVIDENCE_LINES: usize = 5;
pub const EVIDENCE_BYTES: usize = 400;
/// How lines begin that say what was done about a fault, and not what was seen: nothing that is seen pushes them out.
const NOTES: [&str; 3] = [super::NOT_REMEDIED, super::REMEDIATION, super::ENDED];
/// Of these.
const MOST_NOTES: usize = 3;

/// One fault while it is kept.
#[derive(Debug, Clone)]
pub struct Open {
    pub fault: Fault,
    pub key: Key,
    /// None for one of an earlier life: nothing new is a consequence of it.
    pub last: Option<SeenAt>,
    /// Counted by each source; they see the same things.
    pub counts: [u64; 3],
    pub address: Option<u64>,
    pub repeats: Repeats,
    /// Nothing of a later boot is counted with it or belongs to it.
    pub is_of_earlier_boot: bool,
}

/// What makes two observations one fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: FaultKind,
    pub code: Option<u32>,
    pub node: Option<NodeName>,
    /// Without the UUID where the address is known.
    pub subject: Subject,
}

impl Open {
    pub fn new(fault: Fault, key: Key) -> Self {
        let (counts, repeats) = ([0; 3], Repeats::default());
        Self { fault, key, last: None, counts, address: None, repeats, is_of_earlier_boot: false }
    }

    /// The lightest goes first where there is no room.
    pub fn weight(&self) -> impl Ord + use<> {
        let fault = &self.fault;
        (fault.state == FaultState::Active, fault.takes_out_of_use(), fault.action, fault.id)
    }

    pub fn is_of_another_row(&self, observation: &Observation) -> bool {
        matches!((self.address, observation.address), (Some(ours), Some(theirs)) if ours != theirs)
    }

    /// Takes in what an observation of the fault itself says beside its being there.
    pub fn learn_of_itself(&mut self, observation: Observation) -> Change {
        let Judgement { verdict, reason, .. } = observation.judgement.clone();
        let change = self.learn(observation);
        if matches!(change, Change::Raised(_)) {
            // It is the same thing, seen to be worse: a program's exceptions may turn out to be the chip's.
            (self.fault.verdict, self.fault.reason) = (verdict, reason);
        }
        change
    }

    /// The same of an observation that belongs to the fault.
    pub fn learn(&mut self, observation: Observation) -> Change {
        self.last = Some(observation.seen);
        let fault = &mut self.fault;
        fault.first_seen = fault.first_seen.or(observation.seen.time);
        fault.last_seen = observation.seen.time.or(fault.last_seen);
        fault.last_seen_boot_us = observation.seen.boot_us.or(fault.last_seen_boot_us);
        if fault.pid.is_none() {
            fault.pid = observation.pid;
            fault.process = observation.process;
        }
        fault.task = fault.task.or(observation.task);
        fault.job = fault.job.or(observation.job);
        fault.subject.gpu = fault.subject.gpu.take().or(observation.subject.gpu);
        self.address = self.address.or(observation.address);
        add_seen(&mut fault.evidence, &observation.evidence);
        if self.judge(observation.judgement) { Change::Raised(self.fault.id) } else { Change::Again(self.fault.id) }
    }

    /// The graver judgement counts, and the driver's own word before any other; but who has to look because resets did not
    /// help has to look, whatever the driver advises the next time. What a program did itself is not made the GPU's doing
    /// by what belongs to it, and what nobody understands makes nothing graver.
    fn judge(&mut self, judgement: Judgement) -> bool {
        let fault = &mut self.fault;
        let vague = judgement.verdict == Verdict::Unknown && fault.verdict != Verdict::Unknown;
        let graver = judgement.action > fault.action && judgement.verdict != Verdict::Application && !vague;
        let driver = judgement.by_driver && judgement.action > Action::RestartApp;
        let raised = match (fault.action, driver) {
            (Action::Inspect, _) if fault.verdict != Verdict::Unknown => false,
            (_, true) => judgement.action != fault.action || !fault.by_driver,
            (_, false) => graver && (!fault.by_driver || judgement.action == Action::Inspect),
        };
        if !raised {
            return false;
        }
        fault.by_driver |= driver;
        fault.action = judgement.action;
        if fault.verdict == Verdict::Unknown {
            fault.verdict = judgement.verdict;
        }
        if driver && !fault.reason.contains(&judgement.reason) {
            fault.reason = format!("{} {}", fault.reason, judgement.reason);
        }
        true
    }
}

impl Key {
    pub fn of(kind: FaultKind, code: Option<u32>, node: Option<&NodeName>, subject: &Subject) -> Self {
        let mut subject = subject.clone();
        if subject.pci.is_some() {
            subject.gpu = None;
        }
        Self { kind, code, node: node.cloned(), subject }
    }
}

impl Observation {
    pub fn key(&self) -> Key {
        Key::of(self.kind, self.code, self.node.as_ref(), &self.subject)
    }
}

/// Where a source counts.
pub const fn slot(source: Source) -> usize {
    match source {
        Source::KernelLog => 0,
        Source::Driver => 1,
        Source::Host => 2,
    }
}

/// Adds what was seen: in the place of the last line of that sort, where there is no room.
pub fn add_seen(evidence: &mut Vec<String>, line: &str) {
    put(evidence, line, false);
}

/// Adds what was done: in the place of what was seen last, where there is no room.
pub fn add_note(evidence: &mut Vec<String>, line: &str) {
    put(evidence, line, true);
}

fn put(evidence: &mut Vec<String>, line: &str, is_note: bool) {
    let is_kept = |line: &String| NOTES.iter().any(|mark| line.starts_with(mark));
    let (mut notes, mut seen): (Vec<String>, Vec<String>) = std::mem::take(evidence).into_iter().partition(is_kept);
    if is_note {
        notes.drain(..(notes.len() + 1).saturating_sub(MOST_NOTES));
        notes.push(cut(line));
        seen.truncate(EVIDENCE_LINES - notes.len());
    } else {
        seen.truncate(EVIDENCE_LINES.saturating_sub(notes.len() + 1));
        seen.push(cut(line));
    }
    evidence.extend(seen.into_iter().chain(notes));
}

/// Evidence of bounded length.
pub fn cut(line: &str) -> String {
    let mut end = EVIDENCE_BYTES.min(line.len());
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_is_seen_takes_the_place_of_what_was_seen_last_and_no_others() {
        let waits = "not remedied yet: 2 nodes are out";
        for (before, line, expected) in [
            (&["a"][..], "b", &["a", "b"][..]),
            (&["a", "b", "c", "d", "e"], "f", &["a", "b", "c", "d", "f"]),
            (&["a", "b", "c", "d", waits], "f", &["a", "b", "c", "f", waits]),
            (&["a", waits], "f", &["a", "f", waits]),
            (&[], "a", &["a"]),
        ] {
            let mut evidence = lines(before);
            add_seen(&mut evidence, line);
            assert_eq!(evidence, expected, "{before:?}");
        }
        let mut evidence = lines(&["a", waits]);
        (0..100).for_each(|number| add_seen(&mut evidence, &number.to_string()));
        assert_eq!(evidence, ["a", "0", "1", "99", waits]);
    }

    #[test]
    fn what_was_done_is_kept_beside_what_was_seen_first() {
        let done = "remediation /bin/mend: done";
        let mut evidence = lines(&["a", "b", "c", "d", "e"]);
        add_note(&mut evidence, done);
        assert_eq!(evidence, ["a", "b", "c", "d", done]);
        add_note(&mut evidence, "ended: the GPU was reset");
        assert_eq!(evidence, ["a", "b", "c", done, "ended: the GPU was reset"]);
        (0..9).for_each(|number| add_note(&mut evidence, &format!("remediation {number}")));
        assert_eq!(evidence, ["a", "b", "remediation 6", "remediation 7", "remediation 8"]);
    }
}
