//! Who leads: a key that only one can make, bound to a lease that goes when nobody renews it.
//!
//! The lead is a promise about time: until `valid_until` nobody else has it, counted on our own boot clock from
//! *before* the renewal was sent that etcd granted, less a margin for clocks that run differently. It is over by that
//! clock, whatever etcd says, also for a process that was frozen meanwhile. It is not what keeps two leaders from
//! writing (a process may be frozen between looking at its clock and sending): that is the term which every write
//! compares. The lead decides who takes the next term, and ends work that could only fail.

use super::EtcdStore;
use super::commit::{is, op, read_back};
use super::generated as pb;
use super::generated::compare::TargetUnion;
use super::generated::request_op::Request as Asked;
use super::link::{self, Again, Failed, Verdict};
use crate::store::StoreError;
use crate::telemetry::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

const LEADING: &str = "taking the lead";
/// Clocks may run so differently within one lease.
const MARGIN: Duration = Duration::from_secs(1);
/// Between two looks at the own clock: a frozen process notices soon after it goes on.
const LOOK: Duration = Duration::from_millis(200);
/// For calls whose failure changes nothing.
const SHORT: Duration = Duration::from_secs(2);

/// The answer to one attempt.
#[derive(Debug)]
pub enum Attempt {
    Won(Lead),
    /// Somebody leads: what they said of themselves.
    Taken(Vec<u8>),
}

/// The lead, until it is resigned or its lease runs out.
#[derive(Debug)]
pub struct Lead {
    store: Arc<EtcdStore>,
    clock: Arc<dyn Clock>,
    lease: i64,
    ttl: Duration,
    /// On the boot clock, in milliseconds.
    valid_until: AtomicU64,
}

impl EtcdStore {
    /// What the leader says of itself; `None` when nobody leads.
    pub async fn leader(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let request = pb::RangeRequest { key: self.keys.leader(), ..pb::RangeRequest::default() };
        let reply = self.read(request, self.settings.deadline).await;
        let reply = reply.map_err(|failed| failed.into_error("looking for the leader"))?;
        Ok(reply.kvs.into_iter().next().map(|kv| kv.value))
    }

    /// Takes the lead if nobody has it. `claim` is what others are told; `ttl` is how long it outlives us, in whole
    /// seconds, at least 3.
    pub async fn try_lead(
        self: &Arc<Self>,
        claim: &[u8],
        ttl: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Attempt, StoreError> {
        if let Some(leader) = self.leader().await? {
            return Ok(Attempt::Taken(leader));
        }
        let failed = |failed: Failed| failed.into_error(LEADING);
        let sent = clock.boottime();
        let seconds = i64::try_from(ttl.as_secs().max(3)).unwrap_or(i64::MAX);
        let lease = self.grant(seconds, self.settings.deadline).await.map_err(failed)?;
        let key = self.keys.leader();
        let put = pb::PutRequest { key: key.clone(), value: claim.to_vec(), lease };
        let request = pb::TxnRequest {
            compare: vec![is(key.clone(), TargetUnion::CreateRevision(0))],
            success: vec![op(Asked::RequestPut(put))],
            failure: vec![op(Asked::RequestRange(pb::RangeRequest { key, ..pb::RangeRequest::default() }))],
        };
        let lead = Lead { store: self.clone(), clock, lease, ttl, valid_until: AtomicU64::new(0) };
        lead.renewed(sent);
        match self.send(request, self.settings.deadline).await {
            Ok(reply) if reply.succeeded => Ok(Attempt::Won(lead)),
            Ok(reply) => {
                lead.resign().await;
                Ok(Attempt::Taken(read_back(&reply).map(|kv| kv.value.clone()).unwrap_or_default()))
            }
            Err(error) => {
                // It may have been taken, or be taken later: with the lease gone it is not.
                lead.resign().await;
                Err(failed(error))
            }
        }
    }

    /// A new lease.
    pub(super) async fn grant(&self, seconds: i64, limit: Duration) -> Result<i64, Failed> {
        let send = |channel| {
            let request = link::request(pb::LeaseGrantRequest { ttl: seconds, id: 0 });
            async move { link::lease(channel).lease_grant(request).await }
        };
        // One that is granted twice goes by itself.
        Ok(self.link.ask(Again::Freely, limit, send).await?.id)
    }

    /// One renewal: the seconds that the lease has from now, 0 if it is gone.
    async fn keep_alive(&self, lease: i64, limit: Duration) -> Result<i64, Failed> {
        let send = |channel| async move {
            let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id: lease });
            let mut answers = link::lease(channel).lease_keep_alive(link::request(once)).await?.into_inner();
            let answer = answers.message().await?;
            answer.map(tonic::Response::new).ok_or_else(|| tonic::Status::unavailable("the stream ended at once"))
        };
        Ok(self.link.ask(Again::Freely, limit, send).await?.ttl)
    }
}

impl Lead {
    fn renewed(&self, sent: Duration) {
        let until = sent + self.ttl.saturating_sub(MARGIN);
        self.valid_until.fetch_max(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// How long the lead surely lasts from now; zero when it may be another's.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.valid_until.load(Ordering::Acquire)).saturating_sub(self.clock.boottime())
    }

    /// Renews the lease for as long as that works; then says why the lead is lost.
    pub async fn hold(&self) -> String {
        let every = self.ttl / 4;
        let mut trouble = "it was not renewed in time, as if this process had been frozen".to_owned();
        loop {
            let sent = self.clock.boottime();
            let left = self.remaining();
            if left.is_zero() {
                return trouble;
            }
            match timeout(left, self.store.keep_alive(self.lease, left.min(SHORT))).await {
                Ok(Ok(seconds)) if seconds > 0 => {
                    self.renewed(sent);
                    while self.clock.boottime().saturating_sub(sent) < every {
                        tokio::time::sleep(LOOK).await;
                    }
                }
                Ok(Ok(_)) => return "etcd says that its lease has run out".to_owned(),
                Ok(Err(failed)) if failed.verdict == Verdict::Refused => return failed.message,
                Ok(Err(failed)) => {
                    trouble = failed.message;
                    tokio::time::sleep(LOOK).await;
                }
                Err(_) => {}
            }
        }
    }

    /// Lets the next one lead at once. Where etcd cannot be reached the lease runs out by itself.
    pub async fn resign(self) {
        let id = self.lease;
        let send = |channel| async move {
            link::lease(channel).lease_revoke(link::request(pb::LeaseRevokeRequest { id })).await
        };
        if let Err(failed) = self.store.link.ask(Again::Freely, SHORT, send).await {
            tracing::debug!(why = failed.message, "the lead was not given back; its lease runs out");
        }
    }
}
