//! The causes of Llama 3's interruptions, their signals, and which of them become faults of the right class.

use super::site::{Site, filled};
use crate::harness::wait::pause;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// "The Llama 3 Herd of Models", table 5: 419 unexpected interruptions in 54 days; what signals of them are is ours.
const CAUSES: &str = include_str!("../../data/faults/causes.json");

/// For what an agent asks the driver's library for, four times a minute at most.
const ASKED: u64 = 45;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signal {
    name: String,
    /// Words of the kernel's log.
    lines: Option<Vec<String>>,
    /// Fields of a device of the mock of NVML.
    nvml: Option<Value>,
    /// Files of a port of InfiniBand.
    port: Option<Port>,
    /// Why it cannot be seen, or not be tried.
    unseen: Option<String>,
    /// Verdicts that are right.
    #[serde(default)]
    expect: Vec<String>,
    /// It is of no GPU.
    #[serde(default)]
    host: bool,
    #[serde(default)]
    patience_s: Option<u64>,
}

/// What becomes of the first port of an adapter that worked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    device: String,
    /// None: the adapter is gone.
    files: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    cause: String,
    interruptions: u32,
    signals: Vec<Signal>,
}

/// What became of a cause's signals.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) cause: String,
    pub(super) interruptions: u32,
    pub(super) seen: usize,
    pub(super) tried: usize,
    /// Name, and why.
    pub(super) missed: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) struct Coverage {
    pub(super) causes: Vec<Found>,
}

impl Coverage {
    pub(super) fn interruptions(&self) -> u32 {
        self.causes.iter().map(|found| found.interruptions).sum()
    }

    /// A cause counts by the part of its signals that was seen.
    pub(super) fn seen(&self) -> f64 {
        let part = |found: &Found| found.seen as f64 / found.tried.max(1) as f64;
        self.causes.iter().map(|found| f64::from(found.interruptions) * part(found)).sum()
    }

    pub(super) fn part(&self) -> f64 {
        self.seen() / f64::from(self.interruptions())
    }

    /// Signals of the kernel's log that nothing came of.
    pub(super) fn missed_lines(&self) -> Vec<String> {
        let missed = self.causes.iter().flat_map(|found| &found.missed).filter(|(_, why)| why == NOT_TOLD);
        missed.map(|(name, _)| name.clone()).collect()
    }
}

const NOT_TOLD: &str = "its lines led to no fault of the right class";
const NOT_ASKED: &str = "no fault of the right class within the time";

/// At most `signals` of each cause.
pub(super) fn score(signals: usize, with_driver: bool) -> Coverage {
    let causes: Vec<Cause> = serde_json::from_str(CAUSES).expect("it is ours");
    let mut site = if with_driver { Site::with_driver() } else { Site::with_log_file() };
    let mut found: Vec<Found> = Vec::new();
    let mut asked = Vec::new();
    let mut turn = 0;
    for cause in &causes {
        let signals: Vec<&Signal> = cause.signals.iter().take(signals).collect();
        let mut missed = Vec::new();
        for signal in &signals {
            let is_asked = signal.nvml.is_some() || signal.port.is_some();
            let why = match &signal.lines {
                Some(lines) => {
                    turn += 1;
                    (!is_told(&site, signal, lines, turn)).then(|| NOT_TOLD.to_owned())
                }
                None if is_asked && site.mock.is_some() => {
                    asked.push((found.len(), (*signal).clone()));
                    None
                }
                None if is_asked => Some("the mock of the driver's library is not there".to_owned()),
                None => Some(signal.unseen.clone().unwrap_or_default()),
            };
            missed.extend(why.map(|why| (signal.name.clone(), why)));
        }
        let (cause, interruptions) = (cause.cause.clone(), cause.interruptions);
        found.push(Found { cause, interruptions, seen: 0, tried: signals.len(), missed });
    }
    for (of, name) in unanswered(&mut site, asked) {
        found[of].missed.push((name, NOT_ASKED.to_owned()));
    }
    found.iter_mut().for_each(|found| found.seen = found.tried - found.missed.len());
    Coverage { causes: found }
}

/// Says it of one GPU after the other, and makes everything well again.
fn is_told(site: &Site, signal: &Signal, lines: &[String], turn: usize) -> bool {
    let gpus = site.gpus();
    let gpu = &gpus[turn % gpus.len()];
    let lines: Vec<String> = lines.iter().map(|line| filled(line, gpu, turn)).collect();
    site.log.say(&lines);
    let end = Instant::now() + Duration::from_secs(15);
    let told = loop {
        let faults = site.cluster.json(&["faults"]);
        let told = faults.as_array().expect("a list").iter().any(|fault| is_right(signal, fault, &gpu["uuid"]));
        if told || Instant::now() >= end {
            break told;
        }
        pause(Duration::from_millis(50));
    };
    site.clear();
    told
}

fn is_right(signal: &Signal, fault: &Value, gpu: &Value) -> bool {
    let verdict = fault["verdict"].as_str().is_some_and(|verdict| signal.expect.iter().any(|right| right == verdict));
    let port = signal.port.as_ref().map(|port| format!("{}:1", port.device));
    let is_its = port.is_none_or(|port| fault["device"] == port);
    verdict && is_its && if signal.host { fault["gpu"].is_null() } else { fault["gpu"] == *gpu }
}

/// Makes devices and ports say what is wrong with them, each another thing and all at once; those that led to nothing.
fn unanswered(site: &mut Site, asked: Vec<(usize, Signal)>) -> Vec<(usize, String)> {
    let mut gpus = site.gpus().into_iter();
    // What grows or worked is compared with what it was: the agent has to have asked before.
    if !asked.is_empty() {
        pause(Duration::from_secs(20));
    }
    let mut waiting: Vec<(usize, Signal, Value)> = Vec::new();
    for (of, signal) in asked {
        let mock = site.mock.as_mut().expect("it is there");
        let mut gpu = Value::Null;
        if let Some(fields) = &signal.nvml {
            gpu = gpus.next().expect("there are as many GPUs as signals")["uuid"].clone();
            mock.change(gpu.as_str().expect("text"), fields);
        }
        if let Some(Port { device, files }) = &signal.port {
            mock.change_port(device, files.as_ref());
        }
        waiting.push((of, signal, gpu));
    }
    let started = Instant::now();
    loop {
        let faults = site.cluster.json(&["faults"]);
        let faults = faults.as_array().expect("a list");
        waiting.retain(|(_, signal, gpu)| !faults.iter().any(|fault| is_right(signal, fault, gpu)));
        let patience = waiting.iter().map(|(_, signal, _)| signal.patience_s.unwrap_or(ASKED)).max().unwrap_or(0);
        if started.elapsed() >= Duration::from_secs(patience) {
            return waiting.into_iter().map(|(of, signal, _)| (of, signal.name)).collect();
        }
        pause(Duration::from_millis(500));
    }
}
