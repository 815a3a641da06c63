//! What verification reads: the rows of log records, found by the lineage.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;

use crate::TRANSACTION_RECORDS_MAX;
use crate::keys::{RowKey, after};
use crate::lineage::LineageRow;
use crate::reader::{HistoryView, ReadError};
use crate::scan::Scan;
use crate::value::SplitHead;

/// Most offsets that one call of [`HistoryView::materialized`] looks at.
pub const MATERIALIZED_RECORDS_MAX: u64 = TRANSACTION_RECORDS_MAX;
/// Bytes of rows after which [`HistoryView::materialized`] ends at the next record; it goes over by at most
/// the rows that are read at a time: 64 and the rest of their last record.
pub const MATERIALIZED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most lineages that one call of [`HistoryView::lineage_faults`] looks at.
pub const LINEAGES_MAX: usize = 1000;

/// Rows that are asked for at a time: one after the other a cluster's answers would take longer than a snapshot lives.
const READS: usize = 64;
/// Pairs asked of the keyspace at a time where a value in chunks is read: a record's rows have at most 1 MB.
const CHUNK_PAIRS: usize = 16;

/// A row that the lineage names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaterializedRow {
    /// Where it must stand.
    pub key: RowKey,
    /// The revision that made it, as the lineage has it.
    pub revision: u64,
    /// Its canonical bytes: see [`millrace_rows::canonical`]. `None`: nothing stands there, which no writer leaves behind.
    pub row: Option<Bytes>,
}

/// The rows of some records, in the order (offset, sub).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaterializedPage {
    /// The rows, all of each record.
    pub rows: Vec<MaterializedRow>,
    /// The offset to read on from; `None` at the end of what was asked for. A page may be empty and have a next one.
    pub next: Option<u64>,
}

/// Where the lineages of some offsets do not follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineageFaults {
    /// Offsets that none covers. A gap of the log is one too.
    pub gaps: Vec<Range<u64>>,
    /// Offsets that more than one covers: no writer does that.
    pub overlaps: Vec<Range<u64>>,
    /// The offset to read on from; `None` at the end of what was asked for.
    pub next: Option<u64>,
}

impl HistoryView {
    /// The rows of the records in `offsets`, found by the lineage: at most those of [`MATERIALIZED_RECORDS_MAX`] records and
    /// about [`MATERIALIZED_BYTES_MAX`]. A record without rows was dropped, is a dead letter, or is a gap of the log.
    ///
    /// Memory: the page, and the lineages that cover its offsets.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn materialized(&self, partition: u32, offsets: Range<u64>) -> Result<MaterializedPage, ReadError> {
        let end = offsets.end.min(offsets.start.saturating_add(MATERIALIZED_RECORDS_MAX));
        let mut page = MaterializedPage::default();
        let mut bytes = 0;
        // Twice as many records at most as were asked for: a lineage is no longer.
        for lineage in self.lineages(partition, offsets.start..end, usize::MAX).await? {
            let from = lineage.rows.partition_point(|row| row.offset < offsets.start);
            let to = lineage.rows.partition_point(|row| row.offset < end);
            let mut rest = lineage.rows.get(from..to).unwrap_or_default();
            while let Some(first) = rest.first() {
                if bytes >= MATERIALIZED_BYTES_MAX {
                    page.next = Some(first.offset);
                    return Ok(page);
                }
                // Whole records.
                let last = rest[READS.min(rest.len()) - 1].offset;
                let (now, behind) = rest.split_at(rest.partition_point(|row| row.offset <= last));
                for batch in now.chunks(READS) {
                    let reads = batch.iter().map(|row| Box::pin(self.materialized_row(partition, row)));
                    for row in together(reads.collect()).await {
                        let row = row?;
                        bytes += row.row.as_ref().map_or(0, Bytes::len);
                        page.rows.push(row);
                    }
                }
                rest = behind;
            }
        }
        if end < offsets.end {
            page.next = self.next_covered(partition, end..offsets.end).await?;
        }
        Ok(page)
    }

    /// Whether the lineages of `offsets` cover each of them once: what [`LineageFaults`] says. Looks at most at
    /// [`LINEAGES_MAX`] lineages.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn lineage_faults(&self, partition: u32, offsets: Range<u64>) -> Result<LineageFaults, ReadError> {
        let mut faults = LineageFaults::default();
        let mut at = offsets.start;
        let lineages = self.lineages(partition, offsets.clone(), LINEAGES_MAX).await?;
        for (number, lineage) in lineages.iter().enumerate() {
            let covered = &lineage.offsets;
            if covered.start > at {
                faults.gaps.push(at..covered.start);
            } else if covered.start < at && number > 0 {
                faults.overlaps.push(covered.start.max(offsets.start)..at.min(covered.end));
            }
            at = at.max(covered.end);
        }
        match lineages.last() {
            // The last is looked at again, for what overlaps it.
            Some(last) if lineages.len() == LINEAGES_MAX => {
                faults.next = Some(last.offsets.start.max(offsets.start + 1));
            }
            _ if at < offsets.end => faults.gaps.push(at..offsets.end),
            _ => {}
        }
        Ok(faults)
    }

    /// The first of `offsets` that a lineage covers.
    async fn next_covered(&self, partition: u32, offsets: Range<u64>) -> Result<Option<u64>, ReadError> {
        let lineages = self.lineages(partition, offsets.clone(), 1).await?;
        Ok(lineages.first().map(|lineage| lineage.offsets.start.max(offsets.start)))
    }

    async fn materialized_row(&self, partition: u32, row: &LineageRow) -> Result<MaterializedRow, ReadError> {
        let key = row.key(partition);
        let row_key = self.keys.row(&key);
        let value = match self.snapshot.get(&row_key).await? {
            Some(value) if SplitHead::parse(&value) != Ok(None) => {
                let range = row_key.clone()..after(&row_key);
                Scan::new(&*self.snapshot, range, CHUNK_PAIRS).next().await?.map(|(_, whole)| whole)
            }
            value => value,
        };
        Ok(MaterializedRow { key, revision: row.revision, row: value })
    }
}

/// Waits for futures at the same time; what they gave, in their order.
async fn together<F: Future>(mut futures: Vec<Pin<Box<F>>>) -> Vec<F::Output> {
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
