//! Faults of every kind in the middle of jobs, by a seed, and an audit from outside.
//!
//! | part | what it is for |
//! |---|---|
//! | `plan` | which fault comes when, from a seed |
//! | `fleet`, `net`, `disks` | what is broken: real processes, networks, disks |
//! | `workload` | jobs whose tasks write down what happens to them |
//! | `faults` | does what the plan says |
//! | `gather` | collects what is known in the end |
//! | `records`, `output`, `audit` | judge it; the only parts that know what is right |
//! | `table` | says what was found |
//!
//! `./tests/chaos --minutes N --seed S` runs it for as long as one likes.

mod audit;
mod audit_tests;
mod disks;
mod faults;
mod fleet;
mod gather;
mod net;
mod output;
mod plan;
mod records;
mod table;
mod workload;

use crate::harness::skip;
use crate::harness::skip::is_long;
use crate::harness::wait::pause;
use faults::Happened;
use fleet::Fleet;
use plan::{Kind, Plan, Settings};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use workload::Workload;

/// True if nothing is wrong. Prints the table, and what is wrong.
fn run(settings: &Settings) -> bool {
    let fleet = Fleet::start(settings);
    let workload = Workload::new(settings, &fleet);
    let kinds = match settings.bug {
        // What brings it to light.
        Some(_) => vec![Kind::KillController, Kind::KillAll],
        None => Kind::all(settings.etcd, fleet.dockerd.is_some(), fleet.net.is_some()),
    };
    let mut plan = Plan::new(settings.seed, kinds);
    let (mut happened, enough) = (Happened::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // However this ends, feeding ends too.
        let _guard = Enough(&enough);
        scope.spawn(|| workload.feed(&fleet, &enough));
        let end = Instant::now() + settings.time;
        while Instant::now() < end {
            faults::strike(&fleet, &workload, plan.next(), &mut happened);
        }
    });
    settle(settings, &fleet, &workload);
    let evidence = gather::gather(settings, &fleet, &workload, &happened);
    let findings = audit::audit(&evidence);
    println!("{}", table::table(settings, &happened.faults, &evidence, &findings));
    for (name, found) in findings.by_name() {
        found.iter().for_each(|sentence| println!("{name}: {sentence}"));
    }
    findings.is_clean()
}

struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Nothing is broken any more: every job comes to its end, or is lost.
fn settle(settings: &Settings, fleet: &Fleet, workload: &Workload) {
    fleet.wait_ready();
    workload.endless().iter().for_each(|job| workload.stop(fleet, job));
    let deadline = Instant::now() + settings.ending();
    loop {
        let left = workload.unfinished(fleet);
        if left.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            left.iter().for_each(|job| println!("does not end: {job}"));
            return;
        }
        fleet.assert_daemons_live();
        pause(Duration::from_millis(250));
    }
}

#[test]
fn a_short_seed_loses_doubles_and_leaves_nothing() {
    let settings = Settings { seed: 1, time: Duration::from_secs(15), etcd: true, docker: false, bug: None };
    assert!(run(&settings), "see what was printed");
}

/// The controller acts before its store has acknowledged what it decided.
#[test]
fn a_skipped_acknowledgement_turns_it_red() {
    let what = "chaos with a seeded bug";
    if !is_long() {
        return skip(what, "it is of the long suites: tests/run all");
    }
    if !cfg!(debug_assertions) {
        return skip(what, "only a debug build can have it");
    }
    let time = Duration::from_secs(20);
    let settings = Settings { seed: 3, time, etcd: false, docker: false, bug: Some("unacknowledged-commit") };
    assert!(!run(&settings), "nobody noticed");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: found '{text}'; allowed: a number")))
}

/// For `tests/chaos`, and five minutes of the long suites.
#[test]
fn as_long_as_asked_for_nothing_is_lost_doubled_or_left() {
    let seconds = number("WHARF_CHAOS_SECONDS").or(is_long().then_some(300));
    let Some(seconds) = seconds else {
        skip("five minutes of chaos", "they are of the long suites: tests/run all");
        return;
    };
    let seed = number("WHARF_CHAOS_SEED").unwrap_or(2);
    // Odd seeds on SQLite, unless it is said.
    let etcd = number("WHARF_CHAOS_ETCD").map_or(seed.is_multiple_of(2), |etcd| etcd != 0);
    let settings = Settings { seed, time: Duration::from_secs(seconds), etcd, docker: true, bug: None };
    assert!(run(&settings), "see what was printed");
}
