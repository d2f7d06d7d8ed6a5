//! Wrong input: a clear answer by the contract's exit code, and nothing half-created.

use crate::harness::{Cluster, attack, job, role};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Shutdown, TcpStream};

/// Nobody reads a file of this size by mistake.
const HUGE: usize = 50 << 20;

fn nothing_created(cluster: &Cluster) {
    assert_eq!(cluster.json(&["jobs", "--all"]), json!([]));
    let events = cluster.cli(&["--json", "events"]).expect(0).json_lines();
    assert!(events.iter().all(|event| event["job"].is_null()), "{events:?}");
}

/// Submits and validates the same wrong file; returns the error object of the submit.
#[track_caller]
fn refused(cluster: &Cluster, what: &str, content: &[u8]) -> Value {
    let validated = cluster.cli_with(&["--json", "validate", "-"], content);
    let submitted = cluster.cli_with(&["--json", "submit", "-"], content);
    for output in [&validated, &submitted] {
        assert_eq!(output.code, 2, "{what}: {} {}", output.text(), output.errors());
        assert!(!output.errors().is_empty() && !output.errors().contains("panicked"), "{what}: {}", output.errors());
    }
    let error = submitted.json()["error"].clone();
    assert_eq!(error["code"], "invalid", "{what}: {error}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {error}");
    error
}

#[test]
fn texts_that_are_no_jobs_are_refused() {
    let _row =
        attack("job files", "empty, cut, binary, 100,000 deep, 50 MB", 12, "refused with a reason, nothing created");
    let cluster = Cluster::start(&["none"]);
    let deep = "[".repeat(100_000);
    let deep_object = "{\"a\":".repeat(50_000);
    let cut = job("cut", &[role("main", 1, "true")]).to_string();
    let cases: [(&str, Vec<u8>); 12] = [
        ("empty", Vec::new()),
        ("blank", b" \n\t".to_vec()),
        ("null", b"null".to_vec()),
        ("a list", b"[]".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("invalid UTF-8", b"{\"jobName\": \"\xff\xfe\"}".to_vec()),
        ("binary", (0..=255).cycle().take(10_000).collect()),
        ("deep lists", deep.into_bytes()),
        ("deep objects", deep_object.into_bytes()),
        ("cut off", cut.as_bytes()[..cut.len() / 2].to_vec()),
        ("two", format!("{cut}{cut}").into_bytes()),
        ("50 MB", vec![b' '; HUGE]),
    ];
    for (what, content) in &cases {
        refused(&cluster, what, content);
    }
    nothing_created(&cluster);
    assert!(cluster.controller_pid().is_some());
}

#[test]
fn every_mistake_of_a_file_is_named_at_once() {
    let cluster = Cluster::start(&["none"]);
    let wrong = json!({
        "jobName": "12345",
        "image": 7,
        "retryCount": -3,
        "taskRoles": [
            { "name": "a-b", "taskNumber": 0, "cpuNumber": -1, "memoryMB": 99, "gpuNumber": 1e30, "command": "" },
            { "name": "ok", "taskNumber": 2, "cpuNumber": 1.5, "memoryMB": "lots", "shmMB": 123_456_789_012_345_678_u64,
              "gpuNumber": 0, "command": ["a"], "minFailedTaskCount": 0, "minSucceededTaskCount": 3,
              "portList": [{ "label": "p", "beginAt": 70000, "portNumber": 0 }] },
        ],
        "jobEnvs": [],
    });
    let error = refused(&cluster, "many mistakes", wrong.to_string().as_bytes());
    let violations = error["violations"].as_array().expect("all of them");
    let named = |field: &str| violations.iter().find(|violation| violation["field"] == field);
    let expected = [
        "jobName",
        "image",
        "retryCount",
        "taskRoles[0].name",
        "taskRoles[0].taskNumber",
        "taskRoles[0].cpuNumber",
        "taskRoles[0].memoryMB",
        "taskRoles[0].gpuNumber",
        "taskRoles[0].command",
        "taskRoles[1].cpuNumber",
        "taskRoles[1].memoryMB",
        "taskRoles[1].command",
        "taskRoles[1].minFailedTaskCount",
        "taskRoles[1].minSucceededTaskCount",
        "taskRoles[1].portList[0].beginAt",
        "taskRoles[1].portList[0].portNumber",
        "jobEnvs",
    ];
    for field in expected {
        let violation = named(field).unwrap_or_else(|| panic!("{field} is not named: {error:#}"));
        for part in ["message", "found", "allowed"] {
            let text = violation[part].as_str().unwrap_or_default();
            // An empty command was found empty.
            assert!(!text.is_empty() || part == "found", "{field} lacks {part}: {violation}");
        }
    }
    assert_eq!((&error["field"], &error["found"]), (&violations[0]["field"], &violations[0]["found"]));
    // People are told the same.
    let told = cluster.cli_with(&["submit", "-"], wrong.to_string().as_bytes()).expect(2);
    assert!(expected.iter().all(|field| told.errors().contains(field)), "{}", told.errors());
    assert!(told.stdout.is_empty(), "{}", told.text());
    nothing_created(&cluster);
}

#[test]
fn unknown_keys_are_warnings_with_the_nearest_name() {
    let cluster = Cluster::start(&["none"]);
    let mut misspelt = job("typo", &[role("main", 1, "true")]);
    misspelt["retryCuont"] = json!(3);
    let answer = cluster.cli_with(&["--json", "submit", "-"], misspelt.to_string().as_bytes()).expect(0).json();
    let warnings = answer["warnings"].to_string();
    assert!(warnings.contains("retryCuont") && warnings.contains("retryCount"), "{answer}");
    cluster.wait_end("typo");
}

#[test]
fn usage_mistakes_end_with_2_and_say_what_is_meant() {
    let cluster = Cluster::start(&["none"]);
    for args in [
        &["sbumit"][..],
        &["logs"],
        &["stop", "1", "--grace", "-1"],
        &["submit", "/no/such/file"],
        &["logs", "1", "--stream", "x"],
    ] {
        let args: Vec<&str> = std::iter::once("--json").chain(args.iter().copied()).collect();
        let output = cluster.cli(&args).expect(2);
        assert!(output.json()["error"]["message"].is_string() && !output.errors().is_empty(), "{args:?}");
    }
    for help in [&["--help"][..], &["submit", "--help"], &["--version"]] {
        assert!(!cluster.cli(help).expect(0).stdout.is_empty());
    }
    let id = cluster.submit(&job("trainer", &[role("main", 1, "true")]));
    cluster.wait_end(&id);
    for command in [&["job", "show"][..], &["stop"], &["logs"], &["job", "explain"]] {
        let output = cluster.cli(&[&["--json"], command, &["trianer"]].concat()).expect(2);
        assert_eq!(output.json()["error"]["code"], "not_found");
        assert!(output.errors().contains("'trainer'"), "{}", output.errors());
    }
    assert_eq!(cluster.cli(&["job", "show", "4711"]).code, 2);
    assert_eq!(cluster.cli(&["job", "show", &id, "--run", "4711"]).code, 2);
    let unknown = cluster.cli(&["gpus", "--node", "n9"]).expect(2);
    assert!(unknown.errors().contains("n9"), "{}", unknown.errors());
}

#[test]
fn a_controller_that_is_not_there_is_3() {
    let free = crate::harness::port::Port::claim();
    let address = format!("127.0.0.1:{}", free.number);
    let mut command = crate::harness::cluster::wharf(&["--json", "jobs"]);
    command.env("WHARF_CONTROLLER", &address);
    let output = crate::harness::Running::start(command).finish().expect(3);
    assert_eq!(output.json()["error"]["code"], "unavailable");
    assert!(output.errors().contains(&address), "{}", output.errors());
    // One that accepts and says nothing is not waited for without end either.
    let _silent = std::net::TcpListener::bind(&address).expect("the port is ours");
    let mut command = crate::harness::cluster::wharf(&["nodes"]);
    command.env("WHARF_CONTROLLER", &address);
    crate::harness::Running::start(command).finish().expect(3);
}

#[test]
fn wrong_settings_are_named_and_nothing_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("x.toml");
    let open = format!("data_dir = '{0}/a'\nrun_dir = '{0}/r'\nlisten = '0.0.0.0:7601'", folder.path().display());
    let cases = [
        ("controller", "data_dri = '/tmp/x'", "data_dir"),
        ("controller", "[tls]\nca_key = '/k'", "tls"),
        ("agent", open.as_str(), "insecure"),
        ("agent", "gpus = 'sim:lots'", "sim:8xA100"),
        ("agent", "cpus = 'many'", "cpus"),
    ];
    for (kind, text, told) in cases {
        std::fs::write(&path, text).expect("the folder is ours");
        let command = crate::harness::cluster::wharf(&[kind, "--config", path.to_str().expect("a text")]);
        let output = crate::harness::Running::start(command).finish().expect(2);
        assert!(output.errors().contains(told), "{kind} {text}: {}", output.errors());
    }
    let command = crate::harness::cluster::wharf(&["controller", "--config", "/no/such/file.toml"]);
    let output = crate::harness::Running::start(command).finish().expect(2);
    assert!(output.errors().contains("/no/such/file.toml"), "{}", output.errors());
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field in HPACK, without any compression.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A submit as gRPC sends it, up to `part` of the message in percent.
fn half_a_submit(content: &[u8], part: usize) -> Vec<u8> {
    // Field 3, `content`, and field 1, the principal with field 1, the user.
    let mut message = vec![0x0a, 7, 0x0a, 5];
    message.extend_from_slice(b"alice");
    message.push(0x1a);
    let mut length = content.len();
    while length > 127 {
        message.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(content);
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    let body = [&[0][..], &length, &message].concat();
    let fields = [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", "/wharf.v1.Controller/Submit"),
        header(":authority", "localhost"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &fields.concat()));
    bytes.extend(frame(0, u8::from(part == 100), 1, &body[..body.len() * part / 100]));
    bytes
}

#[test]
fn a_connection_cut_in_the_middle_of_a_submit_creates_nothing() {
    let _row = attack("connections", "cut in the middle of a submit, and random bytes", 24, "nothing created");
    let cluster = Cluster::start(&["none"]);
    let content = job("half", &[role("main", 1, "true")]).to_string();
    let connect = || TcpStream::connect(("127.0.0.1", cluster.port())).expect("the controller listens");
    for part in [0, 10, 50, 99] {
        let mut stream = connect();
        stream.write_all(&half_a_submit(content.as_bytes(), part)).expect("it reads");
        // Whatever answer there is comes before the end of the connection.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    let mut random = crate::harness::random::Random::new(17);
    for _ in 0..20 {
        let mut stream = connect();
        let _ = stream.write_all(&random.bytes(2000));
        let _ = stream.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    nothing_created(&cluster);
    // The same bytes to the end are a job: it was the cut, not the bytes.
    let mut stream = connect();
    stream.write_all(&half_a_submit(content.as_bytes(), 100)).expect("it reads");
    crate::harness::until("the whole submit is a job", || {
        (cluster.cli(&["job", "show", "alice/half"]).code == 0).then_some(())
    });
}

#[test]
fn a_message_beyond_the_limit_is_refused_by_the_controller_itself() {
    let _row = attack("message sizes", "submits of 600 KB and 50 MB", 2, "refused, nothing created");
    let cluster = Cluster::start(&["none"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let refused = runtime.block_on(async {
        use wharf::api::ControllerApi;
        let client = wharf::rpc::ControllerClient::new(&[cluster.address()]).expect("the address is one");
        let who = wharf::domain::principal::Principal { user: "alice".into(), uid: None, roles: Vec::new() };
        let mut sizes = Vec::new();
        for size in [600 << 10, HUGE] {
            let submit = wharf::api::controller::Submit { content: vec![b' '; size], ..Default::default() };
            sizes.push(client.submit(&who, submit).await);
        }
        sizes
    });
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
    nothing_created(&cluster);
}
