//! Reading ranges in pages, all at the revision of the first: no answer is too large for a message, and what is put
//! together was true at one moment.

use super::EtcdStore;
use super::commit::revision;
use super::generated as pb;
use super::link::{self, Again, Failed};
use crate::store::{Entry, Range, StoreError};
use std::time::Duration;
use tokio::time::Instant;

const READING: &str = "reading a range";
/// With the largest values a page is this times 256 KiB: always small enough for one message.
const SMALLEST_PAGE: usize = 32;
const LARGEST_PAGE: usize = 4096;
/// What a page should take, judged by the one before it.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// A range that compaction overtakes this often is read too slowly to be read at all.
const RESTARTS: u32 = 5;

/// Some entries in the order of keys, and the revision they were read at.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) revision: u64,
    /// Where to go on; `None` at the end.
    pub(crate) next: Option<Vec<u8>>,
}

/// A reading of a range, page by page.
#[derive(Debug)]
pub(crate) struct Reading {
    at: Option<Vec<u8>>,
    end: Vec<u8>,
    /// 0 until the first page was read.
    revision: u64,
    page: usize,
    left: usize,
}

impl EtcdStore {
    /// Begins to read a range.
    pub(crate) fn reading(&self, range: &Range) -> Reading {
        let end = range.end.as_ref().map_or_else(|| self.keys.entries_end(), |end| self.keys.entry(end));
        let at = Some(self.keys.entry(&range.start));
        Reading { at, end, revision: 0, page: SMALLEST_PAGE, left: range.limit }
    }

    /// The next page of at most `limit` entries; the caller goes on until `next` is none.
    pub(super) async fn next_page(&self, reading: &mut Reading, limit: Duration) -> Result<Page, Failed> {
        let deadline = Instant::now() + limit;
        loop {
            // A range that ends before it begins is empty; its revision is asked for all the same.
            let start = reading.at.clone().unwrap_or_else(|| reading.end.clone());
            let is_empty = start >= reading.end || reading.left == 0;
            let wanted = reading.page.min(reading.left).max(1);
            let request = pb::RangeRequest {
                range_end: if is_empty { Vec::new() } else { reading.end.clone() },
                key: start,
                limit: i64::try_from(wanted).unwrap_or(i64::MAX),
                revision: i64::try_from(reading.revision).unwrap_or(i64::MAX),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let reply = match self.read(request, left).await {
                Err(failed) if failed.is_too_large() && reading.page > SMALLEST_PAGE => {
                    reading.page = SMALLEST_PAGE;
                    continue;
                }
                other => other?,
            };
            return Ok(self.page(reading, reply, is_empty));
        }
    }

    fn page(&self, reading: &mut Reading, reply: pb::RangeResponse, is_empty: bool) -> Page {
        if reading.revision == 0 {
            reading.revision = revision(reply.header.as_ref());
        }
        let kvs = if is_empty { Vec::new() } else { reply.kvs };
        let bytes: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len() + 32).sum();
        if let Some(average) = bytes.checked_div(kvs.len()) {
            reading.page = (PAGE_BYTES / average.max(1)).clamp(SMALLEST_PAGE, LARGEST_PAGE);
        }
        reading.left -= kvs.len().min(reading.left);
        reading.at = kvs.last().filter(|_| reply.more && reading.left > 0).map(|last| {
            // The first key after the last one read.
            let mut next = last.key.clone();
            next.push(0);
            next
        });
        let entry = |kv: pb::KeyValue| {
            let mod_revision = u64::try_from(kv.mod_revision).unwrap_or(0);
            Some(Entry { key: self.keys.name(&kv.key)?, value: kv.value, mod_revision })
        };
        let entries = kvs.into_iter().filter_map(entry).collect();
        Page { entries, revision: reading.revision, next: reading.at.clone() }
    }

    /// The next page of a reading that cannot begin anew.
    pub(crate) async fn read_page(&self, reading: &mut Reading) -> Result<Page, StoreError> {
        let page = self.next_page(reading, self.settings.deadline).await;
        page.map_err(|failed| failed.into_error(READING))
    }

    /// A range, read again from the start if compaction overtakes it.
    pub(super) async fn read_range(&self, range: Range) -> Result<(Vec<Entry>, u64), StoreError> {
        let mut restarts = 0;
        'anew: loop {
            let mut reading = self.reading(&range);
            let mut entries = Vec::new();
            loop {
                match self.next_page(&mut reading, self.settings.deadline).await {
                    Ok(page) => {
                        entries.extend(page.entries);
                        if page.next.is_none() {
                            return Ok((entries, page.revision));
                        }
                    }
                    Err(failed) if failed.is_compacted() && restarts < RESTARTS => {
                        restarts += 1;
                        continue 'anew;
                    }
                    Err(failed) => return Err(failed.into_error(READING)),
                }
            }
        }
    }

    pub(super) async fn read(&self, request: pb::RangeRequest, limit: Duration) -> Result<pb::RangeResponse, Failed> {
        let send = |channel| {
            let request = link::request(request.clone());
            async move { link::kv(channel).range(request).await }
        };
        self.link.ask(Again::Freely, limit, send).await
    }

    /// The newest revision that etcd has.
    pub(super) async fn newest_revision(&self, operation: &'static str) -> Result<u64, StoreError> {
        let request = pb::RangeRequest { key: self.keys.tick(), ..pb::RangeRequest::default() };
        let reply = self.read(request, self.settings.deadline).await;
        reply.map(|reply| revision(reply.header.as_ref())).map_err(|failed| failed.into_error(operation))
    }
}
