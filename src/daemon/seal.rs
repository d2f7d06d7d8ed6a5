//! The file `cluster/seal.key` of a controller: what the secrets in its store are sealed with, made at the first start.
//!
//! It is not in the store, which others may read and which is backed up, restored and moved. All controllers of one
//! store have the same file.

use crate::controller::seal::{self, SECRETS};
use crate::domain::command::{Error, ErrorKind};
use crate::store::Store;
use crate::store::sealed::{SealKey, SealedStore};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// More is no key.
const MAX_BYTES: u64 = 4096;

/// `store` with its secrets sealed, by the key in the controller's folder; made, and made known to the store, where
/// neither has one.
pub(super) async fn sealed(store: Arc<dyn Store>, data_dir: &Path) -> Result<Arc<dyn Store>, Error> {
    let folder = data_dir.join("cluster");
    super::make_state_dir(&folder, 0o700)?;
    let path = folder.join("seal.key");
    let key = match (read(&path)?, seal::known(&*store).await?) {
        (Some(key), _) => key,
        (None, None) => make(&path)?,
        (None, Some(_)) => return Err(foreign(&path, "is missing, and the store's secrets are sealed with it")),
    };
    if seal::claim(&*store, &key.fingerprint()).await? != key.fingerprint() {
        return Err(foreign(&path, "is not the key that the store's secrets are sealed with"));
    }
    Ok(Arc::new(SealedStore::new(store, SECRETS, key)))
}

fn foreign(path: &Path, what: &str) -> Error {
    let folder = path.parent().unwrap_or(path).display();
    let message = format!(
        "{} {what}: copy the folder {folder}, with its rights, from a controller of this store that has it, or from \
         your copy of it; nothing was changed. If it is lost, 'wharf store forget-secrets' gives up what it sealed",
        path.display()
    );
    Error::new(ErrorKind::Refused, message)
}

fn read(path: &Path) -> Result<Option<SealKey>, Error> {
    let mut text = String::new();
    let opened = File::open(path).and_then(|file| {
        let mode = file.metadata()?.mode();
        file.take(MAX_BYTES).read_to_string(&mut text)?;
        Ok(mode)
    });
    let refused = |why: String| Err(Error::new(ErrorKind::Refused, format!("{} {why}", path.display())));
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::unavailable(format!("reading {}: {error}", path.display()))),
        Ok(mode) if mode & 0o077 != 0 => {
            refused(format!("can be read by others (mode {:03o}); allowed is 600: chmod 600 it", mode & 0o777))
        }
        Ok(_) => match SealKey::parse(&text) {
            Some(key) => Ok(Some(key)),
            None => refused("is no key: it does not hold 64 hexadecimal digits".to_owned()),
        },
    }
}

/// Whole and durable, or not there; that of whoever was faster, if somebody was.
fn make(path: &Path) -> Result<SealKey, Error> {
    let key = SealKey::generate().map_err(Error::internal)?;
    let draft = PathBuf::from(format!("{}.{}", path.display(), uuid::Uuid::new_v4().simple()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(file, "{}", key.reveal())?;
        file.sync_all()?;
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => File::open(path.parent().unwrap_or(path))?.sync_all(),
        }
    };
    write().map_err(|error: io::Error| {
        fs::remove_file(&draft).ok();
        Error::unavailable(format!("writing {}: {error}", path.display()))
    })?;
    tracing::info!(key = %path.display(), "the key that seals the store's secrets was made: keep a copy of it");
    read(path)?.ok_or_else(|| Error::unavailable(format!("{} was taken away", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn one_store_has_one_key_and_whoever_lacks_it_is_told_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        sealed(store.clone(), &at("a")).await.unwrap();
        sealed(store.clone(), &at("a")).await.unwrap();
        let key = at("a/cluster/seal.key");
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(at("a/cluster")).unwrap().count(), 1, "no drafts are left");
        // None, another's, one that others can read, none at all.
        let refusal = async |name: &str| sealed(store.clone(), &at(name)).await.unwrap_err();
        let missing = refusal("b").await;
        assert!(missing.kind == ErrorKind::Refused && missing.message.contains("is missing"), "{missing}");
        assert!(missing.message.contains(&format!("copy the folder {}", at("b/cluster").display())), "{missing}");
        assert!(!at("b/cluster/seal.key").exists());
        sealed(Arc::new(MemoryStore::default()), &at("c")).await.unwrap();
        assert!(refusal("c").await.message.contains("is not the key"));
        fs::copy(&key, at("b/cluster/seal.key")).unwrap();
        fs::set_permissions(at("b/cluster/seal.key"), Permissions::from_mode(0o644)).unwrap();
        assert!(refusal("b").await.message.contains("mode 644"));
        fs::set_permissions(at("b/cluster/seal.key"), Permissions::from_mode(0o600)).unwrap();
        sealed(store.clone(), &at("b")).await.unwrap();
        fs::write(at("b/cluster/seal.key"), "nonsense").unwrap();
        assert!(refusal("b").await.message.contains("64 hexadecimal digits"));
    }
}
