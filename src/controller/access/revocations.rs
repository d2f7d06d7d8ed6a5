//! What was revoked, in a file beside the authority: a line of JSON for each word, only ever added to.
//!
//! The store has it too. But a store may be restored from a backup of before, and then the file is what remembers.

use crate::domain::access::token::TokenId;
use crate::domain::command::Error;
use crate::domain::ids::NodeName;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Something that proves nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "revoked")]
pub enum Revoked {
    Token {
        id: TokenId,
        at: Timestamp,
    },
    /// Certificates of that name up to this number.
    Node {
        node: NodeName,
        up_to: u64,
    },
}

/// The file. Reading and appending block: use them from a thread that may.
#[derive(Debug, Clone)]
pub struct Revocations {
    path: PathBuf,
    /// What it says of nodes, as it was last read or written; copies share it.
    nodes: Arc<RwLock<HashMap<NodeName, u64>>>,
}

impl Revocations {
    pub fn at(path: PathBuf) -> Self {
        Self { path, nodes: Arc::default() }
    }

    /// Certificates of this node up to this number prove nothing, as far as is known by now. `node` picks it.
    pub fn revoked_up_to(&self, node: impl Fn(&NodeName) -> bool) -> u64 {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().filter(|(name, _)| node(name)).map(|(_, up_to)| *up_to).max().unwrap_or(0)
    }

    fn know(&self, words: &[Revoked]) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        for word in words {
            if let Revoked::Node { node, up_to } = word {
                let known = nodes.entry(node.clone()).or_default();
                *known = (*known).max(*up_to);
            }
        }
    }

    /// Everything that was ever revoked. A last line that was not finished counts for nothing: whoever wrote it never
    /// answered.
    pub fn read(&self) -> Result<Vec<Revoked>, Error> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("reading", &self.path, &error)),
        };
        let mut words = Vec::new();
        for line in text.split_inclusive('\n') {
            let Some(whole) = line.strip_suffix('\n') else { break };
            let word = serde_json::from_str(whole).map_err(|error| failed("reading", &self.path, &error))?;
            words.push(word);
        }
        self.know(&words);
        Ok(words)
    }

    /// Durable when it returns.
    pub fn append(&self, words: &[Revoked]) -> Result<(), Error> {
        let mut lines = Vec::new();
        for word in words {
            serde_json::to_writer(&mut lines, word).map_err(|error| failed("writing", &self.path, &error))?;
            lines.push(b'\n');
        }
        let write = || {
            let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(&self.path)?;
            // What a crash has left of a line was never answered for, and would swallow the next.
            file.set_len(whole(&file)?)?;
            file.write_all(&lines)?;
            file.sync_all()?;
            // Its name, too.
            self.path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
        };
        write().map_err(|error: io::Error| failed("writing", &self.path, &error))?;
        self.know(words);
        Ok(())
    }
}

/// Up to where its lines are whole.
fn whole(mut file: &std::fs::File) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok(end as u64)
}

fn failed(doing: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::unavailable(format!("{doing} {}, the file of what was revoked: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_revoked_is_never_forgotten_and_half_a_line_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = Revocations::at(dir.path().join("revoked.jsonl"));
        assert_eq!(file.read(), Ok(vec![]));
        let token = Revoked::Token { id: TokenId("00".into()), at: Timestamp(1_000_000_000) };
        let node = Revoked::Node { node: "n 1".into(), up_to: 7 };
        file.append(std::slice::from_ref(&token)).unwrap();
        file.append(&[node.clone(), token.clone()]).unwrap();
        assert_eq!(file.read().unwrap(), [token.clone(), node.clone(), token.clone()]);
        let path = dir.path().join("revoked.jsonl");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.truncate(text.len() - 5);
        std::fs::write(&path, text).unwrap();
        assert_eq!(file.read().unwrap(), [token.clone(), node.clone()]);
        file.append(std::slice::from_ref(&token)).unwrap();
        assert_eq!(file.read().unwrap(), [token.clone(), node, token.clone()]);
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(file.read().unwrap_err().message.contains("revoked.jsonl"));
    }
}
