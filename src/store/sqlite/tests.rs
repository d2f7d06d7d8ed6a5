//! What the contract suite cannot see from outside: files, damage, crashes, slow disks, watches that fall behind.

use super::super::contract;
use super::super::failing::FailingStore;
use super::super::{Compare, MAX_VALUE_BYTES, Op};
use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Instant;

fn put(key: &str, value: &[u8]) -> Transaction {
    Transaction { compares: vec![], ops: vec![Op::Put { key: key.to_owned(), value: value.to_vec() }] }
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    (directory, path)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn message(opened: Result<SqliteStore, StoreError>) -> String {
    opened.unwrap_err().to_string()
}

#[tokio::test]
async fn the_contract_holds_on_a_file() {
    let (_directory, path) = file();
    contract::run(Arc::new(SqliteStore::open(path).unwrap()), "test/").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_in_memory() {
    contract::run(Arc::new(SqliteStore::open_in_memory().unwrap()), "test/").await.unwrap();
}

#[tokio::test]
async fn a_failing_store_fails_as_the_contract_says() {
    contract::run_unavailable(&FailingStore::default()).await.unwrap();
}

/// As a dead disk looks: the thread is gone.
#[tokio::test]
async fn a_store_whose_threads_ended_fails_as_the_contract_says() {
    let mut store = SqliteStore::open_in_memory().unwrap();
    store.writer = Worker::start("dead", 4, drop).unwrap();
    contract::run_unavailable(&store).await.unwrap();
}

fn steps() -> impl Strategy<Value = Vec<contract::Step>> {
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..40));
    let ops = proptest::collection::vec((any::<u8>(), value), 0..6);
    let compares = proptest::collection::vec((any::<u8>(), proptest::bool::weighted(0.8)), 0..3);
    let step = (compares, ops).prop_map(|(compares, ops)| contract::Step { compares, ops });
    proptest::collection::vec(step, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_follows_the_model_and_keeps_it(first in steps(), second in steps()) {
        let (_directory, path) = file();
        block_on(async {
            let store = SqliteStore::open(&path).unwrap();
            contract::follow_model(&store, "m/", &first).await.unwrap();
            let before = store.range(Range::prefix("")).await.unwrap();
            drop(store);
            let store = SqliteStore::open(&path).unwrap();
            assert_eq!(store.range(Range::prefix("")).await.unwrap(), before);
            assert_eq!(store.revision(), before.1);
            contract::follow_model(&store, "m/", &second).await.unwrap();
        });
    }
}

#[tokio::test]
async fn what_was_answered_survives_a_crash() {
    let (directory, path) = file();
    let store = SqliteStore::open(&path).unwrap();
    let answers = futures_of(&store, 200).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Outcome::Committed { .. }))));
    // The files as a power cut would leave them: the store is open and nothing was flushed for us.
    let copy = directory.path().join("copy.db");
    for end in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        std::fs::copy(name(&path), name(&copy)).unwrap();
    }
    let (expected, found) = (store.range(Range::prefix("k")).await.unwrap(), SqliteStore::open(&copy).unwrap());
    assert_eq!(expected.0.len(), 200);
    assert_eq!(found.range(Range::prefix("k")).await.unwrap(), expected);
}

/// Many commits at once.
async fn futures_of(store: &SqliteStore, count: usize) -> Vec<Result<Outcome, StoreError>> {
    let mut futures: Vec<_> = (0..count).map(|i| Box::pin(store.commit(put(&format!("k{i:04}"), b"v")))).collect();
    let mut answers: Vec<Option<Result<Outcome, StoreError>>> = vec![None; count];
    std::future::poll_fn(|context| {
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    answers.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_conflict_in_a_group_leaves_the_others_alone() {
    let (_directory, path) = file();
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    // While another connection writes, what is asked for gathers into one group.
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut commits = tokio::task::JoinSet::new();
    for i in 0..50 {
        let store = Arc::clone(&store);
        commits.spawn(async move {
            let mut transaction = put(&format!("k{i:02}"), b"v");
            let revision = if i % 2 == 0 { 0 } else { 7 };
            transaction.compares.push(match revision {
                0 => Compare::Absent { key: format!("k{i:02}") },
                revision => Compare::ModRevision { key: "never".to_owned(), revision },
            });
            (i, store.commit(transaction).await.unwrap())
        });
    }
    // Each task gets its turn, and queues.
    tokio::task::yield_now().await;
    other.execute_batch("COMMIT").unwrap();
    for (i, outcome) in commits.join_all().await {
        assert_eq!(outcome != Outcome::Conflict, i % 2 == 0, "{i}: {outcome:?}");
    }
    assert_eq!(store.range(Range::prefix("k")).await.unwrap().0.len(), 25);
    assert_eq!(store.revision(), 25);
}

#[tokio::test]
async fn a_slow_write_does_not_hold_up_reads_and_ends_at_its_deadline() {
    let (_directory, path) = file();
    let settings = SqliteSettings { deadline: Duration::from_millis(1000), ..SqliteSettings::default() };
    let store = SqliteStore::open_with(&path, settings).unwrap();
    store.commit(put("k", b"1")).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    let (slow, read) = tokio::join!(store.commit(put("k", b"2")), store.get("k"));
    assert_eq!(read.unwrap().unwrap().value, b"1");
    assert_eq!(slow.unwrap_err().to_string(), "committing: no answer from the disk within 1000 ms");
    assert!(started.elapsed() < Duration::from_secs(8));
    other.execute_batch("ROLLBACK").unwrap();
    let done = async { while store.commit(put("k", b"3")).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), done).await.unwrap();
    assert_eq!(store.get("k").await.unwrap().unwrap().value, b"3");
    // The one that nobody waited for was left undone, not written late.
    let mut history = store.watch("k", 0).await.unwrap();
    let mut next = async || history.recv().await.unwrap().unwrap().value.unwrap();
    assert_eq!((next().await, next().await), (b"1".to_vec(), b"3".to_vec()));
}

#[tokio::test]
async fn a_dropped_commit_is_whole_or_not_at_all() {
    let (_directory, path) = file();
    let store = SqliteStore::open(&path).unwrap();
    for i in 0..100 {
        let op = |side: &str| Op::Put { key: format!("{side}{i}"), value: vec![0; 1000] };
        let commit = store.commit(Transaction { compares: vec![], ops: vec![op("a"), op("b")] });
        // Polled once: it is queued, and then nobody waits.
        tokio::select! { biased; _ = commit => {}, () = std::future::ready(()) => {} }
    }
    store.commit(put("last", b"")).await.unwrap();
    let count = async |prefix| store.range(Range::prefix(prefix)).await.unwrap().0.len();
    assert_eq!(count("a").await, count("b").await);
    assert_eq!(store.revision() as usize, count("a").await + 1);
}

#[tokio::test]
async fn old_history_is_compacted_by_count_and_by_bytes() {
    let settings = SqliteSettings { keep_revisions: 10, keep_change_bytes: 1 << 20, ..SqliteSettings::default() };
    let store = SqliteStore::open_in_memory_with(settings).unwrap();
    for i in 0..30_u8 {
        store.commit(put("k", &[i])).await.unwrap();
    }
    assert_eq!(store.watch("", 19).await.unwrap_err(), StoreError::Compacted { asked: 19, oldest: 20 });
    let mut watch = store.watch("", 20).await.unwrap();
    assert_eq!(watch.recv().await.unwrap().unwrap().revision, 21);
    for _ in 0..6 {
        store.commit(put("k", &vec![0; MAX_VALUE_BYTES])).await.unwrap();
    }
    // Four of the large ones and their keys are over the limit by the bytes of the keys.
    assert_eq!(store.watch("", 32).await.unwrap_err(), StoreError::Compacted { asked: 32, oldest: 33 });
    assert!(store.watch("", 33).await.is_ok());
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off_with_an_error() {
    let settings = SqliteSettings { watch_stall: Duration::from_millis(50), ..SqliteSettings::default() };
    let store = SqliteStore::open_in_memory_with(settings).unwrap();
    let mut watch = store.watch("", 0).await.unwrap();
    for i in 0..300_u32 {
        store.commit(put("k", &i.to_be_bytes())).await.unwrap();
    }
    store.watches.close();
    tokio::time::timeout(Duration::from_secs(20), store.watches.wait()).await.unwrap();
    let mut seen = 0;
    let end = loop {
        match watch.recv().await.unwrap() {
            Ok(change) => {
                seen += 1;
                assert_eq!(change.revision, seen);
            }
            Err(error) => break error.to_string(),
        }
    };
    assert!(seen > 0 && seen < 300 && end.contains("took nothing for 50 ms"), "{seen} {end}");
    assert!(watch.recv().await.is_none());
}

#[tokio::test]
async fn watches_end_when_their_reader_or_the_store_does() {
    let store = SqliteStore::open_in_memory().unwrap();
    drop(store.watch("", 0).await.unwrap());
    store.watches.close();
    tokio::time::timeout(Duration::from_secs(20), store.watches.wait()).await.unwrap();
    let mut watch = store.watch("", 0).await.unwrap();
    drop(store);
    let end = tokio::time::timeout(Duration::from_secs(20), watch.recv()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(end.to_string(), "watching: the store is being closed");
    assert!(watch.recv().await.is_none());
}

#[test]
fn one_process_at_a_time_and_nobody_else_reads_the_file() {
    let (_directory, path) = file();
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(message(SqliteStore::open(&path)).contains("is in use by another wharf"));
    drop(store);
    SqliteStore::open(&path).unwrap();
}

#[test]
fn other_programs_and_newer_versions_are_refused() {
    let (_directory, path) = file();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text); PRAGMA user_version = 3").unwrap();
    let error = message(SqliteStore::open(&path));
    assert!(error.contains("database of another kind (application id 0x0)"), "{error}");

    let (_directory, path) = file();
    drop(SqliteStore::open(&path).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let error = message(SqliteStore::open(&path));
    assert!(
        error.contains("written by a newer wharf: store version 99, this one writes 1 and reads up to 2"),
        "{error}"
    );

    let error = message(SqliteStore::open("/nonexistent/store.db"));
    assert!(error.contains("/nonexistent/store.db"), "{error}");
}

#[tokio::test]
async fn a_file_of_the_next_version_is_used_as_it_is() {
    let (_directory, path) = file();
    drop(SqliteStore::open(&path).unwrap());
    // A table, an index and columns more.
    let later = "CREATE TABLE of_the_next_version (id INTEGER); CREATE INDEX more ON changes (key);
        ALTER TABLE meta ADD COLUMN more INTEGER; ALTER TABLE entries ADD COLUMN more TEXT NOT NULL DEFAULT 'x';
        ALTER TABLE changes ADD COLUMN more TEXT; PRAGMA user_version = 2";
    Connection::open(&path).unwrap().execute_batch(later).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    let ops = vec![Op::Put { key: "a".into(), value: b"1".to_vec() }];
    store.commit(Transaction { compares: vec![], ops }).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, b"1");
    drop(store);
    let version: i64 =
        Connection::open(&path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 2, "the next version finds its file as it left it");
}

#[test]
fn damage_is_named_and_left_as_it_is() {
    let (_directory, path) = file();
    std::fs::write(&path, vec![b'x'; 5000]).unwrap();
    let error = message(SqliteStore::open(&path));
    assert!(error.contains("is damaged or not a database") && error.contains("wharf store restore"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), vec![b'x'; 5000]);

    let (_directory, path) = file();
    block_on(async {
        let store = SqliteStore::open(&path).unwrap();
        for i in 0..50 {
            store.commit(put(&format!("k{i}"), &[7; 3000])).await.unwrap();
        }
    });
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle - 8192..middle + 8192].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let error = message(SqliteStore::open(&path));
    assert!(error.contains("is damaged or not a database"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
