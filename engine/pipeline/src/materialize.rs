//! The loop that keeps one store up to date with (log × timeline).
//!
//! Each store has a loop of its own, with its own state, pace and retries: nothing in one waits for the other. A loop
//! reads the store's durable state, takes in the revisions that the store has not yet, and starts a *feeder* for each
//! partition that is this worker's, which asks the processor for slice after slice. The loop stages and commits what comes. After any error of
//! the store it begins again with the durable state: cursors and compares in the store make that exact.
//!
//! ```text
//! feeder p0 ─┐
//! feeder p1 ─┼─ channel, SLICES_WAITING_MAX ─ stage … stage ─ commit (by bytes and age) ─ progress
//! feeder p2 ─┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use millrace_log::{EventLog, LogError, ResumeError, check_resume};
use millrace_rows::schema::row_schema;
use millrace_rows::{Cursor, Slice, Store, StoreError, StoreState};
use millrace_timeline::Timeline;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::gaps::GapRequest;
use crate::leases::{Duties, LOOK_AGAIN};
use crate::loops::{DEFECT, panicked};
use crate::metrics::Metrics;
use crate::portion::job_progress;
use crate::processor::{Processor, SliceError};
use crate::progress::{PartitionState, Progress, StoreProgress};

/// Slices that wait for a store's loop, besides the one that each feeder holds.
const SLICES_WAITING_MAX: usize = 2;
/// Pause before the first retry; doubled with each up to [`RETRY_PAUSE_MAX`].
pub(crate) const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause between retries. Retries go on until the store or the log answers: giving up would lose nothing but
/// help nobody.
pub(crate) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// When a loop commits what it has staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPolicy {
    /// Commit when this many bytes are staged.
    pub bytes: usize,
    /// Commit when the oldest slice has been staged this long; zero: when no further slice is ready.
    pub age: Duration,
}

/// What a loop works with.
pub struct Materializer {
    /// Gives the slices.
    pub processor: Arc<Processor>,
    /// Is told of every commit.
    pub progress: Progress,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The partitions that are this worker's.
    pub duties: Duties,
    /// Becomes true when the engine stops: the loop commits what is staged and returns.
    pub shutdown: watch::Receiver<bool>,
    /// Asks to move past gaps of the log.
    pub(crate) gaps: mpsc::Receiver<GapRequest>,
}

enum Ended {
    Shutdown,
    /// Revisions were appended, or other partitions are this worker's, or another worker may have moved the store on, or a
    /// cursor was moved past a gap: begin again with the durable state.
    Again,
}

impl Materializer {
    /// Runs the loop of `store` until shutdown, or until only an operator can help.
    pub async fn run(mut self, mut store: Box<dyn Store>, policy: CommitPolicy) {
        let name = store.name();
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let began = Instant::now();
            match self.materialize(store.as_mut(), policy).await {
                Ok(Ended::Shutdown) => return,
                Ok(Ended::Again) => {}
                Err(error @ StoreError::Broken { .. }) => {
                    tracing::error!(store = name, %error, "the store has stopped");
                    self.progress.stop(name, &error.to_string());
                    return;
                }
                Err(error) => {
                    // A loop that ran for a while before it failed starts again with short pauses.
                    if began.elapsed() > RETRY_PAUSE_MAX {
                        pause = RETRY_PAUSE_MIN;
                    }
                    tracing::warn!(store = name, %error, pause_ms = pause.as_millis() as u64, "retrying");
                    self.metrics.store_retried(name);
                    self.progress.update(name, |progress| progress.problem = Some(error.to_string()));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = stopped(&mut self.shutdown) => return,
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }

    /// One pass: from the durable state to the next shutdown, change of timeline or duties, or error.
    async fn materialize(&mut self, store: &mut dyn Store, policy: CommitPolicy) -> Result<Ended, StoreError> {
        let mut timeline = self.processor.timeline();
        let state = store.load().await?;
        let revisions = timeline.borrow_and_update().clone();
        let state = if self.duties.only_looks() { state } else { self.take_in(store, state, &revisions).await? };
        let partitions = self.processor.log().partitions();
        let mine = self.duties.partitions(partitions);
        self.progress.report(store.name(), &state, partitions);
        self.progress.restart(store.name(), |partition| mine.contains(&partition));
        // The log does not remember it: a partition to which nothing comes any more must be trimmed after a restart, too.
        self.release().await;

        let (sender, receiver) = mpsc::channel(SLICES_WAITING_MAX);
        let mut feeders = JoinSet::new();
        for partition in mine.iter().copied() {
            let cursor = state.cursors.get(&partition).copied();
            let cursor = cursor.unwrap_or_else(|| Cursor::start(self.processor.log().id(), 0));
            let feeder = Feeder {
                store: store.name(),
                partition,
                cursor,
                applied: state.applied,
                processor: self.processor.clone(),
                progress: self.progress.clone(),
                slices: sender.clone(),
            };
            feeders.spawn(feeder.run_watched());
        }
        drop(sender);
        // Dropping the feeders at the end of this pass ends them wherever they are; they hold nothing but slices.
        let look_again = (mine.len() < partitions as usize).then(|| Instant::now() + LOOK_AGAIN);
        self.consume(store, policy, receiver, &mut timeline, look_again).await
    }

    async fn consume(
        &mut self,
        store: &mut dyn Store,
        policy: CommitPolicy,
        mut slices: mpsc::Receiver<Arc<Slice>>,
        timeline: &mut watch::Receiver<Arc<Timeline>>,
        look_again: Option<Instant>,
    ) -> Result<Ended, StoreError> {
        let mut due: Option<Instant> = None;
        loop {
            let ended = tokio::select! {
                biased;
                () = stopped(&mut self.shutdown) => Some(Ended::Shutdown),
                Ok(()) = timeline.changed() => Some(Ended::Again),
                () = self.duties.changed() => Some(Ended::Again),
                () = sleep_until(look_again) => Some(Ended::Again),
                Some(request) = self.gaps.recv() => {
                    self.commit(store).await?;
                    self.move_past(store, request).await?;
                    return Ok(Ended::Again);
                }
                () = sleep_until(due) => None,
                // Once every feeder has stopped this gives nothing more, and the loop waits for the others.
                Some(slice) = slices.recv() => {
                    store.stage(slice.as_ref().clone()).await?;
                    let full = store.staged_bytes() >= policy.bytes;
                    let idle = policy.age.is_zero() && slices.is_empty();
                    if !full && !idle {
                        due = due.or_else(|| (!policy.age.is_zero()).then(|| Instant::now() + policy.age));
                        continue;
                    }
                    None
                }
            };
            due = None;
            self.commit(store).await?;
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    async fn commit(&mut self, store: &mut dyn Store) -> Result<(), StoreError> {
        if store.staged_bytes() == 0 {
            return Ok(());
        }
        let began = Instant::now();
        let state = store.commit().await?;
        self.metrics.store_committed(store.name(), began.elapsed());
        self.progress.report(store.name(), &state, self.processor.log().partitions());
        self.release().await;
        Ok(())
    }

    /// Moves the cursor of a partition past a gap, in a commit that compares where it stands: with a slice that holds nothing.
    async fn move_past(&self, store: &mut dyn Store, request: GapRequest) -> Result<(), StoreError> {
        let GapRequest { partition, offsets, done } = request;
        let state = store.load().await?;
        let log = self.processor.log().id();
        let stands = state.cursors.get(&partition).copied().unwrap_or(Cursor::start(log, 0));
        if stands.log != log || stands.next != offsets.start {
            // Whoever asked may be gone.
            let _ = done.send(Err(format!("partition {partition} stands at {} by now", stands.next)));
            return Ok(());
        }
        let slice = Slice {
            partition,
            first: offsets.start,
            cursor: Cursor::start(log, offsets.end),
            applied: state.applied,
            rows: RecordBatch::new_empty(row_schema(&[])),
            dead: Vec::new(),
            read: 0,
            marks: Arc::new([]),
            dropped: 0,
        };
        store.stage(slice).await?;
        let state = store.commit().await?;
        self.progress.report(store.name(), &state, self.processor.log().partitions());
        let _ = done.send(Ok(()));
        Ok(())
    }

    async fn release(&self) {
        let timeline = self.processor.timeline().borrow().clone();
        release(&self.progress, &timeline, self.processor.log().as_ref()).await;
    }

    /// Takes in every revision that the store has not yet.
    async fn take_in(
        &self,
        store: &mut dyn Store,
        mut state: StoreState,
        timeline: &Timeline,
    ) -> Result<StoreState, StoreError> {
        if state.applied > timeline.head() && self.duties.are_shared() {
            // Another worker was told of the revision first. This one will be soon, and tries again until then.
            let detail = format!(
                "the store has taken in revision {}, the timeline known here ends at {}: it is read again",
                state.applied,
                timeline.head()
            );
            return Err(StoreError::Unavailable { store: store.name(), detail });
        }
        if state.applied > timeline.head() {
            return Err(StoreError::Broken {
                store: store.name(),
                detail: format!(
                    "the store has taken in revision {}, the timeline ends at {}: the catalogue is older than the store; \
                     restore a newer export",
                    state.applied,
                    timeline.head()
                ),
            });
        }
        while state.applied < timeline.head() {
            // A group as one: what it leaves is made again once, and seen at once.
            let first = state.applied + 1;
            let last = timeline.taken_in_with(first);
            let cursors: BTreeMap<u32, u64> = state.cursors.iter().map(|(p, cursor)| (*p, cursor.next)).collect();
            let job = timeline.job(first, &cursors);
            if let Some(job) = &job {
                self.progress.expect_job(store.name(), job_progress(timeline, job));
            }
            state = store.take_in(last, job).await?;
            tracing::info!(store = store.name(), first, revision = last, "took in a revision");
        }
        Ok(state)
    }
}

/// Tells the log what nobody needs any more: it may trim that.
pub(crate) async fn release(progress: &Progress, timeline: &Timeline, log: &dyn EventLog) {
    let applied = progress.snapshot().values().map(StoreProgress::seen).min().unwrap_or(0);
    for partition in 0..log.partitions() {
        let Some(below) = progress.released_below(partition) else { continue };
        // A correction that a store has not taken in yet will leave a job there.
        let below = below.min(timeline.needed_from(applied, partition));
        if let Err(error) = log.release(partition, below).await {
            tracing::warn!(partition, %error, "the log was not told what it may trim");
        }
    }
}

/// Returns when the engine stops.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the engine is gone: the same.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Brings the slices of one partition, in order.
struct Feeder {
    store: &'static str,
    partition: u32,
    cursor: Cursor,
    applied: u64,
    processor: Arc<Processor>,
    progress: Progress,
    slices: mpsc::Sender<Arc<Slice>>,
}

enum FeedError {
    /// The chain stands until somebody resumes it.
    Paused(String),
    Retry(String),
    Stop(String),
    /// The loop has ended this pass.
    Closed,
}

impl Feeder {
    /// A partition whose feeder panics says so.
    async fn run_watched(self) {
        let (store, partition, progress) = (self.store, self.partition, self.progress.clone());
        if panicked(self.run()).await {
            tracing::error!(store, partition, "the partition has stopped: {DEFECT}");
            progress.set_state(store, partition, PartitionState::Stopped { reason: DEFECT.to_owned() });
        }
    }

    async fn run(mut self) {
        let mut pause = RETRY_PAUSE_MIN;
        let mut checked = false;
        loop {
            let error = match self.feed(&mut checked).await {
                Ok(()) => {
                    self.progress.set_state(self.store, self.partition, PartitionState::Running);
                    pause = RETRY_PAUSE_MIN;
                    continue;
                }
                Err(error) => error,
            };
            match error {
                FeedError::Closed => return,
                FeedError::Paused(reason) => {
                    let reason = format!("the chain is paused: {reason}");
                    self.progress.set_state(self.store, self.partition, PartitionState::Stopped { reason });
                    self.processor.pause().wait_running().await;
                    self.progress.set_state(self.store, self.partition, PartitionState::Running);
                }
                FeedError::Stop(reason) => {
                    tracing::error!(store = self.store, partition = self.partition, reason, "partition stopped");
                    self.progress.set_state(self.store, self.partition, PartitionState::Stopped { reason });
                    return;
                }
                FeedError::Retry(reason) => {
                    tracing::warn!(store = self.store, partition = self.partition, reason, "retrying");
                    self.progress.set_state(self.store, self.partition, PartitionState::Retrying { reason });
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }

    /// Brings one slice.
    async fn feed(&mut self, checked: &mut bool) -> Result<(), FeedError> {
        let log: &dyn EventLog = self.processor.log().as_ref();
        if !*checked {
            check_resume(log, self.partition, &self.cursor).await.map_err(resume_error)?;
            *checked = true;
        }
        log.wait_past(self.partition, self.cursor.next).await.map_err(log_error)?;
        let slice = self.processor.slice(self.partition, self.cursor.next, self.applied).await.map_err(slice_error)?;
        self.cursor = slice.cursor;
        self.slices.send(slice).await.map_err(|_| FeedError::Closed)
    }
}

fn log_error(error: LogError) -> FeedError {
    match error {
        error if error.is_temporary() => FeedError::Retry(error.to_string()),
        LogError::Gap { .. } => FeedError::Stop(gap_reason(&error)),
        // The log closes when the engine stops, or after a failure that its own message explains.
        other => FeedError::Stop(other.to_string()),
    }
}

fn gap_reason(error: &LogError) -> String {
    format!("{error}; their rows will be missing if you go on without them: `millrace gap accept`")
}

fn resume_error(error: ResumeError) -> FeedError {
    match error {
        ResumeError::Log(error) => log_error(error),
        other => FeedError::Stop(other.to_string()),
    }
}

fn slice_error(error: SliceError) -> FeedError {
    if let SliceError::Paused(reason) = error {
        return FeedError::Paused(reason);
    }
    if let SliceError::Log(gap @ LogError::Gap { .. }) = &error {
        return FeedError::Stop(gap_reason(gap));
    }
    if error.is_transient() { FeedError::Retry(error.to_string()) } else { FeedError::Stop(error.to_string()) }
}
