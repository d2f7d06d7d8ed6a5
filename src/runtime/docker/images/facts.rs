//! What is known of an image once the node has it. Pure.

use super::error::ImageError;
use super::reference::Reference;
use bollard::models::ImageInspect;
use serde::{Deserialize, Serialize};

/// An image of this node's dockerd. From now on it is named by `id`: its tag may move.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageFacts {
    /// `sha256:...` of its configuration.
    pub id: String,
    /// As the job names it.
    pub reference: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// In the image's order.
    pub env: Vec<(String, String)>,
    /// `USER` of the image; empty is root.
    pub user: String,
    /// `WORKDIR` of the image; empty is `/`.
    pub working_dir: String,
    /// Paths that the image keeps in volumes.
    pub volumes: Vec<String>,
    /// By Go's names, e.g. `amd64`.
    pub architecture: String,
    pub os: String,
    pub size_bytes: u64,
    /// Names that dockerd has it under, with tags or digests.
    #[serde(default)]
    pub names: Vec<String>,
}

impl ImageFacts {
    /// Reads dockerd's answer.
    pub fn of(reference: &str, found: ImageInspect) -> Result<Self, ImageError> {
        let id = found.id.filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| ImageError::engine("inspecting", reference, "its answer names no image id"))?;
        let config = found.config.unwrap_or_default();
        let pair = |entry: String| match entry.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (entry, String::new()),
        };
        Ok(Self {
            id,
            reference: reference.to_owned(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default().into_iter().map(pair).collect(),
            user: config.user.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default(),
            architecture: found.architecture.unwrap_or_default(),
            os: found.os.unwrap_or_default(),
            names: found.repo_tags.into_iter().flatten().chain(found.repo_digests.into_iter().flatten()).collect(),
            size_bytes: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        })
    }

    /// Refuses an image that this machine cannot run. Images that do not say (`docker import`) are taken.
    pub fn check_architecture(&self, node: &str) -> Result<(), ImageError> {
        let os = self.os.is_empty() || self.os == "linux";
        let machine = self.architecture.is_empty()
            || self.architecture == node
            // The kernel runs 32-bit programs too.
            || (node == "amd64" && self.architecture == "386");
        if os && machine {
            return Ok(());
        }
        let image = if os { self.architecture.clone() } else { format!("{}/{}", self.os, self.architecture) };
        Err(ImageError::WrongArchitecture { image: self.reference.clone(), found: image, node: node.to_owned() })
    }

    /// It is the image of this name, and not one that has its id: a name may look like one.
    pub fn is_called(&self, name: &str) -> bool {
        let whole = |name: &str| Reference::parse(name).ok().map(|name| name.whole());
        let asked = whole(name);
        asked.is_some() && self.names.iter().any(|known| whole(known) == asked)
    }

    /// `WORKDIR`, or the root.
    pub fn work_dir(&self) -> &str {
        if self.working_dir.is_empty() { "/" } else { &self.working_dir }
    }

    pub fn variable(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// This machine, by Go's names.
pub fn node_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The user and group numbers that a container of `user` runs with; `None` where only the image knows the name.
/// A user without a group has the one that the image's `passwd` says, which is not known here: then root's.
pub fn numeric_owner(user: &str) -> Option<(u32, u32)> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let number = |text: &str| match text {
        "" | "root" => Some(0),
        _ => text.parse().ok(),
    };
    Some((number(user)?, number(group)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_for_another_machine_is_named() {
        let image = |os: &str, architecture: &str| ImageFacts {
            reference: "a:1".into(),
            os: os.into(),
            architecture: architecture.into(),
            ..ImageFacts::default()
        };
        for (os, architecture) in [("linux", "amd64"), ("", ""), ("linux", "386")] {
            assert_eq!(image(os, architecture).check_architecture("amd64"), Ok(()));
        }
        let error = image("linux", "arm64").check_architecture("amd64").unwrap_err();
        assert!(error.is_user_error());
        assert_eq!(error.to_string(), "image a:1 is for arm64: this node is amd64");
        assert!(image("windows", "amd64").check_architecture("amd64").is_err());
        assert!(image("linux", "386").check_architecture("arm64").is_err());
    }

    #[test]
    fn owners_are_numbers_or_unknown() {
        for (user, owner) in [
            ("", Some((0, 0))),
            ("root", Some((0, 0))),
            ("1000", Some((1000, 0))),
            ("1000:100", Some((1000, 100))),
            ("root:5", Some((0, 5))),
            ("ada", None),
            ("1000:users", None),
        ] {
            assert_eq!(numeric_owner(user), owner, "{user}");
        }
    }

    #[test]
    fn the_answer_of_dockerd_is_read() {
        let text = r#"{"Id": "sha256:1", "Architecture": "amd64", "Os": "linux", "Size": 7,
            "Config": {"Env": ["PATH=/bin", "A=b=c", "EMPTY"], "User": "ada", "Volumes": {"/data": {}}, "Cmd": ["sh"]}}"#;
        let facts = ImageFacts::of("a:1", serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(facts.variable("A"), Some("b=c"));
        assert_eq!(facts.variable("EMPTY"), Some(""));
        assert_eq!((facts.volumes, facts.cmd), (vec!["/data".to_owned()], vec!["sh".to_owned()]));
        assert_eq!(ImageFacts::default().work_dir(), "/");
        assert!(ImageFacts::of("a:1", ImageInspect::default()).is_err());
    }
}
