//! The static program against an agent that this test plays: real processes, real files, real signals.

mod harness;
mod hold;

use harness::{Agent, is_alive, is_exec_failure, run, send_signal, shell, spec, until};
use nix::sys::signal::Signal;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wharf::shim::exit::Why;
use wharf::shim::protocol::{AgentFrame, CheckKind, Phase, ShimFrame, Slot};
use wharf::shim::spec::{ResourceLimit, ShimSpec};

/// The pid that a command has written to a file.
fn pid_in(agent: &Agent, name: &str) -> i32 {
    until("a pid is written", || std::fs::read_to_string(agent.path(name)).ok()?.trim().parse().ok())
}

#[test]
fn the_program_is_embedded_and_static() {
    let file = std::fs::read(concat!(env!("OUT_DIR"), "/wharf-shim")).unwrap();
    assert!(wharf::shim::BINARY == file && file.starts_with(b"\x7fELF"));
    let number = |place: usize| usize::from(u16::from_le_bytes([file[place], file[place + 1]]));
    // Program headers of a 64-bit ELF file: where, how long each, how many. Type 3 names a dynamic loader.
    let (start, length, count) = (number(32), number(54), number(56));
    assert!((0..count).all(|n| number(start + n * length) != 3), "no dynamic loader is asked for");
}

#[test]
fn the_command_waits_at_the_barrier_for_go() {
    let mut agent = Agent::prepare(&spec());
    assert_eq!(agent.exit_file(), None);
    agent.go(&shell("echo hello; echo problem >&2; printf end"));
    let (_, program) = agent.expect_start();
    assert_eq!(program, "/bin/sh");
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.signal, exit.why.clone()), (Some(0), None, Why::OwnEnd));
    assert!(exit.started_realtime_ns.is_some_and(|started| started <= exit.ended_realtime_ns));
    let log = agent.log();
    assert_eq!((log.text().as_str(), log.stderr.as_slice()), ("hello\nend", b"problem\n".as_slice()));
    assert_eq!((exit.output.bytes, exit.output.lost_bytes), (17, 0));
    assert_eq!(agent.bye(), Some(0));
}

#[test]
fn output_arrives_byte_for_byte() {
    // 10 MB in one line, all byte values, and no newline at the end; small segments, so the ring turns.
    let script =
        r#"i=0; while [ $i -lt 160 ]; do head -c 65536 /dev/zero | tr '\0' x; i=$((i+1)); done; printf '\nlast'"#;
    let small = ShimSpec { segment_bytes: 4 << 20, ..ShimSpec::default() };
    let (exit, log) = Agent::complete(&small, &shell(script));
    assert_eq!((exit.output.bytes, exit.output.lost_bytes), (160 * 65_536 + 5, 0));
    assert_eq!(log.stdout.len(), 160 * 65_536 + 5);
    assert!(log.stdout.ends_with(b"x\nlast") && log.stdout[..160 * 65_536].iter().all(|byte| *byte == b'x'));
    assert_eq!(log.records, exit.output.records);

    let script = r"i=0; while [ $i -lt 256 ]; do printf '\'$(printf %03o $i); i=$((i+1)); done";
    let (_, log) = Agent::complete(&spec(), &shell(script));
    assert_eq!(log.stdout, (0..=255).collect::<Vec<u8>>());
}

#[test]
fn the_ring_keeps_the_newest() {
    let small = ShimSpec { segment_bytes: 1 << 20, ..ShimSpec::default() };
    let (exit, log) = Agent::complete(&small, &shell("seq 2000000; echo the end"));
    assert!(exit.output.lost_bytes == 0 && exit.output.bytes > 12 << 20);
    assert!(log.stdout.ends_with(b"\n2000000\nthe end\n") && log.stdout.len() < 4 << 20);
}

#[test]
fn statuses_and_signals_are_told() {
    let (exit, _) = Agent::complete(&spec(), &shell("exit 42"));
    assert_eq!((exit.code, exit.signal, exit.why), (Some(42), None, Why::OwnEnd));
    let (exit, _) = Agent::complete(&spec(), &shell("kill -SEGV $$"));
    assert_eq!((exit.code, exit.signal, exit.why), (None, Some(11), Why::OwnEnd));
}

#[test]
fn whatever_the_command_leaves_is_killed() {
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $! > one
        (setsid sh -c '(trap \"\" TERM HUP INT; sleep 1000) & echo $! > two' >/dev/null 2>&1 &)
        while ! [ -s one -a -s two ]; do sleep 0.01; done";
    let mut agent = Agent::launch(&spec(), &shell(script));
    let exit = agent.expect_end();
    let pids = [pid_in(&agent, "one"), pid_in(&agent, "two")];
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
    assert!(exit.killed_at_end >= 2 && exit.leftover_pids.is_empty() && exit.code == Some(0), "{exit:?}");
}

#[test]
fn a_grandchild_that_holds_the_output_gets_two_seconds() {
    let started = Instant::now();
    let script =
        "(setsid sh -c 'echo $$ > pid; sleep 0.5; echo late; sleep 1000') & while ! [ -s pid ]; do sleep 0.01; done";
    let mut agent = Agent::launch(&spec(), &shell(script));
    let exit = agent.expect_end();
    assert_eq!((agent.log().text().as_str(), exit.code), ("late\n", Some(0)));
    assert!(!is_alive(pid_in(&agent, "pid")));
    assert!(started.elapsed() >= Duration::from_secs(2) && started.elapsed() < Duration::from_secs(15));
}

#[test]
fn stop_asks_first() {
    let mut agent =
        Agent::launch(&spec(), &shell("trap 'echo saved; exit 3' TERM; echo up; while :; do sleep 0.05; done"));
    until("the command runs", || agent.log_contains("up\n").then_some(()));
    agent.send(&AgentFrame::Stop { grace_ms: 60_000 });
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.why), (Some(3), Why::StoppedByAgent));
    assert_eq!(agent.log().text(), "up\nsaved\n");
}

#[test]
fn stop_kills_what_does_not_listen_and_a_shorter_grace_shortens() {
    let mut agent = Agent::launch(&spec(), &shell("trap '' TERM; echo up; while :; do sleep 0.05; done"));
    until("the command runs", || agent.log_contains("up\n").then_some(()));
    let started = Instant::now();
    agent.send(&AgentFrame::Stop { grace_ms: 600_000 });
    agent.send(&AgentFrame::Stop { grace_ms: 300 });
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.signal, exit.why), (None, Some(9), Why::StoppedByAgent));
    assert!(started.elapsed() >= Duration::from_millis(300) && started.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_grace_of_a_stop_is_the_whole_groups() {
    // As `bash -c` does: the shell dies of the group's SIGTERM at once, its program saves and takes its time.
    let program = "trap 'sleep 4; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let script = format!("/bin/sh -c \"{program}\"; echo after");
    let mut agent = Agent::launch(&spec(), &shell(&script));
    until("the program runs", || agent.log_contains("up\n").then_some(()));
    agent.send(&AgentFrame::Stop { grace_ms: 60_000 });
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.signal, exit.why), (None, Some(15), Why::StoppedByAgent));
    assert_eq!(agent.log().text(), "up\nsaved\n");
}

#[test]
fn who_is_left_when_the_grace_ends_is_killed() {
    let program = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let mut agent = Agent::launch(&spec(), &shell(&format!("/bin/sh -c \"{program}\"; echo after")));
    until("the program runs", || agent.log_contains("up\n").then_some(()));
    let started = Instant::now();
    agent.send(&AgentFrame::Stop { grace_ms: 3000 });
    let exit = agent.expect_end();
    assert_eq!((exit.signal, exit.leftover_pids.len()), (Some(15), 0));
    assert!(exit.killed_at_end > 0 && started.elapsed() >= Duration::from_secs(3), "{exit:?}");
}

#[test]
fn kill_ends_at_once_and_signals_are_passed_on() {
    let mut agent = Agent::launch(&spec(), &shell("trap 'echo usr1' USR1; echo up; while :; do sleep 0.05; done"));
    until("the command runs", || agent.log_contains("up\n").then_some(()));
    agent.send(&AgentFrame::Signal { number: 10 });
    until("the signal arrives", || agent.log_contains("usr1\n").then_some(()));
    agent.send(&AgentFrame::Kill);
    let exit = agent.expect_end();
    assert_eq!((exit.signal, exit.why), (Some(9), Why::StoppedByAgent));
}

#[test]
fn at_the_barrier_a_stop_ends_at_once() {
    let mut agent = Agent::prepare(&spec());
    agent.send(&AgentFrame::Stop { grace_ms: 600_000 });
    assert_eq!(agent.next(), ShimFrame::StopAck);
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.why, exit.started_realtime_ns), (None, Why::StoppedByAgent, None));
    agent.bye();
}

#[test]
fn a_signal_from_outside_is_passed_on_and_remembered() {
    let mut agent = Agent::launch(&spec(), &shell("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"));
    until("the command runs", || agent.log_contains("up\n").then_some(()));
    send_signal(agent.shim.id() as i32, Signal::SIGTERM);
    let exit = agent.expect_end();
    let (pid, uid) = (std::process::id(), nix::unistd::getuid().as_raw());
    assert_eq!((exit.code, exit.why), (Some(9), Why::OutsideSignal { signal: 15, pid, uid }));
}

#[test]
fn a_task_that_signals_its_shim_ends_by_itself() {
    for kill in ["kill", "/bin/kill", "env kill"] {
        let script = format!("trap '' TERM; {kill} -TERM $PPID; sleep 0.3; exit 1");
        let (exit, _) = Agent::complete(&spec(), &shell(&script));
        assert_eq!((exit.code, exit.why), (Some(1), Why::OwnEnd), "{kill}");
    }
}

#[test]
fn the_agent_may_come_and_go() {
    let mut agent = Agent::prepare(&spec());
    agent.hang_up();
    agent.listen_again();
    assert_eq!(agent.accept(), Phase::AtBarrier);
    agent.expect_ready();
    agent.go(&shell("echo up; while ! [ -e leave ]; do sleep 0.02; done; echo done"));
    let (pid, _) = agent.expect_start();
    agent.hang_up();
    agent.listen_again();
    match agent.accept() {
        Phase::Running { child_pid, .. } => assert_eq!(child_pid as i32, pid),
        other => panic!("{other:?} instead of running"),
    }
    assert_eq!(agent.expect_start().0, pid);
    agent.hang_up();
    std::fs::write(agent.path("leave"), "").unwrap();
    // Without an agent it leaves by itself; the record is there.
    assert_eq!(agent.wait(), Some(0));
    let exit = agent.exit_file().unwrap();
    assert_eq!((exit.code, exit.why), (Some(0), Why::OwnEnd));
    assert_eq!(agent.log().text(), "up\ndone\n");
}

#[test]
fn a_task_without_renewal_ends_itself() {
    let leased = ShimSpec { lease_s: Some(1), ..spec() };
    let mut agent = Agent::launch(&leased, &run(&["sleep", "1000"]));
    agent.expect_start();
    agent.hang_up();
    assert_eq!(agent.wait(), Some(128 + 15));
    let exit = agent.exit_file().unwrap();
    assert_eq!((exit.signal, exit.why), (Some(15), Why::LeaseExpired));
}

#[test]
fn a_lease_runs_out_during_a_long_grace_too() {
    let leased = ShimSpec { lease_s: Some(2), ..spec() };
    let mut agent = Agent::launch(&leased, &shell("trap '' TERM; echo up; while :; do sleep 0.05; done"));
    until("the command runs", || agent.log_contains("up\n").then_some(()));
    let started = Instant::now();
    agent.send(&AgentFrame::Stop { grace_ms: 600_000 });
    let exit = agent.expect_end();
    assert_eq!((exit.signal, exit.why), (Some(9), Why::StoppedByAgent));
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_renewal_keeps_a_task_and_never_shortens() {
    let leased = ShimSpec { lease_s: Some(1), ..spec() };
    let mut agent = Agent::prepare(&leased);
    // Counts CLOCK_BOOTTIME.
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime_s: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let until_boottime_ns = (uptime_s as u64 + 1000) * 1_000_000_000;
    agent.send(&AgentFrame::Renew { until_boottime_ns });
    agent.send(&AgentFrame::Renew { until_boottime_ns: 5 });
    agent.go(&run(&["sleep", "2"]));
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.why), (Some(0), Why::OwnEnd));
}

#[test]
fn users_limits_and_masks_are_set() {
    let dropped = ShimSpec {
        uid: Some(12_345),
        gid: Some(23_456),
        groups: Some(vec![34_567]),
        umask: Some(0o27),
        limits: vec![ResourceLimit { resource: 7, soft: 100, hard: 200 }],
        oom_score_adj: Some(321),
        new_ipc_namespace: true,
        ..spec()
    };
    let mut command = shell(
        "id -u; id -G; umask; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; pwd; ls /proc/self/fd; readlink /proc/self/ns/ipc",
    );
    command.cwd = Some(b"/".to_vec());
    let (exit, log) = Agent::complete(&dropped, &command);
    let ours = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    let text = log.text();
    let (rest, namespace) = text.trim_end().rsplit_once('\n').unwrap();
    // The descriptors are the three streams and the folder that ls reads.
    assert_eq!(rest, "12345\n23456 34567\n0027\n100\n200\n321\n/\n0\n1\n2\n3", "{exit:?}");
    assert_ne!(namespace, ours.to_str().unwrap());
}

#[test]
fn a_large_environment_runs_and_can_start_programs() {
    // More than the quarter of a stack of 8 MiB that the kernel takes.
    let mut command = shell("env | wc -c; ulimit -Ss; ulimit -Hs");
    command.env.extend((0..30).map(|n| (format!("V{n}").into_bytes(), vec![b'x'; 100_000])));
    let stack = |hard| ResourceLimit { resource: 3, soft: 8 << 20, hard };
    let (exit, log) = Agent::complete(&ShimSpec { limits: vec![stack(u64::MAX)], ..spec() }, &command);
    let text = log.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].parse::<u32>().is_ok_and(|bytes| bytes > 3_000_000), "{exit:?} {text}");
    assert!(lines[1].parse::<u32>().is_ok_and(|kib| (11_700..13_000).contains(&kib)), "{text}");
    assert_eq!(lines[2], "unlimited");
    // Where that is not enough it is said; where nothing is needed nothing is changed.
    let (exit, _) = Agent::complete(&ShimSpec { limits: vec![stack(8 << 20)], ..spec() }, &command);
    assert!(is_exec_failure(&exit.why, "exec", 7, "/bin/sh"), "{exit:?}");
    let (_, log) = Agent::complete(&ShimSpec { limits: vec![stack(u64::MAX)], ..spec() }, &shell("ulimit -Ss"));
    assert_eq!(log.text(), "8192\n");
}

#[test]
fn signals_are_at_their_defaults_and_the_environment_is_exact() {
    let mut command = shell("grep -E 'Sig(Blk|Ign)' /proc/self/status; env | sort");
    command.env.extend([(b"A".to_vec(), b"1".to_vec()), (b"A".to_vec(), b"2\n3".to_vec())]);
    let (_, log) = Agent::complete(&spec(), &command);
    let zeros = "0".repeat(16);
    let expected = format!("SigBlk:\t{zeros}\nSigIgn:\t{zeros}\n3\nA=2\nPATH=/usr/bin:/bin\nPWD=");
    assert!(log.text().starts_with(&expected), "{}", log.text());
}

#[test]
fn the_task_cannot_look_into_the_shim() {
    let script = "ls /proc/$PPID/fd 2>&1; stat -c %u /proc/$PPID/fd";
    let (_, log) = Agent::complete(&ShimSpec { uid: Some(12_345), ..spec() }, &shell(script));
    assert!(log.text().contains("Permission denied") && log.text().ends_with("0\n"), "{}", log.text());
}

#[test]
fn a_command_that_cannot_run_is_told_with_its_reason() {
    let (exit, _) = Agent::complete(&spec(), &run(&["/no/such/program"]));
    assert!(is_exec_failure(&exit.why, "exec", 2, "/no/such/program"), "{exit:?}");
    assert_eq!((exit.code, exit.started_realtime_ns), (None, None));
    let (exit, _) = Agent::complete(&spec(), &run(&["/etc/passwd"]));
    assert!(is_exec_failure(&exit.why, "exec", 13, "/etc/passwd"), "{exit:?}");
    let mut command = shell("true");
    command.cwd = Some(b"/no/such/folder".to_vec());
    let (exit, _) = Agent::complete(&spec(), &command);
    assert!(is_exec_failure(&exit.why, "chdir", 2, "/no/such/folder"), "{exit:?}");
}

#[test]
fn the_second_shell_is_taken_where_the_first_is_missing() {
    let mut command = run(&["/no/bash", "-c", "echo bash"]);
    command.alternatives.push(vec![b"sh".to_vec(), b"-c".to_vec(), b"echo sh".to_vec()]);
    let mut agent = Agent::launch(&spec(), &command);
    match agent.next() {
        ShimFrame::Started { alternative, program, .. } => {
            assert_eq!((alternative, program.as_str()), (1, "/usr/bin/sh"))
        }
        other => panic!("{other:?} instead of started"),
    }
    agent.expect_end();
    assert_eq!(agent.log().text(), "sh\n");
}

#[test]
fn checks_are_made_before_ready() {
    let checks = vec![
        (CheckKind::DeviceNode, "/dev/null".to_owned()),
        (CheckKind::DeviceNode, "/dev/nvidia77".to_owned()),
        (CheckKind::Library, "libc.so.6".to_owned()),
        (CheckKind::Library, "libwharf.so.7".to_owned()),
    ];
    let mut agent = Agent::start();
    agent.send_spec(&ShimSpec { checks, ..spec() }, Vec::new());
    let ShimFrame::Ready { checks } = agent.next() else { panic!("ready") };
    let found: Vec<_> = checks
        .iter()
        .filter(|check| !check.subject.is_empty())
        .map(|check| (check.subject.as_str(), check.errno))
        .collect();
    assert_eq!(found, [("exit", 0), ("/dev/null", 0), ("/dev/nvidia77", 2), ("libc.so.6", 0), ("libwharf.so.7", 2)]);
}

#[test]
fn a_slow_disk_blocks_no_task_and_the_gap_is_exact() {
    let mut agent = Agent::start();
    // The only segment is a pipe that nobody reads until the task is done with its output.
    agent.segments.clear();
    let (out, into) = nix::unistd::pipe().unwrap();
    agent.send_spec(&spec(), vec![(Slot::Segment, into)]);
    agent.expect_ready();
    let total = 30 << 20;
    agent.go(&shell(&format!(
        "head -c {total} /dev/zero; echo > written; while ! [ -e go ]; do sleep 0.02; done; printf tail"
    )));
    until("the task is not blocked", || agent.path("written").exists().then_some(()));
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let reader = std::thread::spawn(move || {
        let (mut bytes, mut piece, mut disk) = (Vec::new(), vec![0; 64 * 1024], std::fs::File::from(out));
        loop {
            match disk.read(&mut piece)? {
                0 => return Ok::<_, std::io::Error>(bytes),
                size => bytes.extend_from_slice(&piece[..size]),
            }
            count.store(bytes.len(), Ordering::Relaxed);
        }
    });
    // Until half of the queue is free again all output is dropped, the tail too.
    until("the disk has caught up", || (taken.load(Ordering::Relaxed) > 6 << 20).then_some(()));
    std::fs::write(agent.path("go"), "").unwrap();
    let exit = agent.expect_end();
    agent.bye();
    let mut log = harness::Log::default();
    log.read_segment(&reader.join().unwrap().unwrap());
    assert!(log.stdout.ends_with(b"\0tail"));
    let (records, bytes) = log.gaps.iter().fold((0, 0), |sum, gap| (sum.0 + gap.0, sum.1 + gap.1));
    assert_eq!(log.stdout.len() as u64 + bytes, total + 4);
    assert_eq!((exit.output.lost_records, exit.output.lost_bytes), (records, bytes));
    assert_eq!((exit.output.records, exit.output.bytes), (log.records, log.stdout.len() as u64));
    assert!(bytes > 0 && exit.code == Some(0), "{exit:?}");
}

#[test]
fn a_full_disk_loses_output_and_nothing_else() {
    let mut agent = Agent::start();
    agent.segments.clear();
    let full: OwnedFd = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    agent.send_spec(&spec(), vec![(Slot::Segment, full)]);
    agent.expect_ready();
    agent.go(&shell("head -c 20000000 /dev/zero; exit 5"));
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.output.bytes, exit.output.lost_bytes), (Some(5), 0, 20_000_000));
}

#[test]
fn nonsense_from_the_socket_ends_the_connection_only() {
    let mut agent = Agent::prepare(&spec());
    agent.send(&AgentFrame::Go);
    assert_eq!(agent.accept(), Phase::AtBarrier, "a go without its descriptor");
    agent.expect_ready();
    agent.go(&shell("echo fine"));
    agent.expect_end();
    assert_eq!(agent.log().text(), "fine\n");
}

#[test]
fn an_unreadable_command_is_told() {
    let mut agent = Agent::prepare(&spec());
    let file = std::fs::File::open("/dev/null").unwrap();
    agent.send_with(&AgentFrame::Go, &[file.into()]);
    let exit = agent.expect_end();
    assert!(matches!(exit.why, Why::ExecFailed { step, .. } if step == "read the command"));
}

#[test]
fn a_fork_bomb_is_cleared_away() {
    let limits = vec![ResourceLimit { resource: 6, soft: 200, hard: 200 }];
    let bomb = "setsid sh -c 'while :; do (exec sleep 0.01) & (sleep 0.01; sleep 1000) & done' >/dev/null 2>&1 &";
    let script = format!("{bomb} {bomb} {bomb} sleep 1; echo over");
    let mut agent = Agent::launch(&ShimSpec { limits, uid: Some(54_321), ..spec() }, &shell(&script));
    let exit = agent.expect_end();
    assert!(exit.killed_at_end > 50 && exit.leftover_pids.is_empty() && exit.code == Some(0), "{exit:?}");
    let left = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let status = std::fs::read_to_string(entry.ok()?.path().join("status")).ok()?;
        status.contains("\nUid:\t54321\t").then_some(status)
    });
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
}

/// A folder that is no cgroup, so nobody can be born in it: as on kernels and in sandboxes that do not do that.
#[test]
fn a_command_that_cannot_be_born_in_its_group_joins_it() {
    let mut agent = Agent::start();
    let folder = agent.path("group");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("cgroup.procs"), "").unwrap();
    let slot = (Slot::CgroupFolder, std::fs::File::open(&folder).unwrap().into());
    agent.send_spec(&spec(), vec![slot]);
    agent.expect_ready();
    agent.go(&shell("echo ran"));
    agent.expect_start();
    assert_eq!(agent.expect_end().code, Some(0));
    agent.bye();
    assert_eq!(std::fs::read(folder.join("cgroup.procs")).unwrap(), b"0");
}

#[test]
fn a_command_without_its_group_does_not_run() {
    let mut agent = Agent::start();
    let slot = (Slot::CgroupFolder, std::fs::File::open(agent.folder.path()).unwrap().into());
    agent.send_spec(&spec(), vec![slot]);
    agent.expect_ready();
    agent.go(&shell("echo ran"));
    let exit = agent.expect_end();
    assert!(is_exec_failure(&exit.why, "join cgroup", 2, "cgroup"), "{:?}", exit.why);
    agent.bye();
    assert_eq!(agent.log().text(), "");
}
