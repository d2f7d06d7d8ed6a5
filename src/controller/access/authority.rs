//! Which certificate authority a store belongs to.

use super::super::persist::AUTHORITY;
use crate::domain::command::Error;
use crate::store::{Compare, Op, Outcome, Store, StoreError, Transaction};

fn unavailable(error: StoreError) -> Error {
    Error::unavailable(format!("the store's certificate authority: {error}"))
}

/// The certificate of the authority that the store knows, in PEM.
pub async fn authority_of(store: &dyn Store) -> Result<Option<String>, Error> {
    let entry = store.get(AUTHORITY).await.map_err(unavailable)?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// Makes `certificate` the store's, if it knows none; answers with the one that it knows then.
pub async fn claim_authority(store: &dyn Store, certificate: &str) -> Result<String, Error> {
    loop {
        if let Some(known) = authority_of(store).await? {
            return Ok(known);
        }
        let compares = vec![Compare::Absent { key: AUTHORITY.into() }];
        let ops = vec![Op::Put { key: AUTHORITY.into(), value: certificate.as_bytes().to_vec() }];
        match store.commit(Transaction { compares, ops }).await.map_err(unavailable)? {
            Outcome::Committed { .. } => return Ok(certificate.to_owned()),
            // Another controller was faster.
            Outcome::Conflict => {}
        }
    }
}
