//! Processor, memory, and processes that the kernel ends or cannot end.

use super::events::{Event, Lockup, MachineCheckSeverity};
use super::words::{after, cut, first, number, small, small_after};

/// A control group's path; the kernel's own limit is 4096.
const MAX_CGROUP_BYTES: usize = 512;
const MAX_NAME_BYTES: usize = 64;
/// Of a bank's status: the processor could not correct the error.
const UNCORRECTED: u64 = 1 << 61;
/// Of a bank's status: what the processor was doing is lost.
const CONTEXT_CORRUPT: u64 = 1 << 57;

pub(super) fn parse(text: &str) -> Option<Event> {
    machine_check(text)
        .or_else(|| firmware_record(text))
        .or_else(|| edac(text))
        .or_else(|| oom_kill(text))
        .or_else(|| hung_task(text))
        .or_else(|| lockup(text))
        .or_else(|| suppressed(text))
}

/// `mce: [Hardware Error]: CPU 15: Machine Check Exception: 5 Bank 6: bb80000000000e0b`; with AMD's decoder
/// `[Hardware Error]: CPU:2 (17:8:2) MC1_STATUS[Over|UC|MiscV|AddrV|-|TCC]: 0xdc2000000002010b`
fn machine_check(text: &str) -> Option<Event> {
    let rest = text.strip_prefix("mce: ").unwrap_or(text).strip_prefix("[Hardware Error]: ")?;
    let status = if rest.starts_with("CPU:") {
        after(rest, "_STATUS[").and_then(|rest| after(rest, "]: 0x"))
    } else {
        let rest = after(rest.strip_prefix("CPU ").map(|_| rest)?, "Machine Check")?;
        after(rest, "Bank ").and_then(|bank| after(bank, ": "))
    };
    let status = u64::from_str_radix(first(status?), 16).ok()?;
    let uncorrected = status & (UNCORRECTED | CONTEXT_CORRUPT) != 0;
    let severity = if uncorrected { MachineCheckSeverity::Uncorrected } else { MachineCheckSeverity::Corrected };
    Some(Event::MachineCheck { severity })
}

/// `{1}[Hardware Error]: event severity: recoverable`
fn firmware_record(text: &str) -> Option<Event> {
    let (_, rest) = text.strip_prefix('{')?.split_once("}[Hardware Error]: ")?;
    let severity = match first(rest.trim_start().strip_prefix("event severity: ")?) {
        "corrected" | "info" => MachineCheckSeverity::Corrected,
        "recoverable" | "fatal" => MachineCheckSeverity::Uncorrected,
        _ => return None,
    };
    Some(Event::MachineCheck { severity })
}

/// `EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0`; older: `EDAC MC0: CE page 0x...`
fn edac(text: &str) -> Option<Event> {
    let (controller, rest) = text.strip_prefix("EDAC ")?.split_once(": ")?;
    let (count, rest) = number(rest).unwrap_or((1, rest));
    let corrected = match first(rest) {
        "CE" => true,
        "UE" => false,
        _ => return None,
    };
    let controller = controller.split_whitespace().last()?;
    let known = controller.strip_prefix("MC").is_some_and(|number| small(number).is_some());
    known.then(|| Event::Edac {
        controller: cut(controller, MAX_NAME_BYTES).to_owned(),
        corrected,
        count: count.max(1),
    })
}

/// `oom-kill:constraint=CONSTRAINT_MEMCG,...,task_memcg=/a,task=java,pid=5,uid=0`;
/// `Memory cgroup out of memory: Killed process 5 (java) total-vm:...`; `Out of memory: Kill process 5 (java) score ...`
fn oom_kill(text: &str) -> Option<Event> {
    if let Some(rest) = text.strip_prefix("oom-kill:constraint=") {
        // A group's name may hold what looks like fields: the last ones are the kernel's.
        let at = rest.rfind(",pid=")?;
        let pid = small_after(&rest[at..], ",pid=")?;
        let task = rest[..at].rfind(",task=").map(|start| &rest[start + ",task=".len()..at]);
        let end = rest[..at].rfind(",task=").unwrap_or(at);
        let cgroup = after(&rest[..end], ",task_memcg=").map(|path| cut(path, MAX_CGROUP_BYTES).to_owned());
        let limited = Some(rest.starts_with("CONSTRAINT_MEMCG"));
        return Some(Event::OomKill { pid, process: task.and_then(process), cgroup, limited });
    }
    let (limited, rest) = match text.strip_prefix("Memory cgroup out of memory: ") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("Out of memory: ")?),
    };
    let rest = rest.strip_prefix("Killed process ").or_else(|| rest.strip_prefix("Kill process "))?;
    let (pid, rest) = number(rest)?;
    let name = rest.trim_start().strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let process = name.and_then(|(name, _)| process(name));
    Some(Event::OomKill { pid: u32::try_from(pid).ok()?, process, cgroup: None, limited: Some(limited) })
}

/// `INFO: task python3:1234 blocked for more than 120 seconds.`; `... blocked on a mutex ...` is its follow-up.
fn hung_task(text: &str) -> Option<Event> {
    let rest = text.strip_prefix("INFO: task ")?;
    let subject =
        &rest[..rest.find(" blocked for more than").or_else(|| rest.find(" blocked in I/O wait for more than"))?];
    let (name, pid) = subject.rsplit_once(':').unwrap_or((subject, ""));
    Some(Event::HungTask { pid: small(pid), process: process(name), lockup: Lockup::Task })
}

/// `watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [python3:1234]`
fn lockup(text: &str) -> Option<Event> {
    let rest = text.strip_prefix("watchdog: ").unwrap_or(text);
    let known =
        rest.starts_with("BUG: soft lockup - CPU#") || rest.starts_with("Watchdog detected hard LOCKUP on cpu");
    known.then_some(())?;
    let subject = after(rest, "[").and_then(|rest| rest.split_once(']')).map_or("", |(subject, _)| subject);
    let (name, pid) = subject.rsplit_once(':').unwrap_or((subject, ""));
    Some(Event::HungTask { pid: small(pid), process: process(name), lockup: Lockup::Processor })
}

/// `net_ratelimit: 23807 callbacks suppressed`; `printk: 12 messages suppressed.`;
/// `systemd-journald: Missed 15 kernel messages`
fn suppressed(text: &str) -> Option<Event> {
    let ends = text.ends_with("callbacks suppressed")
        || text.trim_end_matches('.').ends_with("messages suppressed")
        || text.trim_end_matches('.').ends_with("printk messages dropped **")
        || (text.contains("Missed ") && text.contains(" kernel messages"))
        || text.contains("/dev/kmsg buffer overrun");
    let (_, rest) = ends.then(|| text.split_once(": ").unwrap_or(("", text)))?;
    let count = rest.split_whitespace().find_map(|word| word.parse().ok());
    Some(Event::Suppressed { count })
}

fn process(name: &str) -> Option<String> {
    Some(cut(name, MAX_NAME_BYTES).to_owned()).filter(|name| !name.is_empty())
}
