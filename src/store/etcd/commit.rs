//! Transactions, and what happens to one whose answer never came.
//!
//! The answer of a write can be lost while the write itself waits in a connection or in a member that hangs, and is
//! done seconds later. Whoever read everything anew in between would have a wrong picture for ever. So every handle
//! has a session: a key of its own whose version each of its transactions compares. After a lost answer the next
//! transaction first raises that version, and what is still on its way from before can only conflict. Therefore:
//! **once a commit is answered, those that this handle began before and that were not answered have happened or never
//! will.** While no answer is lost the session's key is not there, its version is 0, and nothing is written for it.

use super::EtcdStore;
use super::generated as pb;
use super::generated::compare::{CompareResult, CompareTarget, TargetUnion};
use super::generated::request_op::Request as Asked;
use super::generated::response_op::Response as Answered;
use super::link::{self, Again, Failed, Verdict};
use crate::store::limits::effective;
use crate::store::{Compare, Op, Outcome, StoreError, Transaction};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use tokio::time::Instant;

const COMMITTING: &str = "committing";
/// The session's key outlives anything that could still be on its way, and then goes by itself.
const SESSION_SECONDS: i64 = 3600;

/// The guard against writes that come late.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: Vec<u8>,
    /// The version of the key that transactions compare.
    version: AtomicI64,
    /// Commits whose outcome is not known.
    doubts: AtomicU64,
    /// As many of them as can no longer happen.
    settled: AtomicU64,
}

impl Session {
    pub(super) fn new(key: Vec<u8>) -> Self {
        Self { key, version: AtomicI64::new(0), doubts: AtomicU64::new(0), settled: AtomicU64::new(0) }
    }

    fn in_doubt(&self) -> bool {
        self.doubts.load(Ordering::Acquire) != self.settled.load(Ordering::Acquire)
    }
}

/// Counts as a doubt unless it is laid to rest: a commit may also be dropped by its caller half-way.
struct Doubt<'a> {
    session: &'a Session,
    open: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if self.open {
            self.session.doubts.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl EtcdStore {
    pub(super) async fn transact(&self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        let deadline = Instant::now() + self.settings.deadline;
        loop {
            if self.session.in_doubt() {
                self.shut_out_late_writes(deadline).await?;
            }
            let version = self.session.version.load(Ordering::Acquire);
            let request = self.request(transaction, version);
            let reply = self.write(request, deadline).await.map_err(|failed| failed.into_error(COMMITTING))?;
            if reply.succeeded {
                return Ok(Outcome::Committed { revision: revision(reply.header.as_ref()) });
            }
            let found = session_version(&reply);
            if found == version {
                return Ok(Outcome::Conflict);
            }
            // Another commit of this handle met a lost answer meanwhile.
            self.session.version.store(found, Ordering::Release);
            if Instant::now() >= deadline {
                let message = "the session of this store changes all the time".to_owned();
                return Err(StoreError::Unavailable { operation: COMMITTING, message });
            }
        }
    }

    /// Sends a transaction; one whose outcome stays unknown leaves a doubt.
    async fn write(&self, request: pb::TxnRequest, deadline: Instant) -> Result<pb::TxnResponse, Failed> {
        let mut doubt = Doubt { session: &self.session, open: true };
        let limit = deadline.saturating_duration_since(Instant::now());
        let answer = self.send(request, limit).await;
        doubt.open = matches!(&answer, Err(failed) if failed.verdict == Verdict::Unknown);
        answer
    }

    pub(super) async fn send(
        &self,
        request: pb::TxnRequest,
        limit: std::time::Duration,
    ) -> Result<pb::TxnResponse, Failed> {
        let send = |channel| {
            let request = link::request(request.clone());
            async move { link::kv(channel).txn(request).await }
        };
        self.link.ask(Again::OnlyUnheard, limit, send).await
    }

    /// Raises the session's version, so that no commit that was begun before can happen any more.
    async fn shut_out_late_writes(&self, deadline: Instant) -> Result<(), StoreError> {
        let failed = |failed: Failed| failed.into_error(COMMITTING);
        let limit = || deadline.saturating_duration_since(Instant::now());
        let lease = self.grant(SESSION_SECONDS, limit()).await.map_err(failed)?;
        loop {
            let doubts = self.session.doubts.load(Ordering::Acquire);
            let version = self.session.version.load(Ordering::Acquire);
            let put = pb::PutRequest { key: self.session.key.clone(), value: Vec::new(), lease };
            let request = pb::TxnRequest {
                compare: vec![self.compare_session(version)],
                success: vec![op(Asked::RequestPut(put))],
                failure: vec![self.read_session()],
            };
            // Not a doubt: if it happens late it only raises the version once more, which is noticed.
            let reply = self.send(request, limit()).await.map_err(failed)?;
            if reply.succeeded {
                self.session.version.store(version + 1, Ordering::Release);
                self.session.settled.fetch_max(doubts, Ordering::AcqRel);
                return Ok(());
            }
            self.session.version.store(session_version(&reply), Ordering::Release);
        }
    }

    fn request(&self, transaction: &Transaction, version: i64) -> pb::TxnRequest {
        let mut compare: Vec<pb::Compare> =
            transaction.compares.iter().map(|compare| self.compare(compare)).collect();
        compare.push(self.compare_session(version));
        let ops = effective(&transaction.ops);
        let writes = ops.iter().any(|op| matches!(op, Op::Put { .. }));
        let mut success: Vec<pb::RequestOp> = ops.into_iter().map(|op| self.operation(op)).collect();
        if !writes {
            let put = pb::PutRequest { key: self.keys.tick(), value: Vec::new(), lease: 0 };
            success.push(op(Asked::RequestPut(put)));
        }
        pb::TxnRequest { compare, success, failure: vec![self.read_session()] }
    }

    fn compare(&self, compare: &Compare) -> pb::Compare {
        match compare {
            Compare::Absent { key } => is(self.keys.entry(key), TargetUnion::CreateRevision(0)),
            // To etcd a key that is not there has the revision 0; here it has none.
            Compare::ModRevision { key, revision } => {
                let revision = i64::try_from(*revision).ok().filter(|revision| *revision > 0).unwrap_or(-1);
                is(self.keys.entry(key), TargetUnion::ModRevision(revision))
            }
            Compare::Value { key, value } => is(self.keys.entry(key), TargetUnion::Value(value.clone())),
        }
    }

    fn operation(&self, operation: &Op) -> pb::RequestOp {
        op(match operation {
            Op::Put { key, value } => {
                Asked::RequestPut(pb::PutRequest { key: self.keys.entry(key), value: value.clone(), lease: 0 })
            }
            Op::Delete { key } => {
                Asked::RequestDeleteRange(pb::DeleteRangeRequest { key: self.keys.entry(key), range_end: Vec::new() })
            }
        })
    }

    fn compare_session(&self, version: i64) -> pb::Compare {
        is(self.session.key.clone(), TargetUnion::Version(version))
    }

    fn read_session(&self) -> pb::RequestOp {
        op(Asked::RequestRange(pb::RangeRequest { key: self.session.key.clone(), ..pb::RangeRequest::default() }))
    }
}

/// What was read where a compare failed; 0 for a key that is not there.
fn session_version(reply: &pb::TxnResponse) -> i64 {
    read_back(reply).map_or(0, |kv| kv.version)
}

/// The key that the first operation of the failure branch has read.
pub(super) fn read_back(reply: &pb::TxnResponse) -> Option<&pb::KeyValue> {
    match reply.responses.first()?.response.as_ref()? {
        Answered::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

pub(super) fn op(request: Asked) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// Holds if the key's property is this.
pub(super) fn is(key: Vec<u8>, expected: TargetUnion) -> pb::Compare {
    let target = match expected {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare { result: CompareResult::Equal.into(), target: target.into(), key, target_union: Some(expected) }
}

pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> u64 {
    header.and_then(|header| u64::try_from(header.revision).ok()).unwrap_or(0)
}
