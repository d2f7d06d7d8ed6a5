//! What devices say about their health, and that what they cannot say is not what fails.

use crate::mock::{Mock, PATIENCE, devices, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::Duration;
use wharf::gpu::GpuSource;
use wharf::gpu::events::GpuEvent;
use wharf::gpu::nvml::NvmlGpus;
use wharf::gpu::snapshot::{
    ClockEvents, DeviceHealth, EccErrors, EccMode, Fabric, FabricState, HealthSnapshot, LinkEnd, NoAnswer, NvLink,
    PcieLink, ProcessMemory, Reading, RecoveryAction, RemappedRows, RetiredPages, SramEcc, Temperatures,
};

fn snapshot(of: &DeviceHealth) -> &HealthSnapshot {
    of.answer.as_ref().unwrap_or_else(|error| panic!("GPU {}: {error:?}", of.index))
}

/// A device that has everything to say, each thing with a number of its own.
fn sick() -> Value {
    json!({
        "uuid": "GPU-a", "name": "NVIDIA H100 80GB HBM3", "minor": 0, "pci": "00000000:1B:00.0",
        "memory_mb": 81559, "memory_used_mb": 70000, "memory_reserved_mb": 500,
        "temperature_c": 91,
        "ecc": true, "ecc_pending": false,
        "ecc_corrected": 11, "ecc_errors": 12, "ecc_aggregate_corrected": 13, "ecc_aggregate": 14,
        "sram_ecc": {
            "volatile_corrected": 21, "volatile_parity": 22, "volatile_sec_ded": 23, "aggregate_corrected": 24,
            "aggregate_parity": 25, "aggregate_sec_ded": 26, "threshold_exceeded": true,
        },
        "remapped_rows": {"corrected": 31, "uncorrected": 32, "pending": true, "failed": false},
        "retired_pages_pending": true,
        "fields": {"162": 82, "29": 41, "30": 42, "82": 95, "226": 1, "227": 0, "230": 4, "208:1": 51, "219:1": 52, "221": 53},
        "clock_events": 0x48,
        "thresholds_c": {"shutdown": 100, "slowdown": 97, "memory_max": 105, "gpu_max": 90},
        "margin_c": -3,
        "pcie": {
            "generation": 1, "width": 8, "max_generation": 5, "max_width": 16, "device_max_generation": 6,
            "replays": 61,
        },
        "nvlinks": [
            {"to": "switch", "pci": "00000000:07:00.0",
             "errors": {"replay": 71, "recovery": 72, "crc_flit": 73, "crc_data": 74, "ecc_data": 75}},
            {"to": "switch", "pci": "00000000:07:00.0", "down": true},
        ],
        "fabric": {
            "state": 3, "status": 15, "cluster": "0123456789abcdef0123456789abcdef", "clique": 7, "health_mask": 5,
        },
        "processes": [
            {"pid": 1, "memory_mb": 300}, {"pid": 1, "memory_mb": 200, "kind": "graphics"},
            {"pid": 2, "memory_mb": 50, "kind": "mps"}, {"pid": 3, "memory_mb": null},
        ],
    })
}

fn known<T>(value: T) -> Reading<T> {
    Reading::Known(value)
}

#[tokio::test]
async fn every_reading_of_a_sick_device_is_told() {
    let mut mock = Mock::new("8xH100.json");
    mock.change(|state| state["devices"] = json!([sick()]));
    let gpus = mock.gpus();
    let mut health = gpus.health().await.unwrap();
    assert_eq!((health.len(), health[0].gpu.0.as_str(), health[0].index), (1, "GPU-a", 0));
    let mut told = *health.remove(0).answer.unwrap();
    let Reading::Known(links) = std::mem::take(&mut told.nvlinks) else { panic!("{told:?}") };
    // More than there are come as links that are down, as far as the driver tells them.
    assert_eq!(links[0].is_active, known(true));
    let expected = NvLink {
        link: 0,
        is_active: known(true),
        far_end: Some(LinkEnd::Switch("0000:07:00.0".parse().unwrap())),
        replays: known(71),
        recoveries: known(72),
        crc_flit_errors: known(73),
        crc_data_errors: known(74),
        ecc_data_errors: known(75),
        symbol_errors: known(53),
        ..NvLink::default()
    };
    assert_eq!(links[0], expected);
    let second = &links[1];
    assert_eq!((&second.is_active, &second.replays, second.far_end), (&known(false), &known(0), None));
    assert_eq!((&second.receive_errors, &second.effective_errors), (&known(51), &known(52)), "of this link alone");
    // Its counter fails, and the field for the same is asked.
    assert_eq!((&links[2].recoveries, links[2].replays.known()), (&known(82), None));
    let expected = HealthSnapshot {
        gpu: "GPU-a".into(),
        ecc_mode: known(EccMode { is_on: true, will_be_on: false }),
        ecc: EccErrors {
            volatile_corrected: known(11),
            volatile_uncorrected: known(12),
            aggregate_corrected: known(13),
            aggregate_uncorrected: known(14),
        },
        sram: known(SramEcc {
            volatile_corrected: 21,
            volatile_uncorrected_parity: 22,
            volatile_uncorrected_sec_ded: 23,
            aggregate_corrected: 24,
            aggregate_uncorrected_parity: 25,
            aggregate_uncorrected_sec_ded: 26,
            threshold_exceeded: true,
        }),
        remapped_rows: known(RemappedRows { corrected: 31, uncorrected: 32, is_pending: true, has_failed: false }),
        retired_pages: RetiredPages { single_bit: known(41), double_bit: known(42), is_pending: known(true) },
        recovery_action: known(RecoveryAction::DrainAndReset),
        needs_reset: known(true),
        needs_drain: known(false),
        clock_events: known(ClockEvents(0x48)),
        temperatures: Temperatures {
            gpu_c: known(91),
            memory_c: known(95),
            margin_c: known(-3),
            shutdown_at_c: known(100),
            slowdown_at_c: known(97),
            memory_max_c: known(105),
            gpu_max_c: known(90),
        },
        nvlinks: Reading::NotSupported,
        pcie: PcieLink {
            generation: known(1),
            width: known(8),
            max_generation: known(5),
            max_width: known(16),
            device_max_generation: known(6),
            replays: known(61),
        },
        fabric: known(Fabric {
            state: FabricState::Completed,
            status: 15,
            cluster: "01234567-89ab-cdef-0123-456789abcdef".parse().unwrap(),
            clique: 7,
            health_mask: 5,
        }),
        memory_used_mb: known(70_000),
        processes: known(ProcessMemory { processes: 3, memory_mb: 350, unknown: 1 }),
    };
    assert_eq!(told, expected);
    let events = ClockEvents(0x48);
    assert!(events.has(ClockEvents::HW_SLOWDOWN) && events.has(ClockEvents::HW_THERMAL));
    assert!(!events.has(ClockEvents::HW_POWER_BRAKE));
    // A driver that knows the question for the fabric as it was before.
    mock.change(|state| state["devices"][0]["fabric"]["newest_version"] = json!(2));
    let health = gpus.health().await.unwrap();
    assert_eq!(snapshot(&health[0]).fabric, expected.fabric);
    mock.change(|state| state["devices"][0]["fabric"]["state"] = json!(0));
    assert_eq!(snapshot(&gpus.health().await.unwrap()[0]).fabric, Reading::NotSupported, "it has none");
}

#[tokio::test]
async fn what_a_board_cannot_say_is_not_supported() {
    let mut mock = Mock::new("2xTITANX.json");
    mock.change(|state| state["devices"][1]["processes"] = Value::Null);
    let gpus = mock.gpus();
    let health = gpus.health().await.unwrap();
    assert_eq!(health.len(), 2);
    let expected = HealthSnapshot {
        gpu: health[1].gpu.clone(),
        temperatures: Temperatures { gpu_c: known(37), ..Temperatures::default() },
        memory_used_mb: known(4),
        ..HealthSnapshot::default()
    };
    assert_eq!(*snapshot(&health[1]), expected);
}

/// Each call by its name, and the reading that shows it.
type Shows = fn(&HealthSnapshot) -> Value;

const CALLS: [(&str, Shows); 18] = [
    ("nvmlDeviceGetEccMode", |of| json!(of.ecc_mode)),
    ("nvmlDeviceGetTotalEccErrors", |of| json!(of.ecc.aggregate_corrected)),
    ("nvmlDeviceGetSramEccErrorStatus", |of| json!(of.sram)),
    ("nvmlDeviceGetRemappedRows", |of| json!(of.remapped_rows)),
    ("nvmlDeviceGetRetiredPagesPendingStatus", |of| json!(of.retired_pages.is_pending)),
    ("nvmlDeviceGetFieldValues", |of| json!(of.recovery_action)),
    ("nvmlDeviceGetCurrentClocksEventReasons", |of| json!(of.clock_events)),
    ("nvmlDeviceGetTemperature", |of| json!(of.temperatures.gpu_c)),
    ("nvmlDeviceGetTemperatureThreshold", |of| json!(of.temperatures.slowdown_at_c)),
    ("nvmlDeviceGetMarginTemperature", |of| json!(of.temperatures.margin_c)),
    ("nvmlDeviceGetNvLinkState", |of| json!(of.nvlinks.known().map(|links| &links[0].is_active))),
    ("nvmlDeviceGetNvLinkErrorCounter", |of| json!(of.nvlinks.known().map(|links| &links[0].replays))),
    ("nvmlDeviceGetCurrPcieLinkGeneration", |of| json!(of.pcie.generation)),
    ("nvmlDeviceGetMaxPcieLinkWidth", |of| json!(of.pcie.max_width)),
    ("nvmlDeviceGetPcieReplayCounter", |of| json!(of.pcie.replays)),
    ("nvmlDeviceGetGpuFabricInfoV", |of| json!(of.fabric)),
    ("nvmlDeviceGetMemoryInfo_v2", |of| json!(of.memory_used_mb)),
    ("nvmlDeviceGetComputeRunningProcesses_v3", |of| json!(of.processes)),
];

#[tokio::test]
async fn each_call_that_fails_is_told_with_its_code_and_takes_nothing_else_along() {
    let mut mock = Mock::new("8xH100.json");
    mock.change(|state| {
        state["devices"] = json!([sick(), sick()]);
        state["devices"][1]["uuid"] = json!("GPU-b");
    });
    let gpus = mock.gpus();
    let well = gpus.health().await.unwrap();
    for (call, shows) in CALLS {
        mock.change(|state| state["devices"][0]["errors"] = json!({ call: "RESET_REQUIRED" }));
        let health = gpus.health().await.unwrap();
        let shown = shows(snapshot(&health[0]));
        assert_eq!(shown["failed"]["code"], 16, "{call}: {shown}");
        assert!(shown["failed"]["message"].as_str().is_some_and(|text| text.contains("reset")), "{call}: {shown}");
        assert_eq!(snapshot(&health[1]), snapshot(&well[1]), "{call}: the other one");
        let (now, before) = (snapshot(&health[0]), snapshot(&well[0]));
        let others = CALLS.iter().filter(|(other, shows)| *other != call && shows(now) != shows(before));
        let changed: Vec<&str> = others.map(|(other, _)| *other).collect();
        assert_eq!(changed, [""; 0], "{call}");
    }
}

#[tokio::test]
async fn a_lost_gpu_has_no_snapshot_and_the_others_have() {
    let mut mock = Mock::new("8xH100.json");
    let gpus = mock.gpus();
    let before = devices(&gpus).await;
    mock.change(|state| state["devices"][3]["errors"] = json!({"*": "GPU_IS_LOST"}));
    let health = gpus.health().await.unwrap();
    assert!(health.iter().map(|of| &of.gpu).eq(before.iter().map(|gpu| &gpu.uuid)), "one for each, by name");
    for of in &health {
        match &of.answer {
            Err(none) if of.index == 3 => {
                assert!(none.why == NoAnswer::Lost && none.sentence.contains("GPU 3"), "{none:?}");
            }
            answer => assert!(answer.is_ok(), "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_gpu_that_hangs_is_said_and_so_is_the_worker_that_was_late() {
    let mut mock = Mock::new("8xH100.json");
    let mut options = mock.options();
    options.deadlines.health = std::time::Duration::from_millis(700);
    let (gpus, mut events) = NvmlGpus::with_events(options).unwrap();
    devices(&gpus).await;
    mock.change(|state| state["devices"][2]["hangs"] = json!(["nvmlDeviceGetRemappedRows"]));
    let health = gpus.health().await.unwrap();
    let silent: Vec<u32> = health.iter().filter(|of| of.answer.is_err()).map(|of| of.index).collect();
    assert_eq!(silent, [2]);
    let none = health[2].answer.as_ref().unwrap_err();
    assert!(none.why == NoAnswer::Hung && none.sentence.contains("no answer within 700 ms"), "{none:?}");
    let mut given_up = 0;
    while given_up < 2 {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
        if let Some(GpuEvent::WorkerGivenUp { index, is_late, sentence }) = event {
            assert!(index == Some(2) && is_late && sentence.contains("700 ms"), "{sentence}");
            given_up += 1;
        }
    }
    mock.mend();
    eventually("it answers again", async || {
        let health = gpus.health().await.ok()?;
        health.iter().all(|of| of.answer.is_ok()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stopped_worker_is_said_and_no_gpu_is_blamed() {
    let mock = Mock::new("2xTITANX.json");
    let (gpus, mut events) = NvmlGpus::with_events(mock.options()).unwrap();
    devices(&gpus).await;
    kill(Pid::from_raw(mock.workers()[0]), Signal::SIGSTOP).unwrap();
    let health = gpus.health().await.unwrap();
    assert!(health.iter().all(|of| of.answer.is_ok()), "{health:?}");
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
        if let Some(GpuEvent::WorkerGivenUp { index, is_late, .. }) = event {
            break assert!(index == Some(0) && is_late);
        }
    }
}

#[tokio::test]
async fn several_that_hang_do_not_cost_the_others_their_answer() {
    let mut mock = Mock::new("8xH100.json");
    let mut options = mock.options();
    (options.deadlines.health, options.deadlines.whole) = (Duration::from_secs(1), Duration::from_secs(6));
    let gpus = NvmlGpus::new(options).unwrap();
    devices(&gpus).await;
    // Twice a second for each of them is more than the whole may take.
    mock.change(|state| (0..4).for_each(|index| state["devices"][index]["hangs"] = json!(["*"])));
    eventually("a round with every answer", async || {
        let health = gpus.health().await.ok()?;
        let well = health.iter().filter(|device| device.index >= 4 && device.answer.is_ok()).count();
        let hung = health.iter().filter(|device| matches!(&device.answer, Err(no) if no.why == NoAnswer::Hung));
        (well == 4 && hung.count() > 0 && health.len() > 4).then_some(())
    })
    .await;
}
