//! Noise, and real faults among it: what follows from noise on GPUs and jobs, which is to be nothing.

use super::site::{Site, filled, place};
use crate::harness::until;
use serde::Deserialize;
use serde_json::Value;

const BENIGN: &str = include_str!("../../data/faults/benign.json");

#[derive(Debug, Deserialize)]
struct Noise {
    name: String,
    repeat: usize,
    lines: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Precision {
    pub(super) lines: usize,
    /// Real faults that took their GPU out of use, of how many.
    pub(super) real: (usize, usize),
    /// What was acted on and should not have been.
    pub(super) wrong: Vec<String>,
}

impl Precision {
    pub(super) fn is_perfect(&self) -> bool {
        self.wrong.is_empty() && self.real.0 == self.real.1 && self.lines > 0
    }
}

/// `part`: one of so many lines of each kind.
pub(super) fn score(site: &Site, part: usize) -> Precision {
    let noise: Vec<Noise> = serde_json::from_str(BENIGN).expect("it is ours");
    let before = site.gpus();
    // Real ones on the last two GPUs, which nobody has: the first ones are given away first.
    let (healthy, sick) = before.split_at(before.len() - 2);
    let jobs = [site.hold("quiet", 1), site.hold("loud", 2)];
    jobs.iter().for_each(|id| drop(site.cluster.wait_running(id)));
    let mut precision = Precision { real: (0, sick.len()), ..Precision::default() };
    let real = [
        format!("NVRM: Xid (PCI:{}): 79, pid=77, name=python, GPU has fallen off the bus.", place(&sick[0])),
        format!("NVRM: Xid (PCI:{}): 95, pid=77, Uncontained: FBHUB. RST: Yes, D-RST: No", place(&sick[1])),
    ];
    for (at, noise) in noise.iter().enumerate() {
        let count = noise.repeat.div_ceil(part);
        for number in 0..count {
            let gpu = &healthy[number % healthy.len()];
            let lines: Vec<String> = noise.lines.iter().map(|line| filled(line, gpu, number)).collect();
            precision.lines += lines.len();
            site.log.say(&lines);
            if number == count / 2 && at < real.len() {
                site.log.say(&real[at..=at]);
            }
        }
        // What was said is heard: a line behind it has been told of.
        let mark = format!("nvidia-nvswitch{at}: SXid (PCI:0000:f{at}:00.0): 11001, Non-fatal, Link {at:02} mark");
        site.log.say(&[mark]);
        heard(site, &format!("f{at}:00"), &noise.name);
    }
    judge(site, &before, sick, &jobs, &mut precision);
    ["quiet", "loud"].iter().for_each(|name| site.let_go(name));
    jobs.iter().for_each(|id| drop(site.cluster.wait_end(id)));
    precision
}

fn heard(site: &Site, mark: &str, of: &str) {
    until(&format!("everything of '{of}' is heard"), || {
        let faults = site.cluster.json(&["faults"]);
        let is_mark =
            |fault: &Value| fault["kind"] == "sxid" && fault["pci"].as_str().is_some_and(|pci| pci.contains(mark));
        faults.as_array()?.iter().any(is_mark).then_some(())
    });
}

fn judge(site: &Site, before: &[Value], sick: &[Value], jobs: &[String], precision: &mut Precision) {
    for (gpu, was) in site.gpus().iter().zip(before) {
        let is_sick = sick.iter().any(|sick| sick["uuid"] == gpu["uuid"]);
        let is_out = gpu["state"] == "FAULTY";
        precision.real.0 += usize::from(is_sick && is_out);
        if !is_sick && (is_out || gpu["state"] == "WITHHELD" || gpu["state"] == "LOST") {
            precision.wrong.push(format!("GPU {} is {}: {}", was["index"], gpu["state"], gpu["reason"]));
        }
    }
    for id in jobs {
        let shown = site.cluster.show(id);
        if shown["state"] != "RUNNING" || shown["runs"].as_array().map(Vec::len) != Some(1) {
            precision.wrong.push(format!("job {id}: {shown}"));
        }
    }
    let node = &site.cluster.json(&["nodes"])[0];
    if node["state"] != "READY" {
        precision.wrong.push(format!("the node is {}: {}", node["state"], node["reason"]));
    }
}
