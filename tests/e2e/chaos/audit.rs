//! The account, drawn up from outside: what the tasks' own records and their output say, against what wharf says.

use super::output::{self, Piece, Wrote};
use super::records::Record;
use super::workload::{End, JobPlan};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use wharf::domain::event::Event;

/// A job with all that is said about it.
#[derive(Debug, Clone)]
pub struct Told {
    pub plan: JobPlan,
    pub id: String,
    /// As `wharf job show` has it, with the tasks of one run each, the newest first.
    pub runs: Vec<Value>,
    /// By task, those that have a record.
    pub output: BTreeMap<String, Vec<Piece>>,
}

/// Everything the audit looks at.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub jobs: Vec<Told>,
    /// Jobs that wharf lists.
    pub listed: usize,
    /// By task.
    pub records: BTreeMap<String, Record>,
    /// Tasks whose shim was killed.
    pub shot: BTreeSet<String>,
    /// Of all histories; what two of them have is here once.
    pub events: Vec<Event>,
    /// Processes, containers and control groups that are still there.
    pub left_behind: Vec<String>,
    /// Answers that no fault explains.
    pub odd: Vec<String>,
}

/// What is wrong, a sentence each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Tasks that should have run, or run on, and ends that were not as they had to be.
    pub lost: Vec<String>,
    pub doubled: Vec<String>,
    pub held_twice: Vec<String>,
    pub exits_missing: Vec<String>,
    pub exits_repeated: Vec<String>,
    pub bytes_wrong: Vec<String>,
    pub left_behind: Vec<String>,
    pub odd: Vec<String>,
}

impl Findings {
    /// By the names of the table.
    pub fn by_name(&self) -> [(&'static str, &[String]); 8] {
        [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("GPUs or ports held twice", &self.held_twice),
            ("exits missing", &self.exits_missing),
            ("exits repeated", &self.exits_repeated),
            ("outputs with wrong bytes", &self.bytes_wrong),
            ("left behind", &self.left_behind),
            ("unexplained answers", &self.odd),
        ]
    }

    pub fn is_clean(&self) -> bool {
        self.by_name().iter().all(|(_, found)| found.is_empty())
    }
}

/// Looks at everything.
pub fn audit(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    findings.left_behind.clone_from(&evidence.left_behind);
    findings.odd.clone_from(&evidence.odd);
    if evidence.listed != evidence.jobs.len() {
        findings.doubled.push(format!("{} jobs are listed, {} were submitted", evidence.listed, evidence.jobs.len()));
    }
    let mut known = BTreeSet::new();
    for job in &evidence.jobs {
        check_job(evidence, job, &mut findings);
        known.extend(job.runs.iter().flat_map(tasks).filter_map(|task| task["id"].as_str().map(str::to_owned)));
    }
    for (task, record) in &evidence.records {
        if !known.contains(task) {
            findings.doubled.push(format!("{task} ran and belongs to no run"));
        }
        if record.begins.len() != 1 {
            findings.doubled.push(format!("{task} began {} times", record.begins.len()));
        }
    }
    check_held(evidence, &mut findings);
    check_history(evidence, &known, &mut findings);
    findings
}

fn tasks(run: &Value) -> impl Iterator<Item = &Value> {
    run["tasks"].as_array().into_iter().flatten()
}

fn check_job(evidence: &Evidence, job: &Told, findings: &mut Findings) {
    let name = format!("job {} ({})", job.id, job.plan.name);
    let Some(newest) = job.runs.first() else { return findings.lost.push(format!("{name} is not known")) };
    if newest["name"] != job.plan.name {
        return findings.lost.push(format!("{name} is not known; its id belongs to {}", newest["name"]));
    }
    let right = match job.plan.end {
        End::Code(0) => "SUCCEEDED",
        End::Code(_) => "FAILED",
        End::Stopped => "STOPPED",
    };
    if newest["state"] != right {
        findings.lost.push(format!("{name} is {} and had to be {right}: {}", newest["state"], newest["reason"]));
    }
    for (i, run) in job.runs.iter().enumerate() {
        check_run(evidence, job, run, i == 0, findings);
    }
    // One copy after the other.
    for index in 0..job.plan.tasks {
        let of_index = |run: &Value| {
            let id = tasks(run).find(|task| task["index"] == index)?["id"].as_str()?.to_owned();
            evidence.records.get(&id).map(|record| (id, record))
        };
        let copies: Vec<(String, &Record)> = job.runs.iter().rev().filter_map(of_index).collect();
        for pair in copies.windows(2) {
            if pair[0].1.last > pair[1].1.begins.first().map_or(0.0, |begin| begin.at) {
                findings.doubled.push(format!("{} ran beside {}", pair[1].0, pair[0].0));
            }
        }
    }
}

/// An earlier run has ended because a shim was killed, and for no other reason.
fn check_run(evidence: &Evidence, job: &Told, run: &Value, newest: bool, findings: &mut Findings) {
    let ids: Vec<&str> = tasks(run).filter_map(|task| task["id"].as_str()).collect();
    let shot = ids.iter().any(|id| evidence.shot.contains(*id));
    if ids.len() as u64 != job.plan.tasks {
        findings.lost.push(format!("job {} has {} tasks of {}: {run}", job.id, ids.len(), job.plan.tasks));
    }
    // One that no disk had room for at its launch has not run yet: another attempt loses nothing.
    let ran = ids.iter().any(|id| evidence.records.contains_key(*id));
    if !newest && !shot && ran {
        findings.lost.push(format!("job {} was run again though nothing of {ids:?} had to die: {run}", job.id));
    }
    for task in tasks(run) {
        let id = task["id"].as_str().unwrap_or_default();
        let (exit, record) = (&task["exit"], evidence.records.get(id));
        // A job that was stopped in its queue never had any.
        let placed = !task["node"].is_null();
        if exit.is_null() && (placed || record.is_some()) {
            findings.exits_missing.push(format!("{id}: {task}"));
        }
        let must_run = newest && job.plan.end != End::Stopped;
        if must_run && record.is_none() {
            findings.lost.push(format!("{id} never ran: {task}"));
        }
        let Some(record) = record else { continue };
        let killed = evidence.shot.contains(id) && exit["class"] == "platform";
        if killed {
            // Of several tasks one may be lost without a new run: that is for the job's completion to say.
        } else if must_run && let End::Code(code) = job.plan.end {
            if exit["code"] != code || record.end.is_none() {
                findings.lost.push(format!("{id} had to end with {code} (its record: {:?}): {task}", record.end));
            }
        } else if !shot && record.end.is_none() {
            // Even stopped ones come to their end: they are given the time.
            findings.lost.push(format!("{id} did not come to its end: {task}"));
        }
        let wrote = match record.end {
            _ if evidence.shot.contains(id) => Wrote::AtMost(record.ticked),
            Some(lines) => Wrote::Exactly(lines),
            None => Wrote::AtLeast(record.ticked),
        };
        let pieces = job.output.get(id).map_or(&[][..], Vec::as_slice);
        if let Err(error) = output::check(pieces, wrote) {
            findings.bytes_wrong.push(format!("{id}: {error}"));
        }
    }
}

/// By the tasks' own words: from the beginning to the last sign of life.
fn check_held(evidence: &Evidence, findings: &mut Findings) {
    let mut spans: BTreeMap<&str, Vec<(f64, f64, &str)>> = BTreeMap::new();
    for (task, record) in &evidence.records {
        for begin in &record.begins {
            for what in begin.gpus.iter().chain(&begin.ports) {
                spans.entry(what).or_default().push((begin.at, record.last, task));
            }
        }
    }
    for (what, mut spans) in spans {
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        for pair in spans.windows(2) {
            let [(_, until, first), (from, _, second)] = pair else { continue };
            if until > from {
                findings.held_twice.push(format!("{what}: by {first} until {until}, by {second} from {from}"));
            }
        }
    }
}

fn check_history(evidence: &Evidence, known: &BTreeSet<String>, findings: &mut Findings) {
    let mut told: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for event in evidence.events.iter().filter(|event| ["task.ended", "task.lost"].contains(&event.kind.as_str())) {
        let sentence = format!("{}: {}", event.time.to_rfc3339(), event.message);
        told.entry(event.task.as_deref().unwrap_or_default()).or_default().push(sentence);
    }
    for task in known.iter().filter(|task| evidence.records.contains_key(*task)) {
        match told.get(task.as_str()).map_or(&[][..], Vec::as_slice) {
            [] => findings.exits_missing.push(format!("{task}: history does not have its end")),
            [_] => {}
            more => {
                findings.exits_repeated.push(format!("{task}: history has its end {} times: {more:?}", more.len()))
            }
        }
    }
}
