//! What a rebuild has made and readers do not see: it is published by one commit, once nothing is left.
//!
//! Each part is the records that the loop stages for one commit. Its files are complete and in no log entry; until the commit
//! this writer alone knows of them, so after a crash they are orphans, and the rebuild begins again. A part outlives errors,
//! and commits of other jobs of the table; a revision that covers some of its records drops it, and they are made again.
//!
//! Bounds: `Options::rebuild_files_max` files, and half of the age at which files count as orphans. What is there by then is
//! committed, and the rebuild goes on with the rest: such a rebuild is seen in several pieces. Memory: what a log entry says of
//! each file, about 1 KB, and 16 bytes a range of offsets. On disk the parts are a second copy of the table; when a local disk
//! fails, as a full one does, they are given up, because live rows need the room.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use millrace_rows::schema::AddedColumn;
use millrace_rows::{HeldBack, StoreError};

use crate::encode::StagedFile;
use crate::error::fenced;
use crate::options::Options;
use crate::reader::DataFile;
use crate::rewriter::Staged;
use crate::table::Seen;

/// All parts of a rebuild.
pub(crate) struct Parts {
    parts: Vec<Part>,
    /// [`Options::rebuild_files_max`].
    files_max: usize,
    /// [`Options::orphan_age`].
    orphan_age: Duration,
}

/// All parts as one.
pub(crate) struct ToCommit {
    /// What was staged, by partition.
    pub(crate) staged: BTreeMap<u32, Staged>,
    pub(crate) files: Vec<StagedFile>,
    /// Columns that the table does not have.
    pub(crate) added: Vec<AddedColumn>,
}

struct Part {
    held: HeldBack,
    /// `None`: the log has no record there.
    staged: Option<Staged>,
    files: Vec<StagedFile>,
    /// Columns that the table did not have.
    added: Vec<AddedColumn>,
    /// When the first of its files was created.
    since: Seen,
}

impl Parts {
    pub(crate) fn new(options: &Options) -> Self {
        Self { parts: Vec::new(), files_max: options.rebuild_files_max, orphan_age: options.orphan_age }
    }

    /// Takes in what was made: the offsets looked at, what was staged of them, the files that have their rows, and when the
    /// first of these was created. Parts that have some of the offsets give way; returns their files, which go into no commit.
    pub(crate) fn add(
        &mut self,
        applied: u64,
        made: &BTreeMap<u32, Range<u64>>,
        mut staged: BTreeMap<u32, Staged>,
        mut files: Vec<StagedFile>,
        added: &[AddedColumn],
        since: Option<Seen>,
    ) -> Vec<StagedFile> {
        let since = since.unwrap_or_else(Seen::now);
        let again = |part: &mut Part| {
            let HeldBack { partition, offsets, .. } = &part.held;
            made.get(partition).is_some_and(|made| made.start < offsets.end && offsets.start < made.end)
        };
        let gone: Vec<Part> = self.parts.extract_if(.., again).collect();
        for (partition, offsets) in made {
            let here = |file: &mut StagedFile| DataFile::staged(file).partition() == Some(*partition);
            self.parts.push(Part {
                held: HeldBack { partition: *partition, offsets: offsets.clone(), applied },
                staged: staged.remove(partition),
                files: files.extract_if(.., here).collect(),
                added: added.to_vec(),
                since,
            });
        }
        debug_assert!(staged.is_empty() && files.is_empty(), "rows are staged of what was made alone");
        gone.into_iter().flat_map(|part| part.files).collect()
    }

    /// What is held back.
    pub(crate) fn held_back(&self) -> Vec<HeldBack> {
        self.parts.iter().map(|part| part.held.clone()).collect()
    }

    /// Whether the rest can be waited for.
    pub(crate) fn may_wait(&self) -> bool {
        self.files().count() < self.files_max && self.oldest() < self.orphan_age / 2
    }

    fn files(&self) -> impl Iterator<Item = &StagedFile> {
        self.parts.iter().flat_map(|part| &part.files)
    }

    fn oldest(&self) -> Duration {
        let now = Seen::now();
        self.parts.iter().map(|part| part.since.age(&now)).max().unwrap_or_default()
    }

    /// Keeps what `stands` and may still be committed; returns the files of the rest, which go into no commit.
    pub(crate) fn keep(&mut self, applied: u64, stands: impl Fn(&HeldBack) -> bool) -> Vec<StagedFile> {
        let (now, age_max) = (Seen::now(), self.age_max());
        let gone = |part: &mut Part| part.since.age(&now) >= age_max || !stands(&part.held);
        let gone: Vec<Part> = self.parts.extract_if(.., gone).collect();
        for part in &mut self.parts {
            part.held.applied = applied;
        }
        gone.into_iter().flat_map(|part| part.files).collect()
    }

    /// From this age on files may be removed as orphans while the commit is made.
    fn age_max(&self) -> Duration {
        self.orphan_age / 4 * 3
    }

    /// What a commit under `applied` takes.
    ///
    /// # Errors
    /// When some of it may not be committed: it must be looked at again.
    pub(crate) fn to_commit(&self, applied: u64) -> Result<ToCommit, StoreError> {
        if let Some(part) = self.parts.iter().find(|part| part.held.applied != applied) {
            let HeldBack { partition, offsets, applied: under } = &part.held;
            return Err(fenced(format!(
                "partition {partition}: {offsets:?} was rebuilt under revision {under}, {applied} is applied"
            )));
        }
        if self.oldest() >= self.age_max() {
            return Err(fenced("what a rebuild has made was held back for too long"));
        }
        let mut parts: Vec<&Part> = self.parts.iter().collect();
        parts.sort_unstable_by_key(|part| (part.held.partition, part.held.offsets.start));
        let mut staged: BTreeMap<u32, Staged> = BTreeMap::new();
        let mut added: Vec<AddedColumn> = Vec::new();
        for part in parts {
            added.extend(part.added.iter().filter(|column| !added.contains(column)).cloned().collect::<Vec<_>>());
            let Some(later) = &part.staged else { continue };
            match staged.get_mut(&part.held.partition) {
                Some(staged) => staged.then(later.clone()),
                None => {
                    staged.insert(part.held.partition, later.clone());
                }
            }
        }
        Ok(ToCommit { staged, files: self.files().cloned().collect(), added })
    }

    /// Forgets all of it: it is in the table, or nobody knows.
    pub(crate) fn clear(&mut self) {
        self.parts.clear();
    }
}

impl Staged {
    /// With what follows.
    fn then(&mut self, later: Self) {
        self.counts.then(&later.counts);
        self.remade.append(later.remade);
    }
}
