//! The writer: [`DeltaStore`].

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use deltalake::logstore::object_store::ObjectStore;
use millrace_rows::{Job, Slice, Store, StoreError, StoreState};
use url::Url;
use uuid::Uuid;

use crate::encode::EncodeError;
use crate::entry::{Cause, Commit, PartitionCounts};
use crate::error::{STORE, broken, fenced, unavailable};
use crate::maintain::Maintainer;
use crate::markers::{self, Marker, as_marker};
use crate::options::Options;
use crate::put::{Known, put};
use crate::reader::TableReader;
use crate::rewriter::DeltaRewriter;
use crate::split::by_day;
use crate::staging::Staging;
use crate::table::{Table, View};

/// A Delta table as a store of the engine. See the crate's documentation.
pub struct DeltaStore {
    table: Arc<Table>,
    staging: Staging,
    maintainer: Maintainer,
    options: Options,
    /// `None` until `load`, after any error, and after a call that was given up midway.
    position: Option<Position>,
    /// Whether an entry was put and the answer is not known: then staged files may be part of the table.
    outcome_unknown: bool,
}

/// What the store knows since the last `load`, and what was staged on it.
struct Position {
    known: Known,
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
        Ok(Self { known: Known::of(view)?, staged: BTreeMap::new(), staged_bytes: 0 })
    }

    /// Whether a slice continues what the store has and what is staged.
    fn check(&self, slice: &Slice) -> Result<(), StoreError> {
        let Slice { partition, first, cursor, applied, .. } = slice;
        if *applied != self.known.state.applied {
            let detail =
                format!("the slice was made under revision {applied}, {} is applied", self.known.state.applied);
            return Err(fenced(detail));
        }
        if cursor.next < *first {
            return Err(broken(format!("partition {partition}: a slice from {first} ends at {}", cursor.next)));
        }
        let here = self.staged.get(partition).map(|staged| &staged.cursor).or(self.known.state.cursors.get(partition));
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
    /// Opens the table at a path, a `file://` URL or, with the feature `s3`, an `s3://bucket/prefix` URL; or creates it
    /// there.
    ///
    /// # Errors
    /// [`StoreError::Broken`] when there is a table that is not ours, with every reason, or an object store that has no
    /// conditional puts.
    pub async fn open(location: &str, options: Options) -> Result<Self, StoreError> {
        Ok(Self::of(Table::open(location, &options).await?, options))
    }

    /// Opens the table at the path of `url` in an object store of the caller's, or creates it there. The rest of the
    /// URL is a name for messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_in(store: Arc<dyn ObjectStore>, url: &Url, options: Options) -> Result<Self, StoreError> {
        Ok(Self::of(Table::in_store(store, url)?.ready(&options).await?, options))
    }

    fn of(table: Table, options: Options) -> Self {
        let table = Arc::new(table);
        Self {
            staging: Staging::of(&table, &options),
            maintainer: Maintainer::new(table.clone(), &options),
            table,
            options,
            position: None,
            outcome_unknown: false,
        }
    }

    /// A writer of the jobs that revisions leave in this table. It runs beside this store and any other writer.
    pub fn rewriter(&self) -> DeltaRewriter {
        DeltaRewriter::new(self.table.clone(), &self.options)
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
        self.position.as_ref().map(|position| position.known.view.version)
    }

    /// The work that revisions left and that is not done, as the store last saw it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Broken`] when the table can't be read.
    pub async fn jobs(&mut self) -> Result<Vec<Job>, StoreError> {
        let markers = match &self.position {
            Some(position) => position.known.view.markers.clone(),
            None => self.table.view().await?.markers,
        };
        Ok(markers.jobs().into_iter().map(|(revision, below)| Job { revision, below }).collect())
    }

    /// Ages what the store knows, as if the last look at the table was so long ago. For tests.
    #[doc(hidden)]
    pub fn age_view(&mut self, by: std::time::Duration) {
        if let Some(position) = &mut self.position {
            position.known.view.seen.wall -= by;
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
        position.known.columns.admit(&slice.rows.schema()).map_err(broken)?;
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
            let mut markers = vec![(Marker::Applied, as_marker(position.known.state.applied).map_err(broken)?)];
            for (partition, staged) in &position.staged {
                markers.extend(markers::of_cursor(*partition, &staged.cursor).map_err(broken)?);
            }
            let counts = position.staged.iter().map(|(partition, staged)| (*partition, staged.counts.clone()));
            let commit = Commit {
                id: Uuid::now_v7().to_string(),
                cause: Cause::Append,
                applied: position.known.state.applied,
                partitions: counts.collect(),
                files: self.staging.finish().await?,
                removes: BTreeMap::new(),
                markers,
            };
            self.put(&mut position, &commit).await?;
        }
        let state = position.known.state.clone();
        self.position = Some(position);
        Ok(state)
    }

    async fn try_take_in(&mut self, revision: u64, job: Option<Job>) -> Result<StoreState, StoreError> {
        let mut position = self.take_position()?;
        if !position.staged.is_empty() {
            return Err(broken("a revision is taken in while rows are staged"));
        }
        let applied = position.known.state.applied;
        if revision <= applied || job.as_ref().is_some_and(|job| job.revision <= applied || job.revision > revision) {
            return Err(fenced(format!("revision {revision} can't be taken in: {applied} is applied")));
        }
        let mut markers = vec![(Marker::Applied, as_marker(revision).map_err(broken)?)];
        let first = job.as_ref().map_or(revision, |job| job.revision);
        for (partition, below) in job.iter().flat_map(|job| &job.below) {
            let next = position.known.state.cursors.get(partition).map_or(0, |cursor| cursor.next);
            if next != *below {
                let detail = format!("partition {partition}: the job ends at {below}, the table stands at {next}");
                return Err(fenced(detail));
            }
            markers.push((Marker::Job(first, *partition), as_marker(*below).map_err(broken)?));
        }
        let commit = Commit {
            id: Uuid::now_v7().to_string(),
            cause: Cause::TakeIn,
            applied: revision,
            partitions: BTreeMap::new(),
            files: Vec::new(),
            removes: BTreeMap::new(),
            markers,
        };
        self.put(&mut position, &commit).await?;
        let state = position.known.state.clone();
        self.position = Some(position);
        Ok(state)
    }

    async fn put(&mut self, position: &mut Position, commit: &Commit) -> Result<(), StoreError> {
        self.staging.check_age()?;
        put(&self.table, &mut position.known, commit, &mut self.outcome_unknown).await?;
        position.staged.clear();
        position.staged_bytes = 0;
        self.staging.committed();
        Ok(())
    }

    fn start_maintenance(&self) {
        if let (true, Some(position)) = (self.options.background_maintenance, &self.position)
            && self.maintainer.is_wanted(position.known.view.version)
        {
            let (maintainer, version) = (self.maintainer.clone(), position.known.view.version);
            // Failures are counted and logged by the maintainer.
            tokio::spawn(async move { maintainer.run_beside_commits(version).await });
        }
    }
}

#[async_trait]
impl Store for DeltaStore {
    fn name(&self) -> &'static str {
        STORE
    }

    async fn load(&mut self) -> Result<StoreState, StoreError> {
        self.forget().await;
        let position = Position::of(self.table.view().await?)?;
        self.maintainer.saw_checkpoint(position.known.view.checkpoint);
        let state = position.known.state.clone();
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
