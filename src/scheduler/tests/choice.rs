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
