//! Nodes that join, renew, are removed; controllers that take over; listeners that stay closed.

use super::cluster;
use crate::harness::attack::attack;
use crate::harness::cluster::wharf;
use crate::harness::port::Port;
use crate::harness::{Cluster, Etcd, Node, Running, job, role, until};
use std::fs;
use wharf::rpc::tls::authority::OwnAuthority;

#[test]
fn a_node_joins_works_and_is_out_when_it_is_removed() {
    let cluster = cluster();
    let id = cluster.submit(&job("first", &[role("main", 1, "echo hello")]));
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    assert!(cluster.cli(&["logs", &id]).expect(0).text().contains("hello"));
    let before = cluster.identity(0);
    assert_eq!(before["node"], "n0");

    // A token admits one machine, and no second one.
    let _row =
        attack("joining", "a name that is taken, a spent token, a removed node", 3, "refused, a new token joins");
    let token = cluster.token(&["--role", "agent"]);
    let taken = cluster.join_with(0, &token);
    assert_eq!(taken.code, 1, "{}", taken.errors());
    assert!(taken.errors().contains("belongs to the cluster already"), "{}", taken.errors());
    cluster.cli(&["node", "remove", "n0", "--force"]).expect(0);
    until("the agent is told that its certificate is revoked", || {
        cluster.log_of("agent0").contains("is revoked").then_some(())
    });
    assert!(cluster.json(&["nodes"]).as_array().is_some_and(Vec::is_empty));
    cluster.join_with(0, &token).expect(0);
    let replayed = cluster.join_with(0, &token);
    assert_eq!(replayed.code, 4, "{}", replayed.errors());
    assert!(replayed.errors().contains("as many nodes as it was made for"), "{}", replayed.errors());
    assert_ne!(cluster.identity(0)["key_pem"], before["key_pem"]);
    cluster.stop_agent(0);
    cluster.start_agent(0);
    cluster.wait_ready();
    let id = cluster.submit(&job("again", &[role("main", 1, "true")]));
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
}

#[test]
fn certificates_renew_themselves_and_a_restart_takes_the_newest() {
    let cluster = Cluster::secured(vec![Node::new("n0", "none")], "[tls]\nnode_life_s = 10");
    cluster.wait_ready();
    let first = cluster.identity(0);
    until("the certificate was renewed, with another key", || {
        let now: serde_json::Value = serde_json::from_slice(&fs::read(cluster.identity_file(0)).ok()?).ok()?;
        (now["certificate_pem"] != first["certificate_pem"] && now["key_pem"] != first["key_pem"]).then_some(())
    });
    cluster.kill9_agent(0);
    cluster.start_agent(0);
    cluster.wait_ready();
    let id = cluster.submit(&job("after", &[role("main", 1, "true")]));
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
}

#[test]
fn two_controllers_of_one_store_are_one_authority() {
    let etcd = Etcd::start(1);
    let cluster = Cluster::secured_with_two_controllers(vec![Node::new("n0", "none")], &etcd.settings());
    cluster.wait_ready();
    let token = cluster.token(&["--role", "user", "--user", "alice"]);
    let id = cluster.submit(&job("long", &[role("main", 1, "sleep 2; echo survived")]));
    cluster.wait_running(&id);
    let text = etcd_text(&etcd);
    assert!(
        text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY"),
        "the store has the certificate alone"
    );
    assert!(!text.contains(token.split('.').nth(2).expect("a secret")), "tokens are hashed");
    cluster.kill9_one(false);
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    cluster.as_token(&token, &["jobs"]).expect(0);

    // One that has another authority, or none, is no controller of this store.
    let _row = attack("several controllers", "one with another authority, one with none", 2, "refuses to start");
    let none = cluster.path("c3");
    let settings = format!(
        "data_dir = '{}'\nlisten = 'unix:{}/c3.sock'\n{}",
        none.display(),
        cluster.folder().display(),
        etcd.settings()
    );
    fs::write(cluster.path("third.toml"), settings).expect("the folder is ours");
    let third = || {
        let path = cluster.path("third.toml");
        Running::start(wharf(&["controller", "--config", path.to_str().expect("a text")])).finish().expect(1).errors()
    };
    let told = third();
    assert!(told.contains("lacks it") && told.contains("c3/cluster"), "{told}");
    let other = Cluster::secured(Vec::new(), "");
    until("another cluster has its authority", || other.path("c/cluster/ca.pem").exists().then_some(()));
    for name in ["ca.pem", "ca.key"] {
        fs::copy(other.path("c/cluster").join(name), none.join("cluster").join(name)).expect("the folder is ours");
    }
    let told = third();
    assert!(told.contains("of another cluster than the store"), "{told}");
}

fn etcd_text(etcd: &Etcd) -> String {
    let output = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.endpoints()[0], "get", "", "--prefix"])
        .output()
        .expect("etcdctl is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_store_that_moves_takes_its_people_and_nodes_along() {
    let etcd = Etcd::start(1);
    let cluster = cluster();
    let token = cluster.token(&["--role", "user", "--user", "alice"]);
    let revoked = cluster.token(&["--role", "user", "--user", "eve"]);
    cluster.cli(&["token", "revoke", revoked.split('.').nth(1).expect("an id")]).expect(0);
    let id = cluster.submit(&job("long", &[role("main", 1, "sleep 3; echo survived")]));
    cluster.wait_running(&id);
    cluster.stop_controller();
    let (from, to) =
        (format!("sqlite:{}/c", cluster.folder().display()), format!("etcd:{}/wharf/", etcd.endpoints()[0]));
    Running::start(wharf(&["store", "move", "--from", &from, "--to", &to])).finish().expect(0);
    let path = cluster.path("controller.toml");
    let text = fs::read_to_string(&path).expect("it is there");
    fs::write(&path, format!("{text}\n{}", etcd.settings())).expect("the folder is ours");
    cluster.start_controller();
    cluster.wait_ready();
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    cluster.as_token(&token, &["jobs"]).expect(0);
    cluster.as_token(&revoked, &["jobs"]).expect(4);
}

/// etcd with TLS and for those with a certificate, both of which `authority` has signed.
#[test]
fn etcd_is_asked_through_tls_by_somebody_it_knows() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let (ca, ca_key) = OwnAuthority::make(now()).expect("it is made");
    let authority = OwnAuthority::from_pem(&ca, &ca_key).expect("it is whole");
    let life = std::time::Duration::from_secs(3600);
    let identity = authority.controller(&["127.0.0.1".to_owned()], now(), life).expect("it is made");
    fs::write(place("ca.pem"), &ca).expect("the folder is ours");
    fs::write(place("cert.pem"), pem("CERTIFICATE", &identity.chain[0])).expect("the folder is ours");
    fs::write(place("key.pem"), pem("PRIVATE KEY", identity.key.secret_der())).expect("the folder is ours");
    let (client, peer) = (Port::claim(), Port::claim());
    let url = format!("https://127.0.0.1:{}", client.number);
    let mut etcd = std::process::Command::new("etcd")
        .args(["--data-dir", &place("etcd"), "--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", peer.number)])
        .args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{}", peer.number)])
        .args(["--initial-cluster", &format!("default=http://127.0.0.1:{}", peer.number)])
        .args(["--cert-file", &place("cert.pem"), "--key-file", &place("key.pem")])
        .args(["--client-cert-auth", "--trusted-ca-file", &place("ca.pem")])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("etcd starts");
    let tls =
        format!("[etcd]\nendpoints = ['127.0.0.1:{}']\nca_certificate = '{}'\n", client.number, place("ca.pem"));
    // Who shows nothing is not let in, and says so instead of leading.
    fs::write(place("c.toml"), format!("data_dir = '{}'\nlisten = 'unix:{}'\n{tls}", place("c"), place("c.sock")))
        .expect("the folder is ours");
    let running = Running::start(wharf(&["controller", "--config", &place("c.toml")]));
    until("it waits for the store", || running.stderr_so_far().contains("waiting for the store").then_some(()));
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.finish();
    let shown = format!("{tls}certificate = '{}'\nkey = '{}'\n", place("cert.pem"), place("key.pem"));
    let cluster = Cluster::secured(vec![Node::new("n0", "none")], &shown);
    cluster.wait_ready();
    let id = cluster.submit(&job("j", &[role("main", 1, "true")]));
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    drop(cluster);
    let _ = etcd.kill();
    let _ = etcd.wait();
}

fn now() -> wharf::domain::time::Timestamp {
    use wharf::telemetry::clock::{Clock, SystemClock};
    SystemClock.now()
}

fn pem(kind: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

#[test]
fn nothing_listens_openly_without_a_word() {
    let _row =
        attack("listeners", "open to others without a certificate, or a word", 2, "refused; spelled out it warns");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (shown, path) = (folder.path().display(), folder.path().join("a.toml"));
    let run = |text: String, more: &[&str]| {
        fs::write(&path, text).expect("the folder is ours");
        let args: Vec<&str> =
            ["agent", "--config", path.to_str().expect("a text")].iter().chain(more).copied().collect();
        Running::start(wharf(&args))
    };
    let base = format!("data_dir = '{shown}/a'\nrun_dir = '{shown}/r'\ngpus = 'none'\nkernel_log = ''\n");
    let open = format!("{base}listen = '0.0.0.0:0'\n");
    let told = run(open.clone(), &[]).finish().expect(2).errors();
    assert!(told.contains("nothing proves who calls it") && told.contains("wharf agent join"), "{told}");
    let told = run(format!("{base}controller = '127.0.0.1:1'\n"), &[]).finish().expect(1).errors();
    assert!(told.contains("belongs to no cluster yet"), "{told}");
    // Spelled out, it is done, and said at every start.
    let running = run(open, &["--insecure"]);
    until("it listens", || folder.path().join("a/journal.db").exists().then_some(()));
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let told = running.finish().errors();
    assert!(told.contains("insecure is set"), "{told}");
}

#[test]
fn an_operators_own_authority_certifies_nodes() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (certificate, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
    let openssl = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=a site's own authority", "-addext", "keyUsage=critical,keyCertSign"])
        .args(["-keyout".as_ref(), key.as_os_str(), "-out".as_ref(), certificate.as_os_str()])
        .output();
    let Some(made) = openssl.ok().filter(|made| made.status.success()) else {
        return crate::harness::skip("an authority of the operator's", "there is no openssl to make one");
    };
    drop(made);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let tls = format!("[tls]\nca_certificate = '{}'\nca_key = '{}'", certificate.display(), key.display());
    let cluster = Cluster::secured(vec![Node::new("n0", "none")], &tls);
    cluster.wait_ready();
    assert_eq!(
        cluster.identity(0)["ca_pem"].as_str().map(str::trim),
        fs::read_to_string(&certificate).ok().as_deref().map(str::trim)
    );
    assert!(!cluster.path("c/cluster/ca.key").exists(), "none was made beside it");
    let id = cluster.submit(&job("j", &[role("main", 1, "true")]));
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
}
