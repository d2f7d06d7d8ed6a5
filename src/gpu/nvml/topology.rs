//! Puts together how the devices of a node reach each other. Pure.

use super::wire::{FarEnd, Links};
use crate::domain::gpu::{Gpu, Link, LinkKind, Topology};
use std::collections::BTreeMap;

/// `links` by index of the device; each pair is named by one of its ends at least.
pub(super) fn topology(devices: &[&Gpu], links: &BTreeMap<u32, Links>) -> Topology {
    let pairs = devices.iter().enumerate().flat_map(|(at, a)| devices[at + 1..].iter().map(move |b| (*a, *b)));
    let all = pairs.map(|(a, b)| Link { a: a.uuid.clone(), b: b.uuid.clone(), kind: kind(a, b, links) });
    Topology { links: all.filter(|link| link.kind != LinkKind::System).collect() }
}

fn kind(a: &Gpu, b: &Gpu, links: &BTreeMap<u32, Links>) -> LinkKind {
    let ends = |gpu: &Gpu| links.get(&gpu.index).map_or([].as_slice(), |links| links.nvlinks.as_slice());
    let count = |gpu: &Gpu, wanted: &dyn Fn(&FarEnd) -> bool| ends(gpu).iter().filter(|end| wanted(end)).count();
    let to = |from: &Gpu, gpu: &Gpu| {
        count(from, &|end| matches!(end, FarEnd::Gpu(pci) if pci.eq_ignore_ascii_case(&gpu.pci)))
    };
    let switched = |gpu: &Gpu| count(gpu, &|end| *end == FarEnd::Switch);
    // All switches of a board are one fabric: a pair is as fast as the end with fewer lanes.
    let lanes = to(a, b).max(to(b, a)).max(switched(a).min(switched(b)));
    if lanes > 0 {
        return LinkKind::NvLink { lanes: u8::try_from(lanes).unwrap_or(u8::MAX) };
    }
    let pcie = |from: &Gpu, gpu: &Gpu| {
        let of = links.get(&from.index)?;
        of.pcie.iter().find(|(other, _)| *other == gpu.index).map(|(_, kind)| *kind)
    };
    pcie(a, b).or_else(|| pcie(b, a)).unwrap_or(LinkKind::System)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32) -> Gpu {
        let (uuid, pci) = (format!("GPU-{index}").as_str().into(), format!("00000000:0{index}:00.0"));
        Gpu { uuid, index, pci, ..Gpu::default() }
    }

    #[test]
    fn nvlink_goes_over_pcie_and_both_ends_are_heard() {
        let gpus = [gpu(0), gpu(1), gpu(2), gpu(3)];
        let to = |index: u32| FarEnd::Gpu(gpu(index).pci.to_lowercase());
        let links = |nvlinks: Vec<FarEnd>, pcie: Vec<(u32, LinkKind)>| Links { nvlinks, pcie };
        let all = BTreeMap::from([
            (0, links(vec![to(1), to(1), FarEnd::Other], vec![(1, LinkKind::NumaNode), (2, LinkKind::PcieSwitch)])),
            (2, links(vec![FarEnd::Switch; 18], vec![(3, LinkKind::System)])),
            (3, links(vec![FarEnd::Switch; 12], vec![(1, LinkKind::NumaNode)])),
        ]);
        let found = topology(&gpus.iter().collect::<Vec<_>>(), &all);
        let between = |a: usize, b: usize| found.between(&gpus[a].uuid, &gpus[b].uuid);
        assert_eq!(between(0, 1), LinkKind::NvLink { lanes: 2 });
        assert_eq!(between(0, 2), LinkKind::PcieSwitch);
        assert_eq!(between(2, 3), LinkKind::NvLink { lanes: 12 });
        assert_eq!(between(1, 3), LinkKind::NumaNode, "told by the other end");
        assert_eq!(between(0, 3), LinkKind::System);
        assert_eq!(found.links.len(), 4);
    }
}
