//! Where the URIs of a job point: at a path of the node, or elsewhere. Pure.

use crate::domain::command::Violation;
use std::path::{Component, Path, PathBuf};

/// What a URI of a job is to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The job has none.
    None,
    /// An absolute path, without `.` and `..`.
    Node(PathBuf),
    /// Something that wharf does not fetch; its scheme, e.g. `hdfs`.
    Elsewhere(String),
}

/// Reads a URI: an absolute path or `file://` is a place on the node. `field` goes into errors.
pub fn place(field: &str, uri: &str) -> Result<Place, Violation> {
    let wrong = |message: &str| Violation {
        field: field.to_owned(),
        message: message.to_owned(),
        found: format!("'{}'", uri.chars().take(200).collect::<String>()),
        allowed: "an absolute path of the node, file:///PATH, or a URI that the job reads by itself".to_owned(),
    };
    if uri.is_empty() {
        return Ok(Place::None);
    }
    if uri.contains('\0') {
        return Err(wrong("holds a NUL"));
    }
    let path = match scheme(uri) {
        Some(("file", rest)) => {
            let rest = match rest.strip_prefix("//") {
                Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
                None => rest,
            };
            if !rest.starts_with('/') {
                return Err(wrong("names a file of another host"));
            }
            percent_decoded(rest).ok_or_else(|| wrong("holds a % that no two hexadecimal digits follow"))?
        }
        Some((scheme, _)) => return Ok(Place::Elsewhere(scheme.to_owned())),
        None => uri.to_owned(),
    };
    let path = Path::new(&path);
    if !path.is_absolute() {
        return Err(wrong("is a relative path"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong("holds '..'"));
    }
    // Components leave out `.` and doubled slashes.
    Ok(Place::Node(path.components().collect()))
}

/// `SCHEME:/...`, by RFC 3986's rules for a scheme.
fn scheme(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once(':')?;
    let letter = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let plain = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    (letter && plain && rest.starts_with('/')).then_some((scheme, rest))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = behind;
            continue;
        }
        let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0 && !digits.starts_with('+'))?;
        bytes.push(byte);
        rest = &behind[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_places_on_the_node_or_elsewhere() {
        let node = |path: &str| Ok(Place::Node(path.into()));
        let elsewhere = |scheme: &str| Ok(Place::Elsewhere(scheme.to_owned()));
        for (uri, want) in [
            ("", Ok(Place::None)),
            ("/data/a", node("/data/a")),
            ("/data//a/./b/", node("/data/a/b")),
            ("/", node("/")),
            ("/a:b/c", node("/a:b/c")),
            ("file:///data/a%20b", node("/data/a b")),
            ("file://localhost/data", node("/data")),
            ("file:/data", node("/data")),
            ("hdfs://10.0.0.1:9000/a", elsewhere("hdfs")),
            ("git+https://x/y", elsewhere("git+https")),
        ] {
            assert_eq!(place("dataDir", uri), want, "{uri}");
        }
    }

    #[test]
    fn other_uris_are_refused_by_name() {
        for (uri, why) in [
            ("data", "relative"),
            ("./data", "relative"),
            ("/a/../b", "'..'"),
            ("file:///a/%2e%2e/b", "'..'"),
            ("file://host/a", "another host"),
            ("file:///a%zz", "hexadecimal"),
            ("file:///a%00", "hexadecimal"),
            ("/a\0b", "NUL"),
        ] {
            let error = place("codeDir", uri).unwrap_err();
            assert!(error.field == "codeDir" && error.message.contains(why), "{uri}: {error}");
        }
    }
}
