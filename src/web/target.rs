//! What a request line asks for, taken apart. Paths here name jobs, never files.

use http::Uri;

/// The path in decoded segments, and the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Path and query as they were sent.
    pub as_sent: String,
    /// Without an empty one at the end: OpenPAI's server did not mind a slash there.
    pub segments: Vec<String>,
    pub query: Vec<(String, String)>,
}

impl Target {
    /// An error is the first segment that cannot be decoded.
    pub fn of(uri: &Uri) -> Result<Self, String> {
        let path = uri.path();
        let mut segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        if segments.last().is_some_and(|last| last.is_empty()) {
            segments.pop();
        }
        let decoded = |segment: &&str| decode(segment).ok_or_else(|| (*segment).to_owned());
        Ok(Self {
            as_sent: uri.path_and_query().map_or_else(|| path.to_owned(), |whole| whole.as_str().to_owned()),
            segments: segments.iter().map(decoded).collect::<Result<_, _>>()?,
            query: uri.query().map(pairs).unwrap_or_default(),
        })
    }

    /// The first value of a name, if it says anything.
    pub fn value(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// `a=b&c=d`; what cannot be decoded is left out.
fn pairs(query: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        Some((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?))
    };
    query.split('&').filter_map(pair).collect()
}

/// Percent-decoding (RFC 3986, section 2.1) to UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

/// A segment as it is written in a path.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Result<Target, String> {
        Target::of(&uri.parse().unwrap())
    }

    #[test]
    fn segments_are_decoded_one_by_one() {
        let found = target("/api/v1/user/a%2Fb/jobs/%C3%A9%7e..%00/?x=1&y=a+b%26&&=2&z").unwrap();
        assert_eq!(found.segments, ["api", "v1", "user", "a/b", "jobs", "é~..\0"]);
        assert_eq!(found.value("y"), Some("a b&"));
        assert_eq!((found.value("z"), found.value("none")), (None, None));
        assert_eq!(target("/").unwrap().segments, Vec::<String>::new());
        assert_eq!(target("/a//../b").unwrap().segments, ["a", "", "..", "b"], "nothing is normalised");
        for bad in ["%", "%a", "%zz", "%ff", "%+1"] {
            assert_eq!(target(&format!("/api/{bad}/x")), Err(bad.to_owned()));
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        for text in ["", "a-b._~", "a/b c%é\0", "+"] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
    }
}
