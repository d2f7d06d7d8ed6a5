//! Many small jobs over two agents, seen from outside: the tasks themselves write down when they ran, what they held
//! and how they meant to end. Nothing may be held twice at a time, and every end has to be told as it was.

use crate::harness::job::with;
use crate::harness::random::Random;
use crate::harness::skip::is_long;
use crate::harness::{Cluster, job, role, skip};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

const SEED: u64 = 20_240_601;
/// Programs that submit side by side.
const SUBMITTERS: usize = 3;

/// What a task is to do at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Code(i64),
    Signal(i64),
    /// Runs until it is stopped, and then ends by itself.
    Stopped,
}

#[derive(Debug, Clone)]
struct Plan {
    name: String,
    gpus: u32,
    /// One end per task.
    ends: Vec<End>,
    /// The job is stopped from outside at some time.
    stop: bool,
}

fn plan(random: &mut Random, number: usize) -> Plan {
    let stop = random.chance(8);
    let tasks = 1 + random.below(3);
    let signals = [9, 15, 11, 6, 1];
    let end = |random: &mut Random| match random.below(10) {
        _ if stop => End::Stopped,
        0..=5 => End::Code(0),
        // 193 asks for another run.
        6..=7 => End::Code(Some(1 + random.below(255) as i64).filter(|code| *code != 193).unwrap_or(1)),
        _ => End::Signal(*random.pick(&signals)),
    };
    let ends = (0..tasks).map(|_| end(random)).collect();
    Plan { name: format!("random-{number}"), gpus: random.below(5) as u32, ends, stop }
}

/// `BEGIN` and `END` lines in a file per task; times from the shell itself, so that nothing else has to run.
fn command(folder: &Path, plan: &Plan, random: &mut Random) -> String {
    let ends: Vec<String> = plan
        .ends
        .iter()
        .map(|end| match end {
            End::Code(code) => format!("exit {code}"),
            End::Signal(signal) => format!("kill -{signal} $$"),
            End::Stopped => "exit 0".to_owned(),
        })
        .collect();
    let wait = match plan.stop {
        true => "trap 'say END; exit 143' TERM; while :; do sleep 0.1 & wait $!; done".to_owned(),
        false => format!("sleep 0.{:02}", random.below(25)),
    };
    let cases: String = ends.iter().enumerate().map(|(i, end)| format!("{i}) {end};; ")).collect();
    format!(
        "say() {{ echo \"$1 $EPOCHREALTIME $NVIDIA_VISIBLE_DEVICES $PAI_CONTAINER_HOST_IP $PAI_CONTAINER_HOST_PORT_LIST\" >> '{}'/$WHARF_TASK_ID; }}\n\
         say BEGIN; {wait}; say END\n\
         case $PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX in {cases}esac",
        folder.display()
    )
}

struct Span {
    begin: f64,
    end: f64,
    task: String,
}

/// A task's own words: from when to when it ran, and what it held.
fn read_record(path: &Path) -> (Option<f64>, Option<f64>, Vec<String>) {
    let text = fs::read_to_string(path).expect("tasks write text");
    let (mut begin, mut end, mut held) = (None, None, Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, time, gpus, ip, ports] = words[..] else { panic!("{}: {line}", path.display()) };
        let time: f64 = time.replace(',', ".").parse().expect("a time");
        let twice = match what {
            "BEGIN" => begin.replace(time),
            _ => end.replace(time),
        };
        assert!(twice.is_none(), "{} ran twice:\n{text}", path.display());
        if what == "BEGIN" {
            held.extend(gpus.split(',').filter(|gpu| gpu.starts_with("GPU-")).map(str::to_owned));
            let numbers = ports.split([':', ';', ',']).filter(|word| word.parse::<u16>().is_ok());
            held.extend(numbers.map(|port| format!("{ip}:{port}")));
        }
    }
    (begin, end, held)
}

fn seconds(time: &Value) -> f64 {
    let text = time.as_str().expect("an ended task has its time");
    wharf::domain::time::Timestamp::parse_rfc3339(text).expect("RFC 3339").0 as f64 / 1e9
}

#[test]
fn nothing_is_held_twice_and_every_end_is_told_as_it_was() {
    let count = if is_long() { 4000 } else { 1000 };
    if !is_long() {
        skip("random jobs beyond the first 1000 of 4000", "the long suites run them all: tests/run all");
    }
    let cluster = Cluster::start(&["sim:8xH100", "sim:8xH100"]);
    let folder = cluster.path("records");
    fs::create_dir(&folder).unwrap();
    let mut random = Random::new(SEED);
    let plans: Vec<Plan> = (0..count).map(|number| plan(&mut random, number)).collect();
    let files: Vec<Value> = plans
        .iter()
        .map(|plan| {
            let command = command(&folder, plan, &mut random);
            let main = role("main", plan.ends.len() as u32, &command);
            // Every task of a job ends in its own way: no failure ends the others.
            let rules = json!({ "gpuNumber": plan.gpus, "minFailedTaskCount": plan.ends.len(), "minSucceededTaskCount": null });
            job(&plan.name, &[with(main, &rules)])
        })
        .collect();
    let ids = run_all(&cluster, &plans, &files);
    cluster.wait_idle();

    let listed = cluster.json(&["jobs", "--all"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(count), "jobs are lost or doubled");
    let mut spans: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    let mut recorded: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().expect("a text"))
        .collect();
    for (plan, id) in plans.iter().zip(&ids) {
        let shown = cluster.wait_end(id);
        check_job(plan, &shown);
        for task in shown["tasks"].as_array().unwrap() {
            let task_id = task["id"].as_str().unwrap().to_owned();
            if !recorded.remove(&task_id) {
                assert!(plan.stop, "{task_id} has never run: {shown}");
                continue;
            }
            let (begin, end, held) = read_record(&folder.join(&task_id));
            let begin = begin.unwrap_or_else(|| panic!("{task_id} has no beginning"));
            // Who was killed says nothing; then it is the agent's word.
            let end = end.unwrap_or_else(|| seconds(&task["ended_at"]));
            assert!(held.iter().filter(|what| what.starts_with("GPU-")).count() == plan.gpus as usize, "{held:?}");
            for what in held {
                spans.entry(what).or_default().push(Span { begin, end, task: task_id.clone() });
            }
        }
    }
    assert!(recorded.is_empty(), "tasks that no job has: {recorded:?}");
    assert!(spans.keys().filter(|what| what.starts_with("GPU-")).count() == 16, "not every GPU was used");
    for (what, mut spans) in spans {
        spans.sort_by(|a, b| a.begin.total_cmp(&b.begin));
        for pair in spans.windows(2) {
            let [first, second] = pair else { unreachable!("windows of two") };
            let apart = first.end <= second.begin;
            assert!(
                apart,
                "{what} was held by {} until {} and by {} from {}",
                first.task, first.end, second.task, second.begin
            );
        }
    }
}

/// Submits everything, side by side, and stops what is to be stopped; returns when all have ended.
fn run_all(cluster: &Cluster, plans: &[Plan], files: &[Value]) -> Vec<String> {
    let ids: Vec<std::sync::OnceLock<String>> = plans.iter().map(|_| Default::default()).collect();
    std::thread::scope(|scope| {
        for first in 0..SUBMITTERS {
            let ids = &ids;
            scope.spawn(move || {
                let mut to_stop: Vec<&String> = Vec::new();
                for i in (first..files.len()).step_by(SUBMITTERS) {
                    let id = ids[i].get_or_init(|| cluster.submit(&files[i]));
                    if plans[i].stop {
                        to_stop.push(id);
                    }
                    // Some are stopped in the queue, some while they run, some in between.
                    if to_stop.len() > 2 {
                        cluster.cli(&["stop", to_stop.remove(0)]).expect(0);
                    }
                }
                to_stop.iter().for_each(|id| drop(cluster.cli(&["stop", id]).expect(0)));
            });
        }
    });
    // As long as some end, all will.
    let mut left = plans.len();
    while left > 0 {
        left = crate::harness::until(&format!("one of {left} jobs has ended"), || {
            Some(cluster.json(&["jobs"]).as_array()?.len()).filter(|now| *now < left)
        });
    }
    ids.into_iter().map(|id| id.into_inner().expect("it was submitted")).collect()
}

fn check_job(plan: &Plan, shown: &Value) {
    let tasks = shown["tasks"].as_array().expect("show lists tasks");
    assert_eq!((tasks.len(), shown["runs"].as_array().map(Vec::len)), (plan.ends.len(), Some(1)), "{shown}");
    if plan.stop {
        assert_eq!(shown["state"], "STOPPED", "{shown}");
        assert!(tasks.iter().all(|task| task["state"] == "STOPPED"), "{shown}");
        return;
    }
    let by_index: HashMap<u64, &Value> = tasks.iter().map(|task| (task["index"].as_u64().unwrap(), task)).collect();
    for (index, end) in plan.ends.iter().enumerate() {
        let task = by_index[&(index as u64)];
        let (code, signal) = match end {
            End::Code(code) => (json!(code), json!(null)),
            End::Signal(signal) => (json!(null), json!(signal)),
            End::Stopped => unreachable!("such jobs are stopped"),
        };
        let state = if *end == End::Code(0) { "SUCCEEDED" } else { "FAILED" };
        assert_eq!(
            (&task["exit"]["code"], &task["exit"]["signal"], &task["state"]),
            (&code, &signal, &json!(state)),
            "{shown}"
        );
    }
    let all_failed = plan.ends.iter().all(|end| *end != End::Code(0));
    assert_eq!(shown["state"], if all_failed { "FAILED" } else { "SUCCEEDED" }, "{shown}");
}
