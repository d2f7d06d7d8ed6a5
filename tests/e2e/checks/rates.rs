//! Counters that run: too fast over a whole minute is a fault, and slowly is how hardware works.

use super::Bench;
use super::bench::{healthy, patch};
use crate::harness::skip::{is_long, skip};
use crate::harness::wait::until_within;
use serde_json::{Value, json};
use std::time::Duration;

/// Two windows of a minute, on a busy machine.
const WINDOWS: Duration = Duration::from_secs(240);

/// A link's errors; the others have none.
fn link_errors(name: &str, count: u64) -> String {
    let link = |at: u32| json!({ "to": "switch", "pci": format!("00000000:C{at}:00.0") });
    let mut links = [link(0), link(1), link(2)];
    links[1]["errors"] = json!({ name: count });
    links[2]["down"] = json!(true);
    json!({ "nvlinks": links }).to_string()
}

#[test]
fn links_with_too_many_errors_a_minute_are_told_and_a_few_errors_are_borne() {
    if !is_long() {
        return skip("rates of NVLink's errors and PCIe's replays", "their windows are of a minute: ./tests/run all");
    }
    let mut bench = Bench::new(healthy(5), "[checks]\nnvlink_errors = 'enforce'\npcie_replay = 'enforce'\n");
    let jobs = bench.hold(5);
    let gpus: Vec<Value> = jobs.iter().map(|(_, gpu)| gpu.clone()).collect();
    // A generation 5 link of 16 lanes may repeat 31 packets a minute; an NVLink may have 6000 CRC errors.
    let grown = [
        link_errors("crc_flit", 60_000),
        link_errors("crc_flit", 900),
        r#"{ "pcie": { "replays": 1009 } }"#.to_owned(),
        r#"{ "pcie": { "replays": 19 } }"#.to_owned(),
    ];
    // What grows is compared with what was there before: the fault of the last GPU says that it was looked at.
    bench.mock.change(|state| patch(state, &gpus[4], r#"{ "remapped_rows": { "pending": true } }"#));
    until_within(WINDOWS, "a round has looked", || bench.fault(&gpus[4], "row_remap"));
    bench.mock.change(|state| gpus.iter().zip(&grown).for_each(|(gpu, fields)| patch(state, gpu, fields)));
    let told = |bench: &Bench, at: usize, kind: &str| {
        until_within(WINDOWS, "a rate is told", || bench.fault(&gpus[at], kind))
    };
    let (link, replays) = (told(&bench, 0, "nvlink"), told(&bench, 2, "pcie_replay"));
    for (fault, verdict, action, evidence, job) in [
        (
            &link,
            "link",
            "reset_gpu",
            "link 1 to the NVSwitch at 0000:c1:00.0, CRC errors: 0 before, 60000 now",
            &jobs[0].0,
        ),
        (&replays, "link", "inspect", "PCIe replays: 9 before, 1009 now", &jobs[2].0),
    ] {
        assert_eq!((&fault["verdict"], &fault["action"]), (&json!(verdict), &json!(action)), "{fault}");
        assert!(fault["evidence"].to_string().contains(evidence), "no '{evidence}' in {fault}");
        assert_eq!(fault["job"].to_string(), *job, "{fault}");
    }
    let states = ["FAULTY", "HELD", "FAULTY", "HELD", "FAULTY"];
    let wanted: Vec<(Value, &str)> = gpus.iter().cloned().zip(states).collect();
    bench.until_states("who has no errors to speak of is used on", &wanted);
    assert_eq!(bench.faults().len(), 3, "{:?}", bench.faults());
    jobs.iter().for_each(|(job, _)| bench.assert_untouched(job, "links that repeat are slow, and work"));

    // A reset is seen by its counters, and ends what a reset mends.
    let reset = merged_reset();
    bench.mock.change(|state| patch(state, &gpus[0], &reset));
    until_within(WINDOWS, "the reset is seen", || {
        bench.fault(&gpus[0], "nvlink").filter(|fault| fault["id"] == link["id"] && fault["state"] == "CLEARED")
    });
    // The other one is for who has looked, after a minute that was well.
    until_within(WINDOWS, "the other one is over, and stays so", || {
        let active = bench.cluster.json(&["faults"]);
        let rates = |fault: &&Value| fault["kind"] == "pcie_replay" || fault["kind"] == "nvlink";
        active.as_array()?.iter().filter(rates).map(clear_in(&bench)).count().eq(&0).then_some(())
    });
    let wanted: Vec<(Value, &str)> = gpus[..4].iter().map(|gpu| (gpu.clone(), "HELD")).collect();
    bench.until_states("all of them are as they were", &wanted);
    jobs.iter().for_each(|(job, _)| bench.assert_untouched(job, "to the end"));
}

/// Counters begin anew.
fn merged_reset() -> String {
    let mut fields: Value = serde_json::from_str(&link_errors("crc_flit", 0)).expect("it is ours");
    fields["pcie"] = json!({ "replays": 0 });
    fields.to_string()
}

/// Says of one that it is over; the next look may find it once more.
fn clear_in(bench: &Bench) -> impl Fn(&Value) + '_ {
    |fault| drop(bench.cluster.cli(&["fault", "clear", &fault["id"].to_string()]))
}
