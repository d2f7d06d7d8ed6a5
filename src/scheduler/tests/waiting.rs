//! The queue, and what it says to those who wait.

use super::*;
use crate::scheduler::queue::sort;

fn waiting(job: u64, priority: i32, roles: Vec<RoleRequest>) -> Waiting {
    let submitted_at = Timestamp(i64::try_from(job).unwrap());
    Waiting { job: JobId(job), priority, submitted_at, not_before: None, request: request(roles) }
}

fn placed(decisions: &[(JobId, Decision)]) -> Vec<u64> {
    let placed = decisions.iter().filter(|(_, decision)| matches!(decision, Decision::Placed(_)));
    placed.map(|(job, _)| job.0).collect()
}

#[test]
fn turns_go_by_priority_then_time_then_id() {
    let mut queue = vec![waiting(3, 0, vec![]), waiting(2, 0, vec![]), waiting(9, 5, vec![]), waiting(1, -1, vec![])];
    queue[0].submitted_at = queue[1].submitted_at;
    sort(&mut queue);
    assert_eq!(queue.iter().map(|waiting| waiting.job.0).collect::<Vec<_>>(), [9, 2, 3, 1]);
}

#[test]
fn small_jobs_pass_a_large_one_but_not_on_the_nodes_it_waits_for() {
    let nodes = || ["a", "b", "c"].map(|name| node(name, "X", 8)).to_vec();
    let mut snapshot = cluster(nodes());
    place(&mut snapshot, &request(vec![role(1, 4)])).unwrap();
    place(&mut snapshot, &request(vec![role(1, 8)])).unwrap();
    // a: 4 free, b: none, c: 8. Two whole nodes are wanted: c and a will be kept, as they are nearest to free.
    let queue = [waiting(1, 0, vec![role(2, 8)]), waiting(2, 0, vec![role(1, 1)])];
    let decisions = schedule(&mut snapshot, &queue, Timestamp(0));
    assert_eq!(placed(&decisions), [0u64; 0]);
    assert!(matches!(decisions[0].1, Decision::Blocked { reserved: true, behind: None, .. }));
    assert!(matches!(decisions[1].1, Decision::Blocked { reserved: false, behind: Some(JobId(1)), .. }));
    assert!(explain(&snapshot, &queue[1].request).is_empty(), "it waits for nothing but its turn");

    let mut wider = cluster([nodes(), vec![node("d", "X", 8)]].concat());
    place(&mut wider, &request(vec![role(3, 7)])).unwrap();
    let queue = [waiting(1, 0, vec![role(2, 8)]), waiting(2, 0, vec![role(2, 1)])];
    assert_eq!(placed(&schedule(&mut wider, &queue, Timestamp(0))), [2], "two nodes are nobody's");
}

#[test]
fn a_job_that_can_never_run_blocks_nobody() {
    let mut snapshot = cluster(vec![node("a", "X", 8)]);
    let queue = [waiting(1, 9, vec![role(2, 8)]), waiting(2, 0, vec![role(1, 8)])];
    let decisions = schedule(&mut snapshot, &queue, Timestamp(0));
    assert_eq!(placed(&decisions), [2]);
    assert!(matches!(decisions[0].1, Decision::Blocked { reserved: false, .. }));
}

#[test]
fn who_backs_off_has_no_turn_until_then() {
    let mut snapshot = cluster(vec![node("a", "X", 8)]);
    let mut queue = [waiting(1, 0, vec![role(1, 8)])];
    queue[0].not_before = Some(Timestamp(10));
    let decisions = schedule(&mut snapshot, &queue, Timestamp(9));
    assert_eq!(decisions[0].1, Decision::BackingOff { until: Timestamp(10) });
    assert_eq!(placed(&schedule(&mut snapshot, &queue, Timestamp(10))), [1]);
}

#[test]
fn every_node_says_what_it_lacks() {
    let mut nodes: Vec<NodeSnapshot> =
        ["cordoned", "cpus", "gpus", "memory", "refused"].map(|name| node(name, "X", 2)).to_vec();
    nodes.push(node("type", "Y", 2));
    nodes[0].state = NodeState::Cordoned;
    nodes[1].cpus_total = 0;
    nodes[2].withhold(&"GPU-gpus-1".into(), "faulty");
    nodes[3].memory_mb_total = 10;
    let wanted = Request { gpu_types: vec!["X".to_owned()], ..request(vec![role(3, 2)]) }.avoiding("refused".into());
    let reasons = explain(&cluster(nodes), &wanted);
    let texts: Vec<[&str; 4]> = reasons
        .iter()
        .map(|reason| [reason.node.as_deref().unwrap_or("-"), &reason.reason, &reason.need, &reason.have])
        .collect();
    assert_eq!(
        texts,
        [
            ["-", "gang", "3 tasks of role worker at once, each with 2 GPUs, 1 CPUs, 1000 MB", "room for none"],
            ["cordoned", "node_state", "READY", "CORDONED"],
            ["cpus", "cpus", "1", "0 free of 0"],
            ["gpus", "gpus", "2", "1 free of 2 (1 faulty)"],
            ["memory", "memory_mb", "1000", "10 free of 10"],
            ["refused", "back_off", "a node that did not refuse the last attempt", "refused it"],
            ["type", "gpu_type", "X", "Y"],
        ]
    );
}

#[test]
fn what_could_never_run_is_known_at_submission() {
    let mut busy = node("a", "X", 8);
    busy.state = NodeState::Drained;
    let mut snapshot = cluster(vec![busy, node("b", "X", 8)]);
    place(&mut snapshot, &request(vec![role(1, 8)])).unwrap();
    assert_eq!(ever_possible(&snapshot, &request(vec![role(2, 8)])), Ok(()));
    let reasons = ever_possible(&snapshot, &request(vec![role(3, 8)])).unwrap_err();
    assert_eq!((reasons.len(), reasons[0].have.as_str()), (1, "room for 2"));
    let reasons = ever_possible(&snapshot, &request(vec![role(1, 9)])).unwrap_err();
    assert_eq!(reasons[1].have, "8 free of 8");
    let none = ever_possible(&cluster(vec![]), &request(vec![role(1, 0)])).unwrap_err();
    assert_eq!(none[0].have, "no nodes");
}

#[test]
fn a_lack_is_cheap_to_make() {
    assert!(std::mem::size_of::<Lack>() <= 32);
}
