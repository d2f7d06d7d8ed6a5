//! The folder `cluster/` of a controller: the certificate authority of its cluster, made at the first start.
//!
//! It is not in the store, which others may read and which is restored and moved. All controllers of one store have the
//! same folder; the store remembers the authority's certificate, so that one with another, or with none, refuses to
//! start and says so.

use crate::config::ControllerConfig;
use crate::controller::{authority_of, claim_authority};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::time::Timestamp;
use crate::rpc::tls::authority::OwnAuthority;
use crate::store::Store;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

/// Where the authority comes from.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    /// The authority is the operator's, and never made here.
    is_given: bool,
}

impl Folder {
    pub(super) fn of(config: &ControllerConfig) -> Self {
        let path = config.data_dir.join("cluster");
        let (certificate, key) = (&config.tls.ca_certificate, &config.tls.ca_key);
        Self {
            certificate: certificate.clone().unwrap_or_else(|| path.join(CERTIFICATE)),
            key: key.clone().unwrap_or_else(|| path.join(KEY)),
            is_given: certificate.is_some(),
            path,
        }
    }

    pub(super) fn revocations(&self) -> PathBuf {
        self.path.join("revoked.jsonl")
    }

    /// The authority of this folder, if it has one already.
    pub(super) fn known(&self) -> Result<Option<OwnAuthority>, Error> {
        super::make_state_dir(&self.path, 0o700)?;
        self.read()?.map(|(certificate, key)| self.parsed(&certificate, &key)).transpose()
    }

    /// The authority of this folder; made, and made known to `store`, where neither has one.
    pub(super) async fn authority(&self, store: &dyn Store, now: Timestamp) -> Result<OwnAuthority, Error> {
        super::make_state_dir(&self.path, 0o700)?;
        let (certificate, key) = match (self.read()?, authority_of(store).await?) {
            (Some(pair), _) => pair,
            (None, None) => self.make(now)?,
            (None, Some(_)) => return Err(self.missing()),
        };
        let authority = self.parsed(&certificate, &key)?;
        self.agree(authority.certificate_pem(), store).await?;
        Ok(authority)
    }

    /// The store knows this authority (its certificate in PEM) and no other, from now on at the latest.
    pub(super) async fn agree(&self, authority: &str, store: &dyn Store) -> Result<(), Error> {
        let known = claim_authority(store, authority).await?;
        if known.trim() == authority.trim() { Ok(()) } else { Err(self.other()) }
    }

    fn parsed(&self, certificate: &str, key: &str) -> Result<OwnAuthority, Error> {
        OwnAuthority::from_pem(certificate, key)
            .map_err(|error| Error { message: format!("{}: {}", self.certificate.display(), error.message), ..error })
    }

    /// The certificate and its key.
    fn read(&self) -> Result<Option<(String, String)>, Error> {
        let read = |path: &Path| match fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_given => Ok(None),
            Err(error) => Err(failed("reading", path, &error)),
        };
        match (read(&self.certificate)?, read(&self.key)?) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            // The key is written first: without the certificate nobody has ever used it.
            (None, _) => Ok(None),
            (Some(_), None) => Err(self.missing()),
        }
    }

    fn make(&self, now: Timestamp) -> Result<(String, String), Error> {
        let (certificate, key) = OwnAuthority::make(now)?;
        write_private(&self.key, &key)?;
        write_private(&self.certificate, &certificate)?;
        tracing::info!(folder = %self.path.display(), "the cluster's certificate authority was made");
        Ok((certificate, key))
    }

    fn missing(&self) -> Error {
        let message = format!(
            "this cluster has a certificate authority, and {} lacks it: copy that folder, with its rights, from a \
             controller that has it, or from a backup of it",
            self.path.display()
        );
        Error::new(ErrorKind::Refused, message)
    }

    fn other(&self) -> Error {
        let message = format!(
            "{} holds the certificate authority of another cluster than the store: copy the folder from a controller \
             of this store",
            self.path.display()
        );
        Error::new(ErrorKind::Refused, message)
    }
}

/// A file for this account alone: whole and durable, or not there.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let write = || {
        // One that a crash has left may have other rights.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    write().map_err(|error: io::Error| failed("writing", path, &error))
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    Error::unavailable(format!("{doing} {}: {error}", path.display()))
}
