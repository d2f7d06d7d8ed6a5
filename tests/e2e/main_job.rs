//! The main job: each real OpenPAI file goes through the whole system, and what its tasks then see is compared with
//! golden files. `WHARF_BLESS=1` writes them anew.
//!
//! Only the commands are replaced, by one that prints the environment; comments, unknown keys and everything else
//! of the files stay as they are.

use crate::harness::job::quoted;
use crate::harness::{Cluster, Node};
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

pub const DEFAULT_FS: &str = "default_fs_uri = 'hdfs://10.0.0.1:9000'";

pub fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pai-jobs");
    let entries = fs::read_dir(folder).expect("the job files are there");
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    files
}

/// The file with its commands replaced, and -2 (run again even after a success) by 0, so that the job ends.
pub fn prepared(text: &str, command: &str) -> String {
    let command = serde_json::to_string(command).expect("text is JSON");
    let mut result = String::new();
    for line in text.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let comma = if line.trim_end().ends_with(',') { "," } else { "" };
        match line.trim_start() {
            field if field.starts_with("\"command\":") => writeln!(result, "{indent}\"command\": {command}{comma}"),
            field if field.starts_with("\"retryCount\": -2") => writeln!(result, "{indent}\"retryCount\": 0{comma}"),
            _ => writeln!(result, "{line}"),
        }
        .expect("a text takes text");
    }
    result
}

/// What the environment printed by a task must agree with in `job show`, then made independent of this run.
pub fn normalised(printed: &str, job: &Value, cluster: &Cluster) -> String {
    let (id, folder) = (job["job_id"].to_string(), cluster.folder().display().to_string());
    let mut lines: Vec<String> = Vec::new();
    for line in printed.lines() {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("not a variable: {line}"));
        let value = match name {
            // Made by the shell, or taken from the account that the task runs as.
            "_" | "SHLVL" | "OLDPWD" | "HOME" | "USER" | "LOGNAME" | "SHELL" | "PATH" => continue,
            "PWD" | "PAI_WORK_DIR" => {
                value.replace(&folder, "<folder>").replace(&format!("/{id}.{id}."), "/<job>.<run>.")
            }
            "WHARF_JOB_ID" => value.replace(&id, "<job>"),
            "WHARF_RUN_ID" => value.replace(&id, "<run>"),
            "WHARF_TASK_NONCE" => "<nonce>".to_owned(),
            "WHARF_TASK_ID" => value.replacen(&format!("{id}.{id}."), "<job>.<run>.", 1),
            "APP_ID" | "PAI_CONTAINER_ID" => value.replacen(&format!("_{id}_{id}"), "_<job>_<run>", 1),
            "WHARF_TASK_SOCKET" => {
                value.replace(&folder, "<folder>").replace(&format!("/{id}.{id}."), "/<job>.<run>.")
            }
            "NVIDIA_VISIBLE_DEVICES" | "CUDA_VISIBLE_DEVICES" if value.starts_with("GPU-") => {
                value.split(',').map(|_| "<gpu>").collect::<Vec<_>>().join(",")
            }
            _ if name.contains("HOST_IP") || name == "PAI_CURRENT_CONTAINER_IP" => replaced_ips(value),
            _ if name.contains("PORT") || name.contains("HOST_LIST") => replaced_ips(&replaced_ports(value)),
            _ => value.to_owned(),
        };
        lines.push(format!("{name}={value}"));
    }
    // Names sort bytewise; with values in between, `A=` and `A_B=` would change places.
    lines.sort_by(|a, b| a.split('=').next().cmp(&b.split('=').next()));
    lines.join("\n") + "\n"
}

/// Numbers of five digits after a beginning, a comma or a colon.
fn replaced_ports(value: &str) -> String {
    let mut result = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[at..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |end| at + end);
        result.push_str(&rest[..at]);
        result.push_str(if digits - at == 5 { "<port>" } else { &rest[at..digits] });
        rest = &rest[digits..];
    }
    result + rest
}

fn replaced_ips(value: &str) -> String {
    (1..=9).fold(value.to_owned(), |value, i| value.replace(&format!("127.0.1.{i}"), "<ip>"))
}

/// Every address and port that a task is told is the one that is shown.
pub fn check_places(printed: &str, job: &Value, file: &str) {
    for task in job["tasks"].as_array().expect("show lists tasks") {
        let of = format!("{}_{}", task["role"].as_str().expect("a role"), task["index"]);
        let ip = task["ip"].as_str().expect("a placed task has an address");
        assert!(printed.contains(&format!("PAI_HOST_IP_{of}={ip}\n")), "{file}: {of} is not at {ip} in:\n{printed}");
        for (label, ports) in task["ports"].as_object().expect("ports by label") {
            let ports: Vec<String> = ports.as_array().expect("a list").iter().map(ToString::to_string).collect();
            let line = format!("PAI_PORT_LIST_{of}_{label}={}\n", ports.join(","));
            assert!(printed.contains(&line), "{file}: no {line} in:\n{printed}");
        }
    }
}

#[test]
fn every_real_job_file_runs_and_its_tasks_see_what_openpai_promises() {
    let nodes = vec![
        Node::new("titan", "sim:2xTITANX"),
        Node::new("h100-0", "sim:8xH100"),
        Node::new("h100-1", "sim:4xH100"),
    ];
    let cluster = Cluster::with(nodes, DEFAULT_FS);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jobs");
    let bless = std::env::var_os("WHARF_BLESS").is_some();
    let mut wrong = Vec::new();
    let files = files();
    assert!(files.len() >= 20, "{files:?}");
    for path in files {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("job files are UTF-8");
        let found = run(&cluster, &name, &text);
        let expected_path = golden.join(format!("{name}.env"));
        if bless {
            fs::create_dir_all(&golden).expect("the folder can be made");
            fs::write(&expected_path, &found).expect("golden files can be written");
            continue;
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{name}:\n{}", difference(&expected, &found)));
        }
    }
    assert!(wrong.is_empty(), "not as in tests/golden/jobs (WHARF_BLESS=1 writes them anew):\n{}", wrong.join("\n"));
}

/// Runs one file and returns what its tasks printed, normalised.
fn run(cluster: &Cluster, name: &str, text: &str) -> String {
    // A success may end the others, so nobody ends before everybody has printed.
    let together = cluster.path(&format!("met-{name}"));
    fs::create_dir(&together).expect("the folder is ours");
    let command = format!(
        "env | LC_ALL=C sort; touch {0}/$PAI_CURRENT_TASK_ROLE_NAME-$PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX; \
         until [ $(ls {0} | wc -l) -ge $PAI_JOB_TASK_COUNT ]; do sleep 0.05; done",
        quoted(&together)
    );
    std::os::unix::fs::chown(&together, None, None).expect("it is ours");
    fs::set_permissions(&together, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is ours");
    let file = cluster.path(&format!("{name}.json"));
    fs::write(&file, prepared(text, &command)).expect("the folder is ours");
    let file = file.to_str().expect("a text");
    let output = cluster.cli(&["--json", "submit", file, "--user", "alice", "--wait"]).expect(0);
    let id = output.json()["job_id"].to_string();
    let shown = cluster.show(&id);
    assert_eq!(shown["state"], "SUCCEEDED", "{name}: {shown}");
    let mut found = String::new();
    for task in shown["tasks"].as_array().expect("show lists tasks") {
        let (role, index) = (task["role"].as_str().expect("a role"), task["index"].to_string());
        let printed = cluster.cli(&["logs", &id, "--role", role, "--index", &index]).expect(0).text();
        check_places(&printed, &shown, name);
        let _ = write!(found, "== {role} {index}\n{}", normalised(&printed, &shown, cluster));
    }
    found
}

pub fn difference(expected: &str, found: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let missing = old.iter().filter(|line| !new.contains(line)).map(|line| format!("  - {line}"));
    let added = new.iter().filter(|line| !old.contains(line)).map(|line| format!("  + {line}"));
    missing.chain(added).take(60).collect::<Vec<_>>().join("\n")
}
