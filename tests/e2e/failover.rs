//! Two controllers on a real etcd: one is killed, one is frozen and thawed, one is cut off from etcd, etcd loses its
//! quorum. Tasks never notice.

use crate::harness::job::quoted;
use crate::harness::skip::is_long;
use crate::harness::{Cables, Cluster, Etcd, Node, Output, Way, job, role, skip, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::Instant;
use wharf::store::etcd::{EtcdSettings, EtcdStore};
use wharf::store::{Entry, Range, Store};

fn start(etcd: &Etcd) -> Cluster {
    Cluster::with_two_controllers(vec![Node::new("n0", "sim:4xH100")], &etcd.settings())
}

/// Counts until the file `stop` is there, having noted that it began.
fn counting(cluster: &Cluster) -> Value {
    let (starts, stop) = (cluster.path("starts"), cluster.path("stop"));
    let command = format!(
        "echo begun >> {}; i=0; until [ -e {} ]; do i=$((i+1)); echo line $i; sleep 0.02; done; echo $i > {}; exit 7",
        quoted(starts),
        quoted(stop),
        quoted(cluster.path("last"))
    );
    job("counting", &[role("main", 1, &command)])
}

fn ask(cluster: &Cluster, second: bool, args: &[&str]) -> Output {
    let addresses = cluster.addresses();
    let address = addresses.split(',').nth(usize::from(second)).expect("there are two");
    let args: Vec<&str> = ["--controller", address].iter().chain(args).copied().collect();
    cluster.cli(&args)
}

/// Whether the second of the two leads.
fn second_leads(cluster: &Cluster) -> bool {
    until("one of two controllers leads", || {
        [false, true].into_iter().find(|second| ask(cluster, *second, &["nodes", "--json"]).code == 0)
    })
}

fn submit(cluster: &Cluster, job: &Value, request: &str) -> Output {
    cluster.cli_with(&["--json", "submit", "--request-id", request, "-"], job.to_string().as_bytes())
}

fn job_id(output: Output) -> u64 {
    output.expect(0).json()["job_id"].as_u64().expect("job_id is an integer")
}

/// The job that was started before everything ended as it should: begun once, no line missing or repeated.
fn check_counted(cluster: &Cluster, id: &str) {
    let follower = cluster.spawn(&["logs", id, "--follow"]);
    cluster.touch("stop");
    let shown = cluster.wait_end(id);
    assert_eq!((&shown["state"], &shown["tasks"][0]["exit"]["code"]), (&"FAILED".into(), &7.into()), "{shown}");
    assert_eq!(fs::read_to_string(cluster.path("starts")).unwrap(), "begun\n");
    let last: u64 = fs::read_to_string(cluster.path("last")).unwrap().trim().parse().unwrap();
    let expected: String = (1..=last).map(|i| format!("line {i}\n")).collect();
    assert_eq!(follower.finish().expect(0).text(), expected);
}

#[test]
fn a_killed_leader_is_followed_and_no_task_notices() {
    let etcd = Etcd::start(3);
    let cluster = start(&etcd);
    let id = cluster.submit(&counting(&cluster));
    cluster.wait_running(&id);
    let ending = cluster.submit(&job(
        "ending",
        &[role("main", 1, &format!("until [ -e {} ]; do sleep 0.02; done; exit 5", quoted(cluster.path("end"))))],
    ));
    cluster.wait_running(&ending);

    let second = second_leads(&cluster);
    let standby = ask(&cluster, !second, &["nodes"]);
    assert_eq!(standby.code, 3);
    let leader = cluster.addresses().split(',').nth(usize::from(second)).unwrap().to_owned();
    let said = standby.errors();
    assert!(said.contains("on standby") && said.contains(&leader), "{said}");

    cluster.kill9_one(second);
    let killed = Instant::now();
    // Ends while nobody leads.
    cluster.touch("end");
    let extra = job("extra", &[role("main", 1, "true")]);
    let first =
        until("a job can be submitted again", || Some(submit(&cluster, &extra, "once")).filter(|o| o.code == 0));
    eprintln!("a job was taken {} ms after the leader was killed", killed.elapsed().as_millis());
    let first = job_id(first);
    assert_eq!(job_id(submit(&cluster, &extra, "once")), first, "the same request is the same job");
    assert_eq!(second_leads(&cluster), !second);
    assert_eq!(cluster.wait_end(&first.to_string())["state"], "SUCCEEDED");
    assert_eq!(cluster.wait_end(&ending)["tasks"][0]["exit"]["code"], 5);

    // The one that was killed comes back and stands by.
    if second {
        cluster.start_second()
    } else {
        cluster.start_controller()
    }
    until("the other stands by", || ask(&cluster, second, &["nodes"]).errors().contains("on standby").then_some(()));
    check_counted(&cluster, &id);
}

/// Everything that wharf has in etcd.
fn content(etcd: &Etcd) -> Vec<Entry> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = EtcdStore::new(EtcdSettings::new(etcd.endpoints())).unwrap();
        store.range(Range::prefix("")).await.unwrap().0
    })
}

fn term(entries: &[Entry]) -> u64 {
    let entry = entries.iter().find(|entry| entry.key == "meta/term").expect("there is a term");
    String::from_utf8_lossy(&entry.value).parse().expect("it is a number")
}

#[test]
fn a_leader_that_was_frozen_writes_nothing_when_it_goes_on() {
    let etcd = Etcd::start(1);
    let cluster = start(&etcd);
    let id = cluster.submit(&counting(&cluster));
    cluster.wait_running(&id);
    let second = second_leads(&cluster);
    let before = term(&content(&etcd));
    cluster.signal_one(second, Signal::SIGSTOP);
    // Asked of the frozen one as well: what it has not read yet it finds when it goes on.
    let late = job("late", &[role("main", 1, "true")]);
    let late = until("the other one leads", || Some(submit(&cluster, &late, "late")).filter(|o| o.code == 0));
    let late = job_id(late).to_string();
    assert_eq!(cluster.wait_end(&late)["state"], "SUCCEEDED");
    // An ended job is settled once its task is released; after that there is nothing left to write.
    let quiet = until("nothing is written any more", || {
        let first = content(&etcd);
        std::iter::repeat_with(|| cluster.json(&["jobs", "--all"])).take(3).for_each(drop);
        (first == content(&etcd)).then_some(first)
    });
    assert!(term(&quiet) > before);
    cluster.signal_one(second, Signal::SIGCONT);
    until("the thawed one stands by", || {
        let said = ask(&cluster, second, &["nodes"]).errors();
        said.contains("on standby").then_some(())
    });
    assert_eq!(content(&etcd), quiet, "the thawed leader has written");
    assert_eq!(second_leads(&cluster), !second);
    let jobs = cluster.json(&["jobs", "--all"]);
    assert_eq!(jobs.as_array().unwrap().iter().filter(|job| job["name"] == "late").count(), 1);
    check_counted(&cluster, &id);
}

#[test]
fn without_a_quorum_tasks_and_reading_go_on_and_changes_are_refused() {
    let etcd = Etcd::start(3);
    let cluster = start(&etcd);
    let id = cluster.submit(&counting(&cluster));
    cluster.wait_running(&id);
    etcd.kill9(0);
    etcd.kill9(1);
    let extra = job("extra", &[role("main", 1, "true")]);
    let refused = submit(&cluster, &extra, "during");
    assert_eq!(refused.code, 3, "{}", refused.errors());
    // However long it lasts: the lease has run out, and nobody else can lead.
    let said = until("the leader knows that it leads no more", || {
        let refused = submit(&cluster, &extra, "during");
        assert_eq!(refused.code, 3);
        Some(refused.errors()).filter(|said| said.contains("nothing can be changed"))
    });
    assert!(said.contains("etcd"), "{said}");
    let shown = cluster.show(&id);
    assert_eq!(shown["tasks"][0]["state"], "RUNNING", "{shown}");
    let read = cluster.cli(&["logs", &id, "--tail", "1"]).expect(0);
    assert!(read.text().starts_with("line "), "{:?} {:?}", read.text(), read.errors());
    etcd.start_member(0);
    etcd.start_member(1);
    let taken = until("a job can be submitted again", || {
        Some(submit(&cluster, &extra, "during")).filter(|output| output.code == 0)
    });
    assert_eq!(cluster.wait_end(&job_id(taken).to_string())["state"], "SUCCEEDED");
    check_counted(&cluster, &id);
}

/// Nothing but the way between the leader and etcd is cut: clients, agents and the other controller hear everybody.
fn cut_off_from_etcd(cables: Cables, way: Way) {
    let etcd = Etcd::behind(cables, 1);
    // Not of this machine, as far as they can tell.
    let settings = [0, 1].map(|controller| etcd.settings_of(controller));
    let nodes = vec![Node::new("n0", "sim:4xH100")];
    let cluster = Cluster::with_two_controllers_of(nodes, [&settings[0], &settings[1]]);
    let id = cluster.submit(&counting(&cluster));
    cluster.wait_running(&id);
    let second = second_leads(&cluster);
    let before = ask(&cluster, second, &["nodes", "--json"]).expect(0);
    let extra = job("extra", &[role("main", 1, "true")]);
    let told = extra.to_string();
    let tell = |second: bool| {
        let address = cluster.addresses().split(',').nth(usize::from(second)).expect("there are two").to_owned();
        let args = ["--controller", &address, "--json", "submit", "--request-id", "during", "-"];
        cluster.cli_with(&args, told.as_bytes())
    };

    etcd.cables().cut(usize::from(second), way);
    // The one that was cut off says so; the other one leads.
    let said = until("the leader that is cut off leads no more", || {
        let refused = tell(second);
        assert_ne!(refused.code, 0, "what is written without etcd is lost");
        Some(refused.errors()).filter(|said| said.contains("nothing can be changed"))
    });
    assert!(said.contains("etcd"), "{said}");
    let taken = until("the other one leads", || Some(tell(!second)).filter(|output| output.code == 0));
    let taken = job_id(taken).to_string();
    assert_ne!(tell(second).code, 0, "two controllers take jobs");
    // A client that knows both finds the one that leads, and so does the agent.
    assert_eq!(cluster.wait_end(&taken)["state"], "SUCCEEDED");
    assert_eq!(cluster.show(&id)["tasks"][0]["state"], "RUNNING");

    etcd.cables().mend(usize::from(second), way);
    until("the one that was cut off stands by", || {
        ask(&cluster, second, &["nodes"]).errors().contains("on standby").then_some(())
    });
    assert_eq!(second_leads(&cluster), !second);
    assert_eq!(job_id(submit(&cluster, &extra, "during")).to_string(), taken, "the same request is the same job");
    let jobs = cluster.json(&["jobs", "--all"]);
    assert_eq!(jobs.as_array().map(Vec::len), Some(2), "{jobs}");
    let after = ask(&cluster, !second, &["nodes", "--json"]).expect(0);
    assert_eq!(before.json()[0]["node_uid"], after.json()[0]["node_uid"]);
    check_counted(&cluster, &id);
    cluster.wait_idle();
}

#[test]
fn a_leader_that_is_cut_off_from_etcd_steps_down_and_the_other_one_leads() {
    let what = "failover: a_leader_that_is_cut_off_from_etcd";
    if let Some(cables) = Cables::get(what, 2) {
        cut_off_from_etcd(cables, Way::Both);
    }
}

#[test]
fn a_leader_that_etcd_does_not_hear_or_that_does_not_hear_etcd_steps_down_too() {
    let what = "failover: a_leader_that_etcd_does_not_hear";
    if !is_long() {
        return skip(what, "it is of the long suites: tests/run all");
    }
    for way in [Way::In, Way::Out] {
        if let Some(cables) = Cables::get(what, 2) {
            cut_off_from_etcd(cables, way);
        }
    }
}
