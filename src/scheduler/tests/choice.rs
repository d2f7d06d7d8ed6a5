//! Which node.

use super::*;

#[test]
fn tasks_pack_and_leave_whole_nodes() {
    let mut snapshot = cluster(vec![node("a", "X", 8), node("b", "X", 8)]);
    let first = place(&mut snapshot, &request(vec![role(1, 6)])).unwrap();
    assert_eq!(nodes_of(&first), ["a"]);
    assert_eq!(nodes_of(&place(&mut snapshot, &request(vec![role(2, 1)])).unwrap()), ["a", "a"]);
    assert_eq!(nodes_of(&place(&mut snapshot, &request(vec![role(1, 8)])).unwrap()), ["b"]);
}

#[test]
fn tasks_without_gpus_stay_off_free_gpus() {
    let mut snapshot = cluster(vec![node("a", "X", 8), node("b", "X", 0)]);
    assert_eq!(nodes_of(&place(&mut snapshot, &request(vec![role(64, 0)])).unwrap()), ["b"; 64]);
    assert_eq!(nodes_of(&place(&mut snapshot, &request(vec![role(1, 0)])).unwrap()), ["a"], "better than waiting");
}

#[test]
fn of_equally_full_nodes_the_better_connected_is_chosen() {
    let mut snapshot = cluster(vec![node_on("a", "a", "X", 2, |_, _| LinkKind::System), node("b", "X", 2)]);
    assert_eq!(nodes_of(&place(&mut snapshot, &request(vec![role(1, 2)])).unwrap()), ["b"]);
}

#[test]
fn types_are_respected_and_preferred_in_order_within_a_node() {
    let mut mixed = node("c", "P100", 4);
    for slot in &mut mixed.gpus[2..] {
        slot.gpu.gpu_type = "V100".to_owned();
    }
    let mut snapshot = cluster(vec![node("a", "H100", 8), mixed]);
    let asked = |types: &[&str], gpus| Request {
        gpu_types: types.iter().map(|kind| (*kind).to_owned()).collect(),
        ..request(vec![role(1, gpus)])
    };
    let placed = place(&mut snapshot, &asked(&["V100", "P100"], 2)).unwrap();
    assert_eq!(placed[0].gpus, ["GPU-c-2".into(), "GPU-c-3".into()]);
    assert_eq!(place(&mut snapshot, &asked(&["T4"], 1)), Err(Unplaced { role: 0, placed: 0 }));
    assert_eq!(nodes_of(&place(&mut snapshot, &asked(&["jd_h100"], 1)).unwrap()), ["a"]);
}

#[test]
fn a_device_divided_into_slices_is_not_given_out_itself() {
    let mut divided = node("a", "X", 3);
    let gpus: Vec<Gpu> = divided.gpus.iter().map(|slot| slot.gpu.clone()).collect();
    let parent = gpus[0].uuid.clone();
    let slice = |gpu: &Gpu| Gpu { mig_parent: Some(parent.clone()), ..gpu.clone() };
    let inventory = inventory(vec![gpus[0].clone(), slice(&gpus[1]), slice(&gpus[2])], Topology::default());
    divided = NodeSnapshot::new(divided.name, "a", NodeState::Ready, &inventory);
    let placed = place(&mut cluster(vec![divided]), &request(vec![role(1, 2)])).unwrap();
    assert_eq!(placed[0].gpus, ["GPU-a-1".into(), "GPU-a-2".into()]);
}

#[test]
fn equal_fixed_ports_never_share_a_host() {
    let fixed = |count| RoleRequest {
        ports: vec![PortSpec { label: "p".to_owned(), begin_at: 8000, count: 2 }],
        ..role(count, 0)
    };
    let nodes = || vec![node_on("a", "h", "X", 1, nvswitch), node_on("b", "h", "X", 1, nvswitch), node("c", "X", 1)];
    let placed = place(&mut cluster(nodes()), &request(vec![fixed(2)])).unwrap();
    assert_eq!(nodes_of(&placed), ["a", "c"]);
    assert_eq!(placed[1].ports[0].ports, [8000, 8001]);
    assert_eq!(place(&mut cluster(nodes()), &request(vec![fixed(3)])), Err(Unplaced { role: 0, placed: 2 }));
}

#[test]
fn roles_that_fit_in_another_order_only_are_placed() {
    let (mut small, mut large) = (node("a", "X", 1), node("b", "X", 2));
    small.cpus_total = 16;
    large.cpus_total = 8;
    let server = RoleRequest { cpus: 16, ..role(1, 0) };
    let worker = RoleRequest { cpus: 4, ..role(1, 1) };
    let placed = place(&mut cluster(vec![small, large]), &request(vec![worker, server])).unwrap();
    assert_eq!(nodes_of(&placed), ["b", "a"], "in role order, whatever the order tried");
}

fn labelled(name: &str, gpus: u32, labels: &[(&str, &str)]) -> NodeSnapshot {
    let mut node = node(name, "X", gpus);
    node.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    node
}

#[test]
fn a_selector_leaves_nodes_out() {
    let nodes = vec![
        labelled("a1", 2, &[("zone", "a")]),
        labelled("a2", 2, &[("zone", "a"), ("spot", "")]),
        node("b", "X", 2),
    ];
    let selector = |text: &str| serde_json::from_str::<NodeSelector>(text).unwrap();
    for (text, expected) in [
        (r#"{"labels": {"zone": ["a"]}}"#, vec!["a1", "a2"]),
        (r#"{"labels": {"zone": ["a"]}, "without": {"spot": ["*"]}}"#, vec!["a1"]),
        (r#"{"without": {"zone": ["*"]}}"#, vec!["b"]),
        (r#"{"names": ["a*"], "avoid": ["a1"]}"#, vec!["a2"]),
        (r#"{"labels": {"zone": ["c"]}}"#, vec![]),
    ] {
        let request = Request { selector: selector(text), ..request(vec![role(1, 2)]) };
        let mut snapshot = cluster(nodes.clone());
        let mut found = Vec::new();
        while let Ok(placed) = place(&mut snapshot, &request) {
            found.push(placed[0].node.0.clone());
        }
        assert_eq!(found, expected, "{text}");
        // Known to the snapshot or not, it is the same.
        assert_eq!(explain(&cluster(nodes.clone()), &request).is_empty(), !expected.is_empty(), "{text}");
    }
    let wanted = Request {
        selector: selector(r#"{"labels": {"zone": ["a"]}, "avoid": ["a1"]}"#),
        ..request(vec![role(2, 2)])
    };
    let reasons = explain(&cluster(nodes), &wanted);
    let texts: Vec<[&str; 4]> = reasons[1..]
        .iter()
        .map(|reason| [reason.node.as_deref().unwrap_or("-"), &reason.reason, &reason.need, &reason.have])
        .collect();
    assert_eq!(texts, [["a1", "node_name", "not a1", "a1"], ["b", "labels", "zone is a", "no zone"]]);
}

#[test]
fn a_spread_gang_has_as_many_nodes_as_there_are() {
    let spread = |roles| Request { arrangement: Arrangement::Spread, ..request(roles) };
    let nodes = || ["a", "b", "c"].map(|name| node(name, "X", 4)).to_vec();
    let mut snapshot = cluster(nodes());
    place(&mut snapshot, &request(vec![role(1, 2)])).unwrap();
    // a has 2 free: the emptiest first, then whoever has the fewest tasks of the gang.
    assert_eq!(nodes_of(&place(&mut snapshot, &spread(vec![role(5, 1)])).unwrap()), ["b", "c", "a", "b", "c"]);
    let mut snapshot = cluster(nodes());
    let placed = place(&mut snapshot, &spread(vec![role(2, 2), role(2, 1)])).unwrap();
    assert_eq!(nodes_of(&placed), ["a", "b", "c", "c"], "roles of a gang keep apart, too");
    let full = place(&mut cluster(nodes()), &spread(vec![role(12, 1)])).unwrap();
    assert_eq!(full.len(), 12, "and it fits wherever packing does");
    assert_eq!(place(&mut cluster(nodes()), &spread(vec![role(13, 1)])), Err(Unplaced { role: 0, placed: 12 }));
    let mut mixed = cluster([nodes(), vec![node("d", "X", 0), node("e", "X", 0)]].concat());
    assert_eq!(nodes_of(&place(&mut mixed, &spread(vec![role(3, 0)])).unwrap()), ["d", "e", "d"]);
}

#[test]
fn jobs_without_gpus_leave_free_gpus_their_part() {
    // 64 CPUs and 512,000 MB for 8 GPUs: with 50 percent, 4 CPUs and 32,000 MB for each that is free.
    let kept =
        |cpus, count| Request { kept_for_gpus_percent: 50, ..request(vec![RoleRequest { cpus, ..role(count, 0) }]) };
    let mut snapshot = cluster(vec![node("a", "X", 8)]);
    assert_eq!(place(&mut snapshot, &kept(33, 1)), Err(Unplaced { role: 0, placed: 0 }));
    assert_eq!(explain(&snapshot, &kept(33, 1))[1].reason, "kept_for_gpus");
    assert_eq!(explain(&snapshot, &kept(33, 1))[1].have, "32 CPUs, 256000 MB beside what its 8 free GPUs keep");
    place(&mut snapshot, &kept(16, 2)).unwrap();
    assert_eq!(place(&mut snapshot, &kept(1, 1)), Err(Unplaced { role: 0, placed: 0 }));
    // GPUs in use keep nothing, and whoever uses them may take less than its part.
    place(&mut snapshot, &request(vec![role(4, 1)])).unwrap();
    place(&mut snapshot, &kept(12, 1)).unwrap();
    assert_eq!(place(&mut snapshot, &kept(1, 1)), Err(Unplaced { role: 0, placed: 0 }));
    // A gang with GPUs, and who keeps nothing, may have the rest.
    place(&mut snapshot, &Request { kept_for_gpus_percent: 50, ..request(vec![role(1, 1), role(1, 0)]) }).unwrap();
    place(&mut snapshot, &request(vec![role(1, 0)])).unwrap();
    let memory =
        Request { kept_for_gpus_percent: 50, ..request(vec![RoleRequest { memory_mb: 256_001, ..role(1, 0) }]) };
    assert_eq!(place(&mut cluster(vec![node("a", "X", 8)]), &memory), Err(Unplaced { role: 0, placed: 0 }));
    assert_eq!(
        nodes_of(&place(&mut cluster(vec![node("a", "X", 8), node("b", "X", 0)]), &kept(33, 1)).unwrap()),
        ["b"]
    );
}

#[test]
fn what_only_the_part_of_gpus_forbids_is_told_apart() {
    let kept = |cpus| Request { kept_for_gpus_percent: 50, ..request(vec![RoleRequest { cpus, ..role(1, 0) }]) };
    let mut empty = EmptyCluster::of(&cluster(vec![node("a", "X", 8)]));
    let limits = |cpus| Quotas::new(&[("q".to_owned(), Limits { cpus: Some(cpus), ..Limits::default() })].into());
    let mut judge = |cpus| empty.judge(&kept(cpus), &Quotas::default());
    assert_eq!(
        (judge(32), judge(33), judge(64)),
        (Feasibility::Possible, Feasibility::BesideGpuJobs, Feasibility::BesideGpuJobs)
    );
    assert!(matches!(judge(65), Feasibility::NoNodes(reasons) if reasons[1].reason == "cpus"));
    let queued = Request { virtual_cluster: "q".to_owned(), ..kept(32) };
    assert!(
        matches!(empty.judge(&queued, &limits(31)), Feasibility::OverQuota(over) if (over.need, over.limit) == (32, 31))
    );
    assert_eq!(empty.judge(&queued, &limits(32)), Feasibility::Possible);
    assert_eq!(empty.judge(&queued, &limits(32)), Feasibility::Possible, "a judgement leaves nothing behind");
}
