//! `wharf sim`: a cluster in one process, seen from outside.

use crate::harness::cluster::wharf;
use crate::harness::{Output, Running, until};
use nix::sys::signal::Signal;

const SMALL: [&str; 9] = ["sim", "--nodes", "4", "--gpus", "8", "--trace", "synthetic", "--jobs", "200"];

fn sim(arguments: &[&str]) -> Output {
    Running::start(wharf(arguments)).finish()
}

fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [arguments, more].concat()
}

#[test]
fn one_seed_gives_one_outcome_and_another_gives_another() {
    let outcome = |seed| {
        let more = ["--seed", seed, "--faults", "0.05", "--checks", "--json"];
        sim(&with(&SMALL, &more)).expect(0).json()["simulation"].to_string()
    };
    let first = outcome("7");
    assert_eq!(first, outcome("7"));
    assert_ne!(first, outcome("8"));
}

#[test]
fn policies_are_compared_in_one_run() {
    let answer = sim(&with(&SMALL, &["--compare", "--load", "1.3", "--json"])).expect(0).json();
    let (simulation, speed) = (&answer["simulation"], &answer["speed"]);
    for policy in ["wharf", "fifo"] {
        let outcome = &simulation[policy];
        assert_eq!((&outcome["complete"], &outcome["counts"]["jobs"]), (&true.into(), &200.into()), "{answer:#}");
        assert!(outcome["makespan_s"].as_f64() > Some(0.0) && speed[policy]["wall_s"].as_f64() > Some(0.0));
    }
    let ratio = simulation["fifo_over_wharf"]["wait_mean"].as_f64().expect("somebody waited");
    assert!(ratio > 1.0, "letting small jobs pass saves nothing: {answer:#}");
    let text = sim(&with(&SMALL, &["--compare"])).expect(0).text();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    for wanted in ["32 GPUs", "FIFO / WHARF", "makespan", "WAIT MEAN", "P99", "placements/s"] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
}

#[test]
fn traces_are_read_and_their_mistakes_named() {
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("trace.csv");
    let file = path.to_str().expect("it is UTF-8");
    let trace = |lines: &str| {
        let text = format!("submit_s,duration_s,tasks,gpus,cpus,memory_mb,priority,gpu_type,user\n{lines}");
        std::fs::write(&path, text).expect("it is ours");
        sim(&["sim", "--nodes", "1,1", "--gpus", "8xA100,4xT4", "--trace", file, "--json"])
    };
    let answer = trace("0,100,1,8,8,1000,,A100,alice\n10,50,1,4,4,1000,,,bob\n11,5,1,4,4,1000,,a100,eve\n").expect(0);
    let waits = answer.json()["simulation"]["wharf"]["waits"].clone();
    // Bob takes the other node; Eve waits until Alice's is released.
    assert_eq!((&waits[0]["jobs"], &waits[0]["p50_s"]), (&3.into(), &0.0.into()));
    assert_eq!(waits[0]["max_s"].as_f64(), Some(100.0 + 5.0 + 1.0 - 11.0));
    let error = trace("0,100,1,8,8,1000,,,x\n1,1,1,many,1,1,,,x\n").expect(2).json()["error"].clone();
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    assert_eq!((text("field"), text("found")), ("line 3.gpus".into(), "'many'".into()), "{error}");
    assert!(text("message").contains("line 3, column gpus") && !text("allowed").is_empty(), "{error}");
    sim(&["sim", "--trace", "/no/such/trace.csv"]).expect(2);
    sim(&["sim", "--nodes", "0"]).expect(2);
}

#[test]
fn an_interrupted_simulation_tells_what_it_knows() {
    let endless = ["sim", "--nodes", "2", "--jobs", "100000000", "--load", "0.5", "--json"];
    let running = Running::start(wharf(&endless));
    // Its handlers are there once the kernel says so.
    let status = format!("/proc/{}/status", running.id());
    until("it handles Ctrl-C", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        let mask = u64::from_str_radix(caught.trim(), 16).unwrap_or_default();
        (mask & (1 << (Signal::SIGINT as u32 - 1)) != 0).then_some(())
    });
    running.signal(Signal::SIGINT);
    let answer = running.finish().expect(130).json();
    assert_eq!(answer["simulation"]["wharf"]["complete"], false);
}
