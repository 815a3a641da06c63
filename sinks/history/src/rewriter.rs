//! The writer of a store's jobs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_keyspace::{Batch, Compare, Keyspace, Snapshot, Write};
use millrace_rows::{Backlog, Job, Reason, Rewrite, Rewriter, StoreError};

use crate::codec::{decode_job, encode_job};
use crate::encode::Limits;
use crate::keys::Keys;
use crate::reader::ReadError;
use crate::remade::remade;
use crate::scan::Scan;
use crate::state::Seen;
use crate::store::{NAME, broken, fenced, not_loaded, read_error, write_error};
use crate::sweep::{Swept, sweep};
use crate::transaction::{Open, Staged, UnderWay, fill};

/// Most records that the loop should stage for one commit, over all partitions: what is made again once more where a job goes
/// on after a crash. As many as the table's, so that both stores' jobs are cut alike.
pub const REWRITE_RECORDS_MAX: u64 = 1_000_000;
/// Records that are staged before they are flushed, unless a transaction takes fewer.
const FLUSH_RECORDS_MIN: u64 = 4096;
/// Bytes of what is put for them at which they are flushed whatever their number.
const FLUSH_BYTES: usize = 8 * 1024 * 1024;

const JOB_PAGE: usize = 100;

/// The device history as a [`Rewriter`]. What its transactions are is described in the [crate's documentation](crate).
///
/// Memory: the encoded form of what is staged and not flushed, 8 MiB, a batch of the loop's and what one lineage
/// covers; a few transactions, and the lineage that one of them reads.
pub struct HistoryRewriter {
    keyspace: Arc<dyn Keyspace>,
    keys: Arc<Keys>,
    limits: Limits,
    /// `None` before the first load and after an error.
    seen: Option<Loaded>,
    staged: Vec<Staged>,
    under_way: UnderWay,
}

/// What was last seen of the state and of the jobs.
struct Loaded {
    state: Seen,
    jobs: BTreeMap<u64, (Job, Bytes)>,
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
            under_way: UnderWay::default(),
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
        self.under_way = UnderWay::default();
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

    /// Commits what is staged; with `swept`, and nothing left, what no record accounts for is taken away before the job is done.
    async fn try_commit(
        &mut self,
        revision: u64,
        left: &BTreeMap<u32, u64>,
        swept: bool,
    ) -> Result<Backlog, StoreError> {
        // Taken until the end: if this future is dropped half way, the state must be loaded before anything else.
        let mut seen = self.seen.take().ok_or_else(not_loaded)?;
        let (mut work, mut under_way) = (std::mem::take(&mut self.staged), std::mem::take(&mut self.under_way));
        let compares = seen.compares(&self.keys, revision)?;
        let job_key = self.keys.job(revision);
        let moved = moved(&seen.job(revision)?.0, left)?;
        let moved_bytes = moved
            .as_ref()
            .map(encode_job)
            .transpose()
            .map_err(|error| broken(format!("the job of revision {revision}: {error}")))?;
        let move_job = match &moved_bytes {
            Some(bytes) => Write::Put(job_key.clone(), bytes.clone()),
            None => Write::Delete(job_key.clone()),
        };
        let mut last = loop {
            let mut open = Open::new(self.limits, &compares, Some(&move_job));
            if work.iter().any(|staged| !staged.records.is_empty()) {
                self.fill(&mut work, &mut open, true).await?;
            }
            let round_ends = work.iter().all(|staged| staged.records.is_empty());
            if round_ends && work.iter().all(|staged| staged.later.is_empty()) {
                break open.batch;
            }
            if open.begun {
                under_way.commit(&self.keyspace, open.batch).await?;
            }
            if round_ends {
                under_way.all().await?;
                work.iter_mut().for_each(Staged::again);
            }
        };
        under_way.all().await?;
        if swept && moved.is_none() {
            if !last.writes.is_empty() {
                let batch = std::mem::replace(&mut last, Batch { compares: compares.clone(), writes: Vec::new() });
                under_way.commit(&self.keyspace, batch).await?;
                under_way.all().await?;
            }
            let ends = seen.state.cursors.iter().map(|(partition, (cursor, _))| (*partition, cursor.next)).collect();
            let Swept { rows, dead_letters } = sweep(&self.keyspace, &self.keys, &ends, &compares).await?;
            if rows + dead_letters > 0 {
                tracing::warn!(rows, dead_letters, "a rebuild took away what no record accounts for");
            }
        }
        fail::fail_point!("history::rewrite::last", |_| std::process::abort());
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

    async fn try_flush(&mut self, revision: u64) -> Result<(), StoreError> {
        let least = self.limits.records.min(FLUSH_RECORDS_MIN);
        let records = || self.staged.iter().flat_map(|staged| &staged.records);
        // Then a lineage is changed that reaches behind what is staged, and once more with what follows.
        let all = records().map(|record| record.bytes).sum::<usize>() >= FLUSH_BYTES;
        if (records().count() as u64) < least && !all {
            return Ok(());
        }
        // Taken until the end, as by a commit.
        let seen = self.seen.take().ok_or_else(not_loaded)?;
        let (mut work, mut under_way) = (std::mem::take(&mut self.staged), std::mem::take(&mut self.under_way));
        let compares = seen.compares(&self.keys, revision)?;
        if work.iter().any(|staged| !staged.later.is_empty()) {
            under_way.all().await?;
            work.iter_mut().for_each(Staged::again);
        }
        loop {
            let mut open = Open::new(self.limits, &compares, None);
            self.fill(&mut work, &mut open, all).await?;
            if open.begun {
                under_way.commit(&self.keyspace, open.batch).await?;
                continue;
            }
            if all {
                under_way.all().await?;
                work.iter_mut().for_each(Staged::again);
            }
            if !all || work.iter().all(|staged| staged.records.is_empty()) {
                break;
            }
        }
        (self.seen, self.staged, self.under_way) = (Some(seen), work, under_way);
        Ok(())
    }

    /// Fills a transaction with what is staged.
    async fn fill(&self, work: &mut [Staged], open: &mut Open, last: bool) -> Result<(), StoreError> {
        // One for each transaction: it is held for as long as it takes to read what that one replaces. Whether it has those
        // that are under way does not matter: no two of them change the same lineage.
        let snapshot = self.keyspace.snapshot().await.map_err(write_error)?;
        fill(&*snapshot, &self.keys, work, open, last).await
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
    /// What a transaction that makes records of a job again relies on, beside their lineages.
    fn compares(&self, keys: &Keys, revision: u64) -> Result<Vec<Compare>, StoreError> {
        let job = Compare { key: keys.job(revision), expected: Some(self.job(revision)?.1.clone()) };
        Ok(vec![self.state.compare_applied(keys), job])
    }

    fn job(&self, revision: u64) -> Result<&(Job, Bytes), StoreError> {
        let job = self.jobs.get(&revision);
        job.ok_or_else(|| fenced(format!("revision {revision} has no job, or it is done")))
    }

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

    async fn flush(&mut self, revision: u64) -> Result<(), StoreError> {
        let result = self.try_flush(revision).await;
        self.settle(result)
    }

    /// The history keeps no log of changes: `reason` is not stored. The timeline has it.
    async fn commit(
        &mut self,
        revision: u64,
        left: &BTreeMap<u32, u64>,
        _reason: &Reason,
    ) -> Result<Backlog, StoreError> {
        let result = self.try_commit(revision, left, false).await;
        self.settle(result)
    }

    /// Holds nothing back: a record's rows are swapped in one transaction, and no device's page is ever without one.
    async fn commit_rebuild(
        &mut self,
        revision: u64,
        _made: &BTreeMap<u32, Range<u64>>,
        left: &BTreeMap<u32, u64>,
        _reason: &Reason,
    ) -> Result<Backlog, StoreError> {
        let result = self.try_commit(revision, left, true).await;
        self.settle(result)
    }
}
