//! What is remembered of devices that cannot be asked now. Pure.

use super::wire::Device;
use crate::domain::gpu::Gpu;
use crate::domain::ids::GpuUuid;
use std::collections::BTreeMap;

/// The device at an index with its slices; one that was never seen has a place and no more.
pub(super) fn gpus_at(known: &BTreeMap<u32, Device>, index: u32) -> Vec<Gpu> {
    match known.get(&index) {
        Some(Device { gpu, slices }) => std::iter::once(gpu).chain(slices).cloned().collect(),
        None => vec![Gpu {
            uuid: GpuUuid::placeholder(index),
            index,
            minor: index,
            model: "unknown".to_owned(),
            gpu_type: "unknown".to_owned(),
            ..Gpu::default()
        }],
    }
}

/// Indices move when a device falls off the bus: what is remembered at an index that did not answer may have answered
/// at another.
pub(super) fn forget_moved(known: &mut BTreeMap<u32, Device>, healthy: &[u32], count: u32) {
    let answered: Vec<GpuUuid> =
        healthy.iter().filter_map(|index| Some(known.get(index)?.gpu.uuid.clone())).collect();
    known.retain(|index, device| *index < count && (healthy.contains(index) || !answered.contains(&device.gpu.uuid)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(uuid: &str, index: u32) -> Device {
        Device { gpu: Gpu { uuid: uuid.into(), index, ..Gpu::default() }, slices: Vec::new() }
    }

    #[test]
    fn a_device_that_moved_is_not_there_twice() {
        // B fell off: C is at its index now, and the last index is no more.
        let mut known = BTreeMap::from([(0, device("A", 0)), (1, device("C", 1)), (2, device("C", 2))]);
        forget_moved(&mut known, &[0, 1], 3);
        assert_eq!(known.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert!(gpus_at(&known, 2)[0].uuid.is_placeholder());
        let mut known = BTreeMap::from([(0, device("A", 0)), (1, device("B", 1)), (2, device("C", 2))]);
        forget_moved(&mut known, &[0], 2);
        assert_eq!(known.keys().copied().collect::<Vec<_>>(), [0, 1], "B is sick and remembered");
    }
}
