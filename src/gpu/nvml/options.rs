//! How NVML is asked.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How long each thing may take.
#[derive(Debug, Clone)]
pub struct Deadlines {
    /// Loading the library and the driver's first answer; boards without persistence mode take seconds each.
    pub open: Duration,
    /// The facts of one device.
    pub device: Duration,
    /// What one device does, or who is on it.
    pub sample: Duration,
    /// All that one device says about its health. A device that hangs costs it twice, which is to fit into `whole`; of
    /// more than that the rest is asked in the next round.
    pub health: Duration,
    /// A round over all devices, as its caller waits for it.
    pub whole: Duration,
    /// First and longest pause between workers that cannot open the driver, and between looks at a hung device.
    pub retry: (Duration, Duration),
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(30),
            device: Duration::from_secs(10),
            sample: Duration::from_secs(3),
            health: Duration::from_secs(4),
            whole: Duration::from_secs(9),
            retry: (Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

/// How NVML is asked.
#[derive(Debug, Clone)]
pub struct NvmlOptions {
    /// The program that is started with the argument `gpu-worker`; `wharf` itself.
    pub worker: PathBuf,
    /// Variables that the worker gets beside those of this process.
    pub env: Vec<(OsString, OsString)>,
    /// The library, if it is not `libnvidia-ml.so.1` of the usual folders.
    pub library: Option<PathBuf>,
    /// No library and no driver are trouble, not a machine without GPUs.
    pub insist: bool,
    /// Where `/proc`, `/sys` and `/dev` are.
    pub root: PathBuf,
    /// The driver's program that makes device files; looked for in `PATH` unless it is a path.
    pub modprobe: PathBuf,
    pub deadlines: Deadlines,
}

impl NvmlOptions {
    /// With the program at `worker` and everything else as usual. `WHARF_NVML_LIBRARY` names another library.
    pub fn new(worker: PathBuf) -> Self {
        Self {
            worker,
            env: Vec::new(),
            library: std::env::var_os("WHARF_NVML_LIBRARY").filter(|path| !path.is_empty()).map(PathBuf::from),
            insist: true,
            root: PathBuf::from("/"),
            modprobe: PathBuf::from("nvidia-modprobe"),
            deadlines: Deadlines::default(),
        }
    }

    /// There is a driver, or a GPU that needs one: so a library that is missing is trouble.
    pub(super) fn shows_a_driver(&self) -> bool {
        let there = ["dev/nvidiactl", "proc/driver/nvidia/version"];
        there.iter().any(|path| self.root.join(path).exists()) || self.shows_a_device()
    }

    /// A PCI device of NVIDIA's (0x10de) of a display class (0x03): bridges and audio functions have others.
    fn shows_a_device(&self) -> bool {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let devices = std::fs::read_dir(self.root.join("sys/bus/pci/devices")).into_iter().flatten().flatten();
        devices.map(|device| device.path()).any(|device| {
            read(device.join("vendor")).trim() == "0x10de" && read(device.join("class")).starts_with("0x03")
        })
    }
}
