//! The connecting end of TLS.

use super::first_contact::Pinned;
use super::refusing::{IsRevoked, Refusing};
use super::server::Keyring;
use super::{ALPN, failed, provider};
use crate::domain::access::token::Fingerprint;
use crate::domain::command::Error;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// From the first byte to the last of a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Whom a client believes, and who it is itself.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls(..)")
    }
}

impl ClientTls {
    /// Believes what `ca` has certified, but for certificates that `is_revoked` (what they are for, see
    /// [`of_node`](super::of_node), and their number), and shows `keyring`'s certificate.
    pub fn refusing(
        ca: &CertificateDer<'static>,
        keyring: Arc<Keyring>,
        is_revoked: Arc<IsRevoked>,
    ) -> Result<Self, Error> {
        let wrong = |error: &dyn std::fmt::Display| failed("the certificate authority", error);
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|error| wrong(&error))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let verifier = Arc::new(Refusing::new(verifier.map_err(|error| wrong(&error))?, is_revoked));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed("TLS", error))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        Ok(Self::finish(builder.with_client_cert_resolver(keyring)))
    }

    /// Believes what `ca` has certified, and shows `keyring`'s certificate if there is one.
    pub fn new(ca: &CertificateDer<'static>, keyring: Option<Arc<Keyring>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|error| failed("the certificate authority", error))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed("TLS", error))?
            .with_root_certificates(roots);
        Ok(Self::finish(match keyring {
            Some(keyring) => builder.with_client_cert_resolver(keyring),
            None => builder.with_no_client_auth(),
        }))
    }

    /// Believes the one authority that has this fingerprint, and what it has certified.
    pub fn pinned(authority: Fingerprint) -> Result<Self, Error> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed("TLS", error))?;
        let pinned = Arc::new(Pinned::new(authority, provider()));
        Ok(Self::finish(builder.dangerous().with_custom_certificate_verifier(pinned).with_no_client_auth()))
    }

    fn finish(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![ALPN[0].to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Self(Arc::new(config))
    }

    /// Connects to `authority` (`HOST:PORT`), which has to prove that it is `name`.
    pub(in crate::rpc) async fn connect(
        &self,
        authority: &str,
        name: &str,
    ) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(authority).await?;
        // Only latency is lost without it.
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let shaken = tokio::time::timeout(HANDSHAKE_LIMIT, TlsConnector::from(self.0.clone()).connect(name, stream));
        let stream = shaken.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(TokioIo::new(stream))
    }

    /// The certificate of the authority that `authority` (`HOST:PORT`) shows, which has to have the fingerprint.
    pub async fn authority_of(
        authority: &str,
        name: &str,
        fingerprint: Fingerprint,
    ) -> Result<CertificateDer<'static>, Error> {
        let refused =
            |error: io::Error| Error::unavailable(format!("connecting to the controller at {authority}: {error}"));
        let stream = Self::pinned(fingerprint)?.connect(authority, name).await.map_err(refused)?;
        let (_, connection) = stream.inner().get_ref();
        let chain = connection.peer_certificates().unwrap_or_default();
        let found = chain.iter().find(|certificate| super::fingerprint(certificate) == fingerprint);
        found.map(|found| found.clone().into_owned()).ok_or_else(|| {
            Error::internal(format!("the controller at {authority} did not show the certificate of its authority"))
        })
    }
}
