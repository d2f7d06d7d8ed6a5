//! Tokens as text: `wharf1.ID.SECRET.FINGERPRINT`.
//!
//! The id is public and names the token in lists and logs. The secret is what proves it. The fingerprint is the SHA-256
//! of the certificate of the cluster's own authority, so that whoever has the token knows the controller at first sight.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "wharf1";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
/// Longer than any token; nothing longer is looked at.
const MAX_TEXT: usize = 256;

/// SHA-256 of a certificate in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Names a token; no secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub String);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What proves a token. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(pub [u8; SECRET_BYTES]);

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// A whole token, as its owner has it. `Display` shows the secret: it is for the owner alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub secret: TokenSecret,
    /// Of the cluster's authority; none in what is sent with calls.
    pub authority: Option<Fingerprint>,
}

impl Token {
    /// From bytes of chance.
    pub fn new(id: [u8; ID_BYTES], secret: [u8; SECRET_BYTES], authority: Option<Fingerprint>) -> Self {
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id: TokenId(id), secret: TokenSecret(secret), authority }
    }

    /// What proves it to a controller that is known: without the fingerprint.
    pub fn bearer(&self) -> String {
        format!("{SCHEME}.{}.{}", self.id, URL_SAFE_NO_PAD.encode(self.secret.0))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bearer())?;
        self.authority.map_or(Ok(()), |authority| write!(f, ".{authority}"))
    }
}

/// A text that is no token. Says nothing of the text, which may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no token: {0}; a token is wharf1.ID.SECRET.FINGERPRINT, as 'wharf token create' prints it")]
pub struct NoToken(pub &'static str);

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        if text.len() > MAX_TEXT {
            return Err(NoToken("it is too long"));
        }
        let parts: Vec<&str> = text.trim().split('.').collect();
        let (id, secret, authority) = match parts.as_slice() {
            [SCHEME, id, secret] => (id, secret, None),
            [SCHEME, id, secret, authority] => (id, secret, Some(authority)),
            [SCHEME, ..] => return Err(NoToken("it has not 3 or 4 parts")),
            _ => return Err(NoToken("it does not begin with 'wharf1.'")),
        };
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if id.len() != ID_BYTES * 2 || !id.bytes().all(is_hex) {
            return Err(NoToken("its id is not 16 hexadecimal digits"));
        }
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let secret = bytes(secret).ok_or(NoToken("its secret is damaged"))?;
        let wrong = NoToken("its fingerprint is damaged");
        let authority = authority.map(|part| bytes(part).map(Fingerprint).ok_or(wrong)).transpose()?;
        Ok(Self { id: TokenId((*id).to_owned()), secret: TokenSecret(secret), authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_survive_text(id: [u8; 8], secret: [u8; 32], authority: Option<[u8; 32]>) {
            let token = Token::new(id, secret, authority.map(Fingerprint));
            prop_assert_eq!(&token.to_string().parse::<Token>().unwrap(), &token);
            prop_assert_eq!(token.bearer().parse::<Token>().unwrap(), Token { authority: None, ..token });
        }

        #[test]
        fn no_text_panics(text in ".{0,300}") {
            let _ = text.parse::<Token>();
        }
    }

    #[test]
    fn damaged_ones_are_refused_without_a_word_of_the_secret() {
        let token = Token::new([7; 8], [9; 32], Some(Fingerprint([1; 32])));
        let text = token.to_string();
        assert!(!format!("{token:?}").contains(&URL_SAFE_NO_PAD.encode([9; 32])));
        for wrong in [
            "",
            "x",
            "wharf1",
            "wharf1.07",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}.x"),
            &"a".repeat(300),
        ] {
            let error = wrong.parse::<Token>().unwrap_err().to_string();
            assert!(error.contains("wharf token create"), "{error}");
            assert!(!error.contains("CQkJ"), "{error}");
        }
    }
}
