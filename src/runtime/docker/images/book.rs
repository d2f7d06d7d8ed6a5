//! Which images wharf has pulled onto this node, and when each was last of use. In a file, so that a restart forgets
//! neither; an image that is not in it is somebody else's, and stays. Blocking where it writes, but brief.

use super::reference::Reference;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// A use is not written again within this time: many short tasks of one image are one.
const WRITE_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Book {
    /// `None`: only in memory.
    file: Option<PathBuf>,
    pulled: BTreeMap<String, Pulled>,
}

/// One image, by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pulled {
    /// Names that it was pulled by.
    pub references: BTreeSet<String>,
    pub last_used: Timestamp,
}

impl Pulled {
    /// Wharf has pulled it by this name.
    pub fn has(&self, name: &str) -> bool {
        Reference::parse(name).is_ok_and(|named| self.is_named(&named))
    }

    pub fn is_named(&self, name: &Reference) -> bool {
        self.references.iter().any(|ours| Reference::parse(ours).is_ok_and(|ours| ours == *name))
    }
}

impl Book {
    pub fn read(file: PathBuf) -> Self {
        let pulled = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "which images are wharf's is forgotten: they all stay");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { file: Some(file), pulled }
    }

    pub fn get(&self, id: &str) -> Option<&Pulled> {
        self.pulled.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Pulled)> {
        self.pulled.iter()
    }

    pub fn add(&mut self, id: &str, reference: &str, now: Timestamp) {
        let fresh = || Pulled { references: BTreeSet::new(), last_used: now };
        let pulled = self.pulled.entry(id.to_owned()).or_insert_with(fresh);
        pulled.references.insert(reference.to_owned());
        pulled.last_used = now;
        self.write();
    }

    /// Somebody needs it. Images of others are not written down.
    pub fn touch(&mut self, id: &str, now: Timestamp) {
        if let Some(pulled) = self.pulled.get_mut(id).filter(|pulled| now.since(pulled.last_used) >= WRITE_AFTER) {
            pulled.last_used = now;
            self.write();
        }
    }

    /// Nothing was used later than now: the clock may have been ahead.
    pub fn not_later_than(&mut self, now: Timestamp) {
        let mut changed = false;
        for pulled in self.pulled.values_mut().filter(|pulled| pulled.last_used > now) {
            (pulled.last_used, changed) = (now, true);
        }
        if changed {
            self.write();
        }
    }

    /// The same, by a name that it was pulled by.
    pub fn touch_named(&mut self, name: &Reference, now: Timestamp) {
        let named: Vec<String> =
            self.pulled.iter().filter(|(_, pulled)| pulled.is_named(name)).map(|(id, _)| id.clone()).collect();
        named.iter().for_each(|id| self.touch(id, now));
    }

    pub fn forget(&mut self, id: &str) {
        if self.pulled.remove(id).is_some() {
            self.write();
        }
    }

    fn write(&self) {
        let Some(file) = &self.file else { return };
        let draft = file.with_extension("new");
        let written = serde_json::to_vec_pretty(&self.pulled)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&draft, text))
            .and_then(|()| std::fs::rename(&draft, file));
        if let Err(error) = written {
            // A full disk: the next use says it again, and an image that is not in the file stays.
            tracing::warn!(file = %file.display(), %error, "the use of an image is not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pulled_and_used_is_remembered_and_damage_forgets_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.json");
        let mut book = Book::read(file.clone());
        book.add("sha256:a", "busybox", Timestamp(0));
        book.touch("sha256:a", Timestamp(0).plus(WRITE_AFTER * 2));
        book.touch("sha256:b", Timestamp(5));
        book.touch_named(&Reference::parse("other").unwrap(), Timestamp(0).plus(WRITE_AFTER * 9));
        let again = Book::read(file.clone());
        assert_eq!(again.iter().count(), 1);
        let found = again.get("sha256:a").unwrap();
        assert_eq!(found.last_used, Timestamp(0).plus(WRITE_AFTER * 2));
        assert!(found.has("docker.io/library/busybox:latest") && !found.has("busybox:2"));
        book.touch_named(&Reference::parse("busybox").unwrap(), Timestamp(0).plus(WRITE_AFTER * 4));
        assert_eq!(book.get("sha256:a").unwrap().last_used, Timestamp(0).plus(WRITE_AFTER * 4));
        // As if it had been used by a clock that was ahead.
        book.not_later_than(Timestamp(7));
        assert_eq!(Book::read(file.clone()).get("sha256:a").unwrap().last_used, Timestamp(7));
        book.forget("sha256:a");
        assert_eq!(Book::read(file.clone()).iter().count(), 0);
        std::fs::write(&file, "{\"sha256:a\": ").unwrap();
        assert_eq!(Book::read(file).iter().count(), 0);
    }
}
