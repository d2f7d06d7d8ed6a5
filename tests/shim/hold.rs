//! Debugging: what is kept after a failure, for how long, and what ends it.

use crate::harness::{Agent, is_alive, run, send_signal, shell, spec, until};
use nix::sys::signal::Signal;
use wharf::shim::exit::Why;
use wharf::shim::protocol::{AgentFrame, Phase, ShimFrame};
use wharf::shim::spec::{Command, ShimSpec};

const LONG_S: u32 = 604_800;

fn debugged(hold_s: u32) -> ShimSpec {
    ShimSpec { debug_hold_s: Some(hold_s), ..spec() }
}

/// Exit status and signal of the command.
type Status = (Option<i32>, Option<i32>);
/// By both clocks.
type Until = (u64, u64);

/// A task that has failed and is held.
fn held(command: &Command) -> (Agent, Status, Until) {
    let mut agent = Agent::launch(&debugged(LONG_S), command);
    agent.expect_start();
    let (status, until) = expect_hold(&mut agent);
    (agent, status, until)
}

fn expect_hold(agent: &mut Agent) -> (Status, Until) {
    match agent.next() {
        ShimFrame::Held { code, signal, until_realtime_ns, until_boottime_ns } => {
            ((code, signal), (until_realtime_ns, until_boottime_ns))
        }
        other => panic!("{other:?} instead of held"),
    }
}

#[test]
fn a_failed_task_is_kept_until_its_time_is_over_and_then_ends_as_it_did() {
    let mut agent = Agent::launch(&debugged(1), &shell("echo out; exit 3"));
    agent.expect_start();
    assert_eq!(expect_hold(&mut agent).0, (Some(3), None));
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.signal, exit.why.clone()), (Some(3), None, Why::OwnEnd));
    let since = exit.held_since_realtime_ns.unwrap();
    assert!(exit.ended_realtime_ns >= since + 1_000_000_000, "{exit:?}");
    let log = agent.log();
    let said = String::from_utf8(log.stderr.clone()).unwrap();
    assert!(log.text() == "out\n" && said.contains("ended with status 3") && said.contains("for 1 s"), "{said}");
    assert_eq!(agent.bye(), Some(3));
}

#[test]
fn a_stop_frees_it_at_once_with_everything_it_left() {
    let script = "sleep 1000 >/dev/null 2>&1 & echo $! > pid; kill -SEGV $$";
    let (mut agent, status, _) = held(&shell(script));
    assert_eq!(status, (None, Some(11)));
    let left: i32 = std::fs::read_to_string(agent.path("pid")).unwrap().trim().parse().unwrap();
    assert!(is_alive(left), "it is kept as it was, to be looked at");
    agent.send(&AgentFrame::Stop { grace_ms: 600_000 });
    let exit = agent.expect_end();
    assert_eq!((exit.signal, exit.why), (Some(11), Why::StoppedByAgent));
    assert!(!is_alive(left) && exit.held_since_realtime_ns.is_some());
}

#[test]
fn the_agent_may_come_and_go_and_the_time_stays() {
    let (mut agent, status, until_when) = held(&shell("exit 7"));
    for _ in 0..2 {
        agent.hang_up();
        agent.listen_again();
        assert!(matches!(agent.accept(), Phase::Running { .. }));
        agent.expect_start();
        assert_eq!(expect_hold(&mut agent), (status, until_when));
    }
    agent.send(&AgentFrame::Kill);
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.why), (Some(7), Why::StoppedByAgent));
}

#[test]
fn the_lease_counts_on() {
    let leased = ShimSpec { lease_s: Some(1), ..debugged(LONG_S) };
    let mut agent = Agent::launch(&leased, &shell("exit 7"));
    agent.expect_start();
    agent.hang_up();
    assert_eq!(agent.wait(), Some(7));
    let exit = agent.exit_file().unwrap();
    assert_eq!((exit.code, exit.why), (Some(7), Why::LeaseExpired));
}

#[test]
fn whoever_ends_the_service_or_container_ends_the_hold_and_not_the_tasks_own_status() {
    let (mut agent, ..) = held(&shell("exit 7"));
    send_signal(agent.shim.id() as i32, Signal::SIGTERM);
    let exit = agent.expect_end();
    assert_eq!((exit.code, exit.why), (Some(7), Why::OwnEnd));
    assert!(exit.held_since_realtime_ns.is_some());
}

#[test]
fn what_it_left_may_signal_the_shim_and_write_on() {
    let script =
        "(sleep 0.3; kill -TERM $PPID; while ! [ -e go ]; do sleep 0.02; done; echo late; sleep 1000) & exit 5";
    let (mut agent, ..) = held(&shell(script));
    std::fs::write(agent.path("go"), "").unwrap();
    until("output is still taken", || agent.log_contains("late\n").then_some(()));
    agent.send(&AgentFrame::Kill);
    assert_eq!(agent.expect_end().why, Why::StoppedByAgent);
}

#[test]
fn only_failures_of_its_own_are_kept() {
    // Success, a stop, a program that is not there, a job that does not ask for it, a node that allows none.
    let ended = |mut agent: Agent| {
        let exit = agent.expect_end();
        assert_eq!(exit.held_since_realtime_ns, None, "{exit:?}");
        (exit.code, exit.why)
    };
    assert_eq!(ended(Agent::launch(&debugged(LONG_S), &shell("exit 0"))), (Some(0), Why::OwnEnd));
    let missing = ended(Agent::launch(&debugged(LONG_S), &run(&["/no/such/program"])));
    assert!(matches!(missing, (None, Why::ExecFailed { .. })), "{missing:?}");
    assert_eq!(ended(Agent::launch(&spec(), &shell("exit 3"))).0, Some(3));
    assert_eq!(ended(Agent::launch(&debugged(0), &shell("exit 3"))).0, Some(3));
    let trap = || shell("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done");
    let mut stopped = Agent::launch(&debugged(LONG_S), &trap());
    until("the command runs", || stopped.log_contains("up\n").then_some(()));
    stopped.send(&AgentFrame::Stop { grace_ms: 60_000 });
    assert_eq!(ended(stopped), (Some(9), Why::StoppedByAgent));
    let signalled = Agent::launch(&debugged(LONG_S), &trap());
    until("the command runs", || signalled.log_contains("up\n").then_some(()));
    send_signal(signalled.shim.id() as i32, Signal::SIGTERM);
    assert!(matches!(ended(signalled), (Some(9), Why::OutsideSignal { .. })));
}
