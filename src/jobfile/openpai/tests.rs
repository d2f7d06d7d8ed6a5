//! Every limit of an OpenPAI job: one value inside, one outside.

use crate::domain::command::Violation;
use crate::domain::container::{Network, PullPolicy, Ulimit};
use crate::domain::placement::Arrangement;
use crate::domain::spec::{JobSpec, OnNodeLost, PortSpec};
use crate::jobfile::{Parsed, parse};
use serde_json::{Value, json};

/// A small valid job with two roles.
fn base() -> Value {
    json!({
        "jobName": "train", "image": "pytorch:2", "taskRoles": [
            {"name": "ps", "taskNumber": 1, "cpuNumber": 2, "memoryMB": 4096, "gpuNumber": 0, "command": "serve"},
            {"name": "worker", "taskNumber": 3, "cpuNumber": 4, "memoryMB": 8192, "shmMB": 512, "gpuNumber": 2,
             "portList": [{"label": "http", "beginAt": 0, "portNumber": 2}], "command": "train"}
        ]
    })
}

/// The base job with one place set; a place that is not there yet is made.
fn with(place: &str, value: Value) -> Value {
    let mut job = base();
    let (parent, key) = place.rsplit_once('/').expect("a JSON pointer");
    let parent = job.pointer_mut(parent).expect("the parent exists");
    match parent {
        Value::Object(members) => drop(members.insert(key.to_owned(), value)),
        Value::Array(entries) => entries.push(value),
        other => panic!("{other} has no members"),
    }
    job
}

fn read(job: &Value) -> Result<Parsed, Vec<Violation>> {
    parse("job.json", job.to_string().as_bytes())
}

fn spec(job: &Value) -> JobSpec {
    read(job).unwrap_or_else(|violations| panic!("{job} is refused: {violations:?}")).spec
}

fn refusals(job: &Value) -> Vec<Violation> {
    read(job).err().unwrap_or_else(|| panic!("{job} is accepted"))
}

/// JSON pointer to the path in messages.
fn path_of(place: &str) -> String {
    place.trim_start_matches('/').split('/').fold(String::new(), |path, step| match step.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => step.to_owned(),
        Err(_) => format!("{path}.{step}"),
    })
}

#[test]
fn the_base_job_reads_whole() {
    let Parsed { spec, warnings } = read(&base()).expect("valid");
    assert_eq!(warnings, [""; 0]);
    assert_eq!((spec.name.as_str(), spec.image.as_str()), ("train", "pytorch:2"));
    assert_eq!((spec.virtual_cluster.as_str(), spec.extras_json.as_str()), ("default", "{}"));
    assert_eq!((spec.retry_count, spec.priority, spec.debug), (0, 0, false));
    assert_eq!(spec.on_node_lost, OnNodeLost::Wait);
    assert!(spec.env.is_empty() && spec.gpu_types.is_empty() && spec.output_dir.is_empty());
    let [ps, worker] = spec.roles.as_slice() else { panic!("two roles") };
    assert_eq!((ps.count, ps.cpus, ps.memory_mb, ps.shm_mb, ps.gpus), (1, 2, 4096, 64, 0));
    assert_eq!((worker.count, worker.cpus, worker.memory_mb, worker.shm_mb, worker.gpus), (3, 4, 8192, 512, 2));
    assert_eq!((ps.min_failed, ps.min_succeeded), (Some(1), None));
    assert_eq!(worker.ports, [PortSpec { label: "http".to_owned(), begin_at: 0, count: 2 }]);
    assert_eq!(worker.command, "train");
}

#[test]
fn values_inside_the_limits_are_accepted() {
    for (place, values) in [
        ("/jobName", vec![json!("a"), json!("A.b_c~d-9"), json!("1a"), json!("n".repeat(256))]),
        ("/image", vec![json!("x"), json!("reg:5000/a/b@sha256:00")]),
        ("/authFile", vec![json!(""), json!("hdfs://h/a b"), json!("u".repeat(4096))]),
        ("/virtualCluster", vec![json!(""), json!("vc1"), json!("队列")]),
        ("/gpuType", vec![json!(""), json!("TITANX"), json!("A100, H100"), json!(",")]),
        ("/retryCount", vec![json!(-2), json!(-1), json!(0), json!("3"), json!(2_147_483_647)]),
        ("/killAllOnCompletedTaskNumber", vec![json!(2)]),
        ("/extras", vec![json!({}), json!({"a": [1]}), json!({"wharf": {}})]),
        ("/extras", vec![json!({"wharf": {"onNodeLost": "restart", "leaseSeconds": 300, "priority": -5}})]),
        ("/jobEnvs", vec![json!({}), json!({"_a.b~c-d": 1})]),
        ("/taskRoles/1/name", vec![json!("A.b_c~9"), json!("n".repeat(256))]),
        ("/taskRoles/1/taskNumber", vec![json!(1), json!("1"), json!(1.0), json!(9999)]),
        ("/taskRoles/1/cpuNumber", vec![json!(1), json!(" 2 "), json!(100_000)]),
        ("/taskRoles/1/memoryMB", vec![json!(512), json!(1u64 << 40)]),
        ("/taskRoles/0/memoryMB", vec![json!(100)]),
        ("/taskRoles/1/shmMB", vec![json!(1), json!(8192)]),
        ("/taskRoles/1/gpuNumber", vec![json!(0), json!(10_000)]),
        ("/taskRoles/1/command", vec![json!("true"), json!("c".repeat(131_071))]),
        ("/taskRoles/1/minFailedTaskCount", vec![json!(null), json!(1), json!(3)]),
        ("/taskRoles/1/minSucceededTaskCount", vec![json!(null), json!(1), json!("3")]),
        ("/taskRoles/1/portList", vec![json!([]), json!([{"label": "a.b_~", "beginAt": 65535, "portNumber": 1}])]),
        ("/taskRoles/1/portList/0/beginAt", vec![json!(0), json!(1), json!(65534)]),
        ("/taskRoles/1/portList/0/portNumber", vec![json!(1), json!(1000)]),
    ] {
        for value in values {
            spec(&with(place, value));
        }
    }
}

#[test]
fn values_outside_the_limits_are_refused_at_their_field() {
    let integers = |small: i64, large: i64| {
        let texts = vec![json!(""), json!("x"), json!("1.5")];
        let others =
            vec![json!(null), json!(true), json!([1]), json!({}), json!(1.5), json!(99_999_999_999_999_999_999.0)];
        [vec![json!(small), json!(large)], texts, others].concat()
    };
    let not_texts = || vec![json!(null), json!(1), json!(true), json!([]), json!({})];
    let names =
        || [not_texts(), vec![json!(""), json!("a b"), json!("a/b"), json!("é"), json!("n".repeat(257))]].concat();
    let lines = || [not_texts(), vec![json!("a\nb"), json!("u".repeat(4097))]].concat();
    for (place, values) in [
        ("/jobName", [names(), vec![json!("7"), json!("0123"), json!("a\u{0}")]].concat()),
        ("/image", [not_texts(), vec![json!(""), json!(" "), json!("a\tb")]].concat()),
        ("/authFile", lines()),
        ("/dataDir", lines()),
        ("/outputDir", lines()),
        ("/codeDir", lines()),
        ("/virtualCluster", lines()),
        ("/gpuType", [lines(), vec![json!("TITAN X,P100")]].concat()),
        ("/retryCount", integers(-3, 1 << 31)),
        ("/taskRoles", [not_texts(), vec![json!("a")]].concat()),
        ("/taskRoles/2", [vec![json!(null), json!(1), json!([])]].concat()),
        ("/jobEnvs", vec![json!(null), json!([]), json!("A=1")]),
        ("/extras", vec![json!(null), json!([]), json!("a")]),
        ("/protocolVersion", vec![json!(2)]),
        ("/taskRoles/1/name", [names(), vec![json!("a-b")]].concat()),
        ("/taskRoles/1/taskNumber", integers(0, 10_001)),
        ("/taskRoles/1/cpuNumber", integers(0, 100_001)),
        ("/taskRoles/1/memoryMB", integers(99, (1 << 40) + 1)),
        ("/taskRoles/1/shmMB", integers(0, 8193)),
        ("/taskRoles/0/shmMB", vec![json!(4097)]),
        ("/taskRoles/1/gpuNumber", integers(-1, 10_001)),
        ("/taskRoles/1/command", [not_texts(), vec![json!(""), json!(" \n"), json!("c".repeat(131_072))]].concat()),
        ("/taskRoles/1/minFailedTaskCount", vec![json!(0), json!(4), json!(-1), json!(1.5), json!("x"), json!([])]),
        (
            "/taskRoles/1/minSucceededTaskCount",
            vec![json!(0), json!(4), json!(-1), json!(1.5), json!("x"), json!([])],
        ),
        ("/taskRoles/1/portList", vec![json!(null), json!({}), json!("a")]),
        ("/taskRoles/1/portList/0/label", [names(), vec![json!("a-b")]].concat()),
        ("/taskRoles/1/portList/0/beginAt", integers(-1, 65536)),
        ("/taskRoles/1/portList/0/portNumber", integers(0, 65536)),
    ] {
        for value in values {
            let violations = refusals(&with(place, value.clone()));
            let path = path_of(place);
            assert!(violations.iter().any(|violation| violation.field == path), "{path} = {value}: {violations:?}");
            assert!(violations.iter().all(|violation| !violation.message.is_empty()), "{violations:?}");
            assert!(violations.iter().all(|violation| violation.found.chars().count() <= 80), "{violations:?}");
        }
    }
}

#[test]
fn every_required_field_is_missed() {
    for place in [
        "/jobName",
        "/image",
        "/taskRoles",
        "/taskRoles/1/name",
        "/taskRoles/1/taskNumber",
        "/taskRoles/1/cpuNumber",
        "/taskRoles/1/memoryMB",
        "/taskRoles/1/gpuNumber",
        "/taskRoles/1/command",
        "/taskRoles/1/portList/0/label",
        "/taskRoles/1/portList/0/beginAt",
        "/taskRoles/1/portList/0/portNumber",
    ] {
        let mut job = base();
        let (parent, key) = place.rsplit_once('/').expect("a JSON pointer");
        job.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(key).expect("was there");
        let violations = refusals(&job);
        assert_eq!(violations.len(), 1, "{place}: {violations:?}");
        assert_eq!(violations[0].field, path_of(place));
        assert_eq!(violations[0].message, "is missing (line 1)");
        assert_ne!(violations[0].allowed, "");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let content = br#"{
  "jobName": "my job",
  "image": "",
  "retryCount": -3,
  "taskRoles": [
    {"name": "a", "taskNumber": 0, "cpuNumber": 1.5, "memoryMB": "much", "gpuNum": 1, "command": "x",
     "portList": [{"label": "p", "beginAt": 65000, "portNumber": 1000}]},
    7
  ]
}"#;
    let violations = parse("job.json", content).expect_err("wrong");
    let told: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert_eq!(
        told,
        [
            "jobName: holds a space (line 2); found \"my job\"; \
             allowed: 1 to 256 characters of A-Z a-z 0-9 - . _ ~, not digits alone",
            "image: is empty (line 3); found \"\"; allowed: the name of an image, such as registry/name:tag",
            "taskRoles[0].taskNumber: is too small (line 6); found 0; allowed: an integer from 1 to 10000",
            "taskRoles[0].cpuNumber: is not an integer (line 6); found 1.5; allowed: an integer from 1 to 100000",
            "taskRoles[0].memoryMB: is a text, not an integer (line 6); found \"much\"; \
             allowed: an integer from 100 to 1099511627776",
            "taskRoles[0].gpuNumber: is missing (line 6); found \"gpuNum\"; allowed: an integer from 0 to 10000",
            "taskRoles[0].portList[0]: 1000 ports from 65000 on go beyond 65535 (line 7); found 65999; \
             allowed: beginAt + portNumber - 1 is at most 65535",
            "taskRoles[1]: is a number, not an object (line 8); found 7; allowed: an object: {...}",
            "retryCount: is too small (line 4); found -3; allowed: an integer from -2 to 2147483647",
        ]
    );
}

#[test]
fn completion_counts_default_and_turn_off() {
    let job = with("/taskRoles/1/minFailedTaskCount", json!(null));
    assert_eq!(spec(&job).roles[1].min_failed, None);
    let job = with("/taskRoles/1/minSucceededTaskCount", json!(3));
    assert_eq!((spec(&job).roles[1].min_failed, spec(&job).roles[1].min_succeeded), (Some(1), Some(3)));
}

#[test]
fn too_many_tasks_in_all() {
    assert_eq!(spec(&with("/taskRoles/1/taskNumber", json!(9999))).task_count(), 10_000);
    let violations = refusals(&with("/taskRoles/1/taskNumber", json!(10_000)));
    assert_eq!((violations[0].field.as_str(), violations[0].found.as_str()), ("taskRoles", "10001"));
    assert_eq!(refusals(&with("/taskRoles", json!([])))[0].field, "taskRoles");
    let crowd = json!(vec![json!({}); 10_001]);
    assert_eq!(refusals(&with("/taskRoles", crowd)).len(), 1, "not looked at one by one");
}

#[test]
fn an_environment_that_fits_no_program_is_refused() {
    let mut job = with("/taskRoles/1/taskNumber", json!(9999));
    job["taskRoles"][1]["name"] = json!("n".repeat(256));
    let violations = refusals(&job);
    assert_eq!(violations[0].field, "taskRoles");
    assert!(violations[0].message.contains("environment"), "{violations:?}");
    job["taskRoles"][1]["taskNumber"] = json!(1000);
    spec(&job);
}

#[test]
fn names_are_unique_and_both_are_named() {
    let violations = refusals(&with("/taskRoles/1/name", json!("ps")));
    assert_eq!(violations[0].field, "taskRoles[1].name");
    assert!(violations[0].message.contains("taskRoles[0]"), "{violations:?}");

    let twice = json!([{"label": "a", "beginAt": 0, "portNumber": 1}, {"label": "a", "beginAt": 0, "portNumber": 1}]);
    let violations = refusals(&with("/taskRoles/1/portList", twice));
    assert_eq!(violations[0].field, "taskRoles[1].portList[1].label");
    assert!(violations[0].message.contains("taskRoles[1].portList[0]"), "{violations:?}");
}

#[test]
fn fixed_ports_of_a_role_do_not_overlap() {
    let port = |label: &str, begin: u32, count: u32| json!({"label": label, "beginAt": begin, "portNumber": count});
    let apart = json!([port("a", 20000, 10), port("b", 20010, 1), port("c", 0, 5), port("d", 0, 5)]);
    spec(&with("/taskRoles/1/portList", apart));
    for overlapping in [
        json!([port("a", 20000, 10), port("b", 20009, 1)]),
        json!([port("b", 20009, 1), port("a", 20000, 10)]),
        json!([port("a", 20000, 100), port("c", 20001, 1), port("b", 20050, 1)]),
    ] {
        let violations = refusals(&with("/taskRoles/1/portList", overlapping.clone()));
        let told = violations.iter().map(Violation::to_string).collect::<String>();
        assert!(told.contains("label a") && told.contains("label b"), "{overlapping}: {told}");
    }
    let many = json!([port("a", 0, 600), port("b", 0, 401)]);
    assert_eq!(refusals(&with("/taskRoles/1/portList", many))[0].found, "1001");
}

#[test]
fn gpu_types_are_a_list() {
    assert_eq!(spec(&with("/gpuType", json!("TITANX, P100,,TITANX"))).gpu_types, ["TITANX", "P100"]);
}

#[test]
fn the_jobs_variables_are_literal() {
    let content = r#"{"jobName": "j", "image": "i", "taskRoles": [{"name": "r", "taskNumber": 1, "cpuNumber": 1,
        "memoryMB": 100, "gpuNumber": 0, "command": "c"}], "jobEnvs": {"T": "a \"b\" $HOME", "N": 1.50, "E": 1e400,
        "I": 99999999999999999999, "B": false, "Z": null, "isDebug": true, "PAI_JOB_NAME": "mine",
        "WHARF_TASK_ID": "x", "NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0"}}"#;
    let Parsed { spec, warnings } = parse("", content.as_bytes()).expect("valid");
    let env: Vec<(&str, &str)> = spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        env,
        [
            ("T", "a \"b\" $HOME"),
            ("N", "1.50"),
            ("E", "1e400"),
            ("I", "99999999999999999999"),
            ("B", "false"),
            ("Z", ""),
            ("isDebug", "true"),
            ("PAI_JOB_NAME", "mine"),
        ]
    );
    assert!(spec.debug);
    assert_eq!(
        warnings,
        [
            "jobEnvs.WHARF_TASK_ID: ignored: only wharf sets this variable (line 4)",
            "jobEnvs.NVIDIA_VISIBLE_DEVICES: ignored: only wharf sets this variable (line 4)",
            "jobEnvs.CUDA_VISIBLE_DEVICES: ignored: only wharf sets this variable (line 4)",
        ]
    );
}

#[test]
fn wrong_variables_are_refused() {
    for (name, value) in [
        ("", json!("x")),
        ("1A", json!("x")),
        ("A=B", json!("x")),
        ("A B", json!("x")),
        ("é", json!("x")),
        ("A", json!([])),
        ("A", json!({})),
        ("A", json!("x\u{0}y")),
        ("A", json!("x".repeat(131_070))),
    ] {
        refusals(&with("/jobEnvs", json!({name: value})));
    }
    spec(&with("/jobEnvs", json!({"A": "x".repeat(131_069)})));
}

#[test]
fn only_true_is_debug() {
    for (value, debug, warnings) in [
        (json!(true), true, 0),
        (json!(false), false, 0),
        (json!("true"), false, 1),
        (json!(1), false, 1),
        (json!(null), false, 1),
    ] {
        let parsed = read(&with("/jobEnvs", json!({"isDebug": value}))).expect("valid");
        assert_eq!((parsed.spec.debug, parsed.warnings.len()), (debug, warnings), "{value}");
    }
}

#[test]
fn extras_hold_what_only_wharf_has() {
    let extras = json!({"note": {"x": [1, "é"]}, "wharf": {"onNodeLost": "restart", "priority": 7}});
    let read_spec = spec(&with("/extras", extras.clone()));
    assert_eq!(read_spec.on_node_lost, OnNodeLost::Restart { lease_s: 1800 });
    assert_eq!(read_spec.priority, 7);
    assert_eq!(serde_json::from_str::<Value>(&read_spec.extras_json).expect("JSON"), extras);

    let container = |value: Value| with("/extras", json!({"wharf": {"container": value}}));
    let asked = spec(&container(json!({
        "pull": "always", "network": "bridge", "user": "1000:1000", "readOnlyRoot": true, "capabilities": ["CAP_SYS_PTRACE"],
        "ulimits": {"memlock": -1, "nofile": [1024, 4096]}, "pidsLimit": 4096, "infiniband": true, "numaCpus": true
    })))
    .container;
    assert_eq!((asked.pull, asked.network), (PullPolicy::Always, Network::Bridge));
    assert_eq!((asked.user.as_deref(), asked.pids_limit), (Some("1000:1000"), Some(4096)));
    assert_eq!(asked.capabilities, ["SYS_PTRACE"]);
    assert_eq!(asked.ulimits[1], Ulimit { name: "nofile".into(), soft: 1024, hard: 4096 });
    assert!(asked.read_only_root && asked.infiniband && asked.numa_cpus);
    for (value, field) in [
        (json!([]), ""),
        (json!({"pull": "sometimes"}), ".pull"),
        (json!({"network": "none"}), ".network"),
        (json!({"user": "a b"}), ".user"),
        (json!({"user": "a:"}), ".user"),
        (json!({"readOnlyRoot": 1}), ".readOnlyRoot"),
        (json!({"capabilities": ["SYS_ADMIN", "x y"]}), ".capabilities[1]"),
        (json!({"ulimits": {"files": 1}}), ".ulimits.files"),
        (json!({"ulimits": {"nofile": [2, 1]}}), ".ulimits.nofile"),
        (json!({"ulimits": {"nofile": [-1, 1]}}), ".ulimits.nofile"),
        (json!({"pidsLimit": 0}), ".pidsLimit"),
    ] {
        let violations = refusals(&container(value));
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert_eq!(violations[0].field, format!("extras.wharf.container{field}"));
    }

    let hold = |debug: bool, value: Value| {
        let mut file = with("/extras", json!({"wharf": {"debugHoldSeconds": value}}));
        file["jobEnvs"] = json!({ "isDebug": debug });
        file
    };
    assert_eq!(spec(&hold(true, json!(60))).debug_hold_s, Some(60));
    assert_eq!(spec(&hold(false, json!(60))).debug_hold_s, None);
    for value in [json!(0), json!(604_801), json!("x"), json!(1.5)] {
        assert_eq!(refusals(&hold(true, value))[0].field, "extras.wharf.debugHoldSeconds");
    }
    let lease = |value: Value| with("/extras", json!({"wharf": {"onNodeLost": "restart", "leaseSeconds": value}}));
    assert_eq!(spec(&lease(json!(600))).on_node_lost, OnNodeLost::Restart { lease_s: 600 });
    for value in [json!(299), json!(0), json!(-1), json!(1e9), json!("soon"), json!(null)] {
        assert_eq!(refusals(&lease(value))[0].field, "extras.wharf.leaseSeconds");
    }
    for value in [json!("die"), json!(null), json!(true), json!("Restart")] {
        let violations = refusals(&with("/extras", json!({"wharf": {"onNodeLost": value}})));
        assert_eq!(violations[0].field, "extras.wharf.onNodeLost");
        assert_eq!(violations[0].allowed, "\"wait\" or \"restart\"");
    }
    assert_eq!(
        refusals(&with("/extras", json!({"wharf": {"priority": 1u64 << 31}})))[0].field,
        "extras.wharf.priority"
    );
    assert_eq!(refusals(&with("/extras", json!({"wharf": []})))[0].field, "extras.wharf");
    let parsed =
        read(&with("/extras", json!({"wharf": {"leaseSeconds": 900, "onNodelost": "wait"}}))).expect("valid");
    assert_eq!(parsed.spec.on_node_lost, OnNodeLost::Wait);
    assert_eq!(
        parsed.warnings,
        [
            "extras.wharf.onNodelost: unknown field, ignored; did you mean onNodeLost? (line 1)",
            "extras.wharf.leaseSeconds: has no effect without \"onNodeLost\": \"restart\" (line 1)",
        ]
    );
}

#[test]
fn unknown_fields_are_warnings_with_the_nearest_name() {
    let mut job = with("/taskRoles/1/shmMb", json!(1));
    job["virtualcluster"] = json!("x");
    job["colour"] = json!("red");
    job["tmp"] = json!({"名称": [1]});
    job["taskRoles"][1]["storageGB"] = json!(5);
    job["taskRoles"][1]["portList"][0]["port number"] = json!(5);
    assert_eq!(
        read(&job).expect("valid").warnings,
        [
            "taskRoles[1].portList[0][\"port number\"]: unknown field, ignored; did you mean portNumber? (line 1)",
            "taskRoles[1].shmMb: unknown field, ignored; did you mean shmMB? (line 1)",
            "virtualcluster: unknown field, ignored; did you mean virtualCluster? (line 1)",
            "colour: unknown field, ignored (line 1)",
        ]
    );
}

#[test]
fn nodes_are_selected_by_labels_and_names() {
    let wharf = |wharf: Value| with("/extras", json!({ "wharf": wharf }));
    let nodes = json!({"labels": {"zone": "a", "disk": ["ssd", "nvme"]}, "without": {"spot": "*"}, "names": ["gpu-0*"],
        "avoid": ["gpu-07"]});
    let placement = spec(&wharf(json!({"nodes": nodes, "placement": "spread"}))).placement;
    assert_eq!(placement.arrangement, Some(Arrangement::Spread));
    assert_eq!(placement.nodes.wanted_labels(), "disk is ssd or nvme, zone is a, spot is not there");
    assert_eq!(placement.nodes.wanted_names(), "one of gpu-0*, not gpu-07");
    assert_eq!(spec(&wharf(json!({}))).placement, Default::default());
    for (value, field) in [
        (json!({"placement": "scatter"}), "placement"),
        (json!({"placement": 1}), "placement"),
        (json!({"nodes": []}), "nodes"),
        (json!({"nodes": {"labels": ["zone"]}}), "nodes.labels"),
        (json!({"nodes": {"labels": {"zone": 3}}}), "nodes.labels.zone"),
        (json!({"nodes": {"labels": {"zone": []}}}), "nodes.labels.zone"),
        (json!({"nodes": {"labels": {"zone": ["a", null]}}}), "nodes.labels.zone[1]"),
        (json!({"nodes": {"without": {"zone": "a\nb"}}}), "nodes.without.zone"),
        (json!({"nodes": {"names": "a"}}), "nodes.names"),
        (json!({"nodes": {"names": []}}), "nodes.names"),
        (json!({"nodes": {"names": ["a", "b*c"]}}), "nodes.names[1]"),
        (json!({"nodes": {"avoid": [""]}}), "nodes.avoid[0]"),
    ] {
        let violations = refusals(&wharf(value.clone()));
        assert_eq!(violations[0].field, format!("extras.wharf.{field}"), "{value}");
        assert_eq!(violations.len(), 1, "{violations:?}");
    }
    let warnings = read(&wharf(json!({"nodes": {"lables": {}}}))).expect("valid").warnings;
    assert!(warnings[0].contains("extras.wharf.nodes.lables: unknown field, ignored; did you mean labels?"));
    let many = refusals(&wharf(json!({"nodes": {"labels": {"a b": "x", "c": 1}, "names": [2]}, "placement": "x"})));
    assert_eq!(many.len(), 4, "{many:?}");
}

#[test]
fn secrets_are_variables_that_no_message_shows() {
    const MARKER: &str = "a-marker";
    let wharf = |secrets: Value| {
        let mut job = with("/extras", json!({ "wharf": { "secrets": secrets } }));
        job["jobEnvs"] = json!({ "SHOWN": "1" });
        job
    };
    let most = "x".repeat(96 * 1024 - 2);
    let parsed = read(&wharf(json!({ "T": MARKER, "N": 1.50, "B": true, "E": null }))).expect("valid");
    assert_eq!(parsed.warnings, [""; 0]);
    let found: Vec<_> = parsed.spec.secrets.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    assert_eq!(found, [("T", MARKER), ("N", "1.5"), ("B", "true"), ("E", "")]);
    assert_eq!(parsed.spec.env, [("SHOWN".to_owned(), "1".to_owned())]);
    let written = serde_json::to_string(&parsed.spec).unwrap();
    assert!(written.contains(r#""secrets":["T","N","B","E"]"#), "{written}");
    assert!(!format!("{written}{parsed:?}").contains(MARKER), "{written}");
    assert_eq!(spec(&wharf(json!({ "T": most }))).secrets.len(), 1);
    assert_eq!(spec(&wharf(json!({}))).secrets, []);
    // A list names those of jobEnvs that are secret.
    let mut named = wharf(json!(["T"]));
    named["jobEnvs"]["T"] = json!(MARKER);
    let parsed = read(&named).expect("valid");
    let found: Vec<_> = parsed.spec.secrets.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    assert_eq!((found.as_slice(), parsed.spec.env.len()), ([("T", MARKER)].as_slice(), 1));
    assert!(!format!("{parsed:?}").contains(MARKER));
    for (secrets, field) in [
        (json!([1]), ""),
        (json!(["SHOWN", { "T": MARKER }]), ""),
        (json!(MARKER), ""),
        (json!([MARKER]), ""),
        (json!({ "T": [MARKER] }), ".T"),
        (json!({ "T": { "x": MARKER } }), ".T"),
        (json!({ "T": format!("{MARKER}\0") }), ".T"),
        (json!({ "a b": MARKER }), "[\"a b\"]"),
        (json!({ "WHARF_X": MARKER }), ".WHARF_X"),
        (json!({ "CUDA_VISIBLE_DEVICES": MARKER }), ".CUDA_VISIBLE_DEVICES"),
        (json!({ "SHOWN": MARKER }), ".SHOWN"),
        (json!({ "T": format!("{most}x") }), ""),
    ] {
        let violations = refusals(&wharf(secrets));
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert_eq!(violations[0].field, format!("extras.wharf.secrets{field}"));
        assert!(!format!("{violations:?}").contains(MARKER), "{violations:?}");
    }
    let many = |count: u32| wharf((0..count).map(|i| (format!("T{i}"), json!(MARKER))).collect::<Value>());
    assert_eq!(spec(&many(1000)).secrets.len(), 1000);
    assert_eq!(refusals(&many(1001))[0].found, "1001");
    let twice =
        wharf(json!({ "T": 1 })).to_string().replace("\"T\":1", &format!("\"T\":\"{MARKER}\",\"T\":\"{MARKER}\""));
    let violations = parse("job.json", twice.as_bytes()).unwrap_err();
    assert!(!violations.is_empty() && !format!("{violations:?}").contains(MARKER), "{violations:?}");
}
