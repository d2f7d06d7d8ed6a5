//! Ways for GPUs, from a tree of files that looks like a node with a driver.

use super::*;
use crate::domain::gpu::{Gpu, MigSlice};
use crate::domain::ids::GpuUuid;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const VERSION: &str = "550.54.15";

fn write(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// A node with two GPUs and the driver's files, as Debian's packages lay them.
fn node() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "sys/module/nvidia/version", &format!("{VERSION}\n"));
    for node in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "null"] {
        write(root, &format!("dev/{node}"), "");
    }
    let folder = "usr/lib/x86_64-linux-gnu";
    for stem in ["libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler"] {
        write(root, &format!("{folder}/{stem}.so.{VERSION}"), "");
        symlink(format!("{stem}.so.{VERSION}"), root.join(folder).join(format!("{stem}.so.1"))).unwrap();
    }
    // Left over from an older driver.
    write(root, &format!("{folder}/libcuda.so.470.1.1"), "");
    write(root, "usr/bin/nvidia-smi", "");
    dir
}

fn mig_minors(root: &Path) {
    let lines = "config 1\nmonitor 2\ngpu1/gi2/access 12\ngpu1/gi2/ci0/access 13\ngpu1/gi3/access 14\n";
    write(root, "proc/driver/nvidia-caps/mig-minors", lines);
    write(root, "dev/nvidia-caps/nvidia-cap12", "");
    write(root, "dev/nvidia-caps/nvidia-cap13", "");
}

fn gpu(minor: u32) -> Gpu {
    Gpu {
        uuid: GpuUuid(format!("GPU-{minor}")),
        // The driver counts otherwise than the nodes.
        index: 1 - minor,
        minor,
        model: "NVIDIA H100".into(),
        gpu_type: "H100".into(),
        memory_mb: 80_000,
        pci: "00000000:1B:00.0".into(),
        numa_node: None,
        mig_parent: None,
        ..Gpu::default()
    }
}

fn slice(uuid: &str) -> Gpu {
    Gpu { uuid: uuid.into(), mig_parent: Some("GPU-1".into()), ..gpu(1) }
}

fn engine(api: ApiVersion, runtimes: &[&str], default: &str) -> EngineFacts {
    EngineFacts {
        version: if api.1 < 44 { "20.10.24" } else { "28.1" }.into(),
        api,
        runtimes: runtimes.iter().map(|name| (*name).to_owned()).collect(),
        default_runtime: default.into(),
        ..EngineFacts::default()
    }
}

fn old() -> EngineFacts {
    engine(ApiVersion(1, 41), &["runc"], "runc")
}

/// With CDI on.
fn new() -> EngineFacts {
    EngineFacts { cdi_dirs: vec!["/etc/cdi".into()], ..engine(ApiVersion(1, 48), &["runc", "nvidia"], "runc") }
}

fn set(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn visible(injection: &Injection) -> &str {
    let entry = injection.environment.iter().find(|(name, _)| name == "NVIDIA_VISIBLE_DEVICES");
    entry.map_or("-", |(_, value)| value)
}

#[test]
fn the_driver_is_found_by_its_files() {
    let dir = node();
    let driver = HostDriver::probe(dir.path(), &[]);
    assert_eq!(driver.version.as_deref(), Some(VERSION));
    let nodes: Vec<&str> = driver.nodes.iter().map(String::as_str).collect();
    assert_eq!(nodes, ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"]);
    let names: Vec<&str> = driver.libraries.iter().map(|library| library.name.as_str()).collect();
    assert_eq!(names, ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"]);
    let cuda = &driver.library("libcuda.so.1").unwrap().file;
    assert!(cuda.ends_with(format!("usr/lib/x86_64-linux-gnu/libcuda.so.{VERSION}")), "{cuda:?}");
    assert_eq!(driver.binaries.len(), 1);
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(HostDriver::probe(nothing.path(), &[]), HostDriver::default());
}

#[test]
fn the_version_is_read_from_proc_and_libraries_from_the_loaders_folders_too() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.1  Release Build\nGCC version: 12.2.0\n";
    write(root, "proc/driver/nvidia/version", text);
    write(root, "etc/ld.so.conf.d/nvidia.conf", "# its own folder\n/opt/driver/lib64 # here\n");
    write(root, "opt/driver/lib64/libcuda.so.570.1", "");
    let driver = HostDriver::probe(root, &[]);
    assert_eq!(driver.version.as_deref(), Some("570.1"));
    assert!(driver.library("libcuda.so.1").is_some());
}

#[test]
fn a_task_without_gpus_gets_none_whatever_dockerd_does_by_default() {
    let driver = HostDriver::default();
    for choice in GpuInjection::ALL {
        let injection = plan(choice, &old(), &driver, &[]).unwrap();
        assert_eq!(visible(&injection), "void");
        assert_eq!(Injection { environment: Vec::new(), ..injection }, Injection::default());
    }
    let nvidia = engine(ApiVersion(1, 41), &["runc", "nvidia"], "nvidia");
    let injection = plan(GpuInjection::Auto, &nvidia, &driver, &[]).unwrap();
    assert_eq!((visible(&injection), injection.runtime.as_deref()), ("void", Some("runc")));
    let played = simulated(&old());
    assert!(played.checks.is_empty() && played.devices.is_empty() && played.notices[0].contains("simulated"));
}

#[test]
fn device_nodes_come_with_libraries_and_checks() {
    let dir = node();
    let driver = HostDriver::probe(dir.path(), &[]);
    let injection = plan(GpuInjection::DeviceNodes, &old(), &driver, &[gpu(1)]).unwrap();
    assert_eq!(
        injection.devices,
        set(&["/dev/nvidia-uvm", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm-tools"])
    );
    assert_eq!((visible(&injection), &injection.runtime), ("void", &None));
    assert!(injection.device_requests.is_empty());
    let targets: Vec<&str> = injection.binds.iter().map(|(_, target)| target.as_str()).collect();
    for folder in ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"] {
        assert!(
            cfg!(not(target_arch = "x86_64")) || targets.contains(&&*format!("{folder}/libcuda.so.1")),
            "{targets:?}"
        );
    }
    assert!(targets.contains(&"/usr/bin/nvidia-smi"));
    assert!(injection.binds.iter().all(|(source, _)| source.is_file() && !source.is_symlink()));
    let node = |path: &str| (CheckKind::DeviceNode, path.to_owned());
    let library = (CheckKind::Library, "libcuda.so.1".to_owned());
    assert_eq!(injection.checks, [node("/dev/nvidia-uvm"), node("/dev/nvidia1"), node("/dev/nvidiactl"), library]);
}

#[test]
fn what_is_missing_on_the_node_is_named() {
    let dir = node();
    let take = |path: &str| fs::remove_file(dir.path().join(path)).unwrap();
    let plan = || plan(GpuInjection::Auto, &old(), &HostDriver::probe(dir.path(), &[]), &[gpu(0)]);
    take("dev/nvidia-uvm");
    let error = plan().unwrap_err().to_string();
    assert!(error.contains("/dev/nvidia-uvm") && error.contains("nvidia-modprobe"), "{error}");
    write(dir.path(), "dev/nvidia-uvm", "");
    take("dev/nvidia0");
    assert!(plan().unwrap_err().to_string().contains("/dev/nvidia0"));
    write(dir.path(), "dev/nvidia0", "");
    take(&format!("usr/lib/x86_64-linux-gnu/libcuda.so.{VERSION}"));
    assert_eq!(plan(), Err(InjectionError::NoLibrary));
    symlink("libcuda.so.470.1.1", dir.path().join("usr/lib/x86_64-linux-gnu/libcuda.so")).unwrap();
    fs::remove_file(dir.path().join("usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap();
    symlink("libcuda.so.470.1.1", dir.path().join("usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap();
    let error = plan().unwrap_err().to_string();
    assert!(error.contains("470.1.1") && error.contains(VERSION), "{error}");
}

#[test]
fn slices_need_their_capability_files() {
    let dir = node();
    mig_minors(dir.path());
    let driver = HostDriver::probe(dir.path(), &[]);
    let plan_of = |driver: &HostDriver, gpu: Gpu| plan(GpuInjection::DeviceNodes, &old(), driver, &[gpu]);
    let old_name = plan_of(&driver, slice("MIG-GPU-1/2/0")).unwrap();
    let told = |gi_minor, ci_minor| Gpu {
        mig: Some(MigSlice {
            gpu_instance: 2,
            gpu_instance_minor: gi_minor,
            compute_instance_minor: ci_minor,
            ..MigSlice::default()
        }),
        ..slice("MIG-a")
    };
    let plan_told = |gpu: Gpu| plan_of(&driver.clone().with_mig(std::slice::from_ref(&gpu)), gpu);
    let new_name = plan_told(told(None, None)).unwrap();
    assert_eq!(old_name, new_name);
    // NVML's word goes before the files'.
    assert_eq!(plan_told(told(Some(13), Some(12))).unwrap().devices, old_name.devices);
    let error = plan_told(told(Some(12), Some(99))).unwrap_err().to_string();
    assert!(error.contains("/dev/nvidia-caps/nvidia-cap99"), "{error}");
    let bare = HostDriver { mig_minors: std::collections::BTreeMap::new(), ..driver.clone() };
    let gpu = told(Some(12), Some(13));
    let without_files = plan_of(&bare.with_mig(std::slice::from_ref(&gpu)), gpu).unwrap();
    assert_eq!(without_files, old_name);
    for minor in [12, 13] {
        let path = format!("/dev/nvidia-caps/nvidia-cap{minor}");
        assert!(new_name.devices.contains(&path));
        assert!(new_name.checks.contains(&(CheckKind::Library, path)));
    }
    let unknown = plan_of(&driver, slice("MIG-a")).unwrap_err();
    assert_eq!(unknown, InjectionError::UnknownMigSlice { gpu: "MIG-a".into() });
    // Listed, but its compute instance is not.
    assert!(plan_of(&driver, slice("MIG-GPU-1/3/0")).is_err());
    fs::remove_file(dir.path().join("dev/nvidia-caps/nvidia-cap13")).unwrap();
    let error = plan_of(&HostDriver::probe(dir.path(), &[]), slice("MIG-GPU-1/2/0")).unwrap_err().to_string();
    assert!(error.contains("nvidia-cap13"), "{error}");
}

#[test]
fn older_drivers_have_a_file_for_each_slice() {
    let dir = node();
    let file = |path: &str, minor| {
        let text = format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n");
        write(dir.path(), &format!("proc/driver/nvidia/capabilities/gpu1/mig/{path}/access"), &text);
    };
    file("gi2", 12);
    file("gi2/ci0", 13);
    let minors = HostDriver::probe(dir.path(), &[]).mig_minors;
    let want = [("gpu1/gi2/access".to_owned(), 12), ("gpu1/gi2/ci0/access".to_owned(), 13)];
    assert_eq!(minors, want.into());
}

#[test]
fn the_runtime_gets_uuids_and_dockerd_the_nodes() {
    let dir = node();
    let driver = HostDriver::probe(dir.path(), &[]);
    let engine = engine(ApiVersion(1, 41), &["runc", "nvidia"], "nvidia");
    let injection = plan(GpuInjection::NvidiaRuntime, &engine, &driver, &[gpu(0), gpu(1)]).unwrap();
    assert_eq!((visible(&injection), injection.runtime.as_deref()), ("GPU-0,GPU-1", Some("nvidia")));
    assert!(injection.devices.contains(&"/dev/nvidia0".to_owned()) && injection.binds.is_empty());
    assert_eq!(injection.checks.len(), 5);
    let error = plan(GpuInjection::NvidiaRuntime, &old(), &driver, &[gpu(0)]).unwrap_err().to_string();
    assert!(error.contains("nvidia-runtime") && error.contains("runc"), "{error}");
}

#[test]
fn cdi_is_asked_for_by_name() {
    let dir = node();
    write(dir.path(), "etc/cdi/nvidia.yaml", "kind: nvidia.com/gpu\ndevices:\n- name: \"1\"\n- name: GPU-1\n");
    let driver = HostDriver::probe(dir.path(), &[]);
    let injection = plan(GpuInjection::Cdi, &new(), &driver, &[gpu(0), gpu(1)]).unwrap();
    let body = serde_json::to_value(&injection.device_requests).unwrap();
    let ids = ["nvidia.com/gpu=1", "nvidia.com/gpu=GPU-1"];
    assert_eq!(body, serde_json::json!([{"Driver": "cdi", "DeviceIDs": ids}]));
    assert!(injection.devices.is_empty() && injection.binds.is_empty() && injection.runtime.is_none());
    assert_eq!((visible(&injection), injection.checks.len()), ("void", 5));
    let error = plan(GpuInjection::Cdi, &new(), &driver, &[slice("MIG-a")]).unwrap_err().to_string();
    assert!(error.contains("MIG-a") && error.contains("GPU-1"), "{error}");
}

#[test]
fn cdi_is_refused_by_older_docker_with_a_sentence() {
    let error = plan(GpuInjection::Cdi, &old(), &HostDriver::default(), &[gpu(0)]).unwrap_err().to_string();
    assert!(["Docker 25", "1.44", "20.10.24", "1.41"].iter().all(|text| error.contains(text)), "{error}");
    let off = engine(ApiVersion(1, 45), &["runc"], "runc");
    let error = plan(GpuInjection::Cdi, &off, &HostDriver::default(), &[gpu(0)]).unwrap_err().to_string();
    assert!(error.contains("switched off"), "{error}");
}

#[test]
fn auto_takes_the_first_way_that_there_is() {
    let dir = node();
    let bare = HostDriver::probe(dir.path(), &[]);
    write(dir.path(), "etc/cdi/nvidia.json", r#"{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-0"}]}"#);
    let with_cdi = HostDriver::probe(dir.path(), &[]);
    let way = |engine: &EngineFacts, driver: &HostDriver| {
        let injection = plan(GpuInjection::Auto, engine, driver, &[gpu(0)]).unwrap();
        match (injection.device_requests.is_empty(), injection.runtime.as_deref()) {
            (false, None) => "cdi",
            (true, Some("nvidia")) => "nvidia-runtime",
            (true, None) => "device-nodes",
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(way(&new(), &with_cdi), "cdi");
    assert_eq!(way(&new(), &bare), "nvidia-runtime");
    assert_eq!(way(&old(), &with_cdi), "device-nodes");
}

#[test]
fn choices_are_read_as_they_are_written() {
    for choice in GpuInjection::ALL {
        assert_eq!(GpuInjection::parse(choice.as_str()), Some(choice));
        assert_eq!(serde_json::to_value(choice).unwrap(), choice.as_str());
    }
    assert_eq!(GpuInjection::parse("CDI"), None);
}

#[test]
fn images_cannot_ask_the_runtimes_hook_for_more() {
    let dir = node();
    let driver = HostDriver::probe(dir.path(), &[]);
    let engine = engine(ApiVersion(1, 41), &["runc", "nvidia"], "runc");
    let injection = plan(GpuInjection::NvidiaRuntime, &engine, &driver, &[gpu(0)]).unwrap();
    for (name, value) in [("NVIDIA_MOFED", "disabled"), ("NVIDIA_NVSWITCH", "disabled"), ("NVIDIA_IMEX_CHANNELS", "")]
    {
        assert!(injection.environment.contains(&(name.to_owned(), value.to_owned())), "{name}");
    }
}
