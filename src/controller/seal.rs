//! Which key the secrets in a store are sealed with: the store knows its fingerprint, and no controller with another
//! one may write there what those with the right one cannot read.

use super::persist::{self, CLUSTER_ID, SEAL, WriteError};
use crate::domain::command::Error;
use crate::domain::ids::JobId;
use crate::store::{Compare, Op, Outcome, Store, StoreError, Transaction};

/// Everything below it is sealed.
pub const SECRETS: &str = persist::SECRETS;

/// The fingerprint of the store's key, if it has one. A store that no controller may use is an error.
pub async fn known(store: &dyn Store) -> Result<Option<String>, Error> {
    persist::check_usable(store).await.map_err(taking)?;
    let entry = store.get(SEAL).await.map_err(taking)?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// Makes this the fingerprint of the store's key, if it has none, and returns which it has.
pub async fn claim(store: &dyn Store, fingerprint: &str) -> Result<String, Error> {
    loop {
        if let Some(known) = known(store).await? {
            return Ok(known);
        }
        let ops = vec![Op::Put { key: SEAL.to_owned(), value: fingerprint.as_bytes().to_vec() }];
        // What was looked at before may have changed since.
        let absent = [SEAL, persist::TRANSFER, persist::MOVED].map(|key| Compare::Absent { key: key.to_owned() });
        if let Outcome::Committed { .. } =
            store.commit(Transaction { compares: absent.to_vec(), ops }).await.map_err(taking)?
        {
            return Ok(fingerprint.to_owned());
        }
    }
}

/// What was given up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Unfinished jobs that had secrets and have none any more.
    pub jobs: Vec<JobId>,
}

/// Gives up everything that is sealed in a store that nobody else uses, for when its key is lost. Jobs lose their secret
/// variables and their SSH keys; tasks that run keep what they have. Cut short, it is done again by the same call.
pub async fn forget(store: &dyn Store) -> Result<Forgotten, Error> {
    if store.get(CLUSTER_ID).await.map_err(taking)?.is_none() {
        return Err(Error::refused("the store holds nothing of a controller"));
    }
    // Whoever was frozen with the lost key writes nothing any more.
    let (_, term) = persist::take_term(store, "").await.map_err(taking)?;
    let mut forgotten = Forgotten::default();
    for (id, ops) in persist::without_secret_names(store).await? {
        let unfinished = persist::is_unfinished(store, id).await?;
        persist::write(store, term, ops).await.map_err(writing)?;
        forgotten.jobs.extend(unfinished.then_some(id));
    }
    // The fingerprint last: until then, no other key is the store's.
    persist::delete_all(store, term, &[SECRETS.to_owned(), SEAL.to_owned()]).await.map_err(writing)?;
    Ok(forgotten)
}

fn writing(error: WriteError) -> Error {
    Error::unavailable(format!("forgetting the store's secrets: {error}"))
}

fn taking(error: StoreError) -> Error {
    Error::unavailable(format!("taking the lead on the store: {error}"))
}
