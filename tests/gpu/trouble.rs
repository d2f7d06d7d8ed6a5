//! Everything that goes wrong below NVML: each a clear state, the rest usable, mended without a restart.

use crate::mock::{Mock, devices, eventually, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use wharf::domain::gpu::{DriverState, GpuHealth};
use wharf::gpu::GpuSource;
use wharf::gpu::nvml::NvmlGpus;

fn state(gpus: &NvmlGpus) -> (DriverState, String) {
    let driver = gpus.driver();
    (driver.state, driver.sentence.unwrap_or_default())
}

async fn until_devices(gpus: &NvmlGpus, count: usize) {
    let what = format!("{count} devices");
    eventually(&what, async || gpus.devices().await.ok().filter(|(found, _)| found.len() == count)).await;
    assert_eq!(state(gpus), (DriverState::Ok, String::new()));
}

#[tokio::test]
async fn the_file_for_unified_memory_is_asked_for_once_per_load_of_the_driver() {
    use std::os::unix::fs::PermissionsExt;
    let mut mock = Mock::new("2xTITANX.json");
    let (program, log) = (mock.root().join("nvidia-modprobe"), mock.root().join("log"));
    mock.put("nvidia-modprobe", &format!("#!/bin/sh\necho \"$@\" >> {}\nexit 1\n", log.display()));
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let asked = |times: usize| {
        let (log, what) = (log.clone(), format!("{times} calls"));
        async move {
            let text = || std::fs::read_to_string(&log).unwrap_or_default();
            eventually(&what, async || (text().lines().count() >= times).then_some(())).await;
            assert_eq!(text(), "-u -c 0\n".repeat(times));
        }
    };
    let gpus = mock.gpus();
    devices(&gpus).await;
    asked(1).await;
    kill(Pid::from_raw(mock.workers()[0]), Signal::SIGKILL).unwrap();
    eventually("a new worker", async || gpus.samples().await.ok()).await;
    mock.fail("nvmlInit_v2", "DRIVER_NOT_LOADED");
    kill(Pid::from_raw(mock.workers()[0]), Signal::SIGKILL).unwrap();
    eventually("the driver is gone", async || gpus.samples().await.err()).await;
    mock.mend();
    devices(&gpus).await;
    asked(2).await;
}

#[tokio::test]
async fn a_library_that_is_missing_is_found_when_it_comes() {
    let mock = Mock::new("2xTITANX.json");
    let mut options = mock.options();
    let path = mock.root().join("libnvidia-ml.so.1");
    options.library = Some(path.clone());
    let gpus = NvmlGpus::new(options).unwrap();
    let error = gpus.devices().await.unwrap_err().to_string();
    assert!(error.contains("libnvidia-ml.so.1 cannot be loaded"), "{error}");
    assert_eq!(state(&gpus).0, DriverState::NoLibrary);
    assert!(gpus.samples().await.is_err() && gpus.processes(&[]).await.is_err());
    std::os::unix::fs::symlink(library(), path).unwrap();
    until_devices(&gpus, 2).await;
}

#[tokio::test]
async fn without_a_trace_of_a_driver_there_are_no_gpus_and_that_is_fine() {
    let mock = Mock::new("2xTITANX.json");
    let mut options = mock.options();
    (options.insist, options.library) = (false, Some("/nonexistent/libnvidia-ml.so.1".into()));
    let gpus = NvmlGpus::new(options.clone()).unwrap();
    assert_eq!(gpus.devices().await.unwrap().0, []);
    assert_eq!(gpus.samples().await.unwrap(), []);
    assert_eq!(state(&gpus).0, DriverState::None);
    mock.put("sys/bus/pci/devices/0000:02:00.0/vendor", "0x10de\n");
    mock.put("sys/bus/pci/devices/0000:02:00.0/class", "0x030000\n");
    let gpus = NvmlGpus::new(options).unwrap();
    assert!(gpus.devices().await.is_err(), "there is a GPU and no library for it");
    assert_eq!(state(&gpus).0, DriverState::NoLibrary);
}

#[tokio::test]
async fn what_keeps_the_driver_shut_is_told_and_tried_again() {
    for (error, expected, word) in [
        ("DRIVER_NOT_LOADED", DriverState::DriverNotLoaded, "modprobe"),
        ("LIB_RM_VERSION_MISMATCH", DriverState::VersionMismatch, "(580.1)"),
        ("INSUFFICIENT_RESOURCES", DriverState::Failed, "NVML cannot be initialised"),
    ] {
        let mut mock = Mock::new("2xTITANX.json");
        mock.put("sys/module/nvidia/version", "580.1\n");
        mock.fail("nvmlInit_v2", error);
        let gpus = mock.gpus();
        assert!(gpus.devices().await.is_err());
        let (found, sentence) = state(&gpus);
        assert_eq!(found, expected, "{sentence}");
        assert!(sentence.contains(word), "{sentence}");
        mock.mend();
        until_devices(&gpus, 2).await;
    }
}

#[tokio::test]
async fn a_driver_that_hangs_at_the_start_is_left_and_found_again() {
    let mut mock = Mock::new("2xTITANX.json");
    mock.change(|state| state["hangs"] = json!(["nvmlInit_v2"]));
    let mut options = mock.options();
    options.deadlines.open = std::time::Duration::from_millis(300);
    let gpus = NvmlGpus::new(options).unwrap();
    assert!(gpus.devices().await.is_err());
    assert_eq!(state(&gpus).0, DriverState::Hung);
    mock.mend();
    eventually("the devices", async || gpus.devices().await.ok()).await;
}

#[tokio::test]
async fn one_sick_gpu_of_eight_leaves_seven() {
    let mut mock = Mock::new("8xH100.json");
    let gpus = mock.gpus();
    let before = devices(&gpus).await;
    mock.change(|state| {
        state["devices"][3]["errors"] = json!({"*": "GPU_IS_LOST"});
        state["devices"][5]["errors"] = json!({"nvmlDeviceGetTemperature": "UNKNOWN"});
    });
    let samples = gpus.samples().await.unwrap();
    for (index, (uuid, sample)) in samples.iter().enumerate() {
        assert_eq!(*uuid, before[index].uuid);
        match (index, &sample.health) {
            (3, GpuHealth::Lost(why)) => assert!(why.contains("GPU 3") && why.contains("off the bus"), "{why}"),
            (5, GpuHealth::Faulty(why)) => {
                assert!(why.contains("GPU 5 for its temperature"), "{why}");
                assert_eq!(sample.power_limit_w, Some(700), "what it says is told");
            }
            (_, GpuHealth::Ok) => {}
            (_, other) => panic!("GPU {index}: {other:?}"),
        }
    }
    let now = devices(&gpus).await;
    assert_eq!(now, before, "it is remembered as what it was");
    let processes = gpus.processes(&[]).await.unwrap();
    assert_eq!(processes.failed.iter().map(|(gpu, _)| gpu).collect::<Vec<_>>(), [&before[3].uuid]);
    mock.mend();
    eventually("all are well", async || {
        gpus.devices().await.ok()?;
        let samples = gpus.samples().await.ok()?;
        samples.iter().all(|(_, sample)| sample.health == GpuHealth::Ok).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gpu_whose_index_is_another_s_now_is_not_taken_for_an_idle_one() {
    let mut mock = Mock::new("2xTITANX.json");
    let gpus = mock.gpus();
    let before = devices(&gpus).await;
    let first = [before[0].uuid.clone()];
    assert_eq!(gpus.processes(&first).await.unwrap().failed, []);
    mock.change(|state| state["devices"].as_array_mut().unwrap().swap(0, 1));
    let failed = gpus.processes(&first).await.unwrap().failed;
    assert!(
        matches!(failed.as_slice(), [(gpu, why)] if *gpu == first[0] && why.contains(&before[1].uuid.0)),
        "{failed:?}"
    );
    devices(&gpus).await;
    assert_eq!(gpus.processes(&first).await.unwrap().failed, []);
}

#[tokio::test]
async fn a_gpu_that_was_never_well_has_a_place_until_it_has_a_name() {
    let mut mock = Mock::new("2xTITANX.json");
    mock.change(|state| state["devices"][1]["errors"] = json!({"*": "UNKNOWN"}));
    let gpus = mock.gpus();
    let found = devices(&gpus).await;
    assert!(!found[0].uuid.is_placeholder() && found[1].uuid.is_placeholder(), "{found:?}");
    let samples = gpus.samples().await.unwrap();
    assert!(matches!(&samples[1], (uuid, sample) if *uuid == found[1].uuid && sample.health != GpuHealth::Ok));
    mock.mend();
    eventually("its name", async || {
        let found = devices(&gpus).await;
        (!found[1].uuid.is_placeholder()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gpu_that_hangs_costs_a_worker_and_the_others_are_answered() {
    let mut mock = Mock::new("8xH100.json");
    let mut options = mock.options();
    options.deadlines.sample = std::time::Duration::from_millis(700);
    let gpus = NvmlGpus::new(options).unwrap();
    let before = devices(&gpus).await;
    let first = mock.workers();
    mock.change(|state| state["devices"][2]["hangs"] = json!(["*"]));
    let samples = gpus.samples().await.unwrap();
    let sick: Vec<usize> = samples
        .iter()
        .enumerate()
        .filter(|(_, (_, sample))| sample.health != GpuHealth::Ok)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(sick, [2]);
    let GpuHealth::Faulty(why) = &samples[2].1.health else { panic!("{:?}", samples[2]) };
    assert!(why.contains("no answer within 700 ms"), "{why}");
    assert_eq!(samples[7].1.power_limit_w, Some(700), "answered by a new worker");
    assert!(mock.workers().iter().all(|worker| !first.contains(worker)), "the first worker is gone");
    assert_eq!(gpus.samples().await.unwrap().len(), 8);
    mock.mend();
    eventually("it is asked again", async || {
        let samples = gpus.samples().await.ok()?;
        (samples[2].0 == before[2].uuid && samples[2].1.health == GpuHealth::Ok).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stopped_worker_is_replaced_and_nobody_is_blamed() {
    let mock = Mock::new("2xTITANX.json");
    let gpus = mock.gpus();
    devices(&gpus).await;
    let workers = mock.workers();
    assert_eq!(workers.len(), 1);
    kill(Pid::from_raw(workers[0]), Signal::SIGSTOP).unwrap();
    let samples = gpus.samples().await.unwrap();
    assert!(samples.iter().all(|(_, sample)| sample.health == GpuHealth::Ok), "{samples:?}");
    eventually("the stopped one is reaped", async || (!mock.workers().contains(&workers[0])).then_some(())).await;
}

#[tokio::test]
async fn a_worker_that_is_killed_is_replaced() {
    let mock = Mock::new("2xTITANX.json");
    let gpus = mock.gpus();
    devices(&gpus).await;
    kill(Pid::from_raw(mock.workers()[0]), Signal::SIGKILL).unwrap();
    assert!(gpus.samples().await.unwrap().iter().all(|(_, sample)| sample.health == GpuHealth::Ok));
}

#[tokio::test]
async fn a_stopped_source_lets_go_of_the_driver_until_it_is_resumed() {
    let mock = Mock::new("2xTITANX.json");
    let gpus = mock.gpus();
    devices(&gpus).await;
    gpus.stop_worker().await.unwrap();
    assert_eq!(mock.workers(), [0; 0]);
    assert!(gpus.samples().await.unwrap_err().to_string().contains("stopped"));
    assert_eq!((state(&gpus).0, mock.workers().len()), (DriverState::Stopped, 0));
    gpus.resume().await.unwrap();
    until_devices(&gpus, 2).await;
    drop(gpus);
    eventually("the worker ends with its source", async || mock.workers().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_state_that_is_nonsense_fails_every_call_of_the_mock() {
    let mut mock = Mock::new("2xTITANX.json");
    mock.change(|state| state["devices"][0]["temprature"] = json!(1));
    let gpus = mock.gpus();
    assert!(gpus.devices().await.is_err(), "a key that is misspelt must not test nothing");
    mock.change(|state| drop(state["devices"][0].as_object_mut().unwrap().remove("temprature")));
    until_devices(&gpus, 2).await;
}

#[test]
fn the_worker_is_not_for_people() {
    let worker = std::process::Command::new(env!("CARGO_BIN_EXE_wharf"))
        .arg("gpu-worker")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(worker.status.code(), Some(1));
    let said = String::from_utf8_lossy(&worker.stderr).into_owned();
    assert!(said.contains("only the agent starts this"), "{said}");
}
