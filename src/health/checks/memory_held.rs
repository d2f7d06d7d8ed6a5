//! Memory of a GPU that is held although no task and no process is there: what a driver did not free after a program
//! was killed. The next program would not find the memory that it was promised.

use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::domain::gpu::health::{HealthSnapshot, ProcessMemory};
use crate::health::verdict::Judgement;

/// Rounds in a row: memory is freed some time after its process is gone.
const ROUNDS: u8 = 4;
/// What an idle board may use beside what the driver keeps for itself: a console's picture, a context that persists.
const ALLOWED_MB: u64 = 256;

/// What is remembered of one GPU.
#[derive(Debug, Default)]
pub(super) struct MemoryHeld {
    rounds: u8,
}

impl MemoryHeld {
    /// `is_divided`: slices take memory of their own.
    pub fn look(&mut self, health: &HealthSnapshot, is_busy: bool, is_divided: bool) -> Finding {
        let (Some(used), Some(processes)) = (health.memory_used_mb.known(), health.processes.known()) else {
            return Finding::Unseen;
        };
        let is_idle = !is_busy && !is_divided && *processes == ProcessMemory::default();
        if !is_idle || *used <= ALLOWED_MB {
            self.rounds = 0;
            return Finding::InOrder;
        }
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds < ROUNDS {
            return Finding::Unseen;
        }
        let reason = "Memory of the GPU is held and no process is there that holds it: a reset frees it.";
        let evidence =
            format!("{used} MiB used with no process for {} rounds; allowed: {ALLOWED_MB} MiB", self.rounds);
        Finding::fault(Judgement::new(Verdict::Gpu, Action::ResetGpu, reason), evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, told};
    use super::*;
    use crate::domain::gpu::health::Reading;

    fn of(used: u64, processes: u32) -> HealthSnapshot {
        let processes = ProcessMemory { processes, memory_mb: 0, unknown: processes };
        HealthSnapshot {
            memory_used_mb: Reading::Known(used),
            processes: Reading::Known(processes),
            ..HealthSnapshot::default()
        }
    }

    #[test]
    fn memory_without_an_owner_is_a_fault_after_some_rounds() {
        let mut memory = MemoryHeld::default();
        let mut look = |health: &HealthSnapshot, is_busy| told(&memory.look(health, is_busy, false));
        let held = of(30_000, 0);
        assert!((0..3).all(|_| look(&held, false) == Told::Unseen));
        assert_eq!(look(&held, false), Told::Fault(Verdict::Gpu, Action::ResetGpu));
        assert_eq!((look(&of(3, 0), false), look(&held, false)), (Told::InOrder, Told::Unseen));
    }

    #[test]
    fn memory_with_an_owner_is_none() {
        for (health, is_busy, is_divided) in [
            (of(30_000, 0), true, false),
            (of(30_000, 1), false, false),
            (of(30_000, 0), false, true),
            (of(256, 0), false, false),
        ] {
            let mut memory = MemoryHeld::default();
            assert!((0..20).all(|_| told(&memory.look(&health, is_busy, is_divided)) == Told::InOrder), "{health:?}");
        }
        let unknown = HealthSnapshot { memory_used_mb: Reading::Known(9999), ..HealthSnapshot::default() };
        assert_eq!(told(&MemoryHeld::default().look(&unknown, false, false)), Told::Unseen);
    }
}
