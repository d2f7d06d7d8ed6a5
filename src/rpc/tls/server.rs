//! The accepting end of TLS, and what the other end's certificate says.

use super::key::Identity;
use super::{ALPN, CONTROLLER, NODES, failed, of_node, provider};
use crate::domain::command::Error;
use crate::domain::time::Timestamp;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SignatureScheme};
use std::sync::{Arc, PoisonError, RwLock};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The own identity, which may be replaced while connections are made: old ones keep what they began with.
#[derive(Debug)]
pub struct Keyring(RwLock<Arc<CertifiedKey>>);

impl Keyring {
    pub fn new(identity: Identity) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(RwLock::new(certified(identity)?))))
    }

    pub fn replace(&self, identity: Identity) -> Result<(), Error> {
        let key = certified(identity)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Until when its certificate is valid, and from when.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let key = self.current();
        let (_, parsed) = X509Certificate::from_der(key.cert.first()?).ok()?;
        let at = |time: x509_parser::time::ASN1Time| Timestamp(time.timestamp().saturating_mul(1_000_000_000));
        Some((at(parsed.validity().not_before), at(parsed.validity().not_after)))
    }
}

fn certified(identity: Identity) -> Result<Arc<CertifiedKey>, Error> {
    let Identity { chain, key } = identity;
    let provider: Arc<CryptoProvider> = provider();
    let found = CertifiedKey::from_der(chain, key, &provider);
    found.map(Arc::new).map_err(|error| failed("the certificate and its private key", error))
}

impl ResolvesServerCert for Keyring {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Keyring {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How TLS is accepted: with `keyring`, from everybody; whoever shows a certificate must have it from `ca`.
pub fn config(keyring: Arc<Keyring>, ca: &CertificateDer<'static>) -> Result<Arc<ServerConfig>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|error| failed("the certificate authority", error))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).allow_unauthenticated();
    let verifier = verifier.build().map_err(|error| failed("the certificate authority", error))?;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]);
    let builder = builder.map_err(|error| failed("TLS", error))?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(keyring);
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    // A session that is taken up again would skip the look at the certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What the certificate of the other end says, which the cluster's authority has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    names: Vec<String>,
    /// Its serial number: which certificate of that node.
    pub number: u64,
    pub expires_at: Timestamp,
}

impl Certified {
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok().flatten()?;
        let dns = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        };
        let names: Vec<String> = names.value.general_names.iter().filter_map(dns).collect();
        // A certificate with more bytes is none of a node; a controller's is of chance.
        let bytes = parsed.raw_serial();
        let number = bytes.iter().rev().take(8).rev().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        let expires_at = Timestamp(parsed.validity().not_after.timestamp().saturating_mul(1_000_000_000));
        Some(Self { names, number, expires_at })
    }

    pub fn is_controller(&self) -> bool {
        self.names.iter().any(|name| name == CONTROLLER)
    }

    pub fn is_node(&self, node: &str) -> bool {
        let name = of_node(node);
        self.names.contains(&name)
    }

    pub fn is_some_node(&self) -> bool {
        self.names.iter().any(|name| name.ends_with(NODES))
    }
}
