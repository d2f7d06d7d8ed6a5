//! Texts that nobody is shown.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// What stands where a secret would.
pub const MASK: &str = "******";

/// A text that is neither printed nor written: who needs it says [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// Somebody's words without these secrets.
pub fn crossed_out<'a>(words: &str, secrets: impl IntoIterator<Item = &'a Secret>) -> String {
    // A shorter one may be part of a longer one; one of a letter or two would cross out everything.
    let mut secrets: Vec<&str> = secrets.into_iter().map(Secret::reveal).filter(|secret| secret.len() > 2).collect();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(words.to_owned(), |words, secret| words.replace(secret, MASK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nowhere_but_where_it_is_asked_for() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "****** Some(******)");
        assert_eq!(serde_json::to_string(&[&secret]).unwrap(), "[\"******\"]");
        assert_eq!(secret.reveal(), "hunter2");
        assert_eq!(serde_json::from_str::<Secret>("\"x\"").unwrap(), Secret::new("x"));
        assert!(Secret::new("a") != Secret::new("b"));
    }

    #[test]
    fn others_words_lose_them_whole() {
        let secrets = ["hunter2", "hunter22", "a"].map(Secret::new);
        assert_eq!(crossed_out("a hunter22 and hunter2", &secrets), "a ****** and ******");
    }
}
