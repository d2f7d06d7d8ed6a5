//! The GPU's place in an NVLink fabric with switches: whether it could join, and how it has been since.
//!
//! Joining that has not begun, or goes on, is no fault: it waits for other nodes for as long as they are idle.

use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::domain::gpu::health::{Fabric, FabricState, Reading};
use crate::health::verdict::Judgement;

/// Fields of `NVML_GPU_FABRIC_HEALTH_MASK_...`: two bits each, of which 1 is true; the configuration has four, of which
/// 0 is unknown and 1 in order.
const DEGRADED_BANDWIDTH: u32 = 0;
const ROUTE_UNHEALTHY: u32 = 4;
const ACCESS_TIMEOUT_RECOVERY: u32 = 6;
const CONFIGURATION: u32 = 8;
/// The rest of them.
const CONFIGURATIONS: [&str; 4] =
    ["another system GUID", "another chassis serial number", "no partition", "too few NVLinks"];

/// Judges what the driver says of it.
pub(super) fn look(reading: &Reading<Fabric>) -> Finding {
    let fabric = match reading {
        Reading::Known(fabric) => fabric,
        Reading::NotSupported => return Finding::NotThere,
        Reading::Failed { .. } => return Finding::Unseen,
    };
    if fabric.state != FabricState::Completed {
        return Finding::Unseen;
    }
    let fault =
        |action, reason, evidence: String| Finding::fault(Judgement::new(Verdict::Fabric, action, reason), evidence);
    let mask = fabric.health_mask;
    let is = |shift: u32| mask >> shift & 0x3 == 1;
    let configuration = mask >> CONFIGURATION & 0xf;
    if fabric.status != 0 {
        let reason = "The GPU could not join its NVLink fabric: programs that use it fail at their start.";
        let evidence = format!("fabric state completed, with error {}; expected: 0", fabric.status);
        return fault(Action::ResetGpu, reason, evidence);
    }
    if configuration > 1 {
        let index = usize::try_from(configuration - 2).unwrap_or(usize::MAX);
        let what = CONFIGURATIONS.get(index).copied().unwrap_or("of a kind that is not known here");
        let reason = "The NVLink fabric is not configured as the GPU needs it: cables, switches or partitions.";
        return fault(Action::Inspect, reason, format!("fabric health mask {mask:#x}: configuration: {what}"));
    }
    if is(ROUTE_UNHEALTHY) || is(ACCESS_TIMEOUT_RECOVERY) {
        let reason = "A way through the NVLink fabric does not work: the GPU has to join it anew, by a reset.";
        let what = if is(ROUTE_UNHEALTHY) { "route unhealthy" } else { "recovery after an access timeout" };
        return fault(Action::ResetGpu, reason, format!("fabric health mask {mask:#x}: {what}"));
    }
    if is(DEGRADED_BANDWIDTH) {
        let reason = "The NVLink fabric gives the GPU less bandwidth than it should; programs go on, slower.";
        return fault(Action::None, reason, format!("fabric health mask {mask:#x}: degraded bandwidth"));
    }
    Finding::InOrder
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, told};
    use super::*;

    fn of(state: FabricState, status: u32, health_mask: u32) -> Told {
        let cluster = uuid::Uuid::nil();
        told(&look(&Reading::Known(Fabric { state, status, cluster, clique: 0, health_mask })))
    }

    #[test]
    fn what_waits_is_no_fault() {
        for state in [FabricState::NotStarted, FabricState::InProgress, FabricState::Other(9)] {
            assert_eq!(of(state, 0, 0), Told::Unseen);
            // What it says before it is done means nothing.
            assert_eq!(of(state, 3, 0x10), Told::Unseen);
        }
        assert_eq!(told(&look(&Reading::NotSupported)), Told::NotThere);
    }

    #[test]
    fn what_is_done_and_wrong_is_one() {
        use FabricState::Completed;
        let fault = |action| Told::Fault(Verdict::Fabric, action);
        for (status, mask, expected) in [
            (0, 0, Told::InOrder),
            // Nothing degraded, no recovery, no unhealthy route, no time-out, configuration in order.
            (0, 0x1aa, Told::InOrder),
            // A route recovers by itself.
            (0, 0x1a6, Told::InOrder),
            (3, 0x1aa, fault(Action::ResetGpu)),
            (0, 0x1a9, fault(Action::None)),
            (0, 0x19a, fault(Action::ResetGpu)),
            (0, 0x16a, fault(Action::ResetGpu)),
            (0, 0x2aa, fault(Action::Inspect)),
            (0, 0xfaa, fault(Action::Inspect)),
        ] {
            assert_eq!(of(Completed, status, mask), expected, "{status} {mask:#x}");
        }
    }
}
