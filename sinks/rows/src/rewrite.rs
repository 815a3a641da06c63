//! Making rows again that a store already has: what a revision leaves behind a store's cursors.
//!
//! Taking a revision in leaves a durable [`Job`] in the store. A rewriter works it off beside the store's live loop: it
//! never touches what lies at or behind a cursor, and the live loop never touches what lies before one, so they meet in
//! `applied` alone, which every commit of either compares.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use crate::schema::OFFSET;
use crate::slice::DeadLetter;
use crate::store::{Job, StoreError, StoreState};

/// Records of one log partition, made again.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// The log partition.
    pub partition: u32,
    /// The offsets that were looked at.
    pub offsets: Range<u64>,
    /// The highest revision that was taken into account: the store must have exactly this one applied.
    pub applied: u64,
    /// The records that were made again, in ascending order: whatever rows and dead letters the store has of them give
    /// way to those here. Rows of other records stay as they are.
    pub remade: Vec<u64>,
    /// Their rows, in the order (`_offset`, `_sub`), with the schema of [`crate::schema::row_schema`].
    pub rows: RecordBatch,
    /// Those of them that failed, in offset order.
    pub dead: Vec<DeadLetter>,
    /// How many of them the chain dropped on purpose.
    pub dropped: u64,
}

impl Rewrite {
    /// What became of the records at `offsets`, which lie within those that were looked at.
    #[must_use]
    pub fn within(mut self, offsets: Range<u64>) -> Self {
        if self.offsets == offsets {
            return self;
        }
        self.remade.retain(|offset| offsets.contains(offset));
        self.dead.retain(|dead| offsets.contains(&dead.offset));
        let places = self.rows.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
        // Rows without the column are none of `row_schema`; a store refuses them.
        let places = places.map_or(&[][..], |places| places.values());
        let behind = |end: u64| places.partition_point(|place| u64::try_from(*place).is_ok_and(|place| place < end));
        let (from, to) = (behind(offsets.start), behind(offsets.end));
        let mut records = places[from..to].to_vec();
        records.dedup();
        // A record has rows, or failed, or was dropped.
        self.dropped = self.remade.len().saturating_sub(self.dead.len() + records.len()) as u64;
        self.rows = self.rows.slice(from, to - from);
        self.offsets = offsets;
        self
    }

    /// Memory that it holds, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let dead: usize =
            self.dead.iter().map(|dead| size_of::<DeadLetter>() + dead.step.len() + dead.code.len()).sum();
        size_of::<Self>() + self.rows.get_array_memory_size() + size_of_val(&*self.remade) + dead
    }
}

/// What a store has, and what is left to make again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Its place in the log and in the timeline.
    pub state: StoreState,
    /// Jobs that are not done, lowest revision first. `below` of each covers what is left of it: a job is worked off from
    /// its end.
    pub jobs: Vec<Job>,
}

/// Why rows are replaced, for whoever reads a store's own log of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// Who asked for it.
    pub author: String,
    /// Why, in their words.
    pub reason: String,
}

/// Records of one log partition that were made again for a rebuild, and that no reader sees yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The log partition.
    pub partition: u32,
    /// The offsets that were looked at.
    pub offsets: Range<u64>,
    /// The rows are those of this revision's timeline.
    pub applied: u64,
}

impl HeldBack {
    /// What a rebuild's job covers beside what is held back: a job is worked off from its end.
    #[must_use]
    pub fn left_of(job: &Job, held_back: &[Self]) -> Job {
        let mut left = job.clone();
        for (partition, below) in &mut left.below {
            let here = |held: &&Self| held.partition == *partition && !held.offsets.is_empty();
            while let Some(held) = held_back.iter().filter(here).find(|held| held.offsets.end == *below) {
                *below = held.offsets.start;
            }
        }
        left
    }
}

/// The writer of a store's jobs, driven by one loop.
///
/// The loop calls `load`, then for a job from its end: `stage` and `flush` for ranges one after the other, ascending within
/// what one commit takes, and `commit`. After any error what was staged is forgotten, and the loop starts again with `load`.
/// A rebuild, the job that covers every record, is committed by `commit_rebuild`: a store may hold back what was made for it,
/// over errors and over the commits of other jobs, until all of it can be seen at once.
#[async_trait]
pub trait Rewriter: Send {
    /// Name of the store, as [`crate::Store::name`].
    fn name(&self) -> &'static str;

    /// Most records that the loop should stage for one commit, over all partitions.
    fn records_max(&self) -> u64;

    /// Reads the durable state and forgets whatever was staged.
    async fn load(&mut self) -> Result<Backlog, StoreError>;

    /// Notes a job that no revision has left: rows are to be made again though no chain has changed. A job of the same
    /// revision that is not done yet gives way to it. Nothing may be staged.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the job reaches past a cursor, or another writer was faster.
    async fn note(&mut self, job: &Job) -> Result<Backlog, StoreError>;

    /// Takes a range into the next commit. May write, but nothing that a reader sees.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the range was made under another `applied`, or reaches past the store's cursor.
    async fn stage(&mut self, rewrite: Rewrite) -> Result<(), StoreError>;

    /// May replace what is staged so far, and leaves the job of `revision` as it is: only the commit moves it. Called after
    /// each `stage`; a store with small transactions does not have to hold a whole commit in memory.
    ///
    /// # Errors
    /// As for `commit`.
    async fn flush(&mut self, revision: u64) -> Result<(), StoreError> {
        let _ = revision;
        Ok(())
    }

    /// Replaces all that is staged, and notes that the job of `revision` covers only the offsets below `left`; nothing
    /// left: it is done. Compares `applied` and the job with what was loaded. A record's rows change in one transaction; a
    /// store with small transactions may commit in several, of which the last moves the job: after a crash in between the
    /// job makes the same rows again, which changes nothing.
    async fn commit(
        &mut self,
        revision: u64,
        left: &BTreeMap<u32, u64>,
        reason: &Reason,
    ) -> Result<Backlog, StoreError>;

    /// As `commit`, for a rebuild. `made` is what is staged, by partition; it may be held back as long as something is `left`.
    /// Then the job in the backlog is as it was, and [`held_back`](Self::held_back) tells of it. With nothing left everything
    /// is committed that is staged or held back.
    async fn commit_rebuild(
        &mut self,
        revision: u64,
        made: &BTreeMap<u32, Range<u64>>,
        left: &BTreeMap<u32, u64>,
        reason: &Reason,
    ) -> Result<Backlog, StoreError> {
        let _ = made;
        self.commit(revision, left, reason).await
    }

    /// What is held back for the commit of a rebuild.
    fn held_back(&self) -> Vec<HeldBack> {
        Vec::new()
    }

    /// Keeps of what is held back what `stands` under `applied`, the highest revision that the store has taken in: no revision
    /// after that under which it was made covers any of it. Forgets the rest.
    async fn keep_held_back(&mut self, applied: u64, stands: &(dyn for<'a> Fn(&'a HeldBack) -> bool + Send + Sync)) {
        let _ = (applied, stands);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    /// Offsets 10 to 19: 10 and 16 dropped, 12 with two rows, 13 and 19 failed, the others with one.
    fn rewrite() -> Rewrite {
        let schema = Arc::new(Schema::new(vec![Field::new(OFFSET, DataType::Int64, false)]));
        let offsets: ArrayRef = Arc::new(Int64Array::from(vec![11, 12, 12, 14, 15, 17, 18]));
        let dead = |offset| DeadLetter { offset, revision: 1, step: "decode".into(), code: "bad".into() };
        Rewrite {
            partition: 3,
            offsets: 10..20,
            applied: 2,
            remade: (10..20).collect(),
            rows: RecordBatch::try_new(schema, vec![offsets]).unwrap(),
            dead: vec![dead(13), dead(19)],
            dropped: 2,
        }
    }

    #[test]
    fn a_rebuild_goes_on_before_what_is_held_back() {
        let held = |partition, offsets| HeldBack { partition, offsets, applied: 1 };
        let job = Job { revision: 1, below: [(0, 95), (1, 40), (2, 7)].into() };
        let held = [held(0, 90..95), held(1, 30..40), held(1, 0..30), held(0, 80..90), held(0, 60..70), held(2, 7..7)];
        // A part of partition 0 in between was forgotten.
        assert_eq!(HeldBack::left_of(&job, &held).below, [(0, 80), (1, 0), (2, 7)].into());
        assert_eq!(HeldBack::left_of(&job, &[]), job);
    }

    #[test]
    fn parts_of_a_rewrite_are_the_whole() {
        let whole = rewrite();
        for cut in 10..=20 {
            let (low, high) = (rewrite().within(10..cut), rewrite().within(cut..20));
            assert_eq!((low.offsets.clone(), high.offsets.clone()), (10..cut, cut..20));
            assert_eq!([low.remade, high.remade].concat(), whole.remade);
            assert_eq!([low.dead, high.dead].concat(), whole.dead);
            assert_eq!(low.rows.num_rows() + high.rows.num_rows(), whole.rows.num_rows());
            assert_eq!(low.dropped + high.dropped, whole.dropped, "cut at {cut}");
        }
        let middle = rewrite().within(12..17);
        let rows: &Int64Array = middle.rows.column(0).as_primitive();
        assert_eq!((rows.values().to_vec(), middle.dropped, middle.dead.len()), (vec![12, 12, 14, 15], 1, 1));
    }
}
