//! Jobs after hardware faults: run again elsewhere, uncounted, and not for ever.

use super::cluster::Cluster;
use super::jobs::{job, role};
use super::user;
use crate::api::ControllerApi;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::GpuUuid;
use crate::domain::retry::HARDWARE_RESTARTS;
use crate::domain::run::{AVOIDED_FOR, Phase};

fn fault_of(gpu: &GpuUuid) -> Exit {
    let exit = Exit::without_status(ExitClass::Hardware, "fault 7, Xid 94");
    Exit { faults: vec![7], faulty_gpus: vec![gpu.clone()], ..exit }
}

/// The GPU of the one task of the job's newest run, once that runs.
async fn gpu_of(cluster: &Cluster, id: u64, attempt: u32) -> GpuUuid {
    let runs = |c: &Cluster| c.run(id).attempt == attempt && c.phase(id) == Phase::Running;
    cluster.until_as_time_passes("the next run", runs).await;
    cluster.run(id).tasks[0].seat.gpus[0].clone()
}

#[tokio::test]
async fn the_next_run_gets_another_gpu_and_waits_for_one_for_a_while() {
    let mut cluster = Cluster::new(&[("n1", 2)]).await;
    let id = cluster.submit(&job("hit", &[role("worker", 1, 1)])).await;
    let first = gpu_of(&cluster, id, 1).await;
    cluster.end_tasks(id, &fault_of(&first));
    let second = gpu_of(&cluster, id, 2).await;
    assert_ne!(first, second);

    // Now both have failed it, and both are free.
    cluster.end_tasks(id, &fault_of(&second));
    cluster.until("its third run waits", |c| c.run(id).attempt == 3 && c.phase(id) == Phase::Waiting).await;
    cluster.restart().await;
    cluster.until("the node is back", |c| c.is_ready(&"n1".into())).await;
    cluster.clock.advance(AVOIDED_FOR / 2);
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(id), Phase::Waiting, "another GPU may come");
    let explained = cluster.controller.explain_job(&user("ann"), "hit").await.unwrap();
    let avoided = explained.reasons.iter().find(|reason| reason.reason == "avoided_gpus").expect("it is told");
    assert!(avoided.have.contains(&first.0) && avoided.have.contains(&second.0), "{avoided:?}");
    let free = explained.reasons.iter().find(|reason| reason.reason == "gpus").expect("it is told");
    assert_eq!(free.have, "0 free of 2 (2 left out after hardware faults)");
    cluster.clock.advance(AVOIDED_FOR);
    gpu_of(&cluster, id, 3).await;
    assert_eq!(cluster.job(id).await.retries.hardware, 2);
    cluster.end_tasks(id, &Exit::success());
    cluster.until_ended(id).await;
}

#[tokio::test]
async fn a_job_that_every_gpu_fails_ends_and_says_so() {
    let cluster = Cluster::new(&[("n1", 8)]).await;
    let id = cluster.submit(&job("unlucky", &[role("worker", 1, 1)])).await;
    for attempt in 1..=HARDWARE_RESTARTS + 1 {
        let gpu = gpu_of(&cluster, id, u32::try_from(attempt).unwrap()).await;
        cluster.end_tasks(id, &fault_of(&gpu));
    }
    let view = cluster.until_ended(id).await;
    let exit = view.exit.unwrap();
    assert_eq!((view.state.as_str(), exit.class), ("FAILED", ExitClass::Hardware));
    let said = "not run again: it was restarted 5 times after hardware faults, and hardware_restarts allows 5";
    assert!(exit.reason.ends_with(said), "{}", exit.reason);
}
