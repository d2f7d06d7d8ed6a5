use super::testing::at;
use super::*;
use crate::domain::fault::{Action, Verdict, takes_out_of_use};
use crate::domain::gpu::DriverState;
use crate::domain::gpu::health::*;
use crate::domain::host::{InfinibandPort, LinkLayer, PciLink, PhysState, PortState};
use crate::health::{Clears, Relation};
use proptest::prelude::*;

/// Everything that one round looks at.
#[derive(Debug, Clone, Default)]
struct Node {
    gpus: Option<Vec<DeviceHealth>>,
    driver: GpuDriver,
    expected: Option<u32>,
    known: Vec<Gpu>,
    busy: BTreeSet<GpuUuid>,
    utilization: BTreeMap<GpuUuid, u32>,
    pci: Option<Vec<PciFunction>>,
    infiniband: Option<Vec<InfinibandDevice>>,
    users: BTreeSet<TaskId>,
    devices: Option<Vec<DevicesSeen>>,
}

impl Node {
    fn look(&self, checks: &mut Checks, seen: SeenAt) -> Found {
        checks.look(&Look {
            seen,
            gpus: self.gpus.as_deref(),
            driver: &self.driver,
            expected_gpus: self.expected,
            known: &self.known,
            busy: &self.busy,
            utilization: &self.utilization,
            pci: self.pci.as_deref(),
            infiniband: self.infiniband.as_deref(),
            device_users: &self.users,
            devices: self.devices.as_deref(),
        })
    }
}

fn uuid(number: usize) -> GpuUuid {
    GpuUuid(format!("GPU-{number}"))
}

fn slot(number: usize) -> String {
    format!("0000:{:02x}:00.0", number % 256)
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap()
}

/// Eight GPUs with switches and two ports, in the given round of a life with work and pauses.
fn healthy(round: usize) -> Node {
    let known =
        |number: usize| Gpu { uuid: uuid(number), index: small(number), pci: slot(number + 16), ..Gpu::default() };
    let max_link = Some(PciLink { speed_mts: 32_000, width: 16 });
    let function = |number: usize| PciFunction {
        address: slot(number + 16),
        vendor: 0x10de,
        device: 0x2330,
        class: 0x03_0200,
        driver: Some("nvidia".to_owned()),
        link: None,
        max_link,
    };
    let works = |number: &usize| !(round / 40 + number).is_multiple_of(3);
    let device = |number| DeviceHealth {
        gpu: uuid(number),
        index: small(number),
        answer: Ok(Box::new(at_work(number, round, works(&number)))),
    };
    Node {
        gpus: Some((0..8).map(device).collect()),
        driver: GpuDriver { state: DriverState::Ok, ..GpuDriver::default() },
        expected: Some(8),
        known: (0..8).map(known).collect(),
        // One is held and waits.
        busy: (0..8).filter(works).chain([1]).map(uuid).collect(),
        utilization: (0..8).map(|number| (uuid(number), if works(&number) { 97 } else { 0 })).collect(),
        pci: Some((0..8).map(function).collect()),
        infiniband: Some(vec![adapter(round, "mlx5_0", true), adapter(round, "mlx5_1", false)]),
        ..Node::default()
    }
}

/// A GPU that works, or idles.
fn at_work(number: usize, round: usize, works: bool) -> HealthSnapshot {
    fn known<T>(value: T) -> Reading<T> {
        Reading::Known(value)
    }
    let long = |number: usize| u64::try_from(number).unwrap();
    // A moment of heat now and then; the limit of power nearly always.
    let hot = if round % 10 < 3 { ClockEvents::HW_SLOWDOWN | ClockEvents::HW_THERMAL } else { 0 };
    let clocks = if works { ClockEvents::SW_POWER_CAP | ClockEvents::SW_THERMAL | hot } else { ClockEvents::IDLE };
    let link = |link: usize| NvLink {
        link: small(link),
        is_active: known(link < 12),
        replays: known(long(round / 50)),
        recoveries: known(long(round / 400)),
        crc_flit_errors: known(long(round * 3)),
        crc_data_errors: known(0),
        symbol_errors: known(long(round * 100)),
        ..NvLink::default()
    };
    // Every GPU has two errors of long ago, and a row that was replaced for them.
    HealthSnapshot {
        gpu: uuid(number),
        ecc_mode: known(EccMode { is_on: true, will_be_on: true }),
        ecc: EccErrors {
            volatile_corrected: known(long(round * 2)),
            volatile_uncorrected: known(1),
            aggregate_corrected: known(long(900 + round * 2)),
            aggregate_uncorrected: known(2),
        },
        sram: known(SramEcc { aggregate_uncorrected_parity: 1, ..SramEcc::default() }),
        remapped_rows: known(RemappedRows { uncorrected: 1, ..RemappedRows::default() }),
        recovery_action: known(RecoveryAction::None),
        needs_reset: known(false),
        needs_drain: known(false),
        clock_events: known(ClockEvents(clocks)),
        temperatures: Temperatures { gpu_c: known(if works { 82 } else { 31 }), ..Temperatures::default() },
        nvlinks: known((0..18).map(link).collect()),
        pcie: PcieLink {
            generation: known(if works { 5 } else { 1 }),
            width: known(16),
            max_generation: known(5),
            max_width: known(16),
            device_max_generation: known(5),
            replays: known(long(round / 3)),
        },
        // Two nodes of the fabric were never asked to join.
        fabric: known(Fabric {
            state: if number < 6 { FabricState::Completed } else { FabricState::InProgress },
            status: 0,
            cluster: uuid::Uuid::nil(),
            clique: 0,
            health_mask: if number < 6 { 0x1aa } else { 0 },
        }),
        memory_used_mb: known(if works { 70_000 } else { 4 }),
        processes: known(ProcessMemory { processes: u32::from(works), memory_mb: 69_000, unknown: 0 }),
        ..HealthSnapshot::default()
    }
}

/// One that is in use, and one without a cable.
fn adapter(round: usize, name: &str, is_up: bool) -> InfinibandDevice {
    let count = |each: usize| u64::try_from(round / each).unwrap();
    let port = InfinibandPort {
        number: 1,
        state: Some(if is_up { PortState::Active } else { PortState::Down }),
        phys_state: Some(if is_up { PhysState::LinkUp } else { PhysState::Polling }),
        rate_mbps: Some(if is_up { 400_000 } else { 10_000 }),
        link_layer: Some(LinkLayer::Infiniband),
        counters: BTreeMap::from([
            ("link_downed".to_owned(), 4),
            ("symbol_error".to_owned(), count(10)),
            ("port_rcv_errors".to_owned(), count(5)),
            ("port_xmit_wait".to_owned(), count(1) * 1_000_000),
        ]),
    };
    let (pci, firmware) = (Some("0000:f0:00.0".to_owned()), None);
    InfinibandDevice { name: name.to_owned(), pci, firmware, hca_type: None, ports: vec![port] }
}

fn all_enforced() -> Modes {
    Modes::new(Check::ALL.iter().map(|check| (*check, Mode::Enforce)))
}

#[test]
fn a_healthy_node_at_work_has_nothing_in_a_thousand_rounds() {
    let mut checks = Checks::new(all_enforced());
    for round in 0..1005 {
        let found = healthy(round).look(&mut checks, at(round));
        assert_eq!(found.observations, [], "round {round}");
    }
    let found = healthy(1005).look(&mut checks, at(1005));
    let part = CheckedPart::Gpu(uuid(0));
    let looks = |kind: FaultKind| Check::ALL.iter().any(|check| check.kind() == kind && check.is_of_rounds());
    for kind in FaultKind::ALL.iter().filter(|kind| looks(**kind)) {
        let is_clean = found.clean.iter().any(|(found, _)| found == kind);
        // What this node does not have is not clean either.
        let is_there = !matches!(kind, FaultKind::RetiredPages | FaultKind::DeviceAccess);
        assert_eq!(is_clean, is_there, "{kind}");
    }
    assert!(found.clean.contains(&(FaultKind::Thermal, part)));
}

#[test]
fn a_fault_of_one_gpu_is_told_of_it_alone_with_its_place_and_until_it_is_over() {
    let mut checks = Checks::new(all_enforced());
    let sick = |round| {
        let mut node = healthy(round);
        let gpu = node.gpus.as_mut().unwrap().get_mut(3).unwrap();
        let rows = RemappedRows { is_pending: true, ..RemappedRows::default() };
        gpu.answer.as_mut().unwrap().remapped_rows = Reading::Known(rows);
        node
    };
    healthy(0).look(&mut checks, at(0));
    let subject = Subject { gpu: Some(uuid(3)), ..Subject::gpu_at(slot(19).parse().unwrap()) };
    for round in 1..5 {
        let found = sick(round).look(&mut checks, at(round));
        let [seen] = found.observations.as_slice() else { panic!("{:?}", found.observations) };
        assert_eq!((seen.kind, &seen.subject, seen.seen), (FaultKind::RowRemap, &subject, at(round)));
        assert_eq!((seen.judgement.verdict, seen.judgement.action), (Verdict::Gpu, Action::ResetGpu));
        assert!(!found.is_clean(FaultKind::RowRemap, &subject) && found.is_clean(FaultKind::Thermal, &subject));
    }
    let found = healthy(5).look(&mut checks, at(5));
    assert!(found.observations.is_empty() && found.is_clean(FaultKind::RowRemap, &subject));
    // Also for one that knows the place alone.
    assert!(found.is_clean(FaultKind::RowRemap, &Subject::gpu_at(slot(19).parse().unwrap())));
}

#[test]
fn modes_say_how_far_a_check_goes() {
    let after = |mode| {
        let mut checks = Checks::new(Modes::new([(Check::RecoveryAction, mode)]));
        let mut node = healthy(0);
        let gpu = node.gpus.as_mut().unwrap().first_mut().unwrap();
        gpu.answer.as_mut().unwrap().recovery_action = Reading::Known(RecoveryAction::ResetGpu);
        let found = node.look(&mut checks, at(0));
        let clean = found.clean.iter().filter(|(kind, _)| *kind == FaultKind::RecoveryAction).count();
        (found.observations.first().map(|seen| seen.judgement.clone()), clean)
    };
    let (enforced, clean) = after(Mode::Enforce);
    let enforced = enforced.unwrap();
    assert!(takes_out_of_use(enforced.verdict, enforced.action) && enforced.by_driver && clean > 0);
    let (observed, clean) = after(Mode::Observe);
    let observed = observed.unwrap();
    assert!(!takes_out_of_use(observed.verdict, observed.action) && !observed.by_driver && clean > 0);
    assert!(observed.reason.starts_with(&enforced.reason) && observed.reason.contains("reset_gpu"), "{observed:?}");
    assert_eq!(after(Mode::Off), (None, 0));
}

#[test]
fn what_the_driver_asked_for_is_over_when_it_asks_no_more() {
    let mut checks = Checks::new(Modes::default());
    let asks = |round, action| {
        let mut node = healthy(round);
        let gpu = node.gpus.as_mut().unwrap().first_mut().unwrap();
        gpu.answer.as_mut().unwrap().recovery_action = Reading::Known(action);
        node
    };
    asks(0, RecoveryAction::RebootNode).look(&mut checks, at(0));
    let found = asks(1, RecoveryAction::None).look(&mut checks, at(1));
    let [over] = found.observations.as_slice() else { panic!("{:?}", found.observations) };
    assert_eq!((&over.clears, over.relation), (&Clears::Recovered, Relation::FollowUp));
    assert_eq!(asks(2, RecoveryAction::None).look(&mut checks, at(2)).observations, []);
}

#[test]
fn a_gpu_that_answers_for_a_slice_is_busy_with_it() {
    let mut checks = Checks::new(Modes::default());
    let mut node = healthy(0);
    let slice = Gpu { uuid: "MIG-1".into(), mig_parent: Some(uuid(0)), ..Gpu::default() };
    (node.known, node.busy) = (vec![node.known.swap_remove(0), slice], BTreeSet::from(["MIG-1".into()]));
    let mut gpu = node.gpus.take().unwrap().swap_remove(0);
    let health = gpu.answer.as_mut().unwrap();
    (health.memory_used_mb, health.processes) = (Reading::Known(9999), Reading::Known(ProcessMemory::default()));
    (node.gpus, node.pci, node.expected) = (Some(vec![gpu]), None, None);
    for round in 0..20 {
        assert_eq!(node.look(&mut checks, at(round)).observations, []);
    }
    node.busy.clear();
    let last = (20..30).map(|round| node.look(&mut checks, at(round))).last().unwrap();
    assert_eq!(last.observations.iter().map(|seen| seen.kind).collect::<Vec<_>>(), [FaultKind::MemoryHeld]);
}

#[test]
fn what_was_remembered_of_a_gpu_goes_with_it() {
    let mut checks = Checks::new(Modes::default());
    for number in 0..5000 {
        let device = DeviceHealth { gpu: uuid(number), index: 0, answer: Ok(Box::new(at_work(number, 0, true))) };
        let node = Node { gpus: Some(vec![device]), ..Node::default() };
        node.look(&mut checks, at(number));
        assert_eq!(checks.gpus.len(), 1);
    }
    Node::default().look(&mut checks, at(5001));
    assert!(checks.gpus.is_empty());
}

/// Numbers by chance, from a seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.throw() % u64::try_from(most).unwrap()).unwrap()
    }

    fn flip(&mut self) -> bool {
        self.throw() & 1 == 1
    }

    /// Small ones and all others, the highest among them.
    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => 0,
            1 => self.throw() % 50,
            2 => u64::MAX - self.throw() % 2,
            _ => self.throw(),
        }
    }

    fn short(&mut self) -> u32 {
        u32::try_from(self.number() & 0xffff_ffff).unwrap()
    }

    fn reading<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Reading<T> {
        match self.below(6) {
            0 => Reading::NotSupported,
            1 => Reading::Failed { code: [15, 16, 999][self.below(3)], message: "an error".to_owned() },
            _ => Reading::Known(value(self)),
        }
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(5) > 0).then(|| value(self))
    }

    fn link_end(&mut self) -> LinkEnd {
        let pci = slot(self.below(12) + 16).parse().unwrap();
        [LinkEnd::Gpu(pci), LinkEnd::Gpu(pci), LinkEnd::Switch(pci), LinkEnd::Other(pci)][self.below(4)]
    }

    fn link(&mut self) -> NvLink {
        NvLink {
            link: small(self.below(80)),
            is_active: self.reading(Self::flip),
            far_end: self.maybe(Self::link_end),
            replays: self.reading(Self::number),
            recoveries: self.reading(Self::number),
            crc_flit_errors: self.reading(Self::number),
            crc_data_errors: self.reading(Self::number),
            ecc_data_errors: self.reading(Self::number),
            receive_errors: self.reading(Self::number),
            recoveries_done: self.reading(Self::number),
            recoveries_failed: self.reading(Self::number),
            effective_errors: self.reading(Self::number),
            symbol_errors: self.reading(Self::number),
        }
    }

    fn snapshot(&mut self, gpu: GpuUuid) -> HealthSnapshot {
        HealthSnapshot {
            gpu,
            ecc_mode: Reading::NotSupported,
            ecc: EccErrors {
                volatile_corrected: self.reading(Self::number),
                volatile_uncorrected: self.reading(Self::number),
                aggregate_corrected: self.reading(Self::number),
                aggregate_uncorrected: self.reading(Self::number),
            },
            sram: self.reading(|dice| SramEcc {
                volatile_corrected: dice.number(),
                volatile_uncorrected_parity: dice.number(),
                volatile_uncorrected_sec_ded: dice.number(),
                aggregate_corrected: dice.number(),
                aggregate_uncorrected_parity: dice.number(),
                aggregate_uncorrected_sec_ded: dice.number(),
                threshold_exceeded: dice.flip(),
            }),
            remapped_rows: self.reading(|dice| RemappedRows {
                corrected: dice.short(),
                uncorrected: dice.short(),
                is_pending: dice.flip(),
                has_failed: dice.flip(),
            }),
            retired_pages: RetiredPages {
                single_bit: self.reading(Self::number),
                double_bit: self.reading(Self::number),
                is_pending: self.reading(Self::flip),
            },
            recovery_action: self.reading(|dice| RecoveryAction::of_number(dice.number())),
            needs_reset: self.reading(Self::flip),
            needs_drain: self.reading(Self::flip),
            clock_events: self.reading(|dice| ClockEvents(dice.number())),
            temperatures: Temperatures { gpu_c: self.reading(Self::short), ..Temperatures::default() },
            nvlinks: self.reading(|dice| (0..dice.below(90)).map(|_| dice.link()).collect()),
            pcie: PcieLink {
                generation: self.reading(Self::short),
                width: self.reading(Self::short),
                max_generation: self.reading(Self::short),
                max_width: self.reading(Self::short),
                device_max_generation: self.reading(Self::short),
                replays: self.reading(Self::number),
            },
            fabric: self.reading(|dice| Fabric {
                state: [FabricState::NotStarted, FabricState::Completed, FabricState::Other(9)][dice.below(3)],
                status: dice.short(),
                cluster: uuid::Uuid::nil(),
                clique: 0,
                health_mask: dice.short(),
            }),
            memory_used_mb: self.reading(Self::number),
            processes: self.reading(|dice| ProcessMemory { processes: dice.short(), ..ProcessMemory::default() }),
        }
    }

    fn device(&mut self) -> DeviceHealth {
        let gpu = uuid(self.below(6));
        let answer = match self.below(5) {
            0 => {
                let why = [NoAnswer::Lost, NoAnswer::Hung, NoAnswer::Failed][self.below(3)];
                Err(NoSnapshot { why, sentence: "asked, and no answer".to_owned() })
            }
            _ => Ok(Box::new(self.snapshot(gpu.clone()))),
        };
        DeviceHealth { gpu, index: 0, answer }
    }

    fn function(&mut self) -> PciFunction {
        let link = |dice: &mut Self| PciLink { speed_mts: dice.short(), width: dice.short() };
        PciFunction {
            address: if self.below(9) == 0 { "?".to_owned() } else { slot(self.below(8)) },
            vendor: 0x10de,
            device: 1,
            class: [0x03_0200, 0x06_8000][self.below(2)],
            driver: [None, Some("nvidia".to_owned()), Some("vfio-pci".to_owned())][self.below(3)].clone(),
            link: None,
            max_link: self.maybe(link),
        }
    }

    fn adapter(&mut self) -> InfinibandDevice {
        let state = |dice: &mut Self| [PortState::Active, PortState::Down, PortState::Init][dice.below(3)];
        let port = |dice: &mut Self| InfinibandPort {
            number: small(dice.below(3)),
            state: dice.maybe(state),
            phys_state: dice.maybe(|dice| [PhysState::LinkUp, PhysState::Disabled][dice.below(2)]),
            rate_mbps: dice.maybe(Self::number),
            link_layer: None,
            counters: ["link_downed", "symbol_error", "port_rcv_errors"]
                .map(|name| (name.to_owned(), dice.number()))
                .into(),
        };
        let ports = (0..self.below(3)).map(|_| port(self)).collect();
        let name = format!("mlx5_{}", self.below(200));
        InfinibandDevice { name, pci: self.maybe(|dice| slot(dice.below(9))), firmware: None, hca_type: None, ports }
    }

    fn node(&mut self) -> Node {
        let gpu = |number| Gpu { uuid: uuid(number), pci: slot(number), ..Gpu::default() };
        let state = if self.below(4) == 0 { DriverState::ALL[self.below(8)] } else { DriverState::Ok };
        Node {
            gpus: self.maybe(|dice| (0..dice.below(7)).map(|_| dice.device()).collect()),
            driver: GpuDriver { state, ..GpuDriver::default() },
            expected: self.maybe(Self::short),
            known: (0..6).filter(|_| self.below(5) > 0).map(gpu).collect(),
            busy: (0..6).filter(|_| self.flip()).map(uuid).collect(),
            utilization: (0..6).map(|number| (uuid(number), self.short())).collect(),
            pci: self.maybe(|dice| (0..dice.below(8)).map(|_| dice.function()).collect()),
            infiniband: self.maybe(|dice| (0..dice.below(4)).map(|_| dice.adapter()).collect()),
            ..Node::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Whatever devices say: it is borne, what is wrong is not clean, and only what is known is said.
    #[test]
    fn any_life_is_borne(seed in any::<u64>(), steps in prop::collection::vec(0..100_u64, 1..60)) {
        let mut dice = Dice(seed);
        let modes = Modes::new(Check::ALL.iter().map(|check| (*check, Mode::ALL[dice.below(3)])));
        let mut checks = Checks::new(modes.clone());
        let mut seconds = 0;
        for step in steps {
            seconds += step;
            let boot_us = dice.maybe(|_| seconds * 1_000_000);
            let node = dice.node();
            let found = node.look(&mut checks, SeenAt { boot_us, ..SeenAt::default() });
            for seen in &found.observations {
                let is_over = seen.clears != Clears::Nothing;
                prop_assert!(is_over || !found.is_clean(seen.kind, &seen.subject), "{seen:?}");
                prop_assert!(!seen.evidence.is_empty() && !seen.judgement.reason.is_empty(), "{seen:?}");
                let checks = Check::ALL.iter().filter(|check| check.kind() == seen.kind);
                let reach = checks.map(|check| modes.of(*check)).max_by_key(|mode| *mode as u8);
                prop_assert_ne!(reach, Some(Mode::Off));
                let taken = takes_out_of_use(seen.judgement.verdict, seen.judgement.action);
                prop_assert!(reach == Some(Mode::Enforce) || !taken, "{:?} {:?}", reach, seen);
                let known = node.known.iter().find(|gpu| Some(&gpu.uuid) == seen.subject.gpu.as_ref());
                prop_assert!(known.is_none() || seen.subject.pci.is_some(), "{seen:?}");
            }
            prop_assert!(checks.gpus.len() <= 6);
        }
    }
}

#[test]
fn a_task_that_lost_its_devices_is_named_and_its_end_ends_the_fault() {
    use crate::domain::host::DeviceNode;
    let task: TaskId = "7.9.0.1".parse().unwrap();
    let with = |is_allowed| {
        let node = DeviceNode {
            name: "nvidia0".to_owned(),
            on_host: Some((195, 0)),
            inside: Some((195, 0)),
            is_allowed: Some(is_allowed),
        };
        let devices = Some(vec![DevicesSeen { task, nodes: vec![node] }]);
        Node { users: BTreeSet::from([task]), devices, ..Node::default() }
    };
    let mut checks = Checks::default();
    let (subject, kind) = (Subject::device("task 7.9.0.1"), FaultKind::DeviceAccess);
    assert!(with(true).look(&mut checks, at(0)).is_clean(kind, &subject));
    with(false).look(&mut checks, at(1));
    let found = with(false).look(&mut checks, at(2));
    let [seen] = found.observations.as_slice() else { panic!("{:?}", found.observations) };
    assert_eq!((seen.kind, &seen.subject, seen.task), (kind, &subject, Some(task)));
    assert!(!takes_out_of_use(seen.judgement.verdict, seen.judgement.action), "no GPU is condemned for it");
    assert!(seen.evidence.contains("does not allow /dev/nvidia0, device 195:0"), "{}", seen.evidence);
    // Nobody could look, then the task is gone.
    let unseen = Node { users: BTreeSet::from([task]), ..Node::default() };
    assert!(!unseen.look(&mut checks, at(3)).is_clean(kind, &subject));
    let gone = Node { devices: Some(Vec::new()), ..Node::default() };
    assert!(gone.look(&mut checks, at(4)).is_clean(kind, &subject));
}
