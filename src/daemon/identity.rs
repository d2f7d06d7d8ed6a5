//! How a node belongs to its cluster: the file `identity.json` of an agent's state directory, made by `wharf agent join`
//! and renewed by the agent itself. It holds the private key, which never leaves the node.

use super::cluster::write_private;
use super::guard::is_due;
use super::make_state_dir;
use crate::api::ControllerApi;
use crate::config::{AgentConfig, Endpoint};
use crate::domain::access::CertificateRequest;
use crate::domain::access::token::Token;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::principal::{Principal, Role};
use crate::rpc::tls::client::ClientTls;
use crate::rpc::tls::fingerprint;
use crate::rpc::tls::key::{self, Identity, certificates};
use crate::rpc::tls::server::Keyring;
use crate::rpc::{ControllerClient, Credentials, Security};
use crate::telemetry::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The key of a machine that has asked to join and has not heard the answer.
const ASKED: &str = "identity.key";
const FILE: &str = "identity.json";
/// Shortest and longest wait between two looks at whether the certificate is to be renewed.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Who a node is in its cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeIdentity {
    pub(super) node: String,
    pub(super) cluster_id: String,
    /// Where the cluster was joined.
    pub(super) controllers: Vec<Endpoint>,
    certificate_pem: String,
    ca_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (node, cluster) = (&self.node, &self.cluster_id);
        f.debug_struct("NodeIdentity").field("node", node).field("cluster_id", cluster).finish_non_exhaustive()
    }
}

/// What a node that has joined knows, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub node: String,
    pub cluster_id: String,
    pub controllers: Vec<Endpoint>,
    pub file: PathBuf,
}

impl NodeIdentity {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// None where the node has not joined. Blocks for a moment.
    pub(super) fn load(data_dir: &Path) -> Result<Option<Self>, Error> {
        let path = Self::path(data_dir);
        let damaged = |why: String| {
            let advice = "join again: 'wharf agent join ADDR TOKEN'";
            Error::new(ErrorKind::Refused, format!("{}: {why}; {advice}", path.display()))
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(damaged(error.to_string())),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| damaged(error.to_string()))
    }

    fn save(&self, data_dir: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::internal(error.to_string()))?;
        write_private(&Self::path(data_dir), &text)
    }

    fn identity(&self) -> Result<Identity, Error> {
        Identity::from_pem(&format!("{}\n{}", self.certificate_pem, self.ca_pem), &self.key_pem)
    }
}

/// A node's identity in use.
#[derive(Debug)]
pub(super) struct Membership {
    keyring: Arc<Keyring>,
    pub(super) security: Security,
    pub(super) credentials: Credentials,
}

impl Membership {
    /// `security` without TLS is what counts beside it.
    pub(super) fn new(identity: &NodeIdentity, security: Security) -> Result<Self, Error> {
        let ca = certificates(&identity.ca_pem)?.swap_remove(0);
        let keyring = Keyring::new(identity.identity()?)?;
        let credentials = Credentials::of_tls(ClientTls::new(&ca, Some(keyring.clone()))?);
        Ok(Self { security: security.with_tls(keyring.clone(), &ca)?, credentials, keyring })
    }

    /// Keeps the certificate fresh until `cancel`.
    pub(super) async fn renew(
        self,
        controller: Arc<dyn ControllerApi>,
        mut identity: NodeIdentity,
        data_dir: PathBuf,
        cancel: CancellationToken,
    ) {
        loop {
            let Some((start, end)) = self.keyring.validity() else { return };
            let life = end.since(start);
            let wait = (life / 20).clamp(LOOK.0, LOOK.1);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if !is_due(Some(end), life, SystemClock.now()) {
                continue;
            }
            match renewed(&*controller, &identity).await {
                Ok(next) => match self.take(&identity, &next, &data_dir).await {
                    Ok(()) => {
                        tracing::info!(node = identity.node, "the node's certificate was renewed");
                        identity = next;
                    }
                    Err(error) => tracing::warn!(%error, "the node's new certificate was not kept"),
                },
                Err(error) => {
                    tracing::warn!(%error, expires = end.to_rfc3339(), "the node's certificate was not renewed")
                }
            }
        }
    }

    /// Durable first. A node that has joined anew meanwhile keeps what it has now.
    async fn take(&self, before: &NodeIdentity, next: &NodeIdentity, data_dir: &Path) -> Result<(), Error> {
        let (before, kept, data_dir) = (before.clone(), next.clone(), data_dir.to_owned());
        let saved = tokio::task::spawn_blocking(move || {
            if NodeIdentity::load(&data_dir)?.as_ref() != Some(&before) {
                return Err(Error::refused("this node has joined anew; restart the agent"));
            }
            kept.save(&data_dir)
        });
        saved.await.map_err(|error| Error::internal(format!("writing the node's certificate: {error}")))??;
        self.keyring.replace(next.identity()?)
    }
}

async fn renewed(controller: &dyn ControllerApi, identity: &NodeIdentity) -> Result<NodeIdentity, Error> {
    let who = Principal { user: identity.node.clone(), uid: None, roles: vec![Role::Agent] };
    let (key_pem, csr_pem) = key::make(&identity.node)?;
    let issued = controller.renew(&who, csr_pem).await?;
    if certificates(&issued.ca_pem)? != certificates(&identity.ca_pem)? {
        return Err(Error::refused("the controller has another certificate authority now; join again"));
    }
    let next = NodeIdentity { key_pem, certificate_pem: issued.certificate_pem, ..identity.clone() };
    // Fits the key, or is not taken.
    Keyring::new(next.identity()?)?;
    Ok(next)
}

/// Makes this machine a node of the cluster that `token` is of.
pub async fn join(config: &AgentConfig, controllers: Vec<Endpoint>, token: &Token) -> Result<Joined, Error> {
    let Some(authority) = token.authority else {
        let message = "the token does not say whom to believe: its last part, the fingerprint, is missing";
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    make_state_dir(&config.data_dir, 0o755)?;
    let (asked, node) = (config.data_dir.join(ASKED), config.name.clone());
    let key_pem = key_of(&asked, &node)?;
    let csr_pem = key::request_again(&key_pem, &node)?;
    let addresses: Vec<String> = controllers.iter().map(ToString::to_string).collect();
    let client = ControllerClient::with(&addresses, &Credentials::of_token(token)?)?;
    let issued = client.join(token, CertificateRequest { node: node.clone(), csr_pem }).await?;
    let is_pinned = certificates(&issued.ca_pem)?.first().is_some_and(|ca| fingerprint(ca) == authority);
    if !is_pinned {
        return Err(Error::refused("the controller answered with another authority than the token names"));
    }
    let identity = NodeIdentity {
        node,
        cluster_id: issued.cluster_id,
        controllers: controllers.clone(),
        certificate_pem: issued.certificate_pem,
        ca_pem: issued.ca_pem,
        key_pem,
    };
    Keyring::new(identity.identity()?)?;
    identity.save(&config.data_dir)?;
    // Whoever asks again has to be somebody new.
    match std::fs::remove_file(&asked) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %asked.display(), %error, "a key was left");
        }
        _ => {}
    }
    let NodeIdentity { node, cluster_id, .. } = identity;
    Ok(Joined { node, cluster_id, controllers, file: NodeIdentity::path(&config.data_dir) })
}

/// The key of a try before, whose answer may have been lost; or a new one, written before it is used.
fn key_of(file: &Path, node: &str) -> Result<String, Error> {
    match std::fs::read_to_string(file) {
        Ok(text) if key::request_again(&text, node).is_ok() => return Ok(text),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::unavailable(format!("reading {}: {error}", file.display())));
        }
        _ => {}
    }
    let (key_pem, _) = key::make(node)?;
    write_private(file, &key_pem)?;
    Ok(key_pem)
}

/// What an agent that belongs to nobody, or to somebody else, is told.
pub(super) fn check(config: &AgentConfig, identity: Option<&NodeIdentity>) -> Result<(), Error> {
    if config.insecure || config.own_account {
        return Ok(());
    }
    let Some(identity) = identity else {
        let tcp = config.controller.iter().find(|controller| matches!(controller, Endpoint::Tcp { .. }));
        return tcp.map_or(Ok(()), |controller| {
            Err(Error::refused(format!(
                "this node belongs to no cluster yet: 'wharf token create --role agent' at the controller, then here \
                 'wharf agent join {controller} TOKEN'"
            )))
        });
    };
    if identity.node != config.name {
        return Err(Error::refused(format!(
            "this node has joined as {}, and its settings call it {}: set name = \"{}\", or join again",
            identity.node, config.name, identity.node
        )));
    }
    Ok(())
}
