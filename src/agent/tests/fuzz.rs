//! What an agent finds in its journal, should a disk or somebody have changed it.

use super::store::MemoryStore;
use super::{Node, header, spec, task};
use crate::agent::journal;
use crate::api::AgentApi;
use crate::fuzz::Target;
use crate::store::{MAX_VALUE_BYTES, Op, Range, Store, Transaction};
use std::sync::Arc;

pub(crate) const TARGETS: &[Target] =
    &[Target { name: "records of the journal", seeds: stored, parse: read, most_bytes: 48 * 1024 }];

/// Key and value, a line each: a task that is prepared and one that is staged.
fn stored() -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let mut node = Node::new().await;
        node.agent.prepare(header(1), spec(task(0), &["GPU-0"])).await.expect("there is room");
        node.agent.stage(header(1), spec(task(1), &["GPU-1"])).await.expect("there is room");
        node.end().await;
        let (entries, _) = node.store.range(Range::prefix("")).await.expect("it can be read");
        let line = |entry: &crate::store::Entry| [entry.key.as_bytes(), b"\t", &entry.value, b"\n"].concat();
        vec![entries.iter().map(line).collect::<Vec<_>>().concat()]
    })
}

fn read(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    runtime.block_on(async {
        let store = MemoryStore::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
            let Ok(key) = std::str::from_utf8(&line[..tab]) else { continue };
            if line.len() > MAX_VALUE_BYTES {
                continue;
            }
            let put = Op::Put { key: key.to_owned(), value: line[tab + 1..].to_vec() };
            let _ = store.commit(Transaction { compares: Vec::new(), ops: vec![put] }).await;
        }
        let store: Arc<dyn Store> = Arc::new(store);
        if let Ok(Err(why)) = journal::check(&store).await {
            assert!(!why.is_empty());
        }
    });
}
