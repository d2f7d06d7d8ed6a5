//! Names of images by Docker's rules, as far as wharf needs them: which registry is asked, for which repository and
//! which tag or digest. Pure.
//!
//! The grammar is that of `distribution/reference`: `[REGISTRY/]PATH[:TAG][@DIGEST]`. The first component is a
//! registry if it holds a dot, a colon or an upper-case letter, or is `localhost`; else the registry is Docker Hub,
//! and a path of one component lies below `library/`.

use std::fmt;

/// Docker Hub, as `docker login` and job files call it.
pub const DOCKER_HUB: &str = "docker.io";
/// Names under which Docker Hub is known.
const DOCKER_HUB_ALIASES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
/// Docker's own limit on a repository's name.
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// An image by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host, and port if it has one.
    pub registry: String,
    /// With `library/` where Docker Hub needs it.
    pub path: String,
    /// `latest` where neither tag nor digest is given; empty with a digest alone.
    pub tag: String,
    /// `sha256:...`; wins over the tag.
    pub digest: Option<String>,
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is not the name of an image: {why}")]
pub struct InvalidReference {
    pub found: String,
    pub why: &'static str,
}

impl Reference {
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let wrong = |why| InvalidReference { found: text.chars().take(120).collect(), why };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest
            && !is_digest(digest)
        {
            return Err(wrong("after '@' comes a digest, 'sha256:' and 64 hexadecimal digits"));
        }
        // A colon before the last slash belongs to the registry's port.
        let last = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[last..].find(':') {
            Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
            None => (name, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(wrong(
                "a tag is letters, digits, '_', '.' and '-', at most 128, and starts with none of '.-'",
            ));
        }
        let (registry, path) = split_registry(name);
        if name.len() > MAX_NAME_BYTES {
            return Err(wrong("it is longer than 255 bytes"));
        }
        if !is_registry(registry) {
            return Err(wrong("the registry is not a host name with an optional port"));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong("a repository's name must be in lower case"));
        }
        if !path.split('/').all(is_component) {
            return Err(wrong(
                "a repository's name is lower-case letters and digits, parted by '/', '.', '_' or '-'",
            ));
        }
        let registry = canonical_registry(registry);
        let library = registry == DOCKER_HUB && !path.contains('/');
        let path = if library { format!("library/{path}") } else { path.to_owned() };
        let tag = tag.unwrap_or(if digest.is_some() { "" } else { "latest" }).to_owned();
        Ok(Self { registry, path, tag, digest: digest.map(str::to_owned) })
    }

    /// What dockerd is asked to pull: the name without tag and digest, in the short form that people use.
    pub fn repository(&self) -> String {
        match (self.registry.as_str(), self.path.strip_prefix("library/")) {
            (DOCKER_HUB, Some(short)) => short.to_owned(),
            (DOCKER_HUB, None) => self.path.clone(),
            (registry, _) => format!("{registry}/{}", self.path),
        }
    }

    /// With the registry, whichever it is.
    pub fn whole(&self) -> String {
        let Self { registry, path, .. } = self;
        match &self.digest {
            Some(digest) => format!("{registry}/{path}@{digest}"),
            None => format!("{registry}/{path}:{}", self.tag),
        }
    }

    /// The digest, else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.tag)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository())?;
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => write!(f, ":{}", self.tag),
        }
    }
}

/// One spelling for one registry: without scheme, path and final slash; Docker Hub by its short name.
pub fn canonical_registry(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = text.split('/').next().unwrap_or(text).to_ascii_lowercase();
    if DOCKER_HUB_ALIASES.contains(&host.as_str()) { DOCKER_HUB.to_owned() } else { host }
}

/// A host name or address with an optional port.
pub fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let named = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_right = match bracketed {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.len() <= 253 && host.split('.').all(named),
    };
    host_is_right
        && port.is_none_or(|port| !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()))
}

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, path))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, path)
        }
        _ => (DOCKER_HUB, name),
    }
}

/// Letters and digits, parted by one dot, one or two underscores, or any number of dashes.
fn is_component(text: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let separated = bytes
        .split(plain)
        .filter(|between| !between.is_empty())
        .all(|between| matches!(between, b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-'));
    plain(first) && plain(last) && separated
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= MAX_TAG_BYTES
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_read_by_dockers_rules() {
        for (text, registry, path, version, shown) in [
            ("python", "docker.io", "library/python", "latest", "python:latest"),
            ("python:3.12", "docker.io", "library/python", "3.12", "python:3.12"),
            ("docker.io/library/python:3.12", "docker.io", "library/python", "3.12", "python:3.12"),
            ("index.docker.io/a/b", "docker.io", "a/b", "latest", "a/b:latest"),
            ("pytorch/pytorch:2.1-cuda", "docker.io", "pytorch/pytorch", "2.1-cuda", "pytorch/pytorch:2.1-cuda"),
            ("localhost/a", "localhost", "a", "latest", "localhost/a:latest"),
            ("localhost:5000/a:b", "localhost:5000", "a", "b", "localhost:5000/a:b"),
            (
                "10.0.0.1:5000/team/a__b/c--d:v1",
                "10.0.0.1:5000",
                "team/a__b/c--d",
                "v1",
                "10.0.0.1:5000/team/a__b/c--d:v1",
            ),
            (
                "nvcr.io/nvidia/pytorch:23.10-py3",
                "nvcr.io",
                "nvidia/pytorch",
                "23.10-py3",
                "nvcr.io/nvidia/pytorch:23.10-py3",
            ),
            ("[::1]:5000/a", "[::1]:5000", "a", "latest", "[::1]:5000/a:latest"),
            ("HOST/a", "host", "a", "latest", "host/a:latest"),
        ] {
            let found = Reference::parse(text).unwrap_or_else(|error| panic!("{error}"));
            let shown_as = found.to_string();
            let version_as = found.version().to_owned();
            assert_eq!(
                (&*found.registry, &*found.path, &*version_as, &*shown_as),
                (registry, path, version, shown),
                "{text}"
            );
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let found = Reference::parse(&format!("quay.io/a/b:v1@{DIGEST}")).unwrap();
        assert_eq!((found.version(), found.to_string()), (DIGEST, format!("quay.io/a/b@{DIGEST}")));
        assert_eq!(Reference::parse(&format!("a@{DIGEST}")).unwrap().tag, "");
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        let long = "a/".repeat(200) + "a";
        for (text, why) in [
            ("", "lower-case"),
            ("Python", "lower case"),
            ("a/B", "lower case"),
            ("a b", "lower-case"),
            ("a:", "tag"),
            ("a:-x", "tag"),
            ("a@sha256:12", "digest"),
            ("a//b", "lower-case"),
            ("/a", "lower-case"),
            ("a._b", "lower-case"),
            ("a___b", "lower-case"),
            ("-host.x/a", "registry"),
            ("host.x:port/a", "registry"),
            ("a\u{0}", "lower-case"),
            (long.as_str(), "255"),
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn one_registry_has_one_spelling() {
        for text in ["docker.io", "https://index.docker.io/v1/", "registry-1.docker.io", " Docker.IO "] {
            assert_eq!(canonical_registry(text), DOCKER_HUB);
        }
        assert_eq!(canonical_registry("http://Registry.example:5000/"), "registry.example:5000");
    }
}
