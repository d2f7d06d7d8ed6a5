//! Tasks that fork without end.

use super::site::Site;
use crate::harness::docker::Dockerd;
use crate::harness::job::with;
use crate::harness::{attack, job, proc, role, skip, until};
use serde_json::json;
use std::fs;

/// Of each task.
const PIDS: u64 = 200;
/// Each begets others as fast as it can; the first of them stays, whatever becomes of its children.
const BOMB: &str = "bomb() { while :; do bomb & done; }; bomb & exec sleep 600";

/// What is counted in a group named like this below a folder of ours.
fn counted(uid: &str, task: &str) -> Option<u64> {
    let groups = proc::groups_of(uid).into_iter().filter(|group| group.ends_with(task));
    groups
        .flat_map(|group| [group.join("payload/pids.current"), group.join("pids.current")])
        .find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

#[test]
fn a_process_that_forks_without_end_has_its_share_and_ends_when_it_is_told() {
    const WHAT: &str = "fork bombs as processes";
    if !nix::unistd::Uid::effective().is_root() {
        return skip(WHAT, "only root may make control groups");
    }
    let mut row = attack("fork bombs", "as a process, with 200 allowed", 0, "");
    let site = Site::with(&format!("pids_limit = {PIDS}\n"));
    let id = site.cluster.submit(&job("bomb", &[role("main", 1, BOMB)]));
    site.cluster.wait_running(&id);
    let uid = site.cluster.node_uids()[0].clone();
    let task = format!("{id}.{id}.0.0");
    let Some(_) = counted(&uid, &task) else {
        site.cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
        site.cluster.wait_end(&id);
        row.came_to(0, "not tried: no control group counts processes here");
        return skip(WHAT, "no control group counts processes here");
    };
    let mut most = 0;
    until("it has forked as often as it may", || {
        most = most.max(counted(&uid, &task).unwrap_or_default());
        (most + 5 >= PIDS).then_some(())
    });
    // The twin, beside it: a task with a hundred processes is no bomb.
    let many = "for i in $(seq 100); do sleep 0.2 & done; wait; echo all there";
    let other = site.cluster.submit(&job("many", &[role("main", 1, many)]));
    assert_eq!(site.cluster.wait_end(&other)["state"], "SUCCEEDED");
    assert_eq!(site.cluster.cli(&["logs", &other]).expect(0).text(), "all there\n");
    most = most.max(counted(&uid, &task).unwrap_or_default());
    assert!(most <= PIDS, "{most} processes");
    site.cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
    assert_eq!(site.cluster.wait_end(&id)["state"], "STOPPED");
    until("nothing is left of it", || counted(&uid, &task).is_none_or(|left| left == 0).then_some(()));
    row.came_to(1, &format!("{most} processes, a task of 100 beside it ran; stopped clean; {}", site.is_well()));
}

#[test]
fn a_container_that_forks_without_end_has_its_share_and_ends_when_it_is_told() {
    let Some(dockerd) = Dockerd::get("fork bombs in containers") else { return };
    let mut row = attack("fork bombs", "in a container, with 100 allowed by its job", 0, "");
    let site = Site::with_docker(dockerd.socket());
    let of = |name: &str, command: &str| {
        let wanted =
            json!({ "image": "wharf-test/busybox:1", "extras": { "wharf": { "container": { "pidsLimit": 100 } } } });
        with(job(name, &[role("main", 1, command)]), &wanted)
    };
    let id = site.cluster.submit(&of("bomb", BOMB));
    site.cluster.wait_running(&id);
    until("it is told that it may not", || {
        let said = site.cluster.cli(&["logs", &id, "--tail", "5"]);
        (said.text() + &said.errors()).contains("fork").then_some(())
    });
    let other = site.cluster.submit(&of("many", "for i in $(seq 40); do sleep 0.2 & done; wait; echo all there"));
    assert_eq!(site.cluster.wait_end(&other)["state"], "SUCCEEDED");
    site.cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
    assert_eq!(site.cluster.wait_end(&id)["state"], "STOPPED");
    row.came_to(1, &format!("refused by the kernel, a task of 40 beside it ran; stopped clean; {}", site.is_well()));
    dockerd.remove_of(site.cluster.node_uids());
}
