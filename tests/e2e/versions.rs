//! Upgrades one level up and down again, with a build of the next level: `examples/wharf-next`, which `tests/run all`
//! builds and names in `WHARF_NEXT`. It differs in what a next level may differ in: all numbers are one higher, its shim
//! is another program, and it adds fields to every record, frames and fields to the shim's link, and keeps what it
//! finds. So agents and controllers of this level are seen beside the next one's, and those beside the one before.

use crate::harness::job::quoted;
use crate::harness::{Cluster, job, role, skip, until};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// wharf of the next level.
fn next() -> Option<PathBuf> {
    let named = std::env::var_os("WHARF_NEXT").map(PathBuf::from);
    if named.is_none() {
        skip("upgrades and downgrades to a build of the next level", "it is built by tests/run all");
    }
    named
}

fn of_level(program: &PathBuf, level: u32) -> Command {
    let mut command = Command::new(program);
    command.env("WHARF_LEVEL", level.to_string()).env("RUST_BACKTRACE", "1").env_remove("WHARF_CONTROLLER");
    command
}

/// Two levels above this program's.
fn too_far() -> u32 {
    wharf::domain::level::Level::OURS.0 + 2
}

fn one_more() -> u32 {
    wharf::domain::level::Level::OURS.0 + 1
}

/// A task that counts on its output until it is told to stop, and notes each of its starts.
fn begin(cluster: &Cluster, name: &str, code: u32) -> String {
    let (starts, stop) = (cluster.path(&format!("{name}.starts")), cluster.path(&format!("{name}.stop")));
    let last = cluster.path(&format!("{name}.last"));
    let command = format!(
        "echo $$ >> {}; i=0; until [ -e {} ]; do i=$((i+1)); echo line $i; sleep 0.02; done; echo $i > {}; exit {code}",
        quoted(&starts),
        quoted(&stop),
        quoted(&last)
    );
    let id = cluster.submit(&job(name, &[role("main", 1, &command)]));
    cluster.wait_running(&id);
    cluster.wait_file(&format!("{name}.starts"));
    id
}

/// Ends it and looks whether anything of it was lost or doubled.
fn finish(cluster: &Cluster, name: &str, id: &str, code: u32) {
    cluster.touch(&format!("{name}.stop"));
    let shown = cluster.wait_end(id);
    assert_eq!((&shown["exit"]["code"], &shown["exit"]["class"]), (&json!(code), &json!("user")), "{name}: {shown}");
    assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "{name} was run again: {shown}");
    let starts = fs::read_to_string(cluster.path(&format!("{name}.starts"))).unwrap();
    assert_eq!(starts.lines().count(), 1, "{name} was started more than once");
    let last: u64 = cluster.wait_file(&format!("{name}.last")).parse().expect("a number");
    let expected: String = (1..=last).map(|i| format!("line {i}\n")).collect();
    let printed = cluster.cli(&["logs", id]).expect(0).text();
    assert!(printed == expected, "{name}: {} lines instead of {last}", printed.lines().count());
}

fn still_run(cluster: &Cluster, ids: &[(String, String, u32)]) {
    for (name, id, _) in ids {
        let shown = cluster.show(id);
        assert_eq!(shown["state"], "RUNNING", "{name}: {shown}");
    }
}

#[test]
fn one_level_up_and_down_with_tasks_that_go_on() {
    let Some(next) = next() else { return };
    let cluster = Cluster::start(&["none"]);
    let mut tasks: Vec<(String, String, u32)> = Vec::new();
    let mut steps = 0;
    let mut step = |what: &str, change: &dyn Fn(&Cluster)| {
        // One that was there before, for each step; it also ends in a later one.
        let (name, code) = (format!("task{steps}"), 10 + steps);
        tasks.push((name.clone(), begin(&cluster, &name, code), code));
        eprintln!("step {steps}: {what}");
        change(&cluster);
        cluster.wait_ready();
        still_run(&cluster, &tasks);
        // One that is older than two steps ends now: begun, followed and ended by different levels.
        if tasks.len() > 2 {
            let (name, id, code) = tasks.remove(0);
            finish(&cluster, &name, &id, code);
        }
        steps += 1;
    };
    step("the agent goes up, beside a controller of the level before its own", &|cluster| {
        cluster.kill9_agent(0);
        cluster.start_agent_by(0, of_level(&next, one_more()));
    });
    step("the controller follows", &|cluster| {
        cluster.kill9_controller();
        cluster.start_controller_by(of_level(&next, one_more()));
    });
    step("the agent goes down, beside a controller of the level after its own", &|cluster| {
        cluster.kill9_agent(0);
        cluster.start_agent(0);
    });
    step("the controller follows", &|cluster| {
        cluster.kill9_controller();
        cluster.start_controller();
    });
    step("the controller goes up first", &|cluster| {
        cluster.stop_controller();
        cluster.start_controller_by(of_level(&next, one_more()));
    });
    step("and down again, with the agent on its way up", &|cluster| {
        cluster.kill9_agent(0);
        cluster.stop_controller();
        cluster.start_controller();
        cluster.start_agent_by(0, of_level(&next, one_more()));
    });
    step("all is as it was", &|cluster| {
        cluster.stop_agent(0);
        cluster.start_agent(0);
    });
    for (name, id, code) in &tasks {
        finish(&cluster, name, id, *code);
    }
    assert_eq!(cluster.json(&["jobs"]), json!([]));
}

#[test]
fn two_levels_are_refused_with_a_sentence_and_nothing_ends() {
    let Some(next) = next() else { return };
    let cluster = Cluster::start(&["none"]);
    let (own, far) = (too_far() - 2, too_far());
    let tasks = vec![("task".to_owned(), begin(&cluster, "task", 3), 3)];

    // An agent that is too new is not let in; what it has written its predecessor refuses.
    cluster.kill9_agent(0);
    cluster.start_agent_by(0, of_level(&next, far));
    let said = format!("speaks level {far}, and this wharf, of level {own}, works with");
    until("the controller's refusal is told", || cluster.log_of("agent0").contains(&said).then_some(()));
    cluster.kill9_agent(0);
    cluster.start_agent(0);
    assert_ne!(cluster.wait_agent_ended(0), 0);
    let said = format!("written by a newer wharf: its level is {far}, this one is of level {own}");
    assert!(cluster.log_of("agent0").contains(&said), "{}", cluster.log_of("agent0"));
    // By way of the level between them it goes on, as far as that is possible.
    cluster.start_agent_by(0, of_level(&next, one_more()));
    cluster.wait_ready();
    still_run(&cluster, &tasks);

    // The same for a controller and its store.
    cluster.stop_controller();
    cluster.start_controller_by(of_level(&next, far));
    cluster.wait_ready();
    cluster.stop_controller();
    cluster.start_controller();
    assert_ne!(cluster.wait_controller_ended(), 0);
    let said = format!("the controller's store was written by a newer wharf: its level is {far}");
    assert!(cluster.log_of("controller").contains(&said), "{}", cluster.log_of("controller"));
    cluster.start_controller_by(of_level(&next, one_more()));
    cluster.wait_ready();
    still_run(&cluster, &tasks);
    for (name, id, code) in &tasks {
        finish(&cluster, name, id, *code);
    }
}
