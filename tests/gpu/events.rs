//! What the devices tell unasked, through the worker's second socket.

use crate::mock::{Mock, PATIENCE, devices};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use wharf::domain::gpu::GpuHealth;
use wharf::gpu::GpuSource;
use wharf::gpu::events::{EventKind, GpuEvent, GpuEvents, Unwatched};
use wharf::gpu::nvml::NvmlGpus;

/// Everything that the newest devices tell of.
const ALL: u64 = 0xFFFF;

fn listening(mock: &Mock) -> (NvmlGpus, GpuEvents) {
    NvmlGpus::with_events(mock.options()).unwrap()
}

async fn next(events: &mut GpuEvents) -> GpuEvent {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time").expect("it goes on")
}

/// Takes what comes until all of these are watched; tells what else came.
async fn until_watched(events: &mut GpuEvents, indices: impl IntoIterator<Item = u32>) -> Vec<GpuEvent> {
    let mut missing: BTreeSet<u32> = indices.into_iter().collect();
    let mut others = Vec::new();
    while !missing.is_empty() {
        match next(events).await {
            GpuEvent::Watching { index, .. } if missing.remove(&index) => {}
            other => others.push(other),
        }
    }
    others
}

fn happen(mock: &mut Mock, event: Value) {
    mock.change(|state| match &mut state["events"] {
        Value::Array(events) => events.push(event),
        none => *none = json!([event]),
    });
}

fn xid(device: usize, code: u64) -> Value {
    json!({"device": device, "type": 8, "data": code})
}

async fn next_xid(events: &mut GpuEvents) -> (u32, u64) {
    match next(events).await {
        GpuEvent::Happened { index, kind: EventKind::Xid, data, .. } => (index, data),
        other => panic!("no Xid: {other:?}"),
    }
}

#[tokio::test]
async fn every_kind_is_told_as_the_driver_says_it() {
    let mut mock = Mock::new("MIG-A100.json");
    mock.change(|state| {
        state["devices"][0]["event_types"] = json!(ALL);
        state["devices"][1]["event_types"] = json!(8 | 4);
    });
    let (gpus, mut events) = listening(&mock);
    let mut types = [None, None];
    while types.contains(&None) {
        let GpuEvent::Watching { index, types: told, .. } = next(&mut events).await else { panic!("not watched") };
        types[index as usize] = Some(told);
    }
    assert_eq!(types, [Some(EventKind::mask()), Some(8)], "what it has, of what is wanted");
    let uuids: Vec<_> =
        devices(&gpus).await.into_iter().filter(|gpu| gpu.mig.is_none()).map(|gpu| gpu.uuid).collect();
    // A performance state is no fault.
    happen(&mut mock, json!({"device": 0, "type": 4, "data": 0}));
    for (kind, bit) in EventKind::ALL {
        happen(
            &mut mock,
            json!({"device": 0, "type": bit, "data": bit + 1, "gpu_instance": 7, "compute_instance": 0}),
        );
        let expected = GpuEvent::Happened {
            index: 0,
            gpu: uuids[0].clone(),
            kind,
            data: bit + 1,
            gpu_instance: Some(7),
            compute_instance: Some(0),
        };
        assert_eq!(next(&mut events).await, expected);
    }
    happen(&mut mock, xid(1, 79));
    let expected = GpuEvent::Happened {
        index: 1,
        gpu: uuids[1].clone(),
        kind: EventKind::Xid,
        data: 79,
        gpu_instance: None,
        compute_instance: None,
    };
    assert_eq!(next(&mut events).await, expected);
}

#[tokio::test]
async fn a_bad_gpu_keeps_no_other_from_being_heard() {
    let mut mock = Mock::new("8xH100.json");
    mock.change(|state| {
        let devices = &mut state["devices"];
        devices[1]["errors"] = json!({"nvmlDeviceRegisterEvents": "GPU_IS_LOST"});
        devices[2]["errors"] = json!({"nvmlDeviceGetSupportedEventTypes": "NOT_SUPPORTED"});
        devices[3]["errors"] = json!({"nvmlDeviceGetHandleByIndex_v2": "UNKNOWN"});
        devices[4]["event_types"] = json!(4 | 16);
        devices[5]["hangs"] = json!(["nvmlEventSetCreate", "nvmlDeviceRegisterEvents"]);
    });
    let (gpus, mut events) = listening(&mock);
    let (mut watched, mut unwatched) = (BTreeSet::new(), BTreeSet::new());
    while watched.len() + unwatched.len() < 7 {
        match next(&mut events).await {
            GpuEvent::Watching { index, .. } => drop(watched.insert(index)),
            GpuEvent::Unwatched { index, gpu, why, sentence } => {
                assert!(sentence.contains(&format!("GPU {index}")), "{sentence}");
                assert_eq!(gpu.is_none(), index == 3, "{sentence}");
                let why = match why {
                    Unwatched::Lost => "lost",
                    Unwatched::NotSupported => "not supported",
                    Unwatched::Failed => "failed",
                };
                unwatched.insert((index, why));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(watched, BTreeSet::from([0, 6, 7]));
    let expected = [(1, "lost"), (2, "not supported"), (3, "failed"), (4, "not supported")];
    assert_eq!(unwatched, BTreeSet::from(expected), "and the one that hangs says nothing");
    happen(&mut mock, xid(6, 31));
    assert_eq!(next_xid(&mut events).await, (6, 31));
    assert_eq!(gpus.samples().await.unwrap().len(), 8, "and all are asked as before");
    mock.mend();
    let others = until_watched(&mut events, [1, 3, 5]).await;
    assert!(!others.contains(&GpuEvent::Interrupted), "by the same worker: {others:?}");
}

#[tokio::test]
async fn a_gpu_that_is_lost_while_it_is_heard_is_said_and_found_again() {
    let mut mock = Mock::new("2xTITANX.json");
    let (_gpus, mut events) = listening(&mock);
    until_watched(&mut events, 0..2).await;
    mock.change(|state| state["devices"][1]["errors"] = json!({"*": "GPU_IS_LOST"}));
    let lost = next(&mut events).await;
    assert!(matches!(&lost, GpuEvent::Unwatched { index: 1, gpu: Some(_), why: Unwatched::Lost, .. }), "{lost:?}");
    happen(&mut mock, xid(0, 45));
    let mut told = next(&mut events).await;
    while matches!(&told, GpuEvent::Unwatched { index: 1, .. }) {
        told = next(&mut events).await;
    }
    assert!(matches!(&told, GpuEvent::Happened { index: 0, data: 45, .. }), "{told:?}");
    mock.mend();
    until_watched(&mut events, [1]).await;
    happen(&mut mock, xid(1, 79));
    assert_eq!(next_xid(&mut events).await, (1, 79));
}

#[tokio::test]
async fn a_worker_that_is_killed_is_replaced_without_a_question() {
    let mut mock = Mock::new("2xTITANX.json");
    let (_gpus, mut events) = listening(&mock);
    until_watched(&mut events, 0..2).await;
    for code in [13, 31] {
        kill(Pid::from_raw(mock.workers()[0]), Signal::SIGKILL).unwrap();
        assert_eq!(next(&mut events).await, GpuEvent::Interrupted);
        assert_eq!(until_watched(&mut events, 0..2).await, []);
        happen(&mut mock, xid(1, code));
        assert_eq!(next_xid(&mut events).await, (1, code));
    }
}

#[tokio::test]
async fn a_gpu_that_hangs_while_it_is_heard_is_asked_all_the_same() {
    let mut mock = Mock::new("2xTITANX.json");
    let (gpus, mut events) = listening(&mock);
    until_watched(&mut events, 0..2).await;
    let workers = mock.workers();
    mock.change(|state| state["devices"][0]["hangs"] = json!(["nvmlEventSetWait_v2"]));
    happen(&mut mock, xid(1, 13));
    assert_eq!(next_xid(&mut events).await, (1, 13));
    let samples = gpus.samples().await.unwrap();
    assert!(samples.iter().all(|(_, sample)| sample.health == GpuHealth::Ok), "{samples:?}");
    assert_eq!(mock.workers(), workers);
}

#[tokio::test]
async fn events_that_nobody_takes_stop_no_question_and_are_kept() {
    let mut mock = Mock::new("2xTITANX.json");
    let (gpus, mut events) = listening(&mock);
    until_watched(&mut events, 0..2).await;
    let count = 20_000;
    mock.change(|state| state["events"] = (0..count).map(|code| xid(0, code)).collect());
    for _ in 0..3 {
        assert_eq!(gpus.samples().await.unwrap().len(), 2);
    }
    for code in 0..count {
        assert_eq!(next_xid(&mut events).await, (0, code));
    }
}

#[tokio::test]
async fn a_stopped_source_hears_nothing_until_it_is_resumed() {
    let mock = Mock::new("2xTITANX.json");
    let (gpus, mut events) = listening(&mock);
    until_watched(&mut events, 0..2).await;
    gpus.stop_worker().await.unwrap();
    assert_eq!(next(&mut events).await, GpuEvent::Interrupted);
    assert_eq!(mock.workers(), [0; 0]);
    gpus.resume().await.unwrap();
    assert_eq!(until_watched(&mut events, 0..2).await, []);
    drop(gpus);
    assert_eq!(next(&mut events).await, GpuEvent::Interrupted);
    let ended = tokio::time::timeout(PATIENCE, events.next()).await.expect("its end in time");
    assert_eq!(ended, None);
}
