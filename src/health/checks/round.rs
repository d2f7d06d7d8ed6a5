//! What is found during one round, put in order: judged as far as each check's mode goes, and what nobody doubts.

use super::at_once::as_far_as;
use super::modes::{Check, Mode, Modes};
use super::{CheckedPart, Found};
use crate::domain::fault::{Action, FaultKind, Subject, Verdict};
use crate::domain::ids::TaskId;
use crate::health::verdict::Judgement;
use crate::health::{Clears, Observation, Relation, SeenAt};
use std::collections::BTreeSet;

/// What a check says of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The part has no such thing.
    NotThere,
    /// It could not be seen, or not long enough: neither good nor bad.
    Unseen,
    InOrder,
    Fault {
        judgement: Judgement,
        /// Numbers: before, after, in what time; found, allowed.
        evidence: String,
        /// How many it stands for.
        count: u64,
    },
}

impl Finding {
    pub fn fault(judgement: Judgement, evidence: impl Into<String>) -> Self {
        Self::Fault { judgement, evidence: evidence.into(), count: 1 }
    }
}

/// One round's findings.
#[derive(Debug)]
pub(super) struct Round<'a> {
    modes: &'a Modes,
    seen: SeenAt,
    observations: Vec<Observation>,
    in_order: BTreeSet<(FaultKind, CheckedPart)>,
    /// Found wrong or not seen by one of the checks of that kind.
    doubtful: BTreeSet<(FaultKind, CheckedPart)>,
}

impl<'a> Round<'a> {
    pub fn new(modes: &'a Modes, seen: SeenAt) -> Self {
        let (in_order, doubtful) = Default::default();
        Self { modes, seen, observations: Vec::new(), in_order, doubtful }
    }

    /// When it is.
    pub const fn seen(&self) -> SeenAt {
        self.seen
    }

    /// Takes what `check` says of `subject`.
    pub fn file(&mut self, check: Check, subject: &Subject, finding: Finding) {
        let Some(finding) = as_far_as(self.modes.of(check), finding) else { return };
        let parts = CheckedPart::all_of(subject).into_iter().map(|part| (check.kind(), part));
        match finding {
            Finding::NotThere => {}
            Finding::Unseen => self.doubtful.extend(parts),
            Finding::InOrder => self.in_order.extend(parts),
            Finding::Fault { judgement, evidence, count } => {
                self.doubtful.extend(parts);
                let found = Observation::new(check.source(), check.kind(), subject.clone(), judgement, self.seen);
                self.observations.push(Observation { evidence, count, ..found });
            }
        }
    }

    /// The same of what one task alone is concerned by.
    pub fn file_of_task(&mut self, check: Check, subject: &Subject, finding: Finding, task: TaskId) {
        let before = self.observations.len();
        self.file(check, subject, finding);
        for found in &mut self.observations[before..] {
            (found.task, found.job) = (Some(task), Some(task.job));
        }
    }

    /// The same of what is another part's doing: this one is no longer condemned for it.
    pub fn file_of_others(&mut self, check: Check, subject: &Subject, finding: Finding) {
        let before = self.observations.len();
        self.file(check, subject, finding);
        self.observations[before..].iter_mut().for_each(|found| found.clears = Clears::Misjudged);
    }

    /// The driver asks for no reset or reboot any more: what waited for one is over.
    pub fn recovered(&mut self, subject: &Subject, evidence: &str) {
        let check = Check::RecoveryAction;
        if self.modes.of(check) != Mode::Enforce {
            return;
        }
        let judgement = Judgement::new(Verdict::Gpu, Action::None, "The GPU has recovered.");
        let found = Observation::new(check.source(), check.kind(), subject.clone(), judgement, self.seen);
        let (relation, clears, evidence) = (Relation::FollowUp, Clears::Recovered, evidence.to_owned());
        self.observations.push(Observation { relation, clears, evidence, ..found });
    }

    pub fn end(self) -> Found {
        let clean = self.in_order.difference(&self.doubtful).cloned().collect();
        Found { observations: self.observations, clean }
    }
}

/// Reported only.
pub(super) fn observed(judgement: Judgement) -> Judgement {
    let would = match judgement.action {
        Action::None => "",
        Action::RestartApp => " Only observed; enforced it would be restart_app.",
        Action::ResetGpu => " Only observed; enforced it would be reset_gpu.",
        Action::Reboot => " Only observed; enforced it would be reboot.",
        Action::Inspect => " Only observed; enforced it would be inspect.",
    };
    let reason = format!("{}{would}", judgement.reason);
    Judgement { verdict: judgement.verdict, action: Action::None, reason, by_driver: false }
}
