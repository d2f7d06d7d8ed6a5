//! Which of the nodes that fit is best.
//!
//! Packing: the node that is left with the fewest free GPUs, so that whole nodes stay free for those who need them.
//! Tasks without GPUs go to nodes that have none first, then to those without free ones. Among equals the best
//! connected set wins, of the first [`COMPARED`] in name order. Jobs that want to be spread go by `spread` instead.

use super::filter::{Fit, Prepared, fit};
use super::request::RoleRequest;
use super::reservation::Reservation;
use super::snapshot::Snapshot;
use crate::domain::gpu::LinkKind;

/// Equally packed nodes that are compared by how well their GPUs are connected.
pub const COMPARED: usize = 32;

/// The best node for one task of `role`, if any fits, `beside` what is reserved.
pub(super) fn best(
    snapshot: &Snapshot,
    prepared: &Prepared<'_>,
    role: &RoleRequest,
    mut beside: Option<&mut Reservation<'_>>,
) -> Option<(usize, Fit)> {
    if role.gpus == 0 {
        // Where no GPU can be in want of what they take.
        let without = snapshot.without_gpus().iter().copied();
        if let Some(found) = best_of(without, snapshot, prepared, role, beside.as_deref_mut()) {
            return Some(found);
        }
    }
    let groups = snapshot.by_free_gpus();
    let enough = groups.get(role.gpus as usize..)?;
    enough.iter().find_map(|group| best_of(group.iter().copied(), snapshot, prepared, role, beside.as_deref_mut()))
}

fn best_of(
    group: impl Iterator<Item = usize>,
    snapshot: &Snapshot,
    prepared: &Prepared<'_>,
    role: &RoleRequest,
    mut beside: Option<&mut Reservation<'_>>,
) -> Option<(usize, Fit)> {
    let suitable = |at: usize| {
        // Most of a busy cluster is out at this look, without a look at its GPUs and ports.
        let node = &snapshot.nodes()[at];
        let roomy = prepared.selects(at) && node.cpus_free() >= role.cpus && node.memory_mb_free() >= role.memory_mb;
        let roomy = roomy && beside.as_ref().is_none_or(|reservation| reservation.may_admit(at, role));
        let fit = roomy.then(|| fit(snapshot, at, prepared, role))?.ok()?;
        let admitted = beside.as_deref_mut().is_none_or(|reservation| reservation.admits(at, &fit.taken));
        admitted.then_some((at, fit))
    };
    let mut fits = group.filter_map(suitable);
    let mut best = fits.next()?;
    if role.gpus < 2 {
        return Some(best);
    }
    for _ in 1..COMPARED {
        if is_as_good_as_can_be(snapshot, best.0, &best.1) {
            break;
        }
        let Some(next) = fits.next() else { break };
        if next.1.quality > best.1.quality {
            best = next;
        }
    }
    Some(best)
}

/// All links of the set are NVLinks as wide as any on its node: looking further is not worth it.
fn is_as_good_as_can_be(snapshot: &Snapshot, at: usize, fit: &Fit) -> bool {
    let node = &snapshot.nodes()[at];
    let widest = (0..node.gpus.len()).flat_map(|a| (0..a).map(move |b| node.link(a, b))).max();
    let set = &fit.taken.gpus;
    matches!(widest, Some(LinkKind::NvLink { .. }))
        && set.iter().enumerate().all(|(at, a)| set[at + 1..].iter().all(|b| Some(node.link(*a, *b)) == widest))
}
