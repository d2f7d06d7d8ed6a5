//! What is kept from pass to pass only saves time: decisions are those of a snapshot that knows nothing of before.

use super::property::{clusters, picture, requests};
use super::*;
use std::cmp::Reverse;

/// Made the slow way: the nodes by what is free, and the same nodes with nothing on them.
fn check_what_is_kept(snapshot: &mut Snapshot) {
    let mut order: Vec<usize> = (0..snapshot.nodes().len()).collect();
    order.sort_by_key(|at| {
        let node = &snapshot.nodes()[*at];
        (Reverse(node.gpus_free()), Reverse(node.cpus_free()), *at)
    });
    assert_eq!(snapshot.by_room().collect::<Vec<usize>>(), order);
    let emptied = snapshot.emptied(false);
    let lent = snapshot.lend_empty();
    assert_eq!(picture(&lent), picture(&emptied));
    assert_eq!(lent.by_free_gpus(), emptied.by_free_gpus());
    for (at, node) in lent.nodes().iter().enumerate() {
        assert_eq!((node.state, lent.ports_of(at)), (emptied.nodes()[at].state, emptied.ports_of(at)));
    }
    snapshot.take_back(lent);
}

#[derive(Debug, Clone)]
struct Step {
    queue: Vec<Request>,
    /// Who is released after the pass, and which node changes its state.
    released: Vec<proptest::sample::Index>,
    changed: Option<(u32, bool)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let released = proptest::collection::vec(any::<proptest::sample::Index>(), 0..6);
    let changed = proptest::option::of((0u32..6, any::<bool>()));
    let step = (proptest::collection::vec(requests(), 0..8), released, changed)
        .prop_map(|(queue, released, changed)| Step { queue, released, changed });
    proptest::collection::vec(step, 1..8)
}

proptest! {
    #[test]
    fn passes_decide_as_if_each_were_the_first(nodes in clusters(), steps in steps()) {
        let mut kept = Snapshot::new(nodes);
        let mut promises: Vec<Promise> = Vec::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut next = 1;
        for step in steps {
            for request in step.queue {
                let (job, submitted_at) = (JobId(next), Timestamp(0));
                waiting.push(Waiting { job, priority: 0, submitted_at, not_before: None, request });
                next += 1;
            }
            // A copy has nothing to go by but what is promised.
            let mut copy = kept.clone();
            let decisions = schedule(&mut kept, &waiting, Timestamp(0));
            prop_assert_eq!(&decisions, &schedule(&mut copy, &waiting, Timestamp(0)));
            prop_assert_eq!(picture(&kept), picture(&copy));
            check_what_is_kept(&mut kept);
            let mut left = Vec::new();
            for (waiting, (job, decision)) in waiting.into_iter().zip(decisions) {
                match decision {
                    Decision::Placed(placements) => {
                        let gang = gang(&kept, job.0, &waiting.request, &placements);
                        promises.extend(gang.into_iter().map(|(_, promise)| promise));
                    }
                    _ => left.push(waiting),
                }
            }
            waiting = left;
            for released in step.released {
                if !promises.is_empty() {
                    let promise = promises.swap_remove(released.index(promises.len()));
                    kept.give_back(&promise);
                }
            }
            if let Some((node, ready)) = step.changed {
                let state = if ready { NodeState::Ready } else { NodeState::Unreachable };
                let name = NodeName(format!("n{node}"));
                prop_assert_eq!(kept.set_state(&name, state), kept.node(&name).is_some());
                prop_assert!(kept.node(&name).is_none_or(|node| node.state == state));
            }
            check_what_is_kept(&mut kept);
        }
    }
}
