//! What kernel messages say, as far as somebody decides by it.

use crate::domain::ids::GpuUuid;
use crate::domain::pci::PciAddress;

/// One thing that one line said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Xid(Xid),
    Sxid(Sxid),
    /// "has fallen off the bus", in a line without an Xid.
    FallenOff {
        pci: PciAddress,
    },
    /// Which GPU is at an address: known from the log even while the driver does not answer.
    Identity {
        pci: PciAddress,
        uuid: GpuUuid,
    },
    /// The driver refuses a GPU that has to be reset. It names it by a number of its own.
    ResetRequired,
    /// A program uses another version of the driver's library.
    DriverMismatch {
        client: String,
    },
    /// Some of these lines are left out from here on.
    RateLimited {
        pci: Option<PciAddress>,
    },
    /// So many lines were left out.
    Suppressed {
        count: Option<u64>,
    },
    Aer {
        severity: AerSeverity,
        device: Option<PciAddress>,
        /// The driver's name that the line begins with: `nvidia`, `pcieport`, ...
        driver: Option<String>,
        /// The line that announces an error, which the device's own line may follow.
        announcement: bool,
    },
    /// The driver of the device cannot recover from bus errors by itself.
    AerUnrecovered {
        device: PciAddress,
        driver: String,
    },
    Nic {
        device: Option<PciAddress>,
        port: Option<String>,
        trouble: NicTrouble,
    },
    MachineCheck {
        severity: MachineCheckSeverity,
    },
    /// Errors of the host's memory; `controller` as `MC0`.
    Edac {
        controller: String,
        corrected: bool,
        count: u64,
    },
    OomKill {
        pid: u32,
        process: Option<String>,
        /// The control group of the killed process.
        cgroup: Option<String>,
        /// The limit of a control group was reached, and not the end of the machine's memory.
        limited: Option<bool>,
    },
    HungTask {
        pid: Option<u32>,
        process: Option<String>,
        lockup: Lockup,
    },
    /// A file system became read-only or shut itself down.
    ReadOnly {
        device: String,
    },
    /// `gone`: the controller does not come back by itself.
    Nvme {
        device: String,
        gone: bool,
    },
    BlockIo {
        device: String,
        trouble: DiskTrouble,
    },
}

/// `NVRM: Xid (...)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Xid {
    /// Null where whoever copied the line left it out.
    pub pci: Option<PciAddress>,
    pub gpu_instance: Option<u32>,
    pub compute_instance: Option<u32>,
    pub code: u32,
    pub pid: Option<u32>,
    pub process: Option<String>,
    pub detail: XidDetail,
    /// An earlier Xid that this one follows from, by the driver's own word.
    pub caused_by: Option<u32>,
}

/// What some codes say more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum XidDetail {
    #[default]
    None,
    /// 13, 31: the part of the chip that met the exception.
    Engine { gpc: u32, tpc: u32 },
    /// 48, 63, 64: the address of the memory.
    Memory { address: u64 },
    /// 94, 95: whether the GPU has to be reset, now (`RST`) or once it is idle (`D-RST`).
    Containment { reset: bool, drain_and_reset: bool },
    /// 74: a link and its seven registers, and 137: a link.
    NvLink { link: u32, registers: Vec<u32> },
    /// 144 to 150: the unit, how grave, the link, and four to six status words. Drivers before and since R575 name units
    /// and lay out words differently; what decides is the same.
    Nvlink5 { unit: String, fatal: Option<bool>, link: Option<u32>, status: Vec<u32> },
    /// 154: NVML's numbers of recovery actions.
    Recovery { from: Option<u32>, to: u32 },
}

/// `nvidia-nvswitchN: SXid (...)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sxid {
    /// `nvidia-nvswitch0`.
    pub switch: String,
    pub pci: Option<PciAddress>,
    pub code: u32,
    pub link: Option<u32>,
    pub severity: SxidSeverity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SxidSeverity {
    Fatal,
    NonFatal,
    /// The line does not say.
    Unsaid,
    /// `Severity ...` and `Data {...}`: more about the SXid before, and no other one.
    FollowUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AerSeverity {
    Corrected,
    NonFatal,
    Fatal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineCheckSeverity {
    Corrected,
    /// The processor or the firmware could not correct it.
    Uncorrected,
}

/// What does not get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockup {
    /// A task waits without being interruptible.
    Task,
    /// A processor does not leave the kernel.
    Processor,
}

/// What became of a disk's reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskTrouble {
    Failed,
    /// The disk says itself that these data are lost.
    Medium,
    /// It takes no more of them.
    Gone,
}

/// What a network adapter's driver complains of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicTrouble {
    /// A cable or module is not there: ordinary at ports that nobody uses.
    Unplugged,
    /// A cable or module that is there is bad.
    Cable,
    /// A cable or module is too hot.
    Temperature,
    /// A queue did not get on in time; it is restarted.
    QueueTimeout,
    /// The firmware did not answer a command.
    CommandTimeout,
    /// The adapter says itself that it is not well.
    Unhealthy,
    /// The slot gives too little power.
    Power,
    /// A register could not be read: what monitors that ask adapters cause, and nobody else notices.
    RegisterAccess,
}
