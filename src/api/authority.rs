//! What the controller needs of the cluster's certificate authority.

use crate::domain::access::token::Fingerprint;
use crate::domain::command::Error;
use crate::domain::time::Timestamp;
use std::time::Duration;

/// Says which key is which node's.
pub trait Authority: std::fmt::Debug + Send + Sync + 'static {
    /// A certificate for the public key of `csr_pem` (PKCS #10), as the node `node`, with the serial number `number`.
    fn certify(
        &self,
        node: &str,
        csr_pem: &str,
        number: u64,
        now: Timestamp,
        life: Duration,
    ) -> Result<Issued, Error>;

    /// SHA-256 of the public key that `csr_pem` asks for.
    fn public_key(&self, csr_pem: &str) -> Result<[u8; 32], Error>;

    fn fingerprint(&self) -> Fingerprint;
}

/// A certificate, and the authority's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub certificate_pem: String,
    pub ca_pem: String,
}
