//! Images by pattern.

use std::fmt;

/// `*` stands for any text, a slash too. Matched against an image's whole name (`docker.io/library/python:3.12`) and its
/// short one (`python:3.12`), both with their tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePattern(String);

impl ImagePattern {
    /// `None`: a text that no image's name is like.
    pub fn parse(text: &str) -> Option<Self> {
        let right = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        right.then(|| Self(text.to_owned()))
    }

    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        // There is always a first part.
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text_and_nothing_else_does() {
        let fits = |pattern: &str, name: &str| ImagePattern::parse(pattern).unwrap().fits(name);
        for (pattern, name) in [
            ("python:3.12", "python:3.12"),
            ("*", "a"),
            ("r.local:5000/*", "r.local:5000/team/x:1"),
            ("*/torch:*", "docker.io/pytorch/torch:2"),
            ("a*b*c", "abbc"),
            ("a*", "a"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("python:3.12", "python:3.12.1"),
            ("python:3.12", "xpython:3.12"),
            ("r.local:5000/*", "r.local:5000.evil.com/x:1"),
            ("r.local/*", "evil/r.local/x"),
            ("a*bc*c", "abc"),
            ("a*a", "a"),
            ("pyth.n", "python"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        assert_eq!((ImagePattern::parse(""), ImagePattern::parse("a b")), (None, None));
    }
}
