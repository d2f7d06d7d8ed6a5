//! The store in etcd against a real one: the contract of every store, and what only etcd can do to it.

use crate::harness::Etcd;
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::time::Duration;
use wharf::store::etcd::{EtcdSettings, EtcdStore};
use wharf::store::{Change, Compare, MAX_VALUE_BYTES, Op, Outcome, Range, Store, StoreError, Transaction, contract};

fn store(etcd: &Etcd) -> EtcdStore {
    EtcdStore::new(EtcdSettings::new(etcd.endpoints())).unwrap()
}

fn under(etcd: &Etcd, prefix: &str) -> EtcdStore {
    let settings = EtcdSettings { prefix: prefix.to_owned(), ..EtcdSettings::new(etcd.endpoints()) };
    EtcdStore::new(settings).unwrap()
}

fn put(key: &str, value: &[u8]) -> Transaction {
    Transaction { compares: vec![], ops: vec![Op::Put { key: key.to_owned(), value: value.to_vec() }] }
}

async fn committed(store: &EtcdStore, transaction: Transaction) -> u64 {
    match store.commit(transaction).await.unwrap() {
        Outcome::Committed { revision } => revision,
        Outcome::Conflict => panic!("a transaction conflicted for no reason"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_in_etcd() {
    let etcd = Etcd::start(1);
    contract::run(Arc::new(store(&etcd)), "test/").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_while_others_write_to_the_same_etcd() {
    let etcd = Etcd::start(1);
    let other = under(&etcd, "/other/");
    let writing = tokio::spawn(async move {
        for n in 0u32.. {
            committed(&other, put("k", &n.to_be_bytes())).await;
        }
    });
    contract::run(Arc::new(under(&etcd, "/wharf/")), "test/").await.unwrap();
    writing.abort();
    let (entries, _) = under(&etcd, "/wharf/").range(Range::prefix("k")).await.unwrap();
    assert_eq!(entries, [], "what lies under another prefix is not ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_etcd_fails_as_the_contract_says() {
    let etcd = Etcd::start(1);
    let settings = EtcdSettings { deadline: Duration::from_millis(500), ..EtcdSettings::new(etcd.endpoints()) };
    let store = EtcdStore::new(settings).unwrap();
    committed(&store, put("k", b"1")).await;
    etcd.kill9(0);
    contract::run_unavailable(&store).await.unwrap();
    let error = store.get("k").await.unwrap_err().to_string();
    assert!(error.contains("no connection to etcd at 127.0.0.1:"), "{error}");
    etcd.start_member(0);
    etcd.wait_healthy(0);
    assert_eq!(store.get("k").await.unwrap().unwrap().value, b"1");
}

/// Values of every size in numbers that no single message could carry, read at one revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_ranges_come_whole_and_at_one_revision() {
    let etcd = Etcd::start(1);
    let store = Arc::new(store(&etcd));
    for n in 0..100 {
        committed(&store, put(&format!("big/{n:03}"), &vec![n; MAX_VALUE_BYTES])).await;
    }
    for part in 0..20 {
        let op = |n| Op::Put { key: format!("a/{part:02}{n:02}"), value: vec![] };
        committed(&store, Transaction { compares: vec![], ops: (0..100).map(op).collect() }).await;
    }
    let (entries, _) = store.range(Range::prefix("")).await.unwrap();
    assert_eq!(entries.len(), 2100);
    let right =
        entries[2000..].iter().enumerate().all(|(n, e)| e.value.len() == MAX_VALUE_BYTES && e.value[0] == n as u8);
    assert!(right, "the small ones were read in large pages, then the large ones in small pages");
    let (some, _) = store.range(Range { start: "a/".into(), end: None, limit: 2050 }).await.unwrap();
    assert_eq!(some, entries[..2050]);

    // Two keys that always change together are never seen apart, however long the reading takes.
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for n in 0u32.. {
            let op = |key: &str| Op::Put { key: key.to_owned(), value: n.to_be_bytes().to_vec() };
            committed(&writer, Transaction { compares: vec![], ops: vec![op("a/"), op("z")] }).await;
        }
    });
    for _ in 0..3 {
        let (entries, revision) = store.range(Range::prefix("")).await.unwrap();
        let of = |key: &str| entries.iter().find(|entry| entry.key == key).map(|e| (e.value.clone(), e.mod_revision));
        assert_eq!(of("a/"), of("z"), "read at {revision}");
    }
    writing.abort();
}

async fn next(changes: &mut tokio::sync::mpsc::Receiver<Result<Change, StoreError>>) -> Result<Change, StoreError> {
    tokio::time::timeout(Duration::from_secs(90), changes.recv())
        .await
        .expect("a change in time")
        .expect("not the end")
}

/// Members go away one after the other; nothing is lost, and nothing is told twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_with_another_member_without_gap_or_repeat() {
    let etcd = Etcd::start(3);
    let store = store(&etcd);
    let mut expected = Vec::new();
    let mut changes = store.watch("w/", 0).await.unwrap();
    for round in 0u32..60 {
        if round % 15 == 5 {
            // Whichever the watch is on, it is among these.
            let member = (round / 15) as usize % 3;
            etcd.kill9(member);
            etcd.start_member(member);
        }
        let keys = ["w/a", "w/b", "w/c"];
        let op = |key: &&str| Op::Put { key: (*key).to_owned(), value: round.to_be_bytes().to_vec() };
        let transaction = Transaction {
            compares: vec![Compare::Absent { key: format!("w/{round}") }],
            ops: keys.iter().map(op).chain([Op::Put { key: format!("w/{round}"), value: vec![] }]).collect(),
        };
        // An answer that is lost with a member leaves the question open; the compare settles it.
        let revision = loop {
            match store.commit(transaction.clone()).await {
                Ok(Outcome::Committed { revision }) => break revision,
                Ok(Outcome::Conflict) => break store.get(&format!("w/{round}")).await.unwrap().unwrap().mod_revision,
                Err(error) => assert!(matches!(error, StoreError::Unavailable { .. }), "{error}"),
            }
        };
        expected.extend(keys.iter().map(|key| (revision, (*key).to_owned())));
        expected.push((revision, format!("w/{round}")));
    }
    for expected in expected {
        let found = next(&mut changes).await.unwrap();
        assert_eq!((found.revision, found.key), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_is_compacted_is_told() {
    let etcd = Etcd::start(1);
    let store = store(&etcd);
    let first = committed(&store, put("c/a", b"1")).await;
    let last = committed(&store, put("c/a", b"2")).await;
    let status = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.endpoints()[0], "compact", &last.to_string()])
        .output();
    assert!(status.unwrap().status.success(), "etcdctl comes with Debian's etcd-client");
    let mut changes = store.watch("c/", first - 1).await.unwrap();
    let error = next(&mut changes).await.unwrap_err();
    assert_eq!(error, StoreError::Compacted { asked: first - 1, oldest: last });
    let mut changes = store.watch("c/", last - 1).await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().revision, last);
}

/// A commit that waits in a member that hangs happens, if at all, before the next one is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_comes_late_is_shut_out() {
    let etcd = Etcd::start(3);
    let store = store(&etcd);
    committed(&store, put("late", b"0")).await;
    let mut unanswered = 0;
    for round in 0u8..6 {
        let member = usize::from(round) % 3;
        etcd.signal(member, Signal::SIGSTOP);
        let answer = store.commit(put("late", &[1, round])).await;
        unanswered += usize::from(answer.is_err());
        let settled = loop {
            match store.commit(put("late", &[2, round])).await {
                Ok(outcome) => break outcome,
                Err(error) => assert!(matches!(error, StoreError::Unavailable { .. }), "{error}"),
            }
        };
        assert!(matches!(settled, Outcome::Committed { .. }));
        etcd.signal(member, Signal::SIGCONT);
        etcd.wait_healthy(member);
        // The thawed member has had its say: whatever waited in it was done before it answers this.
        for _ in 0..3 {
            assert_eq!(store.get("late").await.unwrap().unwrap().value, [2, round]);
        }
    }
    assert!(unanswered > 0, "no member hung while it was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_quorum_and_a_full_database_have_their_sentences() {
    let etcd = Etcd::with(3, &["--quota-backend-bytes", "16777216"]);
    let settings = EtcdSettings { deadline: Duration::from_secs(4), ..EtcdSettings::new(etcd.endpoints()) };
    let store = EtcdStore::new(settings).unwrap();
    committed(&store, put("k", b"1")).await;
    etcd.kill9(0);
    etcd.kill9(1);
    crate::harness::until("the quorum is lost", || (!etcd.is_healthy(2)).then_some(()));
    let error = loop {
        let error = store.commit(put("k", b"2")).await.unwrap_err().to_string();
        // What was on its way when the quorum went may end otherwise.
        if error.contains("no leader") || error.contains("no connection") {
            break error;
        }
    };
    assert!(error.starts_with("committing: ") && error.contains("etcd"), "{error}");
    etcd.start_member(0);
    etcd.start_member(1);
    (0..3).for_each(|member| etcd.wait_healthy(member));
    let error = loop {
        match store.commit(put("fill", &vec![7; MAX_VALUE_BYTES])).await {
            Ok(_) => {}
            Err(error) if error.to_string().contains("NOSPACE") => break error.to_string(),
            Err(error) => assert!(matches!(error, StoreError::Unavailable { .. }), "{error}"),
        }
    };
    assert!(error.contains("etcd's database is full") && error.contains("disarm"), "{error}");
    assert_eq!(store.get("k").await.unwrap().unwrap().key, "k", "reading goes on");
}
