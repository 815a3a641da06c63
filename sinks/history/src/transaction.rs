//! The transactions of a rewriter: what they are filled with, and those that are under way.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use millrace_keyspace::{BATCH_BYTES_MAX, Batch, Compare, Keyspace, KeyspaceError, Snapshot, Write};
use millrace_rows::StoreError;
use tokio::task::JoinSet;

use crate::encode::{EncodeError, Limits};
use crate::keys::Keys;
use crate::lineage::LineageRow;
use crate::lookup::{StoredLineage, covering};
use crate::remade::Remade;
use crate::store::{broken, read_error, write_error};
use crate::swap::{add, isolate, swap};

/// Most lineages that one transaction replaces: each is looked up by itself, and a snapshot of a cluster lives for seconds.
const TRANSACTION_LINEAGES_MAX: usize = 256;
/// Transactions that are committed at the same time: an `fsync` or a round trip to a cluster is shared by so many.
const TRANSACTIONS_AT_ONCE: usize = 4;

/// All records of one partition that are to be swapped: a lineage may cover records of several rewrites, and a transaction
/// changes it once.
pub(crate) struct Staged {
    pub(crate) partition: u32,
    /// The end of the offsets that were looked at.
    pub(crate) end: u64,
    pub(crate) records: VecDeque<Remade>,
    /// Where the lineages that transactions under way change end: what comes now is looked for behind it.
    from: u64,
    /// Records whose lineage a transaction under way changes. Their turn comes when it is committed.
    pub(crate) later: VecDeque<Remade>,
}

impl Staged {
    pub(crate) fn new(partition: u32, end: u64, records: Vec<Remade>) -> Self {
        Self { partition, end, records: records.into(), from: 0, later: VecDeque::new() }
    }

    /// Leaves the next `count` records, and what else a lineage that ends at `end` covers, to a later transaction.
    fn pass(&mut self, count: usize, end: u64) {
        self.later.extend(self.records.drain(..count));
        self.from = end;
    }

    /// Nothing is under way any more: what waits for it comes first.
    pub(crate) fn again(&mut self) {
        let records = std::mem::take(&mut self.records);
        self.records = std::mem::take(&mut self.later);
        self.records.extend(records);
        self.from = 0;
    }
}

/// A transaction that is being filled.
pub(crate) struct Open {
    limits: Limits,
    pub(crate) batch: Batch,
    /// Bytes of the batch, with what moves the job.
    bytes: usize,
    /// Records in it.
    records: u64,
    /// Lineages that were looked up for it.
    lineages: usize,
    /// Whether something changes.
    pub(crate) begun: bool,
}

impl Open {
    /// Room is left for what moves the job.
    pub(crate) fn new(limits: Limits, compares: &[Compare], move_job: Option<&Write>) -> Self {
        let batch = Batch { compares: compares.to_vec(), writes: Vec::new() };
        let moves = Batch { compares: Vec::new(), writes: move_job.cloned().into_iter().collect() };
        let bytes = batch.size_bytes() + moves.size_bytes();
        Self { limits, batch, bytes, records: 0, lineages: 0, begun: false }
    }

    /// Whether so much more stays below where transactions are cut.
    fn fits(&self, bytes: usize, records: usize) -> bool {
        self.bytes + bytes <= self.limits.bytes && self.records + records as u64 <= self.limits.records
    }

    /// Whether a single record that is this large can be committed at all.
    fn holds_alone(&self, bytes: usize) -> bool {
        !self.begun && self.bytes + bytes <= BATCH_BYTES_MAX
    }

    fn push(&mut self, batch: Batch, bytes: usize, records: usize) {
        self.batch.compares.extend(batch.compares);
        self.batch.writes.extend(batch.writes);
        self.bytes += bytes;
        self.records += records as u64;
        self.begun = true;
    }
}

/// Transactions that are being committed. Those that are not answered when this is dropped may be committed all the same:
/// each is right by itself, and compares what it relies on.
#[derive(Default)]
pub(crate) struct UnderWay(JoinSet<Result<(), KeyspaceError>>);

impl UnderWay {
    /// Begins to commit one more, once there is room.
    pub(crate) async fn commit(&mut self, keyspace: &Arc<dyn Keyspace>, batch: Batch) -> Result<(), StoreError> {
        if self.0.len() >= TRANSACTIONS_AT_ONCE {
            self.next().await?;
        }
        let keyspace = keyspace.clone();
        self.0.spawn(async move {
            fail::fail_point!("history::rewrite::before", |_| std::process::abort());
            keyspace.commit_background(batch).await?;
            fail::fail_point!("history::rewrite::between", |_| std::process::abort());
            Ok(())
        });
        Ok(())
    }

    /// Returns when all of them are committed.
    pub(crate) async fn all(&mut self) -> Result<(), StoreError> {
        while !self.0.is_empty() {
            self.next().await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(), StoreError> {
        match self.0.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(write_error(error)),
            Some(Err(panic)) => Err(broken(format!("committing a transaction panicked: {panic}"))),
        }
    }
}

/// Moves records into a transaction until it is full or all that can be taken now is. Unless these are the `last`, records
/// stay whose lineage reaches behind what is staged: it is to be changed once.
///
/// It takes some, or cuts a lineage so that a later one can, where there are any that do not stay.
pub(crate) async fn fill(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    work: &mut [Staged],
    open: &mut Open,
    last: bool,
) -> Result<(), StoreError> {
    for staged in work {
        let partition = staged.partition;
        while let Some(record) = staged.records.front() {
            if open.lineages == TRANSACTION_LINEAGES_MAX {
                return Ok(());
            }
            open.lineages += 1;
            let offset = record.offset;
            let found = covering(snapshot, keys, partition, offset, staged.from).await.map_err(read_error)?;
            let Some(stored) = found else {
                let batch = add(keys, partition, record);
                let bytes = batch.size_bytes();
                if open.fits(bytes, 1) || open.holds_alone(bytes) {
                    open.push(batch, bytes, 1);
                    staged.records.pop_front();
                    // It may have a lineage of its own now, of nothing but itself.
                    staged.from = offset + 1;
                    continue;
                }
                return if open.begun { Ok(()) } else { Err(too_large(partition, offset, bytes)) };
            };
            let Range { start, end } = stored.offsets;
            if end > staged.end && !last {
                break;
            }
            let old = stored.rows().map_err(read_error)?;
            let within = staged.records.partition_point(|record| record.offset < end);
            match take(keys, partition, (&stored, &old), &staged.records.make_contiguous()[..within], open) {
                Some((batch, bytes, taken)) => {
                    open.push(batch, bytes, taken);
                    staged.records.drain(..taken);
                    staged.pass(within - taken, end);
                    if taken < within {
                        return Ok(());
                    }
                }
                None if open.begun => return Ok(()),
                None if end - start > 1 => {
                    let batch = isolate(keys, partition, &stored, &old, offset);
                    let bytes = batch.size_bytes();
                    open.push(batch, bytes, 0);
                    staged.pass(within, end);
                    return Ok(());
                }
                None => {
                    let alone = &staged.records.make_contiguous()[..1];
                    let bytes = swap(keys, partition, &stored, &old, alone).size_bytes();
                    return Err(too_large(partition, offset, bytes));
                }
            }
        }
    }
    Ok(())
}

/// The swap of as many of the first records of a lineage as the transaction takes, with its bytes and their number. A
/// transaction that has something takes all or none: a lineage that needs several begins with one of its own.
fn take(
    keys: &Keys,
    partition: u32,
    (stored, old): (&StoredLineage, &[LineageRow<&str>]),
    records: &[Remade],
    open: &Open,
) -> Option<(Batch, usize, usize)> {
    let mut taken = records.len();
    loop {
        // What is put at least; it spares making what is too large by far.
        let least: usize = records[..taken].iter().map(|record| record.bytes).sum();
        if open.fits(least, taken) || taken == 1 {
            let batch = swap(keys, partition, stored, old, &records[..taken]);
            let bytes = batch.size_bytes();
            if open.fits(bytes, taken) || (taken == 1 && open.holds_alone(bytes)) {
                return Some((batch, bytes, taken));
            }
        }
        if open.begun || taken == 1 {
            return None;
        }
        taken -= taken.div_ceil(8);
    }
}

fn too_large(partition: u32, offset: u64, bytes: usize) -> StoreError {
    broken(EncodeError::TooLarge { partition, offset, bytes }.to_string())
}
