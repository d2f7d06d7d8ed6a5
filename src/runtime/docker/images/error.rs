//! Why a node has not got an image, told from what dockerd says. Pure.
//!
//! dockerd has no codes for what a registry answered, only Go's sentences: they are looked through for the words that
//! its own and the registry client's sources use, and go along whole. A password in them is crossed out.

use super::reference::{InvalidReference, Reference};
use crate::runtime::docker::credentials::Credentials;
use std::time::Duration;

/// Why there is no image. `said` is dockerd's own sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Invalid(#[from] InvalidReference),
    #[error("image {image} does not exist, or needs a login: {said}")]
    NotFound { image: String, said: String },
    /// Policy `never`.
    #[error("image {image} is not on this node, and its pull policy is 'never'")]
    Absent { image: String },
    #[error("image {image} is for {found}: this node is {node}")]
    WrongArchitecture { image: String, found: String, node: String },
    #[error("{}: {said}", unauthorized(image, registry, *login))]
    Unauthorized { image: String, registry: String, login: bool, said: String },
    #[error("pulling {image}: registry {registry} is not reached: {said}")]
    Unreachable { image: String, registry: String, said: String },
    #[error("pulling {image}: no progress for {} s, given up; last: {last}", after.as_secs())]
    Stalled { image: String, after: Duration, last: String },
    #[error("pulling {image}: this node's disk is full: {said}")]
    DiskFull { image: String, said: String },
    /// Anything else that registry or dockerd refused.
    #[error("pulling {image} failed: {said}")]
    Refused { image: String, said: String },
    /// dockerd itself did not answer.
    #[error("{operation} {image}: dockerd did not answer: {said}")]
    Engine { operation: &'static str, image: String, said: String },
    #[error("pulling {image} was given up: the runtime is closing")]
    Closed { image: String },
}

fn unauthorized(image: &str, registry: &str, login: bool) -> String {
    if login {
        format!("registry {registry} refuses image {image} to the login of the job's authFile")
    } else {
        format!(
            "registry {registry} wants a login for image {image}: name one with authFile, a file of three lines \
             (registry, user name, password) whose registry is {registry}"
        )
    }
}

impl ImageError {
    /// The job asked for something that cannot be: retrying elsewhere would not help.
    pub fn is_user_error(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::NotFound { .. }
            | Self::Absent { .. }
            | Self::WrongArchitecture { .. }
            | Self::Unauthorized { .. } => true,
            Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::DiskFull { .. }
            | Self::Refused { .. }
            | Self::Engine { .. }
            | Self::Closed { .. } => false,
        }
    }

    pub(super) fn engine(operation: &'static str, image: &str, said: impl ToString) -> Self {
        Self::Engine { operation, image: image.to_owned(), said: said.to_string() }
    }
}

/// What came of the node's own disk: no registry has said it.
const LAYER: [&str; 6] = [
    "failed to register layer",
    "error processing tar file",
    "filesystem layer verification",
    "error creating overlay mount",
    "operation not permitted",
    "executable file not found",
];
const UNREACHABLE: [&str; 22] = [
    "dial tcp",
    "dial unix",
    "lookup ",
    "connection refused",
    "connection reset",
    "server closed idle connection",
    "no such host",
    "no route to host",
    "network is unreachable",
    "i/o timeout",
    "tls handshake",
    "x509:",
    "server gave http response",
    "context deadline exceeded",
    "client.timeout exceeded",
    "unexpected eof",
    ": eof",
    "broken pipe",
    "server misbehaving",
    "502 bad gateway",
    "503 service unavailable",
    "504 gateway",
];
/// What registries say for want of a login, or of rights.
const UNAUTHORIZED: [&str; 10] = [
    "401 unauthorized",
    "403 forbidden",
    "http 401 response",
    "http 403 response",
    "unauthorized:",
    "no basic auth credentials",
    "authentication required",
    "incorrect username or password",
    "requested access to the resource is denied",
    ": denied: ",
];
const NOT_FOUND: [&str; 4] = ["manifest unknown", "name unknown", "404 not found", "not found"];

/// What dockerd's refusal of a pull means.
pub fn of_words(image: &Reference, login: Option<&Credentials>, status: Option<u16>, said: &str) -> ImageError {
    let said = login.map_or_else(|| said.trim().to_owned(), |login| login.crossed_out(said.trim()));
    let words = words(image, &said);
    let any = |list: &[&str]| list.iter().any(|some| words.contains(some));
    let (name, registry) = (image.to_string(), image.registry.clone());
    if any(&["no matching manifest for"]) {
        let (os, machine) = ("linux/", super::facts::node_architecture());
        let node = format!("{os}{machine}");
        return ImageError::WrongArchitecture { image: name, found: "other machines only".to_owned(), node };
    }
    if any(&["no space left on device", "disk quota exceeded"]) {
        return ImageError::DiskFull { image: name, said };
    }
    // Before what is the job's own fault: their sentences quote all kinds of words.
    if any(&LAYER) {
        return ImageError::Refused { image: name, said };
    }
    if any(&UNREACHABLE) || words == "eof" {
        return ImageError::Unreachable { image: name, registry, said };
    }
    // "pull access denied ... may require 'docker login'" is Docker Hub's word for both; without a login it mostly is
    // a misspelt name, with one it may be either.
    let ambiguous = any(&["pull access denied", "repository does not exist"]);
    if !ambiguous && (any(&UNAUTHORIZED) || words.starts_with("denied: ")) {
        return ImageError::Unauthorized { image: name, registry, login: login.is_some(), said };
    }
    if ambiguous || status == Some(404) || any(&NOT_FOUND) {
        return ImageError::NotFound { image: name, said };
    }
    ImageError::Refused { image: name, said }
}

/// What was said, in lower case and without names: of the image, of places, of layers. They may hold any word.
fn words(image: &Reference, said: &str) -> String {
    let repository = image.repository();
    let names = [image.to_string(), format!("{repository}:{}", image.version()), repository, image.registry.clone()];
    // A plain word is better left in: it may be one of the sentence's own.
    let names: Vec<_> = names.into_iter().filter(|name| name.contains(['/', ':', '.'])).collect();
    let place = |word: &str| {
        let bare = word.trim_matches(['"', '\'', '(', ')', '[', ']', ',', ';', ':']);
        ["http://", "https://", "sha256:"].iter().any(|begin| bare.starts_with(begin))
            || names.iter().any(|name| bare.eq_ignore_ascii_case(name))
    };
    let lower = said.to_ascii_lowercase();
    // What follows a place belongs to the sentence.
    let kept = lower.split_whitespace().map(|word| if place(word) { ending(word) } else { word });
    kept.collect::<Vec<_>>().join(" ")
}

/// The colon behind an address, without it.
fn ending(word: &str) -> &'static str {
    if word.ends_with(':') { "_:" } else { "_" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_dockerd_get_a_kind() {
        let image = Reference::parse("reg.example:5000/a/b:1").unwrap();
        let kind = |status, said: &str| match of_words(&image, None, status, said) {
            ImageError::NotFound { .. } => "not found",
            ImageError::Unauthorized { .. } => "unauthorized",
            ImageError::Unreachable { .. } => "unreachable",
            ImageError::WrongArchitecture { .. } => "architecture",
            ImageError::DiskFull { .. } => "disk",
            ImageError::Refused { .. } => "refused",
            other => panic!("{other:?}"),
        };
        for (status, said, want) in [
            (
                Some(404),
                "manifest for reg.example:5000/a/b:1 not found: manifest unknown: manifest unknown",
                "not found",
            ),
            (
                Some(404),
                "pull access denied for a/b, repository does not exist or may require 'docker login': denied: requested \
                 access to the resource is denied",
                "not found",
            ),
            (
                Some(500),
                "Get \"http://reg.example:5000/v2/a/b/manifests/1\": no basic auth credentials",
                "unauthorized",
            ),
            (
                Some(500),
                "Head \"https://r/v2/a/b/manifests/1\": unauthorized: authentication required",
                "unauthorized",
            ),
            (
                Some(500),
                "Get \"https://r:4011/v2/\": dial tcp 10.40.1.3:403: connect: connection refused",
                "unreachable",
            ),
            (
                Some(500),
                "Head \"https://r/v2/a/b/manifests/401\": dial tcp: lookup forbidden.example: i/o timeout",
                "unreachable",
            ),
            (
                Some(500),
                "Get \"https://denied.example/v2/\": x509: certificate is valid for 401, not r",
                "unreachable",
            ),
            (
                None,
                "failed to register layer: Error processing tar file(exit status 1): open /etc/unauthorized: permission denied",
                "refused",
            ),
            (None, "failed to register layer: exec: \"unpigz\": executable file not found in $PATH", "refused"),
            (None, "open /var/lib/docker/tmp/GetImageBlob401403: permission denied", "refused"),
            (None, "error pulling image configuration: sha256:4014034014 is damaged", "refused"),
            (None, "filesystem layer verification failed for digest sha256:401403", "refused"),
            (Some(500), "received unexpected HTTP status: 401 Unauthorized", "unauthorized"),
            (
                Some(500),
                "unexpected status from HEAD request to https://r/v2/a/b/manifests/1: 403 Forbidden",
                "unauthorized",
            ),
            (Some(500), "denied: requested access to the resource is denied", "unauthorized"),
            (Some(500), "Error response from daemon: denied: access forbidden", "unauthorized"),
            (
                Some(500),
                "Get \"https://auth.docker.io/token?scope=x\": unauthorized: incorrect username or password",
                "unauthorized",
            ),
            (Some(500), "error parsing HTTP 403 response body: denied", "unauthorized"),
            (Some(500), "Get \"https://r/v2/\": dial tcp 10.0.0.1:443: connect: connection refused", "unreachable"),
            (Some(500), "Get \"https://r/v2/\": dial tcp: lookup r: no such host", "unreachable"),
            (Some(500), "Get \"https://r/v2/\": x509: certificate signed by unknown authority", "unreachable"),
            (Some(500), "Get \"https://r/v2/\": http: server gave HTTP response to HTTPS client", "unreachable"),
            (None, "unexpected EOF", "unreachable"),
            (None, "EOF", "unreachable"),
            (Some(500), "Get \"http://r/v2/\": EOF", "unreachable"),
            (Some(500), "Get \"http://r/v2/\": http: server closed idle connection", "unreachable"),
            (None, "read tcp 1.1.1.1:1->1.1.1.1:2: read: connection reset by peer", "unreachable"),
            (None, "no matching manifest for linux/amd64 in the manifest list entries", "architecture"),
            (None, "failed to register layer: write /a: no space left on device", "disk"),
            (Some(500), "toomanyrequests: You have reached your pull rate limit", "refused"),
            (None, "filesystem layer verification failed for digest sha256:12", "refused"),
        ] {
            assert_eq!(kind(status, said), want, "{said}");
        }
    }

    #[test]
    fn the_names_of_images_say_nothing() {
        for (name, said) in [
            ("reg.example/not-found:401", "reg.example/not-found:401: something else"),
            ("denied.example/unauthorized:eof", "pulling denied.example/unauthorized: something else"),
            ("denied:401", "\"denied:401\": something else"),
        ] {
            let image = Reference::parse(name).unwrap();
            assert!(matches!(of_words(&image, None, None, said), ImageError::Refused { .. }), "{said}");
        }
        let short = Reference::parse("a").unwrap();
        let said = "unauthorized: authentication required";
        assert!(matches!(of_words(&short, None, None, said), ImageError::Unauthorized { .. }), "a name is no letter");
    }

    #[test]
    fn a_missing_login_says_where_one_comes_from_and_no_password_gets_out() {
        let image = Reference::parse("reg.example:5000/a/b:1").unwrap();
        let error = of_words(&image, None, None, "no basic auth credentials");
        assert!(error.is_user_error());
        let text = error.to_string();
        assert!(text.contains("reg.example:5000") && text.contains("authFile"), "{text}");
        let login = Credentials::parse(b"reg.example:5000\nada\nhunter2secret\n").unwrap();
        let error = of_words(&image, Some(&login), None, "unauthorized: ada:hunter2secret is wrong");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2") && text.contains("ada:*** is wrong"), "{text}");
        assert!(text.contains("authFile"));
    }
}
