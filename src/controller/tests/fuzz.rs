//! What a controller finds in its store, should somebody else have written there.

use super::cluster::Cluster;
use super::jobs::{job, role};
use crate::controller::persist::load;
use crate::domain::ids::Term;
use crate::domain::run::Phase;
use crate::fuzz::Target;
use crate::store::memory::MemoryStore;
use crate::store::{MAX_VALUE_BYTES, Op, Range, Store, Transaction};

pub(crate) const TARGETS: &[Target] =
    &[Target { name: "records of the store", seeds: stored, parse: read, most_bytes: 48 * 1024 }];

/// Key and value, a line each: a job that runs and one that waits.
fn stored() -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let mut cluster = Cluster::new(&[("n1", 2)]).await;
        let id = cluster.submit(&job("runs", &[role("worker", 2, 1)])).await;
        cluster.until_phase(id, Phase::Running).await;
        cluster.submit(&job("waits", &[role("worker", 1, 1)])).await;
        let (entries, _) = cluster.store.range(Range::prefix("")).await.expect("it can be read");
        cluster.kill().await;
        let line = |entry: &crate::store::Entry| {
            [entry.key.as_bytes(), b"\t", &entry.value.replace_newlines(), b"\n"].concat()
        };
        let all: Vec<Vec<u8>> = entries.iter().map(line).collect();
        vec![all.concat()]
    })
}

trait OneLine {
    fn replace_newlines(&self) -> Vec<u8>;
}

impl OneLine for Vec<u8> {
    /// Plans say their length on a line of its own.
    fn replace_newlines(&self) -> Vec<u8> {
        self.iter().map(|byte| if *byte == b'\n' { 0x0b } else { *byte }).collect()
    }
}

fn read(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    runtime.block_on(async {
        let store = MemoryStore::default();
        let lines = bytes.split(|byte| *byte == b'\n');
        for line in lines {
            let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
            let Ok(key) = std::str::from_utf8(&line[..tab]) else { continue };
            let value: Vec<u8> =
                line[tab + 1..].iter().map(|byte| if *byte == 0x0b { b'\n' } else { *byte }).collect();
            if key.is_empty() || key.len() > 512 || value.len() > MAX_VALUE_BYTES {
                continue;
            }
            let put = Op::Put { key: key.to_owned(), value };
            let _ = store.commit(Transaction { compares: Vec::new(), ops: vec![put] }).await;
        }
        if let Err(error) = load(&store, "c-1".to_owned(), Term(1)).await {
            assert!(!error.message.is_empty());
        }
    });
}
