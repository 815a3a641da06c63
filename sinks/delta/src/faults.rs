//! What is wrong with the table whatever the log says: rows that can't be of any record that was consumed, and data files
//! that can't be read.
//!
//! Cursors and files are those of one snapshot, so rows that are appended meanwhile are behind neither. A file whose
//! statistics account for all of its rows is not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use deltalake::logstore::object_store::{self, ObjectStoreExt as _, path::Path};
use millrace_rows::StoreError;
use millrace_rows::schema::{OFFSET, PARTITION, SUB};
use parquet::arrow::ProjectionMask;
use tokio::runtime::Handle;

use crate::error::{broken, unavailable};
use crate::input;
use crate::reader::{DataFile, Scan, TableReader, fit};
use crate::table::Table;

/// Stray rows that are told in full; beyond that they are counted.
pub const FAULTS_KEPT: usize = 20;

/// A data file that is damaged, or not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableFile {
    /// Path relative to the table.
    pub path: String,
    /// The log partition of its rows, if its statistics tell.
    pub partition: Option<u32>,
    /// Least and greatest offset of its rows, if its statistics tell.
    pub offsets: Option<(u64, u64)>,
    /// What reading it met.
    pub detail: String,
}

impl UnreadableFile {
    /// What an error at a file means. Blocks.
    ///
    /// # Errors
    /// The error, when the file may only be out of reach now.
    pub(crate) fn of(table: &Table, runtime: &Handle, file: &DataFile, error: StoreError) -> Result<Self, StoreError> {
        let detail = match error {
            StoreError::Broken { detail, .. } => detail,
            StoreError::Unavailable { detail, .. } if is_gone(table, runtime, &file.path) => detail,
            error => return Err(error),
        };
        let offset = |offset: i64| u64::try_from(offset).ok();
        let offsets = file.offsets.and_then(|(low, high)| offset(low).zip(offset(high)));
        Ok(Self { path: file.path.clone(), partition: file.partition(), offsets, detail })
    }

    /// Whether a record's rows may be in it.
    pub fn may_hold(&self, offset: u64) -> bool {
        self.offsets.is_none_or(|(low, high)| (low..=high).contains(&offset))
    }
}

impl Scan {
    /// Passes over files that are damaged or not there, or the rest of them, instead of ending with an error: see
    /// [`Self::unreadable`]. A store that can't be reached is an error all the same.
    #[must_use]
    pub fn past_unreadable(mut self) -> Self {
        self.unreadable = Some(Vec::new());
        self
    }

    /// The files that were passed over until now: at most those of the scan.
    pub fn unreadable(&self) -> &[UnreadableFile] {
        self.unreadable.as_deref().unwrap_or_default()
    }

    /// Notes a file that can't be read, or gives the error back.
    pub(crate) fn pass_over(&mut self, file: &DataFile, error: StoreError) -> Result<(), StoreError> {
        let Some(unreadable) = &mut self.unreadable else { return Err(error) };
        unreadable.push(UnreadableFile::of(&self.table, &self.runtime, file, error)?);
        Ok(())
    }
}

/// Whether the store says that there is no such file.
fn is_gone(table: &Table, runtime: &Handle, path: &str) -> bool {
    match &table.local {
        Some(root) => root.join(path).try_exists().is_ok_and(|exists| !exists),
        None => {
            let (store, at) = (table.log_store.object_store(None), Path::from(path));
            matches!(runtime.block_on(store.head(&at)), Err(object_store::Error::NotFound { .. }))
        }
    }
}

/// Why no record accounts for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its partition or offset is null or negative.
    NoPlace,
    /// The log has no such partition.
    NoSuchPartition,
    /// The table's cursor has not come to it.
    PastCursor,
}

/// A row that no record accounts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrayRow {
    /// Its log partition.
    pub partition: Option<i64>,
    /// Its offset.
    pub offset: Option<i64>,
    /// Its number among the rows of its record.
    pub sub: Option<i64>,
    /// Path of its file relative to the table.
    pub file: String,
    /// Why.
    pub why: Why,
}

/// What is wrong with a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFaults {
    /// Version that was looked at.
    pub version: u64,
    /// Files that were read; those of others are told by their statistics.
    pub files_read: u64,
    /// Rows that no record accounts for.
    pub strays: u64,
    /// The first [`FAULTS_KEPT`] of them.
    pub first: Vec<StrayRow>,
    /// Of the files that had to be read, those that can't be.
    pub unreadable: Vec<UnreadableFile>,
}

/// How far the table has come in the log, at one version.
#[derive(Clone, Debug)]
struct Consumed {
    /// Partitions of the log.
    partitions: u32,
    /// Past the last offset consumed, by partition.
    ends: BTreeMap<u32, u64>,
}

impl Consumed {
    /// Whether the statistics of a file account for all of its rows.
    fn explains(&self, file: &DataFile) -> bool {
        let (Some((first, last)), Some((low, high))) = (file.partitions, file.offsets) else {
            return file.rows == Some(0);
        };
        // Each partition between the bounds may have a row; the first that is not known ends the search.
        let within =
            |partition| self.why(Some(partition), Some(low)).or(self.why(Some(partition), Some(high))).is_none();
        file.has_lineage && (first..=last).all(within)
    }

    /// Why a row is of no record that was consumed; `None`: it may be of one.
    fn why(&self, partition: Option<i64>, offset: Option<i64>) -> Option<Why> {
        let place = partition.zip(offset).and_then(|(p, offset)| u32::try_from(p).ok().zip(u64::try_from(offset).ok()));
        let Some((partition, offset)) = place else { return Some(Why::NoPlace) };
        match self.ends.get(&partition) {
            Some(end) if offset < *end => None,
            None if partition >= self.partitions => Some(Why::NoSuchPartition),
            _ => Some(Why::PastCursor),
        }
    }
}

impl TableReader {
    /// What is wrong with the newest version, whatever the log's `partitions` partitions hold. Reads the files that the
    /// statistics do not account for, one batch in memory at a time, and lists them: about 300 bytes a file.
    ///
    /// # Errors
    /// When the table can't be read. A file that is damaged or not there is no error.
    pub async fn faults(&self, partitions: u32) -> Result<TableFaults, StoreError> {
        let snapshot = self.table.snapshot().await?;
        let state = self.table.markers(&snapshot).await?.state().map_err(broken)?;
        let ends = state.cursors.iter().map(|(partition, cursor)| (*partition, cursor.next)).collect();
        let consumed = Consumed { partitions, ends };
        let mut suspects = Vec::new();
        self.each_file(&snapshot, |file| {
            if !consumed.explains(&file) {
                suspects.push(file);
            }
        })
        .await?;
        let mut faults = TableFaults { version: snapshot.version(), ..TableFaults::default() };
        let (table, runtime) = (self.table.clone(), Handle::current());
        let read = tokio::task::spawn_blocking(move || {
            for file in suspects {
                faults.files_read += 1;
                if let Err(error) = look_into(&table, &runtime, &consumed, &file, &mut faults) {
                    faults.unreadable.push(UnreadableFile::of(&table, &runtime, &file, error)?);
                }
            }
            Ok(faults)
        });
        read.await.map_err(|error| unavailable(format!("reading data files: {error}")))?
    }
}

/// Adds the rows of a file that no record accounts for. Blocks.
fn look_into(
    table: &Table,
    runtime: &Handle,
    consumed: &Consumed,
    file: &DataFile,
    faults: &mut TableFaults,
) -> Result<(), StoreError> {
    let wrong = |error: &dyn std::fmt::Display| broken(format!("{}: {error}", file.path));
    let schema: SchemaRef =
        Arc::new(Schema::new([PARTITION, OFFSET, SUB].map(|name| Field::new(name, DataType::Int64, true)).to_vec()));
    let builder = input::open(table, runtime, &file.path)?;
    let projection = ProjectionMask::columns(builder.parquet_schema(), [PARTITION, OFFSET, SUB]);
    let batches = builder.with_projection(projection).build().map_err(|error| wrong(&error))?;
    for batch in batches {
        let batch = fit(&schema, file, &batch.map_err(|error| wrong(&error))?)?;
        let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().iter();
        for ((partition, offset), sub) in column(0).zip(column(1)).zip(column(2)) {
            let Some(why) = consumed.why(partition, offset) else { continue };
            faults.strays += 1;
            if faults.first.len() < FAULTS_KEPT {
                faults.first.push(StrayRow { partition, offset, sub, file: file.path.clone(), why });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_unless_its_statistics_account_for_every_row() {
        let consumed = Consumed { partitions: 3, ends: [(0, 100), (1, 50)].into() };
        let file = |partitions, offsets, has_lineage| DataFile {
            path: String::new(),
            date: None,
            bytes: 0,
            rows: Some(10),
            partitions,
            offsets,
            has_lineage,
        };
        for (partitions, offsets, has_lineage, explained) in [
            (Some((0, 0)), Some((0, 99)), true, true),
            (Some((0, 0)), Some((0, 100)), true, false),
            (Some((0, 1)), Some((0, 49)), true, true),
            (Some((0, 1)), Some((0, 50)), true, false),
            (Some((0, 2)), Some((0, 1)), true, false),
            (Some((7, i64::MAX)), Some((0, 1)), true, false),
            (Some((-1, 0)), Some((0, 1)), true, false),
            (Some((0, 0)), Some((-1, 1)), true, false),
            (Some((0, 0)), Some((0, 99)), false, false),
            (None, Some((0, 99)), true, false),
            (Some((0, 0)), None, true, false),
        ] {
            let found = consumed.explains(&file(partitions, offsets, has_lineage));
            assert_eq!(found, explained, "{partitions:?} {offsets:?} {has_lineage}");
        }
        assert!(consumed.explains(&DataFile { rows: Some(0), ..file(None, None, false) }));
    }

    #[test]
    fn a_row_is_of_a_record_that_was_consumed_or_it_is_told_why_not() {
        let consumed = Consumed { partitions: 2, ends: [(0, 100), (5, 10)].into() };
        for (partition, offset, why) in [
            (Some(0), Some(99), None),
            (Some(0), Some(100), Some(Why::PastCursor)),
            (Some(1), Some(0), Some(Why::PastCursor)),
            (Some(2), Some(0), Some(Why::NoSuchPartition)),
            // The log had it when the table consumed it.
            (Some(5), Some(9), None),
            (Some(-1), Some(9), Some(Why::NoPlace)),
            (Some(0), Some(-9), Some(Why::NoPlace)),
            (None, Some(9), Some(Why::NoPlace)),
            (Some(0), None, Some(Why::NoPlace)),
        ] {
            assert_eq!(consumed.why(partition, offset), why, "{partition:?} {offset:?}");
        }
    }
}
