//! Any cluster, any sequence of requests and releases.

use super::*;

pub(super) fn clusters() -> impl Strategy<Value = Vec<NodeSnapshot>> {
    let links: [Links; 2] = [nvswitch, pcie_pairs];
    let one = (0u32..10, 0usize..2, 0usize..2, 0u32..12, any::<bool>(), 0u32..4);
    proptest::collection::vec(one, 0..6).prop_map(move |nodes| {
        let made = nodes.into_iter().enumerate().map(|(at, (gpus, layout, kind, cpus, ready, host))| {
            let host = format!("h{host}");
            let mut node = node_on(&format!("n{at}"), &host, ["X", "Y"][kind], gpus, links[layout]);
            node.cpus_total = cpus;
            node.memory_mb_total = 20_000;
            node.ports = 15000..=15011;
            node.labels = [("zone".to_owned(), ["a", "b"][at % 2].to_owned())].into();
            node.state = if ready { NodeState::Ready } else { NodeState::Cordoned };
            node
        });
        made.collect()
    })
}

pub(super) fn requests() -> impl Strategy<Value = Request> {
    let role = (1u32..4, 0u32..5, 0u32..4, 0u64..9000, 0u16..3, any::<bool>()).prop_map(
        |(count, gpus, cpus, memory_mb, ports, fixed)| {
            let mut needs = vec![PortSpec { label: "a".to_owned(), begin_at: 0, count: ports }];
            if fixed {
                needs.insert(0, PortSpec { label: "f".to_owned(), begin_at: 15004, count: 2 });
            }
            RoleRequest { name: "r".to_owned(), count, cpus, memory_mb, gpus, ports: needs }
        },
    );
    let types = proptest::sample::select(vec![vec![], vec!["X"], vec!["Y", "X"], vec!["jd_y"]]);
    let avoid = proptest::collection::btree_set(0u32..6, 0..2);
    let zones = proptest::sample::select(vec![vec![], vec![], vec![], vec!["a"], vec!["a", "b"]]);
    let manners =
        (proptest::sample::select(Arrangement::ALL.to_vec()), proptest::sample::select(vec![0, 0, 50, 100]));
    (proptest::collection::vec(role, 1..3), types, avoid, zones, manners).prop_map(
        |(roles, types, avoid, zones, (arrangement, kept_for_gpus_percent))| {
            let zones: Vec<String> = zones.into_iter().map(str::to_owned).collect();
            let labels = if zones.is_empty() { BTreeMap::new() } else { [("zone".to_owned(), zones)].into() };
            Request {
                roles,
                gpu_types: types.into_iter().map(str::to_owned).collect(),
                avoid: avoid.into_iter().map(|at| NodeName(format!("n{at}"))).collect(),
                selector: NodeSelector { labels, ..NodeSelector::default() },
                arrangement,
                kept_for_gpus_percent,
                ..Request::default()
            }
        },
    )
}

/// The state as a text, without what only speeds up or varies the next search.
pub(super) fn picture(snapshot: &Snapshot) -> String {
    (0..snapshot.nodes().len())
        .map(|at| format!("{:?} {:?}\n", snapshot.nodes()[at].gpus, snapshot.ports_of(at).used))
        .zip(snapshot.nodes())
        .map(|(text, node)| format!("{} {} {} {text}", node.name, node.cpus_free(), node.memory_mb_free()))
        .collect()
}

pub(super) fn check_gang(snapshot: &Snapshot, request: &Request, placements: &[Placement]) {
    let expected: Vec<(u32, u32)> =
        (0u32..).zip(&request.roles).flat_map(|(at, role)| (0..role.count).map(move |index| (at, index))).collect();
    let found: Vec<(u32, u32)> = placements.iter().map(|placement| (placement.role, placement.index)).collect();
    assert_eq!(found, expected, "every task once, in order");
    for placement in placements {
        let role = &request.roles[placement.role as usize];
        let node = snapshot.node(&placement.node).unwrap();
        assert_eq!(node.state, NodeState::Ready);
        assert!(!request.avoid.contains(&placement.node));
        assert_eq!(request.selector.check(&node.name.0, &node.labels), Ok(()));
        assert_eq!(placement.gpus.len(), role.gpus as usize);
        for gpu in &placement.gpus {
            let slot = node.gpus.iter().find(|slot| slot.gpu.uuid == *gpu).unwrap();
            let accepted = request.gpu_types.iter().any(|want| type_matches(want, &slot.gpu.gpu_type));
            assert!(request.gpu_types.is_empty() || accepted);
        }
        for (need, got) in role.ports.iter().zip(&placement.ports) {
            assert_eq!((&need.label, usize::from(need.count)), (&got.label, got.ports.len()));
            if need.begin_at == 0 {
                assert!(got.ports.iter().all(|port| node.ports.contains(port)));
            } else {
                assert_eq!(got.ports, (need.begin_at..need.begin_at + need.count).collect::<Vec<u16>>());
            }
        }
    }
}

proptest! {
    #[test]
    fn gangs_are_placed_whole_within_what_there_is(
        nodes in clusters(),
        steps in proptest::collection::vec((requests(), any::<proptest::sample::Index>(), any::<bool>()), 1..12),
    ) {
        let mut promises: BTreeMap<TaskId, Promise> = BTreeMap::new();
        let mut snapshot = Snapshot::new(nodes.clone());
        for (job, (request, victim, release)) in (1u64..).zip(steps) {
            let before = picture(&snapshot);
            let mut twin = snapshot.clone();
            let result = place(&mut snapshot, &request);
            prop_assert_eq!(&result, &place(&mut twin, &request), "deterministic");
            match result {
                Ok(placements) => {
                    check_gang(&snapshot, &request, &placements);
                    prop_assert!(!promises.is_empty() || request.keeps_for_gpus().is_some() || explain(&Snapshot::new(nodes.clone()), &request).is_empty(),
                        "what fits a busy cluster fits the empty one");
                    promises.extend(gang(&snapshot, job, &request, &placements));
                }
                Err(_) => {
                    prop_assert_eq!(&before, &picture(&snapshot), "nothing is taken for a gang that does not fit");
                    prop_assert!(!explain(&snapshot, &request).is_empty());
                }
            }
            check_promises(&nodes, promises.values());
            let tasks: Vec<TaskId> = promises.keys().copied().collect();
            if release && !tasks.is_empty() {
                let given_back = promises.remove(&tasks[victim.index(tasks.len())]).unwrap();
                snapshot.give_back(&given_back);
            }
            let anew = rebuilt(&nodes, promises.values());
            prop_assert_eq!(picture(&snapshot), picture(&anew), "kept and rebuilt snapshots agree");
            prop_assert_eq!(snapshot.by_free_gpus(), anew.by_free_gpus());
        }
    }

    #[test]
    fn the_queue_places_as_if_one_by_one_and_never_more(nodes in clusters(), queue in proptest::collection::vec(requests(), 0..8)) {
        let waiting: Vec<Waiting> = (1u64..)
            .zip(queue)
            .map(|(job, request)| Waiting {
                job: JobId(job), priority: 0, submitted_at: Timestamp(0), not_before: None, request,
            })
            .collect();
        let mut snapshot = cluster(nodes.clone());
        let mut promises = Vec::new();
        let decisions = schedule(&mut snapshot, &waiting, Timestamp(0));
        prop_assert_eq!(decisions.len(), waiting.len());
        for (waiting, (job, decision)) in waiting.iter().zip(&decisions) {
            prop_assert_eq!(waiting.job, *job);
            let Decision::Placed(placements) = decision else { continue };
            check_gang(&snapshot, &waiting.request, placements);
            promises.extend(gang(&snapshot, job.0, &waiting.request, placements).into_iter().map(|(_, promise)| promise));
        }
        check_promises(&nodes, &promises);
        prop_assert_eq!(picture(&snapshot), picture(&rebuilt(&nodes, &promises)), "what is tried leaves no trace");
    }
}
