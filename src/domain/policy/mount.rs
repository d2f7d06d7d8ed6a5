//! Folders of the node that jobs may name.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// `/srv/jobs`, or `/srv/data:ro` for one that is only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRule {
    pub path: PathBuf,
    pub read_only: bool,
}

impl MountRule {
    pub fn writable(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: false }
    }

    /// `None`: no folder below `/` without `..`.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, read_only) = match text.strip_suffix(":ro") {
            Some(path) => (path, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let rule = Self { path: PathBuf::from(path), read_only };
        rule.is_right().then_some(rule)
    }

    /// An absolute folder below `/`.
    pub fn is_right(&self) -> bool {
        let plain = |path: &Path| !path.components().any(|part| part == Component::ParentDir);
        self.path.is_absolute() && plain(&self.path) && self.path.components().count() > 1
    }
}

impl fmt::Display for MountRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path.display(), if self.read_only { ":ro" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_may_be_read_only() {
        assert_eq!(MountRule::parse("/srv/jobs"), Some(MountRule::writable("/srv/jobs")));
        assert_eq!(MountRule::parse("/srv/jobs:rw"), Some(MountRule::writable("/srv/jobs")));
        let read_only = MountRule::parse("/srv/data:ro").unwrap();
        assert!(read_only.read_only && read_only.to_string() == "/srv/data:ro");
        for wrong in ["/", "", "srv", "/srv/../etc", "/:ro", ":ro", "/.."] {
            assert_eq!(MountRule::parse(wrong), None, "{wrong}");
        }
    }
}
