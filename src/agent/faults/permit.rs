//! Whether this node may take itself out of the cluster because of a fault. A node on its own decides alone; one that has
//! joined asks its controller with each heartbeat, and does nothing while it is not answered: it cannot know how many
//! others are out. It asks while tasks hold the node as well, and begins once they are gone: who asks is given no new
//! ones. Why it waits is told in the fault.

use super::super::actor::Actor;
use super::remedy::takes_node;
use crate::domain::fault::{Fault, FaultId, FaultState};
use crate::domain::remediation::{GoingOut, Permit};
use crate::health::NOT_REMEDIED;
use std::time::Duration;

/// A node whose remedy is done and that goes on as if nothing had been gives its permit back after it: a program may
/// return long before the boot that it has asked for.
const STILL_OUT: Duration = Duration::from_secs(600);
/// A controller of before there were permits.
const NO_WORD: &str = "the controller did not say whether the node may go: it is of an older version";

/// What the controller has said.
#[derive(Debug, Default)]
pub(in crate::agent) struct Permits {
    /// Good for what is begun right now: it is asked for again with every heartbeat.
    granted: Option<FaultId>,
    /// As the fault has it.
    told: Option<(FaultId, String)>,
}

impl Permits {
    pub(super) fn is_for(&self, fault: FaultId) -> bool {
        self.granted == Some(fault)
    }
}

impl Actor {
    pub(super) fn needs_permit(&self, fault: &Fault) -> bool {
        !self.standalone && takes_node(fault)
    }

    /// What the next heartbeat asks for.
    pub(in crate::agent) fn going_out(&self) -> Option<GoingOut> {
        if self.standalone {
            return None;
        }
        if let Some(current) = self.remedies.current.as_ref().filter(|current| current.takes_node) {
            return Some(GoingOut { fault: current.fault, begun: true });
        }
        let now = self.clock.now();
        let is_out = |(id, since): (&FaultId, crate::domain::time::Timestamp)| {
            let lasts = self.fault_book.faults.get(*id).is_some_and(|fault| fault.state == FaultState::Active);
            (lasts && now.since(since) < STILL_OUT).then_some(*id)
        };
        let mut done = self.remedies.done.iter().filter_map(|(id, done)| is_out((id, done.out_since?)));
        if let Some(fault) = done.next() {
            return Some(GoingOut { fault, begun: true });
        }
        // What cannot begin takes no place from other nodes.
        if self.remedies.is_busy() || self.self_checks.for_operator {
            return None;
        }
        let fault = self.wanted_remedies().find(|fault| self.needs_permit(fault))?.id;
        Some(GoingOut { fault, begun: false })
    }

    /// A remedy is done that may take the node out any moment.
    pub(super) fn goes_out(&mut self, id: FaultId) {
        let now = self.clock.now();
        if let Some(done) = self.remedies.done.get_mut(&id) {
            done.out_since = Some(now);
        }
    }

    /// A heartbeat that asked for `asked` was answered.
    pub(in crate::agent) fn permit_said(&mut self, asked: Option<GoingOut>, permit: Option<Permit>) {
        let Some(GoingOut { fault, begun: false }) = asked else { return };
        match permit.filter(|permit| permit.fault == fault) {
            Some(Permit { refusal: None, .. }) => {
                self.remedies.permit.granted = Some(fault);
                self.consider_remedies();
                // What came between is no reason to go later: it is asked for anew.
                self.remedies.permit.granted = None;
            }
            Some(Permit { refusal: Some(why), .. }) => self.waits_for_permit(fault, why),
            None => self.waits_for_permit(fault, NO_WORD.to_owned()),
        }
    }

    /// The controller does not answer.
    pub(in crate::agent) fn controller_is_silent(&mut self, why: &str) {
        if let Some(GoingOut { fault, begun: false }) = self.going_out() {
            self.waits_for_permit(
                fault,
                format!("the controller, which counts the nodes that are out, is not reached: {why}"),
            );
        }
    }

    fn waits_for_permit(&mut self, fault: FaultId, why: String) {
        let told = Some((fault, why));
        if self.remedies.permit.told == told {
            return;
        }
        let why = told.as_ref().map_or("", |(_, why)| why.as_str());
        let change = self.fault_book.faults.note_instead(fault, NOT_REMEDIED, &format!("{NOT_REMEDIED}: {why}"));
        tracing::warn!(node = %self.facts.name, fault = fault.0, why, "a remedy waits for its permit");
        self.remedies.permit.told = told;
        self.changed(change.into_iter().collect());
    }
}
