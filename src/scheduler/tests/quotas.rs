//! Virtual clusters: known cases. What must hold of any is in `simulation`.

use super::*;
use crate::scheduler::quota::{OverQuota, Resource};

fn waiting(job: u64, cluster: &str, gpus: u32, cpus: u32) -> Waiting {
    let roles = vec![RoleRequest { cpus, ports: Vec::new(), ..role(1, gpus) }];
    let request = Request { virtual_cluster: cluster.to_owned(), ..request(roles) };
    let submitted_at = Timestamp(i64::try_from(job).unwrap());
    Waiting { job: JobId(job), priority: 0, submitted_at, not_before: None, request }
}

fn limited(gpus: u64) -> Limits {
    Limits { gpus: Some(gpus), ..Limits::default() }
}

/// Who starts in one pass.
fn pass(snapshot: &mut Snapshot, quotas: &mut Quotas, queue: &[Waiting]) -> Vec<u64> {
    let decisions = schedule_within(snapshot, quotas, queue, Timestamp(0));
    let placed = decisions.into_iter().filter(|(_, decision)| matches!(decision, Decision::Placed(_)));
    placed.map(|(job, _)| job.0).collect()
}

#[test]
fn a_job_over_its_quota_holds_up_no_other_cluster() {
    let mut quotas = Quotas::new(&[("a".to_owned(), limited(4))].into());
    let mut snapshot = cluster(vec![node("n", "X", 8)]);
    assert_eq!(pass(&mut snapshot, &mut quotas, &[waiting(1, "a", 3, 1)]), [1]);
    let queue = [waiting(2, "a", 2, 1), waiting(3, "default", 5, 1)];
    let decisions = schedule_within(&mut snapshot, &mut quotas, &queue, Timestamp(0));
    let over = OverQuota { resource: Resource::Gpus, need: 2, used: 3, kept: 0, limit: 4 };
    assert_eq!(decisions[0].1, Decision::OverQuota { over, behind: None });
    assert!(matches!(decisions[1].1, Decision::Placed(_)));
}

#[test]
fn within_a_cluster_nobody_takes_what_the_first_lacks() {
    let mut quotas =
        Quotas::new(&[("a".to_owned(), Limits { gpus: Some(4), cpus: Some(20), memory_mb: None })].into());
    let mut snapshot = cluster(vec![node("n", "X", 8)]);
    assert_eq!(pass(&mut snapshot, &mut quotas, &[waiting(1, "a", 3, 1)]), [1]);
    // 2 lacks GPUs. It keeps 10 of the 19 CPUs that are left, too.
    let queue = [waiting(2, "a", 2, 10), waiting(3, "a", 1, 1), waiting(4, "a", 0, 10), waiting(5, "a", 0, 9)];
    let decisions = schedule_within(&mut snapshot, &mut quotas, &queue, Timestamp(0));
    let over = |index: usize| match &decisions[index].1 {
        Decision::OverQuota { over, behind } => (over.resource, over.kept, behind.map(|job| job.0)),
        other => panic!("{other:?}"),
    };
    assert_eq!(over(0), (Resource::Gpus, 0, None));
    assert_eq!(over(1), (Resource::Gpus, 2, Some(2)));
    assert_eq!(over(2), (Resource::Cpus, 10, Some(2)));
    assert!(matches!(decisions[3].1, Decision::Placed(_)), "what the first does not lack, others may have");
    quotas.give_back("a", &waiting(1, "a", 3, 1).request.total());
    assert_eq!(pass(&mut snapshot, &mut quotas, &queue[..3]), [2, 3]);
}

#[test]
fn who_can_never_run_keeps_no_quota() {
    let mut quotas = Quotas::new(&[("a".to_owned(), limited(12))].into());
    let mut snapshot = cluster(vec![node("n", "X", 8)]);
    // More than the quota, more than a node, and one that fits.
    let queue = [waiting(1, "a", 13, 1), waiting(2, "a", 9, 1), waiting(3, "a", 8, 1)];
    assert_eq!(pass(&mut snapshot, &mut quotas, &queue), [3]);
}

#[test]
fn who_waits_for_nodes_keeps_its_quota() {
    let mut quotas = Quotas::new(&[("a".to_owned(), limited(8))].into());
    let mut snapshot = cluster(vec![node("n", "X", 8), node("o", "X", 2)]);
    assert_eq!(pass(&mut snapshot, &mut quotas, &[waiting(1, "default", 1, 1), waiting(9, "default", 7, 1)]), [1, 9]);
    let queue = [waiting(2, "a", 8, 1), waiting(3, "a", 1, 1), waiting(4, "default", 1, 1)];
    assert_eq!(pass(&mut snapshot, &mut quotas, &queue), [4]);
}

#[test]
fn who_avoids_a_node_for_the_moment_keeps_its_quota_for_it() {
    let mut quotas = Quotas::new(&[("a".to_owned(), limited(8))].into());
    let mut snapshot = cluster(vec![node("n", "X", 8)]);
    assert_eq!(pass(&mut snapshot, &mut quotas, &[waiting(1, "a", 3, 1)]), [1]);
    let vetoed = waiting(2, "a", 8, 1);
    let vetoed = Waiting { request: vetoed.request.avoiding("n".into()), ..vetoed };
    assert_eq!(pass(&mut snapshot, &mut quotas, &[vetoed.clone(), waiting(3, "a", 1, 1)]), [0; 0]);
    quotas.give_back("a", &waiting(1, "a", 3, 1).request.total());
    let mut idle = cluster(vec![node("n", "X", 8)]);
    let forgiven = Waiting { request: vetoed.request.later().into_owned(), ..vetoed };
    assert_eq!(pass(&mut idle, &mut quotas, &[forgiven, waiting(3, "a", 1, 1)]), [2]);
}
