//! The models that can be simulated.

use super::layout::Layout;

/// One product. Names are the driver's; memory is what it reports in MiB; power is the board's limit in watts
/// from the vendor's data sheets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Model {
    /// What the command line says.
    pub(super) name: &'static str,
    pub(super) product: &'static str,
    pub(super) memory_mb: u64,
    pub(super) board_w: u32,
    pub(super) layout: Layout,
}

const fn model(name: &'static str, product: &'static str, memory_mb: u64, board_w: u32, layout: Layout) -> Model {
    Model { name, product, memory_mb, board_w, layout }
}

pub(super) const MODELS: &[Model] = &[
    model("B200", "NVIDIA B200", 183_359, 1000, Layout::NvSwitch { lanes: 18 }),
    model("H200", "NVIDIA H200", 143_771, 700, Layout::NvSwitch { lanes: 18 }),
    model("H100", "NVIDIA H100 80GB HBM3", 81_559, 700, Layout::NvSwitch { lanes: 18 }),
    model("A100", "NVIDIA A100-SXM4-80GB", 81_920, 400, Layout::NvSwitch { lanes: 12 }),
    model("A100-PCIE", "NVIDIA A100-PCIE-40GB", 40_960, 250, Layout::PciePairs),
    model("V100", "Tesla V100-SXM2-32GB", 32_768, 300, Layout::HybridCubeMesh),
    model("P100", "Tesla P100-PCIE-16GB", 16_280, 250, Layout::PciePairs),
    model("TITANX", "NVIDIA TITAN X (Pascal)", 12_196, 250, Layout::PciePairs),
    model("L40S", "NVIDIA L40S", 46_068, 350, Layout::PciePairs),
    model("L4", "NVIDIA L4", 23_034, 72, Layout::PciePairs),
    model("A10", "NVIDIA A10", 23_028, 150, Layout::PciePairs),
    model("T4", "Tesla T4", 15_360, 70, Layout::PciePairs),
];
