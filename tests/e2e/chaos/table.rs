//! What a run has found, as a table.

use super::audit::{Evidence, Findings};
use super::faults::Fault;
use super::plan::Settings;
use std::collections::BTreeMap;
use std::fmt::Write;
use wharf::domain::event::Event;

/// A time in which a task was on its way to its start or to its end.
#[derive(Debug, Clone, PartialEq)]
struct Between {
    from_ns: i128,
    to_ns: i128,
    node: Option<String>,
}

/// From history: placed until started, asked to stop until ended.
fn windows(events: &[Event]) -> Vec<Between> {
    let (mut placed, mut stopping) = (BTreeMap::new(), BTreeMap::new());
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| event.time.0);
    let mut found = Vec::new();
    for event in sorted {
        let (Some(job), at) = (event.job, i128::from(event.time.0)) else { continue };
        let since = match event.kind.as_str() {
            "run.placed" => {
                placed.insert(job, at);
                None
            }
            "job.stop_asked" => {
                stopping.insert(job, at);
                None
            }
            "task.started" => placed.get(&job),
            "task.ended" => stopping.get(&job),
            _ => None,
        };
        found.extend(since.map(|from| Between { from_ns: *from, to_ns: at, node: event.node.clone() }));
    }
    found
}

fn hits(fault: &Fault, windows: &[Between]) -> bool {
    let there = |window: &&Between| (window.from_ns..=window.to_ns).contains(&fault.at_ns);
    let same = |window: &Between| fault.node.is_none() || window.node.is_none() || fault.node == window.node;
    windows.iter().filter(there).any(same)
}

pub fn table(settings: &Settings, faults: &[Fault], evidence: &Evidence, findings: &Findings) -> String {
    let windows = windows(&evidence.events);
    let mut rows: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for fault in faults {
        let row = rows.entry(fault.kind.name()).or_default();
        row.0 += 1;
        row.1 += usize::from(hits(fault, &windows));
    }
    let all = rows.values().fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    let store = if settings.etcd { "two controllers on etcd" } else { "one controller on SQLite" };
    let mut text = format!(
        "seed {}, {} s of faults, {store}\n\n{:<40} {:>7}  {}\n",
        settings.seed,
        settings.time.as_secs(),
        "fault",
        "count",
        "in STAGING, PREPARING or STOPPING"
    );
    let mut line = |what: &str, count: usize, hit: &str| {
        writeln!(text, "{what:<40} {count:>7}  {hit}").expect("text takes text");
    };
    rows.iter().for_each(|(kind, (count, hit))| line(kind, *count, &hit.to_string()));
    line("faults in all", all.0, &format!("{} = {} %", all.1, all.1 * 100 / all.0.max(1)));
    let runs: usize = evidence.jobs.iter().map(|job| job.runs.len()).sum();
    let mut line = |what: &str, count: usize| writeln!(text, "{what:<40} {count:>7}").expect("text takes text");
    line("jobs", evidence.jobs.len());
    line("runs", runs);
    line("tasks that ran", evidence.records.len());
    findings.by_name().iter().for_each(|(name, found)| line(name, found.len()));
    text
}
