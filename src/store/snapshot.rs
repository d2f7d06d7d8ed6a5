//! Everything a store holds, in the order of keys: from a store, at one revision, or from a backup.

use super::backup::BackupReader;
use super::etcd::{EtcdStore, Reading};
use super::sqlite::snapshot::SqliteSnapshot;
use super::{Entry, Range, Store, StoreError};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// Entries of a page of a store that nobody else writes.
const PAGE: usize = 64;

/// Entries, one after the other; in memory there is a page of them.
#[derive(Debug)]
pub struct Snapshot {
    source: Source,
    page: VecDeque<Entry>,
    ended: bool,
}

#[derive(Debug)]
enum Source {
    Sqlite(SqliteSnapshot),
    Etcd(Arc<EtcdStore>, Reading, u64),
    /// Where to go on.
    Quiet(Arc<dyn Store>, String),
    Backup(Box<BackupReader>),
}

impl Snapshot {
    /// Of a file that a controller may have open. Blocks for a moment.
    pub fn of_file(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::from(Source::Sqlite(SqliteSnapshot::open(path)?)))
    }

    /// Of an etcd that controllers may write to.
    pub async fn of_etcd(store: Arc<EtcdStore>) -> Result<Self, StoreError> {
        let mut reading = store.reading(&Range::prefix(""));
        let page = store.read_page(&mut reading).await?;
        let source = Source::Etcd(store, reading, page.revision);
        Ok(Self { ended: page.next.is_none(), page: page.entries.into(), source })
    }

    /// Of a store that nobody else writes to.
    pub fn of_quiet(store: Arc<dyn Store>) -> Self {
        Self::from(Source::Quiet(store, String::new()))
    }

    /// Of a backup, which is read through once before the first entry is handed out: a damaged one gives none.
    pub fn of_backup(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::from(Source::Backup(Box::new(BackupReader::open(path)?))))
    }

    fn from(source: Source) -> Self {
        Self { source, page: VecDeque::new(), ended: false }
    }

    /// What everything is read at; of a backup, what it was made at; 0 where nobody writes.
    pub fn revision(&self) -> u64 {
        match &self.source {
            Source::Sqlite(file) => file.revision(),
            Source::Etcd(_, _, revision) => *revision,
            Source::Quiet(..) => 0,
            Source::Backup(backup) => backup.header().revision,
        }
    }

    /// The next entry; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        if self.page.is_empty() && !self.ended {
            self.page = self.next_page().await?.into();
            self.ended |= self.page.is_empty();
        }
        Ok(self.page.pop_front())
    }

    async fn next_page(&mut self) -> Result<Vec<Entry>, StoreError> {
        match &mut self.source {
            Source::Sqlite(file) => file.next_page().await,
            Source::Etcd(store, reading, _) => {
                let page = store.read_page(reading).await?;
                self.ended = page.next.is_none();
                Ok(page.entries)
            }
            Source::Quiet(store, start) => {
                let range = Range { start: start.clone(), end: None, limit: PAGE };
                let (entries, _) = store.range(range).await?;
                if let Some(last) = entries.last() {
                    *start = format!("{}\0", last.key);
                }
                Ok(entries)
            }
            Source::Backup(backup) => backup.next_page(),
        }
    }
}
