//! The trait of a store, a materialized view of (log × timeline).
//!
//! A store keeps in itself a cursor per partition and `applied`, the highest revision it has taken in. Rows, cursor and
//! `applied` change in one transaction of that store, and every commit compares both: this makes delivery exactly once
//! and fences out a second writer, whatever else goes wrong.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::position::Cursor;
use crate::slice::Slice;

/// What a store durably knows about its place in the log and in the timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    /// Highest revision taken in; 0 in a store that has taken in none.
    pub applied: u64,
    /// Cursor of each partition that was ever consumed.
    pub cursors: BTreeMap<u32, Cursor>,
}

/// The part of a revision that lies before the cursors at the commit that took it in: rows already written, to be made
/// again. It covers, per partition, the ranges below the given offset of the revision and of the later ones of its group,
/// which are taken in with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The revision to re-materialize: the first of those that were taken in together.
    pub revision: u64,
    /// Per partition, the cursor at the commit that took the revision in.
    pub below: BTreeMap<u32, u64>,
}

/// Why a store did not do what was asked. What to do follows from the variant alone.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The cursor or `applied` is not what this writer last saw. Nothing was written. Load the state again and go on
    /// from there.
    #[error("{store}: another writer moved on: {detail}")]
    Fenced {
        /// Name of the store.
        store: &'static str,
        /// What was expected and what was found.
        detail: String,
    },
    /// The store can't be reached or has no room now, or the outcome of a commit is unknown. Load the state again, after
    /// a pause: it tells whether the commit happened.
    #[error("{store}: not available: {detail}")]
    Unavailable {
        /// Name of the store.
        store: &'static str,
        /// What failed.
        detail: String,
    },
    /// An operator has to look: corrupt data, a table that somebody changed, a format from the future. The loop stops.
    #[error("{store}: {detail}")]
    Broken {
        /// Name of the store.
        store: &'static str,
        /// What is wrong and what to do.
        detail: String,
    },
}

/// A store, driven by one loop.
///
/// The loop calls `load`, then `stage` for slice after slice, each starting where the state or the slice staged before
/// it ended, and `commit` when enough is staged or it is old enough. After any error the store forgets what was staged
/// and the loop starts again with `load`.
#[async_trait]
pub trait Store: Send {
    /// Short constant name, as in `/v1/status` and in metrics.
    fn name(&self) -> &'static str;

    /// Reads the durable state and forgets whatever was staged.
    async fn load(&mut self) -> Result<StoreState, StoreError>;

    /// Takes a slice into the next commit. May write, but nothing that a reader sees.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the slice does not start where its partition stands or was made under another
    /// `applied`.
    async fn stage(&mut self, slice: Slice) -> Result<(), StoreError>;

    /// Approximate bytes staged and not committed.
    fn staged_bytes(&self) -> usize;

    /// Commits all that is staged, with its cursors, comparing the state before. On `Ok` everything is durable and the
    /// new state is returned. A store with small transactions may commit in several, each exact in itself, each moving
    /// the cursors; after an error in the middle `load` tells how far it came.
    async fn commit(&mut self) -> Result<StoreState, StoreError>;

    /// Takes in the revisions behind `applied` up to `revision` in one commit: `applied = revision` and, where `job`
    /// covers anything, a durable note of the work that they leave. Nothing may be staged.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when `revision` is taken in already, or the job does not end at the cursors.
    async fn take_in(&mut self, revision: u64, job: Option<Job>) -> Result<StoreState, StoreError>;
}
