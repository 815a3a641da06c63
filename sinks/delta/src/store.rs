//! The writer: [`DeltaStore`].

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use deltalake::kernel::Metadata;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::CommitOrBytes;
use millrace_rows::{Job, Slice, Store, StoreError, StoreState};
use uuid::Uuid;

use crate::columns::Columns;
use crate::conflict::{Verdict, Winner, judge};
use crate::encode::{EncodeError, Target};
use crate::entry::{Commit, PartitionCounts};
use crate::error::{STORE, broken, fenced, from_library, unavailable};
use crate::maintain::Maintainer;
use crate::markers::{self, Marker};
use crate::options::Options;
use crate::reader::TableReader;
use crate::split::by_day;
use crate::staging::Staging;
use crate::table::{Seen, Table, View, with_schema};

/// Most versions that a commit tries before it gives up; each try but the last lost to another writer.
const TRIES_MAX: usize = 64;

/// A Delta table as a store of the engine. See the crate's documentation.
pub struct DeltaStore {
    table: Arc<Table>,
    staging: Staging,
    maintainer: Maintainer,
    background_maintenance: bool,
    /// `None` until `load`, after any error, and after a call that was given up midway.
    position: Option<Position>,
    /// Whether an entry was put and the answer is not known: then staged files may be part of the table.
    outcome_unknown: bool,
}

/// What the store knows since the last `load`, and what was staged on it.
struct Position {
    view: View,
    state: StoreState,
    columns: Columns,
    staged: BTreeMap<u32, Staged>,
    staged_bytes: usize,
}

/// Slices of one log partition, one after the other.
struct Staged {
    cursor: millrace_rows::Cursor,
    counts: PartitionCounts,
}

impl Position {
    fn of(view: View) -> Result<Self, StoreError> {
        let state = view.markers.state().map_err(broken)?;
        let columns = Columns::of(&view.schema);
        Ok(Self { view, state, columns, staged: BTreeMap::new(), staged_bytes: 0 })
    }

    /// Whether a slice continues what the store has and what is staged.
    fn check(&self, slice: &Slice) -> Result<(), StoreError> {
        let Slice { partition, first, cursor, applied, .. } = slice;
        if *applied != self.state.applied {
            let detail = format!("the slice was made under revision {applied}, {} is applied", self.state.applied);
            return Err(fenced(detail));
        }
        if cursor.next < *first {
            return Err(broken(format!("partition {partition}: a slice from {first} ends at {}", cursor.next)));
        }
        let here = self.staged.get(partition).map(|staged| &staged.cursor).or(self.state.cursors.get(partition));
        match here {
            Some(here) if here.log != cursor.log => Err(broken(format!(
                "partition {partition}: the table has a cursor of log {}, the slice is of log {}; rebuild the table \
                 into an empty directory to follow another log",
                here.log, cursor.log
            ))),
            Some(here) if here.next != *first => Err(fenced(format!(
                "partition {partition}: the slice starts at {first}, the table stands at {}",
                here.next
            ))),
            _ => Ok(()),
        }
    }
}

impl From<EncodeError> for StoreError {
    fn from(error: EncodeError) -> Self {
        unavailable(format!("writing a data file: {error}"))
    }
}

impl DeltaStore {
    /// Opens the table at a path or URL, or creates it there.
    ///
    /// # Errors
    /// [`StoreError::Broken`] when there is a table that is not ours, with every reason.
    pub async fn open(location: &str, options: Options) -> Result<Self, StoreError> {
        let table = Arc::new(Table::open(location, &options).await?);
        let target = Target {
            local: table.local.clone(),
            store: table.log_store.object_store(None),
            compression: options.compression,
            file_bytes_max: options.file_bytes_max,
            created: Default::default(),
        };
        Ok(Self {
            staging: Staging::new(Arc::new(target), &options),
            maintainer: Maintainer::new(table.clone(), &options),
            background_maintenance: options.background_maintenance,
            table,
            position: None,
            outcome_unknown: false,
        })
    }

    /// The maintenance of this table. Runs beside commits; cheap to clone.
    pub fn maintainer(&self) -> Maintainer {
        self.maintainer.clone()
    }

    /// A reader of this table.
    pub fn reader(&self) -> TableReader {
        TableReader::of(self.table.clone())
    }

    /// Memory that staged rows hold now: waiting, being encoded, in open writers. What `staged_bytes` counts is what a
    /// commit takes in, of which most is in files already.
    pub fn buffered_bytes(&self) -> usize {
        self.staging.buffered()
    }

    /// Version of the table after the last load or commit.
    pub fn version(&self) -> Option<u64> {
        self.position.as_ref().map(|position| position.view.version)
    }

    /// The work that revisions left at the commit that took them in.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Broken`] when the table can't be read.
    pub async fn jobs(&mut self) -> Result<Vec<Job>, StoreError> {
        let markers = match &self.position {
            Some(position) => position.view.markers.clone(),
            None => self.table.view().await?.markers,
        };
        Ok(markers.jobs().into_iter().map(|(revision, below)| Job { revision, below }).collect())
    }

    /// Ages what the store knows, as if the last look at the table was so long ago. For tests.
    #[doc(hidden)]
    pub fn age_view(&mut self, by: std::time::Duration) {
        if let Some(position) = &mut self.position {
            position.view.seen.wall -= by;
        }
    }

    /// What is known, out of its place: a call that fails or is given up midway leaves nothing known.
    fn take_position(&mut self) -> Result<Position, StoreError> {
        self.position.take().ok_or_else(|| fenced("nothing is known of the table since the last error; load it first"))
    }

    async fn forget(&mut self) {
        self.position = None;
        let keep_files = std::mem::take(&mut self.outcome_unknown);
        self.staging.forget(keep_files).await;
    }

    async fn try_stage(&mut self, slice: Slice) -> Result<(), StoreError> {
        let mut position = self.take_position()?;
        position.check(&slice)?;
        position.columns.admit(&slice.rows.schema()).map_err(broken)?;
        position.staged_bytes += slice.memory_bytes();
        let counts = PartitionCounts::of(&slice);
        let Slice { partition, cursor, rows, .. } = slice;
        let parts = tokio::task::spawn_blocking(move || by_day(rows)).await;
        let parts = parts.map_err(|error| unavailable(format!("splitting a slice: {error}")))?.map_err(broken)?;
        self.staging.add(partition, parts).await?;
        match position.staged.get_mut(&partition) {
            Some(staged) => {
                staged.cursor = cursor;
                staged.counts.then(&counts);
            }
            None => {
                position.staged.insert(partition, Staged { cursor, counts });
            }
        }
        self.position = Some(position);
        Ok(())
    }

    async fn try_commit(&mut self) -> Result<StoreState, StoreError> {
        let mut position = self.take_position()?;
        if !position.staged.is_empty() {
            let mut markers = vec![(Marker::Applied, as_marker(position.state.applied)?)];
            for (partition, staged) in &position.staged {
                markers.extend(markers::of_cursor(*partition, &staged.cursor).map_err(broken)?);
            }
            let counts = position.staged.iter().map(|(partition, staged)| (*partition, staged.counts.clone()));
            let commit = Commit {
                id: Uuid::now_v7().to_string(),
                operation: "WRITE",
                applied: position.state.applied,
                partitions: counts.collect(),
                files: self.staging.finish().await?,
                markers,
            };
            self.put(&mut position, &commit).await?;
        }
        let state = position.state.clone();
        self.position = Some(position);
        Ok(state)
    }

    async fn try_take_in(&mut self, revision: u64, job: Option<Job>) -> Result<StoreState, StoreError> {
        let mut position = self.take_position()?;
        if !position.staged.is_empty() {
            return Err(broken("a revision is taken in while rows are staged"));
        }
        if revision != position.state.applied + 1 {
            return Err(fenced(format!("revision {revision} does not follow on {}", position.state.applied)));
        }
        let mut markers = vec![(Marker::Applied, as_marker(revision)?)];
        for (partition, below) in job.iter().flat_map(|job| &job.below) {
            let next = position.state.cursors.get(partition).map_or(0, |cursor| cursor.next);
            if next != *below {
                let detail = format!("partition {partition}: the job ends at {below}, the table stands at {next}");
                return Err(fenced(detail));
            }
            markers.push((Marker::Job(revision, *partition), as_marker(*below)?));
        }
        let commit = Commit {
            id: Uuid::now_v7().to_string(),
            operation: "TAKE IN REVISION",
            applied: revision,
            partitions: BTreeMap::new(),
            files: Vec::new(),
            markers,
        };
        self.put(&mut position, &commit).await?;
        let state = position.state.clone();
        self.position = Some(position);
        Ok(state)
    }

    /// Puts the entry at the next version that is free, and takes it into what is known.
    async fn put(&mut self, position: &mut Position, commit: &Commit) -> Result<(), StoreError> {
        fail::fail_point!("delta::commit::before", |_| std::process::abort());
        for _ in 0..TRIES_MAX {
            if position.view.is_stale(&Seen::now()) {
                refresh(&self.table, position, commit).await?;
            }
            let Position { view, columns, .. } = &*position;
            let metadata = match columns.added() {
                [] => None,
                _ => Some(with_schema(&view.metadata, &columns.extend(&view.schema).map_err(broken)?)?),
            };
            let entry = commit
                .encode(view.version, metadata.as_ref(), chrono::Utc::now().timestamp_millis())
                .map_err(|error| broken(format!("writing a commit entry: {error}")))?;
            let (version, entry) = (view.version + 1, CommitOrBytes::LogBytes(entry));
            self.outcome_unknown = true;
            match self.table.log_store.write_commit_entry(version, entry, Uuid::new_v4()).await {
                Ok(()) if answer_is_lost() => return Err(unavailable("the answer was lost (injected)")),
                Ok(()) => {
                    fail::fail_point!("delta::commit::after", |_| std::process::abort());
                    return self.accept(position, commit, metadata);
                }
                Err(TransactionError::VersionAlreadyExists(_)) => {
                    let caught_up = catch_up(&self.table, position, commit).await;
                    // The entry that is there may be ours if the put was repeated below us: until it has been read.
                    self.outcome_unknown = matches!(caught_up, Err(StoreError::Unavailable { .. }));
                    if caught_up? {
                        return self.accept(position, commit, metadata);
                    }
                }
                Err(error) => {
                    return Err(unavailable(format!("the outcome of commit {} is unknown: {error}", commit.id)));
                }
            }
        }
        Err(unavailable(format!("{TRIES_MAX} other commits came first")))
    }

    /// Takes a commit that has happened into what is known.
    fn accept(
        &mut self,
        position: &mut Position,
        commit: &Commit,
        metadata: Option<Metadata>,
    ) -> Result<(), StoreError> {
        let view = &mut position.view;
        if let Some(metadata) = metadata {
            let schema = metadata.parse_schema();
            view.schema = schema.map_err(|error| broken(format!("reading back the extended schema: {error}")))?;
            view.metadata = metadata;
        }
        view.version += 1;
        view.seen = Seen::now();
        for (marker, value) in &commit.markers {
            view.markers.set(*marker, *value);
        }
        position.state = view.markers.state().map_err(broken)?;
        position.columns = Columns::of(&view.schema);
        position.staged.clear();
        position.staged_bytes = 0;
        self.outcome_unknown = false;
        self.staging.committed();
        Ok(())
    }

    fn start_maintenance(&self) {
        if let (true, Some(position)) = (self.background_maintenance, &self.position)
            && self.maintainer.is_wanted(position.view.version)
        {
            let (maintainer, version) = (self.maintainer.clone(), position.view.version);
            // Failures are counted and logged by the maintainer.
            tokio::spawn(async move { maintainer.run_beside_commits(version).await });
        }
    }
}

fn as_marker(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| broken(format!("{value} does not fit a transaction marker")))
}

/// For tests: whether the answer to a put is lost, which was durable.
fn answer_is_lost() -> bool {
    fail::fail_point!("delta::commit::lost", |_| true);
    false
}

/// Reads the entries that came first, up to the newest. True if one of them is this very commit; then what is known is
/// the version before it.
async fn catch_up(table: &Table, position: &mut Position, commit: &Commit) -> Result<bool, StoreError> {
    let mut read = 0;
    loop {
        let seen = Seen::now();
        let version = position.view.version + 1;
        let entry = table.log_store.read_commit_entry(version).await;
        let entry = entry.map_err(|error| from_library(&format!("reading version {version}"), &error))?;
        let Some(entry) = entry else { break };
        let winner = Winner::parse(&entry).map_err(|error| broken(format!("version {version}: {error}")))?;
        match judge(winner, &commit.id, |marker| commit.relies_on(marker), &mut position.view.markers) {
            Verdict::Ours => return Ok(true),
            Verdict::Fenced(detail) => return Err(fenced(format!("version {version}: {detail}"))),
            Verdict::Broken(detail) => return Err(broken(format!("version {version}: {detail}"))),
            Verdict::Retry(metadata) => {
                if let Some(metadata) = metadata {
                    table.check_metadata(&mut position.view, &metadata)?;
                    position.columns = position.columns.rebase(&position.view.schema).map_err(broken)?;
                }
                position.view.version = version;
                position.view.seen = seen;
                read += 1;
            }
        }
    }
    if read == 0 {
        let version = position.view.version + 1;
        return Err(unavailable(format!("version {version} exists and can't be found")));
    }
    Ok(false)
}

/// Looks at the table anew before a commit from an old view.
async fn refresh(table: &Table, position: &mut Position, commit: &Commit) -> Result<(), StoreError> {
    let view = table.view().await?;
    let before = &position.view.markers;
    if let Some(marker) = view.markers.differing(before).find(|marker| commit.relies_on(marker)) {
        return Err(fenced(format!("{} changed while this writer paused", marker.app_id())));
    }
    position.columns = position.columns.rebase(&view.schema).map_err(broken)?;
    position.view = view;
    Ok(())
}

#[async_trait]
impl Store for DeltaStore {
    fn name(&self) -> &'static str {
        STORE
    }

    async fn load(&mut self) -> Result<StoreState, StoreError> {
        self.forget().await;
        let position = Position::of(self.table.view().await?)?;
        self.maintainer.saw_checkpoint(position.view.checkpoint);
        let state = position.state.clone();
        self.position = Some(position);
        Ok(state)
    }

    async fn stage(&mut self, slice: Slice) -> Result<(), StoreError> {
        let staged = self.try_stage(slice).await;
        if staged.is_err() {
            self.forget().await;
        }
        staged
    }

    fn staged_bytes(&self) -> usize {
        self.position.as_ref().map_or(0, |position| position.staged_bytes)
    }

    async fn commit(&mut self) -> Result<StoreState, StoreError> {
        let committed = self.try_commit().await;
        self.after(committed).await
    }

    async fn take_in(&mut self, revision: u64, job: Option<Job>) -> Result<StoreState, StoreError> {
        let taken = self.try_take_in(revision, job).await;
        self.after(taken).await
    }
}

impl DeltaStore {
    async fn after(&mut self, done: Result<StoreState, StoreError>) -> Result<StoreState, StoreError> {
        match &done {
            Ok(_) => self.start_maintenance(),
            Err(_) => self.forget().await,
        }
        done
    }
}
