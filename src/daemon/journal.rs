//! An agent's journal: opened, or set aside and begun anew where it is damaged. The agent then finds its tasks by the
//! records beside them. Who the node is lies in a file of its own, because containers, control groups and the controller
//! know it by that.

use crate::agent::{Identity, check_journal, load_identity};
use crate::config::AgentConfig;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::NodeUid;
use crate::store::file::set_aside;
use crate::store::sqlite::{SqliteSettings, SqliteStore};
use crate::store::{Store, StoreError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The node's id, beside the journal.
const NODE_UID_FILE: &str = "node_uid";
/// Longest id; ours have 36 bytes.
const MAX_UID_BYTES: usize = 64;

/// What kept a journal from being used.
enum Trouble {
    Damaged(String),
    Other(Error),
}

pub async fn open(config: &AgentConfig) -> Result<(Arc<dyn Store>, Identity), Error> {
    let (path, file) = (config.journal_path(), config.data_dir.join(NODE_UID_FILE));
    let known = read_uid(&file);
    let (store, identity) = match try_open(&path, known.clone()).await {
        Err(Trouble::Damaged(why)) => {
            let (from, to) = (path.clone(), path.display().to_string());
            let aside = tokio::task::spawn_blocking(move || set_aside(&from)).await;
            let aside = aside.map_err(|error| Error::internal(format!("setting {to} aside: {error}")))?;
            let aside = aside.map_err(|error| Error::unavailable(format!("setting {to} aside: {error}")))?;
            let aside = aside.display();
            tracing::error!(journal = to, %aside, why, "the journal is damaged: it is set aside, and a new one begins");
            try_open(&path, known.clone()).await
        }
        answer => answer,
    }
    .map_err(|trouble| match trouble {
        Trouble::Damaged(why) => Error::unavailable(format!("opening the journal {}: {why}", path.display())),
        Trouble::Other(error) => error,
    })?;
    if known.as_ref() != Some(&identity.node_uid)
        && let Err(error) = write_uid(&file, &identity.node_uid)
    {
        tracing::warn!(file = %file.display(), %error, "the node's id is in its journal only");
    }
    Ok((store, identity))
}

async fn try_open(path: &Path, known: Option<NodeUid>) -> Result<(Arc<dyn Store>, Identity), Trouble> {
    let (opening, place) = (path.to_owned(), path.display());
    let opened = tokio::task::spawn_blocking(move || {
        // Nobody watches it.
        let settings = SqliteSettings { keep_revisions: 1, keep_change_bytes: 0, ..SqliteSettings::default() };
        SqliteStore::open_with(&opening, settings)
    });
    let opened =
        opened.await.map_err(|error| Trouble::Other(Error::internal(format!("opening {place}: {error}"))))?;
    let store: Arc<dyn Store> = match opened {
        Ok(store) => Arc::new(store),
        Err(StoreError::Damaged { message, .. }) => return Err(Trouble::Damaged(message)),
        Err(error) => {
            return Err(Trouble::Other(Error::unavailable(format!("opening the journal {place}: {error}"))));
        }
    };
    // What it says of itself makes no sense; everything else is no reason to doubt it.
    let identity = load_identity(&store, known).await.map_err(|error| match error.kind {
        ErrorKind::Internal => Trouble::Damaged(error.message),
        _ => Trouble::Other(error),
    })?;
    check_journal(&store).await.map_err(Trouble::Other)?.map_err(Trouble::Damaged)?;
    Ok((store, identity))
}

/// None where there is no file, or nothing in it that could be an id: the journal says it too.
fn read_uid(file: &Path) -> Option<NodeUid> {
    let text = std::fs::read(file).ok().filter(|bytes| bytes.len() <= MAX_UID_BYTES)?;
    let text = String::from_utf8(text).ok()?.trim().to_owned();
    let right = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    right.then_some(NodeUid(text))
}

fn write_uid(file: &Path, uid: &NodeUid) -> io::Result<()> {
    let draft: PathBuf = file.with_extension("new");
    std::fs::write(&draft, format!("{uid}\n"))?;
    std::fs::File::open(&draft)?.sync_all()?;
    std::fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Op, Transaction};
    use std::fs;

    type Damage = fn(&[u8]) -> Vec<u8>;

    fn config(folder: &Path) -> AgentConfig {
        AgentConfig { data_dir: folder.to_owned(), ..AgentConfig::default() }
    }

    async fn uid_and_id(config: &AgentConfig) -> (String, String) {
        let (_store, identity) = open(config).await.unwrap();
        (identity.node_uid.0, identity.journal_id.0)
    }

    #[tokio::test]
    async fn a_damaged_journal_is_set_aside_and_the_node_stays_who_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let journal = config.journal_path();
        let (uid, mut id) = uid_and_id(&config).await;
        assert_eq!(uid_and_id(&config).await, (uid.clone(), id.clone()), "a restart changes nothing");
        let zeroed = |bytes: &[u8]| [&bytes[..100], &vec![0; bytes.len() - 100]].concat();
        let damages: [Damage; 3] = [
            |bytes| bytes[..bytes.len() / 2].to_vec(),
            |bytes| vec![0x55; bytes.len()],
            |_| b"not a database".to_vec(),
        ];
        let asides =
            |count: usize| (1..=count).all(|n| folder.path().join(format!("journal.db.damaged-{n}")).exists());
        for (count, damage) in damages.iter().chain([&(zeroed as Damage)]).enumerate() {
            let bytes = damage(&fs::read(&journal).unwrap());
            fs::write(&journal, &bytes).unwrap();
            let (same, other) = uid_and_id(&config).await;
            assert!(same == uid && other != id, "damage {count}: {same} {other}");
            assert!(asides(count + 1), "damage {count} is not there to be looked into");
            id = other;
        }
        fs::remove_file(&journal).unwrap();
        assert_eq!(uid_and_id(&config).await.0, uid, "deleted");
        fs::write(&journal, b"").unwrap();
        assert_eq!(uid_and_id(&config).await.0, uid, "emptied");
    }

    async fn put(config: &AgentConfig, key: &str, value: &[u8]) -> NodeUid {
        let (store, identity) = open(config).await.unwrap();
        let put = Op::Put { key: key.into(), value: value.into() };
        store.commit(Transaction { compares: Vec::new(), ops: vec![put] }).await.unwrap();
        identity.node_uid
    }

    #[tokio::test]
    async fn a_journal_that_says_nonsense_of_itself_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let damages: [(&str, &[u8]); 5] = [
            ("meta/level", b"first"),
            ("meta/node_uid", b"\xff\xfe"),
            ("meta/journal_id", b"\xff"),
            ("meta/term", b"-1"),
            ("meta/acknowledged", b"1e9"),
        ];
        for (count, (key, value)) in damages.into_iter().enumerate() {
            let uid = put(&config, key, value).await;
            let (_, identity) = open(&config).await.unwrap();
            assert_eq!(identity.node_uid, uid, "{key}");
            let aside = folder.path().join(format!("journal.db.damaged-{}", count + 1));
            assert!(aside.exists(), "{key}: {}", aside.display());
        }
    }

    #[tokio::test]
    async fn a_newer_journal_is_refused_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        put(&config, "meta/level", b"99").await;
        let refused = open(&config).await.map(drop).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Refused, "{refused}");
        assert!(!folder.path().join("journal.db.damaged-1").exists());
    }

    #[tokio::test]
    async fn one_record_that_makes_no_sense_costs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        put(&config, "task/1.1.0.0", b"{\"sequence\": 3, \"rec").await;
        open(&config).await.unwrap();
        assert!(!folder.path().join("journal.db.damaged-1").exists());
    }
}
