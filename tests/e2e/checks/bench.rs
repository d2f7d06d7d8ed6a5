//! A node over the mock of the driver's library, with a job on each of its GPUs.

use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, job, role, until};
use crate::mock::{Mock, library};
use serde_json::{Value, json};

/// What can be wrong with one GPU, and what follows from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ill {
    pub(super) name: &'static str,
    /// Fields of the mock's device while it is ill, and once it is mended; null takes a field away.
    pub(super) ill: &'static str,
    pub(super) well: &'static str,
    pub(super) kind: &'static str,
    pub(super) verdict: &'static str,
    pub(super) action: &'static str,
    /// A part of what is told as evidence.
    pub(super) evidence: &'static str,
    /// The GPU's state meanwhile; a task holds it.
    pub(super) state: &'static str,
    pub(super) ends: Ends,
}

/// How a fault is over after its cause was mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// With the next look.
    ByItself,
    /// It has to stay away for many minutes: here an operator says so before.
    Late,
    /// Another GPU in its place.
    Replaced,
}

impl Ill {
    /// Of the faults of GPUs here, the only one that nobody can work on with.
    pub(super) fn ends_its_task(&self) -> bool {
        self.kind == "gpu_lost"
    }
}

/// `n0`, alone in its cluster.
pub(super) struct Bench {
    pub(super) cluster: Cluster,
    pub(super) mock: Mock,
}

/// A node over the mock that looks at its hardware once a second.
pub(crate) fn node(name: &str, mock: &Mock, more: &str) -> Node {
    let library = quoted(library());
    let more =
        format!("nvml_library = {library}\nhealth_interval_s = 1\nhost_root = {}\n{more}", quoted(mock.root()));
    let env = vec![("WHARF_MOCK_NVML".to_owned(), mock.file().display().to_string())];
    Node { more, env, ..Node::new(name, "nvml") }
}

/// So many GPUs that work and are well, with all that a GPU can say of itself.
pub(crate) fn healthy(count: usize) -> Mock {
    let mut mock = Mock::new("8xH100.json");
    mock.change(|state| {
        let first = state["devices"][0].clone();
        let devices = (0..count).map(|number| {
            let link = |at: u32| json!({ "to": "switch", "pci": format!("00000000:{:02X}:00.0", 0xc0 + at) });
            let more = json!({
                "uuid": format!("GPU-00000000-0000-4000-8000-{number:012x}"),
                "minor": number,
                "pci": format!("00000000:{:02X}:00.0", 0x10 + number),
                "utilization": 95,
                "temperature_c": 61,
                "clock_events": 0,
                "nvlinks": [link(0), link(1), { "to": "switch", "pci": "00000000:C2:00.0", "down": true }],
                "ancestors": [],
                "sram_ecc": {},
                "remapped_rows": {},
                "retired_pages_pending": false,
                "fields": { "29": 0, "30": 0, "230": 0 },
                "pcie": {
                    "generation": 5, "width": 16, "max_generation": 5, "max_width": 16, "device_max_generation": 5,
                    "replays": 9
                },
                "fabric": { "state": 3, "cluster": "00000000000000000000000000000001", "health_mask": 0x1aa },
            });
            merged(first.clone(), &more)
        });
        state["devices"] = devices.collect();
    });
    mock
}

/// As RFC 7396 has it.
pub(super) fn merged(mut value: Value, patch: &Value) -> Value {
    let Value::Object(fields) = patch else { return patch.clone() };
    if !value.is_object() {
        value = json!({});
    }
    let object = value.as_object_mut().expect("it is one by now");
    for (name, field) in fields {
        match field {
            Value::Null => drop(object.remove(name)),
            field => {
                let new = merged(object.remove(name).unwrap_or_default(), field);
                object.insert(name.clone(), new);
            }
        }
    }
    value
}

/// Gives the device with this UUID other fields.
pub(super) fn patch(state: &mut Value, uuid: &Value, fields: &str) {
    let fields: Value = serde_json::from_str(fields).unwrap_or_else(|error| panic!("{error}: {fields}"));
    let devices = state["devices"].as_array_mut().expect("a list");
    let device = devices.iter_mut().find(|device| device["uuid"] == *uuid).expect("it is there");
    *device = merged(device.take(), &fields);
}

/// A job of one task with one GPU, which uses no processor until it is stopped.
pub(super) fn held(cluster: &Cluster, name: &str) -> String {
    cluster.submit(&job(name, &[with(role("main", 1, "exec sleep 1000"), &json!({ "gpuNumber": 1 }))]))
}

impl Bench {
    pub(super) fn new(mock: Mock, more: &str) -> Self {
        let cluster = Cluster::with(vec![node("n0", &mock, more)], "");
        Self { cluster, mock }
    }

    /// A job on each of so many GPUs: its id, and the UUID of its GPU.
    pub(super) fn hold(&self, count: usize) -> Vec<(String, Value)> {
        let ids: Vec<String> = (0..count).map(|number| held(&self.cluster, &format!("job-{number}"))).collect();
        let gpu = |id: String| {
            let uuid = self.cluster.wait_running(&id)["tasks"][0]["gpus"][0].clone();
            (id, uuid)
        };
        ids.into_iter().map(gpu).collect()
    }

    pub(super) fn faults(&self) -> Vec<Value> {
        self.cluster.json(&["faults", "--all"]).as_array().expect("a list").clone()
    }

    /// The newest fault of this kind on this GPU.
    pub(super) fn fault(&self, uuid: &Value, kind: &str) -> Option<Value> {
        let of = |fault: &&Value| fault["gpu"] == *uuid && fault["kind"] == kind;
        let faults = self.faults();
        faults.iter().filter(of).max_by_key(|fault| fault["id"].as_u64()).cloned()
    }

    /// Waits until these GPUs are in these states.
    #[track_caller]
    pub(super) fn until_states(&self, what: &str, wanted: &[(Value, &str)]) {
        let mut wrong = Vec::new();
        let mut look = || {
            let gpus = self.cluster.json(&["gpus"]);
            let list = gpus.as_array()?;
            let state = |uuid: &Value| list.iter().find(|gpu| gpu["uuid"] == *uuid).map(|gpu| gpu["state"].clone());
            let is_wrong = |(uuid, wanted): &&(Value, &str)| state(uuid) != Some(json!(wanted));
            wrong =
                wanted.iter().filter(is_wrong).map(|(uuid, wanted)| (uuid.clone(), *wanted, state(uuid))).collect();
            wrong.is_empty().then_some(())
        };
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until(what, &mut look)));
        assert!(found.is_ok(), "{what}: not as wanted: {wrong:?}");
    }

    /// It runs, and always has.
    #[track_caller]
    pub(super) fn assert_untouched(&self, id: &str, why: &str) {
        let shown = self.cluster.show(id);
        let runs = shown["runs"].as_array().map(Vec::len);
        assert!(shown["tasks"][0]["state"] == "RUNNING" && runs == Some(1), "{why}: {shown}");
    }
}
