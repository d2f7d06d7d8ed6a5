//! Callers who are not who they say: at the controller's port, at an agent's, with certificates of others.

use super::cluster;
use crate::harness::attack::attack;
use crate::harness::{Cluster, job, role};
use serde_json::Value;
use std::sync::Arc;
use wharf::api::{AgentApi, ControllerApi};
use wharf::domain::command::{Error, ErrorKind, Heartbeat};
use wharf::domain::ids::{JournalId, NodeName, NodeUid};
use wharf::domain::principal::{Principal, Role};
use wharf::domain::time::Timestamp;
use wharf::rpc::tls::authority::OwnAuthority;
use wharf::rpc::tls::client::ClientTls;
use wharf::rpc::tls::key::{Identity, certificates};
use wharf::rpc::tls::server::Keyring;
use wharf::rpc::{AgentClient, ControllerClient, Credentials};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime starts")
}

fn text<'a>(identity: &'a Value, field: &str) -> &'a str {
    identity[field].as_str().expect("a text")
}

/// Shows `certificate` with `key`, and believes `ca`.
fn shows(ca: &str, certificate: &str, key: &str) -> Credentials {
    let identity = Identity::from_pem(&format!("{certificate}\n{ca}"), key).expect("they are whole");
    let ca = certificates(ca).expect("it is whole").swap_remove(0);
    let keyring = Keyring::new(identity).expect("they belong together");
    Credentials::of_tls(ClientTls::new(&ca, Some(keyring)).expect("it can be used"))
}

/// As the agent of a node.
fn as_node(identity: &Value) -> Credentials {
    shows(text(identity, "ca_pem"), text(identity, "certificate_pem"), text(identity, "key_pem"))
}

/// With TLS and without anything to show.
fn as_nobody(identity: &Value) -> Credentials {
    let ca = certificates(text(identity, "ca_pem")).expect("it is whole").swap_remove(0);
    Credentials::of_tls(ClientTls::new(&ca, None).expect("it can be used"))
}

fn principal(user: &str, roles: &[Role]) -> Principal {
    Principal { user: user.into(), uid: None, roles: roles.to_vec() }
}

fn beat(uid: &str) -> Heartbeat {
    Heartbeat {
        node_uid: NodeUid::from(uid),
        journal_id: JournalId::from("j"),
        samples: Vec::new(),
        progress: Vec::new(),
        faults_version: 0,
        faults: None,
        going_out: None,
    }
}

#[track_caller]
fn not_allowed<T: std::fmt::Debug>(result: Result<T, Error>, told: &str) {
    let error = result.expect_err("nobody may do that");
    assert_eq!(error.kind, ErrorKind::NotAllowed, "{error}");
    assert!(error.message.contains(told), "{error}");
}

/// The connection does not come about.
#[track_caller]
fn not_reached<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("they do not trust each other");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}

fn node_address(cluster: &Cluster, node: &str) -> String {
    let shown = cluster.json(&["node", "show", node]);
    shown["node"]["address"].as_str().or(shown["address"].as_str()).expect("an address").to_owned()
}

#[test]
fn the_controller_hears_nodes_for_themselves_and_nobody_who_proves_nothing() {
    let cluster = cluster();
    let identity = cluster.identity(0);
    let uid = cluster.json(&["nodes"])[0]["node_uid"].as_str().expect("a text").to_owned();
    let address = [cluster.tcp()];
    let admin = principal("root", &[Role::Admin, Role::Operator, Role::Controller, Role::Agent]);
    let agent = |name: &str| principal(name, &[Role::Agent]);
    runtime().block_on(async {
        let with = |credentials: &Credentials| ControllerClient::with(&address, credentials).expect("a client");
        // Without TLS, and with TLS and nothing to show.
        let plain = with(&Credentials::default());
        {
            let _row = attack("who calls the controller", "without TLS, as an admin and as a node", 2, "refused");
            not_allowed(plain.list_nodes(&admin).await, "without TLS proves nothing");
            not_allowed(plain.heartbeat(&agent("n0"), beat(&uid)).await, "without TLS proves nothing");
        }
        let nobody = with(&as_nobody(&identity));
        {
            let _row = attack("who calls the controller", "TLS without certificate and token", 2, "refused");
            not_allowed(nobody.list_nodes(&admin).await, "without a token or a certificate");
            not_allowed(nobody.heartbeat(&agent("n0"), beat(&uid)).await, "without a token or a certificate");
        }

        // A node speaks for itself: not for another, not as a person.
        let node = with(&as_node(&identity));
        node.heartbeat(&agent("n0"), beat(&uid)).await.expect("that is the node itself");
        {
            let _row = attack(
                "who calls the controller",
                "a node as another, as a person, as an admin",
                3,
                "refused, as itself it is heard",
            );
            not_allowed(node.heartbeat(&agent("n1"), beat(&uid)).await, "not of the node 'n1'");
            not_allowed(node.list_jobs(&agent("n0"), Default::default(), 10, "").await, "may not do that");
            not_allowed(node.list_tokens(&principal("n0", &[Role::Admin])).await, "may not do that");
        }

        // Another authority's certificate of the same name.
        let (foreign_ca, foreign_key) = OwnAuthority::make(now()).expect("it is made");
        let foreign = OwnAuthority::from_pem(&foreign_ca, &foreign_key).expect("it is whole");
        let theirs = as_foreign(&foreign, text(&identity, "ca_pem"));
        {
            let _row =
                attack("who calls the controller", "a foreign authority's certificate of a node", 1, "no connection");
            not_reached(with(&theirs).heartbeat(&agent("n0"), beat(&uid)).await);
        }
        // And a client of that authority does not speak to this controller.
        let ca = certificates(&foreign_ca).expect("it is whole").swap_remove(0);
        let elsewhere = Credentials::of_tls(ClientTls::new(&ca, None).expect("it can be used"));
        {
            let _row =
                attack("who calls the controller", "a client that believes a foreign authority", 1, "no connection");
            not_reached(with(&elsewhere).list_nodes(&admin).await);
        }

        // A certificate that the authority has signed, and that is over.
        let _row = attack("who calls the controller", "an expired certificate", 1, "no connection");
        let own = own_authority(&cluster);
        let long_ago = Timestamp(now().0 - 2 * 86_400 * 1_000_000_000);
        let (key, csr) = wharf::rpc::tls::key::make("n0").expect("a key is made");
        use wharf::api::authority::Authority;
        let life = std::time::Duration::from_secs(3600);
        let over = own.certify("n0", &csr, 5, long_ago, life).expect("it is signed");
        not_reached(
            with(&shows(&over.ca_pem, &over.certificate_pem, &key)).heartbeat(&agent("n0"), beat(&uid)).await,
        );
        // And one with a number that was never given, of a name that was never joined, has no node to speak for.
        let made = own.certify("n9", &csr, u64::MAX, now(), life).expect("it is signed");
        let n9 = with(&shows(&made.ca_pem, &made.certificate_pem, &key));
        {
            let _row = attack("who calls the controller", "a node with the id of another", 1, "refused");
            not_allowed(n9.heartbeat(&agent("n9"), beat(&uid)).await, "may not speak for node n0");
        }
    });
}

#[test]
fn an_agent_obeys_the_controller_and_no_other_node() {
    let cluster = Cluster::secured(["n0", "n1"].map(|name| crate::harness::Node::new(name, "none")).into(), "");
    cluster.wait_ready();
    let id = cluster.submit(&job("j", &[role("main", 1, "sleep 1000")]));
    let running = cluster.wait_running(&id);
    let node = running["tasks"][0]["node"].as_str().expect("a node").to_owned();
    let other = cluster.identity(usize::from(node == "n0"));
    let (name, address) = (NodeName::from(node.as_str()), node_address(&cluster, &node));
    let controller = principal("controller", &[Role::Controller]);
    runtime().block_on(async {
        let with = |credentials: &Credentials| AgentClient::of_node(&name, &address, credentials).expect("a client");
        {
            let _row = attack("who calls an agent", "without TLS, as the controller", 1, "refused");
            not_allowed(with(&Credentials::default()).get_node(&controller).await, "without TLS proves nothing");
        }
        {
            let _row = attack("who calls an agent", "TLS without a certificate", 1, "refused");
            not_allowed(with(&as_nobody(&other)).get_node(&controller).await, "without a token or a certificate");
        }
        let neighbour = principal(other["node"].as_str().expect("a text"), &[Role::Controller]);
        {
            let _row = attack("who calls an agent", "another node as itself", 1, "refused, the controller is obeyed");
            not_allowed(with(&as_node(&other)).list_tasks(&neighbour, 10, "").await, "no other agent");
        }
        {
            let _row = attack("who calls an agent", "another node as the controller", 1, "refused");
            not_allowed(with(&as_node(&other)).get_node(&controller).await, "not of the node 'controller'");
        }
        // Whoever holds the authority's key is the controller: what has to be kept.
        let identity =
            own_authority(&cluster).controller(&[], now(), std::time::Duration::from_secs(60)).expect("made");
        let keyring: Arc<Keyring> = Keyring::new(identity).expect("it is whole");
        let ca = certificates(text(&other, "ca_pem")).expect("it is whole").swap_remove(0);
        let real = Credentials::of_tls(ClientTls::new(&ca, Some(keyring)).expect("it can be used"));
        let (tasks, _) = with(&real).list_tasks(&controller, 10, "").await.expect("that is the controller");
        assert_eq!(tasks.len(), 1);
        // A machine with another name at the node's address is not taken for it.
        let wrong = NodeName::from("n7");
        let _row = attack("who is called", "another machine at a node's address", 1, "not spoken to");
        not_reached(AgentClient::of_node(&wrong, &address, &real).expect("a client").get_node(&controller).await);
    });
    let refusals = cluster.audited(&format!("a{}", usize::from(node == "n1")));
    assert!(
        refusals.iter().any(|line| line["method"] == "ListTasks" && line["result"] == "not_allowed"),
        "{refusals:?}"
    );
}

fn now() -> Timestamp {
    use wharf::telemetry::clock::{Clock, SystemClock};
    SystemClock.now()
}

/// The authority of the cluster, as its controller has it.
fn own_authority(cluster: &Cluster) -> OwnAuthority {
    let read = |name: &str| std::fs::read_to_string(cluster.path("c/cluster").join(name)).expect("it is there");
    OwnAuthority::from_pem(&read("ca.pem"), &read("ca.key")).expect("it is whole")
}

/// A certificate of n0 by another authority, shown to those of `ca`.
fn as_foreign(foreign: &OwnAuthority, ca: &str) -> Credentials {
    use wharf::api::authority::Authority;
    let (key, csr) = wharf::rpc::tls::key::make("n0").expect("a key is made");
    let issued = foreign.certify("n0", &csr, 5, now(), std::time::Duration::from_secs(3600)).expect("it is signed");
    shows(ca, &issued.certificate_pem, &key)
}
