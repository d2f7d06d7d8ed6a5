//! What the NVIDIA driver has put on this machine: device nodes, libraries, tools, CDI specifications. Blocking file
//! access below one root; decides nothing.

use super::{cdi, mig};
use crate::domain::gpu::{Gpu, MigSlice};
use crate::domain::ids::GpuUuid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files of `/proc`, `/etc` and CDI specifications; more is damage.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;
/// `include` lines of `ld.so.conf` do not nest deeper.
const MAX_FOLDERS: usize = 64;

/// Where loaders look by themselves, and where drivers are installed otherwise.
const LIBRARY_FOLDERS: [&str; 9] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/local/nvidia/lib64",
];
const BINARY_FOLDERS: [&str; 4] = ["usr/bin", "usr/local/bin", "bin", "usr/local/nvidia/bin"];

/// The driver's libraries that programs on GPUs load, by their sonames. Source: the utility, compute and video lists
/// of libnvidia-container (`src/nvc_info.c`); graphics are left out. `libcuda.so` and `libcuda.so.1` are one file.
pub const LIBRARIES: [&str; 16] = [
    "libcuda.so.1",
    "libcuda.so",
    "libcudadebugger.so.1",
    "libnvidia-ml.so.1",
    "libnvidia-cfg.so.1",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-nvvm.so.4",
    "libnvidia-nvvm70.so.4",
    "libnvidia-opencl.so.1",
    "libnvidia-allocator.so.1",
    "libnvidia-gpucomp.so",
    "libnvidia-pkcs11-openssl3.so",
    "libnvidia-tileiras.so",
    "libnvcuvid.so.1",
    "libnvidia-encode.so.1",
    "libnvidia-opticalflow.so.1",
];
/// Source: the utility and compute lists of the same file.
const BINARIES: [&str; 5] =
    ["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"];

/// The driver as found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostDriver {
    /// Of the kernel module, e.g. `550.54.15`; `None`: it is not loaded.
    pub version: Option<String>,
    /// Paths of device nodes.
    pub nodes: BTreeSet<String>,
    /// Minor numbers of `/dev/nvidia-caps/nvidia-capN` by the driver's names: `gpu0/gi1/access`, `gpu0/gi1/ci0/access`.
    pub mig_minors: BTreeMap<String, u32>,
    pub libraries: Vec<Library>,
    /// Name and file.
    pub binaries: Vec<(String, PathBuf)>,
    /// Devices of `nvidia.com/gpu` that CDI specifications name.
    pub cdi_devices: BTreeSet<String>,
    /// Instances of MIG slices, told by whoever asked NVML: the files do not say. See [`HostDriver::with_mig`].
    pub mig_slices: BTreeMap<GpuUuid, MigSlice>,
}

/// A library of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The name that programs ask for.
    pub name: String,
    /// The file behind all links.
    pub file: PathBuf,
}

impl HostDriver {
    /// Looks below `root`, which is `/` but for tests. CDI specifications are looked for in `cdi_dirs`, or where they
    /// usually are. What cannot be read is not there.
    pub fn probe(root: &Path, cdi_dirs: &[String]) -> Self {
        let version = version(root);
        let usual = ["/etc/cdi".to_owned(), "/var/run/cdi".to_owned()];
        let cdi_dirs = if cdi_dirs.is_empty() { &usual[..] } else { cdi_dirs };
        let folders = library_folders(root);
        let libraries = LIBRARIES.iter().filter_map(|name| library(&folders, name, version.as_deref()));
        Self {
            nodes: nodes(root),
            mig_minors: mig::minors(root),
            libraries: libraries.collect(),
            binaries: BINARIES.iter().filter_map(|name| binary(root, name)).collect(),
            cdi_devices: cdi_dirs.iter().flat_map(|dir| cdi::devices(&below(root, dir))).collect(),
            mig_slices: BTreeMap::new(),
            version,
        }
    }

    /// With what NVML said of these devices' slices.
    pub fn with_mig(mut self, gpus: &[Gpu]) -> Self {
        let slices = gpus.iter().filter_map(|gpu| Some((gpu.uuid.clone(), gpu.mig.clone()?)));
        self.mig_slices = slices.collect();
        self
    }

    pub fn library(&self, name: &str) -> Option<&Library> {
        self.libraries.iter().find(|library| library.name == name)
    }
}

pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// A small text, or nothing.
pub(super) fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(MAX_TEXT_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Names in a folder, in order.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn version(root: &Path) -> Option<String> {
    if let Some(text) = text(&below(root, "/sys/module/nvidia/version")) {
        return Some(text.trim().to_owned());
    }
    // `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ...`
    let text = text(&below(root, "/proc/driver/nvidia/version"))?;
    let words = text.lines().next()?.split_whitespace();
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    words.into_iter().find(is_version).map(str::to_owned)
}

fn nodes(root: &Path) -> BTreeSet<String> {
    let of = |dir: &str| {
        let names = names(&below(root, dir)).into_iter().filter(|name| name.starts_with("nvidia"));
        names.map(|name| format!("{dir}/{name}")).collect::<Vec<_>>()
    };
    let mut nodes: BTreeSet<String> = of("/dev").into_iter().chain(of("/dev/nvidia-caps")).collect();
    nodes.remove("/dev/nvidia-caps");
    nodes
}

/// The loader's folders: those of `ld.so.conf`, then the usual ones.
fn library_folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let conf = below(root, "/etc/ld.so.conf.d");
    let parts = names(&conf).into_iter().filter(|name| name.ends_with(".conf")).map(|name| conf.join(name));
    for file in std::iter::once(below(root, "/etc/ld.so.conf")).chain(parts) {
        let lines = text(&file).unwrap_or_default();
        let lines = lines.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        folders.extend(lines.filter(|line| line.starts_with('/')).map(|line| below(root, line)));
    }
    folders.truncate(MAX_FOLDERS);
    folders.extend(LIBRARY_FOLDERS.iter().map(|folder| root.join(folder)));
    folders
}

/// The file of this soname that belongs to the loaded kernel module; one of another version if there is no such.
fn library(folders: &[PathBuf], name: &str, version: Option<&str>) -> Option<Library> {
    let stem = name.split_once(".so").map_or(name, |(stem, _)| stem);
    let library = |file: PathBuf| {
        let file = fs::canonicalize(file).ok().filter(|file| file.is_file())?;
        Some(Library { name: name.to_owned(), file })
    };
    let of_version = version.map(|version| format!("{stem}.so.{version}"));
    let exact = folders.iter().filter_map(|folder| library(folder.join(of_version.as_deref()?))).next();
    exact.or_else(|| folders.iter().find_map(|folder| library(folder.join(name))))
}

fn binary(root: &Path, name: &str) -> Option<(String, PathBuf)> {
    let file = BINARY_FOLDERS.iter().find_map(|folder| {
        let path = fs::canonicalize(root.join(folder).join(name)).ok()?;
        path.is_file().then_some(path)
    })?;
    Some((name.to_owned(), file))
}
