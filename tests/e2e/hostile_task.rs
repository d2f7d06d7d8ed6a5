//! Tasks that mean harm to their agent and to others: through their socket, through their log, out of their container.

use crate::harness::attack::attack;
use crate::harness::docker::Dockerd;
use crate::harness::job::{quoted, with};
use crate::harness::proc::number;
use crate::harness::{Cluster, Node, job, role, skip, until};
use serde_json::json;
use std::fs;
use std::process::Command;

/// Resident memory that an agent may take while a task does its worst.
const ENOUGH_KIB: u64 = 512 * 1024;
/// Bytes that it may have to say about it.
const ENOUGH_LOG: usize = 256 * 1024;

/// Run as root, which the files of a process task are not kept from: worse than what a task can do that is.
const ATTACK: &str = r#"
use strict; use IO::Socket::UNIX; use Socket qw(SOCK_STREAM);
my ($what, $mine, $socket, $victim) = @ARGV;
srand(7);
$SIG{PIPE} = 'IGNORE'; $| = 1;
sub spill { my ($path, $bytes) = @_; open(my $f, '>', $path) or die "$path: $!"; binmode $f; print $f $bytes; close $f; }
sub noise { join '', map { chr int rand 256 } 1 .. shift }
if ($what eq 'socket') {
    my @bodies = (pack('V', 0xffffffff), pack('V', 0), pack('VC', 1, 250), pack('VC', 65536, 1) . noise(65535),
        pack('VCvVQ<C', 16, 0, 65535, 1, 1, 9), noise(4096), '');
    my $connected = 0;
    for my $round (1 .. 60) {
        my $s = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $socket) or next;
        $connected++;
        print $s $bodies[$round % @bodies];
        close $s if $round % 3;
        push @main::held, $s unless $round % 3;
    }
    print "connected\n" if $connected > 20;
} elsif ($what eq 'log') {
    open(my $f, '<', "$mine/log.0") or die; binmode $f; local $/; my $good = <$f>; close $f;
    my $n = 0;
    for my $at (0 .. 63) {
        for my $value (0, 1, 0x7f, 0xff) {
            next if $at >= length $good;
            my $bad = $good; substr($bad, $at, 1) = chr $value;
            spill("$mine/log.1", $bad . noise(200)) if $n++ % 8 == 0;
        }
    }
    spill("$mine/log.2", noise(100_000));
    spill("$mine/log.3", substr($good, 0, int(length($good) / 2)));
    spill("$mine/log.4", "\xff" x 1_000_000);
    unlink "$mine/log.5"; symlink("$victim/log.0", "$mine/log.5") or die;
    unlink "$mine/log.6"; symlink('/dev/zero', "$mine/log.6") or die;
    unlink "$mine/log.7"; mkdir "$mine/log.7" or die;
    spill("$mine/exit", noise(4096));
    print "spoilt\n";
} else {
    my $line = 'x' x 65536;
    for (1 .. 800) { syswrite(STDOUT, $line); }
    print "\nflooded\n";
}
system('touch', "$ENV{DONE}.$what");
sleep 600;
"#;

fn has_perl() -> bool {
    Command::new("perl").args(["-MIO::Socket::UNIX", "-e", "1"]).status().is_ok_and(|status| status.success())
}

fn assert_untouched(cluster: &Cluster, victim: &str, agent: i32) {
    assert_eq!(cluster.agent_pid(0), Some(agent), "the agent lives");
    assert_eq!(cluster.cli(&["logs", victim]).expect(0).text(), "line 1\nline 2\nits own\n");
    let other = cluster.submit(&job("other", &[role("main", 1, "echo well")]));
    assert_eq!(cluster.wait_end(&other)["state"], "SUCCEEDED");
    assert_eq!(cluster.cli(&["logs", &other]).expect(0).text(), "well\n");
    assert!(
        cluster.log_of("agent0").len() < ENOUGH_LOG,
        "the agent has said {} bytes",
        cluster.log_of("agent0").len()
    );
    let resident = number(agent, "status", "VmRSS").expect("the agent lives");
    assert!(resident < ENOUGH_KIB, "the agent has {resident} KiB");
}

#[test]
fn what_a_task_does_to_its_socket_and_its_log_is_its_own_affair() {
    const WHAT: &str = "tasks that attack their agent";
    if !nix::unistd::Uid::effective().is_root() || !has_perl() {
        return skip(WHAT, "it needs root and perl");
    }
    let _row = attack(
        "hostile tasks",
        "records and floods at its shim's socket, its log files",
        1,
        "agent up, others untouched",
    );
    let cluster = Cluster::start(&["none"]);
    let victim_command = "echo line 1; echo line 2; echo its own; while :; do sleep 0.1; done";
    let victim = cluster.submit(&job("victim", &[role("main", 1, victim_command)]));
    let shown = cluster.wait_running(&victim);
    let victims = cluster.path(&format!("a0/tasks/{victim}.{}.0.0", shown["runs"][0]["run_id"]));
    until("its output is there", || cluster.cli(&["logs", &victim]).text().contains("its own").then_some(()));
    let before = fs::read(victims.join("log.0")).expect("the path is right");
    let mut agent = cluster.agent_pid(0).expect("it runs");
    fs::write(cluster.path("attack.pl"), ATTACK).expect("it is ours");
    for what in ["socket", "log", "flood"] {
        let done = cluster.path("done");
        let command = format!(
            "echo begun; export DONE={}; mine=${{PAI_WORK_DIR%/work}}; \
             until [ -s $mine/log.0 ]; do sleep 0.05; done; \
             exec perl {} {what} $mine {}/${{mine##*/}}/s {}",
            quoted(&done),
            quoted(cluster.path("attack.pl")),
            cluster.path("r0").display(),
            quoted(&victims),
        );
        let id = cluster.submit(&job(what, &[role("main", 1, &command)]));
        cluster.wait_running(&id);
        let marker = cluster.path(&format!("done.{what}"));
        until("the attack is over", || marker.exists().then_some(()));
        // An answer of either kind, and nothing of another's.
        let said = cluster.cli(&["logs", &id, "--tail", "20"]);
        assert!(!said.text().contains("its own"), "{what}: {}", said.text());
        if what == "socket" {
            assert!(said.text().contains("connected"), "the socket was reached: {}", said.text());
            until("it is told", || cluster.log_of("agent0").contains("others than its shim connect").then_some(()));
        }
        assert_untouched(&cluster, &victim, agent);
        cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
        cluster.wait_end(&id);
        // Another agent process reads all of it anew.
        cluster.kill9_agent(0);
        cluster.start_agent(0);
        cluster.wait_ready();
        agent = cluster.agent_pid(0).expect("it runs");
        assert_untouched(&cluster, &victim, agent);
    }
    assert_eq!(fs::read(victims.join("log.0")).expect("it is there"), before);
    assert_eq!(cluster.show(&victim)["state"], "RUNNING");
    cluster.cli(&["stop", &victim, "--grace", "0"]).expect(0);
    cluster.wait_end(&victim);
}

#[test]
fn a_container_reaches_nothing_of_another_users() {
    let Some(dockerd) = Dockerd::get("containers of two users") else { return };
    let _row = attack("hostile tasks", "a container at another user's container", 1, "nothing reached");
    let more = format!("docker_socket = '{}'\n", dockerd.socket().display());
    let cluster = Cluster::with(vec![Node { runtime: "docker".to_owned(), more, ..Node::new("n0", "none") }], "");
    let of = |name: &str, marker: &str, command: &str| {
        let extras = json!({ "wharf": { "secrets": { "HIDDEN": format!("hidden-{marker}") } } });
        let fields = json!({ "image": "wharf-test/busybox:1", "jobEnvs": { "MARKER": marker }, "extras": extras });
        with(job(name, &[role("main", 1, command)]), &fields)
    };
    let waiting = "echo its-output; trap 'echo told' TERM; while :; do sleep 0.1; done";
    let victim = cluster.submit_with(&of("victim", "of-the-victim", waiting), &["--user", "vera"]);
    let shown = cluster.wait_running(&victim);
    let output = || cluster.cli(&["logs", "vera/victim"]).text();
    until("its output is there", || output().contains("its-output").then_some(()));
    let task = format!("{victim}.{}.0.0", shown["runs"][0]["run_id"]);
    let state = cluster.path("a0");
    assert!(state.join(format!("tasks/{task}/mount/s")).exists(), "the paths below are right");
    let script = format!(
        "tried=0; got() {{ echo \"GOT $1\"; }}; try() {{ tried=$((tried + 1)); }}\n\
         cat /proc/self/environ | tr '\\0' '\\n' | grep -q '^HIDDEN=hidden-of-me' && echo looking-works\n\
         for p in /proc/[0-9]*; do\n\
           try; cat $p/environ 2>/dev/null | tr '\\0' '\\n' | grep -q of-the-victim && got $p/environ\n\
           cat $p/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q 'its-outpu[t]' && got $p/cmdline\n\
           ls $p/root{state} >/dev/null 2>&1 && got $p/root\n\
         done\n\
         for s in $(find / -type s 2>/dev/null); do try; case $s in /.wharf/s|/.wharf-*/s) ;; *) got $s;; esac; done\n\
         for f in $(ls -A /.wharf); do case $f in s|ssh|wharf-shim) ;; *) got /.wharf/$f;; esac; done\n\
         for f in new s ssh/new ../new2; do (: >/.wharf/$f) 2>/dev/null && [ $f != ../new2 ] && got writing-$f; done\n\
         rm -f /.wharf/s 2>/dev/null && got removing-s; mv /.wharf/s /tmp/ 2>/dev/null && got moving-s\n\
         for f in {state} {state}/tasks/{task} {state}/journal.db {run} {docker} /var/run/docker.sock; do\n\
           try; ls $f >/dev/null 2>&1 && got $f\n\
         done\n\
         mount -o remount,rw /.wharf 2>/dev/null && got remounting; mknod /tmp/sda b 8 0 2>/dev/null && got mknod\n\
         [ $tried -gt 8 ] && echo tried-enough\n",
        state = state.display(),
        run = cluster.path("r0").display(),
        docker = dockerd.socket().display(),
    );
    let thief = cluster.submit_with(&of("thief", "of-me", &script), &["--user", "theo"]);
    let shown = cluster.wait_end(&thief);
    let said = cluster.cli(&["logs", "theo/thief"]).text();
    assert_eq!(shown["state"], "SUCCEEDED", "{shown}\n{said}");
    assert!(said.contains("looking-works") && said.contains("tried-enough"), "{said}");
    assert!(!said.contains("GOT"), "{said}");
    assert_eq!(cluster.show(&victim)["state"], "RUNNING");
    assert!(!output().contains("told"), "{}", output());
    cluster.cli(&["--as-user", "vera", "stop", &victim, "--grace", "0"]).expect(0);
    cluster.wait_end(&victim);
    dockerd.remove_of(cluster.node_uids());
}
