//! The usual check of a server's certificate, and that it is none that was revoked.

use super::server::Certified;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;

/// Whether the certificate for this name with this number was revoked.
pub type IsRevoked = dyn Fn(&str, u64) -> bool + Send + Sync;

pub(super) struct Refusing {
    usual: Arc<WebPkiServerVerifier>,
    is_revoked: Arc<IsRevoked>,
}

impl std::fmt::Debug for Refusing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refusing(..)")
    }
}

impl Refusing {
    pub(super) fn new(usual: Arc<WebPkiServerVerifier>, is_revoked: Arc<IsRevoked>) -> Self {
        Self { usual, is_revoked }
    }
}

impl ServerCertVerifier for Refusing {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let number = Certified::of(end_entity).map(|certified| certified.number);
        match number {
            Some(number) if !(self.is_revoked)(&server_name.to_str(), number) => Ok(verified),
            _ => Err(Error::InvalidCertificate(CertificateError::Revoked)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
