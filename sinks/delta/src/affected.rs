//! Which files a commit takes out of force because they hold rows of records that were made again, and what is left of each.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chrono::NaiveDate;
use deltalake::kernel::Snapshot;
use millrace_rows::StoreError;
use millrace_rows::schema::EVENT_DATE;
use parquet::arrow::ArrowSchemaConverter;
use tokio::runtime::Handle;

use crate::entry::Removed;
use crate::error::{broken, unavailable};
use crate::groups::Group;
use crate::merge::{self, Source};
use crate::names::{file_name, is_data_file};
use crate::offsets::Remade;
use crate::reader::{DataFile, TableReader};
use crate::table::Table;

/// Files that go out of force, and what is left of them.
#[derive(Default)]
pub(crate) struct Affected {
    pub(crate) files: Vec<DataFile>,
    /// Those with rows that stay and how many rows these are, by date and log partition; `None` is for files of several
    /// partitions.
    pub(crate) kept: BTreeMap<(NaiveDate, Option<u32>), Kept>,
}

/// What is left of files of one date and log partition.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) rows: u64,
    /// Files of which row groups can be copied, and these.
    pub(crate) spliceable: Vec<(Source, Vec<Group>)>,
    /// Other files.
    pub(crate) merged: Vec<Source>,
}

impl Kept {
    /// Whether each file reaches out of `range` on one side at the most: then what is left of it lies beside the range.
    pub(crate) fn is_beside(&self, range: &Range<u64>) -> bool {
        let within = |offset: i64| u64::try_from(offset).is_ok_and(|offset| range.contains(&offset));
        let beside = |source: &Source| source.file.offsets.is_some_and(|(low, high)| within(low) || within(high));
        self.spliceable.iter().map(|(source, _)| source).chain(&self.merged).all(beside)
    }
}

/// Looks through a snapshot for the files that hold rows of `remade`, and counts in each what stays.
pub(crate) async fn affected(
    table: &Arc<Table>,
    snapshot: &Snapshot,
    remade: &Arc<Remade>,
    schema: &SchemaRef,
) -> Result<Affected, StoreError> {
    let written = ArrowSchemaConverter::new().convert(schema);
    let written = written.map_err(|error| broken(format!("the table's columns: {error}")))?;
    let mut files = Vec::new();
    let reader = TableReader::of(table.clone());
    reader
        .each_file(snapshot, |file| {
            if remade.may_be_in(file.partitions, file.offsets) {
                files.push(file);
            }
        })
        .await?;
    let (table, runtime, remade) = (table.clone(), Handle::current(), remade.clone());
    let count = move || {
        let mut affected = Affected::default();
        for file in files {
            // Of a file that goes as a whole nothing has to be read: it may be damaged, or gone.
            if is_data_file(&file.path) && remade.has_all_between(file.partition(), file.offsets) {
                affected.files.push(file);
                continue;
            }
            let counted = merge::count(&table, &runtime, &file, &remade, &written)?;
            if counted.gone == 0 {
                continue;
            }
            if counted.kept > 0 {
                let source = Source::without(file.clone(), remade.clone());
                let kept = affected.kept.entry((date_of(&file)?, file.partition())).or_default();
                kept.rows += counted.kept;
                match counted.groups {
                    Some(groups) => kept.spliceable.push((source, groups)),
                    None => kept.merged.push(source),
                }
            }
            affected.files.push(file);
        }
        Ok(affected)
    };
    tokio::task::spawn_blocking(count).await.map_err(|error| unavailable(format!("reading files: {error}")))?
}

/// The removes of files, spelled as the log has them.
pub(crate) async fn removes_of(
    table: &Table,
    snapshot: &Snapshot,
    files: &[DataFile],
) -> Result<BTreeMap<String, Removed>, StoreError> {
    if files.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: HashSet<String> = files.iter().map(|file| file_name(&file.path).to_owned()).collect();
    let mut spellings = table.spellings(snapshot, names).await?;
    let removed = |file: &DataFile| {
        let name = file_name(&file.path).to_owned();
        // Every name was asked for; two files of one name would be told apart by nobody.
        let path = spellings.remove(&name).ok_or_else(|| broken(format!("two files are named {name:?}")))?;
        Ok((name, Removed { path, date: date_of(file)?.to_string(), size: file.bytes }))
    };
    files.iter().map(removed).collect()
}

pub(crate) fn date_of(file: &DataFile) -> Result<NaiveDate, StoreError> {
    file.date.ok_or_else(|| broken(format!("the file {:?} has no {EVENT_DATE}", file.path)))
}
