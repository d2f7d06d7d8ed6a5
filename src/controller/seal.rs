//! Which key the secrets in a store are sealed with: the store knows its fingerprint, and no controller with another
//! one may write there what those with the right one cannot read.

use super::persist::{self, SEAL};
use crate::domain::command::Error;
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

fn taking(error: StoreError) -> Error {
    Error::unavailable(format!("taking the lead on the store: {error}"))
}
