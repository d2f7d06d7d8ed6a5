//! What NVML says is what is told.

use crate::mock::{Mock, devices};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use wharf::domain::gpu::{DriverState, GpuHealth, GpuSample, LinkKind, MigSlice};
use wharf::gpu::GpuSource;

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_field_of_eight_h100_is_told() {
    let mut mock = Mock::new("8xH100.json");
    mock.put("sys/bus/pci/devices/0000:9d:00.0/numa_node", "1\n");
    mock.change(|state| {
        let busy = &mut state["devices"][4];
        busy["memory_used_mb"] = json!(70_123);
        busy["utilization"] = json!(98);
        busy["ecc_errors"] = json!(3);
    });
    let gpus = mock.gpus();
    let (devices, topology) = gpus.devices().await.unwrap();
    assert_eq!(devices.len(), 8);
    for (gpu, told) in devices.iter().zip(mock.state["devices"].as_array().unwrap()) {
        assert_eq!(gpu.uuid.0, text(&told["uuid"]));
        assert_eq!((gpu.pci.clone(), gpu.model.clone()), (text(&told["pci"]), text(&told["name"])));
        assert_eq!((gpu.minor, gpu.memory_mb, gpu.gpu_type.as_str()), (gpu.index, 81_559, "H100"));
        assert_eq!((gpu.ecc, gpu.mig_mode, &gpu.mig), (Some(true), Some(false), &None));
    }
    assert_eq!((devices[4].numa_node, devices[0].numa_node), (Some(1), None));
    let kinds: BTreeSet<LinkKind> = topology.links.iter().map(|link| link.kind).collect();
    assert_eq!((topology.links.len(), kinds), (28, BTreeSet::from([LinkKind::NvLink { lanes: 18 }])));
    let samples = gpus.samples().await.unwrap();
    assert_eq!(samples.len(), 8);
    let expected = GpuSample {
        memory_used_mb: Some(70_123),
        utilization: Some(98),
        temperature_c: Some(27),
        power_w: Some(71),
        power_limit_w: Some(700),
        sm_clock_mhz: Some(345),
        memory_clock_mhz: Some(2619),
        ecc_errors: Some(3),
        pstate: Some(0),
        fan_percent: None,
        health: GpuHealth::Ok,
    };
    assert_eq!(samples[4], (devices[4].uuid.clone(), expected));
    let driver = gpus.driver();
    assert_eq!((driver.state, driver.sentence), (DriverState::Ok, None));
    assert_eq!(driver.driver_version.as_deref(), Some("580.95.05"));
    assert_eq!(driver.cuda_version.as_deref(), Some("13.0"));
    assert_eq!(driver.nvml_version.as_deref(), Some("13.580.95.05"));
}

#[tokio::test]
async fn what_a_board_cannot_say_is_null() {
    let mut mock = Mock::new("2xTITANX.json");
    let gpus = mock.gpus();
    let (devices, topology) = gpus.devices().await.unwrap();
    let facts: Vec<_> = devices.iter().map(|gpu| (gpu.gpu_type.as_str(), gpu.ecc, gpu.mig_mode)).collect();
    assert_eq!(facts, [("TITANX", None, None); 2]);
    assert_eq!(topology.between(&devices[0].uuid, &devices[1].uuid), LinkKind::NumaNode);
    let (_, sample) = &gpus.samples().await.unwrap()[1];
    assert_eq!((sample.ecc_errors, sample.fan_percent, sample.power_w), (None, Some(23), Some(10)));
    assert_eq!(sample.health, GpuHealth::Ok);
    mock.change(|state| {
        for name in ["memory_mb", "utilization", "temperature_c", "power_mw", "power_limit_mw", "fan_percent"] {
            state["devices"][1][name] = json!(null);
        }
        for name in ["sm_clock_mhz", "memory_clock_mhz", "pstate", "processes"] {
            state["devices"][1][name] = json!(null);
        }
    });
    let (_, sample) = &gpus.samples().await.unwrap()[1];
    assert_eq!(*sample, GpuSample::default(), "nothing is known, and nothing is wrong");
    let processes = gpus.processes(&[]).await.unwrap();
    assert_eq!(processes.unsupported, BTreeSet::from([devices[1].uuid.clone()]));
}

#[tokio::test]
async fn mig_slices_are_gpus_of_their_own() {
    let mut mock = Mock::new("MIG-A100.json");
    mock.put("proc/driver/nvidia/capabilities/gpu0/mig/gi7/access", "DeviceFileMinor: 66\n");
    mock.put("proc/driver/nvidia/capabilities/gpu0/mig/gi7/ci0/access", "DeviceFileMinor: 67\n");
    mock.put("sys/bus/pci/devices/0000:07:00.0/numa_node", "0\n");
    let own = std::process::id();
    mock.change(|state| {
        state["devices"][0]["processes"] = json!([
            {"pid": own, "memory_mb": 900, "gpu_instance": 7, "compute_instance": 0},
            {"pid": own, "memory_mb": null},
        ]);
    });
    let gpus = mock.gpus();
    let (devices, topology) = gpus.devices().await.unwrap();
    let shown: Vec<_> = devices.iter().map(|gpu| (gpu.gpu_type.as_str(), gpu.index, gpu.memory_mb)).collect();
    let slices = [("A100-3g.40gb", 0, 40_192), ("A100-1g.10gb", 0, 9_728), ("A100-1g.10gb", 0, 9_728)];
    assert_eq!(shown, [[("A100", 0, 81_920)].as_slice(), &slices, &[("A100", 1, 81_920)]].concat());
    let slice = &devices[2];
    assert_eq!((slice.mig_parent.as_ref(), slice.mig_mode), (Some(&devices[0].uuid), None));
    assert_eq!((slice.pci.as_str(), slice.minor, slice.numa_node), ("00000000:07:00.0", 0, Some(0)));
    let expected = MigSlice {
        index: 1,
        gpu_instance: 7,
        compute_instance: 0,
        profile: "1g.10gb".to_owned(),
        gpu_instance_minor: Some(66),
        compute_instance_minor: Some(67),
    };
    assert_eq!(slice.mig, Some(expected));
    assert_eq!(devices[0].mig_mode, Some(true));
    assert_eq!(topology.between(&devices[0].uuid, &devices[4].uuid), LinkKind::NvLink { lanes: 12 });
    let samples = gpus.samples().await.unwrap();
    assert!(samples.iter().map(|(uuid, _)| uuid).eq(devices.iter().map(|gpu| &gpu.uuid)), "one for each");
    assert_eq!((samples[2].1.memory_used_mb, samples[2].1.power_w), (Some(12), None));
    let found = gpus.processes(&[]).await.unwrap().processes;
    let on: BTreeSet<_> = found.iter().map(|process| (process.gpu.clone(), process.memory_mb)).collect();
    let expected = [(slice.uuid.clone(), Some(900)), (devices[0].uuid.clone(), None)];
    assert_eq!(on, BTreeSet::from(expected), "where the driver does not say the slice, it is the device");
    let other = gpus.processes(std::slice::from_ref(&devices[4].uuid)).await.unwrap();
    assert_eq!(other.processes, []);
}

#[tokio::test]
async fn processes_are_told_with_command_and_those_that_ended_are_not() {
    let mut mock = Mock::new("2xTITANX.json");
    let own = std::process::id();
    mock.change(|state| {
        state["devices"][0]["processes"] =
            json!([{"pid": own, "memory_mb": 500}, {"pid": own, "kind": "graphics", "memory_mb": 500}]);
    });
    let gpus = mock.gpus();
    let devices = devices(&gpus).await;
    let found = gpus.processes(&[]).await.unwrap();
    assert_eq!((found.processes.len(), found.unsupported.len(), found.failed.len()), (1, 0, 0));
    let process = &found.processes[0];
    assert_eq!((&process.gpu, process.pid, process.memory_mb), (&devices[0].uuid, own, Some(500)));
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    // The name of the whole process, not of this thread.
    let comm = std::fs::read_to_string(format!("/proc/{own}/comm")).unwrap_or(comm);
    assert_eq!(process.command.as_deref(), Some(comm.trim_end()));
    let unknown = gpus.processes(&["GPU-none".into()]).await.unwrap();
    assert_eq!(unknown.failed.len(), 1, "who is on an unknown GPU is not 'nobody'");
}
