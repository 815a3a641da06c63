//! Corrections that are made ahead, before they are published: what they bring is there when they come into force, and a
//! chain that can't do the range is found out before the point of no return.
//!
//! ```text
//! plan ── stage: every batch of the range made and kept in a file ──┬── publish: both stores' jobs take the files
//!                                                                   └── cancel: the files go, nothing else was written
//! ```
//!
//! The files ([`file`]) are this process's alone, below `<data dir>/staged/<number of the first revision>-<random>/`, and go
//! with it: what was staged when it ended is staged again, what was published is made again from the log. They are never
//! needed, they only spare work. One correction is staged at a time, within [`STAGED_BYTES_MAX`] together with those that are published and
//! not yet applied.
//!
//! What is staged holds for the timeline that it was made under. Once another revision comes into force it can't be
//! published any more.

pub(crate) mod file;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::TryStreamExt as _;
use millrace_rows::Rewrite;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::correction::Plan;
use crate::correction::id::StagedId;
use crate::correction::plan::Asked;
use crate::correction::planning::Planning;
use crate::processor::{Processor, SliceError};
use crate::progress::{Hold, Snapshot};
use crate::share::Stretch;

/// Most bytes of files of staged corrections, by default.
pub const STAGED_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// How far the staging of a correction has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StagingStatus {
    /// Offsets that are made.
    pub done: u64,
    /// Offsets in all.
    pub total: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Whether all of it is made.
    #[serde(skip)]
    pub complete: bool,
    /// Why it can't be, if it can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl StagingStatus {
    /// `staging`, `staged` or `failed`.
    pub fn state(&self) -> &'static str {
        match (&self.problem, self.complete) {
            (Some(_), _) => "failed",
            (None, true) => "staged",
            (None, false) => "staging",
        }
    }
}

/// Why batches could not be staged.
#[derive(Debug, thiserror::Error)]
enum StagingError {
    #[error(transparent)]
    Slice(#[from] SliceError),
    #[error("{}: {detail}", path.display())]
    File { path: PathBuf, detail: String },
    #[error("it takes more than the {0} bytes that are left of staged_bytes_max: publish it unstaged, or correct less")]
    Full(u64),
}

/// A correction that is staged, or is being staged.
pub(crate) struct Staged {
    pub(crate) id: StagedId,
    /// Whether its revisions are being appended: then those that come into force may be its own.
    publishing: bool,
    pub(crate) plan: Plan,
    pub(crate) author: String,
    pub(crate) reason: String,
    /// When it was asked for, µs since 1970 UTC.
    pub(crate) at_us: i64,
    files: Arc<Files>,
    hold: Hold,
    status: watch::Receiver<StagingStatus>,
    /// Ends with it.
    _task: JoinSet<()>,
}

impl Staged {
    /// The number that its first revision will have.
    pub(crate) fn first(&self) -> u64 {
        self.files.first
    }

    /// Its revisions.
    pub(crate) fn revisions(&self) -> Vec<u64> {
        (self.files.first..=self.files.last).collect()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<StagingStatus> {
        self.status.clone()
    }

    pub(crate) fn status(&self) -> StagingStatus {
        self.status.borrow().clone()
    }
}

/// A correction in force whose batches were staged.
struct Published {
    files: Arc<Files>,
    _hold: Hold,
}

/// Batches of a correction. They are removed once nobody reads them any more.
struct Files {
    dir: PathBuf,
    /// Its first revision.
    first: u64,
    /// Its last: what it was made under.
    last: u64,
    bytes: AtomicU64,
    /// The end of each batch, by revision, partition and first offset.
    batches: Mutex<BTreeMap<(u64, u32, u64), u64>>,
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u64, u32, u64), u64>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, revision: u64, partition: u32, first: u64) -> PathBuf {
        self.dir.join(format!("{revision}-{partition}-{first}.parquet"))
    }

    /// Keeps a batch of a revision.
    fn add(&self, revision: u64, rewrite: &Rewrite) -> Result<u64, StagingError> {
        let Range { start, end } = rewrite.offsets;
        let path = self.path(revision, rewrite.partition, start);
        let written = file::write(&path, rewrite);
        let bytes = written.map_err(|error| StagingError::File { path, detail: error.to_string() })?;
        self.lock().insert((revision, rewrite.partition, start), end);
        Ok(self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes)
    }

    /// Removes them.
    fn clear(&self) {
        self.lock().clear();
        self.bytes.store(0, Ordering::Relaxed);
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir = %self.dir.display(), %error, "files of a staged correction stay until the next start");
            }
            _ => {}
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A batch of a published correction, or a part of it.
pub(crate) struct StagedBatch {
    path: PathBuf,
    /// The file stays until it is read.
    files: Arc<Files>,
    /// The offsets that are wanted of it.
    pub(crate) offsets: Range<u64>,
}

impl StagedBatch {
    /// Reads it.
    pub(crate) async fn read(self) -> Result<Rewrite, String> {
        let Self { path, files, offsets } = self;
        let read = tokio::task::spawn_blocking(move || file::read(&path)).await.map_err(|panic| panic.to_string())?;
        drop(files);
        Ok(read.map_err(|error| error.to_string())?.within(offsets))
    }
}

#[derive(Default)]
struct State {
    staged: Option<Staged>,
    published: Vec<Published>,
}

/// What is staged in this process.
pub(crate) struct Staging {
    dir: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
}

impl Staging {
    /// Nothing is staged; what another process left below `data_dir` goes.
    pub(crate) fn open(data_dir: &Path, bytes_max: u64) -> Self {
        let dir = data_dir.join("staged");
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "what was staged before the start could not be removed");
        }
        Self { dir, bytes_max, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let state = self.lock();
        let staged = state.staged.iter().map(|staged| &staged.files);
        let files = staged.chain(state.published.iter().map(|published| &published.files));
        files.map(|files| files.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Begins to stage a plan, in the background. Whoever calls has seen that nothing else is staged.
    ///
    /// # Errors
    /// When there is no directory for it.
    pub(crate) fn begin(
        &self,
        processor: Arc<Processor>,
        (plan, planning): (Plan, Planning),
        Asked { author, reason, at_us }: Asked<'_>,
        hold: Hold,
    ) -> std::io::Result<StagedId> {
        let id = StagedId::new();
        // Never one that was there before: what was cancelled is removed once its last batch is written.
        let dir = self.dir.join(format!("{}-{}", planning.first(), Uuid::now_v7().simple()));
        std::fs::create_dir_all(&dir)?;
        let files = Arc::new(Files {
            dir,
            first: planning.first(),
            last: planning.last(),
            bytes: AtomicU64::new(0),
            batches: Mutex::default(),
        });
        let (status, shown) = watch::channel(StagingStatus::default());
        let room = self.bytes_max.saturating_sub(self.bytes());
        let mut task = JoinSet::new();
        task.spawn(run(processor, planning, files.clone(), status, room));
        let (author, reason) = (author.to_owned(), reason.to_owned());
        let staged =
            Staged { id, publishing: false, plan, author, reason, at_us, files, hold, status: shown, _task: task };
        self.lock().staged = Some(staged);
        Ok(id)
    }

    /// What `look` makes of what is staged, if anything is.
    pub(crate) fn staged<T>(&self, look: impl FnOnce(&Staged) -> T) -> Option<T> {
        self.lock().staged.as_ref().map(look)
    }

    /// Forgets what is staged, if it is `id`. Gives whether it was.
    pub(crate) fn cancel(&self, id: StagedId) -> bool {
        // Dropped outside of the lock: files are removed.
        let staged = self.lock().staged.take_if(|staged| staged.id == id);
        staged.is_some()
    }

    /// `id` is in force: its batches are those of the jobs.
    pub(crate) fn published(&self, id: StagedId) {
        let mut state = self.lock();
        if let Some(Staged { files, hold, .. }) = state.staged.take_if(|staged| staged.id == id) {
            state.published.push(Published { files, _hold: hold });
        }
    }

    /// The revisions of `id` are being appended, or that has ended.
    pub(crate) fn publishing(&self, id: StagedId, publishing: bool) {
        if let Some(staged) = self.lock().staged.as_mut().filter(|staged| staged.id == id) {
            staged.publishing = publishing;
        }
    }

    /// The batch of a stretch that has `at`, up to `end`.
    pub(crate) fn find(&self, of: Stretch, at: u64, end: u64) -> Option<StagedBatch> {
        let state = self.lock();
        let files = &state.published.iter().find(|published| published.files.last == of.applied)?.files;
        let Stretch { revision, partition, .. } = of;
        let batches = files.lock();
        let ((_, _, first), batch_end) =
            batches.range((revision, partition, 0)..=(revision, partition, at)).next_back()?;
        let offsets = at..end.min(*batch_end);
        let path = files.path(revision, partition, *first);
        (!offsets.is_empty()).then(|| StagedBatch { path, files: files.clone(), offsets })
    }

    /// Lets go of all that is not published.
    pub(crate) fn stop(&self) {
        let staged = self.lock().staged.take();
        drop(staged);
    }

    /// Lets go of what every store has applied, and of what can't be published over a timeline that ends at `head`.
    pub(crate) fn release(&self, head: u64, stores: &Snapshot) {
        let applied = |files: &Files| stores.values().all(|store| store.has_done(files.first..=files.last));
        let mut state = self.lock();
        let done: Vec<Published> = state.published.extract_if(.., |published| applied(&published.files)).collect();
        let overtaken = state.staged.take_if(|staged| staged.first() <= head && !staged.publishing);
        drop(state);
        if let Some(staged) = &overtaken {
            tracing::warn!(
                correction = %staged.id,
                head,
                "another revision came first: the staged correction is gone"
            );
        }
        drop((done, overtaken));
    }
}

/// Makes every batch of a plan.
async fn run(
    processor: Arc<Processor>,
    planning: Planning,
    files: Arc<Files>,
    status: watch::Sender<StagingStatus>,
    room: u64,
) {
    match make(&processor, &planning, &files, &status, room).await {
        Ok(()) => status.send_modify(|status| status.complete = true),
        Err(error) => {
            tracing::warn!(correction = files.first, %error, "a correction could not be staged");
            files.clear();
            status.send_modify(|status| status.problem = Some(error.to_string()));
        }
    }
}

async fn make(
    processor: &Arc<Processor>,
    planning: &Planning,
    files: &Arc<Files>,
    status: &watch::Sender<StagingStatus>,
    room: u64,
) -> Result<(), StagingError> {
    // What the job will be: that of all revisions, under the first.
    let revision = planning.first();
    let mut stretches = Vec::new();
    for partition in 0..processor.log().partitions() {
        // What has not come yet is made when it comes.
        let end = processor.log().bounds(partition).await.map_err(SliceError::from)?.end;
        if let Some(offsets) = planning.job_range(partition, end) {
            stretches.push((revision, partition, offsets));
        }
    }
    let total = stretches.iter().map(|(_, _, offsets)| offsets.end - offsets.start).sum();
    status.send_modify(|status| status.total = total);
    for (revision, partition, offsets) in stretches {
        let segments = planning.segments(revision, partition, offsets.clone());
        let mut batches = std::pin::pin!(processor.replay(partition, offsets, segments));
        while let Some(batch) = batches.try_next().await? {
            let rewrite = batch.into_rewrite(partition, planning.last());
            let made = rewrite.offsets.end - rewrite.offsets.start;
            let kept = files.clone();
            let added = tokio::task::spawn_blocking(move || kept.add(revision, &rewrite)).await;
            let bytes = added.map_err(|panic| SliceError::Internal(panic.to_string()))??;
            if bytes > room {
                return Err(StagingError::Full(room));
            }
            status.send_modify(|status| (status.done, status.bytes) = (status.done + made, bytes));
            processor.pause().wait_running().await;
        }
    }
    Ok(())
}
