//! Ports: every promised one is the task's to bind, whoever else is after them.

use crate::harness::cluster::wharf;
use crate::harness::job::{ended, quoted, with};
use crate::harness::{Cluster, Node, job, role, skip, until};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// Binds every port that the task was promised, as a program does that wants them for itself alone: without
/// SO_REUSEADDR. Ends with 1 at the first that it cannot have.
const BIND_ALL: &str = r#"
my $own = "PAI_PORT_LIST_$ENV{PAI_CURRENT_TASK_ROLE_NAME}_$ENV{PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX}_";
my @ports = map { split /,/, $ENV{$_} } grep { /^\Q$own\E/ } sort keys %ENV;
my @held;
for my $port (@ports) {
    socket(my $socket, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
    bind($socket, sockaddr_in($port, INADDR_ANY)) or die "port $port: $!\n";
    listen($socket, 5) or die "port $port: $!\n";
    push @held, $socket;
}
print scalar(@ports), "\n";
"#;

/// Takes ports of a range at random and gives them back after a few seconds, for as long as it lives.
const GRAB: &str = r#"
my ($first, $last, $seed) = @ARGV;
srand($seed);
my @held;
while (getppid() != 1) {
    my $port = $first + int(rand($last - $first + 1));
    my $socket;
    if (socket($socket, PF_INET, SOCK_STREAM, 0) && bind($socket, sockaddr_in($port, INADDR_ANY))) {
        listen($socket, 1) if rand() < 0.5;
        push @held, $socket;
    }
    close(shift @held) if @held > 3;
    # A port that was taken is kept for some seconds: nobody has to be quick to see who has it.
    select(undef, undef, undef, 1.5 + rand());
}
"#;

fn perl(script: &str) -> Command {
    let mut command = Command::new("perl");
    command.args(["-MSocket", "-e", script]);
    command
}

/// Ends with the test, however that ends.
struct Grabber(Child);

impl Drop for Grabber {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ports_of(task: &Value) -> Vec<u64> {
    let labels = task["ports"].as_object().expect("ports by label");
    labels.values().flat_map(|ports| ports.as_array().unwrap()).map(|port| port.as_u64().unwrap()).collect()
}

#[test]
fn every_promised_port_can_be_had_while_others_grab_them() {
    let test = "ports: every_promised_port_can_be_had_while_others_grab_them";
    if !perl("exit 0").status().is_ok_and(|status| status.success()) {
        return skip(test, "perl with its Socket module is missing");
    }
    let cluster = Cluster::start(&["none"]);
    let range = cluster.ports(0);
    let grabbers: Vec<Grabber> = (1..=16)
        .map(|seed: u32| {
            let arguments =
                [u32::from(*range.start()), u32::from(*range.end()), seed].map(|number| number.to_string());
            let mut command = perl(GRAB);
            Grabber(command.args(arguments).stdin(Stdio::null()).spawn().expect("perl runs"))
        })
        .collect();
    until("others have ports of the range", || {
        (range.clone().filter(|port| TcpListener::bind(("0.0.0.0", *port)).is_err()).count() >= 16).then_some(())
    });
    let script = cluster.path("bind.pl");
    std::fs::write(&script, BIND_ALL).expect("the folder is ours");
    let command = format!("exec perl -MSocket {}", quoted(&script));
    let worker = with(
        role("worker", 4, &command),
        &json!({
            "portList": [{ "label": "rpc", "beginAt": 0, "portNumber": 2 }, { "label": "data", "beginAt": 0, "portNumber": 1 }]
        }),
    );
    let jobs: Vec<String> =
        (0..6).map(|n| cluster.submit(&job(&format!("gang{n}"), std::slice::from_ref(&worker)))).collect();
    for id in &jobs {
        let shown = cluster.wait_end(id);
        let events = || cluster.cli(&["--json", "events", "--job", id]).text();
        assert_eq!(shown["state"], "SUCCEEDED", "{shown}\n{}", events());
        assert_eq!(shown["retries"]["user"], 0, "no retry of the job's own: {shown}");
        let logs = cluster.cli(&["logs", id, "--stream", "stdout"]).expect(0).text();
        assert_eq!(
            logs.lines().filter(|line| line.ends_with('5')).count(),
            4,
            "http, ssh, rpc and data each: {logs}"
        );
    }
    drop(grabbers);
    cluster.wait_idle();
}

#[test]
fn a_port_that_was_taken_after_go_costs_no_attempt() {
    let test = "ports: a_port_that_was_taken_after_go_costs_no_attempt";
    if !perl("exit 0").status().is_ok_and(|status| status.success()) {
        return skip(test, "perl with its Socket module is missing");
    }
    let cluster = Cluster::start(&["none"]);
    let script = cluster.path("bind.pl");
    std::fs::write(&script, BIND_ALL).expect("the folder is ours");
    let go = quoted(cluster.path("go"));
    let command = format!("until [ -e {go} ]; do sleep 0.05; done; exec perl -MSocket {}", quoted(&script));
    let id = cluster.submit(&job("late", &[role("main", 1, &command)]));
    let first = ports_of(&cluster.wait_running(&id)["tasks"][0]);
    let port = u16::try_from(first[0]).expect("a port");
    let _thief = TcpListener::bind(("0.0.0.0", port)).expect("nobody holds it between go and its use");
    cluster.touch("go");
    let shown = cluster.wait_end(&id);
    assert_eq!(shown["state"], "SUCCEEDED", "{shown}");
    assert_eq!(shown["retries"], json!({ "user": 0, "platform": 1, "hardware": 0, "asked": 0 }), "{shown}");
    let exit = &shown["runs"][0]["exit"];
    assert_eq!((&exit["class"], &exit["busy_ports"]), (&json!("platform"), &json!([port])), "{exit}");
    assert!(exit["reason"].as_str().is_some_and(|reason| reason.contains(&format!("port {port}"))), "{exit}");
    assert!(!ports_of(&shown["tasks"][0]).contains(&u64::from(port)), "{shown}");
}

#[test]
fn ports_of_somebody_else_are_left_alone_and_the_reason_is_told() {
    let cluster = Cluster::start(&["none"]);
    let range = cluster.ports(0);
    // All but five, far from each other.
    let free: Vec<u16> = range.clone().filter(|port| (port - range.start()) % 40 == 7).collect();
    let _taken: Vec<TcpListener> = range
        .clone()
        .filter(|port| !free.contains(port))
        .filter_map(|port| TcpListener::bind(("0.0.0.0", port)).ok())
        .collect();
    let file = |name: &str, ports: u32| {
        let ports = json!({ "portList": [{ "label": "x", "beginAt": 0, "portNumber": ports }] });
        job(name, &[with(role("main", 1, "true"), &ports)])
    };
    let wants_all = cluster.submit(&file("wants-all", u32::from(*range.end() - *range.start()) - 1));
    let explained = until("it waits for ports", || {
        let explained = cluster.json(&["job", "explain", &wants_all]);
        let reasons = explained["reasons"].as_array()?;
        reasons.iter().any(|reason| reason["reason"] == "ports").then_some(explained)
    });
    assert_eq!(explained["state"], "WAITING", "{explained}");
    cluster.cli(&["stop", &wants_all]).expect(0);
    cluster.wait_end(&wants_all);
    // Three of the five.
    let shown = cluster.wait_end(&cluster.submit(&file("few", 1)));
    assert_eq!((&shown["state"], shown["runs"].as_array().map(Vec::len)), (&json!("SUCCEEDED"), Some(1)), "{shown}");
    assert_eq!(shown["retries"], json!({ "user": 0, "platform": 0, "hardware": 0, "asked": 0 }));
    let had = ports_of(&shown["tasks"][0]);
    assert!(had.len() == 3 && had.iter().all(|port| free.contains(&(*port as u16))), "{shown}");
}

#[test]
fn a_fixed_port_is_had_by_one_task_of_a_node_and_waited_for() {
    let nodes = vec![Node::new("n0", "none"), Node::new("n1", "none")];
    let cluster = Cluster::with(nodes, "");
    // Beside what either node gives out freely, and so chosen by nobody else.
    let claim = crate::harness::port::Port::claim();
    let port = claim.number;
    let fixed = |name: &str, tasks: u32, command: &str| {
        let ports = json!({ "portList": [{ "label": "web", "beginAt": port, "portNumber": 1 }] });
        job(name, &[with(role("main", tasks, command), &ports)])
    };
    let hold = format!("until [ -e {} ]; do sleep 0.05; done", quoted(cluster.path("go")));
    let first = cluster.submit(&fixed("first", 1, &hold));
    let shown = cluster.wait_running(&first);
    assert_eq!(shown["tasks"][0]["ports"]["web"], json!([port]));
    // Two tasks of one role want two nodes, and one of them has the port in use.
    let pair = cluster.submit(&fixed("pair", 2, "true"));
    let explained = until("it waits for the port", || {
        let explained = cluster.json(&["job", "explain", &pair]);
        explained["reasons"].to_string().contains("\"ports\"").then_some(explained)
    });
    assert!(explained["reasons"].to_string().contains(&port.to_string()), "{explained}");
    cluster.touch("go");
    assert_eq!(cluster.wait_end(&first)["state"], "SUCCEEDED");
    // Both nodes are on this machine: their tasks take turns, or the agent of one finds the port taken by the other's.
    cluster.cli(&["stop", &pair]).expect(0);
    cluster.wait_end(&pair);

    let other = until("the port is let go of", || TcpListener::bind(("0.0.0.0", port)).ok());
    let waits = cluster.submit(&fixed("waits", 1, "true"));
    let reason = until("the reason names the port", || {
        let shown = cluster.show(&waits);
        assert!(!ended(&shown["state"]), "{shown}");
        shown["reason"].as_str().filter(|reason| reason.contains(&format!("port {port}"))).map(str::to_owned)
    });
    assert!(reason.contains("in use"), "{reason}");
    drop(other);
    assert_eq!(cluster.wait_end(&waits)["state"], "SUCCEEDED");
}

#[test]
fn agents_of_one_machine_never_give_out_the_same_ports() {
    let cluster = Cluster::start(&["none"]);
    let (first, last) = (*cluster.ports(0).start(), *cluster.ports(0).end());
    let agent = |name: &str, ports: &str| {
        let folder = cluster.path(name).display().to_string();
        let text = format!(
            "data_dir = '{folder}/d'\nrun_dir = '{folder}/r'\nname = '{name}'\nlisten = 'unix:{folder}/s'\n\
             gpus = 'none'\nruntime = 'process'\nkernel_log = ''\npolicy.users = ['0-4294967295']\n{ports}\n"
        );
        std::fs::create_dir_all(cluster.path(name)).expect("the folder is ours");
        std::fs::write(cluster.path(&format!("{name}/agent.toml")), text).expect("the folder is ours");
        let config = cluster.path(&format!("{name}/agent.toml")).display().to_string();
        crate::harness::Running::start(wharf(&["agent", "--config", &config]))
    };
    let refused = agent("x1", &format!("ports = '{}-{}'", first + 5, last + 5)).finish().expect(1).errors();
    for part in [format!("{}-{}", first + 5, last + 5), format!("{first}-{last}"), "another agent".to_owned()] {
        assert!(refused.contains(&part), "{part} in {refused}");
    }
    // Without a range each takes one of its own, and the same again after a restart.
    let slice = |name: &str| {
        let running = agent(name, "");
        let (file, socket) = (cluster.path(&format!("{name}/d/ports")), cluster.path(&format!("{name}/s")));
        let text = until("it has its ports", || {
            let text = std::fs::read_to_string(&file).ok()?;
            let claims = std::fs::read_to_string("/proc/net/unix").ok()?;
            let claimed = claims.lines().any(|line| line.ends_with(&format!("@wharf-ports/{text}")));
            (claimed && std::os::unix::net::UnixStream::connect(&socket).is_ok()).then_some(text)
        });
        (running, text)
    };
    let (one, of_one) = slice("x2");
    let (two, of_two) = slice("x3");
    assert_ne!(of_one, of_two);
    one.signal(nix::sys::signal::Signal::SIGKILL);
    one.finish();
    let (again, of_again) = slice("x2");
    assert_eq!(of_again, of_one);
    for running in [two, again] {
        running.signal(nix::sys::signal::Signal::SIGTERM);
        running.finish();
    }
}

#[test]
fn a_wrong_port_list_names_both_places() {
    let list =
        |ports: Value| job("wrong", &[with(role("main", 1, "true"), &json!({ "portList": ports }))]).to_string();
    let port = |label: &str, begin: i64, count: i64| json!({ "label": label, "beginAt": begin, "portNumber": count });
    let cases = [
        (json!([port("a", 9000, 5), port("b", 9004, 1)]), vec!["portList[1]", "portList[0]", "9000-9004"]),
        (json!([port("a", 9000, 1), port("a", 9100, 1)]), vec!["portList[1].label", "portList[0]"]),
        (json!([port("a", 0, 0)]), vec!["portList[0].portNumber"]),
        (json!([port("a", 65535, 2)]), vec!["portList[0]", "65535"]),
        (json!([port("http", 9000, 2), port("x", 9001, 1)]), vec!["portList[1]", "portList[0]"]),
    ];
    for (ports, named) in cases {
        let mut running = crate::harness::Running::start(wharf(&["validate", "-"]));
        running.feed(list(ports.clone()).as_bytes());
        let said = running.finish().expect(2).errors();
        assert!(named.iter().all(|part| said.contains(part)), "{named:?} in {said}");
    }
}
