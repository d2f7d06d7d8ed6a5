//! How the GPUs of well known machines are connected.

use crate::domain::gpu::{Gpu, Link, LinkKind, Topology};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Every pair over NVSwitch (HGX and DGX boards).
    NvSwitch { lanes: u8 },
    /// Eight SXM2 GPUs with six NVLinks each, as in the DGX-1V; 16 are two such boards.
    HybridCubeMesh,
    /// No NVLink; two cards below each PCIe switch.
    PciePairs,
}

/// NVLinks between the GPUs of one DGX-1V board, as its `nvidia-smi topo -m` shows them.
const CUBE_MESH: [(u32, u32, u8); 16] = [
    (0, 1, 1),
    (0, 2, 1),
    (0, 3, 2),
    (0, 4, 2),
    (1, 2, 2),
    (1, 3, 1),
    (1, 5, 2),
    (2, 3, 2),
    (2, 6, 1),
    (3, 7, 1),
    (4, 5, 1),
    (4, 6, 1),
    (4, 7, 2),
    (5, 6, 2),
    (5, 7, 1),
    (6, 7, 2),
];

/// Two sockets share the GPUs, the first half belongs to the first; a pair below one switch is not torn apart.
pub(super) fn numa_node(index: u32, count: u32) -> u32 {
    u32::from(index >= count.div_ceil(4) * 2)
}

pub(super) fn topology(layout: Layout, devices: &[Gpu]) -> Topology {
    let pairs =
        devices.iter().enumerate().flat_map(|(position, a)| devices[position + 1..].iter().map(move |b| (a, b)));
    let links = pairs
        .map(|(a, b)| Link { a: a.uuid.clone(), b: b.uuid.clone(), kind: link(layout, a, b) })
        .filter(|link| link.kind != LinkKind::System);
    Topology { links: links.collect() }
}

fn link(layout: Layout, a: &Gpu, b: &Gpu) -> LinkKind {
    match layout {
        Layout::NvSwitch { lanes } => LinkKind::NvLink { lanes },
        Layout::HybridCubeMesh => cube_mesh(a.index, b.index).unwrap_or_else(|| pcie(a, b)),
        Layout::PciePairs => pcie(a, b),
    }
}

fn cube_mesh(a: u32, b: u32) -> Option<LinkKind> {
    let (low, high) = (a.min(b), a.max(b));
    let found = CUBE_MESH.iter().find(|(x, y, _)| low / 8 == high / 8 && (*x, *y) == (low % 8, high % 8));
    found.map(|(_, _, lanes)| LinkKind::NvLink { lanes: *lanes })
}

fn pcie(a: &Gpu, b: &Gpu) -> LinkKind {
    if a.numa_node != b.numa_node {
        LinkKind::System
    } else if a.index / 2 == b.index / 2 {
        LinkKind::PcieSwitch
    } else {
        LinkKind::NumaNode
    }
}
