use super::super::testing::{Told, at, told};
use super::super::{CheckedPart, Checks, Found, Mode, Modes};
use super::*;
use crate::domain::fault::FaultKind;
use crate::domain::gpu::GpuDriver;
use std::collections::BTreeSet;

fn port(state: PortState) -> InfinibandPort {
    InfinibandPort {
        number: 1,
        state: Some(state),
        phys_state: Some(if state == PortState::Down { PhysState::Polling } else { PhysState::LinkUp }),
        rate_mbps: Some(if state == PortState::Down { 10_000 } else { 400_000 }),
        link_layer: None,
        counters: BTreeMap::from([("link_downed".to_owned(), 0), ("symbol_error".to_owned(), 0)]),
    }
}

fn counting(name: &str, value: u64) -> InfinibandPort {
    let mut port = port(PortState::Active);
    port.counters.insert(name.to_owned(), value);
    port
}

fn device(ports: Vec<InfinibandPort>) -> InfinibandDevice {
    let (name, pci) = ("mlx5_0".to_owned(), Some("0000:18:00.0".to_owned()));
    InfinibandDevice { name, pci, firmware: None, hca_type: None, ports }
}

/// A node with nothing else, looked at so often.
struct Node {
    checks: Checks,
    round: usize,
}

impl Node {
    fn new() -> Self {
        let modes = Modes::new(Check::ALL.iter().map(|check| (*check, Mode::Enforce)));
        Self { checks: Checks::new(modes), round: 0 }
    }

    fn look(&mut self, devices: Option<&[InfinibandDevice]>) -> Found {
        let (driver, busy, utilization) = (GpuDriver::default(), BTreeSet::new(), BTreeMap::new());
        self.round += 1;
        self.checks.look(&Look {
            seen: at(self.round),
            gpus: None,
            driver: &driver,
            expected_gpus: None,
            known: &[],
            busy: &busy,
            utilization: &utilization,
            pci: None,
            infiniband: devices,
            device_users: &Default::default(),
            devices: None,
        })
    }

    /// What is said of the port after `rounds` of it.
    fn after(&mut self, rounds: usize, port: &InfinibandPort) -> Vec<(Verdict, Action)> {
        let devices = [device(vec![port.clone()])];
        let last = (0..rounds).map(|_| self.look(Some(&devices))).last();
        judged(&last.unwrap_or_default())
    }
}

fn judged(found: &Found) -> Vec<(Verdict, Action)> {
    found.observations.iter().map(|seen| (seen.judgement.verdict, seen.judgement.action)).collect()
}

const LINK: (Verdict, Action) = (Verdict::Link, Action::Inspect);

#[test]
fn a_port_that_was_active_and_is_down_is_a_fault_until_it_is_back() {
    let mut node = Node::new();
    assert_eq!(node.after(3, &port(PortState::Active)), []);
    assert_eq!(node.after(1, &port(PortState::Down)), []);
    assert_eq!(node.after(5, &port(PortState::Down)), [LINK]);
    let found = node.look(Some(&[device(vec![port(PortState::Down)])]));
    let subject = &found.observations[0].subject;
    assert_eq!((subject.device.as_deref(), subject.part), (Some("mlx5_0:1"), Part::Device));
    assert_eq!(subject.pci.map(|pci| pci.to_string()), Some("0000:18:00.0".to_owned()));
    assert!(!found.is_clean(FaultKind::Infiniband, subject));
    assert_eq!(node.after(1, &port(PortState::Active)), []);
    // Its error counters have been watched for less than their window until now.
    let later = (0..30).map(|_| node.look(Some(&[device(vec![port(PortState::Active)])]))).last().unwrap();
    assert!(later.clean.contains(&(FaultKind::Infiniband, CheckedPart::Device("mlx5_0:1".to_owned()))));
}

#[test]
fn ports_without_a_cable_and_machines_without_ports_are_fine() {
    let mut node = Node::new();
    assert_eq!(node.after(50, &port(PortState::Down)), []);
    for devices in [Some([].as_slice()), None] {
        let found = node.look(devices);
        assert_eq!(found.observations, []);
        assert!(found.clean.iter().all(|(kind, _)| *kind != FaultKind::Infiniband), "{found:?}");
    }
}

#[test]
fn why_it_is_down_is_told_apart() {
    for (state, phys_state, expected) in [
        (PortState::Init, PhysState::LinkUp, (Verdict::Fabric, Action::Inspect)),
        (PortState::Down, PhysState::Polling, LINK),
        (PortState::Init, PhysState::Training, LINK),
    ] {
        let mut node = Node::new();
        node.after(1, &port(PortState::Active));
        let down = InfinibandPort { phys_state: Some(phys_state), ..port(state) };
        assert_eq!(node.after(2, &down), [expected], "{state:?} {phys_state:?}");
    }
}

#[test]
fn a_port_that_somebody_switched_off_is_not_missed_until_it_is_on_again() {
    let off = |link_downed| InfinibandPort {
        phys_state: Some(PhysState::Disabled),
        link_layer: Some(LinkLayer::Infiniband),
        state: Some(PortState::Down),
        ..counting("link_downed", link_downed)
    };
    let mut node = Node::new();
    node.after(1, &counting("link_downed", 7));
    assert_eq!((node.after(3, &off(8)), node.after(1, &counting("link_downed", 9))), (vec![], vec![]));
    assert_eq!(node.after(3, &off(10)), []);
    // On again, it is trained for a moment, or there is no cable any more.
    let down = InfinibandPort { phys_state: Some(PhysState::Polling), ..off(10) };
    assert_eq!((node.after(1, &down), node.after(1, &down)), (vec![], vec![LINK]));
    // What was a fault before is over by somebody's word.
    let found = node.look(Some(&[device(vec![off(10)])]));
    assert_eq!(judged(&found), []);
    // A network card has the same words for a cable that was pulled.
    let pulled = InfinibandPort { link_layer: Some(LinkLayer::Ethernet), ..off(10) };
    assert_eq!(node.after(2, &pulled), [LINK]);
}

#[test]
fn an_adapter_that_is_gone_is_missed_only_where_it_was_used() {
    let mut node = Node::new();
    node.after(1, &port(PortState::Active));
    assert_eq!(judged(&node.look(Some(&[]))), []);
    assert_eq!(judged(&node.look(Some(&[]))), [(Verdict::Node, Action::Reboot)]);
    // Not looked at is not gone.
    assert_eq!(judged(&node.look(None)), []);
    assert_eq!(node.after(1, &port(PortState::Active)), []);
}

#[test]
fn a_port_that_flaps_is_told_and_condemned_the_third_time() {
    let mut node = Node::new();
    assert_eq!(node.after(1, &counting("link_downed", 7)), []);
    assert_eq!(node.after(1, &counting("link_downed", 8)), [(Verdict::Link, Action::None)]);
    assert_eq!(node.after(9, &counting("link_downed", 9)), [(Verdict::Link, Action::None)]);
    assert_eq!(node.after(2, &counting("link_downed", 10)), [LINK]);
    // An hour later it is forgotten; a counter that somebody set back is no flap.
    assert_eq!(node.after(242, &counting("link_downed", 10)), []);
    assert_eq!(node.after(5, &counting("link_downed", 0)), []);
    assert_eq!(node.after(1, &counting("link_downed", 200)), [LINK]);
}

#[test]
fn a_port_that_is_slower_than_it_was_is_told() {
    let mut node = Node::new();
    let slow = InfinibandPort { rate_mbps: Some(100_000), ..port(PortState::Active) };
    assert_eq!(node.after(20, &slow), []);
    assert_eq!(node.after(1, &port(PortState::Active)), []);
    assert_eq!((node.after(1, &slow), node.after(1, &slow)), (vec![], vec![LINK]));
    assert_eq!(node.after(1, &port(PortState::Active)), []);
}

#[test]
fn errors_are_told_by_their_rate() {
    let after = |name: &str, each: u64| {
        let mut port = Port { was_active: true, ..Port::default() };
        let rounds = (0..42).map(|round: u64| {
            told(&port.errors(&counting(name, 500 + each * round), at(usize::try_from(round).unwrap())))
        });
        rounds.last().unwrap()
    };
    // 20 rounds are one window.
    assert_eq!(after("symbol_error", 0), Told::InOrder);
    assert_eq!(after("symbol_error", 1), Told::Fault(LINK.0, LINK.1));
    assert_eq!(after("port_rcv_errors", 2), Told::InOrder);
    assert_eq!(after("port_rcv_errors", 3), Told::Fault(LINK.0, LINK.1));
    assert_eq!(after("local_link_integrity_errors", 1), Told::Fault(LINK.0, LINK.1));
    assert_eq!(after("port_xmit_wait", 1_000_000), Told::InOrder);
}

#[test]
fn a_port_that_was_active_is_missed_after_a_restart_and_not_after_an_operators_word() {
    let mut before = Node::new();
    before.after(1, &port(PortState::Active));
    let mut node = Node::new();
    node.checks.take_up(&before.checks.worked());
    assert_eq!(node.after(2, &port(PortState::Down)), [LINK]);
    let slow = InfinibandPort { rate_mbps: Some(100_000), ..port(PortState::Active) };
    assert_eq!(node.after(2, &slow), [LINK]);
    node.checks.forget(FaultKind::Infiniband, &Subject::device("mlx5_0:1"));
    assert_eq!(node.after(9, &port(PortState::Down)), []);
    assert_eq!(node.after(9, &slow), []);
    assert_eq!(node.after(2, &port(PortState::Down)), [LINK], "it has worked again");
}

#[test]
fn ports_are_remembered_up_to_a_number() {
    let mut node = Node::new();
    for number in 0..1000 {
        let one = InfinibandPort { number, ..port(PortState::Active) };
        node.after(1, &one);
    }
    assert!(node.checks.infiniband.ports.len() <= MOST_PORTS);
}
