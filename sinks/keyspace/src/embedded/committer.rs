//! The commit thread: see the [parent module](super) for what it guarantees.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{PersistMode, Readable};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::{Batch, Compare, KeyspaceError, failpoints};

use super::directory::{Directory, Files, error};
use super::effects::resolve;
use super::{BACKGROUND_WAIT_MAX, BACKLOG_WAIT_MAX, GROUP_BATCHES_MAX, GROUP_BYTES_MAX, Shared};

/// The library halts writers inside a commit, for ever if its background threads died, at 4 full write buffers or 20
/// tables in the top level. A group starts below these, so that it never gets there.
const FULL_WRITE_BUFFERS_MAX: usize = 2;
const TOP_TABLES_MAX: usize = 16;
/// Tables in the top level at which batches of the background wait for merges: what comes in while one is made then still has
/// room below [`TOP_TABLES_MAX`].
const BACKGROUND_TOP_TABLES_MAX: usize = 12;
const BACKLOG_POLL: Duration = Duration::from_millis(5);
/// How long a close waits for reads that are under way.
const READS_WAIT_MAX: Duration = Duration::from_secs(1);

type Answer = oneshot::Sender<Result<(), KeyspaceError>>;

/// A batch, and who waits for it.
pub(super) struct Commit {
    pub(super) batch: Batch,
    pub(super) answer: Answer,
}

pub(super) enum Request {
    Commit(Commit),
    /// A reader found the files closed, or something waits in the background.
    Wake,
    Close(oneshot::Sender<()>),
}

enum State {
    Open(Arc<Files>),
    /// After a failed write. The old files stay until nobody reads them any more.
    Down {
        old: Option<Arc<Files>>,
        tried: Option<Instant>,
    },
}

pub(super) struct Committer {
    directory: Directory,
    state: State,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Request>,
    background: mpsc::Receiver<Commit>,
    /// When something of the background was taken, or came to wait.
    background_at: Instant,
}

/// What is committed together.
#[derive(Default)]
struct Group {
    commits: Vec<Commit>,
    bytes: usize,
}

impl Group {
    fn has_room(&self) -> bool {
        self.commits.len() < GROUP_BATCHES_MAX && self.bytes < GROUP_BYTES_MAX
    }

    fn push(&mut self, commit: Commit) {
        self.bytes += commit.batch.size_bytes();
        self.commits.push(commit);
    }
}

/// What happened to a batch of a group before the `fsync`.
enum Written {
    Yes(u64),
    No(KeyspaceError),
}

impl Committer {
    pub(super) fn new(
        directory: Directory,
        files: Arc<Files>,
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Request>,
        background: mpsc::Receiver<Commit>,
    ) -> Self {
        Self { directory, state: State::Open(files), shared, queue, background, background_at: Instant::now() }
    }

    pub(super) fn run(mut self) {
        let closed = loop {
            let Some(request) = self.next() else { break None };
            self.reopen_if_due();
            let mut group = Group::default();
            let mut next = Some(request);
            let mut close = None;
            while let Some(request) = next.take() {
                match request {
                    Request::Commit(commit) => group.push(commit),
                    Request::Wake => {}
                    Request::Close(done) => {
                        close = Some(done);
                        break;
                    }
                }
                if group.has_room() {
                    next = self.queue.try_recv().ok();
                }
            }
            self.fill_up(&mut group);
            if !group.commits.is_empty() {
                self.commit_group(group.commits);
            }
            if close.is_some() {
                break close;
            }
        };
        self.shared.take_down("the keyspace is closed");
        // What is still queued is dropped with the receiver: its senders are told that the outcome is unknown, so it is
        // answered here instead.
        self.queue.close();
        self.background.close();
        while let Ok(request) = self.queue.try_recv() {
            if let Request::Commit(commit) = request {
                let _ = commit.answer.send(Err(self.shared.unavailable()));
            }
        }
        while let Ok(commit) = self.background.try_recv() {
            let _ = commit.answer.send(Err(self.shared.unavailable()));
        }
        let lock = self.directory.lock();
        drop(self.state);
        drop(self.directory);
        if let Some(done) = closed {
            // Reads that nobody waits for any more hold the files until they end.
            let began = Instant::now();
            while lock.strong_count() > 0 && began.elapsed() < READS_WAIT_MAX {
                std::thread::sleep(BACKLOG_POLL);
            }
            let _ = done.send(());
        }
    }

    /// The next request, or a reason to look at the background; `None` when nobody can ask any more.
    fn next(&mut self) -> Option<Request> {
        loop {
            match self.queue.try_recv() {
                Ok(request) => return Some(request),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.background.is_empty() => {
                    let request = self.queue.blocking_recv();
                    self.background_at = Instant::now();
                    return request;
                }
                Err(TryRecvError::Empty) if self.takes_background() => return Some(Request::Wake),
                Err(TryRecvError::Empty) => std::thread::sleep(BACKLOG_POLL),
            }
        }
    }

    /// Whether it is the turn of the background.
    fn takes_background(&self) -> bool {
        match &self.state {
            State::Open(files) => {
                files.data.l0_table_count() < BACKGROUND_TOP_TABLES_MAX
                    || self.background_at.elapsed() >= BACKGROUND_WAIT_MAX
            }
            // They are told at once.
            State::Down { .. } => true,
        }
    }

    /// Adds to a group what waits in the background.
    fn fill_up(&mut self, group: &mut Group) {
        if self.background.is_empty() {
            self.background_at = Instant::now();
            return;
        }
        if !self.takes_background() {
            return;
        }
        // Beside others one: they wait for as long as the group takes.
        let alone = group.commits.is_empty();
        while group.has_room()
            && let Ok(commit) = self.background.try_recv()
        {
            self.background_at = Instant::now();
            group.push(commit);
            if !alone {
                break;
            }
        }
    }

    fn commit_group(&mut self, group: Vec<Commit>) {
        let State::Open(files) = &self.state else {
            for Commit { answer, .. } in group {
                let _ = answer.send(Err(self.shared.unavailable()));
            }
            return;
        };
        let files = files.clone();
        if let Err(refusal) = wait_for_backlog(&files) {
            let reason = refusal.to_string();
            for Commit { answer, .. } in group {
                let _ = answer.send(Err(KeyspaceError::Unavailable(reason.clone())));
            }
            if let Backlog::Failed(_) = refusal {
                self.take_down(files, &reason);
            }
            return;
        }

        let mut results = Vec::with_capacity(group.len());
        let mut failure = None;
        for Commit { batch, answer } in group {
            let written = match &failure {
                Some(reason) => Written::No(KeyspaceError::Unavailable(String::clone(reason))),
                None => write(&files, batch).unwrap_or_else(|fatal| {
                    failure = Some(fatal.clone());
                    Written::No(KeyspaceError::Unavailable(fatal))
                }),
            };
            results.push((answer, written));
        }
        if failure.is_none() && results.iter().any(|(_, written)| matches!(written, Written::Yes(_))) {
            failure = sync(&files).err();
            if failure.is_none() {
                self.shared.counters.fsyncs.fetch_add(1, Ordering::Relaxed);
                self.shared.publish(&files);
            }
        }
        // The state goes before the answers: whoever reads back after an unknown outcome must not read the state before.
        if let Some(reason) = &failure {
            self.take_down(files, reason);
        }
        for (answer, written) in results {
            let _ = answer.send(self.outcome(written, failure.as_deref()));
        }
    }

    fn outcome(&self, written: Written, failure: Option<&str>) -> Result<(), KeyspaceError> {
        let counters = &self.shared.counters;
        match (written, failure) {
            (Written::No(refused), _) => {
                if let KeyspaceError::Conflict { .. } = refused {
                    counters.conflicts.fetch_add(1, Ordering::Relaxed);
                }
                Err(refused)
            }
            (Written::Yes(_), Some(reason)) => Err(KeyspaceError::Unknown(reason.to_owned())),
            (Written::Yes(bytes), None) => {
                failpoints::abort_after();
                counters.commits.fetch_add(1, Ordering::Relaxed);
                counters.committed_bytes.fetch_add(bytes, Ordering::Relaxed);
                failpoints::answer_unknown()
            }
        }
    }

    fn take_down(&mut self, files: Arc<Files>, reason: &str) {
        tracing::error!(reason, "writing failed; the keyspace is closed and will be opened again");
        self.shared.take_down(reason);
        // The clone of the state goes first: the files close when the last one is dropped.
        self.state = State::Down { old: Some(files), tried: None };
        self.reopen_if_due();
    }

    fn reopen_if_due(&mut self) {
        let State::Down { old, tried } = &mut self.state else { return };
        if tried.is_some_and(|tried| tried.elapsed() < self.directory.options.reopen_pause) {
            return;
        }
        *tried = Some(Instant::now());
        if let Some(files) = old.take() {
            match Arc::try_unwrap(files) {
                Ok(files) => drop(files),
                Err(files) => {
                    *old = Some(files);
                    tracing::warn!("the files can't be opened again while older snapshots are held");
                    return;
                }
            }
        }
        match self.directory.open_files() {
            Ok(files) => {
                let files = Arc::new(files);
                self.shared.counters.reopens.fetch_add(1, Ordering::Relaxed);
                self.shared.publish(&files);
                self.state = State::Open(files);
                tracing::info!("the keyspace is open again");
            }
            Err(error) => tracing::warn!(%error, "the keyspace can't be opened again yet"),
        }
    }
}

enum Backlog {
    Lagging,
    Failed(String),
}

impl std::fmt::Display for Backlog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lagging => write!(f, "flushes and compactions lag behind for {} s", BACKLOG_WAIT_MAX.as_secs()),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

/// Waits until the background threads have caught up far enough for one more group.
fn wait_for_backlog(files: &Files) -> Result<(), Backlog> {
    let started = Instant::now();
    while files.data.sealed_memtable_count() >= FULL_WRITE_BUFFERS_MAX || files.data.l0_table_count() >= TOP_TABLES_MAX
    {
        // The library tells only writers that its background threads have failed. This one writes nothing.
        files.db.persist(PersistMode::Buffer).map_err(|e| Backlog::Failed(error("flushing", &e).to_string()))?;
        if started.elapsed() >= BACKLOG_WAIT_MAX {
            return Err(Backlog::Lagging);
        }
        std::thread::sleep(BACKLOG_POLL);
    }
    Ok(())
}

/// Writes one batch if its compares hold. `Err`: the library takes no more writes.
fn write(files: &Files, batch: Batch) -> Result<Written, String> {
    failpoints::abort_before();
    let bytes = batch.size_bytes() as u64;
    let effects =
        match check(files, &batch.compares).and_then(|()| resolve(batch.writes, |b, e, f| keys(files, b, e, f))) {
            Ok(effects) => effects,
            Err(refused) => return Ok(Written::No(refused)),
        };
    fail_write()?;
    let mut writes = fjall::OwnedWriteBatch::with_capacity(files.db.clone(), effects.len());
    for (key, value) in effects {
        match value {
            Some(value) => writes.insert(&files.data, key, value),
            None => writes.remove(&files.data, key),
        }
    }
    writes.commit().map_err(|e| error("writing a batch", &e).to_string())?;
    Ok(Written::Yes(bytes))
}

fn check(files: &Files, compares: &[Compare]) -> Result<(), KeyspaceError> {
    for Compare { key, expected } in compares {
        let found = files.data.get(key).map_err(|e| error("comparing a key", &e))?;
        if found.as_deref() != expected.as_deref() {
            return Err(KeyspaceError::Conflict { key: key.clone() });
        }
    }
    Ok(())
}

/// The keys of a range as the batches before left them.
fn keys(files: &Files, begin: &[u8], end: &[u8], each: &mut dyn FnMut(Bytes) -> bool) -> Result<(), KeyspaceError> {
    for pair in files.db.snapshot().range(&files.data, begin..end) {
        if !each(pair.key().map_err(|e| error("reading a range to clear", &e))?.into()) {
            break;
        }
    }
    Ok(())
}

fn sync(files: &Files) -> Result<(), String> {
    fail_sync()?;
    files.db.persist(PersistMode::SyncAll).map_err(|e| error("syncing the journal", &e).to_string())
}

fn fail_write() -> Result<(), String> {
    fail::fail_point!("keyspace::write::fail", |_| Err("failpoint: no space left on device".to_owned()));
    Ok(())
}

fn fail_sync() -> Result<(), String> {
    fail::fail_point!("keyspace::sync::fail", |_| Err("failpoint: input/output error".to_owned()));
    Ok(())
}
