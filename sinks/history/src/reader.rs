//! Queries of the history.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millrace_keyspace::{Keyspace, KeyspaceError, Snapshot};
use millrace_rows::canonical::{self, DecodeError, Value, ValueRef};
use millrace_rows::{DeadLetter, Job, StoreState};

use crate::TRANSACTION_RECORDS_MAX;
use crate::codec::{CodecError, decode_dead, decode_job};
use crate::keys::{KeyError, Keys, RowKey, after};
use crate::lineage::{self, Lineage};
use crate::page_cursor;
use crate::scan::{Scan, behind};
use crate::state::Seen;

/// Most rows of one page.
pub const PAGE_ROWS_MAX: usize = 1000;
/// Bytes of rows after which a page ends, with at least one row in it.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Keys that one page scans unless the reader was told otherwise.
pub const PAGE_KEYS_MAX: usize = 10_000;
/// Bytes that one page scans: the bound where rows are large.
pub const PAGE_SCAN_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Pairs asked of the keyspace at a time where all of a range is read.
const SCAN_PAIRS: usize = 2000;

/// Why a query was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The cursor was not returned by a page of this device.
    #[error("bad cursor: {0}")]
    BadCursor(String),
    /// The limit is out of range.
    #[error("limit {0} is not 1 to {PAGE_ROWS_MAX}")]
    BadLimit(usize),
    /// The keyspace can't be reached now: try again after a pause.
    #[error("{0}")]
    Unavailable(String),
    /// Stored bytes that this build can't read: an operator has to look.
    #[error("the history can't be read: {0}")]
    Broken(String),
}

impl From<KeyspaceError> for ReadError {
    fn from(error: KeyspaceError) -> Self {
        match error {
            KeyspaceError::Unavailable(_) | KeyspaceError::Unknown(_) => Self::Unavailable(error.to_string()),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<KeyError> for ReadError {
    fn from(error: KeyError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<CodecError> for ReadError {
    fn from(error: CodecError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Which rows of a device are wanted; a field that is `None` wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// The column `type`.
    pub kind: Option<String>,
    /// The column `event`.
    pub event: Option<String>,
}

/// A page of one device's events.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// The device.
    pub device_id: String,
    /// Event times, µs, half open.
    pub times: Range<i64>,
    /// Which of its rows.
    pub filter: EventFilter,
    /// Most rows, 1 to [`PAGE_ROWS_MAX`].
    pub limit: usize,
    /// `next` of the page before; `None` for the newest.
    pub cursor: Option<String>,
}

/// A page of rows, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryPage {
    /// Each row's columns in byte order of their names, nulls left out.
    pub rows: Vec<Vec<(String, Value)>>,
    /// The cursor of the next page; `None` when there is none. A page may be empty and still have a next one: a page
    /// scans a bounded number of keys.
    pub next: Option<String>,
    /// Keys scanned.
    pub scanned: usize,
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Where it stands.
    pub key: RowKey,
    /// Its canonical bytes: see [`millrace_rows::canonical`].
    pub row: Bytes,
}

/// Some of all rows, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsPage {
    /// The rows.
    pub rows: Vec<StoredRow>,
    /// What to read on behind; `None` at the end.
    pub next: Option<RowKey>,
}

/// Some of a partition's dead letters, in offset order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterPage {
    /// The dead letters.
    pub letters: Vec<DeadLetter>,
    /// The offset to read on from; `None` at the end.
    pub next: Option<u64>,
}

/// How much is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows.
    pub rows: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

/// Reads the history. Cheap to clone.
#[derive(Clone)]
pub struct HistoryReader {
    keyspace: Arc<dyn Keyspace>,
    keys: Arc<Keys>,
    page_keys: usize,
}

impl HistoryReader {
    /// A reader of the history below `root`.
    pub fn new(keyspace: Arc<dyn Keyspace>, root: &str) -> Self {
        Self { keyspace, keys: Arc::new(Keys::new(root)), page_keys: PAGE_KEYS_MAX }
    }

    /// Lets a page scan about `keys` keys instead of [`PAGE_KEYS_MAX`].
    #[must_use]
    pub fn with_page_keys(mut self, keys: usize) -> Self {
        self.page_keys = keys.max(1);
        self
    }

    /// The history as it is at this moment: several queries that agree with each other. Hold it no longer than a few
    /// seconds.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`].
    pub async fn view(&self) -> Result<HistoryView, ReadError> {
        let snapshot = self.keyspace.snapshot().await?;
        Ok(HistoryView { snapshot, keys: self.keys.clone(), page_keys: self.page_keys })
    }

    /// A page of one device's events: [`HistoryView::page`] at this moment.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn page(&self, request: &PageRequest) -> Result<HistoryPage, ReadError> {
        self.view().await?.page(request).await
    }

    /// [`HistoryView::dead_letters`] at this moment.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn dead_letters(&self, partition: u32, from: u64, limit: usize) -> Result<DeadLetterPage, ReadError> {
        self.view().await?.dead_letters(partition, from, limit).await
    }

    /// [`HistoryView::state`] at this moment.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn state(&self) -> Result<StoreState, ReadError> {
        self.view().await?.state().await
    }

    /// Some of all rows: [`HistoryView::rows`] at this moment.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn rows(&self, behind: Option<&RowKey>, limit: usize) -> Result<RowsPage, ReadError> {
        self.view().await?.rows(behind, limit).await
    }

    /// Counts everything, in bounded memory, each page at its own moment: exact while nothing is written. Reads all of
    /// the history.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn counts(&self) -> Result<Counts, ReadError> {
        let mut counts = Counts::default();
        let mut last = None;
        loop {
            let page = self.rows(last.as_ref(), SCAN_PAIRS).await?;
            counts.rows += page.rows.len() as u64;
            last = page.next;
            if last.is_none() {
                break;
            }
        }
        let mut range = self.keys.all_dead_range();
        loop {
            let page = self.view().await?.snapshot.range(&range.start, &range.end, SCAN_PAIRS).await?;
            counts.dead_letters += page.pairs.len() as u64;
            match page.pairs.last() {
                Some((last, _)) if page.more => range.start = after(last),
                _ => return Ok(counts),
            }
        }
    }
}

/// The history at one moment.
pub struct HistoryView {
    pub(crate) snapshot: Box<dyn Snapshot>,
    pub(crate) keys: Arc<Keys>,
    page_keys: usize,
}

impl HistoryView {
    /// A page of one device's events, newest first; events of one time in order of (partition, offset, sub).
    ///
    /// The page ends at its limit, at [`PAGE_BYTES_MAX`], or when its number of keys or [`PAGE_SCAN_BYTES_MAX`] are
    /// scanned.
    ///
    /// # Errors
    /// [`ReadError::BadLimit`], [`ReadError::BadCursor`], and what reading meets.
    pub async fn page(&self, request: &PageRequest) -> Result<HistoryPage, ReadError> {
        if !(1..=PAGE_ROWS_MAX).contains(&request.limit) {
            return Err(ReadError::BadLimit(request.limit));
        }
        let mut range = self.keys.device_range(&request.device_id, &request.times);
        if let Some(cursor) = &request.cursor {
            let last = page_cursor::decode(&request.device_id, cursor)?;
            range.start = range.start.max(after(&self.keys.row(&last)));
        }
        let filtered = request.filter != EventFilter::default();
        // One pair more than rows are wanted tells whether a next page exists.
        let pairs = if filtered { SCAN_PAIRS } else { request.limit + 1 };
        let mut scan = Scan::new(&*self.snapshot, range, pairs.min(self.page_keys + 1));
        let mut page = HistoryPage { rows: Vec::new(), next: None, scanned: 0 };
        let (mut bytes, mut last) = (0, None);
        while page.rows.len() < request.limit
            && bytes < PAGE_BYTES_MAX
            && scan.scanned() < self.page_keys
            && scan.scanned_bytes() < PAGE_SCAN_BYTES_MAX
        {
            let Some((key, row)) = scan.next().await? else { break };
            let damaged = |error: DecodeError| damaged_row(&key, &error);
            if !filtered || matches(&request.filter, &row).map_err(damaged)? {
                bytes += row.len();
                page.rows.push(canonical::decode(&row).map_err(damaged)?);
            }
            last = Some(key);
        }
        page.scanned = scan.scanned();
        if let Some(last) = last
            && !scan.exhausted().await?
        {
            page.next = Some(page_cursor::encode(&self.keys.parse_row(&last)?));
        }
        Ok(page)
    }

    /// All rows behind one, or from the first, in key order: at most `limit` rows and about [`PAGE_BYTES_MAX`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn rows(&self, behind_row: Option<&RowKey>, limit: usize) -> Result<RowsPage, ReadError> {
        let mut range = self.keys.rows_range();
        if let Some(row) = behind_row {
            range = behind(&self.keys.row(row).into(), range);
        }
        let mut scan = Scan::new(&*self.snapshot, range, SCAN_PAIRS.min(limit.saturating_add(1)));
        let mut page = RowsPage { rows: Vec::new(), next: None };
        let mut bytes = 0;
        while page.rows.len() < limit && bytes < PAGE_BYTES_MAX {
            let Some((key, row)) = scan.next().await? else { break };
            bytes += row.len();
            page.rows.push(StoredRow { key: self.keys.parse_row(&key)?, row });
        }
        if !scan.exhausted().await? {
            page.next = page.rows.last().map(|row| row.key.clone()).or(behind_row.cloned());
        }
        Ok(page)
    }

    /// The dead letters of a partition from an offset on, at most `limit`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn dead_letters(&self, partition: u32, from: u64, limit: usize) -> Result<DeadLetterPage, ReadError> {
        self.letters(self.keys.dead_range(partition, from), from, limit).await
    }

    /// The dead letters of the records in a range of offsets, at most `limit`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn dead_letters_of(
        &self,
        partition: u32,
        offsets: Range<u64>,
        limit: usize,
    ) -> Result<DeadLetterPage, ReadError> {
        let from = offsets.start;
        self.letters(self.keys.dead_offsets_range(partition, offsets), from, limit).await
    }

    async fn letters(&self, range: Range<Vec<u8>>, from: u64, limit: usize) -> Result<DeadLetterPage, ReadError> {
        let page = self.snapshot.range(&range.start, &range.end, limit).await?;
        let mut letters = Vec::with_capacity(page.pairs.len());
        for (key, value) in &page.pairs {
            letters.push(decode_dead(self.keys.parse_dead(key)?.1, value)?);
        }
        let next = page.more.then(|| letters.last().map_or(from, |letter| letter.offset + 1));
        Ok(DeadLetterPage { letters, next })
    }

    /// Cursors and the applied revision.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn state(&self) -> Result<StoreState, ReadError> {
        Ok(Seen::read(&*self.snapshot, &self.keys).await?.state())
    }

    /// The jobs that are there, in order of their revisions.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn jobs(&self) -> Result<Vec<Job>, ReadError> {
        let mut jobs = Vec::new();
        let mut scan = Scan::new(&*self.snapshot, self.keys.jobs_range(), SCAN_PAIRS);
        while let Some((_, value)) = scan.next().await? {
            jobs.push(decode_job(&value)?);
        }
        Ok(jobs)
    }

    /// The lineages that cover any of `offsets`, in order, at most `limit`. To read on, ask from the end of the last.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn lineages(&self, partition: u32, offsets: Range<u64>, limit: usize) -> Result<Vec<Lineage>, ReadError> {
        let first = offsets.start.saturating_sub(TRANSACTION_RECORDS_MAX - 1);
        let range = self.keys.lineage_range(partition, first..offsets.end);
        let mut scan = Scan::new(&*self.snapshot, range, SCAN_PAIRS.min(limit.saturating_add(1)));
        let mut lineages = Vec::new();
        while lineages.len() < limit
            && let Some((key, value)) = scan.next().await?
        {
            let first = self.keys.parse_lineage(&key)?.1;
            if lineage::covered(first, &value)?.end > offsets.start {
                lineages.push(lineage::decode(first, &value)?.owned());
            }
        }
        Ok(lineages)
    }
}

fn damaged_row(key: &[u8], error: &DecodeError) -> ReadError {
    ReadError::Broken(format!("key {}: {error}", crate::keys::shown(key)))
}

/// Whether a stored row is one that the filter wants.
fn matches(filter: &EventFilter, row: &[u8]) -> Result<bool, DecodeError> {
    let (mut kind, mut event) = (filter.kind.is_none(), filter.event.is_none());
    for column in canonical::columns(row)? {
        let wanted = |wanted: &Option<String>, found: ValueRef<'_>| match (wanted, found) {
            (Some(wanted), ValueRef::String(found)) => wanted == found,
            _ => false,
        };
        match column? {
            ("type", found) => kind |= wanted(&filter.kind, found),
            ("event", found) => event |= wanted(&filter.event, found),
            _ => {}
        }
    }
    Ok(kind && event)
}
