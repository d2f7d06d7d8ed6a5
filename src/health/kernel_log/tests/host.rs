//! The machine: network adapters, disks, memory, processors, processes.

use super::*;

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
