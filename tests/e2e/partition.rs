//! Nodes on machines of their own to the network, whose wires are cut, both ways or one way: nothing is placed where
//! nobody is heard, what runs goes on, no task is ever there twice, and once healed everything that was missed is told
//! once and in order. What ran and when is what the tasks themselves have written, not what wharf says.
//!
//! The least lease is five minutes, and an outage worth the name is ten: what takes so long is of the long suites.

use crate::harness::job::{quoted, with};
use crate::harness::moments::{self, Moment, uptime_s};
use crate::harness::skip::is_long;
use crate::harness::wait::until_within;
use crate::harness::{Cluster, Cut, Net, Running, job, role, skip, until};
use serde_json::{Value, json};
use std::time::Duration;

/// The least that a job may say.
const LEASE_S: u64 = 300;

/// A job of one task that counts.
fn counting(cluster: &Cluster, name: &str, code: u32) -> Value {
    job(name, &[role("main", 1, &moments::counting(&quoted(cluster.folder()), name, code))])
}

/// Of a job that is run again where its node is lost.
fn restarting(job: Value) -> Value {
    with(job, &json!({ "extras": { "wharf": { "onNodeLost": "restart", "leaseSeconds": LEASE_S } } }))
}

/// The same on a node with GPUs.
fn with_gpus(mut job: Value, gpus: u32) -> Value {
    job["taskRoles"][0]["gpuNumber"] = json!(gpus);
    job
}

fn moments(cluster: &Cluster, name: &str) -> Vec<Moment> {
    moments::moments(cluster.folder(), name)
}

#[track_caller]
fn goes_on(cluster: &Cluster, name: &str, more: usize) {
    moments::goes_on(cluster.folder(), name, more);
}

#[track_caller]
fn one_at_a_time(cluster: &Cluster, name: &str) -> Vec<Vec<Moment>> {
    moments::one_at_a_time(cluster.folder(), name)
}

#[track_caller]
fn saw_all(cluster: &Cluster, name: &str, follower: Running) {
    moments::saw_all(cluster.folder(), name, follower);
}

/// Ends a job that counts, and makes sure that it was told once, with this code, and ran once.
#[track_caller]
fn ends_once(cluster: &Cluster, name: &str, id: &str, code: u32) {
    cluster.touch(&format!("{name}.stop"));
    let shown = cluster.wait_end(id);
    let state = if code == 0 { "SUCCEEDED" } else { "FAILED" };
    assert_eq!((&shown["state"], &shown["exit"]["code"]), (&json!(state), &json!(code)), "{name}: {shown}");
    assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "{name} was run again: {shown}");
    assert_eq!(one_at_a_time(cluster, name).len(), 1, "{name} ran more than once");
    assert_eq!(wait_told(cluster, &[id]).len(), 1, "{name}: its end is told once");
}

/// Jobs in the order in which ends of their tasks were told.
fn ends_told(cluster: &Cluster) -> Vec<String> {
    events(cluster, "task.ended").iter().map(|event| event["job"].to_string()).collect()
}

/// What was told of the ends of these jobs, once it was of all. History follows the state by a moment.
fn wait_told(cluster: &Cluster, jobs: &[&str]) -> Vec<String> {
    until("the ends are told", || {
        let told = ends_told(cluster);
        let all = jobs.iter().all(|id| told.iter().any(|job| job == id));
        all.then(|| told.into_iter().filter(|job| jobs.contains(&job.as_str())).collect())
    })
}

fn events(cluster: &Cluster, kind: &str) -> Vec<Value> {
    let events = cluster.cli(&["--json", "events"]).expect(0).json_lines();
    let sequences: Vec<u64> = events.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
    events.into_iter().filter(|event| event["kind"] == kind).collect()
}

#[track_caller]
fn wait_state(cluster: &Cluster, node: &str, state: &str) {
    until(&format!("{node} is {state}"), || (cluster.json(&["node", "show", node])["state"] == state).then_some(()));
}

#[test]
fn a_node_that_is_cut_off_goes_on_and_tells_what_was_missed_once_and_in_order() {
    let Some(net) = Net::get("partition: a_node_that_is_cut_off", 2) else { return };
    let cluster = Cluster::across(net, &["sim:8xH100", "none"]);
    let submit = |name: &str, code| cluster.submit(&with_gpus(counting(&cluster, name, code), 1));
    let followed = submit("followed", 3);
    let leased = cluster.submit(&with_gpus(restarting(counting(&cluster, "leased", 4)), 1));
    let stopped = submit("stopped", 0);
    let ends: Vec<(&str, u32, String)> =
        [("third", 13), ("first", 11), ("second", 12)].map(|(name, code)| (name, code, submit(name, code))).into();
    let follower = cluster.spawn(&["logs", &followed, "--follow"]);
    for name in ["followed", "leased", "stopped", "first", "second", "third"] {
        goes_on(&cluster, name, 2);
    }
    cluster.net().cut(0, Cut::Both);
    wait_state(&cluster, "n0", "UNREACHABLE");
    // Nothing is placed there; elsewhere everything goes on.
    let late = cluster.submit(&with_gpus(job("late", &[role("main", 1, "true")]), 1));
    let elsewhere = cluster.submit(&job("elsewhere", &[role("main", 1, "true")]));
    assert_eq!(cluster.wait_end(&elsewhere)["state"], "SUCCEEDED");
    let explained = cluster.json(&["job", "explain", &late]);
    let reasons = explained["reasons"].as_array().cloned().unwrap_or_default();
    assert!(reasons.iter().any(|why| why["have"] == "UNREACHABLE"), "{explained}");
    // What the node cannot be told waits, and says so.
    cluster.cli(&["stop", &stopped]).expect(0);
    let shown = cluster.show(&stopped);
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&json!("STOPPING"), &json!("its tasks on n0 cannot be reached"))
    );
    // Three end one after the other, the rest goes on.
    for name in ["first", "second", "third"] {
        cluster.touch(&format!("{name}.stop"));
        cluster.wait_file(&format!("{name}.last"));
        goes_on(&cluster, "followed", 5);
    }
    for name in ["leased", "stopped"] {
        goes_on(&cluster, name, 5);
    }
    wait_told(&cluster, &[&elsewhere]);
    assert_eq!(ends_told(&cluster), [elsewhere], "nobody can know of the others");

    cluster.net().heal(0);
    wait_state(&cluster, "n0", "READY");
    for (_, code, id) in &ends {
        let shown = cluster.wait_end(id);
        assert_eq!(shown["exit"]["code"], json!(code), "{shown}");
    }
    assert_eq!(cluster.wait_end(&stopped)["state"], "STOPPED");
    assert_eq!(cluster.wait_end(&late)["state"], "SUCCEEDED");
    let in_order = ["first", "second", "third"].map(|wanted| {
        let (.., id) = ends.iter().find(|(name, ..)| *name == wanted).expect("it was submitted");
        id.as_str()
    });
    assert_eq!(wait_told(&cluster, &in_order), in_order);
    for (name, code, id) in ends.iter().map(|(name, code, id)| (*name, *code, id)).chain([("leased", 4, &leased)]) {
        ends_once(&cluster, name, id, code);
    }
    ends_once(&cluster, "followed", &followed, 3);
    saw_all(&cluster, "followed", follower);
    cluster.wait_idle();
}

#[test]
fn a_node_that_only_speaks_or_only_hears_is_as_good_as_gone() {
    let Some(net) = Net::get("partition: a_node_that_only_speaks_or_only_hears", 3) else { return };
    let cluster = Cluster::across(net, &["sim:1xH100", "sim:1xH100", "none"]);
    let mut jobs = Vec::new();
    for (name, code) in [("one", 5), ("two", 6)] {
        let id = cluster.submit(&with_gpus(restarting(counting(&cluster, name, code)), 1));
        let follower = cluster.spawn(&["logs", &id, "--follow"]);
        goes_on(&cluster, name, 2);
        jobs.push((name, id, code, follower));
    }
    cluster.net().cut(0, Cut::ToNode);
    cluster.net().cut(1, Cut::FromNode);
    ["n0", "n1"].into_iter().for_each(|node| wait_state(&cluster, node, "UNREACHABLE"));
    let elsewhere = cluster.submit(&job("elsewhere", &[role("main", 1, "true")]));
    let late = cluster.submit(&with_gpus(job("late", &[role("main", 1, "true")]), 1));
    assert_eq!(cluster.wait_end(&elsewhere)["tasks"][0]["node"], "n2");
    jobs.iter().for_each(|(name, ..)| goes_on(&cluster, name, 20));
    assert_eq!(cluster.show(&late)["state"], "WAITING");
    for (node, (name, id, code, follower)) in jobs.into_iter().enumerate() {
        cluster.net().heal(node);
        wait_state(&cluster, &format!("n{node}"), "READY");
        ends_once(&cluster, name, &id, code);
        saw_all(&cluster, name, follower);
    }
    assert_eq!(cluster.wait_end(&late)["state"], "SUCCEEDED");
    cluster.wait_idle();
}

#[test]
fn a_node_that_speaks_and_cannot_be_called_takes_nothing_new() {
    let Some(net) = Net::get("partition: a_node_that_speaks_and_cannot_be_called", 2) else { return };
    let cluster = Cluster::across(net, &["sim:2xH100", "none"]);
    let id = cluster.submit(&with_gpus(counting(&cluster, "goes", 5), 1));
    goes_on(&cluster, "goes", 2);
    cluster.net().cut(0, Cut::Calls);
    // One that has a connection from before would find out only when that is given up.
    cluster.kill9_controller();
    cluster.start_controller();
    until("it is found out", || {
        let shown = serde_json::from_slice::<Value>(&cluster.cli(&["--json", "node", "show", "n0"]).stdout).ok()?;
        let deaf = shown["reason"].as_str()?.contains("is heard, but does not answer");
        (deaf && shown["state"] == "UNREACHABLE").then_some(())
    });
    let late = cluster.submit(&with_gpus(job("late", &[role("main", 1, "true")]), 1));
    // What it says is heard all the same.
    ends_once(&cluster, "goes", &id, 5);
    assert_eq!(cluster.show(&late)["state"], "WAITING");
    cluster.net().heal(0);
    wait_state(&cluster, "n0", "READY");
    assert_eq!(cluster.wait_end(&late)["state"], "SUCCEEDED");
    cluster.wait_idle();
}

#[test]
fn a_controller_that_is_cut_off_doubts_itself_and_replaces_nothing() {
    let Some(net) = Net::get("partition: a_controller_that_is_cut_off", 4) else { return };
    let cluster = Cluster::across(net, &["sim:1xH100", "sim:1xH100", "sim:1xH100", "none"]);
    let mut jobs = Vec::new();
    for (name, code) in [("one", 1), ("two", 2), ("three", 3)] {
        let id = cluster.submit(&with_gpus(counting(&cluster, name, code), 1));
        goes_on(&cluster, name, 2);
        let follower = cluster.spawn(&["logs", &id, "--follow"]);
        jobs.push((name, id, code, follower));
    }
    cluster.net().cut_controller();
    (0..4).for_each(|node| wait_state(&cluster, &format!("n{node}"), "UNREACHABLE"));
    let reason = cluster.json(&["node", "show", "n3"])["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("went silent at once") && reason.contains("replaces no tasks"), "{reason}");
    until("it says so", || (events(&cluster, "controller.suspects_itself").len() == 1).then_some(()));
    assert!(events(&cluster, "controller.trusts_itself").is_empty());
    let late = cluster.submit(&job("late", &[role("main", 1, "true")]));
    jobs.iter().for_each(|(name, ..)| goes_on(&cluster, name, 20));
    assert_eq!(cluster.show(&late)["state"], "WAITING");
    cluster.net().heal_controller();
    (0..4).for_each(|node| wait_state(&cluster, &format!("n{node}"), "READY"));
    until("it trusts itself", || (events(&cluster, "controller.trusts_itself").len() == 1).then_some(()));
    assert_eq!(cluster.wait_end(&late)["state"], "SUCCEEDED");
    for (name, id, code, follower) in jobs {
        ends_once(&cluster, name, &id, code);
        saw_all(&cluster, name, follower);
    }
    cluster.wait_idle();
}

#[test]
fn an_agent_that_dies_and_is_then_cut_off_tells_all_of_it_once_it_is_back() {
    let Some(net) = Net::get("partition: an_agent_that_dies_and_is_then_cut_off", 2) else { return };
    let cluster = Cluster::across(net, &["sim:4xH100", "none"]);
    let submit = |name: &str, code| cluster.submit(&with_gpus(restarting(counting(&cluster, name, code)), 1));
    let jobs = [("lives", 7), ("dead", 8), ("cut", 9)].map(|(name, code)| (name, code, submit(name, code)));
    jobs.iter().for_each(|(name, ..)| goes_on(&cluster, name, 2));
    let followers = jobs.iter().map(|(.., id)| cluster.spawn(&["logs", id, "--follow"])).collect::<Vec<_>>();
    cluster.kill9_agent(0);
    cluster.net().cut(0, Cut::Both);
    // One ends with nobody there, one while the agent is there and nobody hears it.
    cluster.touch("dead.stop");
    cluster.wait_file("dead.last");
    wait_state(&cluster, "n0", "UNREACHABLE");
    cluster.start_agent(0);
    cluster.touch("cut.stop");
    cluster.wait_file("cut.last");
    goes_on(&cluster, "lives", 20);
    assert_eq!(ends_told(&cluster), [""; 0]);
    cluster.net().heal(0);
    wait_state(&cluster, "n0", "READY");
    for ((name, code, id), follower) in jobs.iter().zip(followers) {
        ends_once(&cluster, name, id, *code);
        saw_all(&cluster, name, follower);
    }
    cluster.wait_idle();
}

#[test]
fn what_lives_on_a_node_that_was_removed_is_ended_once_it_is_back() {
    let Some(net) = Net::get("partition: what_lives_on_a_node_that_was_removed", 2) else { return };
    let cluster = Cluster::across(net, &["sim:1xH100", "sim:1xA100"]);
    let id = cluster.submit(&with_gpus(counting(&cluster, "moved", 3), 1));
    goes_on(&cluster, "moved", 2);
    let shown = cluster.show(&id);
    let node = shown["tasks"][0]["node"].as_str().expect("it is placed").to_owned();
    let at: usize = node.trim_start_matches('n').parse().expect("nodes are numbered");
    cluster.net().cut(at, Cut::Both);
    wait_state(&cluster, &node, "UNREACHABLE");
    cluster.cli(&["node", "remove", &node, "--force"]).expect(0);
    let of_run = |run: &Value| moments(&cluster, "moved").iter().filter(|moment| json!(moment.0) == *run).count();
    let second = until("it runs elsewhere", || {
        let run = cluster.show(&id)["run_id"].clone();
        (run != shown["run_id"] && of_run(&run) > 0).then_some(run)
    });
    // As the operator was told: the machine lives on, so there are two. Once it is back the first is ended for good.
    cluster.net().heal(at);
    cluster.wait_ready();
    until("the first copy has ended", || {
        let gpus = cluster.json(&["gpus", "--node", &node]);
        gpus.as_array()?.iter().all(|gpu| gpu["state"] == "FREE").then_some(())
    });
    let first = of_run(&shown["run_id"]);
    goes_on(&cluster, "moved", 20);
    assert_eq!(of_run(&shown["run_id"]), first);
    cluster.touch("moved.stop");
    let ended = cluster.wait_end(&id);
    assert_eq!((&ended["run_id"], &ended["exit"]["code"]), (&second, &json!(3)), "{ended}");
    cluster.wait_idle();
}

/// A controller that is dead, or cut off, for so long that everything which can time out has done so.
fn comes_back_after(away: Duration, leave: impl FnOnce(&Cluster), come_back: impl FnOnce(&Cluster)) {
    let Some(net) = Net::get("partition: a controller that is away for long", 3) else { return };
    let cluster = Cluster::across(net, &["sim:2xH100", "sim:2xH100", "sim:2xH100"]);
    let submit = |name: &str, code| cluster.submit(&with_gpus(counting(&cluster, name, code), 1));
    let jobs =
        [("one", 1), ("two", 2), ("ends", 3), ("four", 4)].map(|(name, code)| (name, code, submit(name, code)));
    jobs.iter().for_each(|(name, ..)| goes_on(&cluster, name, 2));
    leave(&cluster);
    cluster.touch("ends.stop");
    cluster.wait_file("ends.last");
    let begin = moments(&cluster, "one").last().expect("it writes").2;
    until_within(away * 2, "it is away for long", || {
        (moments(&cluster, "one").last()?.2 > begin + away.as_secs_f64()).then_some(())
    });
    jobs.iter().filter(|(name, ..)| *name != "ends").for_each(|(name, ..)| goes_on(&cluster, name, 5));
    come_back(&cluster);
    cluster.wait_ready();
    for (name, code, id) in &jobs {
        ends_once(&cluster, name, id, *code);
        let lines = moments::printed(cluster.folder(), name);
        assert!(cluster.cli(&["logs", id]).expect(0).text() == lines, "{name}: not every line once");
    }
    cluster.wait_idle();
}

/// In the long suites ten minutes.
fn long_or(short: u64, what: &str) -> Duration {
    if is_long() {
        return Duration::from_secs(600);
    }
    skip(what, &format!("{short} s here, ten minutes in the long suites: tests/run all"));
    Duration::from_secs(short)
}

#[test]
fn nothing_dies_while_the_controller_is_dead_for_long() {
    let away = long_or(8, "a controller that is dead for ten minutes");
    comes_back_after(away, Cluster::kill9_controller, Cluster::start_controller);
}

#[test]
fn nothing_dies_while_the_controller_is_cut_off_for_long() {
    let away = long_or(8, "a controller that is cut off for ten minutes");
    comes_back_after(away, |cluster| cluster.net().cut_controller(), |cluster| cluster.net().heal_controller());
}

/// With the least lease: five minutes and a half until a replacement.
#[test]
fn leases_replace_what_is_lost_exactly_once_and_never_beside_it() {
    let what = "partition: leases that run out";
    if !is_long() {
        return skip(what, "it takes ten minutes: tests/run all");
    }
    let Some(net) = Net::get(what, 4) else { return };
    let cluster = Cluster::across(net, &["sim:1xH100", "sim:1xH100", "sim:4xH100", "none"]);
    let stays = cluster.submit(&with_gpus(counting(&cluster, "stays", 1), 2));
    let room = holds_room(&cluster, 2);
    // One is lost with its agent, the other without.
    let mut lost = Vec::new();
    for name in ["with", "without"] {
        let id = cluster.submit(&with_gpus(restarting(counting(&cluster, name, 5)), 1));
        goes_on(&cluster, name, 2);
        let node = cluster.show(&id)["tasks"][0]["node"].as_str().expect("it is placed").to_owned();
        lost.push((name, id, node.trim_start_matches('n').parse::<usize>().expect("nodes are numbered")));
    }
    goes_on(&cluster, "stays", 2);
    gives_room(&cluster, &room);
    let cut_at: Vec<f64> = lost
        .iter()
        .map(|(name, _, node)| {
            if *name == "with" {
                cluster.kill9_agent(*node);
            }
            cluster.net().cut(*node, Cut::Both);
            moments(&cluster, name).last().expect("it writes").2
        })
        .collect();
    let patience = Duration::from_secs(2 * LEASE_S);
    for ((name, id, _), cut_at) in lost.iter().zip(&cut_at) {
        let runs = until_within(patience, &format!("{name} runs elsewhere"), || {
            Some(one_at_a_time(&cluster, name)).filter(|runs| runs.len() > 1)
        });
        let (last, first) = (runs[0].last().expect("it wrote").2, runs[1][0].2);
        // A heartbeat that was answered up to ten seconds before the cut is one on a very busy machine.
        assert!(last >= cut_at + LEASE_S as f64 - 10.0, "{name}: ended {} s after the cut", last - cut_at);
        assert!(first >= cut_at + LEASE_S as f64 + 20.0, "{name}: began {} s after the cut", first - cut_at);
        let exit = &cluster.show(id)["runs"][0]["exit"];
        assert!(exit["class"] == "platform" && exit["reason"].as_str().is_some_and(|why| why.contains("lease")));
    }
    for (name, id, node) in &lost {
        cluster.net().heal(*node);
        if *name == "with" {
            cluster.start_agent(*node);
        }
        wait_state(&cluster, &format!("n{node}"), "READY");
        cluster.touch(&format!("{name}.stop"));
        let shown = cluster.wait_end(id);
        assert_eq!((&shown["exit"]["code"], shown["runs"].as_array().map(Vec::len)), (&json!(5), Some(2)), "{shown}");
        assert_eq!(one_at_a_time(&cluster, name).len(), 2, "{name}");
    }
    ends_once(&cluster, "stays", &stays, 1);
    cluster.wait_idle();
}

/// A job on GPUs that others are to have later.
fn holds_room(cluster: &Cluster, gpus: u32) -> String {
    let id = cluster.submit(&with_gpus(job("room", &[role("main", 1, "sleep 600")]), gpus));
    cluster.wait_running(&id);
    id
}

fn gives_room(cluster: &Cluster, id: &str) {
    cluster.cli(&["stop", id]).expect(0);
    cluster.wait_end(id);
}

/// More than half of the nodes are gone for longer than the leases, and there is room elsewhere.
#[test]
fn a_controller_that_lost_most_nodes_replaces_nothing_beyond_every_lease() {
    let what = "partition: a controller that is cut off beyond leases";
    if !is_long() {
        return skip(what, "it takes seven minutes: tests/run all");
    }
    let Some(net) = Net::get(what, 4) else { return };
    let cluster = Cluster::across(net, &["sim:1xH100", "sim:1xH100", "sim:1xH100", "sim:4xH100"]);
    let room = holds_room(&cluster, 4);
    let submit = |name: &str| cluster.submit(&with_gpus(restarting(counting(&cluster, name, 2)), 1));
    let jobs = ["one", "two", "three"].map(|name| (name, submit(name)));
    jobs.iter().for_each(|(name, _)| goes_on(&cluster, name, 2));
    gives_room(&cluster, &room);
    // The fourth node is heard all the time and has room for everybody.
    let cut: Vec<usize> = (0..3).collect();
    cut.iter().for_each(|node| cluster.net().cut(*node, Cut::Both));
    let begin = uptime_s();
    until_within(Duration::from_secs(3 * LEASE_S), "every lease is long over", || {
        (uptime_s() > begin + LEASE_S as f64 + 90.0).then_some(())
    });
    for (name, id) in &jobs {
        assert_eq!(cluster.show(id)["runs"].as_array().map(Vec::len), Some(1), "{name} was replaced");
    }
    cut.iter().for_each(|node| cluster.net().heal(*node));
    cluster.wait_ready();
    for (name, id) in &jobs {
        until(&format!("{name} runs again"), || (one_at_a_time(&cluster, name).len() == 2).then_some(()));
        cluster.touch(&format!("{name}.stop"));
        let shown = cluster.wait_end(id);
        assert_eq!(shown["runs"][0]["exit"]["class"], "platform", "its shim has ended it: {shown}");
        assert_eq!((&shown["exit"]["code"], shown["runs"].as_array().map(Vec::len)), (&json!(2), Some(2)), "{shown}");
        assert_eq!(one_at_a_time(&cluster, name).len(), 2, "{name}");
    }
    cluster.wait_idle();
}
