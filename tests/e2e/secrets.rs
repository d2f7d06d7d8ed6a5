//! A job's secrets: its tasks see them, and nobody finds them anywhere else.

use crate::harness::attack::attack;
use crate::harness::cluster::wharf;
use crate::harness::docker::Dockerd;
use crate::harness::job::with;
use crate::harness::{Cluster, Etcd, Node, Running, job, role, until};
use crate::rest::raw::{Raw, request};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use wharf::store::etcd::{EtcdSettings, EtcdStore};
use wharf::store::{Range, Store};

const SECRET: &str = "hidden-marker-5d81c0e7";
/// Is found where a secret would be: so the looks below look at the right places.
const OPEN: &str = "open-marker-91b4a3f2";
/// Everything that lists or shows.
const LISTS: [&[&str]; 9] = [
    &["jobs", "--all"],
    &["job", "show", "told"],
    &["job", "explain", "told"],
    &["nodes"],
    &["node", "show", "n0"],
    &["gpus"],
    &["faults", "--all"],
    &["events"],
    &["logs", "told"],
];

/// Its task says its secret backwards, and goes on.
fn told() -> Value {
    let command = "printf %s \"$TOKEN\" | rev; echo; while :; do sleep 0.1; done";
    let extras = json!({ "wharf": { "secrets": { "TOKEN": SECRET, "OTHER": "unused" } } });
    let fields = json!({ "jobEnvs": { "SHOWN": OPEN }, "secrets": { "of_openpai": SECRET }, "extras": extras });
    with(job("told", &[role("main", 1, command)]), &fields)
}

/// The same with its secrets among its other variables, and named by a list.
fn told_by_a_list() -> Value {
    let extras = json!({ "wharf": { "secrets": ["TOKEN", "OTHER"] } });
    let env = json!({ "SHOWN": OPEN, "TOKEN": SECRET, "OTHER": "unused" });
    with(told(), &json!({ "jobEnvs": env, "extras": extras }))
}

/// As it is, and as records may have it.
fn needles(marker: &str) -> [Vec<u8>; 2] {
    [marker.into(), STANDARD.encode(marker).into()]
}

fn holds(bytes: &[u8], marker: &str) -> bool {
    needles(marker).iter().any(|needle| bytes.windows(needle.len()).any(|part| part == needle.as_slice()))
}

/// Files below a folder in which a marker stands.
fn files_with(folder: &Path, marker: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let Ok(kind) = fs::symlink_metadata(&path).map(|found| found.file_type()) else { continue };
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() && fs::read(&path).is_ok_and(|bytes| holds(&bytes, marker)) {
                found.push(path);
            }
        }
    }
    found
}

fn wait_told(cluster: &Cluster, id: &str) {
    let backwards: String = SECRET.chars().rev().collect();
    until("the task sees its secret", || cluster.cli(&["logs", id]).text().contains(&backwards).then_some(()));
}

/// Nobody is told, and no command line has it.
fn assert_hidden_from_people(cluster: &Cluster) {
    for list in LISTS {
        for format in [&["--json"][..], &[]] {
            let output = cluster.cli(&[format, list].concat()).expect(0);
            let all = [output.stdout.as_slice(), output.errors().as_bytes()].concat();
            assert!(!holds(&all, SECRET), "{list:?}: {}", String::from_utf8_lossy(&all));
        }
    }
    let of_job = format!("/api/v1/user/{}/jobs/told", cluster.show("told")["user"].as_str().expect("a text"));
    let config = Raw::ask(cluster, &request("GET", &format!("{of_job}/config"), b"")).text();
    assert!(config.contains(OPEN) && config.contains("\"TOKEN\":\"******\""), "{config}");
    assert!(config.contains("\"of_openpai\":\"******\"") && !config.contains(SECRET), "{config}");
    for target in [&of_job, "/metrics"] {
        let said = Raw::ask(cluster, &request("GET", target, b"")).text();
        assert!(said.len() > 20 && !holds(said.as_bytes(), SECRET), "{target}: {said}");
    }
    let processes = fs::read_dir("/proc").expect("there is a /proc").flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let telling = lines.filter(|line| holds(line, SECRET)).map(|line| String::from_utf8_lossy(&line).into_owned());
    assert_eq!(telling.collect::<Vec<_>>(), [""; 0]);
}

/// Stores, journals, records, sockets' folders, daemons' logs: all of it is below one folder.
fn assert_on_no_disk(cluster: &Cluster, known_in: &[&str]) {
    let shown = files_with(cluster.folder(), OPEN);
    for name in known_in {
        assert!(shown.iter().any(|path| path.to_string_lossy().contains(name)), "{name}: {shown:?}");
    }
    assert_eq!(files_with(cluster.folder(), SECRET), Vec::<PathBuf>::new());
}

/// A command beside the task sees what the task sees, also by the agent that has taken the task over.
fn assert_seen_beside(cluster: &Cluster, id: &str) {
    let beside = || cluster.cli(&["exec", id, "--", "sh", "-c", "echo $TOKEN $SHOWN"]).expect(0).text();
    assert_eq!(beside(), format!("{SECRET} {OPEN}\n"));
    cluster.kill9_agent(0);
    cluster.start_agent(0);
    cluster.wait_ready();
    let again = until("the task was taken over", || {
        let output = cluster.cli(&["exec", id, "--", "sh", "-c", "echo $TOKEN $SHOWN"]);
        (output.code == 0).then(|| output.text())
    });
    assert_eq!(again, format!("{SECRET} {OPEN}\n"));
}

#[test]
fn a_task_sees_its_secrets_and_nobody_else_finds_them() {
    let _row =
        attack("secrets", "a marker in stores, files, ps, logs, events, --json", 1, "not found, the task sees it");
    let cluster = Cluster::start(&["none"]);
    let id = cluster.submit(&told());
    cluster.wait_running(&id);
    wait_told(&cluster, &id);
    assert_hidden_from_people(&cluster);
    assert_on_no_disk(&cluster, &["/c/store.db", "/command"]);
    assert_seen_beside(&cluster, &id);
    // From what its store has, another controller runs the job anew.
    cluster.kill9_controller();
    cluster.start_controller();
    cluster.wait_ready();
    cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
    cluster.wait_end(&id);
    assert_on_no_disk(&cluster, &["/c/store.db"]);
}

#[test]
fn secrets_survive_the_controller_between_submission_and_launch() {
    let cluster = Cluster::start(&["none"]);
    // Nothing of it fits while the other runs.
    let until_go = format!("until [ -e '{}' ]; do sleep 0.05; done", cluster.path("go").display());
    let mut first = job("first", &[role("main", 1, &until_go)]);
    first["taskRoles"][0]["cpuNumber"] = json!(cluster.json(&["nodes"])[0]["cpus"]);
    let first = cluster.submit(&first);
    cluster.wait_running(&first);
    let id = cluster.submit(&told());
    cluster.kill9_controller();
    assert_on_no_disk(&cluster, &["/c/store.db"]);
    cluster.start_controller();
    cluster.wait_ready();
    cluster.touch("go");
    cluster.wait_running(&id);
    wait_told(&cluster, &id);
    cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
    cluster.wait_end(&id);
}

#[test]
fn docker_is_not_told_either() {
    let Some(dockerd) = Dockerd::get("secrets of a task in a container") else { return };
    let _row = attack("secrets", "a marker in docker inspect and dockerd's files", 1, "not found, the task sees it");
    let more = format!("docker_socket = '{}'\n", dockerd.socket().display());
    let cluster = Cluster::with(vec![Node { runtime: "docker".to_owned(), more, ..Node::new("n0", "none") }], "");
    let id = cluster.submit(&with(told(), &json!({ "image": "wharf-test/busybox:1" })));
    cluster.wait_running(&id);
    wait_told(&cluster, &id);
    let container =
        dockerd.docker(&["ps", "-q", "--filter", &format!("label=wharf.node_uid={}", cluster.node_uids()[0])]);
    let container = container.trim();
    for (args, twin) in
        [(["inspect", container], "wharf.nonce"), (["top", container], "sleep"), (["diff", container], "")]
    {
        let said = dockerd.docker(&args);
        assert!(said.contains(twin) && !holds(said.as_bytes(), SECRET), "{args:?}: {said}");
    }
    assert_hidden_from_people(&cluster);
    assert_on_no_disk(&cluster, &["/c/store.db", "/command", "/ssh/environment"]);
    assert_seen_beside(&cluster, &id);
    let of_dockerd = dockerd.socket().parent().expect("it is in a folder").join("root/containers");
    assert!(!files_with(&of_dockerd, container).is_empty(), "the right folder: {}", of_dockerd.display());
    assert_eq!(files_with(&of_dockerd, SECRET), Vec::<PathBuf>::new());
    cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
    cluster.wait_end(&id);
    dockerd.remove_of(cluster.node_uids());
}

#[test]
fn etcd_has_them_sealed_and_a_controller_without_the_key_is_refused() {
    let _row = attack("secrets", "a marker in etcd; a controller without the key", 2, "sealed; refuses to start");
    let etcd = Etcd::start(1);
    let cluster = Cluster::with_two_controllers(vec![Node::new("n0", "none")], &etcd.settings());
    let id = cluster.submit(&told_by_a_list());
    cluster.wait_running(&id);
    wait_told(&cluster, &id);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let settings = EtcdSettings::new(etcd.endpoints());
    let dump = async { EtcdStore::new(settings)?.range(Range::prefix("")).await };
    let (entries, _) = runtime.block_on(dump).expect("etcd answers");
    let with = |marker: &'static str| {
        entries.iter().filter(move |entry| holds(&entry.value, marker)).map(|entry| entry.key.as_str())
    };
    assert!(with(OPEN).any(|key| key.starts_with("spec/")), "the right store");
    assert!(entries.iter().any(|entry| entry.key.starts_with("secret/")));
    assert_eq!(with(SECRET).collect::<Vec<_>>(), [""; 0]);
    assert_on_no_disk(&cluster, &["/command"]);
    // The second is started with a folder of its own: without the key, and then with another one.
    let folder = cluster.path("c2/cluster");
    cluster.kill9_one(true);
    fs::remove_file(&folder).expect("it is ours");
    let refused = |why: &str| {
        cluster.start_second();
        until("it says why it does not start", || {
            let said = cluster.log_of("second");
            (said.contains(why) && said.contains("copy the folder")).then_some(())
        });
        cluster.kill9_one(true);
    };
    refused("is missing");
    let key = folder.join("seal.key");
    fs::write(&key, "0123456789abcdef".repeat(4)).expect("it is ours");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("it is ours");
    refused("is not the key");
    // With a copy of the right one it leads when the first is gone, and its tasks have their secrets.
    fs::copy(cluster.path("c/cluster/seal.key"), &key).expect("it is ours");
    cluster.start_second();
    cluster.kill9_one(false);
    let again = with_name(told(), "again");
    let again = until("the second leads", || {
        let output =
            cluster.cli_with(&["--json", "submit", "-", "--request-id", "again"], again.to_string().as_bytes());
        (output.code == 0).then(|| output.json()["job_id"].to_string())
    });
    cluster.wait_running(&again);
    wait_told(&cluster, &again);
    for job in [&id, &again] {
        cluster.cli(&["stop", job, "--grace", "0"]).expect(0);
        cluster.wait_end(job);
    }
}

#[test]
fn a_lost_key_costs_the_secrets_and_nothing_else() {
    let cluster = Cluster::start(&["none"]);
    let place = format!("sqlite:{}/c", cluster.folder().display());
    let forget = || wharf(&["--json", "store", "forget-secrets", "--store", &place]);
    let id = cluster.submit(&told());
    cluster.wait_running(&id);
    wait_told(&cluster, &id);
    let refused = Running::start(forget()).finish();
    assert!(refused.code == 1 && refused.errors().contains("in use"), "{}", refused.errors());
    cluster.stop_controller();
    fs::remove_dir_all(cluster.path("c/cluster")).expect("it is ours");
    cluster.start_controller();
    assert_eq!(cluster.wait_controller_ended(), 1);
    let said = cluster.log_of("controller");
    assert!(said.contains("is missing") && said.contains("store forget-secrets"), "{said}");
    let forgotten = Running::start(forget()).finish().expect(0).json();
    assert_eq!(forgotten["jobs"], json!([id.parse::<u64>().expect("a number")]));
    assert_eq!(Running::start(forget()).finish().expect(0).json()["jobs"], json!([]));
    cluster.start_controller();
    cluster.wait_ready();
    // Its task has what it was given, and jobs have secrets again.
    assert_eq!(cluster.show(&id)["state"], "RUNNING");
    assert_seen_beside(&cluster, &id);
    let again = cluster.submit(&with_name(told(), "again"));
    cluster.wait_running(&again);
    wait_told(&cluster, &again);
    for job in [&id, &again] {
        cluster.cli(&["stop", job, "--grace", "0"]).expect(0);
        cluster.wait_end(job);
    }
}

fn with_name(job: Value, name: &str) -> Value {
    with(job, &json!({ "jobName": name }))
}

#[test]
fn a_refused_file_shows_no_secret() {
    let cluster = Cluster::start(&["none"]);
    let wrong = [
        json!({ "TOKEN": [SECRET] }),
        json!({ "TOKEN": { "a": SECRET } }),
        json!({ "not a name": SECRET }),
        json!({ "WHARF_X": SECRET }),
        json!({ "SHOWN": SECRET }),
        json!({ "TOKEN": format!("{SECRET}\0") }),
        json!({ "TOKEN": SECRET.repeat(6000) }),
        json!([SECRET]),
        json!(SECRET),
    ];
    for secrets in wrong {
        let file = with(told(), &json!({ "extras": { "wharf": { "secrets": secrets } } })).to_string();
        for args in [&["--json", "submit", "-"][..], &["validate", "-"]] {
            let output = cluster.cli_with(args, file.as_bytes()).expect(2);
            let all = [output.stdout.as_slice(), output.errors().as_bytes()].concat();
            let text = String::from_utf8_lossy(&all).into_owned();
            assert!(text.contains("extras.wharf.secrets") && !holds(&all, SECRET), "{args:?}: {text}");
        }
    }
    assert_eq!(files_with(cluster.folder(), SECRET), Vec::<PathBuf>::new());
}
