//! What a node's operator does not allow is refused with its rule and where it is set; what is allowed runs.

use crate::harness::docker::Dockerd;
use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, attack, job, role, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

const IMAGE: &str = "wharf-test/busybox:1";

fn in_container(name: &str, command: &str, fields: &Value) -> Value {
    let whole = json!({
        "image": IMAGE,
        "extras": {"wharf": {"container": {"user": "1000:1000", "pull": "never"}}}
    });
    with(with(job(name, &[role("main", 1, command)]), &whole), fields)
}

fn asking(container: Value) -> Value {
    let own = with(json!({"user": "1000:1000", "pull": "never"}), &container);
    json!({"extras": {"wharf": {"container": own}}})
}

#[test]
fn a_refusal_names_the_rule_and_its_twin_runs() {
    let Some(dockerd) = Dockerd::get("rules of a node for containers") else { return };
    let _row = attack(
        "node policy",
        "host paths, .., links out, Docker's socket, images, users, capabilities",
        10,
        "refused, the rule named; what is allowed ran",
    );
    let shared = tempfile::tempdir().expect("a folder of ours");
    let at = |name: &str| shared.path().join(name).display().to_string();
    for name in ["jobs", "data"] {
        fs::create_dir(at(name)).expect("the folder is ours");
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o777)).expect("the folder is ours");
    }
    let socket = dockerd.socket();
    symlink(socket.parent().expect("it is in a folder"), at("jobs/docker")).expect("the folder is ours");
    symlink("/etc", at("jobs/etc")).expect("the folder is ours");
    let more = format!(
        "docker_socket = '{}'\npolicy.mounts = ['{}', '{}:ro']\npolicy.users = ['1000-1999']\n\
         policy.capabilities = ['SYS_RESOURCE']\npolicy.images = ['wharf-test/busybox:*']\n",
        socket.display(),
        at("jobs"),
        at("data"),
    );
    let node = Node { runtime: "docker".to_owned(), more, ..Node::new("n0", "none") };
    let cluster = Cluster::with(vec![node], "");
    let file = cluster.path("agent0.toml").display().to_string();
    let refused = [
        (json!({"dataDir": "/srv"}), "policy.mounts"),
        (json!({"outputDir": at("data")}), "policy.mounts"),
        (json!({"dataDir": at("jobs/../..")}), "dataDir: holds '..'"),
        (json!({"dataDir": at("jobs/etc")}), "policy.mounts"),
        (json!({"codeDir": at("jobs/docker")}), "policy.mounts"),
        (json!({"image": "wharf-test/user:1"}), "policy.images"),
        (asking(json!({"user": "0:0"})), "policy.users"),
        (asking(json!({"user": "2000"})), "policy.users"),
        (asking(json!({"user": "1000:5000"})), "policy.groups"),
        (asking(json!({"pidsLimit": 100_000})), "pids_limit"),
        (asking(json!({"capabilities": ["SYS_ADMIN"]})), "policy.capabilities"),
        (asking(json!({"ulimits": {"nice": 40}})), "policy.capabilities"),
    ];
    let allowed = [
        json!({"dataDir": at("data"), "outputDir": at("jobs/out")}),
        json!({"codeDir": at("data"), "outputDir": at("jobs")}),
        asking(json!({"user": "1999", "capabilities": ["SYS_RESOURCE"], "pidsLimit": 1000})),
        asking(json!({"user": "1000:100"})),
    ];
    fs::write(at("data/file"), "x").expect("the folder is ours");
    let submit = |kind: &str, i: usize, command: &str, fields: &Value| {
        cluster.submit(&in_container(&format!("{kind}{i}"), command, fields))
    };
    let wrong: Vec<_> =
        refused.iter().enumerate().map(|(i, (fields, _))| submit("wrong", i, "echo it ran", fields)).collect();
    let right: Vec<_> = allowed.iter().enumerate().map(|(i, fields)| submit("right", i, "id -u", fields)).collect();
    for (id, (fields, rule)) in wrong.iter().zip(&refused) {
        let shown = cluster.wait_end(id);
        let reason = shown["exit"]["reason"].as_str().unwrap_or_default().to_owned();
        assert_eq!(shown["state"], "FAILED", "{fields} {shown}");
        let said = if rule.starts_with("p") { format!("{file}: {rule}") } else { (*rule).to_owned() };
        assert!(reason.contains(&said), "{fields}: {reason}");
        assert_eq!(cluster.cli(&["logs", id]).text(), "", "{fields}: nothing of it ran");
    }
    for (id, fields) in right.iter().zip(&allowed) {
        let shown = cluster.wait_end(id);
        assert_eq!(shown["state"], "SUCCEEDED", "{fields} {shown}");
    }
    dockerd.remove_of(cluster.node_uids());
}

#[test]
fn one_users_tasks_together_keep_the_nodes_limits() {
    let _row = attack("node policy", "more than one user's share of a node", 1, "refused, other users served");
    let more = "policy.per_user.cpus = 1\n".to_owned();
    let cluster = Cluster::with(vec![Node { more, ..Node::new("n0", "none") }], "");
    let wait = |name: &str| format!("until [ -e {} ]; do sleep 0.05; done", quoted(cluster.path(name)));
    let of =
        |name: &str, user: &str| cluster.submit_with(&job(name, &[role("main", 1, &wait("go"))]), &["--user", user]);
    let first = of("first", "ann");
    cluster.wait_running(&first);
    let second = of("second", "ann");
    let file = cluster.path("agent0.toml").display().to_string();
    let told = |text: &str| text.contains("policy.per_user.cpus") && text.contains(&file);
    until("the node's word reaches whoever asks", || {
        let asked = cluster.cli(&["--as-user", "ann", "job", "explain", &second]).text();
        told(&asked).then_some(())
    });
    let other = of("other", "bob");
    cluster.wait_running(&other);
    assert_ne!(cluster.show(&second)["state"], "RUNNING");
    cluster.touch("go");
    for job in [first, second, other] {
        assert_eq!(cluster.wait_end(&job)["state"], "SUCCEEDED");
    }
}

#[test]
fn a_task_runs_no_longer_than_its_node_lets_it() {
    let more = "policy.max_run_time = '2s'\n".to_owned();
    let cluster = Cluster::with(vec![Node { more, ..Node::new("n0", "none") }], "");
    let short = cluster.submit(&job("short", &[role("main", 1, "true")]));
    let long = cluster.submit(&job("long", &[role("main", 1, "sleep 600")]));
    assert_eq!(cluster.wait_end(&short)["state"], "SUCCEEDED");
    let shown = cluster.wait_end(&long);
    let reason = shown["exit"]["reason"].as_str().unwrap_or_default();
    assert_eq!(shown["state"], "FAILED", "{shown}");
    assert!(reason.contains("policy.max_run_time") && reason.contains("2s"), "{reason}");
}
