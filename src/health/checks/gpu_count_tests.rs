use super::super::testing::at;
use super::super::{Checks, Found, Modes};
use super::*;
use crate::domain::fault::FaultKind;
use crate::domain::gpu::GpuDriver;
use crate::domain::gpu::health::HealthSnapshot;
use crate::domain::ids::GpuUuid;

fn slot(number: usize) -> String {
    format!("0000:{number:02x}:00.0")
}

fn gpu(number: usize) -> Gpu {
    // As NVML writes them.
    let pci = format!("00000000:{number:02X}:00.0");
    Gpu { uuid: GpuUuid(format!("GPU-{number}")), pci, ..Gpu::default() }
}

fn answers(number: usize) -> DeviceHealth {
    let index = u32::try_from(number).unwrap();
    DeviceHealth { gpu: gpu(number).uuid, index, answer: Ok(Box::new(HealthSnapshot::default())) }
}

fn on_bus(number: usize, driver: Option<&str>) -> PciFunction {
    let (link, max_link, driver) = (None, None, driver.map(str::to_owned));
    PciFunction { address: slot(number), vendor: 0x10de, device: 1, class: 0x03_0200, driver, link, max_link }
}

/// What is there in each round.
struct Node {
    known: Vec<Gpu>,
    shown: Vec<DeviceHealth>,
    bus: Vec<PciFunction>,
    expected: Option<u32>,
    state: DriverState,
}

impl Node {
    /// Three GPUs, of which the driver and the bus have these.
    fn new(shown: &[usize], bus: &[usize]) -> Self {
        Self {
            known: (0..3).map(gpu).collect(),
            shown: shown.iter().copied().map(answers).collect(),
            bus: bus.iter().map(|number| on_bus(*number, Some("nvidia"))).collect(),
            expected: Some(3),
            state: DriverState::Ok,
        }
    }

    fn look(&self, checks: &mut Checks, round: usize) -> Found {
        let driver = GpuDriver { state: self.state, ..GpuDriver::default() };
        let (busy, utilization) = Default::default();
        checks.look(&Look {
            seen: at(round),
            gpus: Some(&self.shown),
            driver: &driver,
            expected_gpus: self.expected,
            known: &self.known,
            busy: &busy,
            utilization: &utilization,
            pci: Some(&self.bus),
            infiniband: None,
            device_users: &Default::default(),
            devices: None,
        })
    }

    /// The last of some rounds.
    fn after(&self, rounds: usize) -> Found {
        let mut checks = Checks::new(Modes::default());
        (0..rounds).map(|round| self.look(&mut checks, round)).last().unwrap()
    }

    fn told(&self) -> Vec<(Option<GpuUuid>, Option<String>, Verdict, Action)> {
        assert_eq!(self.after(1).observations, [], "one round is too early");
        let of = |seen: crate::health::Observation| {
            let pci = seen.subject.pci.map(|pci| pci.to_string());
            (seen.subject.gpu, pci, seen.judgement.verdict, seen.judgement.action)
        };
        let counted = |seen: &crate::health::Observation| seen.kind == FaultKind::GpuCount;
        self.after(2).observations.into_iter().filter(counted).map(of).collect()
    }
}

#[test]
fn a_gpu_that_is_missing_is_told_at_its_place_and_no_other() {
    let missing = |number| (Some(gpu(number).uuid), Some(slot(number)), Verdict::Gpu, Action::Reboot);
    assert_eq!(Node::new(&[0, 2], &[0, 1, 2]).told(), [missing(1)]);
    assert_eq!(Node::new(&[0, 2], &[0, 2]).told(), [missing(1)]);
    assert_eq!(Node::new(&[], &[0, 1, 2]).told(), [missing(0), missing(1), missing(2)]);
    let found = Node::new(&[0, 2], &[0, 1, 2]).after(2);
    let is_clean = |number| found.is_clean(FaultKind::GpuCount, &Subject::gpu_at(slot(number).parse().unwrap()));
    assert_eq!((is_clean(0), is_clean(1), is_clean(2)), (true, false, true));
}

#[test]
fn nothing_is_missed_where_all_is_there() {
    assert_eq!(Node::new(&[0, 1, 2], &[0, 1, 2]).told(), []);
    // Nobody said how many, or fewer than there are.
    assert_eq!(Node { expected: None, ..Node::new(&[0, 1, 2], &[0, 1, 2]) }.told(), []);
    assert_eq!(Node { expected: Some(1), ..Node::new(&[0, 1, 2], &[0, 1, 2]) }.told(), []);
    // A machine that does not show its bus.
    assert_eq!(Node::new(&[0, 1, 2], &[]).told(), []);
    // One that answers and is lost is another check's.
    assert!(Node::new(&[0, 1, 2], &[0, 1, 2]).after(2).is_clean(FaultKind::GpuCount, &Subject::default()));
}

#[test]
fn what_belongs_to_others_and_what_nobody_has_takes_nothing_out_of_use() {
    let mut node = Node::new(&[0, 1, 2], &[0, 1, 2]);
    node.bus.push(on_bus(7, Some("vfio-pci")));
    node.bus.push(PciFunction { class: 0x04_0300, ..on_bus(8, None) });
    assert_eq!(node.told(), []);
    node.bus.push(on_bus(9, None));
    assert_eq!(node.told(), [(None, Some(slot(9)), Verdict::Unknown, Action::Inspect)]);
}

#[test]
fn fewer_than_the_operator_says_is_told_of_the_node_with_their_places() {
    let node = Node { expected: Some(4), ..Node::new(&[0, 1, 2], &[0, 1, 2]) };
    assert_eq!(node.told(), [(None, None, Verdict::Unknown, Action::Reboot)]);
    let evidence = node.after(2).observations[0].evidence.clone();
    for part in ["4 expected", "3 shown", "3 on the PCI bus", "0000:01:00.0"] {
        assert!(evidence.contains(part), "{evidence}");
    }
    // Where one has a fault of its own the number says nothing more.
    assert_eq!(Node::new(&[0, 1], &[0, 1, 2]).told().len(), 1);
    let unloaded = Node { state: DriverState::DriverNotLoaded, ..Node::new(&[], &[0, 1, 2]) };
    assert_eq!(unloaded.told(), [(None, None, Verdict::Unknown, Action::Reboot)]);
}

#[test]
fn a_driver_that_cannot_say_misses_nothing() {
    for state in [DriverState::Hung, DriverState::Stopped] {
        assert_eq!(Node { state, ..Node::new(&[], &[0, 1, 2]) }.told(), [], "{state:?}");
    }
}

#[test]
fn the_only_gpu_is_missed_on_a_bus_that_showed_it() {
    let mut node = Node { known: vec![gpu(0)], expected: None, ..Node::new(&[0], &[0]) };
    let mut checks = Checks::new(Modes::default());
    assert_eq!(node.look(&mut checks, 0).observations, []);
    (node.shown, node.bus) = (vec![], vec![]);
    assert_eq!(node.look(&mut checks, 1).observations, []);
    assert_eq!(node.look(&mut checks, 2).observations.len(), 1);
}
