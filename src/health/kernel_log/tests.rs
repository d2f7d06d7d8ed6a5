//! Lines as machines, drivers and tools write them, and lines that nobody should write.

use super::*;
use crate::domain::pci::PciAddress;
use proptest::prelude::*;

const SAMPLES: &str = include_str!("../../../tests/data/kernel-log/samples.log");

fn events(line: &str) -> Vec<Event> {
    Parser::default().parse(&Record::from_line(line)).into_iter().map(|seen| seen.event).collect()
}

#[track_caller]
fn only(line: &str) -> Event {
    let mut events = events(line);
    assert_eq!(events.len(), 1, "{line}: {events:?}");
    events.remove(0)
}

#[track_caller]
fn xid(line: &str) -> Xid {
    match only(line) {
        Event::Xid(xid) => xid,
        other => panic!("{line}: {other:?}"),
    }
}

fn pci(text: &str) -> Option<PciAddress> {
    text.parse().ok()
}

#[test]
fn every_sample_is_understood() {
    // What says nothing about hardware by itself: the second half of a sentence, and a switch that was opened.
    const SILENT: [&str; 2] = ["NVRM: this kernel module has the version", "nvidia-nvswitch2: open (major=510)"];
    const SILENT_LINES: usize = 2;
    let mut parser = Parser::default();
    let (mut xids, mut understood) = (0, 0);
    for line in SAMPLES.lines() {
        let record = Record::from_line(line);
        let seen = parser.parse(&record);
        if SILENT.iter().any(|silent| line.contains(silent)) {
            assert_eq!(seen, [], "{line}");
            continue;
        }
        assert_eq!(seen.len(), 1, "{line}: {seen:?}");
        understood += 1;
        let Some((_, head)) = line.split_once("NVRM: Xid (") else { continue };
        let Event::Xid(xid) = &seen[0].event else { panic!("{line}: {seen:?}") };
        xids += 1;
        // Found another way: the number behind the parenthesis.
        let code: String = head.split("): ").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
        assert_eq!(xid.code.to_string(), code, "{line}");
        assert_eq!(xid.pci.is_none(), line.contains("PCI:..."), "{line}");
        assert_eq!(xid.pid.is_none(), !line.contains("pid=") || line.contains("pid='<unknown>'"), "{line}");
        assert_eq!(xid.process.is_none(), !line.contains("name=") || line.contains("name=<unknown>"), "{line}");
    }
    let lines = SAMPLES.lines().filter(|line| line.contains("NVRM: Xid (")).count();
    assert_eq!((xids, understood), (lines, SAMPLES.lines().count() - SILENT_LINES));
}

#[test]
fn heads_of_xids_come_in_many_forms() {
    let plain = |code| Xid { code, pci: pci("0000:9b:00.0"), ..Xid::default() };
    for (line, expected) in [
        (
            "NVRM: Xid (PCI:0000:9b:00): 79, pid=12, name=a b, GPU",
            Xid { pid: Some(12), process: Some("a b".into()), ..plain(79) },
        ),
        ("NVRM: Xid (PCI:0000:9b:00.0): 79, pid=12, GPU", Xid { pid: Some(12), ..plain(79) }),
        ("NVRM: Xid (0000:9b:00): 79, GPU", plain(79)),
        ("NVRM: Xid (PCI:0000:9b:00): 79", plain(79)),
        ("NVRM: Xid (PCI:0000:9b:00): 79 GPU has fallen off the bus.", plain(79)),
        (
            "NVRM: Xid (PCI:0000:9b:00):79,pid=3,name=x,GPU",
            Xid { pid: Some(3), process: Some("x,GPU".into()), ..plain(79) },
        ),
        (
            "NVRM: Xid (PCI:0000:9b:00): 79 pid=3 name=x GPU",
            Xid { pid: Some(3), process: Some("x".into()), ..plain(79) },
        ),
        ("NVRM: Xid (PCI:0000:9b:00): 79, pid='<unknown>', name=<unknown>, GPU", plain(79)),
        ("NVRM: Xid (PCI:0000:9b:00): 79, pid=0, name=, GPU", Xid { pid: Some(0), ..plain(79) }),
        ("NVRM: Xid (PCI:...): 79, GPU", Xid { pci: None, ..plain(79) }),
        ("NVRM: Xid (PCI:0000:9b:00 GPU-I:05): 79, GPU", Xid { gpu_instance: Some(5), ..plain(79) }),
        (
            "NVRM: Xid (PCI:0000:9b:00 GPU-I:01 GPU-CI:02): 79, GPU",
            Xid { gpu_instance: Some(1), compute_instance: Some(2), ..plain(79) },
        ),
        (
            "NVRM: Xid (PCI:0000:9b:00): 45, pid=7, name=a, Ch 00000008 caused by previous Xid 149",
            Xid { pid: Some(7), process: Some("a".into()), caused_by: Some(149), ..plain(45) },
        ),
    ] {
        assert_eq!(xid(line), expected, "{line}");
    }
}

#[test]
fn what_codes_say_more_is_read() {
    use XidDetail::{Containment, Engine, Memory, NvLink, Nvlink5, Recovery};
    let link5 = |unit: &str, fatal, link, status: Vec<u32>| Nvlink5 {
        unit: unit.into(),
        fatal: Some(fatal),
        link: Some(link),
        status,
    };
    for (rest, expected) in [
        ("13, pid=1, Graphics SM Global Exception on (GPC 8, TPC 5, SM 1): Multiple", Engine { gpc: 8, tpc: 5 }),
        (
            "31, pid=1, name=a, Ch 00000010, intr 10000000. MMU Fault: ENGINE GRAPHICS GPC3 GPCCLIENT_T1_3 faulted",
            Engine { gpc: 3, tpc: 1 },
        ),
        ("31, Ch 00000010. MMU Fault: ENGINE HOST0 HUBCLIENT_ESC faulted @ 0x7f", XidDetail::None),
        ("48, DBE has been detected at physAddr 0x18f31d80 partition 16", Memory { address: 0x18f3_1d80 }),
        ("63, Row Remapper: New row (0x0000000018f31d80) marked for remapping", Memory { address: 0x18f3_1d80 }),
        ("63, Row Remapper: New row marked for remapping", XidDetail::None),
        ("64, Dynamic Page Retirement: failed (0x00000000000a8af9).", Memory { address: 0xa_8af9 }),
        ("94, Contained: SM (0x1). RST: No, D-RST: No", Containment { reset: false, drain_and_reset: false }),
        ("94, Contained: SM (0x1). RST: No, D-RST: Yes", Containment { reset: false, drain_and_reset: true }),
        (
            "95, pid=1, name=RST: No, Uncontained: LTC. RST: Yes, D-RST: No",
            Containment { reset: true, drain_and_reset: false },
        ),
        ("95, Uncontained: LTC TAG", XidDetail::None),
        (
            "74, NVLink: fatal error detected on link 14(0x0, 0x1, 0x10000, 0x0, 0x0, 0x0, 0x2)",
            NvLink { link: 14, registers: vec![0, 1, 0x1_0000, 0, 0, 0, 2] },
        ),
        ("137, RLW_RXPIPE interrupt hit on link 11 on GPU0: PRIV Error", NvLink { link: 11, registers: vec![] }),
        (
            "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x025525c6 0x0 0x0 0x0 0x0 0x0)",
            link5("NETIR_LINK_EVT", true, 9, vec![0x0255_25c6, 0, 0, 0, 0, 0]),
        ),
        (
            "145, RLW_SRC_TRACK Nonfatal XC1 i0 Link 10 (0x04082907 0x8 0x0 0x0)",
            link5("RLW_SRC_TRACK", false, 10, vec![0x0408_2907, 8, 0, 0]),
        ),
        (
            "150, pid=1, name=Fatal x, MSE_WATCHDOG Non-fatal XC0 i0 Link 00 (0x0)",
            link5("MSE_WATCHDOG", false, 0, vec![0]),
        ),
        ("144, SAW_MVB", Nvlink5 { unit: "SAW_MVB".into(), fatal: None, link: None, status: vec![] }),
        ("154, GPU recovery action changed from 0x0 (None) to 0x1 (PF FLR)", Recovery { from: Some(0), to: 1 }),
        (
            "154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x2 (to 0x1)",
            Recovery { from: Some(4), to: 2 },
        ),
        ("154, GPU recovery action changed", XidDetail::None),
        ("32, Channel ID 0000000d intr0 00040000", XidDetail::None),
    ] {
        assert_eq!(xid(&format!("NVRM: Xid (PCI:0000:9b:00): {rest}")).detail, expected, "{rest}");
    }
}

#[test]
fn a_gpu_that_is_gone_is_seen_without_an_xid() {
    let gone = Event::FallenOff { pci: pci("0000:b3:00.0").unwrap() };
    for line in [
        "NVRM: GPU at 0000:b3:00.0 has fallen off the bus.",
        "NVRM: GPU at PCI:0000:b3:00 has fallen off the bus.",
        "NVRM: GPU 0000:b3:00.0: GPU has fallen off the bus.",
        "NVRM: The NVIDIA GPU 0000:b3:00.0 installed in this system has fallen off the bus and is not responding to commands.",
        "4,1,2,-;NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\\x0aNVRM: fallen off the bus and is not responding to commands.",
        "4,1,2,-;NVRM: The NVIDIA GPU 0000:b3:00.0 (PCI ID: 10de:1e07) installed in this\\x0aNVRM: system has fallen off the bus and is not responding.",
    ] {
        assert_eq!(only(line), gone, "{line}");
    }
    // One sentence on three lines of a file.
    let mut parser = Parser::default();
    let mut said = |line: &str| parser.parse(&Record::from_line(line)).len();
    assert_eq!(said("[ 1843.308145] NVRM: The NVIDIA GPU 0000:b3:00.0"), 0);
    assert_eq!(said("               NVRM: (PCI ID: 10de:26b5) installed in this system has"), 0);
    assert_eq!(said("               NVRM: fallen off the bus and is not responding to commands."), 1);
    assert_eq!(said("               NVRM: fallen off the bus and is not responding to commands."), 0);
    // Another sentence about a GPU, and its end much later, are nothing.
    assert_eq!(said("NVRM: The NVIDIA GPU 0000:b3:00.0 (PCI ID: 10de:26b5)"), 0);
    assert_eq!(said("usb 1-1: new device"), 0);
    assert_eq!(said("NVRM: fallen off the bus and is not responding to commands."), 0);
}

#[test]
fn several_messages_in_one_printk_are_several_events() {
    let record = Record::kmsg(
        1,
        2,
        4,
        "NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600\\x0aNVRM: GPU Board Serial Number: 165\\x0aNVRM: Xid (PCI:0000:9b:00): 79, a\n SUBSYSTEM=pci",
    );
    let seen = Parser::default().parse(&record);
    let kinds: Vec<bool> = seen.iter().map(|seen| matches!(seen.event, Event::Xid(_))).collect();
    assert_eq!(kinds, [false, true]);
    assert_eq!(seen[0].event, Event::Identity { pci: pci("0000:9b:00").unwrap(), uuid: "GPU-509665ad-b600".into() });
    let glued = "NVRM: Xid (PCI:0000:9b:00): 63, one NVRM: Xid (PCI:0000:9b:00): 94, two";
    let seen = Parser::default().parse(&Record::from_line(glued));
    assert_eq!(
        seen.iter().map(|seen| seen.line.as_str()).collect::<Vec<_>>(),
        ["NVRM: Xid (PCI:0000:9b:00): 63, one", "NVRM: Xid (PCI:0000:9b:00): 94, two"]
    );
    // A process may not end a line by its name.
    assert_eq!(xid("NVRM: Xid (PCI:0000:9b:00): 95, pid=1, name=NVRM: Xid (a):, RST: Yes, D-RST: No").code, 95);
}

#[test]
fn names_that_somebody_chose_are_not_believed() {
    for line in [
        // A file's name with a new line in it.
        r"4,1,1,-;a[7]: segfault at 0 ip 0 sp 0 error 4 in x\x0aNVRM: Xid (PCI:0000:9b:00): 79, y[400000+1000]",
        r"4,1,1,-;traps: a[7] trap in x\x0aNVRM: Xid (PCI:0000:9b:00): 154, changed from 0x1 to 0x0",
        // The name of a process that crashes.
        "[ 1.2] NVRM: Xid ():79[77]: segfault at 0",
        "[ 1.2] nvidia-: SXid ([77]: segfault at 0 ip 0 in x): 26008, [400000+1000]",
        "[ 1.2] nvme nvme0[7]: segfault at 0 in a: controller is down",
        "[ 1.2] XFS[7]: segfault at 0 in forced readonly",
        "[ 1.2] {1[7]: segfault at 0 in }[Hardware Error]: event severity: fatal",
    ] {
        assert_eq!(events(line), [], "{line}");
    }
    // A process with a new line in its name, in what the driver says of it.
    assert_eq!(
        events(r"4,1,1,-;NVRM: Xid (PCI:0000:9b:00): 31, pid=7, name=\x0aEDAC MC0: UE , Ch 00000010").len(),
        1
    );
    // The name of one whose own fault is told.
    assert_eq!(xid("NVRM: Xid (PCI:0000:9b:00): 13, pid=1, name=NVRM: Xid ():79, Graphics Exception").code, 13);
}

#[test]
fn what_a_logging_service_passes_on_is_not_believed_and_what_root_writes_is() {
    let line = "NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.";
    let believed = |line: &str| events(line).len();
    assert_eq!((believed(&format!("3,1,1,-;{line}")), believed(&format!("12,1,1,-;{line}"))), (1, 1));
    for passed_on in [
        format!("13,1,1,-;{line}[4711]: x"),
        format!("<13>[ 1.5] {line}[4711]: x"),
        format!("user  :notice: [ 1.5] {line}[4711]: x"),
        format!("30,1,1,-;{line} x: [7]: y"),
    ] {
        assert_eq!(believed(&passed_on), 0, "{passed_on}");
    }
}

#[test]
fn switches_are_heard_and_their_follow_up_lines_known() {
    use SxidSeverity::{Fatal, FollowUp, NonFatal, Unsaid};
    for (rest, code, link, severity) in [
        ("28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)", 28006, Some(46), NonFatal),
        ("20034, Fatal, Link 30 LTSSM Fault Up", 20034, Some(30), Fatal),
        ("20034, Data {0x50610002, 0x10100030}", 20034, None, FollowUp),
        ("22013, Severity 0 Engine instance 60 Sub-engine instance 00", 22013, None, FollowUp),
        ("26008, SOE Watchdog error", 26008, None, Unsaid),
        ("00011", 11, None, Unsaid),
    ] {
        let event = only(&format!("[ 1.2] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): {rest}"));
        let expected = Sxid { switch: "nvidia-nvswitch3".into(), pci: pci("0000:c1:00.0"), code, link, severity };
        assert_eq!(event, Event::Sxid(expected), "{rest}");
    }
}

#[test]
fn bus_errors_are_heard_in_both_wordings() {
    use AerSeverity::{Corrected, Fatal, NonFatal};
    let announced = |severity| Event::Aer { severity, device: pci("0000:01:00.0"), driver: None, announcement: true };
    let told = |severity, driver: &str| Event::Aer {
        severity,
        device: pci("0000:01:00.0"),
        driver: Some(driver.into()),
        announcement: false,
    };
    for (line, expected) in [
        ("pcieport 0000:00:01.0: AER: Corrected error received: 0000:01:00.0", announced(Corrected)),
        ("pcieport 0000:00:01.0: AER: Correctable error message received from 0000:01:00.0", announced(Corrected)),
        ("pcieport 0000:00:01.0: AER: Multiple Uncorrected (Fatal) error received: id=0100", announced(Fatal)),
        (
            "pcieport 0000:00:01.0: AER: Uncorrectable (Non-Fatal) error message received from 0000:01:00.0",
            announced(NonFatal),
        ),
        ("AER: Uncorrected (Non-Fatal) error received: 0000:01:00.0", announced(NonFatal)),
        (
            "nvidia 0000:01:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)",
            told(Fatal, "nvidia"),
        ),
        (
            "nvme 0000:01:00.0: PCIe Bus Error: severity=Correctable, type=Physical Layer, id=0100(Receiver ID)",
            told(Corrected, "nvme"),
        ),
        (
            "nvidia 0000:01:00.0: AER: can't recover (no error_detected callback)",
            Event::AerUnrecovered { device: pci("0000:01:00.0").unwrap(), driver: "nvidia".into() },
        ),
    ] {
        assert_eq!(only(line), expected, "{line}");
    }
    for line in [
        "pcieport 0000:00:01.0: AER: aer_status: 0x00000040, aer_mask: 0x00000000",
        "pcieport 0000:00:01.0:   device [8086:2030] error status/mask=00000040/00002000",
        "pcieport 0000:00:01.0: AER: enabled with IRQ 27",
        "pcieport 0000:00:01.0: AER: Corrected error received: nowhere",
    ] {
        let quiet = events(line);
        assert!(quiet.is_empty() || line.contains("nowhere"), "{line}: {quiet:?}");
    }
}

#[test]
fn the_host_is_heard() {
    let nic = |trouble| Event::Nic { device: pci("0000:d2:00.0"), port: None, trouble };
    let oom = |pid, process: &str, cgroup: Option<&str>, limited| Event::OomKill {
        pid,
        process: Some(process.into()),
        cgroup: cgroup.map(str::to_owned),
        limited: Some(limited),
    };
    let hung = |pid, process: &str, lockup| Event::HungTask { pid: Some(pid), process: Some(process.into()), lockup };
    let edac = |corrected, count| Event::Edac { controller: "MC0".into(), corrected, count };
    for (line, expected) in [
        (
            "mlx5_core 0000:d2:00.0: poll_health:825: device's health compromised - reached miss count.",
            nic(NicTrouble::Unhealthy),
        ),
        (
            "mlx5_core 0000:d2:00.0: mlx5_cmd_out_err:838:(pid 123): ACCESS_REG(0x805) op_mod(0x0) failed",
            nic(NicTrouble::RegisterAccess),
        ),
        (
            "mlx5_core 0000:d2:00.0: wait_func:1195:(pid 7): ACCESS_REG(0x805) timeout. Will cause a leak of a command resource",
            nic(NicTrouble::CommandTimeout),
        ),
        (
            "mlx5_core 0000:d2:00.0: wait_func:1162:(pid 7): ACCESS_REG(0x805) canceled on out of queue timeout.",
            nic(NicTrouble::CommandTimeout),
        ),
        ("mlx5_core 0000:d2:00.0: poll_health:745:(pid 0): Fatal error 1 detected", nic(NicTrouble::Unhealthy)),
        ("mlx5_core 0000:d2:00.0: poll_health:745:(pid 0): Fatal error detected", nic(NicTrouble::Unhealthy)),
        (
            "mlx5_core 0000:d2:00.0: Port module event[error]: module 0, Cable error, High Temperature",
            nic(NicTrouble::Temperature),
        ),
        ("mlx5_core 0000:d2:00.0: Port module event: module 1, Cable unplugged", nic(NicTrouble::Unplugged)),
        (
            "[Hardware Error]: CPU:2 (17:8:2) MC1_STATUS[Over|UC|MiscV|AddrV|-|TCC|SyndV|-|-|-]: 0xfc2000000002010b",
            Event::MachineCheck { severity: MachineCheckSeverity::Uncorrected },
        ),
        (
            "mce: [Hardware Error]: CPU:15 (19:1:1) MC18_STATUS[-|CE|MiscV|AddrV|-|-|SyndV|CECC|-|-|-]: 0x9c2040000000011b",
            Event::MachineCheck { severity: MachineCheckSeverity::Corrected },
        ),
        (
            "sd 2:0:0:0: Device offlined - not ready after error recovery",
            Event::BlockIo { device: "2:0:0:0".into(), trouble: DiskTrouble::Gone },
        ),
        (
            "sd 2:0:0:0: [sda] rejecting I/O to offline device",
            Event::BlockIo { device: "2:0:0:0".into(), trouble: DiskTrouble::Gone },
        ),
        (
            "NETDEV WATCHDOG: eth0 (ixgbe): transmit queue 0 timed out",
            Event::Nic { device: None, port: Some("eth0".into()), trouble: NicTrouble::QueueTimeout },
        ),
        (
            "mce: [Hardware Error]: CPU 15: Machine Check Exception: 5 Bank 6: bb80000000000e0b",
            Event::MachineCheck { severity: MachineCheckSeverity::Uncorrected },
        ),
        (
            "mce: [Hardware Error]: CPU 2: Machine Check: 0 Bank 3: cc00010000100151",
            Event::MachineCheck { severity: MachineCheckSeverity::Corrected },
        ),
        (
            "{1}[Hardware Error]: event severity: recoverable",
            Event::MachineCheck { severity: MachineCheckSeverity::Uncorrected },
        ),
        ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0", edac(false, 1)),
        ("EDAC MC0: 2 CE memory read error on CPU_SrcID#0", edac(true, 2)),
        ("EDAC MC0: CE page 0x1, offset 0x0", edac(true, 1)),
        (
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/w/a,task_memcg=/w/a,task=java, x,pid=50624,uid=0",
            oom(50624, "java, x", Some("/w/a"), true),
        ),
        (
            "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/w/a,pid=1,task=b,pid=7,uid=0",
            oom(7, "b", Some("/w/a,pid=1"), false),
        ),
        (
            "Memory cgroup out of memory: Killed process 19289 (memcg process) total-vm:2676kB",
            oom(19289, "memcg process", None, true),
        ),
        ("Out of memory: Kill process 5 (java) score 900 or sacrifice child", oom(5, "java", None, false)),
        ("INFO: task kworker/1:2:1234 blocked for more than 120 seconds.", hung(1234, "kworker/1:2", Lockup::Task)),
        ("watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [python3:99]", hung(99, "python3", Lockup::Processor)),
        ("EXT4-fs (sda1): Remounting filesystem read-only", Event::ReadOnly { device: "sda1".into() }),
        ("BTRFS info (device sdb): forced readonly", Event::ReadOnly { device: "sdb".into() }),
        (
            "XFS (dm-0): Filesystem has been shut down due to log error (0x2).",
            Event::ReadOnly { device: "dm-0".into() },
        ),
        ("nvme nvme0: I/O 161 QID 2 timeout, aborting", Event::Nvme { device: "nvme0".into(), gone: false }),
        ("nvme nvme0: I/O 25 QID 0 timeout, reset controller", Event::Nvme { device: "nvme0".into(), gone: false }),
        (
            "nvme nvme0: controller is down; will reset: CSTS=0xffffffff",
            Event::Nvme { device: "nvme0".into(), gone: false },
        ),
        ("nvme nvme0: Disabling device after reset failure: -19", Event::Nvme { device: "nvme0".into(), gone: true }),
        (
            "Buffer I/O error on dev sda1, logical block 0, async page read",
            Event::BlockIo { device: "sda1".into(), trouble: DiskTrouble::Failed },
        ),
        (
            "Buffer I/O error on device sdd1, logical block 0",
            Event::BlockIo { device: "sdd1".into(), trouble: DiskTrouble::Failed },
        ),
        (
            "blk_update_request: critical medium error, dev sda, sector 8",
            Event::BlockIo { device: "sda".into(), trouble: DiskTrouble::Medium },
        ),
        (
            "I/O error, dev nvme0n1, sector 8 op 0x0:(READ)",
            Event::BlockIo { device: "nvme0n1".into(), trouble: DiskTrouble::Failed },
        ),
        ("net_ratelimit: 23807 callbacks suppressed", Event::Suppressed { count: Some(23807) }),
        ("printk: 12 messages suppressed.", Event::Suppressed { count: Some(12) }),
        (
            "NVRM: Rate limiting GSP RPC error prints for GPU at PCI:0000:9b:00 (printing 1 of every 30).",
            Event::RateLimited { pci: pci("0000:9b:00") },
        ),
    ] {
        assert_eq!(only(line), expected, "{line}");
    }
}

#[test]
fn ordinary_lines_and_lines_of_programs_say_nothing() {
    for line in [
        "",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.90.07",
        "NVRM: Xid error: xyz, invalid data",
        "NVRM: Xid (PCI:0000:9b:00)",
        "NVRM: Xid (PCI:0000:9b:00): many",
        "NVRM: Xid (PCI:0000:9b:00): 99999999999",
        "NVRM: GPU 0000:91:00.0: GPU serial number is 1653723052734.",
        "NVRM: A GPU crash dump has been created.",
        "mce: [Hardware Error]: Machine check events logged",
        "mce: [Hardware Error]: TSC 0 ADDR 13",
        "mce: [Hardware Error]: Run the above through 'mcelog --ascii'",
        "EDAC MC: Ver: 3.0.0",
        "EDAC MC0: Giving out device to module skx_edac",
        "EXT4-fs (sda1): mounted filesystem with ordered data mode",
        "nvme nvme0: 40/0/0 default/read/poll queues",
        "oom_reaper: reaped process 19289 (memcg_process), now anon-rss:0kB",
        "May 19 07:08:57 host train[77]: NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.",
        "audit: type=1400 msg=\"NVRM: Xid (PCI:0000:9b:00): 79\"",
        "python3[12]: NVRM: GPU at 0000:01:00.0 has fallen off the bus.",
    ] {
        assert_eq!(events(line), [], "{line}");
    }
}

/// Pieces that parsers look for, so that random texts get behind the first comparison.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "NVRM: ",
        "Xid (",
        "PCI:",
        "0000:9b:00",
        ".0",
        "): ",
        "79",
        "154",
        "95",
        "74",
        "149",
        ", pid=",
        "12",
        "'<unknown>'",
        ", name=",
        "GPU has fallen off the bus.",
        " GPU-I:",
        "GPU at ",
        "The NVIDIA GPU ",
        "RST: ",
        "D-RST: Yes",
        "link 4(",
        "0x",
        "from 0x",
        " to 0x",
        "caused by previous Xid ",
        "nvidia-nvswitch0: SXid (",
        "Fatal",
        "Link ",
        "Severity ",
        "AER: ",
        "PCIe Bus Error: severity=",
        "Uncorrected (",
        "id=",
        "mlx5_core ",
        "mce: [Hardware Error]: CPU ",
        "Machine Check",
        "Bank ",
        "EDAC MC0: ",
        "UE",
        "oom-kill:constraint=",
        ",task=",
        ",pid=",
        "INFO: task ",
        " blocked for more than",
        ":",
        "nvme ",
        "\\x0a",
        "\\x",
        "[",
        "]",
        "<6>",
        "kernel: ",
        "6,1,2,-;",
        "kern  :warn  : ",
        "\n",
        "\n SUBSYSTEM=",
        "(GPC ",
        "TPC ",
        "GPCCLIENT_T",
        "GPC",
        "callbacks suppressed",
        "Sun Feb 23 16:24:18 2025",
        "2025-01-21T04:41:44,283302+00:00",
        "é",
        "\u{fffd}",
        " ",
    ]);
    prop_oneof![3 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_text_makes_a_parser_panic_or_say_too_much(pieces in prop::collection::vec(piece(), 0..24), raw in any::<bool>()) {
        let text = pieces.concat();
        let record = if raw { Record::kmsg(1, 2, 4, &text) } else { Record::from_line(&text) };
        let mut parser = Parser::default();
        for _ in 0..2 {
            let seen = parser.parse(&record);
            prop_assert!(seen.len() <= MAX_EVENTS);
            prop_assert!(seen.iter().map(|seen| seen.line.len()).sum::<usize>() <= MAX_TEXT_BYTES);
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let text = String::from_utf8_lossy(&bytes);
        let head = format!("NVRM: Xid (PCI:0000:9b:00): 95, {text}");
        prop_assert!(events(&text).len() <= MAX_EVENTS && events(&head).len() <= MAX_EVENTS);
    }
}

#[test]
fn a_huge_text_is_cut() {
    let huge = format!("{}{}", "NVRM: Xid (PCI:0000:9b:00): 13, x\n".repeat(100_000), "é".repeat(1 << 20));
    let seen = Parser::default().parse(&Record::kmsg(1, 2, 4, &huge));
    assert_eq!(seen.len(), MAX_EVENTS);
}
