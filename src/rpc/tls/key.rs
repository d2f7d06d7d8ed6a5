//! A private key with its certificate: made here, certified by an authority.

use super::failed;
use crate::domain::command::Error;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Who somebody is in TLS.
#[derive(Debug)]
pub struct Identity {
    /// The own certificate first, the authority's last.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| failed("the private key", e))?;
        Ok(Self { chain: certificates(chain_pem)?, key })
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// At least one.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(failed("the certificate", "there is none in this PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(failed("the certificate", error)),
    }
}

/// A new private key in PEM, and the request to certify it (PKCS #10 in PEM).
pub fn make(node: &str) -> Result<(String, String), Error> {
    let making = |error| failed("making a private key", error);
    let key = KeyPair::generate().map_err(making)?;
    Ok((key.serialize_pem(), request(&key, node)?))
}

/// Another request for a key of before.
pub fn request_again(key_pem: &str, node: &str) -> Result<String, Error> {
    request(&KeyPair::from_pem(key_pem).map_err(|error| failed("the private key", error))?, node)
}

fn request(key: &KeyPair, node: &str) -> Result<String, Error> {
    let asking = |error| failed("asking for a certificate", error);
    let mut params = CertificateParams::new(Vec::new()).map_err(asking)?;
    params.distinguished_name = DistinguishedName::new();
    // For people who look at it; the authority says who it is.
    params.distinguished_name.push(DnType::CommonName, node);
    params.serialize_request(key).and_then(|request| request.pem()).map_err(asking)
}
