//! The audit sees what is wrong: evidence that is right is tampered with, one thing at a time.

use super::audit::{Evidence, Findings, Told, audit};
use super::output::Piece;
use super::records::Record;
use super::workload::{End, JobPlan};
use serde_json::{Value, json};
use wharf::domain::event::Event;
use wharf::domain::time::Timestamp;

fn record(from: u32, gpu: &str, port: u16) -> Record {
    let text = format!(
        "BEGIN {from}.00 50 40 GPU-{gpu} 10.0.0.1 p:{port};http:{};\nTICK {from}.10 3\nTICK {from}.20 6\nEND {from}.30 6",
        port + 100
    );
    Record::parse(&text).unwrap()
}

fn whole_output() -> Vec<Piece> {
    let lines = |from: u64, to: u64| (from..=to).map(|i| format!("out {i:09}\n")).collect();
    vec![
        Piece::Stdout(lines(1, 3)),
        Piece::Stderr("err 000000003\n".into()),
        Piece::Stdout(lines(4, 6)),
        Piece::Stderr("err 000000006\n".into()),
    ]
}

fn ended(task: &str) -> Event {
    Event {
        sequence: 0,
        time: Timestamp(0),
        kind: "task.ended".into(),
        job: None,
        task: Some(task.into()),
        node: None,
        message: String::new(),
    }
}

fn told(id: &str, end: End, runs: Vec<Value>) -> Told {
    let plan = JobPlan { name: format!("chaos-{id}"), tasks: 1, gpus: 1, ports: 1, containers: false, end, ticks: 2 };
    let ids = runs.iter().map(|run| run["tasks"][0]["id"].as_str().unwrap().to_owned());
    let output = ids.map(|task| (task, whole_output())).collect();
    Told { plan, id: id.into(), runs, output }
}

fn run(state: &str, task: &str, code: i64) -> Value {
    let name = format!("chaos-{}", &task[..1]);
    json!({ "name": name, "state": state, "reason": "", "tasks": [
        { "id": task, "index": 0, "node": "n0", "state": state, "exit": { "code": code, "class": "user" } },
    ]})
}

/// A job that succeeded, one that was stopped, and one that failed after its first run had lost its shim.
fn right() -> Evidence {
    Evidence {
        jobs: vec![
            told("1", End::Code(0), vec![run("SUCCEEDED", "1.1.0.0", 0)]),
            told("2", End::Stopped, vec![run("STOPPED", "2.2.0.0", 143)]),
            told("3", End::Code(7), vec![run("FAILED", "3.4.0.0", 7), run("FAILED", "3.3.0.0", 0)]),
        ],
        listed: 3,
        records: [
            ("1.1.0.0", record(10, "a", 1000)),
            ("2.2.0.0", record(11, "a", 1001)),
            ("3.3.0.0", record(10, "b", 1002)),
            ("3.4.0.0", record(12, "b", 1002)),
        ]
        .map(|(task, record)| (task.to_owned(), record))
        .into(),
        shot: ["3.3.0.0".to_owned()].into(),
        events: ["1.1.0.0", "2.2.0.0", "3.3.0.0", "3.4.0.0"].map(ended).into(),
        left_behind: Vec::new(),
        odd: Vec::new(),
    }
}

#[test]
fn right_evidence_is_clean() {
    assert_eq!(audit(&right()), Findings::default());
}

/// What the audit says of it after `tamper`.
#[track_caller]
fn sees(column: &str, tamper: impl FnOnce(&mut Evidence)) {
    let mut evidence = right();
    tamper(&mut evidence);
    let findings = audit(&evidence);
    let found = findings.by_name().into_iter().find(|(name, _)| *name == column).expect("the column exists").1;
    assert!(!found.is_empty(), "nothing is {column}: {findings:?}");
}

fn of<'a>(evidence: &'a mut Evidence, task: &str) -> &'a mut Record {
    evidence.records.get_mut(task).unwrap()
}

#[test]
fn what_is_lost_is_seen() {
    sees("lost", |e| drop(e.records.remove("1.1.0.0")));
    sees("lost", |e| e.jobs[0].runs[0]["state"] = json!("RUNNING"));
    sees("lost", |e| e.jobs[0].runs[0]["tasks"][0]["exit"]["code"] = json!(1));
    sees("lost", |e| e.jobs[0].runs[0]["tasks"] = json!([]));
    sees("lost", |e| of(e, "1.1.0.0").end = None);
    sees("lost", |e| of(e, "2.2.0.0").end = None);
    sees("lost", |e| e.jobs[2].runs[0]["state"] = json!("SUCCEEDED"));
    sees("lost", |e| e.jobs[1].runs.clear());
    sees("lost", |e| e.jobs[1].runs[0]["name"] = json!("chaos-3"));
    sees("lost", |e| e.jobs[0].runs[0]["tasks"][0]["exit"] = json!({ "code": null, "class": "platform" }));
    // Run again for no reason.
    sees("lost", |e| e.shot.clear());
}

#[test]
fn what_is_doubled_is_seen() {
    sees("doubled", |e| e.listed += 1);
    sees("doubled", |e| {
        let begin = of(e, "1.1.0.0").begins[0].clone();
        of(e, "1.1.0.0").begins.push(begin);
    });
    sees("doubled", |e| of(e, "3.3.0.0").last = 12.05);
    sees("doubled", |e| drop(e.records.insert("9.9.0.0".into(), record(99, "z", 9))));
}

#[test]
fn what_is_held_twice_is_seen() {
    sees("GPUs or ports held twice", |e| of(e, "1.1.0.0").last = 11.05);
    sees("GPUs or ports held twice", |e| of(e, "3.3.0.0").begins[0].ports = vec!["10.0.0.1:1000".into()]);
}

#[test]
fn exits_that_are_missing_or_repeated_are_seen() {
    sees("exits missing", |e| e.jobs[1].runs[0]["tasks"][0]["exit"] = Value::Null);
    sees("exits missing", |e| drop(e.events.remove(0)));
    sees("exits repeated", |e| e.events.push(ended("2.2.0.0")));
}

#[test]
fn wrong_bytes_and_what_is_left_behind_are_seen() {
    for task in ["1.1.0.0", "2.2.0.0", "3.4.0.0"] {
        let output = |e: &mut Evidence, change: fn(&mut Vec<Piece>)| {
            e.jobs.iter_mut().filter_map(|job| job.output.get_mut(task)).for_each(change);
        };
        sees("outputs with wrong bytes", |e| output(e, |pieces| drop(pieces.pop())));
        sees("outputs with wrong bytes", |e| output(e, |pieces| pieces.swap(0, 2)));
        sees("outputs with wrong bytes", |e| output(e, |pieces| pieces.push(Piece::Gap(14))));
    }
    sees("left behind", |e| e.left_behind.push("process 7".into()));
    sees("unexplained answers", |e| e.odd.push("exit 1".into()));
}
