//! The writer of jobs: [`DeltaRewriter`].
//!
//! New rows are staged as a store stages them. A commit then looks, in one snapshot, for the files in force that may
//! hold rows of a record that was made again, and counts these rows in each. A file with none is left alone; any other
//! goes out of force in the commit. Rows in it that stay are written again, merged with the new rows of their date and
//! log partition. Where no row stays, or what stays is beside a range without a gap that has rows of several row groups,
//! the files that were staged are taken as they are.
//!
//! So a row of another record is copied only if it shares a file with one that gives way. The commit relies on `applied`,
//! on its job's markers, on every file it removes being in force, and on nobody else having added rows of its records:
//! then the rows in force after it are those before it, with the rows of the records exchanged.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::NaiveDate;
use deltalake::kernel::Snapshot;
use millrace_rows::schema::{AddedColumn, EVENT_DATE, OFFSET, PARTITION};
use millrace_rows::{Backlog, HeldBack, Job, Reason, Rewrite, Rewriter, StoreError};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::affected::{Kept, affected, removes_of};
use crate::columns::Columns;
use crate::encode::StagedFile;
use crate::entry::{Cause, Commit, Correction, PartitionCounts};
use crate::error::{STORE, broken, fenced, unavailable};
use crate::groups;
use crate::markers::{Marker, as_marker};
use crate::merge::{self, Source};
use crate::offsets::{Offsets, Remade};
use crate::options::Options;
use crate::put::{Known, put};
use crate::reader::DataFile;
use crate::rebuild::{Parts, ToCommit};
use crate::split::by_day;
use crate::staging::Staging;
use crate::table::{Seen, Table};

/// Works off the jobs of a table, beside its live store. Made by [`crate::DeltaStore::rewriter`].
pub struct DeltaRewriter {
    table: Arc<Table>,
    staging: Staging,
    records_max: u64,
    /// What a rebuild has made, for its commit.
    parts: Parts,
    /// `None` until `load`, after any error, and after a call that was given up midway.
    position: Option<Position>,
    /// Whether an entry was put and the answer is not known: then staged files may be part of the table.
    outcome_unknown: bool,
}

struct Position {
    known: Known,
    staged: BTreeMap<u32, Staged>,
}

/// Ranges of one log partition, one after the other.
#[derive(Clone)]
pub(crate) struct Staged {
    pub(crate) remade: Offsets,
    pub(crate) counts: PartitionCounts,
}

impl Position {
    /// Checks a range against what the table has and what is staged.
    fn check(&self, rewrite: &Rewrite) -> Result<(), StoreError> {
        let Rewrite { partition, offsets, applied, remade, .. } = rewrite;
        let state = &self.known.state;
        if *applied != state.applied {
            let detail = format!("the rows were made under revision {applied}, {} is applied", state.applied);
            return Err(fenced(detail));
        }
        let next = state.cursors.get(partition).map_or(0, |cursor| cursor.next);
        if offsets.end > next {
            let detail =
                format!("partition {partition}: the range ends at {}, the table stands at {next}", offsets.end);
            return Err(fenced(detail));
        }
        let from = self.staged.get(partition).map_or(0, |staged| staged.counts.next);
        if offsets.start < from || offsets.end < offsets.start {
            return Err(broken(format!("partition {partition}: the range {offsets:?} does not follow on {from}")));
        }
        let inside = remade.iter().all(|offset| offsets.contains(offset));
        if !inside || !remade.is_sorted_by(|a, b| a < b) {
            return Err(broken(format!("partition {partition}: the records of {offsets:?} are not in it, in order")));
        }
        check_rows(rewrite).map_err(|detail| broken(format!("partition {partition}: {detail}")))
    }

    fn backlog(&self) -> Backlog {
        let jobs = self.known.view.markers.jobs().into_iter().map(|(revision, below)| Job { revision, below });
        Backlog { state: self.known.state.clone(), jobs: jobs.collect() }
    }

    /// What a commit notes of its job, and what it must find unchanged.
    fn markers(&self, revision: u64, left: &BTreeMap<u32, u64>) -> Result<Vec<(Marker, i64)>, StoreError> {
        let job = self.known.view.markers.jobs().remove(&revision);
        let job = job.ok_or_else(|| fenced(format!("the job of revision {revision} is done")))?;
        if let Some((partition, below)) =
            left.iter().find(|(partition, below)| job.get(*partition).is_none_or(|known| *below > known))
        {
            return Err(broken(format!("partition {partition}: the job of {revision} does not reach to {below}")));
        }
        let mut markers = vec![(Marker::Applied, as_marker(self.known.state.applied).map_err(broken)?)];
        for partition in job.keys() {
            let below = left.get(partition).copied().unwrap_or(0);
            markers.push((Marker::Job(revision, *partition), as_marker(below).map_err(broken)?));
        }
        Ok(markers)
    }
}

/// Whether every row is one of the records that were made again: any other would be there twice after the commit.
fn check_rows(rewrite: &Rewrite) -> Result<(), String> {
    use arrow::array::{Array, AsArray};
    let column = |name| {
        let column = rewrite.rows.column_by_name(name).map(|column| column.as_primitive_opt::<_>());
        column.flatten().filter(|column| column.null_count() == 0).ok_or(format!("the rows have no {name}"))
    };
    let (partitions, offsets): (&arrow::array::Int64Array, &arrow::array::Int64Array) =
        (column(PARTITION)?, column(OFFSET)?);
    let mut remade = rewrite.remade.iter().copied().peekable();
    for (partition, offset) in partitions.values().iter().zip(offsets.values()) {
        let offset = u64::try_from(*offset).map_err(|_| format!("a row has the offset {offset}"))?;
        while remade.next_if(|record| *record < offset).is_some() {}
        if *partition != i64::from(rewrite.partition) || remade.peek() != Some(&offset) {
            return Err(format!("a row of partition {partition} and offset {offset} is none of the records, in order"));
        }
    }
    Ok(())
}

/// The table's columns and those that are added, as its data files have them.
pub(crate) fn file_schema(snapshot: &Snapshot, columns: &Columns) -> SchemaRef {
    let table = snapshot.arrow_schema();
    let fields = table.fields().iter().filter(|field| field.name() != EVENT_DATE).cloned();
    let added = columns.added().iter().map(|column| Arc::new(Field::new(&column.name, column.ty.data_type(), true)));
    Arc::new(Schema::new(fields.chain(added).collect::<Vec<_>>()))
}

/// Row groups that new rows must fill to stay in files of their own beside what they were taken out of. A replay of a large
/// file takes it away piece by piece, and would write each piece twice.
const BESIDE_GROUPS_MIN: u64 = 4;

impl DeltaRewriter {
    pub(crate) fn new(table: Arc<Table>, options: &Options) -> Self {
        Self {
            staging: Staging::of(&table, options),
            records_max: options.rewrite_records_max,
            parts: Parts::new(options),
            table,
            position: None,
            outcome_unknown: false,
        }
    }

    /// Memory that staged rows hold now: waiting, being encoded, in open writers.
    pub fn buffered_bytes(&self) -> usize {
        self.staging.buffered()
    }

    fn take_position(&mut self) -> Result<Position, StoreError> {
        self.position.take().ok_or_else(|| fenced("nothing is known of the table since the last error; load it first"))
    }

    async fn forget(&mut self) {
        self.position = None;
        let keep_files = std::mem::take(&mut self.outcome_unknown);
        if keep_files {
            // What was held back may be part of the table.
            self.parts.clear();
        }
        self.staging.forget(keep_files).await;
    }

    async fn try_stage(&mut self, rewrite: Rewrite) -> Result<(), StoreError> {
        let mut position = self.take_position()?;
        position.check(&rewrite)?;
        position.known.columns.admit(&rewrite.rows.schema()).map_err(broken)?;
        let counts = PartitionCounts::of_rewrite(&rewrite);
        let Rewrite { partition, remade, rows, .. } = rewrite;
        let parts = tokio::task::spawn_blocking(move || by_day(rows)).await;
        let parts = parts.map_err(|error| unavailable(format!("splitting rows: {error}")))?.map_err(broken)?;
        self.staging.add(partition, parts).await?;
        some_is_staged();
        match position.staged.get_mut(&partition) {
            Some(staged) => {
                staged.counts.then(&counts);
                for offset in remade {
                    staged.remade.push(offset);
                }
            }
            None => {
                position.staged.insert(partition, Staged { remade: remade.into_iter().collect(), counts });
            }
        }
        self.position = Some(position);
        Ok(())
    }

    async fn try_note(&mut self, job: &Job) -> Result<Backlog, StoreError> {
        let mut position = self.take_position()?;
        if !position.staged.is_empty() {
            return Err(broken("a job is noted while rows are staged"));
        }
        let state = &position.known.state;
        let mut markers = vec![(Marker::Applied, as_marker(state.applied).map_err(broken)?)];
        for (partition, below) in &job.below {
            let next = state.cursors.get(partition).map_or(0, |cursor| cursor.next);
            if *below > next {
                let detail = format!("partition {partition}: a job below {below}, the table stands at {next}");
                return Err(fenced(detail));
            }
            markers.push((Marker::Job(job.revision, *partition), as_marker(*below).map_err(broken)?));
        }
        let cause = Correction {
            revision: job.revision,
            reason: Reason::default(),
            remade: Arc::default(),
            copied_row_groups: 0,
        };
        let commit = Commit {
            id: Uuid::now_v7().to_string(),
            applied: state.applied,
            cause: Cause::Correct(cause),
            partitions: BTreeMap::new(),
            files: Vec::new(),
            removes: BTreeMap::new(),
            markers,
        };
        put(&self.table, &mut position.known, &commit, &mut self.outcome_unknown).await?;
        let backlog = position.backlog();
        self.position = Some(position);
        Ok(backlog)
    }

    async fn try_commit(
        &mut self,
        revision: u64,
        left: &BTreeMap<u32, u64>,
        reason: &Reason,
    ) -> Result<Backlog, StoreError> {
        let mut position = self.take_position()?;
        let staged = std::mem::take(&mut position.staged);
        let files = self.staging.finish().await?;
        self.publish(position, revision, left, reason, (staged, files), false).await
    }

    async fn try_commit_rebuild(
        &mut self,
        revision: u64,
        made: &BTreeMap<u32, Range<u64>>,
        left: &BTreeMap<u32, u64>,
        reason: &Reason,
    ) -> Result<Backlog, StoreError> {
        let mut position = self.take_position()?;
        let applied = position.known.state.applied;
        let (staged, files) = (std::mem::take(&mut position.staged), self.staging.finish().await?);
        let since = self.staging.since();
        // They outlive what is forgotten after an error.
        self.staging.committed();
        let gone = self.parts.add(applied, made, staged, files, position.known.columns.added(), since);
        self.staging.discard(&gone).await;
        if !left.is_empty() && self.parts.may_wait() {
            let backlog = position.backlog();
            self.position = Some(position);
            return Ok(backlog);
        }
        let ToCommit { staged, files, added } = self.parts.to_commit(applied)?;
        for AddedColumn { name, ty } in &added {
            position.known.columns.admit_column(name, *ty).map_err(broken)?;
        }
        self.publish(position, revision, left, reason, (staged, files), true).await
    }

    /// Deletes what a rebuild has made, but for what stands.
    async fn keep_parts(&mut self, applied: u64, stands: impl Fn(&HeldBack) -> bool) {
        let gone = self.parts.keep(applied, stands);
        self.staging.discard(&gone).await;
    }

    /// After an error of staging or committing: nothing is staged, and the table must be loaded again.
    async fn settle<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            let disk = self.table.local.is_some() && matches!(error, StoreError::Unavailable { .. });
            self.forget().await;
            if disk {
                // It may be full, and live rows go first.
                self.keep_parts(0, |_| false).await;
            }
        }
        result
    }

    /// Commits rows in the place of those that the table has of the same records; `rebuilt`: they are all the parts.
    async fn publish(
        &mut self,
        mut position: Position,
        revision: u64,
        left: &BTreeMap<u32, u64>,
        reason: &Reason,
        (staged, files): (BTreeMap<u32, Staged>, Vec<StagedFile>),
        rebuilt: bool,
    ) -> Result<Backlog, StoreError> {
        let markers = position.markers(revision, left)?;
        let counts = staged.iter().map(|(partition, staged)| (*partition, staged.counts.clone())).collect();
        let remade = staged.into_iter().map(|(partition, staged)| (partition, staged.remade));
        let remade = Arc::new(Remade(remade.filter(|(_, offsets)| !offsets.is_empty()).collect()));
        let mut commit = Commit {
            id: Uuid::now_v7().to_string(),
            applied: position.known.state.applied,
            cause: Cause::Correct(Correction {
                revision,
                reason: reason.clone(),
                remade: remade.clone(),
                copied_row_groups: 0,
            }),
            partitions: counts,
            files,
            removes: BTreeMap::new(),
            markers,
        };
        staged_is_complete();
        let table = self.table.clone();
        // Not held while rows were made and staged: compaction has its turns in between.
        let _turn = table.replacing.lock().await;
        let mut merged = Vec::new();
        if !remade.0.is_empty() {
            merged = self.replace(&mut position.known, &mut commit, &remade).await?;
        }
        self.staging.check_age()?;
        put(&table, &mut position.known, &commit, &mut self.outcome_unknown).await?;
        self.staging.committed();
        if rebuilt {
            self.parts.clear();
        }
        self.staging.discard(&merged).await;
        let backlog = position.backlog();
        self.position = Some(position);
        Ok(backlog)
    }

    /// Looks at the table as it is now, and adds to the commit what its files give way to. Returns the staged files that were
    /// merged into others, and go into no commit.
    async fn replace(
        &mut self,
        known: &mut Known,
        commit: &mut Commit,
        remade: &Arc<Remade>,
    ) -> Result<Vec<StagedFile>, StoreError> {
        let seen = Seen::now();
        let snapshot = self.table.snapshot().await?;
        known.renew(self.table.view_of(&snapshot, seen).await?, |marker| commit.relies_on(marker))?;
        let schema = file_schema(&snapshot, &known.columns);
        let affected = affected(&self.table, &snapshot, remade, &schema).await?;
        commit.removes = removes_of(&self.table, &snapshot, &affected.files).await?;
        let (mut copied, mut merged) = (0, Vec::new());
        for ((date, partition), kept) in affected.kept {
            // The new rows of the same date and log partition go into the same files: a small correction adds none.
            let here = |file: &mut StagedFile| {
                let file = DataFile::staged(file);
                partition.is_some() && file.partition() == partition && file.date == Some(date)
            };
            let mut new: Vec<StagedFile> = commit.files.extract_if(.., here).collect();
            // Enough for files of their own, beside what stays: those are there already.
            let range = partition.and_then(|partition| remade.0.get(&partition)?.one_range());
            let enough = rows_of(&new) >= BESIDE_GROUPS_MIN * self.staging.group_rows_max();
            if enough && range.is_some_and(|range| kept.is_beside(range)) {
                commit.files.append(&mut new);
            }
            let expected = kept.rows + rows_of(&new);
            let parts = part(&self.table, (date, partition), kept, &new, self.staging.group_rows_max()).await?;
            for splice in parts.spliced {
                copied += splice.copied();
                self.staging.splice(&self.table, &schema, splice).await?;
            }
            let mut written = self.staging.finish().await?;
            written.extend(merge::write(&self.table, &mut self.staging, &schema, date, parts.merged).await?);
            let found = rows_of(&written);
            if found != expected {
                return Err(broken(format!("{date}: {found} rows were written again of {expected}")));
            }
            merged.append(&mut new);
            commit.files.extend(written);
        }
        if let Cause::Correct(correction) = &mut commit.cause {
            correction.copied_row_groups = copied;
        }
        Ok(merged)
    }
}

/// What becomes of old files and new ones of one date and log partition.
async fn part(
    table: &Arc<Table>,
    (date, partition): (NaiveDate, Option<u32>),
    kept: Kept,
    new: &[StagedFile],
    group_rows_max: u64,
) -> Result<groups::Parts, StoreError> {
    let Kept { spliceable, merged, .. } = kept;
    // Of several log partitions: such files are merged as a whole.
    let Some(partition) = partition else { return Ok(groups::Parts { spliced: Vec::new(), merged }) };
    let new: Vec<Source> = new.iter().map(|file| Source::whole(DataFile::staged(file))).collect();
    let (table, runtime) = (table.clone(), Handle::current());
    let part = move || groups::part(&table, &runtime, (partition, date), spliceable, merged, new, group_rows_max);
    tokio::task::spawn_blocking(part).await.map_err(|error| unavailable(format!("parting rows: {error}")))?
}

fn rows_of(files: &[StagedFile]) -> u64 {
    files.iter().map(|file| file.rows).sum()
}

fn some_is_staged() {
    fail::fail_point!("delta::rewrite::stage", |_| std::process::abort());
}

fn staged_is_complete() {
    fail::fail_point!("delta::rewrite::staged", |_| std::process::abort());
}

#[async_trait]
impl Rewriter for DeltaRewriter {
    fn name(&self) -> &'static str {
        STORE
    }

    fn records_max(&self) -> u64 {
        self.records_max
    }

    async fn load(&mut self) -> Result<Backlog, StoreError> {
        self.forget().await;
        let position = Position { known: Known::of(self.table.view().await?)?, staged: BTreeMap::new() };
        let backlog = position.backlog();
        self.position = Some(position);
        Ok(backlog)
    }

    async fn note(&mut self, job: &Job) -> Result<Backlog, StoreError> {
        // All of it is asked for again.
        self.keep_parts(0, |_| false).await;
        let noted = self.try_note(job).await;
        self.settle(noted).await
    }

    async fn stage(&mut self, rewrite: Rewrite) -> Result<(), StoreError> {
        let staged = self.try_stage(rewrite).await;
        self.settle(staged).await
    }

    async fn commit(
        &mut self,
        revision: u64,
        left: &BTreeMap<u32, u64>,
        reason: &Reason,
    ) -> Result<Backlog, StoreError> {
        let committed = self.try_commit(revision, left, reason).await;
        self.settle(committed).await
    }

    async fn commit_rebuild(
        &mut self,
        revision: u64,
        made: &BTreeMap<u32, Range<u64>>,
        left: &BTreeMap<u32, u64>,
        reason: &Reason,
    ) -> Result<Backlog, StoreError> {
        let committed = self.try_commit_rebuild(revision, made, left, reason).await;
        self.settle(committed).await
    }

    fn held_back(&self) -> Vec<HeldBack> {
        self.parts.held_back()
    }

    async fn keep_held_back(&mut self, applied: u64, stands: &(dyn for<'a> Fn(&'a HeldBack) -> bool + Send + Sync)) {
        self.keep_parts(applied, stands).await;
    }
}
