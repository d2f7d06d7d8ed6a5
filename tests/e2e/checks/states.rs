//! Many GPUs of one node, each ill with another thing.

use super::bench::{Ends, healthy, patch};
use super::gpus::ILL;
use super::{Bench, Ill};
use crate::harness::until;
use serde_json::{Value, json};

/// A GPU that is ill, the job that has it, and the fault.
struct Case {
    of: &'static Ill,
    job: String,
    gpu: Value,
    fault: Value,
}

/// As it was told last.
fn told(cases: &[Case], bench: &Bench, state: &str) -> Vec<&'static str> {
    let faults = bench.faults();
    let is_so = |case: &&Case| faults.iter().any(|fault| fault["id"] == case.fault["id"] && fault["state"] == state);
    cases.iter().filter(is_so).map(|case| case.of.name).collect()
}

#[test]
fn whatever_a_gpu_says_of_itself_is_found_judged_and_over_once_it_is_mended() {
    // Beside the ill ones: one that has been ill since before the start, one whose links were never up, and two that
    // nobody has: a job that loses its GPU runs on there.
    let mut mock = healthy(ILL.len() + 4);
    let (early, card) = (ILL.len() + 3, ILL.len() + 2);
    mock.change(|state| {
        let devices = &mut state["devices"];
        devices[early]["remapped_rows"] = json!({ "pending": true });
        devices[card]["nvlinks"] = json!([{ "to": "switch", "pci": "00000000:C0:00.0", "down": true }]);
    });
    let early = mock.state["devices"][early]["uuid"].clone();
    let mut bench = Bench::new(mock, "[checks]\npcie_generation = 'enforce'\n");
    // What grows is compared with what the first round saw.
    until("a round has looked at all of them", || bench.fault(&early, "row_remap"));
    let mut jobs = bench.hold(ILL.len() + 1);
    let (witness, _) = jobs.pop().expect("there is one more than there are cases");

    let mut cases = break_all(&mut bench, jobs);
    check_found(&bench, &mut cases, &early);
    check_jobs(&bench, &cases);
    bench.assert_untouched(&witness, "nothing is wrong with its GPU");

    mend_all(&mut bench, &cases);
    let ends_late = |case: &&Case| case.of.ends != Ends::ByItself;
    let late: Vec<&str> = cases.iter().filter(ends_late).map(|case| case.of.name).collect();
    until("what is mended is over, and nothing else", || (told(&cases, &bench, "ACTIVE") == late).then_some(()));
    replace_the_worn_out(&mut bench, &cases);
    clear_the_rest(&mut bench, &early);
    let held = |case: &&Case| case.of.ends != Ends::Replaced && !case.of.ends_its_task();
    let held: Vec<(Value, &str)> = cases.iter().filter(held).map(|case| (case.gpu.clone(), "HELD")).collect();
    bench.until_states("all of them are as they were", &held);
    bench.assert_untouched(&witness, "to the end");
    check_jobs(&bench, &cases);
}

/// All at once.
fn break_all(bench: &mut Bench, jobs: Vec<(String, Value)>) -> Vec<Case> {
    let case = |(of, (job, gpu))| Case { of, job, gpu, fault: Value::Null };
    let cases: Vec<Case> = ILL.iter().zip(jobs).map(case).collect();
    bench.mock.change(|state| cases.iter().for_each(|case| patch(state, &case.gpu, case.of.ill)));
    cases
}

/// Each has its fault, and there are no others.
fn check_found(bench: &Bench, cases: &mut [Case], early: &Value) {
    let mut missing = Vec::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until("every fault is told", || {
            let faults = bench.faults();
            let is_told =
                |case: &Case| faults.iter().any(|fault| fault["gpu"] == case.gpu && fault["kind"] == case.of.kind);
            missing = cases.iter().filter(|case| !is_told(case)).map(|case| case.of.name).collect();
            missing.is_empty().then_some(())
        });
    }));
    assert!(found.is_ok(), "not found: {missing:?}");
    for case in cases.iter_mut() {
        let fault = bench.fault(&case.gpu, case.of.kind).expect("it was there");
        let (of, evidence) = (case.of, fault["evidence"].to_string());
        let judged = (&fault["verdict"], &fault["action"], &fault["state"]);
        assert_eq!(judged, (&json!(of.verdict), &json!(of.action), &json!("ACTIVE")), "{}: {fault}", of.name);
        assert!(evidence.contains(of.evidence), "{}: {fault}", of.name);
        assert_eq!(fault["job"].to_string(), case.job, "{}: {fault}", of.name);
        case.fault = fault;
    }
    let mut kinds: Vec<String> = cases.iter().map(|case| format!("{} {}", case.gpu, case.of.kind)).collect();
    kinds.push(format!("{early} row_remap"));
    let faults = bench.faults();
    let others: Vec<&Value> = faults
        .iter()
        .filter(|fault| !kinds.contains(&format!("{} {}", fault["gpu"], fault["kind"].as_str().unwrap_or_default())))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    let wanted: Vec<(Value, &str)> = cases.iter().map(|case| (case.gpu.clone(), case.of.state)).collect();
    bench.until_states("every GPU is in use no more, or still", &wanted);
}

/// Who has lost a GPU runs on another one; everybody else goes on.
fn check_jobs(bench: &Bench, cases: &[Case]) {
    for case in cases.iter().filter(|case| case.of.ends != Ends::Replaced) {
        if !case.of.ends_its_task() {
            bench.assert_untouched(&case.job, case.of.name);
            continue;
        }
        let again = until("the job runs again", || {
            let shown = bench.cluster.show(&case.job);
            (shown["runs"].as_array()?.len() == 2 && shown["tasks"][0]["state"] == "RUNNING").then_some(shown)
        });
        assert_ne!(again["tasks"][0]["gpus"][0], case.gpu, "{again}");
        let first = bench.cluster.json(&["job", "show", &case.job, "--run", "-1"]);
        let exit = &first["tasks"][0]["exit"];
        assert_eq!((&exit["class"], &exit["faults"]), (&json!("hardware"), &json!([case.fault["id"]])), "{first}");
    }
}

fn mend_all(bench: &mut Bench, cases: &[Case]) {
    bench.mock.change(|state| cases.iter().for_each(|case| patch(state, &case.gpu, case.of.well)));
}

/// What is looked at for longer than a moment may be found once more by looks at what was; then it stays away.
fn clear_the_rest(bench: &mut Bench, early: &Value) {
    bench.mock.change(|state| patch(state, early, r#"{ "remapped_rows": { "pending": false } }"#));
    until("no fault is left", || {
        let faults = bench.cluster.json(&["faults"]);
        let faults = faults.as_array()?;
        let late = faults.iter().filter(|fault| fault["gpu"] != *early);
        late.for_each(|fault| drop(bench.cluster.cli(&["fault", "clear", &fault["id"].to_string()])));
        faults.is_empty().then_some(())
    });
    bench.mock.change(|state| patch(state, early, r#"{ "remapped_rows": { "pending": true } }"#));
    let faults = until("another round has looked", || {
        let faults = bench.cluster.json(&["faults"]);
        (!faults.as_array()?.is_empty()).then_some(faults)
    });
    assert!(faults[1].is_null() && faults[0]["gpu"] == *early, "something has come back: {faults}");
}

/// As it is done: their jobs end, and the machine is off meanwhile.
fn replace_the_worn_out(bench: &mut Bench, cases: &[Case]) {
    let worn: Vec<&Case> = cases.iter().filter(|case| case.of.ends == Ends::Replaced).collect();
    for case in &worn {
        bench.cluster.cli(&["stop", "--grace", "0", &case.job]).expect(0);
    }
    worn.iter().for_each(|case| drop(bench.cluster.wait_end(&case.job)));
    bench.cluster.stop_agent(0);
    let new = |gpu: &Value| json!(gpu.as_str().expect("text").replace("-8000-", "-9000-"));
    let well =
        r#"{ "sram_ecc": { "threshold_exceeded": false }, "remapped_rows": null, "fields": { "29": 0, "30": 0 } }"#;
    bench.mock.change(|state| {
        for case in &worn {
            patch(state, &case.gpu, well);
            patch(state, &case.gpu, &json!({ "uuid": new(&case.gpu) }).to_string());
        }
    });
    bench.cluster.start_agent(0);
    let names: Vec<&str> = worn.iter().map(|case| case.of.name).collect();
    until("the worn-out ones are replaced", || {
        let over = told(cases, bench, "CLEARED");
        names.iter().all(|name| over.contains(name)).then_some(())
    });
    let wanted: Vec<(Value, &str)> = worn.iter().map(|case| (new(&case.gpu), "FREE")).collect();
    bench.until_states("the new ones can be used", &wanted);
}
