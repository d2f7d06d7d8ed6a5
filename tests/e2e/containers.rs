//! The main job in containers: every real OpenPAI file runs in Docker, and its tasks see what they see as processes.

use crate::harness::docker::Dockerd;
use crate::harness::{Cluster, Node, until};
use crate::main_job::{DEFAULT_FS, check_places, difference, files, normalised, prepared};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const IMAGE: &str = "wharf-test/busybox:1";

/// What is another thing in a container, or belongs to a process alone.
const DIFFERENT: [&str; 8] = [
    "PWD",
    "LANG",
    "HOSTNAME",
    "PAI_WORK_DIR",
    "CUDA_VISIBLE_DEVICES",
    "WHARF_TASK_NONCE",
    "PAI_OUTPUT_DIR",
    "PAI_DATA_DIR",
];

/// `shared` is the folder that jobs may name.
fn node(name: &str, gpus: &str, dockerd: &Dockerd, shared: &Path) -> Node {
    Node {
        runtime: "docker".to_owned(),
        more: format!("docker_socket = '{}'\njob_dirs = ['{}']\n", dockerd.socket().display(), shared.display()),
        ..Node::new(name, gpus)
    }
}

/// The file with its image replaced, and its output going to a folder of this node that the tasks can write.
fn in_container(text: &str, command: &str, folder: &Path) -> String {
    let mut result = String::new();
    for line in prepared(text, command).lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        match line.trim_start() {
            field if field.starts_with("\"image\":") => {
                result.push_str(&format!(
                    "{indent}\"image\": \"{IMAGE}\",\n{indent}\"outputDir\": \"{}\",\n",
                    folder.display()
                ));
            }
            field if field.starts_with("\"outputDir\":") => {}
            // A folder of the node has to be there.
            field if field.starts_with("\"dataDir\": \"/") => {
                result.push_str(&format!("{indent}\"dataDir\": \"{}\",\n", folder.display()));
            }
            _ => {
                result.push_str(line);
                result.push('\n');
            }
        }
    }
    result
}

fn comparable(environment: &str) -> String {
    let kept = environment.lines().filter(|line| {
        let name = line.split('=').next().unwrap_or_default();
        !DIFFERENT.contains(&name)
    });
    kept.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_real_job_file_runs_in_containers_and_sees_the_same() {
    let Some(dockerd) = Dockerd::get("job files in containers") else { return };
    let shared = tempfile::tempdir().expect("a folder of ours");
    let nodes = vec![
        node("titan", "sim:2xTITANX", &dockerd, shared.path()),
        node("h100-0", "sim:8xH100", &dockerd, shared.path()),
        node("h100-1", "sim:4xH100", &dockerd, shared.path()),
    ];
    let cluster = Cluster::with(nodes, DEFAULT_FS);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jobs");
    let mut wrong = Vec::new();
    for path in files() {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("job files are UTF-8");
        let found = comparable(&run(&cluster, shared.path(), &name, &text));
        let expected = comparable(&fs::read_to_string(golden.join(format!("{name}.env"))).expect("a golden file"));
        if found != expected {
            wrong.push(format!("{name}:\n{}", difference(&expected, &found)));
        }
    }
    assert!(wrong.is_empty(), "not as in tests/golden/jobs:\n{}", wrong.join("\n"));
    for uid in cluster.node_uids() {
        // A job has ended before the last of its containers is removed.
        until(&format!("no container is left of node {uid}"), || {
            dockerd
                .docker(&["ps", "-aq", "--filter", &format!("label=wharf.node_uid={uid}")])
                .is_empty()
                .then_some(())
        });
    }
}

/// Runs one file and returns what its tasks printed, normalised.
fn run(cluster: &Cluster, shared: &Path, name: &str, text: &str) -> String {
    // A success may end the others, so nobody ends before everybody has printed. The output folder is mounted.
    let together = shared.join(format!("met-{name}"));
    fs::create_dir(&together).expect("the folder is ours");
    fs::set_permissions(&together, PermissionsExt::from_mode(0o777)).expect("it is ours");
    let command = "env | LC_ALL=C sort; \
         touch $PAI_OUTPUT_DIR/$PAI_CURRENT_TASK_ROLE_NAME-$PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX; \
         until [ $(ls $PAI_OUTPUT_DIR | wc -l) -ge $PAI_JOB_TASK_COUNT ]; do sleep 0.05; done";
    let file = cluster.path(&format!("{name}.json"));
    fs::write(&file, in_container(text, command, &together)).expect("the folder is ours");
    let file = file.to_str().expect("a text");
    let output = cluster.cli(&["--json", "submit", file, "--user", "alice", "--wait"]).expect(0);
    let id = output.json()["job_id"].to_string();
    let shown: Value = cluster.show(&id);
    assert_eq!(shown["state"], "SUCCEEDED", "{name}: {shown}");
    let mut found = String::new();
    for task in shown["tasks"].as_array().expect("show lists tasks") {
        let (role, index) = (task["role"].as_str().expect("a role"), task["index"].to_string());
        let printed = cluster.cli(&["logs", &id, "--role", role, "--index", &index]).expect(0).text();
        check_places(&printed, &shown, name);
        found.push_str(&format!("== {role} {index}\n{}", normalised(&printed, &shown, cluster)));
    }
    found
}
