//! Chooses the way for the GPUs of one task and says what it takes. Pure.

use super::{ApiVersion, EngineFacts, GpuInjection, HostDriver, Injection, cdi, mig};
use crate::domain::gpu::Gpu;
use crate::shim::check::CheckKind;
use bollard::models::DeviceRequest;
use std::collections::BTreeSet;

/// CDI came with Docker 25: <https://docs.docker.com/reference/api/engine/version-history/> (v1.44).
const CDI_SINCE: ApiVersion = ApiVersion(1, 44);
const NVIDIA_RUNTIME: &str = "nvidia";
const CUDA_LIBRARY: &str = "libcuda.so.1";
const CONTROL: &str = "/dev/nvidiactl";
const UVM: &str = "/dev/nvidia-uvm";
/// Given along where the node has them; not every program needs them.
const EXTRA_NODES: [&str; 2] = ["/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];
/// Where loaders look without being told, on Debian's descendants and on the others.
#[cfg(target_arch = "aarch64")]
const CONTAINER_LIBRARY_FOLDERS: [&str; 2] = ["/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
#[cfg(not(target_arch = "aarch64"))]
const CONTAINER_LIBRARY_FOLDERS: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"];

/// Why GPUs cannot get into a container here. Never the user's mistake: the operator chose the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectionError {
    #[error(
        "gpu_injection = \"cdi\" needs Docker 25 (API {CDI_SINCE}): this node's is {version} (API {api}); use \
         \"nvidia-runtime\" or \"device-nodes\", or a newer Docker"
    )]
    CdiTooOld { version: String, api: ApiVersion },
    #[error(
        "gpu_injection = \"cdi\": CDI is switched off in this node's Docker {version}: set \"features\": {{\"cdi\": true}} in \
         its daemon.json"
    )]
    CdiOff { version: String },
    #[error(
        "gpu_injection = \"cdi\": no CDI specification of {} names GPU {gpu}; 'nvidia-ctk cdi generate' writes one; named \
         are: {listed}",
        cdi::KIND
    )]
    NotInCdi { gpu: String, listed: String },
    #[error("gpu_injection = \"nvidia-runtime\": this node's Docker has no runtime 'nvidia', only {listed}")]
    NoNvidiaRuntime { listed: String },
    #[error("device node {path} of GPU {gpu} is not on this node; 'nvidia-modprobe -u -c {minor}' makes it")]
    NoNode { path: String, gpu: String, minor: u32 },
    #[error(
        "the capability files of MIG slice {gpu} are not known, so it cannot be given to a container by device nodes"
    )]
    UnknownMigSlice { gpu: String },
    #[error("the driver's library {CUDA_LIBRARY} is not on this node, so its GPUs are of no use in a container")]
    NoLibrary,
    #[error(
        "the driver's library is {library}, but its kernel module is {module}: reload the module or reboot the node"
    )]
    VersionMismatch { library: String, module: String },
}

/// What the container of a task with these GPUs needs.
pub fn plan(
    choice: GpuInjection,
    engine: &EngineFacts,
    driver: &HostDriver,
    gpus: &[Gpu],
) -> Result<Injection, InjectionError> {
    if gpus.is_empty() {
        return Ok(none(engine));
    }
    let injection = match choice {
        GpuInjection::Cdi => by_cdi(engine, driver, gpus)?,
        GpuInjection::NvidiaRuntime => by_runtime(engine, driver, gpus)?,
        GpuInjection::DeviceNodes => by_nodes(engine, driver, gpus)?,
        GpuInjection::Auto => match by_cdi(engine, driver, gpus) {
            Ok(injection) => injection,
            Err(_) if engine.runtimes.contains(NVIDIA_RUNTIME) => by_runtime(engine, driver, gpus)?,
            Err(_) => by_nodes(engine, driver, gpus)?,
        },
    };
    Ok(Injection { checks: checks(driver, gpus), ..injection })
}

/// For simulated GPUs: nothing to give, said visibly.
pub fn simulated(engine: &EngineFacts) -> Injection {
    let notice = "the GPUs of this node are simulated: the container gets none".to_owned();
    Injection { notices: vec![notice], ..none(engine) }
}

/// No GPU, whatever the image asks for.
fn none(engine: &EngineFacts) -> Injection {
    Injection { runtime: plain_runtime(engine), environment: hidden(), ..Injection::default() }
}

/// The NVIDIA runtime gives a container what this variable of it says; `void` is nothing at all.
fn hidden() -> Vec<(String, String)> {
    vec![("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned())]
}

/// Where the default runtime is NVIDIA's, the ordinary one by name.
fn plain_runtime(engine: &EngineFacts) -> Option<String> {
    let other = engine.default_runtime == NVIDIA_RUNTIME && engine.runtimes.contains("runc");
    other.then(|| "runc".to_owned())
}

fn by_cdi(engine: &EngineFacts, driver: &HostDriver, gpus: &[Gpu]) -> Result<Injection, InjectionError> {
    let version = || engine.version.clone();
    if engine.api < CDI_SINCE {
        return Err(InjectionError::CdiTooOld { version: version(), api: engine.api });
    }
    if engine.cdi_dirs.is_empty() {
        return Err(InjectionError::CdiOff { version: version() });
    }
    // Names by UUID cannot go stale when devices are counted anew; nvidia-ctk writes numbers unless told otherwise.
    let name = |gpu: &Gpu| {
        let mut names = vec![gpu.uuid.0.clone()];
        if gpu.mig_parent.is_none() {
            names.push(gpu.index.to_string());
        }
        let found = names.into_iter().find(|name| driver.cdi_devices.contains(name));
        let listed = || driver.cdi_devices.iter().cloned().collect::<Vec<_>>().join(", ");
        let found = found.ok_or_else(|| InjectionError::NotInCdi { gpu: gpu.uuid.0.clone(), listed: listed() })?;
        Ok(format!("{}={found}", cdi::KIND))
    };
    let device_ids = gpus.iter().map(name).collect::<Result<Vec<_>, _>>()?;
    let request =
        DeviceRequest { driver: Some("cdi".to_owned()), device_ids: Some(device_ids), ..DeviceRequest::default() };
    Ok(Injection {
        runtime: plain_runtime(engine),
        device_requests: vec![request],
        // CDI gives the devices; a hook must not give others beside.
        environment: hidden(),
        ..Injection::default()
    })
}

fn by_runtime(engine: &EngineFacts, driver: &HostDriver, gpus: &[Gpu]) -> Result<Injection, InjectionError> {
    if !engine.runtimes.contains(NVIDIA_RUNTIME) {
        let listed = engine.runtimes.iter().cloned().collect::<Vec<_>>().join(", ");
        return Err(InjectionError::NoNvidiaRuntime { listed });
    }
    let uuids = gpus.iter().map(|gpu| gpu.uuid.0.as_str()).collect::<Vec<_>>().join(",");
    Ok(Injection {
        // Named to dockerd too: systemd forgets what only the runtime's hook has allowed at its next daemon-reload
        // (NVIDIA/nvidia-container-toolkit#48).
        devices: nodes(driver, gpus)?,
        runtime: Some(NVIDIA_RUNTIME.to_owned()),
        environment: std::iter::once(("NVIDIA_VISIBLE_DEVICES".to_owned(), uuids)).chain(only_gpus()).collect(),
        default_environment: vec![("NVIDIA_DRIVER_CAPABILITIES".to_owned(), "compute,utility".to_owned())],
        ..Injection::default()
    })
}

/// An image or job could ask the runtime's hook for more devices of the node by these.
fn only_gpus() -> impl Iterator<Item = (String, String)> {
    let off = ["NVIDIA_GDS", "NVIDIA_MOFED", "NVIDIA_NVSWITCH", "NVIDIA_GDRCOPY"].map(|name| (name, "disabled"));
    let none =
        ["NVIDIA_IMEX_CHANNELS", "NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES"].map(|name| (name, ""));
    off.into_iter().chain(none).map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn by_nodes(engine: &EngineFacts, driver: &HostDriver, gpus: &[Gpu]) -> Result<Injection, InjectionError> {
    let cuda = driver.library(CUDA_LIBRARY).ok_or(InjectionError::NoLibrary)?;
    let file = cuda.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let (Some(module), Some(library)) = (&driver.version, file.strip_prefix("libcuda.so."))
        && library.contains('.')
        && library != module
    {
        return Err(InjectionError::VersionMismatch { library: library.to_owned(), module: module.clone() });
    }
    let libraries = driver.libraries.iter().flat_map(|library| {
        CONTAINER_LIBRARY_FOLDERS.iter().map(|folder| (library.file.clone(), format!("{folder}/{}", library.name)))
    });
    let binaries = driver.binaries.iter().map(|(name, file)| (file.clone(), format!("/usr/bin/{name}")));
    Ok(Injection {
        devices: nodes(driver, gpus)?,
        binds: libraries.chain(binaries).collect(),
        runtime: plain_runtime(engine),
        environment: hidden(),
        ..Injection::default()
    })
}

fn node_of(gpu: &Gpu) -> String {
    format!("/dev/nvidia{}", gpu.minor)
}

/// Nodes that no program gets along without, each of them on the node.
fn needed(driver: &HostDriver, gpus: &[Gpu]) -> Result<Vec<String>, InjectionError> {
    let mut nodes = Vec::new();
    for gpu in gpus {
        let uuid = || gpu.uuid.0.clone();
        let mut own = vec![node_of(gpu), CONTROL.to_owned(), UVM.to_owned()];
        if gpu.mig_parent.is_some() {
            own.extend(mig::nodes(driver, gpu).ok_or_else(|| InjectionError::UnknownMigSlice { gpu: uuid() })?);
        }
        if let Some(path) = own.iter().find(|path| !driver.nodes.contains(*path)) {
            return Err(InjectionError::NoNode { path: path.clone(), gpu: uuid(), minor: gpu.minor });
        }
        nodes.extend(own);
    }
    nodes.sort();
    nodes.dedup();
    Ok(nodes)
}

fn nodes(driver: &HostDriver, gpus: &[Gpu]) -> Result<Vec<String>, InjectionError> {
    let mut nodes = needed(driver, gpus)?;
    nodes.extend(EXTRA_NODES.iter().filter(|path| driver.nodes.contains(**path)).map(|path| (*path).to_owned()));
    Ok(nodes)
}

/// What the shim must find in the container.
fn checks(driver: &HostDriver, gpus: &[Gpu]) -> Vec<(CheckKind, String)> {
    let sorted = |nodes: Vec<String>| nodes.into_iter().collect::<BTreeSet<_>>().into_iter();
    let nodes = sorted(gpus.iter().map(node_of).chain([CONTROL.to_owned(), UVM.to_owned()]).collect());
    let slices = gpus.iter().filter(|gpu| gpu.mig_parent.is_some());
    // Capability files of slices open for reading only, also for root; with CDI and the NVIDIA runtime they may be
    // unknown here, then the device's node stands for the slice.
    let capabilities = sorted(slices.filter_map(|gpu| mig::nodes(driver, gpu)).flatten().collect());
    let files = capabilities.chain([CUDA_LIBRARY.to_owned()]).map(|path| (CheckKind::Library, path));
    nodes.map(|path| (CheckKind::DeviceNode, path)).chain(files).collect()
}
