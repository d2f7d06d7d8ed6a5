//! Certificates over real connections: who is believed to be a node, and which of its certificates.

use super::fakes::FakeAgent;
use super::*;
use crate::api::AgentApi;
use crate::api::authority::Authority;
use crate::domain::ids::NodeName;
use crate::domain::time::Timestamp;
use crate::rpc::tls::authority::OwnAuthority;
use crate::rpc::tls::client::ClientTls;
use crate::rpc::tls::key::{Identity, make};
use crate::rpc::tls::of_node;
use crate::rpc::tls::server::Keyring;
use crate::telemetry::clock::{Clock, SystemClock};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    SystemClock.now()
}

fn authority() -> OwnAuthority {
    let (certificate, key) = OwnAuthority::make(now()).unwrap();
    OwnAuthority::from_pem(&certificate, &key).unwrap()
}

/// The identity of a node, with the number of its certificate.
fn node(authority: &OwnAuthority, name: &str, number: u64) -> Identity {
    let (key, csr) = make(name).unwrap();
    let issued = authority.certify(name, &csr, number, now(), HOUR).unwrap();
    Identity::from_pem(&format!("{}\n{}", issued.certificate_pem, issued.ca_pem), &key).unwrap()
}

#[tokio::test]
async fn a_controller_talks_to_the_node_it_means_and_to_no_revoked_one() {
    let (own, foreign) = (authority(), authority());
    let agent = Arc::new(FakeAgent::default());
    let keyring = Keyring::new(node(&own, "n1", 5)).unwrap();
    let security = Security::plain(Plain::Nobody).with_tls(keyring.clone(), own.certificate()).unwrap();
    let served = Served::new(agent_routes(agent.clone(), security).await.unwrap()).await;
    let controller = |of: &OwnAuthority| Keyring::new(of.controller(&[], now(), HOUR).unwrap()).unwrap();
    let asks = async |trusts: &OwnAuthority, shows: &OwnAuthority, name: &str, revoked: u64| {
        let refused = move |found: &str, number: u64| found == of_node("n1") && number <= revoked;
        let tls = ClientTls::refusing(trusts.certificate(), controller(shows), Arc::new(refused)).unwrap();
        let client = AgentClient::of_node(&NodeName::from(name), served.tcp(), &Credentials::of_tls(tls)).unwrap();
        client.get_node(&alice()).await
    };
    assert!(asks(&own, &own, "n1", 4).await.is_ok());
    assert!(asks(&own, &own, "n1", 5).await.is_err(), "its certificate was revoked");
    assert!(asks(&own, &own, "n2", 0).await.is_err(), "it is another node");
    assert!(asks(&foreign, &foreign, "n1", 0).await.is_err(), "another authority is believed there");
    assert!(asks(&own, &foreign, "n1", 0).await.is_err(), "it does not believe a foreign controller");
    // Renewed, it is believed again by those who do not believe the one before.
    keyring.replace(node(&own, "n1", 6)).unwrap();
    assert!(asks(&own, &own, "n1", 5).await.is_ok());
    served.stop().await;
}

#[test]
fn an_authority_is_read_whole_or_not_at_all() {
    let ((certificate, key), (_, other)) = (OwnAuthority::make(now()).unwrap(), OwnAuthority::make(now()).unwrap());
    assert!(OwnAuthority::from_pem(&certificate, &key).is_ok());
    for (certificate, key, told) in [
        (certificate.as_str(), other.as_str(), "belongs to another certificate"),
        ("", &key, "there is none"),
        (&certificate, "nonsense", "private key"),
    ] {
        let error = OwnAuthority::from_pem(certificate, key).unwrap_err();
        assert!(error.message.contains(told), "{error}");
    }
    // A certificate that is no authority's signs nothing.
    let own = OwnAuthority::from_pem(&certificate, &key).unwrap();
    let (node_key, csr) = make("n1").unwrap();
    let issued = own.certify("n1", &csr, 1, now(), HOUR).unwrap();
    assert!(OwnAuthority::from_pem(&issued.certificate_pem, &node_key).unwrap_err().message.contains("CA:TRUE"));
    for csr in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", &certificate] {
        assert!(own.certify("n1", csr, 1, now(), HOUR).is_err(), "{csr}");
    }
}
