//! The loop that works off a store's jobs: what a revision covers and the store had written before it took it in.
//!
//! It runs beside the store's live loop and shares nothing with it but the store itself: the live loop writes at and
//! behind the cursors, this one before them. Each commit compares `applied`, and rows are made under exactly that, so it
//! does not matter which revisions arrive meanwhile or how often a range is made again: the rows are those that the
//! timeline says.
//!
//! ```text
//! load ─ lowest job ─ from its end: read ─ transform ─ stage … ─ commit (rows swapped, job shorter) ─ …
//! ```
//!
//! Both write to the same store: a job slows down while live rows lag (`give_way.rs`).
//!
//! A job is worked off from its end, commit by commit, and what is left of it is kept in the store: after a crash it goes
//! on where it was. A rebuild comes after all other jobs; the table holds back what was made for it until nothing is left, and
//! commits it at once. What lies below the log's start can't be made again: those rows stay as they are, and `verify` says so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use millrace_rows::{Backlog, HeldBack, Job, Reason, Rewrite, Rewriter, StoreError};
use millrace_timeline::Timeline;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::give_way::{LiveRows, PAUSE};
use crate::leases::{Duties, Duty, LOOK_AGAIN};
use crate::materialize::{RETRY_PAUSE_MAX, RETRY_PAUSE_MIN, release, stopped};
use crate::metrics::Metrics;
use crate::portion::{Portion, cut, job_progress, left_of, next};
use crate::processor::{Processor, SliceError};
use crate::progress::Progress;
use crate::remake::Remaker;
use crate::share::Stretch;
use crate::staging::Staging;

/// The revision whose job is a rebuild: it covers every record, and taking it in never leaves a job, since nothing was
/// written before.
pub const REBUILD: u64 = 1;
/// Fewest records that a commit is cut to where revisions come faster than commits of the table: each makes what is staged
/// worthless.
const PORTION_MIN: u64 = 16_384;
/// Rebuilds that wait to be noted.
pub(crate) const REQUESTS_MAX: usize = 4;

/// Asks a store's loop to make all of its rows again.
pub(crate) type RebuildRequest = tokio::sync::oneshot::Sender<()>;

/// What the loop works with.
pub struct Rematerializer {
    /// Reads and transforms.
    pub processor: Arc<Processor>,
    /// Has what was made before corrections were published.
    pub(crate) staging: Arc<Staging>,
    /// Is told what is left.
    pub progress: Progress,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Rebuilds that are asked for.
    pub(crate) requests: mpsc::Receiver<RebuildRequest>,
    /// Those that are not noted yet.
    pub(crate) asked: Vec<RebuildRequest>,
    /// How long the store's live loop gathers rows for a commit.
    pub commits_every: Duration,
    /// Whether the store's jobs are this worker's.
    pub duties: Duties,
    /// Becomes true when the engine stops: the loop returns at once, what is staged is made again at the next start.
    pub shutdown: watch::Receiver<bool>,
}

enum Failed {
    Store(StoreError),
    /// The chain stands until somebody resumes it.
    Paused,
    /// The job can't go on; another revision or time may help.
    Job {
        revision: u64,
        reason: String,
    },
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Rematerializer {
    /// Runs the loop until shutdown. What fails is tried again, at longer and longer intervals, and at once when the timeline
    /// changes.
    pub async fn run(mut self, mut rewriter: Box<dyn Rewriter>) {
        let name = rewriter.name();
        let mut pause = RETRY_PAUSE_MIN;
        let mut shutdown = self.shutdown.clone();
        let mut timeline = self.processor.timeline();
        let mut told = String::new();
        let mut records = u64::MAX;
        loop {
            timeline.mark_unchanged();
            let mut committed = false;
            let ended = tokio::select! {
                biased;
                () = stopped(&mut shutdown) => return,
                ended = self.work(rewriter.as_mut(), &mut records, &mut committed) => ended,
            };
            if committed {
                pause = RETRY_PAUSE_MIN;
                told.clear();
            }
            match ended {
                Failed::Store(error @ StoreError::Broken { .. }) => {
                    let reason = error.to_string();
                    if told != reason {
                        tracing::error!(store = name, %error, "the store's jobs do not go on");
                    }
                    // Another correction may bring a chain that the store can take.
                    self.progress.stop_jobs(name, &reason);
                    told = reason;
                }
                Failed::Paused => continue,
                Failed::Store(error) => {
                    tracing::warn!(store = name, %error, pause_ms = pause.as_millis() as u64, "a job is tried again");
                    self.metrics.store_retried(name);
                    if pause == RETRY_PAUSE_MAX {
                        // It has failed for a while. Whoever waits is told why, until a commit gets through.
                        let reason = error.to_string();
                        let first =
                            self.progress.snapshot().get(name).and_then(|store| store.jobs.keys().next().copied());
                        if let Some(first) = first {
                            self.progress.update_job(name, first, |job| job.problem = Some(reason));
                        }
                    }
                }
                Failed::Job { revision, reason } => {
                    if told != reason {
                        tracing::error!(store = name, revision, reason, "a job does not go on");
                    }
                    told.clone_from(&reason);
                    self.progress.update_job(name, revision, |job| job.problem = Some(reason));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // A chain that mends the job may have come into force.
                _ = timeline.changed() => {}
                () = stopped(&mut shutdown) => return,
            }
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Works until something fails.
    async fn work(&mut self, rewriter: &mut dyn Rewriter, records: &mut u64, committed: &mut bool) -> Failed {
        loop {
            // Before the load: what the live loop takes in after it is seen as a change.
            let mut progress = self.progress.subscribe();
            let mut backlog = match rewriter.load().await {
                Ok(backlog) => backlog,
                Err(error) => return error.into(),
            };
            self.keep_held_back(rewriter, backlog.state.applied).await;
            self.report(rewriter, &backlog).await;
            while let Ok(request) = self.requests.try_recv() {
                self.asked.push(request);
            }
            if !self.asked.is_empty() {
                // After an error they are asked again, from a new look at the store.
                match note(rewriter, &backlog).await {
                    Ok(noted) => backlog = noted,
                    Err(error) => return error.into(),
                }
                // Whoever asked and then waits for jobs must find it.
                self.report(rewriter, &backlog).await;
                for request in self.asked.drain(..) {
                    // Nobody may wait for it any more: it is noted all the same.
                    let _ = request.send(());
                }
            }
            let duty = Duty::Jobs(rewriter.name());
            let mut live_rows = LiveRows::new(rewriter.name(), self.commits_every);
            let lag = live_rows.lag();
            while let Some(job) =
                next(&backlog, rewriter).filter(|_| self.requests.is_empty() && self.duties.has(&duty))
            {
                let asked = tokio::select! {
                    () = self.processor.pause().wait_running() => None,
                    // Noting it takes no chain.
                    Some(request) = self.requests.recv() => Some(request),
                };
                if let Some(request) = asked {
                    self.asked.push(request);
                    break;
                }
                let most = (*records).min(rewriter.records_max());
                let made = tokio::select! {
                    made = self.portion(rewriter, &backlog, &job, most, lag.clone()) => made,
                    never = live_rows.watch(&self.progress, self.processor.log().as_ref()) => match never {},
                };
                match made {
                    Ok(after) => (backlog, *records) = (after, most.saturating_mul(2)),
                    Err(failed) => {
                        if matches!(failed, Failed::Store(StoreError::Fenced { .. })) {
                            *records = (most / 4).max(PORTION_MIN);
                        }
                        return failed;
                    }
                }
                *committed = true;
                self.report(rewriter, &backlog).await;
            }
            let mine = self.duties.has(&duty);
            if mine && !backlog.jobs.is_empty() {
                continue;
            }
            if !mine {
                // Another worker begins its own.
                rewriter.keep_held_back(backlog.state.applied, &|_| false).await;
            }
            let name = rewriter.name();
            let newer = |snapshot: &crate::progress::Snapshot| {
                snapshot.get(name).is_some_and(|store| store.applied > backlog.state.applied)
            };
            tokio::select! {
                // An error means that the engine is gone, and the shutdown comes.
                gone = async { progress.wait_for(newer).await.is_err() } => if gone { std::future::pending::<()>().await },
                Some(request) = self.requests.recv() => self.asked.push(request),
                // What other workers do to the store is not seen by itself.
                () = tokio::time::sleep(LOOK_AGAIN), if self.duties.are_shared() => {}
                () = self.duties.wait_for(&duty), if !mine => {}
            }
        }
    }

    /// What was made for a rebuild stands where no revision covers it that came into force since.
    async fn keep_held_back(&self, rewriter: &mut dyn Rewriter, applied: u64) {
        let timeline = self.processor.timeline().borrow().clone();
        // Another worker may have been told of a revision first. Nothing is committed before it is known here, too.
        if timeline.head() >= applied {
            let stands = |held: &HeldBack| timeline.is_unchanged(held.applied, applied, held.partition, &held.offsets);
            rewriter.keep_held_back(applied, &stands).await;
        }
    }

    async fn report(&self, rewriter: &mut dyn Rewriter, backlog: &Backlog) {
        let timeline = self.processor.timeline().borrow().clone();
        let jobs = backlog.jobs.iter().map(|job| job_progress(&timeline, &left_of(job, rewriter))).collect();
        self.progress.report_jobs(rewriter.name(), backlog.state.applied, jobs);
        self.staging.release(timeline.head(), &self.progress.snapshot());
        // What a job needed is held no more.
        release(&self.progress, &timeline, self.processor.log().as_ref()).await;
    }

    /// Makes one commit's worth of a job again, at most `records` records.
    async fn portion(
        &self,
        rewriter: &mut dyn Rewriter,
        backlog: &Backlog,
        job: &Job,
        records: u64,
        mut lag: watch::Receiver<bool>,
    ) -> Result<Backlog, Failed> {
        let (store, revision, applied) = (rewriter.name(), job.revision, backlog.state.applied);
        let (portion, timeline) = self.plan(records, applied, job).await?;
        let mut remade = 0;
        {
            let mut rewrites = std::pin::pin!(self.rewrites(store, &timeline, applied, job, &portion));
            while let Some(rewrite) = rewrites.try_next().await? {
                remade += rewrite.remade.len() as u64;
                let staged = rewrite.offsets.end - rewrite.offsets.start;
                rewriter.stage(rewrite).await?;
                rewriter.flush(revision).await?;
                self.progress.update_job(store, revision, |job| job.staged += staged);
                self.give_way(store, &mut lag).await;
                if self.processor.pause().get().is_some() {
                    // It may last for days: nothing waits half done.
                    return Err(Failed::Paused);
                }
                if self.progress.applied(store) > applied {
                    // Its commit would be refused.
                    let detail = format!("a revision was taken in after {applied}");
                    return Err(StoreError::Fenced { store, detail }.into());
                }
                if !self.duties.has(&Duty::Jobs(store)) {
                    let detail = "its jobs are another worker's now".to_owned();
                    return Err(StoreError::Unavailable { store, detail }.into());
                }
            }
        }
        let (left, reason) = (&portion.left, self.reason(revision));
        let after = match revision {
            REBUILD => rewriter.commit_rebuild(revision, &portion.ranges, left, &reason).await?,
            _ => rewriter.commit(revision, left, &reason).await?,
        };
        self.metrics.remade(store, remade);
        self.progress.update_job(store, revision, |job| {
            job.remade += remade;
            job.frozen += portion.frozen;
            job.problem = None;
        });
        if portion.frozen > 0 {
            tracing::warn!(store, revision, records = portion.frozen, "rows below the log's start stay as they are");
        }
        if !after.jobs.iter().any(|job| job.revision == revision) {
            tracing::info!(store, revision, "the store has made again what the revision covers");
        }
        Ok(after)
    }

    /// Waits while live rows of the store lag, [`PAUSE`] at the most.
    async fn give_way(&self, store: &'static str, lag: &mut watch::Receiver<bool>) {
        if *lag.borrow() {
            let began = Instant::now();
            // Neither end is a failure: at the pause's end the job makes one more batch.
            let _ = tokio::time::timeout(PAUSE, lag.wait_for(|lag| !lag)).await;
            self.metrics.gave_way(store, began.elapsed());
        }
    }

    fn reason(&self, revision: u64) -> Reason {
        match self.processor.timeline().borrow().get(revision) {
            _ if revision == REBUILD => Reason { author: "millrace".into(), reason: "rebuild".into() },
            Some(revision) => Reason { author: revision.author.clone(), reason: revision.reason.clone() },
            None => Reason::default(),
        }
    }

    /// Which offsets of a job come next, and the timeline that they are made under.
    async fn plan(&self, records: u64, applied: u64, job: &Job) -> Result<(Portion, Arc<Timeline>), Failed> {
        let revision = job.revision;
        let stands = |reason: String| Failed::Job { revision, reason };
        let timeline = self.processor.timeline().borrow().clone();
        if timeline.head() < applied && self.duties.are_shared() {
            // Another worker was told of the revision first.
            let detail =
                format!("the timeline known here ends at {}, the store has applied {applied}", timeline.head());
            return Err(StoreError::Unavailable { store: "timeline", detail }.into());
        }
        if timeline.head() < applied {
            return Err(stands(format!("the timeline ends at {}, the store has applied {applied}", timeline.head())));
        }
        let mut starts = BTreeMap::new();
        for partition in job.below.keys() {
            let bounds = self.processor.log().bounds(*partition).await.map_err(|error| stands(error.to_string()))?;
            starts.insert(*partition, bounds.start);
        }
        Ok((cut(&timeline, job, &starts, records), timeline))
    }

    /// The records of a portion, made again batch by batch.
    fn rewrites<'a>(
        &'a self,
        store: &'static str,
        timeline: &'a Timeline,
        applied: u64,
        job: &'a Job,
        portion: &'a Portion,
    ) -> impl Stream<Item = Result<Rewrite, Failed>> + Send + 'a {
        let revision = job.revision;
        let of_partition = move |(partition, range): (&'a u32, &'a Range<u64>)| async move {
            let segments = self.processor.segments_of(timeline, revision, applied, *partition, range.clone()).await;
            let remaker = Remaker {
                processor: self.processor.clone(),
                metrics: self.metrics.clone(),
                staging: self.staging.clone(),
                of: Stretch { revision, applied, partition: *partition, start: range.start },
                end: range.end,
                segments: segments.map_err(|error| failed(revision, store, error))?.into(),
                store,
                progress: self.progress.clone(),
            };
            Ok::<_, Failed>(remaker.run().map_err(move |error| failed(revision, store, error)))
        };
        stream::iter(portion.ranges.iter()).then(of_partition).try_flatten()
    }
}

impl Engine {
    /// Returns once both stores have taken in the whole timeline and have nothing left to make again, or with the reason
    /// why one can't.
    pub async fn settle(&self) -> Result<(), String> {
        let head = self.timeline.borrow().head();
        self.progress().wait_for_revision(head).await
    }

    /// Has every row of one store made again from the log, beside the other and beside live traffic. Returns once that is
    /// durably noted; [`Progress`] tells how far it has come.
    ///
    /// # Errors
    /// When there is no such store, its loop has stopped, or the store can't be written.
    pub async fn rebuild(&self, store: &str) -> Result<(), StoreError> {
        let refused = |store, detail: &str| StoreError::Unavailable { store, detail: detail.to_owned() };
        let sender = self.rebuilds.lock().unwrap_or_else(PoisonError::into_inner).get(store).cloned();
        let Some(sender) = sender else {
            return Err(StoreError::Broken { store: "rebuild", detail: format!("there is no store {store:?}") });
        };
        // What was verified of it does not stand any more.
        let forgotten = self.catalogue.forget_verified(store).await;
        forgotten.map_err(|error| refused("rebuild", &error.to_string()))?;
        let (answer, noted) = tokio::sync::oneshot::channel();
        let gone = |_| refused("rebuild", "the store's loop has stopped");
        sender.try_send(answer).map_err(|_| refused("rebuild", "other rebuilds wait already"))?;
        noted.await.map_err(gone)?;
        // Nor does what a verification found that began before the job was there to be seen.
        let forgotten = self.catalogue.forget_verified(store).await;
        forgotten.map_err(|error| refused("rebuild", &error.to_string()))
    }

    /// Tells the log what must stay.
    pub(crate) async fn hold_log(&self) {
        let timeline = self.timeline.borrow().clone();
        release(self.progress(), &timeline, &**self.log()).await;
    }
}

/// Notes a rebuild: the job of revision 1 below every cursor.
async fn note(rewriter: &mut dyn Rewriter, backlog: &Backlog) -> Result<Backlog, StoreError> {
    let below = backlog.state.cursors.iter().map(|(partition, cursor)| (*partition, cursor.next));
    rewriter.note(&Job { revision: REBUILD, below: below.collect() }).await
}

fn failed(revision: u64, store: &'static str, error: SliceError) -> Failed {
    if error.is_transient() {
        return Failed::Store(StoreError::Unavailable { store, detail: error.to_string() });
    }
    Failed::Job { revision, reason: error.to_string() }
}
