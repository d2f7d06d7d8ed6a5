//! What a task cannot reach: another user's task, its own log, records and socket, and its agent's files.

use crate::harness::docker::Dockerd;
use crate::harness::{Cluster, Node, attack, job, role, skip, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Two accounts that every machine has.
const USERS: [&str; 2] = ["nobody", "daemon"];

fn of(name: &str, command: &str, marker: &str) -> Value {
    let mut job = job(name, &[role("main", 1, command)]);
    job["jobEnvs"] = json!({ "MARKER": marker });
    job
}

#[test]
fn a_process_reaches_neither_others_nor_its_own_records() {
    const WHAT: &str = "tasks of two users as processes";
    if !nix::unistd::Uid::effective().is_root() {
        return skip(WHAT, "only root runs tasks as others");
    }
    if USERS.iter().any(|user| !matches!(nix::unistd::User::from_name(user), Ok(Some(_)))) {
        return skip(WHAT, "this machine has no users nobody and daemon");
    }
    let _row = attack(
        "tasks",
        "another user's task: environment, files, socket, signals; its own records",
        1,
        "nothing reached",
    );
    let node = Node { more: "run_as = 'submitter'\n".to_owned(), ..Node::new("n0", "none") };
    let cluster = Cluster::with(vec![node], "");
    // Their own folders are below it.
    fs::set_permissions(cluster.folder(), fs::Permissions::from_mode(0o711)).expect("the folder is ours");
    let [victim_user, thief_user] = USERS;
    let victim = cluster.submit_with(
        &of("victim", "echo its-output; trap 'echo told' TERM; while :; do sleep 0.1; done", "of-the-victim"),
        &["--user", victim_user],
    );
    let shown = cluster.wait_running(&victim);
    let output = || cluster.cli(&["logs", &format!("{victim_user}/victim")]).text();
    until("its output is written", || output().contains("its-output").then_some(()));
    let task = format!("{victim}.{}.0.0", shown["runs"][0]["run_id"]);
    let (state, run) = (cluster.path("a0").display().to_string(), cluster.path("r0").display().to_string());
    assert!(fs::metadata(cluster.path(&format!("a0/tasks/{task}/command"))).is_ok(), "the paths below are right");
    // Each line says what it got, if anything.
    let script = format!(
        "tried=0; shims=0; got() {{ echo \"GOT $1\"; }}\n\
         try() {{ tried=$((tried + 1)); }}\n\
         grep -alz MARKER=of-me /proc/self/environ >/dev/null && echo looking-works\n\
         for e in /proc/[0-9]*/environ; do try; grep -aqz MARKER=of-the-victim $e 2>/dev/null && got $e; done\n\
         ls {state}/tasks >/dev/null 2>&1 && got listing\n\
         mine=${{PAI_WORK_DIR%/work}}\n\
         for d in {state}/tasks/{task} $mine; do\n\
           for f in task.json shim.json started.json spec command exit log.0; do\n\
             try; cat $d/$f >/dev/null 2>&1 && got $d/$f; (: >>$d/$f) 2>/dev/null && got writing-$d/$f\n\
           done\n\
           (: >$d/new) 2>/dev/null && got making-in-$d\n\
         done\n\
         ls {state}/tasks/{task}/work >/dev/null 2>&1 && got its-folder\n\
         for t in {task} ${{mine##*/}}; do try; ls {run}/$t >/dev/null 2>&1 && got socket-$t; done\n\
         cat {state}/journal.db >/dev/null 2>&1 && got journal\n\
         for p in /proc/[0-9]*; do\n\
           try; grep -aqs '^{state}/shim/' $p/cmdline || continue\n\
           shims=$((shims + 1)); ls $p/fd >/dev/null 2>&1 && got $p/fd; cat $p/environ >/dev/null 2>&1 && got $p/environ\n\
         done\n\
         for p in $(ps -o pid= -u {victim_user}); do kill -TERM $p 2>/dev/null && got killing-$p; done\n\
         [ $tried -gt 20 ] && [ $shims -ge 2 ] && echo tried-enough\n"
    );
    let thief = cluster.submit_with(&of("thief", &script, "of-me"), &["--user", thief_user]);
    let shown = cluster.wait_end(&thief);
    assert_eq!(shown["state"], "SUCCEEDED", "{shown}");
    let said = cluster.cli(&["logs", &format!("{thief_user}/thief")]).text();
    assert!(said.contains("looking-works") && said.contains("tried-enough"), "{said}");
    assert!(!said.contains("GOT"), "{said}");
    assert_eq!(cluster.show(&victim)["state"], "RUNNING");
    assert!(!output().contains("told"), "{}", output());
    cluster.cli(&["--as-user", victim_user, "stop", &victim, "--grace", "0"]).expect(0);
    cluster.wait_end(&victim);
}

#[test]
fn what_a_container_is_told_is_not_told_by_docker_or_ps() {
    let Some(dockerd) = Dockerd::get("variables of a task in a container") else { return };
    let _row = attack("secrets", "a variable in ps, docker inspect, logs, --json", 1, "not found");
    let more = format!("docker_socket = '{}'\n", dockerd.socket().display());
    let node = Node { runtime: "docker".to_owned(), more, ..Node::new("n0", "none") };
    let cluster = Cluster::with(vec![node], "");
    let mut wanted = of("told", "echo it has $MARKER; while :; do sleep 0.1; done", "a-password-of-the-job");
    wanted["image"] = json!("wharf-test/busybox:1");
    let id = cluster.submit(&wanted);
    cluster.wait_running(&id);
    until("it has its variable", || {
        cluster.cli(&["logs", &id]).text().contains("it has a-password-of-the-job").then_some(())
    });
    let label = format!("label=wharf.node_uid={}", cluster.node_uids()[0]);
    let container = dockerd.docker(&["ps", "--quiet", "--filter", &label]).trim().to_owned();
    let inspected = dockerd.docker(&["inspect", &container]);
    assert!(inspected.contains("wharf.nonce") && !inspected.contains("a-password-of-the-job"), "{inspected}");
    let processes = fs::read_dir("/proc").expect("there is a /proc").flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let telling = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    assert_eq!(telling.filter(|line| line.contains("a-password-of-the-job")).collect::<Vec<_>>(), [""; 0]);
    for args in [vec!["job", "show", &id], vec!["jobs", "--all"], vec!["events"], vec!["nodes"]] {
        let args: Vec<&str> = std::iter::once("--json").chain(args.iter().map(|arg| &**arg)).collect();
        let shown = cluster.cli(&args).expect(0).text();
        assert!(!shown.contains("a-password-of-the-job"), "{args:?}: {shown}");
    }
    for log in ["agent0", "controller"] {
        assert!(!cluster.log_of(log).contains("a-password-of-the-job"), "{log}");
    }
    cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
    cluster.wait_end(&id);
    dockerd.remove_of(cluster.node_uids());
}
