//! The backend itself: transactions over the client library.

use std::sync::atomic::{AtomicU64, Ordering};

use ::foundationdb::options::{DatabaseOption, StreamingMode, TransactionOption};
use ::foundationdb::{Database, FdbError, RangeOption, Transaction};
use async_trait::async_trait;
use bytes::Bytes;

use super::layout::{Filling, Prefix};
use super::outcome::{Failure, Next, Phase, decide, refusal};
use super::{Options, Stats, TIMEOUTS, network};
use crate::{Batch, Compare, Keyspace, KeyspaceError, PAGE_PAIRS_MAX, Page, Snapshot, Write, failpoints};

/// Compared keys that are asked for at the same time.
const COMPARES_AT_ONCE: usize = 256;

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    committed_bytes: AtomicU64,
    conflicts: AtomicU64,
    retries: AtomicU64,
    unknown: AtomicU64,
}

/// A keyspace in a cluster: see the [module](super). Any number of processes have it open at a time.
pub struct FoundationDbKeyspace {
    database: Database,
    prefix: Prefix,
    counters: Counters,
}

impl FoundationDbKeyspace {
    /// Opens the keyspace, and waits for the cluster's first answer.
    ///
    /// # Errors
    /// [`KeyspaceError::Unavailable`] when the cluster file can't be read or the cluster does not answer in time,
    /// [`KeyspaceError::Broken`] when an option is wrong or the client library does not take it.
    pub async fn open(options: Options) -> Result<Self, KeyspaceError> {
        let prefix = Prefix::new(&options.prefix)?;
        let database = tokio::task::spawn_blocking(move || connect(&options))
            .await
            .map_err(|error| KeyspaceError::Broken(format!("opening the cluster panicked: {error}")))??;
        let keyspace = Self { database, prefix, counters: Counters::default() };
        // The client library connects at the first request: here, where it can be said.
        keyspace.begin().await?;
        Ok(keyspace)
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: read(&self.counters.commits),
            committed_bytes: read(&self.counters.committed_bytes),
            conflicts: read(&self.counters.conflicts),
            retries: read(&self.counters.retries),
            unknown: read(&self.counters.unknown),
        }
    }

    fn transaction(&self) -> Result<Transaction, KeyspaceError> {
        self.database.create_trx().map_err(|error| refusal(Phase::Read, &failure(error)))
    }

    /// A transaction for reading, at a version that is at or behind every commit answered so far.
    async fn begin(&self) -> Result<Transaction, KeyspaceError> {
        let mut transaction = self.transaction()?;
        let mut retries = 0;
        loop {
            // Nothing is written: without it the library would keep all that is read. A new attempt forgets it.
            let begun = match transaction.set_option(TransactionOption::ReadYourWritesDisable) {
                Ok(()) => transaction.get_read_version().await,
                Err(error) => Err(error),
            };
            match begun {
                Ok(_) => return Ok(transaction),
                Err(error) => transaction = self.again(transaction, error, &mut retries).await?,
            }
        }
    }

    /// The transaction for another attempt after an error before its commit, or the error.
    async fn again(&self, old: Transaction, error: FdbError, retries: &mut u32) -> Result<Transaction, KeyspaceError> {
        match decide(Phase::Read, &failure(error), *retries) {
            Next::GiveUp(error) => Err(error),
            Next::Retry => {
                self.count_retry(retries);
                old.on_error(error).await.map_err(|error| refusal(Phase::Read, &failure(error)))
            }
        }
    }

    fn count_retry(&self, retries: &mut u32) {
        *retries += 1;
        self.counters.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// The first key that is not what it must be. These reads are what the transaction conflicts by.
    async fn differing(&self, transaction: &Transaction, compares: &[Compare]) -> Result<Option<Bytes>, FdbError> {
        for compares in compares.chunks(COMPARES_AT_ONCE) {
            // Asked for all at once, then waited for in order.
            let answers: Vec<_> =
                compares.iter().map(|compare| transaction.get(&self.prefix.key(&compare.key), false)).collect();
            for (compare, answer) in compares.iter().zip(answers) {
                if answer.await?.as_deref() != compare.expected.as_deref() {
                    return Ok(Some(compare.key.clone()));
                }
            }
        }
        Ok(None)
    }

    fn write(&self, transaction: &Transaction, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Put(key, value) => transaction.set(&self.prefix.key(key), value),
                Write::Delete(key) => transaction.clear(&self.prefix.key(key)),
                // The library takes no range that ends before it begins.
                Write::Clear(begin, end) if begin >= end => {}
                Write::Clear(begin, end) => transaction.clear_range(&self.prefix.key(begin), &self.prefix.key(end)),
            }
        }
    }

    async fn try_commit(&self, batch: &Batch, background: bool) -> Result<(), KeyspaceError> {
        let mut transaction = self.transaction()?;
        let mut retries = 0;
        loop {
            // The cluster holds such transactions back first. Set again for each attempt, as any option.
            if background && let Err(error) = transaction.set_option(TransactionOption::PriorityBatch) {
                transaction = self.again(transaction, error, &mut retries).await?;
                continue;
            }
            match self.differing(&transaction, &batch.compares).await {
                Ok(None) => {}
                Ok(Some(key)) => return Err(KeyspaceError::Conflict { key }),
                Err(error) => {
                    transaction = self.again(transaction, error, &mut retries).await?;
                    continue;
                }
            }
            self.write(&transaction, &batch.writes);
            let failed = match transaction.commit().await {
                Ok(_) => return Ok(()),
                Err(failed) => failed,
            };
            match decide(Phase::Commit, &failure(*failed), retries) {
                Next::GiveUp(error) => return Err(error),
                Next::Retry => {
                    self.count_retry(&mut retries);
                    let again = failed.on_error().await;
                    // What failed was certainly not committed; waiting for another attempt changes nothing of that.
                    transaction = again.map_err(|error| refusal(Phase::Read, &failure(error)))?;
                }
            }
        }
    }

    async fn commit_with(&self, batch: &Batch, background: bool) -> Result<(), KeyspaceError> {
        batch.check_limits()?;
        failpoints::abort_before();
        let result = self.try_commit(batch, background).await;
        let counter = match &result {
            Ok(()) => {
                failpoints::abort_after();
                self.counters.committed_bytes.fetch_add(batch.size_bytes() as u64, Ordering::Relaxed);
                &self.counters.commits
            }
            Err(KeyspaceError::Conflict { .. }) => &self.counters.conflicts,
            Err(KeyspaceError::Unknown(_)) => &self.counters.unknown,
            Err(_) => return result,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result?;
        failpoints::answer_unknown()
    }
}

/// Starts the client library and has it read the cluster file.
fn connect(options: &Options) -> Result<Database, KeyspaceError> {
    let file = &options.cluster_file;
    // The library says so only once a request has timed out.
    std::fs::File::open(file).map_err(|error| {
        KeyspaceError::Unavailable(format!("the cluster file {} can't be read: {error}", file.display()))
    })?;
    let path = network::utf8(file).map_err(KeyspaceError::Broken)?;
    network::start(options.tls.as_ref())?;
    let refused = |error: FdbError| refusal(Phase::Read, &failure(error));
    let database = Database::from_path(&path).map_err(refused)?;
    let timeout = options.timeout.clamp(*TIMEOUTS.start(), *TIMEOUTS.end());
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    database.set_option(DatabaseOption::TransactionTimeout(timeout)).map_err(refused)?;
    Ok(database)
}

fn failure(error: FdbError) -> Failure {
    Failure {
        code: error.code(),
        text: error.message(),
        retryable_not_committed: error.is_retryable_not_committed(),
        maybe_committed: error.is_maybe_committed(),
    }
}

#[async_trait]
impl Keyspace for FoundationDbKeyspace {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KeyspaceError> {
        Ok(Box::new(FoundationDbSnapshot { transaction: self.begin().await?, prefix: self.prefix.clone() }))
    }

    async fn commit(&self, batch: Batch) -> Result<(), KeyspaceError> {
        self.commit_with(&batch, false).await
    }

    async fn commit_background(&self, batch: Batch) -> Result<(), KeyspaceError> {
        self.commit_with(&batch, true).await
    }
}

struct FoundationDbSnapshot {
    transaction: Transaction,
    prefix: Prefix,
}

/// An error of a read. Another attempt would read at another version: that is for whoever holds the snapshot.
fn read_error(error: FdbError) -> KeyspaceError {
    refusal(Phase::Read, &failure(error))
}

#[async_trait]
impl Snapshot for FoundationDbSnapshot {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KeyspaceError> {
        if key.is_empty() {
            return Ok(None);
        }
        let found = self.transaction.get(&self.prefix.key(key), true).await.map_err(read_error)?;
        // A copy: what the library returns keeps its whole answer alive.
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    async fn range(&self, begin: &[u8], end: &[u8], limit: usize) -> Result<Page, KeyspaceError> {
        if begin >= end {
            return Ok(Page::default());
        }
        let mut page = Filling::new(limit.min(PAGE_PAIRS_MAX));
        let (mut from, end) = (self.prefix.key(begin), self.prefix.key(end));
        loop {
            let range = RangeOption {
                limit: Some(page.wanted()),
                mode: StreamingMode::WantAll,
                ..RangeOption::from((from.as_slice(), end.as_slice()))
            };
            let answer = self.transaction.get_range(&range, 1, true);
            drop(range);
            let found = answer.await.map_err(read_error)?;
            for pair in &found {
                if !page.take(self.prefix.strip(pair.key())?, pair.value()) {
                    return Ok(page.finish());
                }
            }
            match found.last() {
                Some(last) if found.more() => from = [last.key(), &[0]].concat(),
                None if found.more() => {
                    return Err(KeyspaceError::Unavailable(
                        "FoundationDB answered a range with nothing, and that there is more".to_owned(),
                    ));
                }
                _ => return Ok(page.finish()),
            }
        }
    }
}
