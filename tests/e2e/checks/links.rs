//! NVLinks between GPUs: a link has two ends, and who is well is not condemned for its neighbour.

use super::Bench;
use super::bench::{healthy, patch};
use crate::faults::KernelLog;
use crate::harness::job::quoted;
use crate::harness::until;
use serde_json::{Value, json};

/// Its one link leads to the GPU at this place.
fn linked(to: &Value, down: bool) -> String {
    json!({ "nvlinks": [{ "to": "gpu", "pci": to, "down": down }] }).to_string()
}

#[test]
fn a_link_that_went_with_its_neighbour_condemns_the_neighbour_alone() {
    let mut mock = healthy(5);
    let (uuids, places): (Vec<Value>, Vec<Value>) = {
        let devices = mock.state["devices"].as_array().expect("a list");
        devices.iter().map(|device| (device["uuid"].clone(), device["pci"].clone())).unzip()
    };
    // 0 and 1, 2 and 3; the last one has been ill since before, so that it is known when all were looked at.
    let pairs = [(0, 1), (1, 0), (2, 3), (3, 2)];
    let put = |state: &mut Value, pairs: &[(usize, usize)], down| {
        pairs.iter().for_each(|(of, to)| patch(state, &uuids[*of], &linked(&places[*to], down)));
    };
    mock.change(|state| {
        put(state, &pairs, false);
        patch(state, &uuids[4], r#"{ "remapped_rows": { "pending": true } }"#);
    });
    let log = KernelLog::new();
    let mut bench = Bench::new(mock, &format!("kernel_log = {}\n", quoted(log.path())));
    until("a round has looked at all of them", || bench.fault(&uuids[4], "row_remap"));
    // The driver's own message names the number of a link and no more.
    let said = "74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 1(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)";
    let place =
        places[4].as_str().and_then(|place| place.strip_prefix("0000")).expect("as NVML has it").to_lowercase();
    let line = format!("NVRM: Xid (PCI:{place}): {said}");
    log.say(&[line]);
    let told = until("the driver's word is told", || bench.fault(&uuids[4], "xid"));
    let reason = told["reason"].as_str().unwrap_or_default();
    assert!(reason.ends_with("The link leads to the NVSwitch at 0000:c1:00.0."), "{told}");
    let jobs = bench.hold(4);
    let of =
        |gpu: &Value| jobs.iter().find(|(_, held)| held == gpu).map(|(job, _)| job.clone()).expect("all are held");
    // One GPU goes, and its link with it; the other link is down by itself.
    bench.mock.change(|state| {
        put(state, &pairs, true);
        patch(state, &uuids[1], r#"{ "errors": { "*": "GPU_IS_LOST" } }"#);
    });
    let told = |bench: &Bench, at: usize| until("the link is told", || bench.fault(&uuids[at], "nvlink"));
    let [with_its_neighbour, one, other] = [0, 2, 3].map(|at| told(&bench, at));
    let names = |fault: &Value, to: usize| {
        let evidence = fault["evidence"].to_string();
        let to = uuids[to].as_str().expect("text");
        assert!(evidence.contains(&format!("link 0 to {to} at ")), "no {to} in {fault}");
    };
    names(&with_its_neighbour, 1);
    assert!(with_its_neighbour["evidence"].to_string().contains("does not answer"), "{with_its_neighbour}");
    names(&one, 3);
    names(&other, 2);
    let action = |fault: &Value| (fault["verdict"].clone(), fault["action"].clone());
    assert_eq!(action(&with_its_neighbour), (json!("link"), json!("none")), "{with_its_neighbour}");
    [&one, &other].iter().for_each(|fault| assert_eq!(action(fault), (json!("link"), json!("reset_gpu")), "{fault}"));
    let states = [(0, "HELD"), (1, "LOST"), (2, "FAULTY"), (3, "FAULTY")];
    let states: Vec<(Value, &str)> = states.iter().map(|(at, state)| (uuids[*at].clone(), *state)).collect();
    bench.until_states("who is well is used on", &states);
    bench.assert_untouched(&of(&uuids[0]), "only its neighbour went");
    [2, 3].iter().for_each(|at| bench.assert_untouched(&of(&uuids[*at]), "a link that is down ends nobody"));
}
