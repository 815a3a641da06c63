//! Rows of files that go out of force, on their way into other files.
//!
//! Files of one date and log partition are merged by (`_offset`, `_sub`), rows that give way are left out. Bounds: a
//! file is open only while the merge stands within its offsets, at most [`OPEN_MAX`] are at once, and a batch has at
//! most [`BATCH_ROWS`] rows. A file of a table that is not on this machine is in memory as a whole while it is open.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, UInt32Array};
use arrow::compute::{and, interleave_record_batch, take_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use chrono::NaiveDate;
use millrace_rows::StoreError;
use millrace_rows::schema::{OFFSET, PARTITION, SUB};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReader, RowFilter};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::SchemaDescriptor;
use tokio::runtime::Handle;

use crate::encode::StagedFile;
use crate::error::{broken, unavailable};
use crate::groups::{self, Group};
use crate::input;
use crate::offsets::Remade;
use crate::reader::{DataFile, fit, group_offsets};
use crate::staging::Staging;
use crate::table::Table;

/// Most files that a merge has open at once.
pub(crate) const OPEN_MAX: usize = 16;
/// Most rows of a batch. Even of the largest rows that there are, so many fit the 2 GiB of a text column.
const BATCH_ROWS: usize = 1024;
/// Most batches that one batch of the merge is put together from.
const PENDING_MAX: usize = 32;

/// A file that goes into a merge.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) file: DataFile,
    /// The records whose rows are left out.
    pub(crate) remade: Option<Arc<Remade>>,
    /// Only these row groups, in order.
    pub(crate) groups: Option<Vec<usize>>,
    /// Only offsets in these ranges, which include their ends.
    within: Option<Arc<Vec<(i64, i64)>>>,
}

impl Source {
    pub(crate) fn whole(file: DataFile) -> Self {
        Self { file, remade: None, groups: None, within: None }
    }

    /// What is left of a file.
    pub(crate) fn without(file: DataFile, remade: Arc<Remade>) -> Self {
        Self { remade: Some(remade), ..Self::whole(file) }
    }

    /// Only the rows with offsets in these ranges.
    pub(crate) fn within(self, ranges: Arc<Vec<(i64, i64)>>) -> Self {
        Self { within: Some(ranges), ..self }
    }

    /// The row groups that are read, if not all.
    fn groups(&self, metadata: &ParquetMetaData) -> Option<Vec<usize>> {
        let Some(ranges) = &self.within else { return self.groups.clone() };
        let inside = |at: &usize| {
            let bounds = metadata.row_groups().get(*at).and_then(group_offsets);
            bounds.is_none_or(|(low, high)| ranges.iter().any(|range| range.0 <= high && low <= range.1))
        };
        let all = || (0..metadata.num_row_groups()).collect();
        Some(self.groups.clone().unwrap_or_else(all).into_iter().filter(inside).collect())
    }

    /// Which rows are taken; `None` is all of them.
    fn filter(&self, schema: &SchemaDescriptor) -> Option<RowFilter> {
        let (remade, within) = (self.remade.clone(), self.within.clone());
        if remade.is_none() && within.is_none() {
            return None;
        }
        let lineage = ProjectionMask::columns(schema, [PARTITION, OFFSET]);
        let taken = ArrowPredicateFn::new(lineage, move |rows| {
            let mut taken = match &remade {
                Some(remade) => stays(&rows, remade)?,
                None => BooleanArray::from(vec![true; rows.num_rows()]),
            };
            if let Some(ranges) = &within {
                let inside = |offset: i64| ranges.iter().any(|(low, high)| (*low..=*high).contains(&offset));
                let offsets = integers(&rows, OFFSET)?;
                let inside = offsets.iter().map(|offset| Some(offset.is_some_and(inside))).collect();
                taken = and(&taken, &inside)?;
            }
            Ok(taken)
        });
        Some(RowFilter::new(vec![Box::new(taken)]))
    }

    fn bounds(&self) -> (i64, i64) {
        self.file.offsets.unwrap_or((i64::MIN, i64::MAX))
    }
}

/// What [`count`] finds out about a file.
pub(crate) struct Counted {
    /// Rows that give way.
    pub(crate) gone: u64,
    /// Rows that stay.
    pub(crate) kept: u64,
    /// Its row groups, if it can be spliced.
    pub(crate) groups: Option<Vec<Group>>,
}

/// How many rows of a file give way, and how many stay. Reads nothing but lineage, and of that only the row groups that
/// statistics do not decide. Blocks.
pub(crate) fn count(
    table: &Table,
    runtime: &Handle,
    file: &DataFile,
    remade: &Arc<Remade>,
    written: &SchemaDescriptor,
) -> Result<Counted, StoreError> {
    let wrong = |error: &dyn std::fmt::Display| broken(format!("{}: {error}", file.path));
    let builder = input::open(table, runtime, &file.path)?;
    let metadata = builder.metadata().clone();
    let rows_of = |at: usize| usize::try_from(metadata.row_group(at).num_rows()).unwrap_or(0);
    let mut kept: Vec<u64> = (0..metadata.num_row_groups()).map(|at| rows_of(at) as u64).collect();
    let undecided: Vec<usize> = (0..kept.len())
        .filter(|at| remade.may_be_in(file.partitions, group_offsets(metadata.row_group(*at))))
        .collect();
    let lineage = ProjectionMask::columns(builder.parquet_schema(), [PARTITION, OFFSET]);
    let rows = builder.with_projection(lineage).with_row_groups(undecided.clone());
    let rows = rows.build().map_err(|error| wrong(&error))?;
    let mut gone = 0;
    // A batch may have the end of one row group and the start of the next.
    let mut undecided = undecided.into_iter();
    let (mut group, mut left) = (0, 0);
    for batch in rows {
        let stays = stays(&batch.map_err(|error| wrong(&error))?, remade).map_err(|error| wrong(&error))?;
        let mut at = 0;
        while at < stays.len() {
            while left == 0 {
                group = undecided.next().ok_or_else(|| wrong(&"more rows than its row groups have"))?;
                left = rows_of(group);
            }
            let count = left.min(stays.len() - at);
            let here = stays.slice(at, count).false_count() as u64;
            gone += here;
            kept[group] -= here;
            (at, left) = (at + count, left - count);
        }
    }
    let groups = if gone == 0 { None } else { groups::spliceable(table, file, &metadata, written, &kept) };
    Ok(Counted { gone, kept: kept.iter().sum(), groups })
}

/// Adds the offsets of all rows of a file. Blocks.
pub(crate) fn offsets(table: &Table, runtime: &Handle, file: &DataFile, into: &mut Vec<i64>) -> Result<(), StoreError> {
    let wrong = |error: &dyn std::fmt::Display| broken(format!("{}: {error}", file.path));
    let builder = input::open(table, runtime, &file.path)?;
    let column = ProjectionMask::columns(builder.parquet_schema(), [OFFSET]);
    for batch in builder.with_projection(column).build().map_err(|error| wrong(&error))? {
        let batch = batch.map_err(|error| wrong(&error))?;
        into.extend(integers(&batch, OFFSET).map_err(|error| wrong(&error))?.iter().flatten());
    }
    Ok(())
}

/// Which rows are of no record that was made again.
fn stays(rows: &RecordBatch, remade: &Remade) -> Result<BooleanArray, ArrowError> {
    let (partitions, offsets) = (integers(rows, PARTITION)?, integers(rows, OFFSET)?);
    let lineage = partitions.iter().zip(offsets.iter());
    let stays = lineage.map(|(partition, offset)| !partition.zip(offset).is_some_and(|(p, o)| remade.has(p, o)));
    Ok(stays.map(Some).collect())
}

fn integers<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a arrow::array::Int64Array, ArrowError> {
    let column = rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    column.ok_or_else(|| ArrowError::SchemaError(format!("no column {name} of integers")))
}

/// A source that is being read, at a row of its current batch.
struct Open {
    source: Source,
    reader: ParquetRecordBatchReader,
    rows: RecordBatch,
    keys: Vec<(i64, i64)>,
    at: usize,
    /// Where the batch is among those pending, if it is.
    pending: Option<usize>,
}

impl Open {
    fn key(&self) -> (i64, i64) {
        self.keys[self.at]
    }

    /// Goes to the next batch with rows. False at the end of the file.
    fn advance(&mut self, schema: &SchemaRef) -> Result<bool, StoreError> {
        let wrong = |error: ArrowError| broken(format!("{}: {error}", self.source.file.path));
        loop {
            let Some(rows) = self.reader.next() else { return Ok(false) };
            let rows = fit(schema, &self.source.file, &rows.map_err(wrong)?)?;
            if rows.num_rows() == 0 {
                continue;
            }
            let (offsets, subs) = (integers(&rows, OFFSET).map_err(wrong)?, integers(&rows, SUB).map_err(wrong)?);
            self.keys = offsets.iter().zip(subs.iter()).map(|(o, s)| (o.unwrap_or(i64::MIN), s.unwrap_or(0))).collect();
            self.rows = rows;
            (self.at, self.pending) = (0, None);
            return Ok(true);
        }
    }
}

/// Batches of a merge. Blocks while it reads.
pub(crate) struct Merge {
    table: Arc<Table>,
    runtime: Handle,
    schema: SchemaRef,
    /// By least offset.
    waiting: VecDeque<Source>,
    open: Vec<Open>,
    pending: Vec<RecordBatch>,
    picked: Vec<(usize, usize)>,
}

impl Merge {
    /// A merge of sources in the order of [`in_runs`] into batches of `schema`.
    pub(crate) fn new(table: Arc<Table>, runtime: Handle, schema: SchemaRef, sources: Vec<Source>) -> Self {
        let waiting = sources.into();
        Self { table, runtime, schema, waiting, open: Vec::new(), pending: Vec::new(), picked: Vec::new() }
    }

    fn open(&mut self, source: Source) -> Result<(), StoreError> {
        let wrong = |error: &dyn std::fmt::Display| broken(format!("{}: {error}", source.file.path));
        let mut builder = input::open(&self.table, &self.runtime, &source.file.path)?;
        let columns = self.schema.fields().iter().map(|field| field.name().as_str());
        let projection = ProjectionMask::columns(builder.parquet_schema(), columns);
        if let Some(filter) = source.filter(builder.parquet_schema()) {
            builder = builder.with_row_filter(filter);
        }
        if let Some(groups) = source.groups(builder.metadata()) {
            builder = builder.with_row_groups(groups);
        }
        let reader = builder.with_projection(projection).with_batch_size(BATCH_ROWS).build();
        let reader = reader.map_err(|error| wrong(&error))?;
        let rows = RecordBatch::new_empty(self.schema.clone());
        let mut open = Open { source, reader, rows, keys: Vec::new(), at: 0, pending: None };
        if open.advance(&self.schema)? {
            self.open.push(open);
        }
        Ok(())
    }

    /// The open source with the least key, once every source that may have a lesser one is open.
    fn least(&mut self) -> Result<Option<usize>, StoreError> {
        loop {
            let least = (0..self.open.len()).min_by_key(|at| self.open[*at].key());
            let next = self.waiting.front().map(|source| source.bounds().0);
            match (least, next) {
                (Some(at), Some(next)) if self.open[at].key().0 < next => return Ok(Some(at)),
                (_, Some(_)) => {
                    if let Some(source) = self.waiting.pop_front() {
                        self.open(source)?;
                    }
                }
                (least, None) => return Ok(least),
            }
        }
    }

    fn step(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        while self.picked.len() < BATCH_ROWS && self.pending.len() < PENDING_MAX {
            let Some(at) = self.least()? else { break };
            let others = self.open.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, open)| open.key());
            let waiting = self.waiting.front().map(|source| (source.bounds().0, i64::MIN));
            let limit = others.chain(waiting).min().unwrap_or((i64::MAX, i64::MAX));
            let open = &mut self.open[at];
            let batch = *open.pending.get_or_insert_with(|| {
                self.pending.push(open.rows.clone());
                self.pending.len() - 1
            });
            // At least the row that was found to be the least: files that are in no order are merged somehow.
            loop {
                self.picked.push((batch, open.at));
                open.at += 1;
                let goes_on = open.at < open.keys.len() && open.key() <= limit;
                if !goes_on || self.picked.len() >= BATCH_ROWS {
                    break;
                }
            }
            if open.at == open.keys.len() && !open.advance(&self.schema)? {
                self.open.swap_remove(at);
            }
        }
        let batch = match (self.picked.as_slice(), self.pending.as_slice()) {
            ([], _) => return Ok(None),
            // Rows of one batch are picked in its order.
            ([(_, first), ..], [one]) => one.slice(*first, self.picked.len()),
            (picked, pending) => {
                let pending: Vec<&RecordBatch> = pending.iter().collect();
                interleave_record_batch(&pending, picked).map_err(|error| broken(format!("merging rows: {error}")))?
            }
        };
        self.picked.clear();
        self.pending.clear();
        for open in &mut self.open {
            open.pending = None;
        }
        Ok(Some(batch))
    }
}

impl Iterator for Merge {
    type Item = Result<RecordBatch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// Puts sources in the order of a merge, and parts them where more than [`OPEN_MAX`] would be open at once.
pub(crate) fn in_runs(mut sources: Vec<Source>) -> Vec<Vec<Source>> {
    sources.sort_by(|a, b| (a.bounds(), &a.file.path).cmp(&(b.bounds(), &b.file.path)));
    let mut runs: Vec<Vec<Source>> = Vec::new();
    let mut open: Vec<i64> = Vec::new();
    for source in sources {
        let (least, greatest) = source.bounds();
        open.retain(|end| *end >= least);
        if open.len() >= OPEN_MAX || runs.is_empty() {
            runs.push(Vec::new());
            open.clear();
        }
        open.push(greatest);
        if let Some(run) = runs.last_mut() {
            run.push(source);
        }
    }
    runs
}

/// Writes the rows of `sources`, all of one date, into new files, as few as there can be: one for each log partition,
/// unless it grows too large or too many sources overlap. Files of several log partitions are parted.
pub(crate) async fn write(
    table: &Arc<Table>,
    staging: &mut Staging,
    schema: &SchemaRef,
    date: NaiveDate,
    sources: Vec<Source>,
) -> Result<Vec<StagedFile>, StoreError> {
    let day = i32::try_from((date - NaiveDate::default()).num_days()).map_err(|_| broken(format!("date {date}")))?;
    let mut files = Vec::new();
    for run in in_runs(sources) {
        let merge = Merge::new(table.clone(), Handle::current(), schema.clone(), run);
        let (send, mut receive) = tokio::sync::mpsc::channel(2);
        let reading = tokio::task::spawn_blocking(move || {
            for batch in merge {
                // Whoever waits for it has given up.
                if send.blocking_send(batch.and_then(by_partition)).is_err() {
                    return;
                }
            }
        });
        while let Some(parts) = receive.recv().await {
            for (partition, rows) in parts? {
                staging.add(partition, vec![(day, rows)]).await?;
            }
        }
        // A thread that panicked sent less than there is.
        reading.await.map_err(|error| unavailable(format!("merging rows: {error}")))?;
        files.extend(staging.finish().await?);
    }
    Ok(files)
}

/// Splits rows by log partition; hardly ever is there more than one.
fn by_partition(rows: RecordBatch) -> Result<Vec<(u32, RecordBatch)>, StoreError> {
    let wrong = |error: &dyn std::fmt::Display| broken(format!("merging rows: {error}"));
    let column = integers(&rows, PARTITION).map_err(|error| wrong(&error))?;
    let mut parts: Vec<(i64, Vec<u32>)> = Vec::new();
    for (row, partition) in (0u32..).zip(column.iter()) {
        let partition = partition.ok_or_else(|| wrong(&"a row has no _partition"))?;
        match parts.iter_mut().find(|(known, _)| *known == partition) {
            Some((_, rows)) => rows.push(row),
            None => parts.push((partition, vec![row])),
        }
    }
    let number = |partition: i64| u32::try_from(partition).map_err(|_| wrong(&format!("_partition is {partition}")));
    if let [(partition, _)] = parts.as_slice() {
        return Ok(vec![(number(*partition)?, rows)]);
    }
    let part = |(partition, indices)| {
        let part = take_record_batch(&rows, &UInt32Array::from(indices)).map_err(|error| wrong(&error))?;
        Ok((number(partition)?, part))
    };
    parts.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(offsets: Option<(i64, i64)>) -> Source {
        let path = format!("{offsets:?}");
        let has_lineage = true;
        Source::whole(DataFile { path, date: None, bytes: 1, rows: None, partitions: None, offsets, has_lineage })
    }

    #[test]
    fn files_that_follow_on_each_other_are_one_run_and_too_many_at_once_are_parted() {
        let row = (0..100).rev().map(|n| source(Some((n * 10, n * 10 + 9))));
        let runs = in_runs(row.collect());
        assert_eq!(runs.len(), 1);
        assert!(runs[0].is_sorted_by_key(|source| source.bounds()));

        let open = OPEN_MAX as i64;
        let all_at_once = in_runs((0..open + 3).map(|n| source(Some((n, 1000)))).collect());
        assert_eq!(all_at_once.iter().map(Vec::len).collect::<Vec<_>>(), [OPEN_MAX, 3]);
        let unknown = in_runs((0..open + 1).map(|_| source(None)).collect());
        assert_eq!(unknown.len(), 2, "a file without statistics overlaps all");
        assert!(in_runs(Vec::new()).is_empty());
    }
}
