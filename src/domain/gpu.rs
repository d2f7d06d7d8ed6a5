//! GPUs: what they are, what they do, how they are connected, and what stands against using one.

pub mod condition;
pub mod health;
pub mod occupancy;

use super::ids::GpuUuid;
use serde::{Deserialize, Serialize};

/// What a device is. Does not change while the driver is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Error correction is on; null where the device has none.
    #[serde(default)]
    pub ecc: Option<bool>,
    /// MIG is on, so that only slices can be used; null where the device cannot be divided.
    #[serde(default)]
    pub mig_mode: Option<bool>,
    /// Set on a MIG slice.
    #[serde(default)]
    pub mig: Option<MigSlice>,
}

/// What makes a MIG slice: a compute instance of a GPU instance of its parent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MigSlice {
    /// Among the slices of its parent, from 0.
    pub index: u32,
    pub gpu_instance: u32,
    pub compute_instance: u32,
    /// As the driver names it, e.g. `1g.10gb`.
    pub profile: String,
    /// N of `/dev/nvidia-caps/nvidia-capN`, which open the GPU instance and the compute instance to a container.
    pub gpu_instance_minor: Option<u32>,
    pub compute_instance_minor: Option<u32>,
}

/// Whether a device can be worked with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuHealth {
    #[default]
    Ok,
    /// It answers with an error, or not at all: one sentence.
    Faulty(String),
    /// It was there and is not any more: one sentence.
    Lost(String),
}

/// What a device does right now; null where the driver cannot say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuSample {
    pub memory_used_mb: Option<u64>,
    /// Percent of time with a kernel running.
    pub utilization: Option<u32>,
    pub temperature_c: Option<u32>,
    pub power_w: Option<u32>,
    /// What the board may draw.
    #[serde(default)]
    pub power_limit_w: Option<u32>,
    #[serde(default)]
    pub sm_clock_mhz: Option<u32>,
    #[serde(default)]
    pub memory_clock_mhz: Option<u32>,
    /// Memory errors that could not be corrected since the driver was loaded.
    #[serde(default)]
    pub ecc_errors: Option<u64>,
    /// 0 is the fastest.
    #[serde(default)]
    pub pstate: Option<u32>,
    /// Null where the machine cools the board.
    #[serde(default)]
    pub fan_percent: Option<u32>,
    #[serde(default)]
    pub health: GpuHealth,
}

/// Whether a node's driver can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DriverState {
    /// This node has no GPUs, as far as can be seen.
    #[default]
    None,
    Ok,
    /// `libnvidia-ml.so.1` is not there or cannot be loaded.
    NoLibrary,
    DriverNotLoaded,
    /// The library and the kernel's module are of different versions, as after an upgrade without a reboot.
    VersionMismatch,
    /// Calls do not come back.
    Hung,
    /// Let go of on purpose, as for a reset.
    Stopped,
    /// Anything else that keeps all GPUs from being asked.
    Failed,
}

impl DriverState {
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Ok,
        Self::NoLibrary,
        Self::DriverNotLoaded,
        Self::VersionMismatch,
        Self::Hung,
        Self::Stopped,
        Self::Failed,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Ok => "OK",
            Self::NoLibrary => "NO_LIBRARY",
            Self::DriverNotLoaded => "DRIVER_NOT_LOADED",
            Self::VersionMismatch => "VERSION_MISMATCH",
            Self::Hung => "HUNG",
            Self::Stopped => "STOPPED",
            Self::Failed => "FAILED",
        }
    }

    /// GPUs can be asked, or there are none to ask.
    pub const fn is_fine(self) -> bool {
        matches!(self, Self::None | Self::Ok)
    }
}

/// The driver of a node's GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuDriver {
    pub state: DriverState,
    /// E.g. `580.95.05`; null while it cannot be asked.
    pub driver_version: Option<String>,
    /// The newest CUDA that the driver serves, e.g. `13.0`.
    pub cuda_version: Option<String>,
    pub nvml_version: Option<String>,
    /// What is wrong, for a person; null where nothing is.
    pub sentence: Option<String>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum GpuState {
    #[default]
    Free,
    /// Held by a task.
    Held,
    /// Something not ours is on it.
    Withheld,
    Faulty,
    /// Was there, is not any more.
    Lost,
}

impl GpuState {
    pub const ALL: [Self; 5] = [Self::Free, Self::Held, Self::Withheld, Self::Faulty, Self::Lost];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "FREE",
            Self::Held => "HELD",
            Self::Withheld => "WITHHELD",
            Self::Faulty => "FAULTY",
            Self::Lost => "LOST",
        }
    }
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

/// The type of a MIG slice: not its parent's, or a job that asks for an `A100` would be given a seventh of one.
pub fn type_of_slice(parent_type: &str, profile: &str) -> String {
    format!("{parent_type}-{profile}")
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
    fn a_slice_is_not_taken_for_its_parent() {
        let slice = type_of_slice("A100", "1g.10gb");
        assert!(!type_matches("A100", &slice) && !type_matches("jd_a100", &slice));
        assert!(type_matches("a100-1g.10gb", &slice));
    }

    #[test]
    fn what_older_versions_wrote_is_read() {
        let gpu = r#"{"uuid":"GPU-0","index":0,"minor":0,"model":"m","gpu_type":"t","memory_mb":1,"pci":"p",
            "numa_node":null,"mig_parent":null}"#;
        assert_eq!(serde_json::from_str::<Gpu>(gpu).unwrap().mig, None);
        let sample = r#"{"memory_used_mb":1,"utilization":null,"temperature_c":null,"power_w":null}"#;
        assert_eq!(serde_json::from_str::<GpuSample>(sample).unwrap().health, GpuHealth::Ok);
    }

    #[test]
    fn better_links_compare_greater() {
        assert!(LinkKind::NvLink { lanes: 4 } > LinkKind::NvLink { lanes: 2 });
        assert!(LinkKind::NvLink { lanes: 1 } > LinkKind::PcieSwitch);
        assert!(LinkKind::PcieSwitch > LinkKind::NumaNode);
        assert!(LinkKind::NumaNode > LinkKind::System);
    }
}
