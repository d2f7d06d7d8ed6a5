//! Logs as they come, and the faults that they are.

use super::open::{EVIDENCE_BYTES, EVIDENCE_LINES};
use super::*;
use crate::domain::fault::Verdict;
use crate::domain::ids::{JobId, RunId, TaskId};
use crate::health::kernel_log::{Parser, Record};
use crate::health::table::Table;
use crate::health::verdict::RecoveryAction;
use crate::health::{Heard, heard};
use proptest::prelude::*;

const SAMPLES: &str = include_str!("../../../tests/data/kernel-log/samples.log");

struct Log {
    parser: Parser,
    faults: Faults,
    order: u64,
}

impl Log {
    fn new() -> Self {
        Self::limited(Limits::default())
    }

    fn limited(limits: Limits) -> Self {
        Self { parser: Parser::default(), faults: Faults::new(FaultId(1), limits), order: 0 }
    }

    fn line(&mut self, line: &str) -> Vec<Change> {
        self.line_with(line, &|_| None)
    }

    fn line_with(&mut self, line: &str, driver: &dyn Fn(PciAddress) -> Option<RecoveryAction>) -> Vec<Change> {
        let record = Record::from_line(line);
        let mut changes = Vec::new();
        for seen in self.parser.parse(&record) {
            self.order += 1;
            match heard(seen, &record, self.order, Table::builtin(), driver) {
                Heard::Observation(observation) => changes.extend(self.faults.observe(*observation)),
                Heard::Identity { pci, uuid } => self.faults.identify(None, pci, uuid),
                Heard::Suppressed { .. } | Heard::Nothing => {}
            }
        }
        changes
    }

    /// Code, verdict, action, count, related of every fault.
    fn told(&self) -> Vec<(Option<u32>, Verdict, Action, u64, u64)> {
        self.faults
            .iter()
            .map(|fault| (fault.code, fault.verdict, fault.action, fault.count, fault.related))
            .collect()
    }
}

fn of(lines: &[&str]) -> Log {
    let mut log = Log::new();
    for line in lines {
        log.line(line);
    }
    log
}

const GPU: &str = "NVRM: Xid (PCI:0000:52:00)";

#[test]
fn a_bad_row_and_what_follows_is_one_fault() {
    let log = of(&[
        &format!(
            "[430954.509105] {GPU}: 48, pid='<unknown>', name=<unknown>, DBE at physAddr 0x18f31d80 partition 16"
        ),
        &format!("[430954.532443] {GPU}: 63, Row Remapper: New row (0x0000000018f31d80) marked for remapping"),
        &format!("[430954.533994] {GPU}: 94, pid=77, name=python, Contained: SM (0x1). RST: No, D-RST: No"),
    ]);
    assert_eq!(log.told(), [(Some(48), Verdict::Gpu, Action::ResetGpu, 1, 2)]);
    let fault = log.faults.iter().next().unwrap();
    assert_eq!((fault.evidence.len(), fault.pid, fault.process.as_deref()), (3, Some(77), Some("python")));
    assert_eq!((fault.first_seen_boot_us, fault.last_seen_boot_us), (Some(430_954_509_105), Some(430_954_533_994)));
}

#[test]
fn another_row_another_gpu_or_much_later_is_another_fault() {
    let first = format!("[10.0] {GPU}: 48, DBE at physAddr 0x18f31d80");
    for later in [
        format!("[10.1] {GPU}: 63, New row (0x0000000000000001) marked"),
        "[10.1] NVRM: Xid (PCI:0000:53:00): 63, New row (0x0000000018f31d80) marked".to_owned(),
        format!("[100.0] {GPU}: 63, New row (0x0000000018f31d80) marked"),
        format!("[10.1] {GPU}: 48, DBE at physAddr 0x9"),
        format!("[10.1] {GPU}: 119, Timeout"),
    ] {
        assert_eq!(of(&[&first, &later]).told().len(), 2, "{later}");
    }
}

#[test]
fn the_drivers_word_goes_to_what_it_is_about() {
    let log = of(&[
        "[1.0] NVRM: Xid (PCI:0000:97:00): 119, pid=5220, name=cache, Timeout after 45s of waiting",
        "[2.0] NVRM: Xid (PCI:0000:97:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)",
        "[3.0] NVRM: Xid (PCI:0000:98:00): 51, BAD_TSG encountered",
        "[4.0] NVRM: Xid (PCI:0000:98:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (PF FLR)",
        "[5.0] NVRM: GPU0 nvAssertOkFailedNoLog: Assertion failed: Reset required [NV_ERR_RESET_REQUIRED]",
        "[6.0] NVRM: Xid (PCI:0000:99:00): 13, pid=1, name=a, Graphics Exception",
        "[7.0] NVRM: Xid (PCI:0000:99:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
    ]);
    assert_eq!(
        log.told(),
        [
            (Some(119), Verdict::Gpu, Action::Reboot, 1, 1),
            (Some(51), Verdict::Gpu, Action::ResetGpu, 1, 2),
            (Some(13), Verdict::Application, Action::RestartApp, 1, 0),
            (Some(154), Verdict::Gpu, Action::ResetGpu, 1, 0),
        ]
    );
}

#[test]
fn the_driver_may_change_its_mind_and_take_its_word_back() {
    let mut log = Log::new();
    let changed = |from, to| format!("{GPU}: 154, GPU recovery action changed from 0x{from} (a) to 0x{to} (b)");
    log.line(&changed(0, 4));
    assert_eq!(log.line(&changed(4, 2)), [Change::Raised(FaultId(1))]);
    assert_eq!(log.told(), [(Some(154), Verdict::Gpu, Action::Reboot, 2, 0)]);
    assert_eq!(log.line(&changed(2, 0)), [Change::Cleared(FaultId(1))]);
    assert_eq!(log.line(&changed(2, 0)), []);
    assert!(log.faults.iter().all(|fault| fault.state == FaultState::Cleared && !fault.takes_out_of_use()));
    assert_eq!(log.line(&changed(0, 1)), [Change::Opened(FaultId(2))]);
}

#[test]
fn a_gpu_that_is_gone_is_one_fault_in_either_order() {
    let (xid, line) =
        (format!("{GPU}: 79, GPU has fallen off the bus."), "NVRM: GPU 0000:52:00.0: GPU has fallen off the bus.");
    for lines in [[xid.as_str(), line], [line, xid.as_str()]] {
        let mut log = of(&lines);
        log.line(&format!("{GPU}: 119, Timeout after 6s"));
        log.line(&format!("{GPU}: 79, GPU has fallen off the bus."));
        let told = log.told();
        assert_eq!(
            (told.len(), told[0].0, told[0].1, told[0].2),
            (1, Some(79), Verdict::Gpu, Action::Reboot),
            "{lines:?}"
        );
        assert_eq!(log.faults.iter().next().unwrap().kind, FaultKind::Xid);
    }
    let alone = of(&[line]);
    assert_eq!(alone.told(), [(None, Verdict::Gpu, Action::Reboot, 1, 0)]);
}

#[test]
fn forty_five_is_never_a_cause() {
    let log = of(&[
        &format!("{GPU}: 45, pid=1, name=a, Ch 00000008"),
        &format!("{GPU}: 149, NETIR_LINK_EVT Fatal XC0 i0 Link 00 (0x0)"),
        &format!("{GPU}: 45, pid=2, name=b, Ch 00000009 caused by previous Xid 149"),
        &format!("{GPU}: 45, pid=3, name=c, Ch 00000010"),
    ]);
    assert_eq!(
        log.told(),
        [(Some(45), Verdict::Unknown, Action::None, 1, 0), (Some(149), Verdict::Link, Action::ResetGpu, 1, 2),]
    );
}

#[test]
fn slices_of_one_gpu_are_apart() {
    let slice = |instance, code| {
        format!(
            "NVRM: Xid (PCI:0000:3b:00 GPU-I:0{instance}): {code}, pid=9, name=a, Contained: SM. RST: No, D-RST: No"
        )
    };
    let log = of(&[&slice(1, 94), &slice(2, 94), &slice(1, 94), &slice(2, 45)]);
    assert_eq!(log.told().iter().map(|told| (told.3, told.4)).collect::<Vec<_>>(), [(2, 0), (1, 1)]);
}

#[test]
fn more_about_a_switch_is_no_other_fault() {
    let switch = |rest: &str| format!("nvidia-nvswitch0: SXid (PCI:0000:c3:00.0): {rest}");
    let log = of(&[
        &switch("20034, Severity 1 Engine instance 00"),
        &switch("20034, Fatal, Link 30 LTSSM Fault Up"),
        &switch("20034, Severity 1 Engine instance 30 Sub-engine instance 00"),
        &switch("20034, Data {0x50610002, 0x10100030}"),
    ]);
    assert_eq!(log.told(), [(Some(20034), Verdict::Link, Action::Reboot, 1, 2)]);
}

#[test]
fn two_lines_of_one_kill_and_of_one_bus_error_are_one() {
    let log = of(&[
        "[1.0] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg=/w/a,task_memcg=/w/a,task=java,pid=5,uid=0",
        "[1.1] Memory cgroup out of memory: Killed process 5 (java) total-vm:2676kB",
        "[2.0] pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:52:00.0",
        "[2.1] nvidia 0000:52:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer",
        "[2.2] nvidia 0000:52:00.0: AER: can't recover (no error_detected callback)",
    ]);
    let told = log.told();
    assert_eq!(told.iter().map(|told| (told.3, told.4)).collect::<Vec<_>>(), [(1, 1), (1, 2)], "{told:?}");
    assert_eq!((told[1].1, told[1].2), (Verdict::Gpu, Action::Reboot));
}

#[test]
fn a_gpu_is_named_by_what_the_log_said_before_or_after() {
    let mut log = Log::new();
    log.line("NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d");
    log.line("NVRM: Xid (PCI:0000:9b:00): 119, Timeout");
    log.line("pcieport 0000:9a:00.0: AER: Uncorrected (Fatal) error received: 0000:9b:00.0");
    log.line("NVRM: Xid (PCI:0000:9c:00): 119, Timeout");
    log.line("NVRM: GPU at PCI:0000:9c:00: GPU-2");
    let gpus: Vec<_> = log.faults.iter().map(|fault| fault.subject.gpu.clone().map(|gpu| gpu.0)).collect();
    let first = Some("GPU-509665ad-b600-ac93-3616-d754b23d636d".to_owned());
    assert_eq!(gpus, [first.clone(), first, Some("GPU-2".to_owned())]);
    assert_eq!(log.faults.get(FaultId(2)).map(|fault| fault.subject.part), Some(Part::Gpu));
}

#[test]
fn a_later_xid_cancels_an_earlier_one() {
    let mut log = of(&[&format!("{GPU}: 163, a"), "NVRM: Xid (PCI:0000:53:00): 163, a"]);
    assert_eq!(log.line(&format!("{GPU}: 162, b")), [Change::Cleared(FaultId(1)), Change::Opened(FaultId(3))]);
    assert_eq!(log.faults.get(FaultId(2)).map(|fault| fault.state), Some(FaultState::Active));
}

#[test]
fn two_sources_of_one_thing_count_it_once_and_two_tasks_are_two_faults() {
    let judgement = Judgement::new(Verdict::Application, Action::RestartApp, "x");
    let seen = |source, index: u32| {
        let at = SeenAt { order: 1, ..SeenAt::default() };
        let subject = Subject::gpu_at("0000:9b:00".parse().unwrap());
        let task = TaskId { job: JobId(1), run: RunId(1), role: 0, index };
        let observation = Observation::new(source, FaultKind::Xid, subject, judgement.clone(), at);
        Observation { code: Some(13), task: Some(task), ..observation }
    };
    let mut faults = Faults::new(FaultId(5), Limits::default());
    assert_eq!(faults.observe(seen(Source::KernelLog, 0)), [Change::Opened(FaultId(5))]);
    assert_eq!(faults.observe(seen(Source::Driver, 0)), [Change::Again(FaultId(5))]);
    assert_eq!(faults.observe(seen(Source::KernelLog, 0)), [Change::Again(FaultId(5))]);
    assert_eq!(faults.get(FaultId(5)).map(|fault| fault.count), Some(2));
    assert_eq!(faults.observe(seen(Source::Driver, 1)), [Change::Opened(FaultId(6))]);
}

#[test]
fn an_event_without_a_link_is_the_line_with_it_in_either_order() {
    let event = |order| {
        let judgement = Judgement::new(Verdict::Link, Action::ResetGpu, "x");
        let subject = Subject::gpu_at("0000:52:00".parse().unwrap());
        let seen = SeenAt { order, ..SeenAt::default() };
        Observation { code: Some(74), ..Observation::new(Source::Driver, FaultKind::Xid, subject, judgement, seen) }
    };
    let line = |link: u32| format!("{GPU}: 74, NVLink: fatal error detected on link {link}(0x0, 0x0, 0x10000)");
    let mut log = of(&[&line(14)]);
    assert_eq!(log.faults.observe(event(2)), [Change::Again(FaultId(1))]);
    assert_eq!(log.told(), [(Some(74), Verdict::Link, Action::ResetGpu, 1, 0)]);
    let mut log = Log::new();
    log.faults.observe(event(0));
    assert_eq!(log.line(&line(14)), [Change::Again(FaultId(1))]);
    assert_eq!(log.line(&line(14)), [Change::Again(FaultId(1))]);
    assert_eq!(log.line(&line(9)), [Change::Opened(FaultId(2))]);
    let links: Vec<_> =
        log.faults.iter().map(|fault| (fault.subject.part, fault.subject.link, fault.count)).collect();
    assert_eq!(links, [(Part::Link, Some(14), 2), (Part::Link, Some(9), 1)]);
}

#[test]
fn what_is_seen_to_be_worse_is_judged_anew() {
    let mut log = of(&["nvidia 0000:52:00.0: AER: PCIe Bus Error: severity=Corrected, type=Physical Layer"]);
    assert_eq!(log.told(), [(None, Verdict::Gpu, Action::None, 1, 0)]);
    log.line("nvidia 0000:52:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer");
    assert_eq!(log.told(), [(None, Verdict::Gpu, Action::Reboot, 1, 1)]);
    assert_eq!(log.faults.get(FaultId(1)).map(|fault| fault.reason.as_str()), Some("The PCI link of a GPU failed."));
    // As the history of a chip asks for it.
    let mut log = of(&[&format!("{GPU}: 13, pid=1, name=a, Graphics Exception")]);
    let suspected = Judgement::new(Verdict::Gpu, Action::Inspect, "The chip is suspected.");
    let first = log.faults.get(FaultId(1)).unwrap();
    let again = Observation::new(Source::KernelLog, first.kind, first.subject.clone(), suspected, SeenAt::default());
    assert_eq!(log.faults.observe(Observation { code: Some(13), ..again }), [Change::Raised(FaultId(1))]);
    let fault = log.faults.get(FaultId(1)).unwrap();
    assert!(fault.takes_out_of_use() && fault.reason == "The chip is suspected.", "{fault:?}");
}

#[test]
fn a_restart_makes_nothing_well_and_loses_no_count() {
    let old = of(&["[100.0] NVRM: Xid (PCI:0000:52:00): 95, pid=1, Uncontained: FBHUB. RST: Yes, D-RST: No"]);
    let mut log = Log::new();
    let kept: Vec<Fault> = old.faults.iter().cloned().collect();
    assert_eq!(log.faults.restore(kept.clone()), []);
    assert_eq!(log.faults.iter().collect::<Vec<_>>(), kept.iter().collect::<Vec<_>>());
    // Nothing after the restart is a consequence of what was before: the machine's clock may have begun anew.
    assert_eq!(log.line("[1.0] NVRM: Xid (PCI:0000:52:00): 63, New row"), [Change::Opened(FaultId(2))]);
    assert_eq!(log.line("[2.0] NVRM: Xid (PCI:0000:52:00): 95, Uncontained: LTC"), [Change::Again(FaultId(1))]);
    assert_eq!(log.told()[0], (Some(95), Verdict::Gpu, Action::ResetGpu, 2, 0));
    assert_eq!(log.faults.clear(FaultId(1)), Some(Change::Cleared(FaultId(1))));
    assert_eq!(log.faults.clear(FaultId(1)), None);
}

#[test]
fn a_standing_word_of_the_driver_decides_at_once() {
    let mut log = Log::new();
    log.line_with(&format!("{GPU}: 119, Timeout"), &|_| Some(RecoveryAction::Reboot));
    assert_eq!(log.told(), [(Some(119), Verdict::Gpu, Action::Reboot, 1, 0)]);
}

#[test]
fn a_storm_is_one_fault() {
    let mut log = Log::new();
    log.line(&format!("{GPU}: 95, pid=1, name=a, Uncontained: FBHUB. RST: Yes, D-RST: No"));
    let first = log.faults.get(FaultId(1)).cloned().unwrap();
    let judgement = Judgement { by_driver: true, ..Judgement::new(first.verdict, first.action, "Uncontained.") };
    for number in 2..=800_000_u32 {
        let seen = SeenAt { boot_us: Some(u64::from(number)), ..SeenAt::default() };
        let again = Observation::new(Source::KernelLog, first.kind, first.subject.clone(), judgement.clone(), seen);
        let evidence = format!("line {number}");
        let changes = log.faults.observe(Observation { code: Some(95), pid: Some(number), evidence, ..again });
        assert_eq!(changes, [Change::Again(FaultId(1))]);
    }
    assert_eq!(log.told(), [(Some(95), Verdict::Gpu, Action::ResetGpu, 800_000, 0)]);
    let fault = log.faults.get(FaultId(1)).unwrap();
    assert_eq!((fault.evidence.len(), fault.pid), (EVIDENCE_LINES, Some(1)));
    assert_eq!(
        (&fault.evidence[0], fault.evidence[EVIDENCE_LINES - 1].as_str()),
        (&first.evidence[0], "line 800000")
    );
}

#[test]
fn no_more_faults_are_kept_than_allowed_and_the_grave_ones_stay() {
    let mut log = Log::limited(Limits { faults: 16, ..Limits::default() });
    log.line(&format!("{GPU}: 79, GPU has fallen off the bus."));
    let mut dropped = 0;
    for device in 0..5000_u32 {
        let line = format!("NVRM: Xid (PCI:{device:04x}:53:00): 13, pid=1, name=a, {}", "x".repeat(2000));
        let changes = log.line(&line);
        dropped += changes.iter().filter(|change| matches!(change, Change::Dropped(_))).count();
        assert!(log.faults.kept.len() <= 16 && log.faults.by_key.len() <= 16);
    }
    assert_eq!((dropped, log.faults.get(FaultId(1)).and_then(|fault| fault.code)), (5001 - 16, Some(79)));
    assert!(log.faults.iter().flat_map(|fault| &fault.evidence).all(|line| line.len() <= EVIDENCE_BYTES));
}

#[test]
fn a_storm_that_never_names_the_same_one_twice_is_a_few_faults() {
    let (mut log, mut opened, mut changed) = (Log::new(), 0, 0_u64);
    let row = format!("{GPU}: 48, pid=1, name=a, DBE at physAddr 0x1 partition 1");
    let exception = format!("{GPU}: 13, pid=1, name=a, Graphics Exception");
    let samples: Vec<Observation> = [row, exception]
        .iter()
        .map(|line| {
            let record = Record::from_line(line);
            let seen = Parser::default().parse(&record).remove(0);
            let Heard::Observation(seen) = heard(seen, &record, 0, Table::builtin(), &|_| None) else { panic!() };
            *seen
        })
        .collect();
    for number in 0..800_000_u32 {
        let mut seen = samples[number as usize % 2].clone();
        let index = number % 3;
        seen.task = Some(TaskId { job: JobId(1), run: RunId(1), role: 0, index });
        (seen.pid, seen.seen.order) = (Some(number), u64::from(number));
        seen.address = seen.address.map(|_| u64::from(number));
        changed += 1;
        opened += log.faults.observe(seen).iter().filter(|change| matches!(change, Change::Opened(_))).count();
    }
    assert!(opened <= 2 * MAX_ALIKE + 3 && log.faults.kept.len() == opened, "{opened}");
    assert_eq!(log.faults.iter().map(|fault| fault.count).sum::<u64>(), changed);
    assert!(log.faults.iter().all(|fault| fault.evidence.len() <= EVIDENCE_LINES));
}

#[test]
fn tasks_in_turn_on_one_gpu_are_each_told_of_the_last_ones_and_never_too_many() {
    let mut faults = Faults::new(FaultId(1), Limits::default());
    let mut crash = |index: u32| {
        let judgement = Judgement::new(Verdict::Application, Action::RestartApp, "x");
        let subject = Subject::gpu_at("0000:9b:00".parse().unwrap());
        let task = Some(TaskId { job: JobId(u64::from(index)), run: RunId(1), role: 0, index });
        let seen = SeenAt { order: u64::from(index), ..SeenAt::default() };
        let crash = Observation::new(Source::KernelLog, FaultKind::Xid, subject, judgement, seen);
        faults.observe(Observation { code: Some(13), task, ..crash });
        let kept: Vec<_> = faults.iter().filter_map(|fault| fault.task).map(|task| task.index).collect();
        (kept.len(), kept.last().copied())
    };
    for index in 0..1000 {
        assert_eq!(crash(index), ((index as usize + 1).min(MAX_ALIKE), Some(index)));
    }
}

#[test]
fn what_is_borne_once_is_looked_at_when_it_comes_again_and_again() {
    for text in [
        "nvme nvme0: controller is down; will reset: CSTS=0xffffffff",
        "nvme nvme0: I/O 161 QID 2 timeout, aborting",
        "critical medium error, dev sda, sector 8",
        "mlx5_core 0000:5c:00.0: mlx5_pcie_event:299:(pid 2): Detected insufficient power on the PCIe slot (27W).",
        "mlx5_core 0000:5c:00.0: Port module event[error]: module 0, Cable error, High Temperature",
        "mlx5_core 0000:03:00.0: wait_func:1195:(pid 7): ENABLE_HCA(0x104) timeout. Will cause a leak of a command resource",
    ] {
        let mut log = Log::new();
        let taken = |log: &Log| log.faults.iter().filter(|fault| fault.takes_out_of_use()).count();
        for seconds in [10, 11, 12, 100] {
            log.line(&format!("[{seconds}.0] {text}"));
            assert_eq!(taken(&log), 0, "{seconds}: {text}");
        }
        assert_eq!(log.line(&format!("[200.0] {text}")), [Change::Raised(FaultId(1))], "{text}");
        let fault = log.faults.get(FaultId(1)).unwrap();
        assert!(fault.takes_out_of_use() && fault.action == Action::Inspect && fault.count == 5, "{fault:?}");
        // What comes rarely goes on being borne.
        let mut log = Log::new();
        (0..20).for_each(|hours| drop(log.line(&format!("[{}.0] {text}", hours * 2400))));
        assert_eq!((taken(&log), log.faults.iter().count()), (0, 1), "{text}");
    }
    for dead in [
        "nvme nvme0: Removing after probe failure status: -19",
        "sd 2:0:0:0: [sda] rejecting I/O to offline device",
        "mlx5_core 0000:5c:00.0: poll_health:745:(pid 0): Fatal error 1 detected",
    ] {
        assert!(of(&[dead]).faults.iter().all(Fault::takes_out_of_use), "{dead}");
    }
}

#[test]
fn advice_to_reset_once_more_calls_nobody_back_who_has_to_look() {
    let mut log = of(&[&format!("{GPU}: 119, Timeout"), &format!("{GPU}: 154, changed from 0x0 (a) to 0x1 (b)")]);
    assert_eq!(log.told(), [(Some(119), Verdict::Gpu, Action::ResetGpu, 1, 1)]);
    // As the history of the GPU asks for it.
    let first = log.faults.get(FaultId(1)).unwrap();
    let inspect = Judgement::new(Verdict::Gpu, Action::Inspect, "It came back after 2 resets or reboots.");
    let again = Observation::new(Source::KernelLog, first.kind, first.subject.clone(), inspect, SeenAt::default());
    assert_eq!(log.faults.observe(Observation { code: Some(119), ..again }), [Change::Raised(FaultId(1))]);
    for number in [1, 2, 4] {
        log.line(&format!("{GPU}: 154, changed from 0x0 (a) to 0x{number} (b)"));
        assert_eq!(log.faults.get(FaultId(1)).map(|fault| fault.action), Some(Action::Inspect));
    }
    // Nor does what nobody understands make a lost GPU another's business.
    let log = of(&[&format!("{GPU}: 79, GPU has fallen off the bus."), &format!("{GPU}: 999, New")]);
    assert_eq!(log.told(), [(Some(79), Verdict::Gpu, Action::Reboot, 1, 1)]);
}

#[test]
fn what_follows_in_one_slice_follows_from_that_slice() {
    let slice = |instance, rest: &str| format!("NVRM: Xid (PCI:0000:3b:00 GPU-I:0{instance}): {rest}");
    let log = of(&[
        &slice(1, "94, pid=9, name=a, Contained: SM. RST: No, D-RST: No"),
        &slice(2, "63, pid=9, name=b, Row Remapper: New row marked"),
        &slice(1, "63, pid=9, name=a, Row Remapper: New row marked"),
        &slice(1, "31, pid=9, name=a, MMU Fault"),
        &slice(2, "45, pid=9, name=b, Ch 1 caused by previous Xid 31"),
    ]);
    let told: Vec<_> = log.told().iter().map(|told| (told.0, told.3, told.4)).collect();
    assert_eq!(told, [(Some(94), 1, 1), (Some(63), 1, 0), (Some(31), 1, 0), (Some(45), 1, 0)]);
}

#[test]
fn what_others_have_named_moves_no_cursor() {
    let log =
        of(&["[1.0] NVRM: Xid (PCI:0000:52:00): 13, pid=7, name=a\u{1b}[2Jb\u{202e}, Graphics \u{9b}31m Exception"]);
    let fault = log.faults.get(FaultId(1)).unwrap();
    assert_eq!(fault.process.as_deref(), Some("a\\x1b[2Jb\\xe2\\x80\\xae"));
    assert!(fault.evidence[0].ends_with("Graphics \\xc2\\x9b31m Exception"), "{fault:?}");
    assert!(!serde_json::to_string(fault).unwrap().contains("u001b"));
}

#[test]
fn identities_are_bounded() {
    let mut faults = Faults::new(FaultId(1), Limits::default());
    for domain in 0..10_000 {
        faults.identify(
            None,
            PciAddress { domain, bus: 1, device: 0, function: 0 },
            format!("GPU-{domain}").as_str().into(),
        );
    }
    assert_eq!(faults.slots.len(), MAX_SLOTS);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Real lines in any order, from any of a few GPUs: what is kept is bounded, ids are unique, nothing benign condemns.
    #[test]
    fn any_order_of_lines_is_borne(order in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8), 0..80)) {
        let lines: Vec<&str> = SAMPLES.lines().collect();
        let mut log = Log::limited(Limits { faults: 8, ..Limits::default() });
        for (index, gpu) in order {
            log.line(&lines[index.index(lines.len())].replace(":00): ", &format!(":0{gpu}): ")));
            prop_assert!(log.faults.kept.len() <= 8);
            for (key, id) in log.faults.by_key.iter().flat_map(|(key, ids)| ids.iter().map(move |id| (key, id))) {
                let open = &log.faults.kept[id];
                prop_assert_eq!(&open.key, key);
                prop_assert!(open.fault.state == FaultState::Active && open.fault.evidence.len() <= EVIDENCE_LINES);
            }
        }
        let benign = [13, 31, 43, 45];
        let condemned = |fault: &&Fault| fault.takes_out_of_use() && fault.kind == FaultKind::Xid;
        prop_assert!(log.faults.iter().filter(condemned).all(|fault| !benign.contains(&fault.code.unwrap_or(0))));
    }
}

/// The driver's message of lost data, and the counter that grew by it.
#[test]
fn an_error_beyond_correction_is_one_fault_whichever_source_is_first() {
    let line =
        "[  100.0] NVRM: Xid (PCI:0000:9b:00): 94, pid=7, name=python, Contained: SM (0x1). RST: No, D-RST: No";
    let counted = |kind, action, seconds: u64| {
        let judgement = Judgement::new(Verdict::Gpu, action, "Data was lost.");
        let seen = SeenAt { boot_us: Some(seconds * 1_000_000), order: seconds, ..SeenAt::default() };
        let subject = Subject::gpu_at("0000:9b:00".parse().unwrap());
        Observation { count: 2, ..Observation::new(Source::Driver, kind, subject, judgement, seen) }
    };
    for counter_first in [true, false] {
        for kind in [FaultKind::Ecc, FaultKind::SramEcc] {
            let mut log = Log::new();
            if counter_first {
                log.faults.observe(counted(kind, Action::RestartApp, 95));
            }
            log.line(line);
            if !counter_first {
                log.faults.observe(counted(kind, Action::RestartApp, 110));
            }
            let [fault] = log.faults.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", log.told()) };
            assert_eq!((fault.kind, fault.code, fault.count, fault.related), (FaultKind::Xid, Some(94), 1, 2));
            assert!(fault.evidence.iter().any(|line| line.contains("Xid")), "{:?}", fault.evidence);
            // Later ones are others.
            log.faults.observe(counted(kind, Action::RestartApp, 900));
            assert_eq!(log.faults.iter().count(), 2);
        }
    }
    // SRAM that is worn out is more than one error of it.
    let mut log = of(&[line]);
    log.faults.observe(counted(FaultKind::SramEcc, Action::Inspect, 110));
    assert_eq!(
        log.faults.iter().map(|fault| fault.action).collect::<Vec<_>>(),
        [Action::RestartApp, Action::Inspect]
    );
}
