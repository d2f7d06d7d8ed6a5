//! When faults are over: looked at again and again, by the rules of `health::clearing`.

use super::super::actor::Actor;
use crate::domain::fault::{Fault, FaultId, FaultState};
use crate::domain::time::Timestamp;
use crate::health::Change;
use crate::health::clearing::{Since, ended};
use std::time::Duration;
use tracing::info;

impl Actor {
    /// Ends what is over by now.
    pub(in crate::agent) fn look_at_faults(&mut self) {
        let changes = self.ended_faults(false);
        self.changed(changes);
    }

    pub(super) fn ended_faults(&mut self, rebooted: bool) -> Vec<Change> {
        let now = self.clock.now();
        let over = |fault: &Fault| {
            let since = Since {
                rebooted,
                replaced: self.is_replaced(fault),
                clean: self.clean_for(fault, now),
                ..Since::default()
            };
            Some((fault.id, ended(fault, &since)?))
        };
        let active = self.fault_book.faults.iter().filter(|fault| fault.state == FaultState::Active);
        let over: Vec<(FaultId, _)> = active.filter_map(over).collect();
        let mut changes = Vec::new();
        for (id, why) in over {
            info!(node = %self.facts.name, fault = id.0, why = why.as_str(), "a fault has ended");
            changes.extend(self.fault_book.faults.clear(id));
        }
        changes
    }

    /// Another device is in its place.
    fn is_replaced(&self, fault: &Fault) -> bool {
        let (Some(pci), Some(was)) = (fault.subject.pci, &fault.subject.gpu) else { return false };
        let shown = &self.gpu_book.found.present;
        let mut here = self.inventory.gpus.iter().filter(|gpu| gpu.mig_parent.is_none() && shown.contains(&gpu.uuid));
        here.any(|gpu| gpu.pci.parse() == Ok(pci) && gpu.uuid != *was && !gpu.uuid.is_placeholder())
    }

    /// How long it was not seen while somebody listened.
    fn clean_for(&self, fault: &Fault, now: Timestamp) -> Duration {
        let Some(listening) = self.fault_book.listening_since else { return Duration::ZERO };
        fault.last_seen.map_or(Duration::ZERO, |seen| now.since(seen.max(listening)))
    }
}
