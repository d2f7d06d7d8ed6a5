//! GPUs that say nothing wrong of themselves: memory that nobody owns, and a driver that does not answer.

use super::Bench;
use super::bench::{healthy, held, patch};
use crate::harness::until;
use serde_json::{Value, json};

/// `GPU-...` of the mock's devices.
fn uuid(bench: &Bench, number: usize) -> Value {
    bench.mock.state["devices"][number]["uuid"].clone()
}

#[test]
fn memory_that_nobody_owns_keeps_its_gpu_from_others_until_it_is_free() {
    let mut bench = Bench::new(healthy(3), "");
    let [(job, used)] = bench.hold(1).try_into().expect("it is one");
    let idle: Vec<Value> = (0..3).map(|number| uuid(&bench, number)).filter(|uuid| *uuid != used).collect();
    // What a driver did not free, beside what a task has of which the driver names no process.
    let full = r#"{ "memory_used_mb": 30000, "processes": [] }"#;
    bench.mock.change(|state| [&used, &idle[0]].into_iter().for_each(|gpu| patch(state, gpu, full)));
    let fault = until("memory without an owner is told", || bench.fault(&idle[0], "memory_held"));
    assert_eq!((&fault["verdict"], &fault["action"]), (&json!("gpu"), &json!("reset_gpu")), "{fault}");
    assert_eq!((&fault["task"], &fault["job"]), (&Value::Null, &Value::Null), "{fault}");
    assert!(fault["evidence"].to_string().contains("30000 MiB used with no process"), "{fault}");
    let states = [(used.clone(), "HELD"), (idle[0].clone(), "FAULTY"), (idle[1].clone(), "FREE")];
    bench.until_states("the one alone is out of use", &states);
    let next = held(&bench.cluster, "next");
    assert_eq!(
        bench.cluster.wait_running(&next)["tasks"][0]["gpus"][0],
        idle[1],
        "nobody is sent where no memory is"
    );

    bench.mock.change(|state| patch(state, &idle[0], r#"{ "memory_used_mb": 0 }"#));
    until("it is over once the memory is free", || {
        bench.fault(&idle[0], "memory_held").filter(|fault| fault["state"] == "CLEARED")
    });
    bench.until_states("it can be used again", &[(idle[0].clone(), "FREE")]);
    assert_eq!(bench.faults().len(), 1, "who has memory and a task is well: {:?}", bench.faults());
    bench.assert_untouched(&job, "its GPU is full, and its own");
}

#[test]
fn a_gpu_for_which_the_driver_hangs_is_named_with_its_job_and_the_others_are_not() {
    let mut bench = Bench::new(healthy(3), "");
    let jobs = bench.hold(2);
    let [(hit, hung), (other, beside)] = <[_; 2]>::try_from(jobs).expect("they are two");
    until("a round has looked", || {
        bench.mock.change(|state| patch(state, &beside, r#"{ "ecc_errors": 1 }"#));
        let fault = bench.fault(&beside, "ecc");
        bench.mock.change(|state| patch(state, &beside, r#"{ "ecc_errors": 0 }"#));
        fault
    });
    bench.mock.change(|state| patch(state, &hung, r#"{ "hangs": ["*"] }"#));
    let fault = until("its deadline has passed", || {
        bench.fault(&hung, "gpu_worker").filter(|fault| fault["action"] == "reboot")
    });
    assert_eq!((&fault["verdict"], fault["job"].to_string()), (&json!("gpu"), hit.clone()), "{fault}");
    bench.until_states("the one alone is out of use", &[(hung.clone(), "FAULTY"), (beside.clone(), "HELD")]);
    // The program may hang as well, or not: that is for whoever looks.
    bench.assert_untouched(&hit, "the driver hangs, and perhaps nothing else");
    bench.assert_untouched(&other, "its GPU answers");

    bench.mock.mend();
    // It has to answer for a minute; an operator need not wait, and it does not come back.
    until("it is over, and stays so", || {
        bench.cluster.cli(&["fault", "clear", &fault["id"].to_string()]);
        let active = bench.cluster.json(&["faults"]);
        active.as_array()?.iter().all(|fault| fault["kind"] != "gpu_worker").then_some(())
    });
    bench.until_states("it is its task's as before", &[(hung.clone(), "HELD"), (beside.clone(), "HELD")]);
    bench.mock.change(|state| patch(state, &hung, r#"{ "remapped_rows": { "pending": true } }"#));
    until("it is looked at again", || bench.fault(&hung, "row_remap"));
    let again = |fault: &Value| fault["kind"] == "gpu_worker" && fault["state"] == "ACTIVE";
    assert!(!bench.faults().iter().any(again), "{:?}", bench.faults());
    bench.assert_untouched(&hit, "it was never hit");
    bench.assert_untouched(&other, "to the end");
}

#[test]
fn a_slowdown_that_an_operator_has_ended_does_not_come_back_by_what_was() {
    let mut bench = Bench::new(healthy(2), "");
    let hot = uuid(&bench, 0);
    bench.mock.change(|state| patch(state, &hot, r#"{ "clock_events": 72 }"#));
    let fault = until("most of ten looks were hot", || bench.fault(&hot, "thermal"));
    bench.until_states("it is out of use", &[(hot.clone(), "FAULTY")]);
    bench.mock.change(|state| patch(state, &hot, r#"{ "clock_events": 0 }"#));
    assert_eq!(bench.cluster.json(&["fault", "clear", &fault["id"].to_string()])["state"], "CLEARED");
    bench.until_states("it holds at once", &[(hot.clone(), "FREE")]);
    // Some looks later.
    for other in [r#"{ "remapped_rows": { "pending": true } }"#, r#"{ "retired_pages_pending": true }"#] {
        let before = bench.cluster.json(&["faults"]).as_array().map(Vec::len);
        let beside = uuid(&bench, 1);
        bench.mock.change(|state| patch(state, &beside, other));
        until("it was looked at again", || {
            (bench.cluster.json(&["faults"]).as_array().map(Vec::len) > before).then_some(())
        });
    }
    let heat: Vec<Value> = bench.faults().into_iter().filter(|fault| fault["kind"] == "thermal").collect();
    assert!(heat.len() == 1 && heat[0]["state"] == "CLEARED", "{heat:?}");
}
