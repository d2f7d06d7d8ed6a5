//! SIGKILL of agents and of the controller, twenty times, in the middle of jobs: no task is lost or doubled, every
//! exit is right, and every byte of output is there exactly once, also for those who were following all the time.

use crate::harness::job::{quoted, with};
use crate::harness::random::Random;
use crate::harness::skip::is_long;
use crate::harness::{Cluster, Running, job, role, skip, until};
use serde_json::json;
use std::fs;

const SEED: u64 = 7;
const KILLS: usize = 20;
/// In the long suites.
const MANY_KILLS: usize = 150;

/// Writes numbered lines on both streams until the file `stop` is there, notes its start, and ends with `code`.
fn counting(cluster: &Cluster, name: &str, code: u32) -> String {
    let (starts, count, stop) =
        (cluster.path(&format!("{name}.starts")), cluster.path(&format!("{name}.count")), cluster.path("stop"));
    format!(
        "echo $$ >> {}; i=0; until [ -e {} ]; do i=$((i+1)); echo line $i; [ $((i % 3)) = 0 ] && echo error $i >&2; \
         echo $i > {}; sleep 0.02; done; echo $i > {}; printf 'end of {name}'; exit {code}",
        quoted(&starts),
        quoted(&stop),
        quoted(&count),
        quoted(cluster.path(&format!("{name}.last")))
    )
}

fn count(cluster: &Cluster, name: &str) -> u64 {
    fs::read_to_string(cluster.path(&format!("{name}.count")))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn expected(name: &str, last: u64) -> (String, String) {
    let out: String = (1..=last).map(|i| format!("line {i}\n")).collect();
    let err: String = (1..=last).filter(|i| i % 3 == 0).map(|i| format!("error {i}\n")).collect();
    (format!("{out}end of {name}"), err)
}

/// Jobs that end while somebody is dead: `(id, name, code)`.
type Short = (String, String, u64);

#[test]
fn kills_lose_nothing_and_double_nothing() {
    let cluster = Cluster::start(&["sim:4xH100", "sim:4xH100"]);
    let mut random = Random::new(SEED);
    // Three GPUs each, so that there are two per cluster and one per node; one of two tasks over both nodes.
    let mut long: Vec<(String, String, u32, Running)> = Vec::new();
    for (i, gpus) in [3, 3, 0, 1].into_iter().enumerate() {
        let (name, code) = (format!("long{i}"), 10 + i as u32);
        let main = with(role("main", 1, &counting(&cluster, &name, code)), &json!({ "gpuNumber": gpus }));
        let id = cluster.submit(&job(&name, &[main]));
        let follower = cluster.spawn(&["logs", &id, "--follow"]);
        long.push((id, name, code, follower));
    }
    for (id, ..) in &long {
        cluster.wait_running(id);
    }
    let mut shorts: Vec<Short> = Vec::new();
    let kills = if is_long() { MANY_KILLS } else { KILLS };
    if !is_long() {
        skip("kills of daemons beyond the first 20 of 150", "the long suites have them all: tests/run all");
    }
    for round in 0..kills {
        shorts.push(submit_short(&cluster, round, &mut random));
        // The jobs move on between two kills: that is the middle of them.
        let before: Vec<u64> = long.iter().map(|(_, name, ..)| count(&cluster, name)).collect();
        let more = 1 + random.below(8);
        until("the jobs move on", || {
            long.iter()
                .zip(&before)
                .all(|((_, name, ..), before)| count(&cluster, name) > before + more)
                .then_some(())
        });
        // Ten agents, ten controllers, and sometimes all at once.
        match (round % 2, round % 7) {
            (_, 6) => {
                cluster.kill9_controller();
                (0..2).for_each(|i| cluster.kill9_agent(i));
                (0..2).for_each(|i| cluster.start_agent(i));
                cluster.start_controller();
            }
            (0, _) => {
                let victim = random.below(2) as usize;
                cluster.kill9_agent(victim);
                cluster.start_agent(victim);
            }
            _ => {
                cluster.kill9_controller();
                cluster.start_controller();
            }
        }
        until("the controller answers", || (cluster.cli(&["nodes"]).code == 0).then_some(()));
    }
    cluster.wait_ready();
    cluster.touch("stop");
    for (id, name, code, follower) in long {
        let shown = cluster.wait_end(&id);
        assert_eq!((&shown["state"], &shown["exit"]["code"]), (&json!("FAILED"), &json!(code)), "{name}: {shown}");
        assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "{name} was run again: {shown}");
        let starts = fs::read_to_string(cluster.path(&format!("{name}.starts"))).unwrap();
        assert_eq!(starts.lines().count(), 1, "{name} was started more than once");
        let (out, err) = expected(&name, cluster.wait_file(&format!("{name}.last")).parse().expect("a number"));
        let printed = cluster.cli(&["logs", &id]).expect(0);
        same(&printed.text(), &out, &format!("{name} stdout"));
        same(&printed.errors(), &err, &format!("{name} stderr"));
        let followed = follower.finish();
        assert_eq!(followed.code, 0, "{name}: {}", followed.errors());
        same(&followed.text(), &out, &format!("{name}, followed"));
        // Remarks on the connection are told beside the task's own stderr.
        let own: String = followed
            .errors()
            .lines()
            .filter(|line| !line.starts_with("wharf: "))
            .map(|line| format!("{line}\n"))
            .collect();
        same(&own, &err, &format!("{name} stderr, followed"));
    }
    for (id, name, code) in shorts {
        let shown = cluster.wait_end(&id);
        assert_eq!(
            (&shown["exit"]["code"], shown["runs"].as_array().map(Vec::len)),
            (&json!(code), Some(1)),
            "{name}: {shown}"
        );
        let starts = fs::read_to_string(cluster.path(&format!("{name}.starts"))).unwrap();
        assert_eq!(starts.lines().count(), 1, "{name} was started more than once");
        assert_eq!(cluster.cli(&["logs", &id]).expect(0).text(), format!("{name}\n"));
    }
    cluster.wait_idle();
    assert_eq!(cluster.json(&["jobs"]), json!([]));
}

/// A job that is anywhere between its queue and its end when the next kill comes.
fn submit_short(cluster: &Cluster, round: usize, random: &mut Random) -> Short {
    // Below those that ask for another attempt.
    let (name, code) = (format!("short{round}"), random.below(2) * random.below(190));
    let starts = cluster.path(&format!("{name}.starts"));
    let command = format!("echo $$ >> {}; echo {name}; sleep 0.{}; exit {code}", quoted(&starts), random.below(10));
    (cluster.submit(&job(&name, &[role("main", 1, &command)])), name, code)
}

#[track_caller]
fn same(found: &str, expected: &str, what: &str) {
    if found == expected {
        return;
    }
    let (found, expected): (Vec<&str>, Vec<&str>) = (found.lines().collect(), expected.lines().collect());
    let at = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    panic!(
        "{what}: {} lines instead of {}; at line {at} {:?} instead of {:?}",
        found.len(),
        expected.len(),
        &found[at..found.len().min(at + 4)],
        &expected[at..expected.len().min(at + 4)]
    );
}

#[test]
fn a_task_that_dies_without_a_word_is_the_platforms_fault() {
    let cluster = Cluster::start(&["none"]);
    let command = format!("echo $$ > {}; sleep 600", quoted(cluster.path("pid")));
    let id = cluster.submit(&job("orphaned", &[role("main", 1, &command)]));
    let pid: i32 = cluster.wait_file("pid").parse().expect("a process id");
    // Its shim is its parent.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let shim: i32 =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok()).expect("a parent");
    crate::harness::proc::kill9(shim);
    // Retried without counting, so stopped before it runs on; the first run's end is what matters.
    let shown = until("the first run has ended", || {
        let shown = cluster.show(&id);
        (!shown["runs"][0]["exit"].is_null()).then_some(shown)
    });
    assert_eq!(shown["runs"][0]["exit"]["class"], "platform", "{shown}");
    until("nothing of it runs", || (!crate::harness::proc::is_alive(pid)).then_some(()));
    cluster.cli(&["stop", &id]).expect(0);
    cluster.wait_end(&id);
}
