//! GPUs and how they are connected.

use super::ids::GpuUuid;
use serde::{Deserialize, Serialize};

/// What a device is. Does not change while the driver is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    pub uuid: GpuUuid,
    /// The driver's index, from 0.
    pub index: u32,
    /// N of `/dev/nvidiaN`.
    pub minor: u32,
    /// The driver's product name, e.g. `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// The type that jobs ask for, e.g. `H100`.
    pub gpu_type: String,
    pub memory_mb: u64,
    /// `domain:bus:device.function`, e.g. `00000000:1B:00.0`.
    pub pci: String,
    pub numa_node: Option<u32>,
    /// Set on a MIG slice: the device it is a part of.
    pub mig_parent: Option<GpuUuid>,
}

/// What a device does right now; null where the driver cannot say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuSample {
    pub memory_used_mb: Option<u64>,
    /// Percent of time with a kernel running.
    pub utilization: Option<u32>,
    pub temperature_c: Option<u32>,
    pub power_w: Option<u32>,
}

/// How two GPUs of a node reach each other, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// Across the CPUs' interconnect.
    System,
    /// Below one NUMA node.
    NumaNode,
    /// Below one PCIe switch.
    PcieSwitch,
    /// `lanes` NVLinks.
    NvLink { lanes: u8 },
}

/// Links between the GPUs of one node; pairs not listed are [`LinkKind::System`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topology {
    pub links: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub a: GpuUuid,
    pub b: GpuUuid,
    pub kind: LinkKind,
}

impl Topology {
    /// The link between two GPUs, in either order.
    pub fn between(&self, a: &GpuUuid, b: &GpuUuid) -> LinkKind {
        let joins = |link: &&Link| (link.a == *a && link.b == *b) || (link.a == *b && link.b == *a);
        self.links.iter().find(joins).map_or(LinkKind::System, |link| link.kind)
    }
}

/// State of a GPU as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum GpuState {
    Free,
    /// Held by a task.
    Held,
    /// Something not ours is on it.
    Withheld,
    Faulty,
    /// Was there, is not any more.
    Lost,
}

/// The type that jobs ask for by product name: the first alias that the name contains, ignoring case and
/// spaces; else the name without the vendor.
pub fn type_of_model(model: &str) -> String {
    // Names as nvidia-smi prints them; longer ones first where one contains another.
    const ALIASES: [(&str, &str); 24] = [
        ("titanxp", "TITANXP"),
        ("titanv", "TITANV"),
        ("titanrtx", "TITANRTX"),
        ("titanx", "TITANX"),
        ("gb200", "GB200"),
        ("b200", "B200"),
        ("gh200", "GH200"),
        ("h200", "H200"),
        ("h100", "H100"),
        ("h800", "H800"),
        ("h20", "H20"),
        ("a100", "A100"),
        ("a800", "A800"),
        ("a40", "A40"),
        ("a30", "A30"),
        ("a10", "A10"),
        ("l40s", "L40S"),
        ("l40", "L40"),
        ("l4", "L4"),
        ("v100", "V100"),
        ("p100", "P100"),
        ("p40", "P40"),
        ("k80", "K80"),
        ("t4", "T4"),
    ];
    let squeezed: String =
        model.chars().filter(|c| !c.is_whitespace() && *c != '-').collect::<String>().to_lowercase();
    ALIASES
        .iter()
        .find(|(alias, _)| squeezed.contains(alias))
        .map_or_else(|| model.trim().trim_start_matches("NVIDIA ").replace(' ', ""), |(_, kind)| (*kind).to_owned())
}

/// Whether a GPU of type `have` satisfies a job that asks for `want`: equal ignoring case, or `want` names a
/// site's own label that ends in the type (`jd_a100` for `A100`).
pub fn type_matches(want: &str, have: &str) -> bool {
    let (want, have) = (want.to_lowercase(), have.to_lowercase());
    want == have || want.rsplit(['_', '-']).next() == Some(have.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_names_become_types() {
        for (model, kind) in [
            ("NVIDIA H100 80GB HBM3", "H100"),
            ("NVIDIA TITAN X (Pascal)", "TITANX"),
            ("NVIDIA TITAN Xp", "TITANXP"),
            ("Tesla P100-PCIE-16GB", "P100"),
            ("NVIDIA A100-SXM4-40GB", "A100"),
            ("NVIDIA L40S", "L40S"),
            ("NVIDIA GeForce RTX 3090", "GeForceRTX3090"),
        ] {
            assert_eq!(type_of_model(model), kind);
        }
    }

    #[test]
    fn site_labels_match_their_type() {
        assert!(type_matches("titanx", "TITANX"));
        assert!(type_matches("jd_a100", "A100"));
        assert!(!type_matches("A10", "A100"));
    }

    #[test]
    fn better_links_compare_greater() {
        assert!(LinkKind::NvLink { lanes: 4 } > LinkKind::NvLink { lanes: 2 });
        assert!(LinkKind::NvLink { lanes: 1 } > LinkKind::PcieSwitch);
        assert!(LinkKind::PcieSwitch > LinkKind::NumaNode);
        assert!(LinkKind::NumaNode > LinkKind::System);
    }
}
