//! Disks that fill up, and files on them that are damaged: what runs goes on, what ended is told once, and what is lost is
//! told exactly.

use crate::harness::cluster::wharf;
use crate::harness::disk::Disk;
use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, Running, job, role, until};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Notes its start, does `work`, waits for the file `NAME.stop`, and ends with `code`.
fn waiting(cluster: &Cluster, name: &str, work: &str, code: u32) -> Value {
    let (starts, stop) = (cluster.path(&format!("{name}.starts")), cluster.path(&format!("{name}.stop")));
    let command = format!(
        "echo $$ >> {}; {work}; until [ -e {} ]; do sleep 0.05; done; exit {code}",
        quoted(&starts),
        quoted(&stop)
    );
    job(name, &[role("main", 1, &command)])
}

/// It ended as it should, ran once, and its end was told once.
#[track_caller]
fn assert_ended_once(cluster: &Cluster, id: &str, name: &str, code: u32) {
    let shown = cluster.wait_end(id);
    assert_eq!(shown["tasks"][0]["exit"]["code"], code, "{name}: {shown}");
    assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "{name} was run again: {shown}");
    let starts = fs::read_to_string(cluster.path(&format!("{name}.starts"))).expect("it was started");
    assert_eq!(starts.lines().count(), 1, "{name} was started more than once");
    // History is written after what is shown.
    let events = until(&format!("history has the end of {name}"), || {
        let events = cluster.cli(&["--json", "events", "--job", id]).expect(0).json_lines();
        events.iter().any(|event| event["kind"] == "job.ended").then_some(events)
    });
    let ends = events.iter().filter(|event| event["kind"] == "task.ended").count();
    assert_eq!(ends, 1, "{name}: {events:?}");
}

/// Numbered lines, as `seq` prints them.
fn numbered(from: u64, to: u64) -> String {
    (from..=to).map(|number| format!("{number}\n")).collect()
}

/// What the records say against what was written: all of it is there, or in a gap of its size and in its place. Returns
/// the bytes in gaps.
#[track_caller]
fn lost_in_gaps(records: &[Value], written: &[u8]) -> usize {
    let (mut at, mut lost) = (0, 0);
    for record in records {
        let text = record["text"].as_str().expect("it is text");
        if record["stream"] == "gap" {
            let bytes: usize = text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number first");
            (at, lost) = (at + bytes, lost + bytes);
        } else {
            let end = at + text.len();
            let same = written.get(at..end) == Some(text.as_bytes());
            assert!(same, "other than what was written at byte {at}: {:.80}", text);
            at = end;
        }
    }
    assert_eq!(at, written.len(), "neither printed nor told as lost");
    lost
}

#[test]
fn a_full_log_disk_costs_exact_gaps_and_no_task() {
    if !Disk::can_be("a full log disk") {
        return;
    }
    // The ring is larger than what is written: nothing is lost to it.
    let node = Node { more: "log_segment_mb = 8\n".to_owned(), ..Node::new("n0", "none") };
    let cluster = Cluster::with(vec![node], "");
    cluster.stop_agent(0);
    let disk = Disk::replace(&cluster.path("a0/tasks"), 32);
    cluster.start_agent(0);
    cluster.wait_ready();
    let wait = |name: &str| {
        format!(
            "echo > {}; until [ -e {} ]; do sleep 0.02; done",
            quoted(cluster.path(name)),
            quoted(cluster.path(&format!("{name}.go")))
        )
    };
    // More than its shim's memory holds back while the disk takes nothing.
    let work = format!("seq 1 1000; {}; seq 1001 5000000; {}; seq 5000001 5001000", wait("one"), wait("two"));
    let writer = cluster.submit(&waiting(&cluster, "writer", &work, 7));
    let ends = cluster.submit(&waiting(&cluster, "ends", "true", 9));
    cluster.wait_file("one");
    cluster.wait_running(&ends);
    disk.fill();
    cluster.touch("one.go");
    // The task is not held up by it, and one that ends is told of.
    cluster.wait_file("two");
    cluster.touch("ends.stop");
    assert_ended_once(&cluster, &ends, "ends", 9);
    assert_eq!(cluster.show(&writer)["state"], "RUNNING");
    disk.make_room();
    let log = || cluster.cli(&["--json", "logs", &writer]).expect(0).json_lines();
    // Until half of the shim's memory is free again all output is dropped.
    until("what was held back is written", || {
        let bytes: usize = log()
            .iter()
            .filter(|record| record["stream"] == "stdout")
            .filter_map(|record| Some(record["text"].as_str()?.len()))
            .sum();
        (bytes > 6 << 20).then_some(())
    });
    cluster.touch("two.go");
    cluster.touch("writer.stop");
    assert_ended_once(&cluster, &writer, "writer", 7);
    let records = log();
    let lost = lost_in_gaps(&records, numbered(1, 5_001_000).as_bytes());
    assert!(lost > 10 << 20, "{lost} bytes are lost: the disk was not full");
    let last = records.last().and_then(|record| record["text"].as_str()).unwrap_or_default();
    assert!(last.ends_with("5001000\n"), "the output does not go on after there is room: {last:.80}");
    // The disk is as good as ever for the next one.
    let next = cluster.submit(&job("next", &[role("main", 1, "seq 1 10")]));
    assert_eq!(cluster.wait_end(&next)["state"], "SUCCEEDED");
    assert_eq!(cluster.cli(&["logs", &next]).expect(0).text(), numbered(1, 10));
}

#[test]
fn a_full_state_disk_takes_no_new_work_and_goes_on_telling() {
    if !Disk::can_be("a full state disk") {
        return;
    }
    let cluster = Cluster::start(&["sim:4xH100"]);
    cluster.stop_agent(0);
    let state = Disk::replace(&cluster.path("a0"), 16);
    let _logs = Disk::replace(&cluster.path("a0/tasks"), 32);
    cluster.start_agent(0);
    cluster.wait_ready();
    let ends = cluster.submit(&waiting(&cluster, "ends", "true", 5));
    let stays = cluster.submit(&waiting(&cluster, "stays", "echo before", 6));
    cluster.wait_running(&ends);
    cluster.wait_running(&stays);
    state.fill();
    // New work is asked for until the journal has no room for it.
    let late = cluster.submit(&waiting(&cluster, "late", "true", 8));
    cluster.touch("late.stop");
    until("the journal fails, and why is said", || {
        let log = fs::read_to_string(cluster.path("agent0.log")).expect("it has a log");
        log.contains("the disk is full").then_some(())
    });
    let launched = |name: &str| cluster.path(&format!("{name}.starts")).exists();
    assert!(!launched("late"));
    // The end of one that runs is told all the same, and the other is not disturbed.
    cluster.touch("ends.stop");
    assert_ended_once(&cluster, &ends, "ends", 5);
    assert_eq!(cluster.show(&stays)["state"], "RUNNING");
    let refused = cluster.submit(&waiting(&cluster, "refused", "true", 4));
    cluster.touch("refused.stop");
    until("why nothing new is taken is said to whoever asks", || {
        let said = cluster.cli(&["job", "explain", &refused]).expect(0).text()
            + &cluster.cli(&["events", "--job", &refused]).expect(0).text()
            + &cluster.cli(&["job", "show", &refused]).expect(0).text();
        said.contains("journal of this node cannot be written").then_some(())
    });
    assert!(!launched("late") && !launched("refused"));
    state.make_room();
    assert_ended_once(&cluster, &late, "late", 8);
    assert_ended_once(&cluster, &refused, "refused", 4);
    // Everything was journalled: another process of the agent knows it all and tells nothing twice.
    cluster.kill9_agent(0);
    cluster.start_agent(0);
    cluster.wait_ready();
    assert_eq!(cluster.show(&stays)["state"], "RUNNING");
    cluster.touch("stays.stop");
    for (id, name, code) in [(&ends, "ends", 5), (&stays, "stays", 6), (&late, "late", 8)] {
        assert_ended_once(&cluster, id, name, code);
    }
    cluster.wait_idle();
    assert_eq!(cluster.cli(&["logs", &stays]).expect(0).text(), "before\n");
}

/// What happens to files while the agent is dead; each gets the folder of its state.
type Damage = (&'static str, fn(&Path));

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let Ok(mut bytes) = fs::read(path) else { return };
    change(&mut bytes);
    fs::write(path, bytes).expect("it is ours");
}

fn journal(folder: &Path) -> [PathBuf; 2] {
    ["journal.db", "journal.db-wal"].map(|name| folder.join(name))
}

fn halve(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() / 2);
}

fn flip(bytes: &mut Vec<u8>) {
    let whole = std::mem::take(bytes);
    bytes.extend(whole.into_iter().enumerate().map(|(at, byte)| if at % 97 == 0 { byte ^ 0x55 } else { byte }));
}

fn zero_tail(bytes: &mut Vec<u8>) {
    let length = bytes.len();
    halve(bytes);
    bytes.resize(length, 0);
}

/// The same file of every task.
fn records(folder: &Path, name: &str) -> Vec<PathBuf> {
    let tasks = fs::read_dir(folder.join("tasks")).expect("there are tasks").flatten();
    tasks.map(|task| task.path().join(name)).filter(|path| path.exists()).collect()
}

const DAMAGES: [Damage; 12] = [
    ("nothing", |_| {}),
    ("journal truncated", |folder| journal(folder).iter().for_each(|path| change(path, halve))),
    ("journal's bytes flipped", |folder| journal(folder).iter().for_each(|path| change(path, flip))),
    ("journal's tail zeroed", |folder| journal(folder).iter().for_each(|path| change(path, zero_tail))),
    ("only what was written last is torn off", |folder| change(&journal(folder)[1], halve)),
    // What is in the main file alone: the rest of it is in the other.
    ("journal overwritten", |folder| {
        let [main, wal] = journal(folder);
        drop(fs::remove_file(wal));
        change(&main, |bytes| bytes.fill(0x55));
    }),
    ("the main file of the journal overwritten in its middle", |folder| {
        let [main, wal] = journal(folder);
        drop(fs::remove_file(wal));
        change(&main, |bytes| bytes[200..].fill(0x55));
    }),
    ("journal emptied", |folder| journal(folder).iter().for_each(|path| change(path, Vec::clear))),
    ("journal deleted", |folder| journal(folder).iter().for_each(|path| drop(fs::remove_file(path)))),
    ("task records truncated", |folder| records(folder, "task.json").iter().for_each(|path| change(path, halve))),
    ("shim records deleted", |folder| {
        records(folder, "shim.json").iter().for_each(|path| fs::remove_file(path).expect("it is there"))
    }),
    ("journal deleted, and records flipped", |folder| {
        journal(folder).iter().for_each(|path| drop(fs::remove_file(path)));
        for name in ["task.json", "shim.json", "started.json"] {
            records(folder, name).iter().for_each(|path| change(path, zero_tail));
        }
    }),
];

#[test]
fn damage_to_an_agents_files_ends_no_task() {
    let cluster = Cluster::start(&["sim:4xH100"]);
    let folder = cluster.path("a0");
    let gpu = |job: Value| {
        let role = with(job["taskRoles"][0].clone(), &json!({ "gpuNumber": 1 }));
        with(job, &json!({ "taskRoles": [role] }))
    };
    let stays = cluster.submit(&gpu(waiting(&cluster, "stays", "echo before", 6)));
    cluster.wait_running(&stays);
    let uid = cluster.json(&["node", "show", "n0"])["node_uid"].clone();
    let mut ended = Vec::new();
    for (number, (what, damage)) in DAMAGES.iter().enumerate() {
        let name = format!("ends{number}");
        let ends = cluster.submit(&gpu(waiting(&cluster, &name, "true", 5)));
        cluster.wait_running(&ends);
        cluster.kill9_agent(0);
        damage(&folder);
        cluster.touch(&format!("{name}.stop"));
        cluster.start_agent(0);
        cluster.wait_ready();
        eprintln!("{what}");
        assert_ended_once(&cluster, &ends, &name, 5);
        ended.push((ends, name));
        assert_eq!(cluster.show(&stays)["state"], "RUNNING", "{what}");
        let held: Vec<Value> = cluster
            .json(&["gpus"])
            .as_array()
            .into_iter()
            .flatten()
            .filter(|gpu| gpu["state"] == "HELD")
            .cloned()
            .collect();
        assert!(
            held.len() <= 2
                && held
                    .iter()
                    .any(|gpu| gpu["task"].as_str().is_some_and(|task| task.starts_with(&format!("{stays}.")))),
            "{what}: {held:?}"
        );
    }
    assert_eq!(cluster.json(&["node", "show", "n0"])["node_uid"], uid, "it is the same node");
    let told = cluster.cli(&["--json", "events", "--node", "n0"]).expect(0).json_lines();
    let lost = told.iter().filter(|event| event["kind"] == "node.journal_lost").count();
    assert!(lost >= 5, "operators are told {lost} times: {told:?}");
    let aside = {
        let found = fs::read_dir(&folder).expect("it is ours").flatten();
        found.filter(|entry| entry.file_name().to_string_lossy().contains("journal.db.damaged-")).count()
    };
    assert!(aside >= 2, "damaged journals are there to be looked into");
    cluster.touch("stays.stop");
    assert_ended_once(&cluster, &stays, "stays", 6);
    assert_eq!(cluster.cli(&["logs", &stays]).expect(0).text(), "before\n");
    // Also what was told after later damage.
    ended.iter().for_each(|(id, name)| assert_ended_once(&cluster, id, name, 5));
    cluster.wait_idle();
}

#[test]
fn damage_to_the_controllers_store_is_told_and_a_backup_brings_it_back() {
    let cluster = Cluster::start(&["sim:4xH100"]);
    let stays = cluster.submit(&waiting(&cluster, "stays", "true", 6));
    cluster.wait_running(&stays);
    let (saved, place) = (cluster.path("saved"), format!("sqlite:{}/c", cluster.folder().display()));
    let store = |args: &[&str]| Running::start(wharf(&[&["store"], args].concat())).finish();
    store(&["backup", "--store", &place, saved.to_str().expect("a text")]).expect(0);
    let settings = cluster.path("controller.toml");
    let files = ["store.db", "store.db-wal"].map(|name| cluster.path("c").join(name));
    // As a stop leaves it: everything in one file.
    assert_eq!(cluster.stop_controller(), 0);
    let whole = fs::read(&files[0]).expect("the store is there");
    let damages: [fn(&mut Vec<u8>); 3] = [halve, flip, zero_tail];
    for damage in damages {
        change(&files[0], damage);
        let damaged = fs::read(&files[0]).expect("it is there");
        let refused = Running::start(wharf(&["controller", "--config", settings.to_str().expect("a text")])).finish();
        assert_eq!(refused.code, 3, "{}", refused.errors());
        let said = refused.errors();
        assert!(said.contains("store.db") && said.contains("wharf"), "{said}");
        // What the jobs were is nowhere else, so nothing is begun anew behind the operator's back.
        assert!(fs::read(&files[0]).expect("it is there") == damaged, "it was changed: {said}");
        fs::write(&files[0], &whole).expect("it is ours");
    }
    change(&files[0], halve);
    fs::rename(&files[0], cluster.path("c/store.db.aside")).expect("it is ours");
    store(&["restore", "--store", &place, saved.to_str().expect("a text")]).expect(0);
    // Of the history only what is to come is needed.
    let history = fs::read_dir(cluster.path("c")).expect("it is ours").flatten().map(|entry| entry.path());
    let history =
        history.filter(|path| path.extension().is_some_and(|end| end == "db") && !path.ends_with("store.db"));
    let history: Vec<PathBuf> = history.collect();
    assert_eq!(history.len(), 1, "{history:?}");
    change(&history[0], |bytes| bytes.fill(0x55));
    cluster.start_controller();
    cluster.wait_ready();
    assert!(history[0].with_extension("db.damaged-1").exists(), "the event log is set aside");
    assert_eq!(cluster.show(&stays)["state"], "RUNNING");
    cluster.touch("stays.stop");
    assert_ended_once(&cluster, &stays, "stays", 6);
    cluster.wait_idle();
}
