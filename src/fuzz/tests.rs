//! The list, and the attack.

use super::attack::attack;
use super::input::{grown, inputs};
use super::{Target, targets};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Of each parser in an ordinary run.
const CASES: u32 = 48;
/// Inputs that take longer are shown.
const SLOW: Duration = Duration::from_millis(250);

fn every_target() -> Vec<Target> {
    let lists = [
        targets::TARGETS,
        crate::rpc::tests::fuzz::TARGETS,
        crate::controller::tests::fuzz::TARGETS,
        crate::agent::tests::fuzz::TARGETS,
    ];
    lists.concat()
}

fn cases() -> u32 {
    let said = std::env::var("WHARF_FUZZ_CASES").ok();
    said.map_or(CASES, |said| said.parse().expect("WHARF_FUZZ_CASES is a number of inputs"))
}

/// What is wrong with a parser, if anything is found.
fn wrong_with(target: &Target, cases: u32) -> Option<String> {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has no right inputs", target.name);
    for seed in &seeds {
        (target.parse)(seed);
    }
    for input in grown(&seeds, target.most_bytes) {
        let began = std::time::Instant::now();
        if catch_unwind(AssertUnwindSafe(|| (target.parse)(&input.0))).is_err() {
            return Some(format!("it panics at {input:?}"));
        }
        // For whoever looks for what is slow: nothing that is asserted is timed.
        if began.elapsed() > SLOW {
            println!("{:>8} ms  {}, {}", began.elapsed().as_millis(), target.name, input.beginning());
        }
    }
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let ran = runner.run(&inputs(seeds, target.most_bytes), |input| {
        (target.parse)(&input.0);
        Ok(())
    });
    ran.err().map(|error| error.to_string())
}

#[test]
fn every_parser_of_outside_input_stands_what_it_is_fed() {
    let (targets, cases) = (every_target(), cases());
    let only = std::env::var("WHARF_FUZZ_ONLY").unwrap_or_default();
    let targets: Vec<&Target> = targets.iter().filter(|target| target.name.contains(&only)).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = std::time::Instant::now();
            // The row is that of a failure if this is left by one.
            let tried = if target.name.starts_with("protobuf ") {
                "protobuf: messages and their fields"
            } else {
                target.name
            };
            let found = catch_unwind(AssertUnwindSafe(|| {
                let _row = attack("parsers", tried, u64::from(cases), "no panic, no hang, mistakes named");
                if let Some(found) = wrong_with(target, cases) {
                    panic!("{found}");
                }
            }));
            println!("{:>8} ms  {}", began.elapsed().as_millis(), target.name);
            if let Err(panic) = found {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                wrong.lock().expect("nobody panics with it").push(format!("{}: {text}", target.name));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().expect("nobody panics with it");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_parser_that_panics_or_breaks_its_promise_is_found() {
    let seeds = || vec![b"{\"a\": 1}".to_vec()];
    let falls = |parse| Target { name: "falls", seeds, parse, most_bytes: 1000 };
    let found = wrong_with(&falls(|bytes| assert!(!bytes.contains(&0xff), "a byte that is no text")), 2000);
    assert!(found.is_some_and(|found| found.contains("\\xff")));
    let found = wrong_with(&falls(|bytes| assert!(bytes.len() < 999)), 1);
    assert!(found.is_some_and(|found| found.contains("it panics at")));
    assert_eq!(wrong_with(&falls(|_| {}), 100), None);
}
