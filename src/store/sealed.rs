//! A store whose secrets nobody can read who has the store alone: some records are sealed on their way in.
//!
//! ```text
//! value   "WSL1", 12 random bytes, AES-256-GCM of the clear value, 16 bytes that prove it
//! key     32 random bytes in a file beside the store, not in it
//! ```
//!
//! A record's key is bound to its value: one that was put under another key, or changed, is damage. Whoever copies the
//! store below copies sealed records as they are: backups and moves need no key.

use super::{Change, Compare, Entry, Op, Outcome, Range, Store, StoreError, Transaction};
use async_trait::async_trait;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, channel};

const MAGIC: &[u8; 4] = b"WSL1";
const KEY_BYTES: usize = 32;
/// Changes in flight to a watcher.
const QUEUE: usize = 64;

/// What opens sealed records.
#[derive(Clone)]
pub struct SealKey {
    key: LessSafeKey,
    text: String,
}

impl SealKey {
    /// A new one; an error is that the system gives no random bytes.
    pub fn generate() -> Result<Self, String> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random bytes".to_owned())?;
        Self::of(&bytes).ok_or_else(|| "a new key is refused".to_owned())
    }

    /// As [`Self::reveal`] wrote it.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let pairs = digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        Self::of(&pairs.collect::<Option<Vec<u8>>>()?)
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?);
        Some(Self { key, text: hexadecimal(bytes) })
    }

    /// For the file that keeps it, and nothing else.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Tells keys apart without telling them.
    pub fn fingerprint(&self) -> String {
        let hash = digest(&SHA256, format!("wharf seal key {}", self.text).as_bytes());
        hexadecimal(&hash.as_ref()[..16])
    }

    fn seal(&self, key: &str, value: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = [MAGIC, nonce.as_slice(), value].concat();
        let body = &mut sealed[MAGIC.len() + NONCE_LEN..];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(key.as_bytes()), body).ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    fn open(&self, key: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.strip_prefix(MAGIC)?.split_at_checked(NONCE_LEN)?;
        let (nonce, mut body) = (Nonce::try_assume_unique_for_key(nonce).ok()?, body.to_vec());
        let clear = self.key.open_in_place(nonce, Aad::from(key.as_bytes()), &mut body).ok()?.len();
        body.truncate(clear);
        Some(body)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.fingerprint())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Another store, with everything below one prefix sealed.
#[derive(Debug)]
pub struct SealedStore {
    inner: Arc<dyn Store>,
    prefix: &'static str,
    key: Arc<SealKey>,
}

impl SealedStore {
    pub fn new(inner: Arc<dyn Store>, prefix: &'static str, key: SealKey) -> Self {
        Self { inner, prefix, key: Arc::new(key) }
    }

    fn open(&self, entry: Entry) -> Result<Entry, StoreError> {
        let value = open(&self.key, self.prefix, &entry.key, entry.value)?;
        Ok(Entry { value, ..entry })
    }

    fn seal(&self, op: Op) -> Result<Op, StoreError> {
        match op {
            Op::Put { key, value } if key.starts_with(self.prefix) => {
                let message = || "the system gives no random bytes".to_owned();
                let sealed = self.key.seal(&key, &value);
                let sealed =
                    sealed.ok_or_else(|| StoreError::Unavailable { operation: "sealing", message: message() })?;
                Ok(Op::Put { key, value: sealed })
            }
            other => Ok(other),
        }
    }
}

fn open(seal: &SealKey, prefix: &str, key: &str, value: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    if !key.starts_with(prefix) {
        return Ok(value);
    }
    let message = format!("'{key}' is not what was sealed under this name with the key {}", seal.fingerprint());
    seal.open(key, &value).ok_or(StoreError::Damaged { operation: "opening a sealed record", message })
}

#[async_trait]
impl Store for SealedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.inner.get(key).await?.map(|entry| self.open(entry)).transpose()
    }

    async fn range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        let (entries, revision) = self.inner.range(range).await?;
        Ok((entries.into_iter().map(|entry| self.open(entry)).collect::<Result<_, _>>()?, revision))
    }

    /// A sealed value differs each time, so none is ever compared.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let compared =
            |compare: &Compare| matches!(compare, Compare::Value { key, .. } if key.starts_with(self.prefix));
        if transaction.compares.iter().any(compared) {
            let message = format!("values below '{}' are sealed and cannot be compared", self.prefix);
            return Err(StoreError::Unavailable { operation: "committing", message });
        }
        let ops = transaction.ops.into_iter().map(|op| self.seal(op)).collect::<Result<_, _>>()?;
        self.inner.commit(Transaction { ops, ..transaction }).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after_revision: u64,
    ) -> Result<Receiver<Result<Change, StoreError>>, StoreError> {
        let mut changes = self.inner.watch(prefix, after_revision).await?;
        if !prefix.starts_with(self.prefix) && !self.prefix.starts_with(prefix) {
            return Ok(changes);
        }
        let (opened, receiver) = channel(QUEUE);
        let (key, sealed) = (self.key.clone(), self.prefix);
        // Ends with either of its ends.
        tokio::spawn(async move {
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = opened.closed() => None,
                };
                let Some(change) = change else { return };
                let change = change.and_then(|change| {
                    let value = change.value.map(|value| open(&key, sealed, &change.key, value)).transpose()?;
                    Ok(Change { value, ..change })
                });
                if opened.send(change).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::super::memory::MemoryStore;
    use super::*;

    const CLEAR: &[u8] = b"the marker";

    fn put(key: &str, value: &[u8]) -> Transaction {
        let ops = vec![Op::Put { key: key.to_owned(), value: value.to_vec() }];
        Transaction { compares: vec![], ops }
    }

    fn stores() -> (Arc<dyn Store>, SealedStore) {
        let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let sealed = SealedStore::new(inner.clone(), "secret/", SealKey::generate().unwrap());
        (inner, sealed)
    }

    #[test]
    fn a_key_is_kept_and_never_shown() {
        let key = SealKey::generate().unwrap();
        let again = SealKey::parse(&format!("{}\n", key.reveal())).unwrap();
        assert_eq!((again.reveal(), again.fingerprint()), (key.reveal(), key.fingerprint()));
        assert_ne!(SealKey::generate().unwrap().fingerprint(), key.fingerprint());
        assert!(!format!("{key:?}").contains(&key.reveal()[..8]));
        for wrong in ["", "00", &"g".repeat(64), &"+1".repeat(32)] {
            assert!(SealKey::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn records_below_the_prefix_come_back_and_lie_sealed() {
        let (inner, sealed) = stores();
        let mut watched = sealed.watch("", 0).await.unwrap();
        for key in ["secret/1", "job/1"] {
            sealed.commit(put(key, CLEAR)).await.unwrap();
            assert_eq!(sealed.get(key).await.unwrap().unwrap().value, CLEAR);
            assert_eq!(watched.recv().await.unwrap().unwrap().value.as_deref(), Some(CLEAR));
        }
        let (entries, _) = sealed.range(Range::prefix("")).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.value.as_slice()).collect::<Vec<_>>(), [CLEAR, CLEAR]);
        let lies = inner.get("secret/1").await.unwrap().unwrap().value;
        assert!(!lies.windows(CLEAR.len()).any(|part| part == CLEAR), "{lies:?}");
        assert_eq!(inner.get("job/1").await.unwrap().unwrap().value, CLEAR);
        sealed.commit(put("secret/2", CLEAR)).await.unwrap();
        assert_ne!(inner.get("secret/2").await.unwrap().unwrap().value, lies);
        let compares = vec![Compare::Value { key: "secret/1".to_owned(), value: CLEAR.to_vec() }];
        assert!(sealed.commit(Transaction { compares, ops: vec![] }).await.is_err());
    }

    #[tokio::test]
    async fn what_is_not_sealed_is_kept_as_the_contract_says() {
        let (_, sealed) = stores();
        contract::run(Arc::new(sealed), "test/").await.unwrap();
    }

    #[tokio::test]
    async fn what_was_changed_moved_or_sealed_by_another_key_is_damage() {
        let (inner, sealed) = stores();
        sealed.commit(put("secret/1", CLEAR)).await.unwrap();
        let good = inner.get("secret/1").await.unwrap().unwrap().value;
        let other = SealedStore::new(inner.clone(), "secret/", SealKey::generate().unwrap());
        assert!(matches!(other.get("secret/1").await, Err(StoreError::Damaged { .. })));
        inner.commit(put("secret/2", &good)).await.unwrap();
        assert!(matches!(sealed.get("secret/2").await, Err(StoreError::Damaged { .. })));
        let cuts = (0..good.len()).map(|length| good[..length].to_vec());
        let flips = (0..good.len()).map(|at| {
            let mut bad = good.clone();
            bad[at] ^= 1;
            bad
        });
        for bad in cuts.chain(flips).chain([CLEAR.to_vec(), [&good[..], b"x"].concat()]) {
            inner.commit(put("secret/1", &bad)).await.unwrap();
            let error = sealed.range(Range::prefix("secret/1")).await.unwrap_err();
            assert!(matches!(&error, StoreError::Damaged { .. }) && error.to_string().contains("'secret/1'"));
        }
        inner.commit(put("secret/1", &good)).await.unwrap();
        assert_eq!(sealed.get("secret/1").await.unwrap().unwrap().value, CLEAR);
    }
}
