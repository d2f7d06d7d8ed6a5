//! Whether a fault names the task that had the GPU, with several jobs on the node and idle GPUs between them.

use super::latency::Latencies;
use super::log::uptime_us;
use super::site::{GPUS, Site, place};
use crate::harness::job::with;
use crate::harness::{job, role};
use serde_json::{Value, json};
use wharf::domain::time::Timestamp;

#[derive(Debug, Default)]
pub(super) struct Attribution {
    pub(super) injected: usize,
    pub(super) wrong: Vec<String>,
}

impl Attribution {
    pub(super) fn is_perfect(&self) -> bool {
        self.wrong.is_empty() && self.injected > 0
    }

    fn check(&mut self, what: &str, told: Option<&Value>, expected: Option<&str>) {
        self.injected += 1;
        let job = expected.and_then(|task| task.split('.').next()).and_then(|job| job.parse::<u64>().ok());
        let right = told.is_some_and(|event| event["task"] == json!(expected) && event["job"] == json!(job));
        if !right {
            self.wrong.push(format!("{what}: expected {expected:?}, told {told:?}"));
        }
    }
}

/// Errors that condemn nothing, each a fault of its own: so that many can be told apart on one GPU.
fn nonfatal(gpu: &Value, number: usize) -> String {
    const CODES: [u32; 7] = [144, 145, 146, 147, 148, 149, 150];
    let (code, link) = (CODES[number % CODES.len()], number / CODES.len());
    format!(
        "NVRM: Xid (PCI:{}): {code}, NETIR_LINK_EVT Nonfatal XC0 i0 Link {link:02} (0x00000004 0x00000000 0x00000000 0x00000000)",
        place(gpu)
    )
}

/// Also how long it takes until the job is told.
pub(super) fn score(site: &Site, injections: usize, exits: usize) -> (Attribution, Latencies) {
    let (mut attribution, mut latencies) = (Attribution::default(), Latencies::default());
    let names = [("one", 1), ("other", 1), ("pair", 2)];
    let jobs = names.map(|(name, tasks)| site.hold(name, tasks));
    let mut busy: Vec<(Value, String)> = Vec::new();
    for id in &jobs {
        for task in site.cluster.wait_running(id)["tasks"].as_array().expect("a list") {
            let name = format!("{id}.{id}.0.{}", task["index"]);
            let gpu = site.gpus().into_iter().find(|gpu| gpu["uuid"] == task["gpus"][0]).expect("it is known");
            busy.push((gpu, name));
        }
    }
    let idle: Vec<Value> =
        site.gpus().into_iter().filter(|gpu| busy.iter().all(|(used, _)| used["uuid"] != gpu["uuid"])).collect();
    assert_eq!((busy.len(), idle.len()), (4, GPUS - 4));
    for number in 0..injections {
        let (gpu, task) = &busy[number % busy.len()];
        let told = site.inject(&[nonfatal(gpu, number / busy.len())]);
        told.iter().for_each(|(_, time)| latencies.add(*time));
        attribution.check("a busy GPU", told.as_ref().map(|(event, _)| event), Some(task));
        // One of ten is where nobody is.
        if number % 10 == 0 {
            let told = site.inject(&[nonfatal(&idle[number / 10 % idle.len()], number / 10 / idle.len())]);
            attribution.check("an idle GPU", told.as_ref().map(|(event, _)| event), None);
        }
    }
    for number in 0..exits {
        exited(site, number, &mut attribution);
    }
    names.iter().for_each(|(name, _)| site.let_go(name));
    jobs.iter()
        .for_each(|id| assert_eq!(site.cluster.wait_end(id)["state"], "SUCCEEDED", "nothing has hit job {id}"));
    site.cluster.wait_idle();
    (attribution, latencies)
}

/// A fault on the GPU of a task that was there up to five seconds before.
fn exited(site: &Site, number: usize, attribution: &mut Attribution) {
    let short = job(&format!("short{number}"), &[with(role("main", 1, "true"), &json!({ "gpuNumber": 1 }))]);
    let id = site.cluster.submit(&short);
    let shown = site.cluster.wait_end(&id);
    let task = &shown["tasks"][0];
    let gpu = site.gpus().into_iter().find(|gpu| gpu["uuid"] == task["gpus"][0]).expect("it is known");
    let ended = task["ended_at"].as_str().and_then(Timestamp::parse_rfc3339).expect("it has ended");
    let now = Timestamp(now_ns());
    let after_us = (number as u64 % 6) * 1_000_000;
    let ago_us = u64::try_from(now.since(ended).as_micros()).expect("a short time").saturating_sub(after_us);
    let line = nonfatal(&gpu, 7 * 12 + number);
    let told = site.inject_at(&[line], uptime_us().saturating_sub(ago_us));
    let task = format!("{id}.{id}.0.0");
    let what = format!("{} s after the task's end", after_us / 1_000_000);
    attribution.check(&what, told.as_ref().map(|(event, _)| event), Some(&task));
}

fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_nanos()).expect("it is before 2262")
}
