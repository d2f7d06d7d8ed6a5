//! By what a container is known as ours: labels, a name with a nonce that was journalled before it was made, and the
//! folder that is mounted at `/.wharf`. Labels alone travel with `docker commit`. Pure.

use super::request::{LABEL_NODE_UID, LABEL_NONCE, LABEL_TASK};
use crate::domain::ids::TaskId;
use std::collections::HashMap;
use std::path::Path;

/// Characters of the nonce in a name: enough to tell attempts apart, short enough to read.
const SHORT_NONCE: usize = 8;

/// `wharf-JOB.RUN.ROLE.INDEX-NONCE`: every attempt at a task has another.
pub fn name(id: TaskId, nonce: &str) -> String {
    let short: String = nonce.chars().take(SHORT_NONCE).collect();
    format!("wharf-{id}-{short}")
}

/// What dockerd says of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub id: String,
    /// As dockerd has them, with a leading slash.
    pub names: Vec<String>,
    pub labels: HashMap<String, String>,
    /// What of the node is mounted at `/.wharf`.
    pub mounted: Option<String>,
}

impl Found {
    /// Of which task of this node it says that it is.
    pub fn claims(&self, node_uid: &str) -> Option<TaskId> {
        let label = |name: &str| self.labels.get(name).map(String::as_str);
        (label(LABEL_NODE_UID) == Some(node_uid)).then(|| label(LABEL_TASK)?.parse().ok())?
    }

    /// Made by this node for a task, and not by somebody with its image: name, labels and mount belong together.
    pub fn is_ours(&self, node_uid: &str, id: TaskId, mount: &Path) -> bool {
        let Some(nonce) = self.labels.get(LABEL_NONCE) else { return false };
        let wanted = name(id, nonce);
        self.claims(node_uid) == Some(id)
            && self.names.iter().any(|found| found.trim_start_matches('/') == wanted)
            && self.mounted.as_deref().map(Path::new) == Some(mount)
    }

    /// The very one that was journalled, wherever its name has been changed to since.
    pub fn has_nonce(&self, nonce: &str) -> bool {
        self.labels.get(LABEL_NONCE).map(String::as_str) == Some(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{JobId, RunId};

    const ID: TaskId = TaskId { job: JobId(7), run: RunId(9), role: 0, index: 3 };
    const NONCE: &str = "0123456789abcdef";

    fn found() -> Found {
        Found {
            id: "c0".into(),
            names: vec!["/wharf-7.9.0.3-01234567".into()],
            labels: [(LABEL_NODE_UID, "node-a"), (LABEL_TASK, "7.9.0.3"), (LABEL_NONCE, NONCE)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            mounted: Some("/state/tasks/7.9.0.3/mount".into()),
        }
    }

    #[test]
    fn all_three_signs_are_needed() {
        let mount = Path::new("/state/tasks/7.9.0.3/mount");
        assert_eq!(name(ID, NONCE), "wharf-7.9.0.3-01234567");
        assert!(found().is_ours("node-a", ID, mount) && found().has_nonce(NONCE));
        assert!(!found().is_ours("node-b", ID, mount), "another node's");
        assert!(!found().is_ours("node-a", TaskId { index: 4, ..ID }, mount), "another task's");
        // What `docker commit` and `docker run` make of one of ours.
        assert!(!Found { names: vec!["/bold_euler".into()], ..found() }.is_ours("node-a", ID, mount));
        assert!(!Found { mounted: None, ..found() }.is_ours("node-a", ID, mount));
        assert!(!Found { mounted: Some("/elsewhere".into()), ..found() }.is_ours("node-a", ID, mount));
        let mut other = found();
        other.labels.insert(LABEL_NONCE.into(), "ffffffffffffffff".into());
        assert!(!other.is_ours("node-a", ID, mount), "its name tells another nonce");
        other.labels.clear();
        assert!(!other.is_ours("node-a", ID, mount) && !other.has_nonce(NONCE) && other.claims("node-a").is_none());
    }
}
