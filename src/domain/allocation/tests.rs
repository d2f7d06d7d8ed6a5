//! One GPU, one port, one holder; all or nothing; the same again changes nothing.

use super::*;
use crate::domain::ids::{JobId, RunId};
use proptest::prelude::*;

fn task(index: u32) -> TaskId {
    TaskId { job: JobId(1), run: RunId(1), role: 0, index }
}

fn claim(gpus: &[&str], ports: &[u16], cpus: u32, memory_mb: u64) -> Claim {
    let gpus = gpus.iter().map(|gpu| GpuUuid::from(*gpu)).collect();
    Claim { gpus, ports: ports.to_vec(), cpus, memory_mb, ..Claim::default() }
}

fn ledger() -> Ledger {
    Ledger::new(8, 1000, &["G0".into(), "G1".into(), "G2".into()], 15000..=15009)
}

const G1: Generation = Generation(1);

#[test]
fn what_one_task_holds_another_cannot_have() {
    let mut ledger = ledger();
    ledger.hold(task(0), G1, claim(&["G0"], &[15000], 4, 600)).unwrap();
    let veto = ledger.hold(task(1), G1, claim(&["G0"], &[], 0, 0)).unwrap_err();
    assert_eq!(veto, Veto::Gpu { gpu: "G0".into(), holder: task(0) });
    assert_eq!(veto.to_string(), "GPU G0 is held by task 1.1.0.0");
    let veto = ledger.hold(task(1), G1, claim(&["G1"], &[15000], 0, 0)).unwrap_err();
    assert_eq!(veto, Veto::Port { port: 15000, holder: task(0) });
    let veto = ledger.hold(task(1), G1, claim(&["G1"], &[], 5, 0)).unwrap_err();
    assert_eq!(veto, Veto::Cpus { need: 5, free: 4 });
    let veto = ledger.hold(task(1), G1, claim(&["G1"], &[], 0, 401)).unwrap_err();
    assert_eq!(veto, Veto::MemoryMb { need: 401, free: 400 });
    let veto = ledger.hold(task(1), G1, claim(&["G9"], &[], 0, 0)).unwrap_err();
    assert_eq!(veto, Veto::GpuUnknown { gpu: "G9".into() });
    assert_eq!(ledger.gpus_free(), [GpuUuid::from("G1"), "G2".into()], "a veto holds nothing");
    assert_eq!((ledger.cpus_free(), ledger.memory_mb_free(), ledger.ports_free()), (4, 400, 9));
    assert!(ledger.release(task(0)));
    assert!(!ledger.release(task(0)));
    ledger.hold(task(1), G1, claim(&["G0"], &[15000], 8, 1000)).unwrap();
    assert_eq!(ledger.holder_of_gpu(&"G0".into()), Some(task(1)));
}

#[test]
fn the_same_claim_again_is_the_same_and_another_is_an_error() {
    let mut ledger = ledger();
    let first = claim(&["G0"], &[1], 1, 1);
    ledger.hold(task(0), G1, first.clone()).unwrap();
    ledger.hold(task(0), G1, first.clone()).unwrap();
    let other = ledger.hold(task(0), G1, claim(&["G1"], &[1], 1, 1)).unwrap_err();
    assert_eq!(other, Veto::OtherClaim { task: task(0), generation: G1 });
    let newer = ledger.hold(task(0), Generation(2), first).unwrap_err();
    assert_eq!(newer, Veto::OtherGeneration { task: task(0), held: G1, asked: Generation(2) });
    assert_eq!(ledger.held().count(), 1);
}

#[test]
fn a_slice_and_its_device_exclude_each_other() {
    let mut ledger = Ledger::new(8, 1000, &["G0".into(), "M0".into(), "M1".into()], 1..=1);
    ledger.set_mig_parent("M0".into(), "G0".into());
    ledger.set_mig_parent("M1".into(), "G0".into());
    ledger.hold(task(0), G1, claim(&["M0"], &[], 0, 0)).unwrap();
    ledger.hold(task(1), G1, claim(&["M1"], &[], 0, 0)).unwrap();
    let veto = ledger.hold(task(2), G1, claim(&["G0"], &[], 0, 0)).unwrap_err();
    assert_eq!(veto, Veto::GpuRelative { gpu: "G0".into(), relative: "M0".into(), holder: task(0) });
    ledger.release(task(0));
    ledger.release(task(1));
    assert!(matches!(ledger.hold(task(2), G1, claim(&["M0", "G0"], &[], 0, 0)), Err(Veto::GpuTwice { .. })));
    ledger.hold(task(2), G1, claim(&["G0"], &[], 0, 0)).unwrap();
    assert!(matches!(ledger.hold(task(0), G1, claim(&["M0"], &[], 0, 0)), Err(Veto::GpuRelative { .. })));
}

#[test]
fn an_unavailable_gpu_stays_with_its_holder_and_takes_no_other() {
    let mut ledger = ledger();
    ledger.hold(task(0), G1, claim(&["G0"], &[], 0, 0)).unwrap();
    ledger.mark_unavailable(&"G0".into(), "fault 7");
    assert_eq!(ledger.holder_of_gpu(&"G0".into()), Some(task(0)));
    ledger.release(task(0));
    let veto = ledger.hold(task(1), G1, claim(&["G0"], &[], 0, 0)).unwrap_err();
    assert_eq!(veto, Veto::GpuUnavailable { gpu: "G0".into(), reason: "fault 7".to_owned() });
    assert!(ledger.mark_available(&"G0".into()));
    ledger.hold(task(1), G1, claim(&["G0"], &[], 0, 0)).unwrap();
}

#[test]
fn a_restored_claim_counts_even_if_its_gpu_is_gone() {
    let mut ledger = ledger();
    let veto = ledger.restore(task(0), G1, claim(&["G9"], &[15001], 20, 0));
    assert_eq!(veto, Some(Veto::GpuUnknown { gpu: "G9".into() }));
    assert_eq!(ledger.holder_of_gpu(&"G9".into()), Some(task(0)));
    assert_eq!((ledger.cpus_free(), ledger.ports_free()), (0, 9));
}

#[test]
fn a_users_tasks_together_keep_the_nodes_limits() {
    let per_user =
        UserLimits { cpus: Some(4), memory_mb: Some(500), shm_mb: Some(64), gpus: Some(1), ports: Some(2) };
    let mut ledger = ledger();
    ledger.limit_users(per_user, "/etc/wharf/agent.toml");
    let of = |user: &str, shm_mb, claim: Claim| Claim { user: user.to_owned(), shm_mb, ..claim };
    ledger.hold(task(0), G1, of("ada", 64, claim(&["G0"], &[15000, 15001], 4, 500))).unwrap();
    for (rule, wanted) in [
        ("policy.per_user.cpus", of("ada", 0, claim(&[], &[], 1, 0))),
        ("policy.per_user.memory_mb", of("ada", 0, claim(&[], &[], 0, 1))),
        ("policy.per_user.shm_mb", of("ada", 1, claim(&[], &[], 0, 0))),
        ("policy.per_user.gpus", of("ada", 0, claim(&["G1"], &[], 0, 0))),
        ("policy.per_user.ports", of("ada", 0, claim(&[], &[15002], 0, 0))),
        ("policy.per_user.cpus", of("bob", 0, claim(&[], &[], 5, 0))),
    ] {
        let veto = ledger.hold(task(1), G1, wanted).map(|()| rule).unwrap_err();
        let said = veto.to_string();
        // Bob's is more than is free as well, and that goes first.
        let cpus_free = matches!(veto, Veto::Cpus { need: 5, free: 4 });
        assert!(cpus_free || said.contains(rule) && said.contains("/etc/wharf/agent.toml"), "{said}");
    }
    ledger.hold(task(1), G1, of("bob", 64, claim(&["G1"], &[15002, 15003], 4, 500))).unwrap();
    ledger.release(task(0));
    ledger.hold(task(2), G1, of("ada", 64, claim(&["G0"], &[15000], 1, 1))).unwrap();
    assert_eq!(
        ledger
            .restore(task(3), G1, of("ada", 9, claim(&[], &[], 0, 0)))
            .map(|veto| veto.to_string())
            .map(|said| said.contains("policy.per_user.shm_mb")),
        Some(true),
        "what runs is held all the same"
    );
}

#[derive(Debug, Clone)]
enum Op {
    Hold { task: u32, generation: u64, gpus: Vec<usize>, ports: Vec<u16>, cpus: u32 },
    Release { task: u32 },
}

fn ops() -> impl Strategy<Value = Op> {
    let hold = (
        0u32..5,
        1u64..3,
        proptest::collection::vec(0usize..4, 0..3),
        proptest::collection::vec(1u16..6, 0..3),
        0u32..5,
    )
        .prop_map(|(task, generation, gpus, ports, cpus)| Op::Hold { task, generation, gpus, ports, cpus });
    prop_oneof![3 => hold, 1 => (0u32..5).prop_map(|task| Op::Release { task })]
}

proptest! {
    #[test]
    fn nothing_is_ever_held_twice(ops in proptest::collection::vec(ops(), 0..40)) {
        let names = ["G0", "M0", "M1", "G1"];
        let mut ledger = Ledger::new(8, 1000, &names.map(GpuUuid::from), 1..=5);
        ledger.set_mig_parent("M0".into(), "G0".into());
        ledger.set_mig_parent("M1".into(), "G0".into());
        for op in ops {
            match op {
                Op::Hold { task: index, generation, gpus, ports, cpus } => {
                    let gpus: Vec<&str> = gpus.into_iter().map(|gpu| names[gpu]).collect();
                    let before: Vec<_> = ledger.held().map(|(task, held)| (task, held.clone())).collect();
                    let result = ledger.hold(task(index), Generation(generation), claim(&gpus, &ports, cpus, 0));
                    if result.is_err() {
                        let after: Vec<_> = ledger.held().map(|(task, held)| (task, held.clone())).collect();
                        prop_assert_eq!(before, after);
                    }
                }
                Op::Release { task: index } => {
                    ledger.release(task(index));
                }
            }
            let held: Vec<GpuUuid> = ledger.held().flat_map(|(_, held)| held.claim.gpus.clone()).collect();
            let distinct: BTreeSet<&GpuUuid> = held.iter().collect();
            prop_assert_eq!(held.len(), distinct.len());
            let slices = held.iter().any(|gpu| gpu.0.starts_with('M'));
            prop_assert!(!(slices && held.contains(&"G0".into())));
            let mut ports = BTreeSet::new();
            for (_, held) in ledger.held() {
                for port in held.claim.ports.iter().copied().collect::<BTreeSet<u16>>() {
                    prop_assert!(ports.insert(port));
                }
            }
            prop_assert!(ledger.held().map(|(_, held)| held.claim.cpus).sum::<u32>() <= 8);
        }
    }
}
