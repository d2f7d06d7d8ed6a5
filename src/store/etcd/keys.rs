//! Where things lie in etcd, below the prefix that one cluster of wharf has for itself.
//!
//! | key | what |
//! |---|---|
//! | `PREFIX` `k/KEY` | the entry `KEY` of the store |
//! | `PREFIX` `leader` | who leads, bound to a lease: see [`super::lease`] |
//! | `PREFIX` `session/UUID` | shuts out late writes of one handle: see [`super::commit`] |
//! | `PREFIX` `tick` | written by transactions that would write nothing, so that they have a revision too |

/// Names of keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn entry(&self, key: &str) -> Vec<u8> {
        format!("{}k/{key}", self.prefix).into_bytes()
    }

    /// The end of the range of all entries.
    pub(super) fn entries_end(&self) -> Vec<u8> {
        after_prefix(self.entry(""))
    }

    /// The store's key in one of etcd's; `None` for what the store did not write.
    pub(super) fn name(&self, key: &[u8]) -> Option<String> {
        let name = key.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"k/")?;
        String::from_utf8(name.to_vec()).ok()
    }

    pub(super) fn leader(&self) -> Vec<u8> {
        format!("{}leader", self.prefix).into_bytes()
    }

    pub(super) fn session(&self, id: &str) -> Vec<u8> {
        format!("{}session/{id}", self.prefix).into_bytes()
    }

    pub(super) fn tick(&self) -> Vec<u8> {
        format!("{}tick", self.prefix).into_bytes()
    }
}

/// The first key after all that begin with `prefix`, whose last byte is not the greatest: it is UTF-8.
pub(super) fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    if let Some(last) = prefix.last_mut() {
        *last = last.saturating_add(1);
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_their_range_and_nothing_else_is() {
        let keys = Keys::new("/wharf/");
        let (start, end) = (keys.entry(""), keys.entries_end());
        let inside = |key: &[u8]| *start <= *key && *key < *end;
        for name in ["a", "job/1", "\u{10FFFF}", "é\0"] {
            let key = keys.entry(name);
            assert!(inside(&key));
            assert_eq!(keys.name(&key).as_deref(), Some(name));
        }
        for key in [keys.leader(), keys.tick(), keys.session("x"), b"/wharf2/k/a".to_vec()] {
            assert!(!inside(&key) && keys.name(&key).is_none(), "{key:?}");
        }
        assert_eq!(keys.name(b"/wharf/k/\xff"), None);
    }
}
