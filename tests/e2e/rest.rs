//! OpenPAI's REST API from outside: `curl` against a real controller, and clients that mean no good.
//!
//! What `curl` gets is compared as a whole, status line, headers and body, with the transcripts in
//! `tests/golden/rest`, which say what was asked too; `WHARF_BLESS=1` writes their answers anew.

mod hostile;
pub(crate) mod raw;
mod transcript;

use crate::harness::cluster::wharf;
use crate::harness::{Cluster, Node, Running, skip, until};
use crate::main_job::{DEFAULT_FS, files, prepared};
use raw::{Raw, request};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use transcript::play;

fn has_curl(what: &str) -> bool {
    let found = Command::new("curl").arg("--version").output().is_ok();
    if !found {
        skip(what, "there is no curl");
    }
    found
}

#[test]
fn a_job_from_submit_to_end() {
    play("job", &["sim:4xH100", "sim:2xTITANX"]);
}

#[test]
fn a_job_is_stopped_and_started() {
    play("execution-type", &["none"]);
}

#[test]
fn mistakes_are_answered_as_by_openpai() {
    play("mistakes", &["none"]);
}

#[test]
fn old_paths_without_a_user() {
    play("legacy", &["none"]);
}

#[test]
fn pages_of_other_sites_are_kept_out() {
    play("sites", &["none"]);
}

#[test]
fn every_real_job_file_is_taken_and_given_back() {
    let cluster = Cluster::with(vec![Node::new("n", "none")], DEFAULT_FS);
    for path in files() {
        let original = fs::read_to_string(&path).expect("job files are UTF-8");
        // None of them may run here for long.
        let file = prepared(&original, "true");
        let parsed: Value =
            serde_json::from_slice(&::wharf::jobfile::strict_json(file.as_bytes()).expect("it is JSON"))
                .expect("strict JSON");
        let name = parsed["jobName"].as_str().expect("it has a name");
        let url = format!("/api/v1/user/pai/jobs/{name}");
        let answer = Raw::ask(&cluster, &request("PUT", &url, file.as_bytes()));
        assert_eq!(answer.status, 202, "{}: {}", path.display(), answer.text());
        let config = Raw::ask(&cluster, &request("GET", &format!("{url}/config"), b""));
        assert_eq!(config.json(), parsed, "{}", path.display());
        if serde_json::from_str::<Value>(&file).is_ok() {
            assert_eq!(config.text(), file, "strict JSON comes back byte for byte");
        }
        let stop = request("PUT", &format!("{url}/executionType"), br#"{"value":"STOP"}"#);
        assert_eq!(Raw::ask(&cluster, &stop).status, 202, "{name}");
        until(&format!("{name} is over"), || {
            let detail = Raw::ask(&cluster, &request("GET", &url, b"")).json();
            let state = detail["jobStatus"]["state"].as_str()?.to_owned();
            ["STOPPED", "SUCCEEDED", "FAILED"].contains(&state.as_str()).then_some(())
        });
    }
    let list = Raw::ask(&cluster, &request("GET", "/api/v1/user/pai/jobs", b"")).json();
    assert_eq!(list.as_array().map(Vec::len), Some(files().len()));
}

#[test]
fn the_file_of_a_job_outlives_its_controller() {
    let cluster = Cluster::start(&["none"]);
    let file = "{\"jobName\": \"kept\",\n \"image\": \"none\", \"n\": 1.50, \"taskRoles\": [{\"name\": \"r\", \"taskNumber\": 1, \
        \"cpuNumber\": 999, \"memoryMB\": 100, \"gpuNumber\": 0, \"command\": \"true\"}]}";
    let put = Raw::ask(&cluster, &request("PUT", "/api/v1/user/ann/jobs/kept", file.as_bytes()));
    assert_eq!(put.status, 202, "{}", put.text());
    cluster.kill9_controller();
    cluster.start_controller();
    cluster.wait_ready();
    let config = request("GET", "/api/v1/user/ann/jobs/kept/config", b"");
    assert_eq!(Raw::ask(&cluster, &config).text(), file);
    // The same over HTTP/2, where gRPC is.
    if has_curl("REST over HTTP/2") {
        let url = format!("http://{}/api/v1/jobs/ann~kept/config", cluster.address());
        let curl = Command::new("curl").args(["-sS", "--http2-prior-knowledge", &url]).output().expect("it starts");
        assert_eq!(String::from_utf8_lossy(&curl.stdout), file, "{}", String::from_utf8_lossy(&curl.stderr));
    }
}

#[test]
fn a_unix_socket_says_who_calls() {
    if !has_curl("REST on a Unix socket") {
        return;
    }
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let open = |path: &Path, mode| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("it is ours");
    };
    open(folder.path(), 0o755);
    let place = |name: &str| folder.path().join(name).display().to_string();
    let socket = place("c.sock");
    let settings = format!("data_dir = '{}'\nlisten = 'unix:{socket}'\n", place("s"));
    fs::write(place("c.toml"), settings).expect("the folder is ours");
    let _controller = Running::start(wharf(&["controller", "--config", &place("c.toml")]));
    until("the controller listens", || UnixStream::connect(&socket).ok());

    let ask = |uid: Option<u32>, args: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-q", "-sS", "-m", "60", "--unix-socket", &socket, "-H", "Content-Type: application/json"]);
        curl.args(["-w", " %{http_code}"]).args(args);
        if let Some(uid) = uid {
            curl.uid(uid);
        }
        let output = curl.output().expect("curl starts");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let file = r#"{"jobName": "mine", "image": "none", "taskRoles": [{"name": "r", "taskNumber": 1, "cpuNumber": 999,
        "memoryMB": 100, "gpuNumber": 0, "command": "true"}]}"#;
    // Nobody is named: the job belongs to whoever connects. No browser gets here, so any host will do.
    let posted = ask(None, &["-X", "POST", "-d", file, "http://any.example/api/v1/jobs"]);
    assert_eq!(posted, r#"{"message":"update job mine successfully"} 202"#);
    let detail = ask(None, &["http://x/api/v1/jobs/mine"]);
    let own = nix::unistd::Uid::effective();
    let name = nix::unistd::User::from_uid(own).ok().flatten().map_or(own.to_string(), |user| user.name);
    assert!(detail.contains(&format!(r#""username":"{name}""#)), "{detail}");

    // Another account is itself, whatever it says.
    let (uid, other) = if own.is_root() { (Some(3_999_999), "3999999".to_owned()) } else { (None, name.clone()) };
    let stranger = if own.is_root() { name.as_str() } else { "root" };
    let path = |tail: &str| format!("http://x/api/v1/user/{stranger}/jobs{tail}");
    let refused = ask(uid, &["-X", "POST", "-d", file, &path("")]);
    let message = format!("User {other} is not allowed to submit jobs as {stranger}.");
    assert_eq!(refused, format!(r#"{{"code":"ForbiddenUserError","message":"{message}"}} 403"#));
    if !own.is_root() {
        return;
    }
    for value in ["STOP", "START"] {
        let value = format!(r#"{{"value":"{value}"}}"#);
        let refused = ask(uid, &["-X", "PUT", "-d", &value, &path("/mine/executionType")]);
        let message = format!("User {other} is not allowed to execute job mine.");
        assert_eq!(refused, format!(r#"{{"code":"ForbiddenUserError","message":"{message}"}} 403"#));
    }
    assert!(ask(uid, &[&path("/mine")]).contains(r#""state":"WAITING""#), "everybody may read");
    // Root may act as anybody.
    let posted = ask(None, &["-X", "POST", "-d", file, "http://x/api/v1/user/alice/jobs"]);
    assert_eq!(posted, r#"{"message":"update job mine successfully"} 202"#);
}
