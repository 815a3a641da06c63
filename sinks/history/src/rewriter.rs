//! The writer of a store's jobs.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_keyspace::{BATCH_BYTES_MAX, Batch, Compare, Keyspace, KeyspaceError, Snapshot, Write};
use millrace_rows::{Backlog, Job, Reason, Rewrite, Rewriter, StoreError};
use tokio::task::JoinSet;

use crate::codec::{decode_job, encode_job};
use crate::encode::{EncodeError, Limits};
use crate::keys::Keys;
use crate::lineage::LineageRow;
use crate::lookup::{StoredLineage, covering};
use crate::reader::ReadError;
use crate::remade::{Remade, remade};
use crate::scan::Scan;
use crate::state::Seen;
use crate::store::{NAME, broken, fenced, not_loaded, read_error, write_error};
use crate::swap::{add, isolate, swap};

/// Most records that the loop should stage for one commit, over all partitions: few enough that their encoded rows fit in
/// memory (512 KiB a record at the very most, some hundred bytes as a rule) and that a commit, a handful of transactions,
/// takes a fraction of a second.
pub const REWRITE_RECORDS_MAX: u64 = 4096;

/// Most lineages that one transaction replaces: each is looked up by itself, and a snapshot of a cluster lives for seconds.
const TRANSACTION_LINEAGES_MAX: usize = 256;
/// Transactions that are committed at the same time: an `fsync` or a round trip to a cluster is shared by so many.
const TRANSACTIONS_AT_ONCE: usize = 4;

const JOB_PAGE: usize = 100;

/// The device history as a [`Rewriter`]. What its transactions are is described in the [crate's documentation](crate).
///
/// Memory: the encoded form of what is staged, and while it commits a few transactions and the lineage that one of them
/// reads.
pub struct HistoryRewriter {
    keyspace: Arc<dyn Keyspace>,
    keys: Arc<Keys>,
    limits: Limits,
    /// `None` before the first load and after an error.
    seen: Option<Loaded>,
    staged: Vec<Staged>,
}

/// What was last seen of the state and of the jobs.
struct Loaded {
    state: Seen,
    jobs: BTreeMap<u64, (Job, Bytes)>,
}

/// All records of one partition that are to be swapped: a lineage may cover records of several rewrites, and a transaction
/// changes it once.
struct Staged {
    partition: u32,
    /// The end of the offsets that were looked at.
    end: u64,
    records: VecDeque<Remade>,
    /// Where the lineages that transactions under way change end: what comes now is looked for behind it.
    from: u64,
    /// Records whose lineage a transaction under way changes. Their turn comes when it is committed.
    later: VecDeque<Remade>,
}

impl Staged {
    fn new(partition: u32, end: u64, records: Vec<Remade>) -> Self {
        Self { partition, end, records: records.into(), from: 0, later: VecDeque::new() }
    }

    /// Leaves the next `count` records, and what else a lineage that ends at `end` covers, to a later transaction.
    fn pass(&mut self, count: usize, end: u64) {
        self.later.extend(self.records.drain(..count));
        self.from = end;
    }
}

impl HistoryRewriter {
    /// A rewriter of the history below `root`. Reads nothing yet.
    pub fn new(keyspace: Arc<dyn Keyspace>, root: &str) -> Self {
        Self {
            keyspace,
            keys: Arc::new(Keys::new(root)),
            limits: Limits::of_rewrites(),
            seen: None,
            staged: Vec::new(),
        }
    }

    /// Cuts transactions at `bytes` and `records`, but none is larger than [`TRANSACTION_BYTES`](crate::TRANSACTION_BYTES)
    /// and [`TRANSACTION_RECORDS_MAX`](crate::TRANSACTION_RECORDS_MAX) allow a store. What is stored does not
    /// depend on it but for where lineages begin.
    #[must_use]
    pub fn with_transactions_of(mut self, bytes: usize, records: u64) -> Self {
        self.limits = Limits::at_most(bytes, records);
        self
    }

    fn forget(&mut self) {
        self.seen = None;
        self.staged.clear();
    }

    async fn try_load(&mut self) -> Result<Backlog, StoreError> {
        let snapshot = self.keyspace.snapshot().await.map_err(write_error)?;
        let loaded = Loaded::read(&*snapshot, &self.keys).await.map_err(read_error)?;
        Ok(self.seen.insert(loaded).backlog())
    }

    async fn try_stage(&mut self, rewrite: Rewrite) -> Result<(), StoreError> {
        let seen = &self.seen.as_ref().ok_or_else(not_loaded)?.state;
        let (partition, offsets) = (rewrite.partition, rewrite.offsets.clone());
        if rewrite.applied != seen.applied.revision {
            return Err(fenced(format!(
                "records were made again under revision {}, the store has applied {}",
                rewrite.applied, seen.applied.revision
            )));
        }
        let stands = seen.cursors.get(&partition).map_or(0, |(cursor, _)| cursor.next);
        if offsets.end > stands {
            return Err(fenced(format!(
                "partition {partition}: records {offsets:?} made again, the store stands at {stands}"
            )));
        }
        let staged = self.staged.iter().find(|staged| staged.partition == partition);
        if let Some(staged) = staged.filter(|staged| staged.end > offsets.start) {
            return Err(fenced(format!(
                "partition {partition}: records {offsets:?} made again do not follow those staged up to {}",
                staged.end
            )));
        }
        let keys = self.keys.clone();
        let records = tokio::task::spawn_blocking(move || remade(&rewrite, &keys))
            .await
            .map_err(|error| broken(format!("encoding records of partition {partition} panicked: {error}")))?
            .map_err(|error| broken(error.to_string()))?;
        match self.staged.iter_mut().find(|staged| staged.partition == partition) {
            Some(staged) => {
                staged.end = offsets.end;
                staged.records.extend(records);
            }
            None => self.staged.push(Staged::new(partition, offsets.end, records)),
        }
        Ok(())
    }

    async fn try_commit(&mut self, revision: u64, left: &BTreeMap<u32, u64>) -> Result<Backlog, StoreError> {
        // Taken until the end: if this future is dropped half way, the state must be loaded before anything else.
        let mut seen = self.seen.take().ok_or_else(not_loaded)?;
        let mut work = std::mem::take(&mut self.staged);
        let job_key = self.keys.job(revision);
        let (job, job_bytes) =
            seen.jobs.get(&revision).ok_or_else(|| fenced(format!("revision {revision} has no job, or it is done")))?;
        let moved = moved(job, left)?;
        let moved_bytes = moved
            .as_ref()
            .map(encode_job)
            .transpose()
            .map_err(|error| broken(format!("the job of revision {revision}: {error}")))?;
        let move_job = match &moved_bytes {
            Some(bytes) => Write::Put(job_key.clone(), bytes.clone()),
            None => Write::Delete(job_key.clone()),
        };
        let compares =
            vec![seen.state.compare_applied(&self.keys), Compare { key: job_key, expected: Some(job_bytes.clone()) }];
        let mut under_way = UnderWay::default();
        let last = loop {
            let mut open = Open::new(self.limits, &compares, &move_job);
            if !work.is_empty() {
                // One for each transaction: it is held for as long as it takes to read what that one replaces. Whether it
                // has those that are under way does not matter: no two of them change the same lineage.
                let snapshot = self.keyspace.snapshot().await.map_err(write_error)?;
                fill(&*snapshot, &self.keys, &mut work, &mut open).await?;
            }
            let round_ends = work.iter().all(|staged| staged.records.is_empty());
            if round_ends && work.iter().all(|staged| staged.later.is_empty()) {
                break open.batch;
            }
            under_way.commit(&self.keyspace, open.batch).await?;
            if round_ends {
                under_way.all().await?;
                work.retain_mut(|staged| {
                    staged.records = std::mem::take(&mut staged.later);
                    staged.from = 0;
                    !staged.records.is_empty()
                });
            }
        };
        under_way.all().await?;
        // Only now: what moves the job says that all of it is done.
        let last = Batch { writes: last.writes.into_iter().chain([move_job]).collect(), ..last };
        under_way.commit(&self.keyspace, last).await?;
        under_way.all().await?;
        match moved.zip(moved_bytes) {
            Some(job) => seen.jobs.insert(revision, job),
            None => seen.jobs.remove(&revision),
        };
        Ok(self.seen.insert(seen).backlog())
    }

    async fn try_note(&mut self, job: &Job) -> Result<Backlog, StoreError> {
        let mut seen = self.seen.take().ok_or_else(not_loaded)?;
        if !self.staged.is_empty() {
            return Err(fenced("a job can't be noted while records are staged".to_owned()));
        }
        let stands = |partition: &u32| seen.state.cursors.get(partition).map_or(0, |(cursor, _)| cursor.next);
        if let Some((partition, below)) = job.below.iter().find(|(partition, below)| **below > stands(partition)) {
            let stands = stands(partition);
            return Err(fenced(format!("partition {partition}: a job below {below}, the store stands at {stands}")));
        }
        let key = self.keys.job(job.revision);
        let before = seen.jobs.get(&job.revision).map(|(_, bytes)| bytes.clone());
        let bytes = encode_job(job).map_err(|error| broken(format!("a job of revision {}: {error}", job.revision)))?;
        let batch = Batch {
            compares: vec![seen.state.compare_applied(&self.keys), Compare { key: key.clone(), expected: before }],
            writes: vec![Write::Put(key, bytes.clone())],
        };
        self.keyspace.commit(batch).await.map_err(write_error)?;
        seen.jobs.insert(job.revision, (job.clone(), bytes));
        Ok(self.seen.insert(seen).backlog())
    }

    /// After an error nothing is staged and the state must be loaded again.
    fn settle<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            self.forget();
        }
        result
    }
}

impl Loaded {
    async fn read(snapshot: &dyn Snapshot, keys: &Keys) -> Result<Self, ReadError> {
        let state = Seen::read(snapshot, keys).await?;
        let mut jobs = BTreeMap::new();
        let mut scan = Scan::new(snapshot, keys.jobs_range(), JOB_PAGE);
        while let Some((key, value)) = scan.next().await? {
            let job = decode_job(&value)?;
            if keys.job(job.revision) != key {
                return Err(ReadError::Broken(format!(
                    "key {}: the job of revision {}",
                    millrace_keyspace::display_key(&key),
                    job.revision
                )));
            }
            jobs.insert(job.revision, (job, value));
        }
        Ok(Self { state, jobs })
    }

    fn backlog(&self) -> Backlog {
        Backlog { state: self.state.state(), jobs: self.jobs.values().map(|(job, _)| job.clone()).collect() }
    }
}

/// The job once it covers only what is below `left`; `None` when that is nothing.
fn moved(job: &Job, left: &BTreeMap<u32, u64>) -> Result<Option<Job>, StoreError> {
    let below: BTreeMap<u32, u64> = left.iter().filter(|(_, end)| **end > 0).map(|(p, end)| (*p, *end)).collect();
    let grown = below.iter().find(|(partition, end)| job.below.get(partition).is_none_or(|below| below < end));
    if let Some((partition, end)) = grown {
        return Err(broken(format!(
            "the job of revision {} has nothing below offset {end} of partition {partition} left: it covers {:?}",
            job.revision, job.below
        )));
    }
    Ok((!below.is_empty()).then_some(Job { revision: job.revision, below }))
}

/// A transaction that is being filled.
struct Open {
    limits: Limits,
    batch: Batch,
    /// Bytes of the batch, with what moves the job.
    bytes: usize,
    /// Records in it.
    records: u64,
    /// Lineages that were looked up for it.
    lineages: usize,
    /// Whether something changes.
    begun: bool,
}

impl Open {
    fn new(limits: Limits, compares: &[Compare], move_job: &Write) -> Self {
        let batch = Batch { compares: compares.to_vec(), writes: Vec::new() };
        let moves = Batch { compares: Vec::new(), writes: vec![move_job.clone()] };
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
struct UnderWay(JoinSet<Result<(), KeyspaceError>>);

impl UnderWay {
    /// Begins to commit one more, once there is room.
    async fn commit(&mut self, keyspace: &Arc<dyn Keyspace>, batch: Batch) -> Result<(), StoreError> {
        if self.0.len() >= TRANSACTIONS_AT_ONCE {
            self.next().await?;
        }
        let keyspace = keyspace.clone();
        self.0.spawn(async move {
            fail::fail_point!("history::rewrite::before", |_| std::process::abort());
            keyspace.commit(batch).await?;
            fail::fail_point!("history::rewrite::between", |_| std::process::abort());
            Ok(())
        });
        Ok(())
    }

    /// Returns when all of them are committed.
    async fn all(&mut self) -> Result<(), StoreError> {
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

/// Moves records into a transaction until it is full or all that can be taken now is. It always takes some, or cuts a
/// lineage so that a later one can.
async fn fill(snapshot: &dyn Snapshot, keys: &Keys, work: &mut [Staged], open: &mut Open) -> Result<(), StoreError> {
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

#[async_trait]
impl Rewriter for HistoryRewriter {
    fn name(&self) -> &'static str {
        NAME
    }

    fn records_max(&self) -> u64 {
        REWRITE_RECORDS_MAX
    }

    async fn load(&mut self) -> Result<Backlog, StoreError> {
        self.forget();
        self.try_load().await
    }

    async fn note(&mut self, job: &Job) -> Result<Backlog, StoreError> {
        let result = self.try_note(job).await;
        self.settle(result)
    }

    async fn stage(&mut self, rewrite: Rewrite) -> Result<(), StoreError> {
        let result = self.try_stage(rewrite).await;
        self.settle(result)
    }

    /// The history keeps no log of changes: `reason` is not stored. The timeline has it.
    async fn commit(
        &mut self,
        revision: u64,
        left: &BTreeMap<u32, u64>,
        _reason: &Reason,
    ) -> Result<Backlog, StoreError> {
        let result = self.try_commit(revision, left).await;
        self.settle(result)
    }
}
