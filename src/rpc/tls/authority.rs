//! The cluster's own certificate authority: says which key is which node's, and which is a controller's.

use super::key::{Identity, certificates};
use super::{CONTROLLER, failed, fingerprint, of_node};
use crate::api::authority::{Authority, Issued};
use crate::domain::access::token::Fingerprint;
use crate::domain::command::Error;
use crate::domain::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Of an authority: it outlives the cluster, as every node would have to join anew.
const AUTHORITY_LIFE: Duration = Duration::from_secs(30 * 365 * 86_400);
/// Clocks of one cluster differ by no more; nor by more than a tenth of what is valid for a short time.
const SKEW: Duration = Duration::from_secs(86_400);

/// An authority whose key is here.
pub struct OwnAuthority {
    ca_pem: String,
    ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for OwnAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnAuthority").field("fingerprint", &self.fingerprint().to_string()).finish_non_exhaustive()
    }
}

/// From a while ago, as clocks differ.
fn valid(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = now.since(Timestamp(0));
    params.not_before = epoch + since_epoch.saturating_sub(SKEW.min(life / 10));
    params.not_after = epoch + since_epoch + life;
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, "wharf");
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn end_entity(
    names: Vec<String>,
    common_name: &str,
    now: Timestamp,
    life: Duration,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names).map_err(|error| failed("a name of a certificate", error))?;
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, life);
    Ok(params)
}

impl OwnAuthority {
    /// Makes one: its certificate and its private key, in PEM.
    pub fn make(now: Timestamp) -> Result<(String, String), Error> {
        let making = |error| failed("making a certificate authority", error);
        let key = KeyPair::generate().map_err(making)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(making)?;
        params.distinguished_name = named("wharf cluster authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key).map_err(making)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The first certificate of `ca_pem` is the authority itself, and what everybody trusts.
    pub fn from_pem(ca_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let reading = |error| failed("the certificate authority", error);
        let key = KeyPair::from_pem(key_pem).map_err(|error| failed("the authority's private key", error))?;
        let ca = certificates(ca_pem)?.swap_remove(0);
        let (_, parsed) =
            X509Certificate::from_der(&ca).map_err(|error| failed("the certificate authority", error))?;
        if parsed.public_key().subject_public_key.as_ref() != key.public_key_raw() {
            return Err(failed("the certificate authority", "its private key belongs to another certificate"));
        }
        if !parsed.is_ca() {
            return Err(failed("the certificate authority", "its certificate is not one of an authority (CA:TRUE)"));
        }
        let issuer = Issuer::from_ca_cert_der(&ca, key).map_err(reading)?;
        Ok(Self { ca_pem: pem_of(&ca), ca, issuer })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.ca)
    }

    pub fn certificate_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// For a controller, known by `hosts` too.
    pub fn controller(&self, hosts: &[String], now: Timestamp, life: Duration) -> Result<Identity, Error> {
        let making = |error| failed("making the controller's certificate", error);
        let key = KeyPair::generate().map_err(making)?;
        let names = std::iter::once(CONTROLLER.to_owned()).chain(hosts.iter().cloned()).collect();
        let params = end_entity(names, "wharf controller", now, life)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(making)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Identity { chain: vec![certificate.der().clone(), self.ca.clone()], key })
    }
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

impl Authority for OwnAuthority {
    fn certify(
        &self,
        node: &str,
        csr_pem: &str,
        number: u64,
        now: Timestamp,
        life: Duration,
    ) -> Result<Issued, Error> {
        let wrong = |error| failed(&format!("the certificate request of node {node}"), error);
        // Its signature is checked, so whoever asks has the key.
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(wrong)?;
        let mut params = end_entity(vec![of_node(node)], &format!("wharf node {}", cut(node)), now, life)?;
        params.serial_number = Some(SerialNumber::from(number));
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(wrong)?;
        Ok(Issued { certificate_pem: certificate.pem(), ca_pem: self.ca_pem.clone() })
    }

    fn public_key(&self, csr_pem: &str) -> Result<[u8; 32], Error> {
        use rcgen::PublicKeyData;
        let wrong = |error| failed("the certificate request", error);
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(wrong)?;
        Ok(fingerprint(request.public_key.der_bytes()).0)
    }

    fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.ca)
    }
}

/// X.509 ends common names at 64 characters.
fn cut(name: &str) -> String {
    name.chars().take(48).collect()
}
