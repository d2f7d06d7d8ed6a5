//! Hardware faults: what was observed on which part, whose doing it is, and what should be done.

use super::ids::{GpuUuid, JobId, NodeName, TaskId};
use super::pci::PciAddress;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Words of an enumeration, as they are written everywhere.
macro_rules! words {
    ($name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word for it, in JSON, tables and settings.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use words;

/// What sort of observation a fault is made of. Together with the code and the part it is the fault's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The driver reported an error of a GPU; `code` is the Xid.
    Xid,
    /// The driver reported an error of an NVSwitch; `code` is the SXid.
    Sxid,
    /// The GPU does not answer on its bus any more, and no Xid said so.
    GpuLost,
    /// The driver refuses to use the GPU before it is reset, and no Xid said so.
    ResetRequired,
    /// The driver's own recommendation, asked for or seen to change.
    RecoveryAction,
    /// Uncorrectable memory errors, by the driver's counters.
    Ecc,
    /// The same for SRAM, which has no spare rows.
    SramEcc,
    /// Rows wait for a reset to be replaced, or could not be.
    RowRemap,
    /// Pages wait for a reset to be taken out of use (before row remapping).
    RetiredPages,
    /// The board slows down because it is too hot.
    Thermal,
    /// The hardware slows the board down.
    HwSlowdown,
    /// The power supply slows the board down.
    PowerBrake,
    /// An NVLink that was up is down, or its error counters grow.
    Nvlink,
    /// The link to the host is narrower or slower than it can be, under load.
    PcieLink,
    /// Packets to the host are repeated more often than its generation and width explain.
    PcieReplay,
    /// The GPU did not join the NVLink fabric.
    Fabric,
    /// Fewer GPUs than there should be.
    GpuCount,
    /// The driver's library and the driver are of different versions.
    DriverMismatch,
    /// GPU memory is held and no process is there that holds it.
    MemoryHeld,
    /// A container lost access to its devices.
    DeviceAccess,
    /// A port of a network adapter is down, flaps or drops.
    Infiniband,
    /// The process that asks the driver missed its deadline.
    GpuWorker,
    /// The check of a GPU between tasks failed or took too long.
    SelfCheck,
    /// PCI Express advanced error reporting.
    Aer,
    /// The driver of a network adapter complains.
    Nic,
    /// A machine check of the processor or an error record of the firmware.
    MachineCheck,
    /// Errors of the host's memory.
    Edac,
    /// The kernel killed a process for memory.
    OomKill,
    /// A process or a processor does not get on.
    HungTask,
    /// A file system became read-only or shut itself down.
    ReadOnly,
    /// An NVMe controller times out, resets or is gone.
    Nvme,
    /// Reads or writes of a block device failed.
    BlockIo,
    /// Kernel messages were lost before they were read.
    KernelLogGap,
}

words!(FaultKind {
    Xid = "xid",
    Sxid = "sxid",
    GpuLost = "gpu_lost",
    ResetRequired = "reset_required",
    RecoveryAction = "recovery_action",
    Ecc = "ecc",
    SramEcc = "sram_ecc",
    RowRemap = "row_remap",
    RetiredPages = "retired_pages",
    Thermal = "thermal",
    HwSlowdown = "hw_slowdown",
    PowerBrake = "power_brake",
    Nvlink = "nvlink",
    PcieLink = "pcie_link",
    PcieReplay = "pcie_replay",
    Fabric = "fabric",
    GpuCount = "gpu_count",
    DriverMismatch = "driver_mismatch",
    MemoryHeld = "memory_held",
    DeviceAccess = "device_access",
    Infiniband = "infiniband",
    GpuWorker = "gpu_worker",
    SelfCheck = "self_check",
    Aer = "aer",
    Nic = "nic",
    MachineCheck = "machine_check",
    Edac = "edac",
    OomKill = "oom_kill",
    HungTask = "hung_task",
    ReadOnly = "read_only",
    Nvme = "nvme",
    BlockIo = "block_io",
    KernelLogGap = "kernel_log_gap",
});

/// Whose doing a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The program that ran: the hardware is fine.
    Application,
    Gpu,
    /// A connection between two parts: either end, or what is between them.
    Link,
    Node,
    /// An NVSwitch or the network: more than one GPU or node is concerned.
    Fabric,
    /// It cannot be said. Reported, and nothing is taken out of use for it.
    Unknown,
}

words!(Verdict {
    Application = "application",
    Gpu = "gpu",
    Link = "link",
    Node = "node",
    Fabric = "fabric",
    Unknown = "unknown",
});

/// What should be done, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    None,
    /// What ran there has to be run again; the hardware can go on.
    RestartApp,
    ResetGpu,
    Reboot,
    /// A person has to look: resets and reboots do not help.
    Inspect,
}

words!(Action {
    None = "none",
    RestartApp = "restart_app",
    ResetGpu = "reset_gpu",
    Reboot = "reboot",
    Inspect = "inspect",
});

/// Whether a part with this judgement is kept from new tasks until the fault has cleared. A program's own mistakes
/// condemn nothing, and neither does what nobody understands.
pub const fn takes_out_of_use(verdict: Verdict, action: Action) -> bool {
    matches!(verdict, Verdict::Gpu | Verdict::Link | Verdict::Node | Verdict::Fabric)
        && matches!(action, Action::ResetGpu | Action::Reboot | Action::Inspect)
}

/// What sort of part a fault is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Gpu,
    /// An NVLink of the GPU or of the switch that is named.
    Link,
    #[default]
    Node,
    /// An NVSwitch.
    Fabric,
    /// Another device: network adapter, disk, bridge, processor, memory.
    Device,
}

/// The part that a fault is on; null where it is not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Subject {
    #[serde(rename = "subject")]
    pub part: Part,
    pub gpu: Option<GpuUuid>,
    /// Of the GPU, the switch or the device.
    pub pci: Option<PciAddress>,
    /// Set where one slice of a divided GPU is concerned; numbers as NVML has them.
    pub gpu_instance: Option<u32>,
    pub compute_instance: Option<u32>,
    /// Of the GPU or the switch, from 0.
    pub link: Option<u32>,
    /// Its name where it has one: `nvidia-nvswitch0`, `nvme0`, `mlx5_core`, a control group.
    pub device: Option<String>,
}

impl Subject {
    /// A GPU by its place.
    pub fn gpu_at(pci: PciAddress) -> Self {
        Self { part: Part::Gpu, pci: Some(pci), ..Self::default() }
    }

    pub fn device(name: impl Into<String>) -> Self {
        Self { part: Part::Device, device: Some(name.into()), ..Self::default() }
    }

    /// On the same GPU or device, whichever of its links or slices.
    pub fn is_on_same_device(&self, other: &Self) -> bool {
        match (self.pci, other.pci) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => match (&self.gpu, &other.gpu) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => false,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum FaultState {
    Active,
    Cleared,
}

words!(FaultState { Active = "ACTIVE", Cleared = "CLEARED" });

/// Grows by one with every fault of whoever counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultId(pub u64);

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One fault, as `wharf faults` shows it; null where something is not known. Many observations of one kind and code on
/// one part are one fault with a count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub id: FaultId,
    pub kind: FaultKind,
    /// Of an Xid or SXid.
    pub code: Option<u32>,
    pub node: Option<NodeName>,
    #[serde(flatten)]
    pub subject: Subject,
    /// The process that the kernel names, by its id on the host.
    pub pid: Option<u32>,
    pub process: Option<String>,
    pub verdict: Verdict,
    pub action: Action,
    /// The driver itself asks for the action: no table's advice replaces it.
    #[serde(default)]
    pub by_driver: bool,
    /// One sentence for a person: what it means.
    pub reason: String,
    /// Observations so far; a lower bound where the kernel left lines out.
    pub count: u64,
    /// Observations of other codes that belong to this fault, because the driver or their order says so.
    #[serde(default)]
    pub related: u64,
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    /// The same since the host was booted, in microseconds.
    pub first_seen_boot_us: Option<u64>,
    pub last_seen_boot_us: Option<u64>,
    pub state: FaultState,
    /// What was seen, word for word: the first lines and the last one, each cut to a few hundred bytes.
    pub evidence: Vec<String>,
    pub task: Option<TaskId>,
    pub job: Option<JobId>,
}

impl Fault {
    /// Its part is kept from new tasks.
    pub const fn takes_out_of_use(&self) -> bool {
        matches!(self.state, FaultState::Active) && takes_out_of_use(self.verdict, self.action)
    }

    /// What runs on its part cannot go on. Who has a part that is hot, slow, worn out or waits for a reset keeps it, and
    /// what the driver recommends may be to let end what runs.
    pub const fn ends_tasks(&self) -> bool {
        // A row that is replaced with the next reset, and the driver's recommendation of one.
        let waits = matches!((self.kind, self.code), (FaultKind::Xid, Some(63 | 154)));
        let lasts = matches!(
            self.kind,
            // What the driver refuses ends by itself.
            FaultKind::RecoveryAction
                | FaultKind::ResetRequired
                | FaultKind::RowRemap
                | FaultKind::RetiredPages
                | FaultKind::SramEcc
                | FaultKind::Thermal
                | FaultKind::HwSlowdown
                | FaultKind::PowerBrake
                | FaultKind::Nvlink
                | FaultKind::PcieLink
                | FaultKind::PcieReplay
                | FaultKind::Fabric
                | FaultKind::MemoryHeld
                | FaultKind::GpuCount
                | FaultKind::GpuWorker
                | FaultKind::Infiniband
                | FaultKind::SelfCheck
        );
        self.takes_out_of_use() && !lasts && !waits
    }

    /// Its whole node is kept from new tasks: it is no single GPU's. Where some GPUs are missing the others are good, and a
    /// network that fails would take all nodes at once.
    pub fn withdraws_node(&self) -> bool {
        let whole = match self.kind {
            FaultKind::Sxid => true,
            // An adapter that is gone may have been given to a machine or a container of its own.
            FaultKind::GpuCount | FaultKind::Infiniband => false,
            _ => matches!(self.verdict, Verdict::Node | Verdict::Fabric),
        };
        self.takes_out_of_use() && whole && self.subject.gpu.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault {
            id: FaultId(7),
            kind: FaultKind::Xid,
            code: Some(79),
            node: Some("gpu-01".into()),
            subject: Subject::gpu_at("0000:9b:00".parse().unwrap()),
            pid: None,
            process: None,
            verdict: Verdict::Gpu,
            action: Action::Reboot,
            by_driver: false,
            reason: "lost".to_owned(),
            count: 2,
            related: 0,
            first_seen: Some(Timestamp(0)),
            last_seen: None,
            first_seen_boot_us: Some(5),
            last_seen_boot_us: None,
            state: FaultState::Active,
            evidence: vec!["a line".to_owned()],
            task: None,
            job: None,
        }
    }

    #[test]
    fn a_fault_has_the_names_of_the_contract_and_survives_text() {
        let value = serde_json::to_value(fault()).unwrap();
        let contract =
            "id kind code node gpu pci pid process verdict action count first_seen last_seen state evidence task job";
        for name in contract.split(' ') {
            assert!(value.get(name).is_some(), "no {name} in {value}");
        }
        let shown = |name: &str| value[name].to_string();
        assert_eq!((shown("kind"), shown("code")), ("\"xid\"".into(), "79".into()));
        assert_eq!((shown("pci"), shown("gpu")), ("\"0000:9b:00.0\"".into(), "null".into()));
        assert_eq!((shown("verdict"), shown("action")), ("\"gpu\"".into(), "\"reboot\"".into()));
        assert_eq!((shown("state"), shown("subject")), ("\"ACTIVE\"".into(), "\"gpu\"".into()));
        assert_eq!(serde_json::from_value::<Fault>(value).unwrap(), fault());
    }

    #[test]
    fn words_are_those_of_serde() {
        for kind in FaultKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(FaultKind::parse(kind.as_str()), Some(*kind));
        }
        assert!(Verdict::ALL.iter().all(|one| serde_json::to_value(one).unwrap() == one.as_str()));
        assert!(Action::ALL.iter().all(|one| serde_json::to_value(one).unwrap() == one.as_str()));
        assert!(FaultState::ALL.iter().all(|one| serde_json::to_value(one).unwrap() == one.as_str()));
    }

    #[test]
    fn only_hardware_that_needs_something_is_taken_out_of_use() {
        let taken = |verdict, action| Fault { verdict, action, ..fault() }.takes_out_of_use();
        assert!(taken(Verdict::Gpu, Action::ResetGpu) && taken(Verdict::Node, Action::Inspect));
        assert!(!taken(Verdict::Gpu, Action::RestartApp) && !taken(Verdict::Link, Action::None));
        assert!(!taken(Verdict::Application, Action::Inspect) && !taken(Verdict::Unknown, Action::Inspect));
        assert!(!Fault { state: FaultState::Cleared, ..fault() }.takes_out_of_use());
    }

    #[test]
    fn who_has_a_part_that_wears_out_keeps_it() {
        let ends = |kind| Fault { kind, ..fault() }.ends_tasks();
        assert!(ends(FaultKind::Xid) && ends(FaultKind::GpuLost) && !ends(FaultKind::ResetRequired));
        assert!(!ends(FaultKind::Thermal) && !ends(FaultKind::RowRemap) && !ends(FaultKind::RecoveryAction));
        assert!(!ends(FaultKind::SelfCheck) && !Fault { action: Action::RestartApp, ..fault() }.ends_tasks());
        let xid = |code| Fault { code: Some(code), action: Action::ResetGpu, ..fault() }.ends_tasks();
        assert!(xid(64) && xid(95) && !xid(63) && !xid(154));
    }

    #[test]
    fn what_is_no_single_gpus_withdraws_its_node() {
        let of = |kind, verdict, gpu: Option<&str>| {
            let subject = Subject { gpu: gpu.map(Into::into), ..fault().subject };
            Fault { kind, verdict, subject, ..fault() }.withdraws_node()
        };
        assert!(of(FaultKind::MachineCheck, Verdict::Node, None) && of(FaultKind::Sxid, Verdict::Link, None));
        assert!(of(FaultKind::Sxid, Verdict::Fabric, None) && !of(FaultKind::Fabric, Verdict::Fabric, Some("A")));
        assert!(!of(FaultKind::Nic, Verdict::Link, None) && !of(FaultKind::Xid, Verdict::Gpu, None));
        assert!(!of(FaultKind::GpuCount, Verdict::Node, None));
        assert!(!of(FaultKind::Infiniband, Verdict::Node, None) && !of(FaultKind::Infiniband, Verdict::Fabric, None));
        let observed = Fault { verdict: Verdict::Node, action: Action::None, ..fault() };
        assert!(!observed.withdraws_node());
    }

    #[test]
    fn links_and_slices_are_on_their_gpu() {
        let gpu = Subject::gpu_at("0000:9b:00".parse().unwrap());
        let link = Subject { part: Part::Link, link: Some(3), ..gpu.clone() };
        assert!(gpu.is_on_same_device(&link));
        let by_name = Subject { gpu: Some("GPU-1".into()), part: Part::Gpu, ..Subject::default() };
        assert!(!gpu.is_on_same_device(&by_name) && by_name.is_on_same_device(&by_name.clone()));
        assert!(!Subject::default().is_on_same_device(&Subject::default()));
    }
}
