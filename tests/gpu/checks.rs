//! Checks of single devices: by NVML's answers, by the test of their memory, and what follows in a cluster.

use crate::cluster::{cluster, until_driver, until_gpu, with_gpus};
use crate::harness::until;
use crate::mock::{Mock, devices, library};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use wharf::gpu::GpuSource;
use wharf::gpu::snapshot::NoAnswer;

/// What only the question for a device's health asks for.
const ASKED_OF_HEALTH: &str = "nvmlDeviceGetRemappedRows";

#[tokio::test]
async fn a_device_is_checked_alone_and_one_that_hangs_is_told_in_time() {
    let mut mock = Mock::new("8xH100.json");
    mock.change(|state| state["devices"][2]["hangs"] = json!([ASKED_OF_HEALTH]));
    let gpus = mock.gpus();
    let all = devices(&gpus).await;
    let well = gpus.check(&all[5].uuid).await.unwrap();
    let snapshot = well.health.answer.expect("it answers");
    assert_eq!((&snapshot.gpu, well.health.index, well.node), (&all[5].uuid, 5, None));
    let begun = std::time::Instant::now();
    let hung = gpus.check(&all[2].uuid).await.unwrap();
    assert_eq!(hung.health.answer.unwrap_err().why, NoAnswer::Hung);
    assert!(begun.elapsed() < 4 * wharf::gpu::CHECK_DEADLINE, "not without end");
    assert!(gpus.check(&"GPU-unknown".into()).await.is_err(), "that is nobody's fault");
    gpus.check(&all[5].uuid).await.unwrap().health.answer.expect("by another worker");
}

#[tokio::test]
async fn a_device_node_that_does_not_open_is_told() {
    let mock = Mock::new("2xTITANX.json");
    mock.put("dev/nvidiactl", "");
    mock.put("dev/nvidia0", "");
    let gpus = mock.gpus();
    let all = devices(&gpus).await;
    assert_eq!(gpus.check(&all[0].uuid).await.unwrap().node, Some(Ok(())));
    let why = gpus.check(&all[1].uuid).await.unwrap().node.unwrap().unwrap_err();
    assert!(why.contains("dev/nvidia1") && why.contains("No such file"), "{why}");
}

#[test]
fn a_gpu_that_fails_its_check_after_a_failure_is_out_of_use_alone() {
    let mut mock = Mock::new("2xTITANX.json");
    let cluster = cluster(&mock, "nvml");
    until_driver(&cluster, "OK");
    let command = format!("until [ -e {} ]; do sleep 0.05; done; exit 3", cluster.path("go").display());
    let id = cluster.submit(&with_gpus("fails", 1, &command));
    let used = cluster.wait_running(&id)["tasks"][0]["gpus"][0].clone();
    let index = usize::from(cluster.json(&["gpus"])[0]["uuid"] != used);
    mock.change(|state| state["devices"][index]["errors"] = json!({ ASKED_OF_HEALTH: "GPU_IS_LOST" }));
    cluster.touch("go");
    cluster.wait_end(&id);
    let faulty = until_gpu(&cluster, index, "FAULTY");
    assert!(faulty["reason"].as_str().is_some_and(|reason| reason.contains("gpu_lost")), "{faulty}");
    until_gpu(&cluster, 1 - index, "FREE");
    let fault = until("the controller knows the fault", || {
        let faults = cluster.json(&["faults"]);
        faults.get(0).cloned()
    });
    assert!(fault["task"].as_str().is_some_and(|task| task.starts_with(&id)), "{fault}");

    let checked = cluster.cli(&["--json", "node", "check", "n0"]).expect(1);
    let checked: Value = serde_json::from_slice(&checked.stdout).expect("an object");
    let failed = |gpu: usize| {
        let checks = checked["gpus"][gpu]["checks"].as_array().expect("a list");
        checks.iter().any(|one| one["outcome"] == "failed")
    };
    assert_eq!((failed(index), failed(1 - index)), (true, false), "{checked}");
}

/// The test of memory as the agent starts it, with the mock as CUDA's library.
fn deep_check(folder: &Path, wrong: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .args(["gpu-deep-check", "GPU-1"])
        .env("LD_LIBRARY_PATH", folder)
        .env("WHARF_MOCK_CUDA", wrong)
        .output()
        .expect("it can be started");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn memory_that_keeps_nothing_is_found_and_no_driver_is_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let without = deep_check(folder.path(), "");
    if let Some(why) = without["not_possible"].as_str() {
        assert!(why.contains("no CUDA driver"), "{why}");
    }
    std::os::unix::fs::symlink(library(), folder.path().join("libcuda.so.1")).unwrap();
    let well = &deep_check(folder.path(), "")["looked"];
    assert_eq!((&well["memory_mb"], &well["wrong_words"]), (&json!(192), &json!(0)), "{well}");
    assert!(well["to_device_mb_s"].as_u64() > Some(0) && well["within_device_mb_s"].as_u64() > Some(0), "{well}");
    // One bit in each piece, which one of the two patterns has set anyway.
    assert_eq!(deep_check(folder.path(), "stuck")["looked"]["wrong_words"], 3);
    let sick = deep_check(folder.path(), "sick");
    assert_eq!(sick["broken"], "cuMemcpyDtoH: CUDA_ERROR_ECC_UNCORRECTABLE", "{sick}");
    let absent = deep_check(folder.path(), "absent");
    assert_eq!(absent["not_possible"], "cuInit: CUDA_ERROR_NO_DEVICE", "{absent}");
}
