//! Tokens of people: what each role may do, and what is written down of it.

use super::cluster;
use crate::harness::attack::attack;
use crate::harness::cluster::wharf;
use crate::harness::{Cluster, Running, job, role, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn submit(cluster: &Cluster, token: &str, name: &str, command: &str) -> String {
    let file = job(name, &[role("main", 1, command)]).to_string();
    let answer = cluster.as_token_with(token, &["--json", "submit", "-"], file.as_bytes()).expect(0).json();
    answer["job_id"].as_u64().expect("a number").to_string()
}

/// Refused as somebody who may not, with a word of who may.
#[track_caller]
fn refused(cluster: &Cluster, token: &str, args: &[&str], told: &str) {
    let output = cluster.as_token(token, args).expect(4);
    assert!(output.errors().contains(told), "{args:?}: {}", output.errors());
}

#[test]
fn everybody_does_what_their_role_may_and_nothing_else() {
    let cluster = cluster();
    let of = |role: &str, user: &str| cluster.token(&["--role", role, "--user", user]);
    let (alice, bob) = (of("user", "alice"), of("user", "bob"));
    let (olga, ada) = (of("operator", "olga"), of("admin", "ada"));
    let id = submit(&cluster, &alice, "mine", "echo secret-output; exec sleep 1000");
    until("alice's task runs", || {
        let shown = cluster.as_token(&alice, &["--json", "job", "show", &id]).expect(0).json();
        (shown["user"] == "alice" && shown["tasks"][0]["state"] == "RUNNING").then_some(())
    });
    // What everybody sees, and what is alice's alone.
    cluster.as_token(&bob, &["jobs"]).expect(0);
    {
        let _row = attack("roles", "another's job: stop, logs, exec, ssh", 4, "exit 4 and who may; its owner may");
        for args in [&["stop", &id][..], &["logs", &id], &["exec", &id, "--", "true"], &["ssh", &id, "--config"]] {
            refused(&cluster, &bob, args, "belongs to alice; only alice");
        }
    }
    {
        let _row = attack("roles", "a user as another user", 1, "exit 4");
        refused(&cluster, &bob, &["--as-user", "alice", "stop", &id], "may not act as 'alice'");
    }
    for args in [&["logs", &id][..], &["exec", &id, "--", "true"]] {
        refused(&cluster, &olga, args, "only alice or an admin");
    }
    let printed = cluster.as_token(&alice, &["logs", &id]).expect(0);
    assert!(printed.text().contains("secret-output"), "{}", printed.text());
    cluster.as_token(&alice, &["exec", &id, "--", "true"]).expect(0);
    cluster.as_token(&ada, &["exec", &id, "--", "true"]).expect(0);

    // Nodes are operators', tokens are admins'.
    {
        let _row = attack("roles", "a user's token on an operator's call", 1, "exit 4 and who may; an operator may");
        refused(&cluster, &bob, &["node", "cordon", "n0"], "operators and admins may");
    }
    cluster.as_token(&olga, &["node", "cordon", "n0"]).expect(0);
    cluster.as_token(&olga, &["node", "uncordon", "n0"]).expect(0);
    {
        let _row = attack("roles", "tokens listed and made by others than admins", 4, "exit 4; an admin may");
        for token in [&bob, &olga] {
            refused(&cluster, token, &["token", "list"], "admins may");
            refused(&cluster, token, &["token", "create", "--role", "admin", "--user", "eve"], "admins may");
        }
    }
    let listed = cluster.as_token(&ada, &["--json", "token", "list"]).expect(0);
    let secret = ada.split('.').nth(2).expect("a secret");
    assert!(!listed.text().contains(secret), "a list shows a secret");
    assert!(listed.json().as_array().is_some_and(|tokens| tokens.len() == 5), "{}", listed.text());
    cluster.as_token(&ada, &["--as-user", "alice", "jobs"]).expect(0);
    cluster.as_token(&olga, &["stop", &id]).expect(0);

    // Who it was, from where, and what came of it.
    let lines = until("the last is written down", || {
        let lines = cluster.audited("c");
        lines.iter().any(|line| line["user"] == "olga" && line["method"] == "StopJob").then_some(lines)
    });
    let has = |user: &str, method: &str, result: &str| {
        let one =
            |line: &&serde_json::Value| line["user"] == user && line["method"] == method && line["result"] == result;
        let found = lines.iter().find(one).unwrap_or_else(|| panic!("{user} {method} {result}: {lines:#?}"));
        assert!(found["from"].as_str().is_some_and(|from| from.starts_with("tls 127.0.0.1:")), "{found}");
    };
    has("alice", "Submit", "ok");
    has("bob", "StopJob", "not_allowed");
    has("bob", "Logs", "not_allowed");
    has("olga", "StopJob", "ok");
    let text = fs::read_to_string(cluster.path("c/audit.jsonl")).expect("it is there");
    assert!(
        [&alice, &bob, &olga, &ada].iter().all(|token| !text.contains(token.split('.').nth(2).expect("a secret")))
    );
    let mode = |path: &str| fs::metadata(cluster.path(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(["c/audit.jsonl", "c/cluster/ca.key", "a0/identity.json"].map(mode), [0o600; 3]);
    assert_eq!(mode("c/cluster"), 0o700);
}

#[test]
fn tokens_end_by_time_and_by_word_and_no_restore_revives_them() {
    let cluster = cluster();
    let _row = attack("tokens", "expired, revoked, revived by a restore, forged, of another cluster", 7, "refused");
    let short = cluster.token(&["--role", "user", "--user", "alice", "--ttl", "2s"]);
    cluster.as_token(&short, &["jobs"]).expect(0);
    until("the token has expired", || {
        let output = cluster.as_token(&short, &["jobs"]);
        (output.code == 4 && output.errors().contains("has expired at")).then_some(())
    });

    let token = cluster.token(&["--role", "admin", "--user", "eve"]);
    cluster.as_token(&token, &["token", "list"]).expect(0);
    let saved = cluster.path("saved");
    let store = |words: &[&str]| {
        let args: Vec<&str> = ["store"].iter().chain(words).copied().collect();
        Running::start(wharf(&args)).finish().expect(0)
    };
    let (file, settings) = (saved.to_str().expect("a text"), cluster.path("controller.toml"));
    let settings = settings.to_str().expect("a text");
    store(&["backup", "--config", settings, file]);
    let id = token.split('.').nth(1).expect("an id").to_owned();
    // What was begun with it ends with it.
    let mut command = wharf(&["events", "--follow"]);
    command.env("WHARF_CONTROLLER", cluster.tcp()).env("WHARF_TOKEN", &token);
    let follower = Running::start(command);
    cluster.cli(&["token", "revoke", &id]).expect(0);
    refused(&cluster, &token, &["jobs"], "was revoked");
    follower.finish().expect(4);
    // A store of before does not know that.
    cluster.stop_controller();
    store(&["restore", "--config", settings, "--replace", file]);
    cluster.start_controller();
    cluster.wait_ready();
    refused(&cluster, &token, &["jobs"], "was revoked");

    // Half of a token, another cluster's, none.
    let forged = |part: usize, text: &str| {
        let mut parts: Vec<&str> = token.split('.').collect();
        parts[part] = text;
        parts.join(".")
    };
    let nonsense = "A".repeat(43);
    refused(&cluster, &forged(2, &nonsense), &["jobs"], "its secret is wrong");
    refused(&cluster, &forged(1, "0123456789abcdef"), &["jobs"], "its secret is wrong");
    // Of another authority: nobody is spoken to.
    let output = cluster.as_token(&forged(3, &nonsense), &["jobs"]).expect(3);
    assert!(output.errors().to_lowercase().contains("certificate"), "{}", output.errors());
    cluster.as_token("wharf1.x", &["jobs"]).expect(2);
}

#[test]
fn a_login_is_kept_for_its_controller_alone() {
    let _row = attack("tokens", "a login that others may read; another controller listens", 2, "not shown");
    let cluster = cluster();
    let token = cluster.token(&["--role", "user", "--user", "alice"]);
    let home = cluster.path("home");
    fs::create_dir(&home).expect("the folder is ours");
    let run = |args: &[&str], input: &[u8]| {
        let mut command = wharf(args);
        command.env_remove("XDG_CONFIG_HOME").env("HOME", &home);
        let mut running = Running::start(command);
        running.feed(input);
        running.finish()
    };
    let typed = format!("{token}\n");
    let output = run(&["login", &cluster.tcp()], typed.as_bytes()).expect(0);
    assert!(output.text().contains("logged in as alice (user)"), "{}", output.text());
    let file = home.join(".config/wharf/login.json");
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    let who = run(&["--json", "whoami"], b"").expect(0).json();
    assert_eq!((who["user"].as_str(), who["roles"][0].as_str()), (Some("alice"), Some("user")));
    // Another controller is shown nothing: it hears a connection without TLS, which a listener sees the bytes of.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let other = listener.local_addr().expect("it is bound").to_string();
    let heard = std::thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().expect("somebody connects");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).expect("it can be set");
        let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            all.extend_from_slice(&bytes[..count]);
        }
        all
    });
    run(&["--controller", &other, "jobs"], b"").expect(3);
    let heard = String::from_utf8_lossy(&heard.join().expect("it ends")).into_owned();
    assert!(!heard.contains(token.split('.').nth(2).expect("a secret")));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let output = run(&["jobs"], b"").expect(2);
    assert!(output.errors().contains("others may read it"), "{}", output.errors());
    run(&["logout"], b"").expect(0);
    assert!(!file.exists());
}

#[test]
fn a_cluster_of_one_process_is_for_the_account_that_started_it() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::Uid::effective().is_root() {
        return crate::harness::skip("another account at a dev cluster", "only root can take another account");
    }
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let (port, agent) = (crate::harness::port::Port::claim(), format!("unix:{}", place("a.sock")));
    let (address, data) = (format!("127.0.0.1:{}", port.number), place("s"));
    let dev = ["dev", "--data-dir", &data, "--listen", &address, "--agent-listen", &agent, "--gpus", "none"];
    let _dev = Running::start(wharf(&[&dev[..], &["--runtime", "process"]].concat()));
    let _row = attack("wharf dev", "another account, at the controller and at the agent", 2, "exit 4");
    let ask = |uid: Option<u32>, to: &str| {
        let mut command = wharf(&["jobs"]);
        command.env("WHARF_CONTROLLER", to);
        if let Some(uid) = uid {
            command.uid(uid);
        }
        Running::start(command).finish()
    };
    until("it answers whoever has started it", || (ask(None, &address).code == 0).then_some(()));
    let told = ask(Some(3_999_999), &address).expect(4).errors();
    assert!(told.contains("for the account alone that has started them"), "{told}");
    let mut command = wharf(&["gpus", "--agent", &agent]);
    command.uid(3_999_999);
    let told = Running::start(command).finish().expect(4).errors();
    assert!(told.contains("for the account alone that has started them"), "{told}");
}
