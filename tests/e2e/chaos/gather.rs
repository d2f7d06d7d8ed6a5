//! Collects the evidence once everything has come to its end.

use super::audit::{Evidence, Told};
use super::faults::Happened;
use super::fleet::{Daemon, Fleet};
use super::output::Piece;
use super::plan::Settings;
use super::records;
use super::workload::{Job, Workload};
use crate::harness::wait::pause;
use crate::harness::{Output, proc, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wharf::domain::event::Event;
use wharf::store::history::EventLog;

/// Ends the fleet's daemons.
pub fn gather(settings: &Settings, fleet: &Fleet, workload: &Workload, happened: &Happened) -> Evidence {
    let records = records::read_all(&fleet.path("records"));
    let jobs = workload.jobs().iter().map(|job| tell(fleet, job, &records)).collect();
    let listed = fleet.json(&["jobs", "--all"]).as_array().map_or(0, Vec::len);
    let left_behind = left_behind(settings, fleet);
    fleet.controllers.iter().chain(&fleet.agents).for_each(Daemon::kill9);
    Evidence {
        jobs,
        listed,
        records,
        shot: happened.shot.clone(),
        events: events(fleet),
        left_behind,
        odd: workload.odd.lock().expect("no test panics with it").iter().cloned().collect(),
    }
}

fn tell(fleet: &Fleet, job: &Job, records: &BTreeMap<String, records::Record>) -> Told {
    let id = job.id.get().cloned().unwrap_or_default();
    let mut told = Told { plan: job.plan.clone(), id: id.clone(), runs: Vec::new(), output: BTreeMap::new() };
    let newest = until(&format!("job {id} is shown"), || {
        Some(fleet.cli(&["--json", "job", "show", &id], b"")).filter(|output| matches!(output.code, 0 | 2))
    });
    // Nobody knows it any more.
    if newest.code != 0 {
        return told;
    }
    let newest = newest.json();
    let numbers: Vec<String> =
        newest["runs"].as_array().into_iter().flatten().map(|run| run["run_id"].to_string()).collect();
    told.runs.push(newest);
    for run in numbers.iter().rev().skip(1) {
        told.runs.push(fleet.json(&["job", "show", &id, "--run", run]));
    }
    for run in &numbers {
        let prefix = format!("{id}.{run}.");
        if records.keys().any(|task| task.starts_with(&prefix)) {
            for record in logs(fleet, &id, run).json_lines() {
                let task = record["task"].as_str().expect("a record names its task").to_owned();
                told.output.entry(task).or_default().push(Piece::parse(&record).expect("it is a record of ours"));
            }
        }
    }
    told
}

fn logs(fleet: &Fleet, id: &str, run: &str) -> Output {
    until(&format!("the logs of run {run} can be read"), || {
        Some(fleet.cli(&["--json", "logs", id, "--run", run], b"")).filter(|output| output.code == 0)
    })
}

/// Of all controllers: each has kept what happened while it led, and what the last commit before that had to tell.
fn events(fleet: &Fleet) -> Vec<Event> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let mut events: Vec<Event> = Vec::new();
    for i in 0..fleet.controllers.len() {
        let log = EventLog::open(fleet.path(&format!("c{i}")).join("events.db"), 1_000_000).expect("nobody has it");
        let (mut after, others) = (0, events.len());
        loop {
            let page = runtime.block_on(log.read(after, 1000)).expect("it can be read").events;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            let alike = |one: &Event, other: &Event| *one == Event { sequence: one.sequence, ..other.clone() };
            let told = |event: &Event| events[..others].iter().any(|other| alike(event, other));
            let new: Vec<Event> = page.into_iter().filter(|event| !told(event)).collect();
            events.extend(new);
        }
    }
    events
}

fn left_behind(settings: &Settings, fleet: &Fleet) -> Vec<String> {
    let deadline = Instant::now() + settings.clearing();
    loop {
        let left = look(fleet);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        pause(Duration::from_millis(200));
    }
}

fn look(fleet: &Fleet) -> Vec<String> {
    let daemons: Vec<i32> = fleet.controllers.iter().chain(&fleet.agents).filter_map(Daemon::pid).collect();
    let mut left: Vec<String> = Vec::new();
    for pid in proc::of_folder(fleet.folder()).into_iter().filter(|pid| !daemons.contains(pid)) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        // The worker that knows GPUs belongs to its agent.
        let parent = proc::parent(pid).unwrap_or(0);
        if !line.is_empty() && !daemons.contains(&parent) {
            left.push(format!("process {pid}: {line}"));
        }
    }
    for uid in &fleet.node_uids {
        left.extend(proc::groups_of(uid).into_iter().map(|group| format!("control group {}", group.display())));
        if let Some(dockerd) = &fleet.dockerd {
            let found = dockerd.docker(&["ps", "-aq", "--filter", &format!("label=wharf.node_uid={uid}")]);
            left.extend(found.split_whitespace().map(|id| format!("container {id}")));
        }
    }
    let gpus = fleet.json(&["gpus"]);
    let held = gpus.as_array().into_iter().flatten().filter(|gpu| gpu["state"] != "FREE");
    left.extend(held.map(|gpu: &Value| format!("GPU {gpu}")));
    left
}
