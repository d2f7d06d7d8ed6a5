//! What `jobfile` finds wrong, in OpenPAI's words: if either end changes its own, this notices.

use super::*;
use crate::jobfile;
use serde_json::{Value, json};

const FILE: &str = "job.json";

fn job() -> Value {
    json!({
        "jobName": "j", "image": "i", "retryCount": 0, "gpuType": "", "jobEnvs": { "A": "b" },
        "taskRoles": [
            { "name": "ps", "taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "shmMB": 64, "gpuNumber": 0, "command": "c" },
            { "name": "w", "taskNumber": 2, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "c",
              "minFailedTaskCount": 1, "portList": [{ "label": "p", "beginAt": 0, "portNumber": 1 }] },
        ],
    })
}

fn first_message(content: &[u8]) -> String {
    let violations = jobfile::parse(FILE, content).expect_err("it is wrong");
    unreadable(&violations[0], FILE, content).unwrap_or_else(|| message(&violations[0], FILE))
}

/// The job with another value at a place, or with none.
fn with(place: &str, value: Option<Value>) -> Value {
    let mut job = job();
    let (parent, key) = place.rsplit_once('/').unwrap();
    let parent = job.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(parent.insert(key.to_owned(), value)),
        None => drop(parent.remove(key)),
    }
    job
}

const ROLE: &str = r#"child "taskRoles" fails because ["taskRoles" at position 1 fails because ["#;
const PORT: &str = r#"child "portList" fails because ["portList" at position 0 fails because ["#;

#[test]
fn what_joi_knew_is_said_in_its_words() {
    for (place, value, expected) in [
        ("/jobName", None, r#"child "jobName" fails because ["jobName" is required]"#.to_owned()),
        ("/jobName", Some(json!(7)), r#"child "jobName" fails because ["jobName" must be a string]"#.into()),
        ("/jobName", Some(json!("")), r#"child "jobName" fails because ["jobName" is not allowed to be empty]"#.into()),
        (
            "/jobName",
            Some(json!("a/b")),
            r#"child "jobName" fails because ["jobName" with value "a/b" fails to match the required pattern: /^[A-Za-z0-9\-._]+$/]"#
                .into(),
        ),
        ("/image", Some(json!(null)), r#"child "image" fails because ["image" must be a string]"#.into()),
        ("/authFile", Some(json!([])), r#"child "authFile" fails because ["authFile" must be a string]"#.into()),
        (
            "/retryCount",
            Some(json!(-3)),
            r#"child "retryCount" fails because ["retryCount" must be larger than or equal to -2]"#.into(),
        ),
        ("/retryCount", Some(json!(0.5)), r#"child "retryCount" fails because ["retryCount" must be an integer]"#.into()),
        ("/retryCount", Some(json!("x")), r#"child "retryCount" fails because ["retryCount" must be a number]"#.into()),
        ("/jobEnvs", Some(json!([])), r#"child "jobEnvs" fails because ["jobEnvs" must be an object]"#.into()),
        ("/jobEnvs/a b", Some(json!("")), r#"child "jobEnvs" fails because ["a b" is not allowed]"#.into()),
        ("/jobEnvs/1.b", Some(json!("")), r#"child "jobEnvs" fails because ["1.b" is not allowed]"#.into()),
        ("/protocolVersion", Some(json!(2)), r#""protocolVersion" is not allowed"#.into()),
        ("/taskRoles", None, r#"child "taskRoles" fails because ["taskRoles" is required]"#.into()),
        ("/taskRoles", Some(json!({})), r#"child "taskRoles" fails because ["taskRoles" must be an array]"#.into()),
        ("/taskRoles", Some(json!([])), r#"child "taskRoles" fails because ["taskRoles" must contain at least 1 items]"#.into()),
        (
            "/taskRoles",
            Some(json!([7])),
            r#"child "taskRoles" fails because ["taskRoles" at position 0 fails because ["0" must be an object]]"#.into(),
        ),
        ("/taskRoles/1/command", None, format!(r#"{ROLE}child "command" fails because ["command" is required]]]"#)),
        (
            "/taskRoles/1/name",
            Some(json!("a-b")),
            format!(
                r#"{ROLE}child "name" fails because ["name" with value "a-b" fails to match the required pattern: /^[A-Za-z0-9._~]+$/]]]"#
            ),
        ),
        (
            "/taskRoles/1/memoryMB",
            Some(json!("lots")),
            format!(r#"{ROLE}child "memoryMB" fails because ["memoryMB" must be a number]]]"#),
        ),
        (
            "/taskRoles/1/cpuNumber",
            Some(json!(0)),
            format!(r#"{ROLE}child "cpuNumber" fails because ["cpuNumber" must be larger than or equal to 1]]]"#),
        ),
        (
            "/taskRoles/1/taskNumber",
            Some(json!(1e9)),
            format!(r#"{ROLE}child "taskNumber" fails because ["taskNumber" must be less than or equal to 10000]]]"#),
        ),
        (
            "/taskRoles/1/shmMB",
            Some(json!(200)),
            format!(r#"{ROLE}child "shmMB" fails because ["shmMB" must be less than or equal to ref:memoryMB]]]"#),
        ),
        (
            "/taskRoles/1/minFailedTaskCount",
            Some(json!(0)),
            format!(
                r#"{ROLE}child "minFailedTaskCount" fails because ["minFailedTaskCount" must be larger than or equal to 1]]]"#
            ),
        ),
        ("/taskRoles/1/minFailedTaskCount", Some(json!(3)), MORE_THAN_TASKS.into()),
        ("/taskRoles/1/minSucceededTaskCount", Some(json!(3)), MORE_THAN_TASKS.into()),
        (
            "/taskRoles/1/portList/0/label",
            None,
            format!(r#"{ROLE}{PORT}child "label" fails because ["label" is required]]]]]"#),
        ),
    ] {
        let job = with(place, value.clone()).to_string();
        assert_eq!(first_message(job.as_bytes()), expected, "{place} = {value:?}");
    }
}

#[test]
fn what_joi_did_not_know_is_said_in_ours() {
    for (place, value, expected) in [
        (
            "/taskRoles/1/name",
            json!("ps"),
            format!(
                r#"{ROLE}child "name" fails because ["name" is the name of taskRoles[0] too (line 1); allowed: a name of its own for every role]]]"#
            ),
        ),
        (
            "/jobName",
            json!("123"),
            concat!(
                r#"child "jobName" fails because ["jobName" is a number, which would be taken for a job id (line 1); "#,
                r#"allowed: 1 to 256 characters of A-Z a-z 0-9 - . _ ~, not digits alone]"#
            )
            .to_owned(),
        ),
    ] {
        assert_eq!(first_message(with(place, Some(value)).to_string().as_bytes()), expected);
    }
}

#[test]
fn what_is_no_object_of_json_was_never_seen_by_joi() {
    for (content, expected) in [
        ("", r#"child "jobName" fails because ["jobName" is required]"#),
        (" \n ", r#"child "jobName" fails because ["jobName" is required]"#),
        ("{}", r#"child "jobName" fails because ["jobName" is required]"#),
        ("[]", r#""value" must be an object"#),
        ("null", "Unexpected token n in JSON at position 0"),
        ("\n 7", "Unexpected token 7 in JSON at position 2"),
        ("\"x\"", "Unexpected token \" in JSON at position 0"),
    ] {
        assert_eq!(first_message(content.as_bytes()), expected, "{content:?}");
    }
    let cut = first_message(b"{\"jobName\": ");
    assert!(cut.starts_with("syntax error at line 1, column 13: "), "{cut}");
    let bytes = first_message(b"{\"jobName\": \"\xff\"}");
    assert!(bytes.starts_with("is not UTF-8: byte 13"), "{bytes}");
}

#[test]
fn every_path_is_taken_apart() {
    let key = |name: &str| Step::Key(name.to_owned());
    for (path, expected) in [
        ("a", vec![key("a")]),
        ("taskRoles[10].portList[0]", vec![key("taskRoles"), Step::Position(10), key("portList"), Step::Position(0)]),
        (r#"taskRoles[0]["port number"].x"#, vec![key("taskRoles"), Step::Position(0), key("port number"), key("x")]),
        ("jobEnvs.a.b[0]", vec![key("jobEnvs"), key("a.b[0]")]),
        (r#"jobEnvs["a\"b"]"#, vec![key("jobEnvs"), key("a\"b")]),
        ("[", vec![key("")]),
    ] {
        assert_eq!(steps(path), expected, "{path}");
    }
}
