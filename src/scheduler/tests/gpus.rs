//! Which GPUs of a node.

use super::*;
use crate::gpu::GpuSource;
use crate::gpu::sim::SimGpus;
use crate::scheduler::gpus::{Quality, choose};

/// NVLinks of a DGX-1V board.
fn cube_mesh(a: u32, b: u32) -> LinkKind {
    const ONE: [(u32, u32); 8] = [(0, 1), (0, 2), (1, 3), (2, 6), (3, 7), (4, 5), (4, 6), (5, 7)];
    const TWO: [(u32, u32); 8] = [(0, 3), (0, 4), (1, 2), (1, 5), (2, 3), (4, 7), (5, 6), (6, 7)];
    match (ONE.contains(&(a, b)), TWO.contains(&(a, b))) {
        (true, _) => LinkKind::NvLink { lanes: 1 },
        (_, true) => LinkKind::NvLink { lanes: 2 },
        _ => pcie_pairs(a, b),
    }
}

#[test]
fn the_best_connected_gpus_are_chosen_and_the_best_are_left() {
    let cases: [(Links, &[usize], usize, &[usize]); 16] = [
        (nvswitch, &[0, 1, 2, 3, 4, 5, 6, 7], 2, &[0, 1]),
        // All NVLink: the same socket breaks the tie.
        (nvswitch, &[1, 4, 5], 2, &[4, 5]),
        (nvswitch, &[3, 4, 5, 6, 7], 4, &[4, 5, 6, 7]),
        (nvswitch, &[0, 4, 5, 6], 1, &[0]),
        (cube_mesh, &[0, 1, 2, 3, 4, 5, 6, 7], 4, &[0, 1, 2, 3]),
        (cube_mesh, &[0, 1, 4, 5], 2, &[0, 4]),
        (cube_mesh, &[0, 1, 2], 2, &[1, 2]),
        (cube_mesh, &[0, 1, 2, 3], 3, &[0, 2, 3]),
        (cube_mesh, &[0, 5, 6], 1, &[0]),
        (pcie_pairs, &[0, 1, 2, 3, 4, 5, 6, 7], 2, &[0, 1]),
        (pcie_pairs, &[1, 2, 3], 2, &[2, 3]),
        (pcie_pairs, &[0, 1, 2], 1, &[2]),
        (pcie_pairs, &[0, 2, 4, 5, 6, 7], 4, &[4, 5, 6, 7]),
        (pcie_pairs, &[1, 3, 4], 2, &[1, 3]),
        (pcie_pairs, &[0, 1, 2, 3, 4, 5], 3, &[0, 1, 2]),
        (pcie_pairs, &[5], 1, &[5]),
    ];
    for (links, free, count, expected) in cases {
        let node = node_on("a", "a", "X", 8, links);
        let (set, _) = choose(&node, free, count).unwrap();
        assert_eq!(set, expected, "{count} of {free:?}");
    }
}

#[test]
fn more_gpus_than_can_be_searched_are_chosen_greedily() {
    let node = node_on("a", "a", "X", 16, pcie_pairs);
    let free: Vec<usize> = (1..16).collect();
    assert_eq!(choose(&node, &free, 4).unwrap().0, [4, 5, 6, 7]);
    assert_eq!(choose(&node, &free, 1).unwrap().0, [1]);
    assert_eq!(choose(&node, &free, 15).unwrap().0, free);
    assert!(choose(&node, &free, 16).is_none());
}

/// Two boards of four without NVLinks between them.
fn islands(a: u32, b: u32) -> LinkKind {
    if a / 4 == b / 4 { LinkKind::NvLink { lanes: 4 } } else { LinkKind::System }
}

#[test]
fn what_is_broken_already_is_used_up_first() {
    let cases: [(&[usize], usize, &[usize]); 6] = [
        (&[0, 1, 2, 3, 4, 5, 6], 2, &[4, 5]),
        (&[0, 1, 2, 3, 6, 7], 2, &[6, 7]),
        (&[0, 1, 2, 3, 5], 1, &[5]),
        (&[1, 2, 3, 4, 5, 6, 7], 3, &[1, 2, 3]),
        (&[2, 3, 4, 5, 6, 7], 4, &[4, 5, 6, 7]),
        (&[2, 3, 4, 5, 6, 7], 1, &[2]),
    ];
    let node = node_on("a", "a", "X", 8, islands);
    for (free, count, expected) in cases {
        assert_eq!(choose(&node, free, count).unwrap().0, expected, "{count} of {free:?}");
    }
}

#[test]
fn what_has_failed_a_job_is_left_out_and_kept_from_nobody_else() {
    let mut snapshot = cluster(vec![node("a", "X", 2)]);
    let avoiding = Request { avoid_gpus: ["GPU-a-0".into()].into(), ..request(vec![role(1, 1)]) };
    assert_eq!(place(&mut snapshot, &avoiding).unwrap()[0].gpus, ["GPU-a-1".into()]);
    let why = explain(&snapshot, &avoiding);
    assert_eq!(why[1].have, "0 free of 2 (1 held, 1 left out after hardware faults)");
    let waiting = |job: u64, request: Request| Waiting {
        job: JobId(job),
        priority: 0,
        submitted_at: Timestamp(i64::try_from(job).unwrap()),
        not_before: None,
        request,
    };
    let queue = [waiting(1, avoiding), waiting(2, request(vec![role(1, 1)]))];
    let decisions = schedule(&mut snapshot, &queue, Timestamp(0));
    assert!(matches!(decisions[0].1, Decision::Blocked { .. }), "{decisions:?}");
    let Decision::Placed(placements) = &decisions[1].1 else { panic!("{decisions:?}") };
    assert_eq!(placements[0].gpus, ["GPU-a-0".into()]);
}

#[test]
fn the_slices_of_a_device_that_is_left_out_are_left_out() {
    let avoiding = |gpu: &str| Request { avoid_gpus: [gpu.into()].into(), ..Request::default() };
    let slice = Gpu { uuid: "MIG-1".into(), mig_parent: Some("GPU-1".into()), ..Gpu::default() };
    assert!(
        avoiding("GPU-1").avoids(&slice) && avoiding("MIG-1").avoids(&slice) && !avoiding("MIG-2").avoids(&slice)
    );
    assert!(avoiding("GPU-1").later().avoid_gpus.is_empty());
}

async fn simulated(machine: &str) -> NodeSnapshot {
    let gpus = SimGpus::new(SimGpus::parse(machine).unwrap(), "seed");
    let (devices, topology) = gpus.devices().await.unwrap();
    NodeSnapshot::new("a".into(), "a", NodeState::Ready, &inventory(devices, topology))
}

#[tokio::test]
async fn known_machines_of_sixteen_are_divided_along_their_boards() {
    let all: Vec<usize> = (0..16).collect();
    let without = |taken: &[usize]| all.iter().copied().filter(|at| !taken.contains(at)).collect::<Vec<_>>();
    let cases: [(&str, &[usize], &[usize]); 11] = [
        // Two boards of a DGX-1V, four cards of each fully connected.
        ("16xV100", &[], &[0, 1, 2, 3, 4, 5, 6, 7]),
        ("16xV100", &[3], &[8, 9, 10, 11, 12, 13, 14, 15]),
        ("16xV100", &[], &[0, 1, 2, 3]),
        ("16xV100", &[0], &[4, 5, 6, 7]),
        // NVLinks everywhere: the sockets are left whole.
        ("16xH100", &[], &[0, 1, 2, 3, 4, 5, 6, 7]),
        ("16xH100", &[10, 11, 12, 13, 14, 15], &[8, 9]),
        ("16xH100", &[0, 1], &[2, 3, 4, 5]),
        // Two below each switch, eight to a socket.
        ("16xL40S", &[], &[0, 1, 2, 3]),
        ("16xL40S", &[0], &[2, 3, 4, 5]),
        ("16xL40S", &[0, 1, 2, 9], &[10, 11, 12, 13, 14, 15]),
        ("16xL40S", &[0, 3], &[1]),
    ];
    for (machine, taken, expected) in cases {
        let node = simulated(machine).await;
        let (set, _) = choose(&node, &without(taken), expected.len()).unwrap();
        assert_eq!(set, expected, "{} of {machine} without {taken:?}", expected.len());
    }
}

#[test]
fn nodes_of_hundreds_of_slices_are_no_puzzle() {
    let link = |a, b| if a / 8 == b / 8 { LinkKind::PcieSwitch } else { LinkKind::System };
    let node = node_on("a", "a", "X", 224, link);
    let free: Vec<usize> = (0..224).filter(|at| *at != 100).collect();
    assert_eq!(choose(&node, &free, 7).unwrap().0, [96, 97, 98, 99, 101, 102, 103], "one is in use already");
    assert_eq!(choose(&node, &free, 8).unwrap().0, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(choose(&node, &free, 64).unwrap().0.len(), 64);
    assert_eq!(choose(&node, &free, 1).unwrap().0, [101]);
}

fn kinds() -> impl Strategy<Value = LinkKind> {
    proptest::sample::select(vec![
        LinkKind::System,
        LinkKind::NumaNode,
        LinkKind::PcieSwitch,
        LinkKind::NvLink { lanes: 1 },
        LinkKind::NvLink { lanes: 2 },
    ])
}

/// What a set is worth: itself, then what it leaves.
fn worth(node: &NodeSnapshot, free: &[usize], set: &[usize]) -> (Quality, u128) {
    let left: Vec<usize> = free.iter().copied().filter(|at| !set.contains(at)).collect();
    let quality = |set: &[usize]| choose(node, set, set.len()).unwrap().1;
    (quality(set), quality(&left).total)
}

/// The best that one exchange makes of a set.
fn exchanged(node: &NodeSnapshot, free: &[usize], set: &[usize]) -> Option<Vec<usize>> {
    let mut best: Option<Vec<usize>> = None;
    for place in 0..set.len() {
        for with in free.iter().filter(|at| !set.contains(at)) {
            let mut other = set.to_vec();
            other[place] = *with;
            if worth(node, free, &other) > worth(node, free, best.as_deref().unwrap_or(set)) {
                best = Some(other);
            }
        }
    }
    best
}

proptest! {
    #[test]
    fn no_exchange_betters_a_choice_nor_do_exchanges_alone_find_a_better_class(
        table in proptest::collection::vec(kinds(), 14 * 14),
        taken in proptest::collection::btree_set(0usize..14, 0..5),
        count in 1usize..14,
    ) {
        let node = node_on("a", "a", "X", 14, |a, b| table[a as usize * 14 + b as usize]);
        let free: Vec<usize> = (0..14).filter(|at| !taken.contains(at)).collect();
        let count = count.min(free.len());
        let (set, quality) = choose(&node, &free, count).unwrap();
        prop_assert_eq!(choose(&node, &free, count).unwrap(), (set.clone(), quality), "deterministic");
        prop_assert!(set.is_sorted() && set.len() == count && set.iter().all(|at| free.contains(at)));
        prop_assert_eq!(exchanged(&node, &free, &set), None, "of {:?}", set);
        let mut other = free[..count].to_vec();
        while let Some(better) = exchanged(&node, &free, &other) {
            other = better;
        }
        prop_assert!(quality.worst >= worth(&node, &free, &other).0.worst, "{set:?}, but {other:?}");
    }

    #[test]
    fn on_boards_below_switches_the_best_class_is_found(
        board in 2u32..6,
        taken in proptest::collection::btree_set(0usize..14, 0..5),
        count in 1usize..14,
    ) {
        let link = move |a, b| match (a / 2 == b / 2, a / board == b / board) {
            (true, true) => LinkKind::NvLink { lanes: 4 },
            (false, true) => LinkKind::PcieSwitch,
            _ => LinkKind::System,
        };
        let node = node_on("a", "a", "X", 14, link);
        let free: Vec<usize> = (0..14).filter(|at| !taken.contains(at)).collect();
        let count = count.min(free.len());
        let sets = (0u32..1 << free.len()).filter(|mask| mask.count_ones() as usize == count);
        let members = |mask: u32| free.iter().enumerate().filter(move |(bit, _)| mask & (1 << bit) != 0).map(|(_, at)| *at);
        let worst = |mask: u32| {
            let set: Vec<usize> = members(mask).collect();
            let pairs = (0..set.len()).flat_map(|at| (0..at).map(move |before| (at, before)));
            pairs.map(|(a, b)| node.link(set[a], set[b])).min()
        };
        let best = sets.map(worst).max().unwrap();
        let (set, _) = choose(&node, &free, count).unwrap();
        let mask = free.iter().enumerate().filter(|(_, at)| set.contains(at)).map(|(bit, _)| 1 << bit).sum();
        prop_assert_eq!(worst(mask), best, "{:?}", set);
    }
}
