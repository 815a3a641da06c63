//! Compaction: small files of one date and log partition become few, with the same rows.
//!
//! A commit a few seconds apart leaves thousands of small files a day. Neighbours by offset are merged into files of
//! [`crate::Options::compact_bytes`], so files stay in offset order and hardly overlap. A compaction relies on no marker:
//! it changes no row. It relies on every file that it removes being in force when its commit happens, so rows are never
//! doubled beside a correction, which relies on the same; the one that comes second looks at the table again.
//!
//! Bounds: one commit takes files of at most [`COMMIT_BYTES_MAX`] and at most [`COMMIT_FILES_MAX`] of them; one call
//! commits at most [`COMMITS_MAX`] times. The list of small files is in memory for as long as one commit is prepared,
//! about 300 bytes a file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use chrono::NaiveDate;
use deltalake::kernel::Snapshot;
use millrace_rows::StoreError;
use uuid::Uuid;

use crate::affected::removes_of;
use crate::entry::{Cause, Commit};
use crate::error::broken;
use crate::maintain::Maintainer;
use crate::merge::{self, Source};
use crate::names::is_data_file;
use crate::put::{Known, put};
use crate::reader::{DataFile, TableReader};
use crate::rewriter::file_schema;
use crate::staging::Staging;
use crate::table::Seen;

/// Most bytes of files that one commit replaces, unless a single target is larger.
const COMMIT_BYTES_MAX: u64 = 1 << 30;
/// Most files that one commit replaces.
const COMMIT_FILES_MAX: usize = 4096;
/// Most commits of one call; the rest is for the next.
const COMMITS_MAX: u64 = 256;
/// Most times in a row that a call looks at the table again because files were removed under it.
const CONFLICTS_MAX: u64 = 3;

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Commits made.
    pub commits: u64,
    /// Files that went out of force.
    pub files_removed: u64,
    /// Files that their rows are in now.
    pub files_added: u64,
    /// Bytes of the files that went out of force.
    pub bytes_removed: u64,
    /// Times that another writer removed a file first, and the work was in vain.
    pub conflicts: u64,
}

/// A date and log partition.
type Key = (NaiveDate, u32);

/// Files of one key that become one.
struct Bin {
    date: NaiveDate,
    files: Vec<DataFile>,
}

/// What one commit does.
struct Plan {
    bins: Vec<Bin>,
    /// Keys of which nothing is left to do.
    done: BTreeSet<Key>,
}

impl Maintainer {
    /// Compacts what is worth it. Runs beside commits, corrections and other compactions; waits while another of this
    /// process is under way.
    ///
    /// # Errors
    /// When the table can't be read or written. What was committed before stays.
    pub async fn compact(&self) -> Result<Compacted, StoreError> {
        let _compacting = self.0.compacting.lock().await;
        let mut compacted = Compacted::default();
        let done = self.compact_into(&mut compacted).await;
        self.0.counts.compactions.fetch_add(compacted.commits, Ordering::Relaxed);
        self.0.counts.files_compacted.fetch_add(compacted.files_removed, Ordering::Relaxed);
        self.counted(done.map(|()| compacted))
    }

    async fn compact_into(&self, compacted: &mut Compacted) -> Result<(), StoreError> {
        let mut staging = Staging::of(&self.0.table, &self.0.options);
        let (mut done, mut in_a_row) = (BTreeSet::new(), 0);
        while compacted.commits < COMMITS_MAX && in_a_row < CONFLICTS_MAX {
            let mut outcome_unknown = false;
            let committed = self.commit_one(&mut staging, &mut done, &mut outcome_unknown).await;
            match committed {
                Ok(None) => break,
                Ok(Some((removed, added, bytes))) => {
                    compacted.commits += 1;
                    compacted.files_removed += removed;
                    compacted.files_added += added;
                    compacted.bytes_removed += bytes;
                    in_a_row = 0;
                }
                Err(error) => {
                    staging.forget(outcome_unknown).await;
                    if !matches!(error, StoreError::Fenced { .. }) {
                        return Err(error);
                    }
                    tracing::debug!(%error, "a compaction was in vain");
                    compacted.conflicts += 1;
                    in_a_row += 1;
                }
            }
        }
        Ok(())
    }

    /// Plans, writes and commits one set of bins. `None`: there is nothing left to do.
    async fn commit_one(
        &self,
        staging: &mut Staging,
        done: &mut BTreeSet<Key>,
        outcome_unknown: &mut bool,
    ) -> Result<Option<(u64, u64, u64)>, StoreError> {
        let table = &self.0.table;
        let _turn = table.replacing.lock().await;
        // A snapshot for each commit: entries that a commit before this one has passed over were judged by its files.
        let seen = Seen::now();
        let snapshot = table.snapshot().await?;
        let mut known = Known::of(table.view_of(&snapshot, seen).await?)?;
        let plan = self.plan(&snapshot, done).await?;
        if plan.bins.is_empty() {
            return Ok(None);
        }
        let removed: Vec<DataFile> = plan.bins.iter().flat_map(|bin| bin.files.iter().cloned()).collect();
        let mut commit = Commit {
            id: Uuid::now_v7().to_string(),
            cause: Cause::Compact,
            applied: known.state.applied,
            partitions: BTreeMap::new(),
            files: Vec::new(),
            removes: removes_of(table, &snapshot, &removed).await?,
            markers: Vec::new(),
        };
        let rows = |files: &[DataFile]| files.iter().map(|file| file.rows.unwrap_or(0)).sum::<u64>();
        let expected = rows(&removed);
        let schema = file_schema(&snapshot, &known.columns);
        for bin in plan.bins {
            let sources = bin.files.into_iter().map(Source::whole).collect();
            commit.files.extend(merge::write(table, staging, &schema, bin.date, sources).await?);
        }
        let written = commit.files.iter().map(|file| file.rows).sum::<u64>();
        if written != expected {
            return Err(broken(format!("compaction read {written} rows of files that should have {expected}")));
        }
        staging.check_age()?;
        put(table, &mut known, &commit, outcome_unknown).await?;
        staging.committed();
        done.extend(plan.done);
        let bytes = removed.iter().map(|file| file.bytes).sum();
        Ok(Some((removed.len() as u64, commit.files.len() as u64, bytes)))
    }

    async fn plan(&self, snapshot: &Snapshot, done: &BTreeSet<Key>) -> Result<Plan, StoreError> {
        let options = &self.0.options;
        let mut files: BTreeMap<Key, Vec<DataFile>> = BTreeMap::new();
        let reader = TableReader::of(self.0.table.clone());
        reader
            .each_file(snapshot, |file| {
                // Files of other writers stay as they are: what they rely on is not known here.
                if let (Some(date), Some(partition)) = (file.date, file.partition())
                    && file.rows.is_some()
                    && file.offsets.is_some()
                    && is_data_file(&file.path)
                    && !done.contains(&(date, partition))
                {
                    files.entry((date, partition)).or_default().push(file);
                }
            })
            .await?;
        let mut plan = Plan { bins: Vec::new(), done: BTreeSet::new() };
        let (mut count, mut bytes) = (0, 0);
        // A file must not be closed before all of its bin is in: it would be small again.
        let target = options.compact_bytes.min(options.file_bytes_max / 2);
        for (key, files) in files {
            for bin in bins(files, target, options.compact_files_min) {
                let size: u64 = bin.iter().map(|file| file.bytes).sum();
                let full = count + bin.len() > COMMIT_FILES_MAX || bytes + size > COMMIT_BYTES_MAX;
                if full && !plan.bins.is_empty() {
                    return Ok(plan);
                }
                count += bin.len();
                bytes += size;
                plan.bins.push(Bin { date: key.0, files: bin });
            }
            plan.done.insert(key);
        }
        Ok(plan)
    }
}

/// Parts the files of one date and log partition into sets that become one file each: neighbours by offset, together no
/// larger than `target`. A file that is large enough stays, and nothing is merged across it.
fn bins(mut files: Vec<DataFile>, target: u64, files_min: usize) -> Vec<Vec<DataFile>> {
    let is_small = |file: &DataFile| file.bytes < target / 2;
    if files.iter().filter(|file| is_small(file)).count() < files_min.max(2) {
        return Vec::new();
    }
    files.sort_by(|a, b| (a.offsets, &a.path).cmp(&(b.offsets, &b.path)));
    let (mut bins, mut size): (Vec<Vec<DataFile>>, u64) = (vec![Vec::new()], 0);
    for file in files {
        let small = is_small(&file);
        let full = size + file.bytes > target || bins.last().is_some_and(|bin| bin.len() >= COMMIT_FILES_MAX);
        if !small || full {
            bins.push(Vec::new());
            size = 0;
        }
        if small && let Some(bin) = bins.last_mut() {
            size += file.bytes;
            bin.push(file);
        }
    }
    // More sources at once than a merge takes become as many files as before, or nearly.
    bins.retain(|bin| {
        bin.len() > 1 && merge::in_runs(bin.iter().cloned().map(Source::whole).collect()).len() < bin.len()
    });
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(first: i64, bytes: u64) -> DataFile {
        DataFile {
            path: format!("f{first}"),
            date: None,
            bytes,
            rows: Some(1),
            partitions: Some((0, 0)),
            offsets: Some((first, first + 9)),
            has_lineage: true,
        }
    }

    fn firsts(files: &[(i64, u64)]) -> Vec<Vec<i64>> {
        let files = files.iter().map(|(first, bytes)| file(*first, *bytes)).collect();
        let firsts = |bin: Vec<DataFile>| bin.iter().filter_map(|file| Some(file.offsets?.0)).collect();
        bins(files, 100, 4).into_iter().map(firsts).collect()
    }

    #[test]
    fn neighbours_are_packed_up_to_the_target_and_not_across_a_large_file() {
        assert!(firsts(&[(0, 1), (10, 1), (20, 1)]).is_empty(), "too few");
        assert_eq!(firsts(&[(30, 1), (0, 1), (20, 1), (10, 1)]), [[0, 10, 20, 30]]);
        assert_eq!(firsts(&[(0, 40), (10, 40), (20, 40), (30, 40), (40, 40)]), [[0, 10], [20, 30]]);
        assert_eq!(firsts(&[(0, 1), (10, 1), (20, 50), (30, 1), (40, 1), (50, 99), (60, 1)]), [[0, 10], [30, 40]]);
        assert!(firsts(&[(0, 1), (10, 50), (20, 1), (30, 50), (40, 1), (50, 50), (60, 1)]).is_empty());
    }
}
