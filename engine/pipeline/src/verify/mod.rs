//! Recomputes from log and timeline what the stores must hold, and compares.
//!
//! The log is read window by window: at most [`WINDOW`] offsets of one partition, and no more than make about
//! [`WINDOW_ROWS_MAX`] rows. Of each row the expected hash is kept (32 bytes a row), then each store's rows of the window are
//! read and compared by (offset, sub) and hash: memory is that of one window, whatever the store's size. Rows that are in no
//! window are looked for by themselves (`strays.rs`): what lies past the cursors costs little to find in the table and
//! among dead letters; beyond that, `full` reads all of the history and looks for rows that no record accounts for.
//!
//! Stores go on meanwhile. A window is compared under the revisions that the store had applied, and compared again if
//! that changed while it was read; what a job has still to make again is *pending* and not compared. Rows below the log's
//! start can't be recomputed: they are *unverifiable*, and only counted.
//!
//! What is found clean is noted with the revision that the store had applied, and the next verification begins behind it,
//! or where a later correction begins. So it costs what came in and what was corrected since; `all` looks at everything
//! again, as it must to find what a broken disk or a stranger has done to old rows. What a rebuild made forgotten meanwhile is
//! not noted.

mod compare;
mod span;
mod strays;
mod subject;
mod window;
mod windows;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_delta::TableReader;
use millrace_history::{HistoryReader, ReadError};
use millrace_log::LogError;
use millrace_rows::{Job, StoreError, StoreState};
use millrace_timeline::gaps::GapEntry;
use millrace_timeline::{Catalogue, CatalogueError, Timeline};
use serde::Serialize;

use crate::follow::FOLLOW_EVERY;
use crate::processor::{Processor, SliceError};
use crate::verify::span::{Span, accepted, window_end};
use crate::verify::windows::Accounts;

/// Offsets of a window at the most.
pub const WINDOW: u64 = 65_536;
/// Rows after which a window ends with the batch of the log that it is at, by default: 32 MiB for those expected, and as
/// much again for those found.
pub const WINDOW_ROWS_MAX: usize = 1 << 20;
/// Most differences that are told in full.
pub const DIFFERENCES_MAX: usize = 20;
/// Times that a window is compared again because a store changed under it.
const TRIES_MAX: usize = 5;
/// How long a verification waits until it is told of a revision that another worker has brought into force.
const PATIENCE: Duration = Duration::from_secs(5 * FOLLOW_EVERY.as_secs());

/// The store names that can be asked for.
pub const STORES: [&str; 2] = ["delta", "history"];

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Only this store, of [`STORES`].
    pub store: Option<String>,
    /// First offset, the same in each partition.
    pub from: Option<u64>,
    /// Past the last offset, the same in each partition.
    pub to: Option<u64>,
    /// From the log's start, whatever an earlier verification has vouched for.
    pub all: bool,
    /// Looks at everything, and for rows of the history that no record accounts for.
    pub full: bool,
}

/// Why verification ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No such store, or a range that holds nothing.
    #[error("{0}")]
    Bad(String),
    /// What is compared changed or is not known here yet: another try may find it at rest.
    #[error("{0}")]
    Unsettled(String),
    /// More rows than a window may have, so that they can't be compared in bounded memory.
    #[error(
        "{store}: of partition {partition}, offsets {from} to {to}, the store has more than {limit} rows, and the log says \
         {expected}: rebuild it"
    )]
    TooManyRows {
        /// The store.
        store: &'static str,
        /// The partition.
        partition: u32,
        /// First offset.
        from: u64,
        /// Last offset.
        to: u64,
        /// Rows after which reading was given up.
        limit: usize,
        /// Rows that must be there.
        expected: usize,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The records can't be run through their chains.
    #[error(transparent)]
    Replay(#[from] SliceError),
    /// A store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The history can't be read.
    #[error("history: {0}")]
    History(#[from] ReadError),
    /// What was verified can't be read or noted.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Rows that can't be encoded: a defect.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The store.
    pub store: &'static str,
    /// The partition.
    pub partition: u32,
    /// The record; 0 where a row or a file does not tell.
    pub offset: u64,
    /// Number of the row.
    pub sub: u32,
    /// What is wrong. It tells nothing of a row's values.
    pub what: Cow<'static, str>,
}

/// What was found in one store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// Rows that were compared.
    pub rows_checked: u64,
    /// Dead letters that were compared.
    pub dead_letters_checked: u64,
    /// Offsets that were compared.
    pub compared: u64,
    /// Offsets that jobs have still to make again, or that changed too often to be compared.
    pub pending: u64,
    /// Offsets below the log's start, of those asked for.
    pub unverifiable: u64,
    /// Of those, offsets in gaps that somebody accepted: the store never had their rows.
    pub missing: u64,
    /// Offsets that an earlier verification found as they must be, and that nothing has made again since.
    pub verified_before: u64,
    /// Rows and dead letters that are not as they must be, and data files that can't be read: a file counts once,
    /// whatever it holds.
    pub differences: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Windows of the log that were made again.
    pub windows: u64,
    /// Records that were made again.
    pub records: u64,
    /// Rows that were compared, over all stores.
    pub rows_checked: u64,
    /// Differences, over all stores.
    pub differences: u64,
    /// By store.
    pub stores: BTreeMap<&'static str, StoreReport>,
    /// The first differences.
    pub first: Vec<Difference>,
}

impl Report {
    /// Counts differences of which one is told, as long as there is room.
    fn tell(&mut self, count: u64, difference: Difference) {
        self.stores.entry(difference.store).or_default().differences += count;
        if self.first.len() < DIFFERENCES_MAX {
            self.first.push(difference);
        }
    }
}

/// What a verification has found until now.
#[derive(Default)]
struct Findings {
    report: Report,
    /// Where the history's rows are: what `full` compares with all that is there.
    accounted: Accounts,
    /// Data files of the table that were told of. No more than the table has.
    unreadable: BTreeSet<String>,
}

/// A store's place, and what is left of its jobs.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    state: StoreState,
    jobs: Vec<Job>,
}

/// Compares stores with log and timeline. Made by [`Engine::verifier`](crate::engine::Engine::verifier).
pub struct Verifier {
    processor: Arc<Processor>,
    history: HistoryReader,
    table: TableReader,
    catalogue: Catalogue,
    gaps: Vec<GapEntry>,
    window_rows: usize,
    patience: Duration,
}

impl Verifier {
    pub(crate) fn new(
        processor: Arc<Processor>,
        history: HistoryReader,
        table: TableReader,
        catalogue: Catalogue,
        gaps: Vec<GapEntry>,
    ) -> Self {
        Self { processor, history, table, catalogue, gaps, window_rows: WINDOW_ROWS_MAX, patience: PATIENCE }
    }

    /// Ends windows after about `rows` rows instead of [`WINDOW_ROWS_MAX`].
    #[must_use]
    pub fn with_window_rows(mut self, rows: usize) -> Self {
        self.window_rows = rows.max(1);
        self
    }

    /// Waits so long for revisions that other workers brought into force, instead of five seconds.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Verifies. `progress` is told after each window.
    ///
    /// # Errors
    /// [`VerifyError`] when it can't come to its end; differences are no error.
    pub async fn run(
        &self,
        options: &VerifyOptions,
        mut progress: impl FnMut(&Report) + Send,
    ) -> Result<Report, VerifyError> {
        let stores: Vec<&'static str> = match &options.store {
            None => STORES.to_vec(),
            Some(name) => STORES.into_iter().filter(|store| store == name).collect(),
        };
        if stores.is_empty() {
            return Err(VerifyError::Bad(format!("there is no such store: it is one of {}", STORES.join(", "))));
        }
        let whole = options.from.is_none() && options.to.is_none();
        if !whole {
            self.check_range(&stores, options).await?;
        }
        let mut findings = Findings::default();
        let mut subjects = self.subjects(&stores, options).await?;
        let applied = subjects.iter().find(|subject| subject.name == "history").map(|subject| subject.applied);
        for partition in 0..self.processor.log().partitions() {
            let span = self.span(&stores, partition, options).await?;
            for subject in &mut subjects {
                let begin = subject.begin(partition, &span);
                let entry = findings.report.stores.entry(subject.name).or_default();
                entry.verified_before += begin - span.begin();
                entry.unverifiable += span.unverifiable();
                entry.missing += accepted(&self.gaps, subject.name, partition, &span);
            }
            while let Some(at) = subjects.iter().filter_map(|it| it.next(partition)).min().filter(|at| *at < span.end())
            {
                let others = subjects.iter().filter_map(|subject| subject.next(partition));
                let end = window_end(at, span.end(), others);
                self.window(&mut subjects, partition, at..end, &mut findings).await?;
                findings.report.windows += 1;
                progress(&findings.report);
            }
        }
        if whole {
            self.strays(&stores, &mut findings).await?;
        }
        if let Some(applied) = applied.filter(|_| options.full) {
            self.unaccounted(options, applied, &mut findings).await?;
        }
        let mut report = findings.report;
        report.rows_checked = report.stores.values().map(|store| store.rows_checked).sum();
        report.differences = report.stores.values().map(|store| store.differences).sum();
        if whole {
            self.note(subjects, &report).await?;
        }
        Ok(report)
    }

    /// Refuses a range in which nothing can be compared.
    async fn check_range(&self, stores: &[&'static str], options: &VerifyOptions) -> Result<(), VerifyError> {
        let mut there = Vec::new();
        for partition in 0..self.processor.log().partitions() {
            let span = self.span(stores, partition, options).await?;
            if !span.is_empty() {
                return Ok(());
            }
            there.push(format!("{partition}: {}", span.there()));
        }
        let asked = Span::asked(options.from, options.to);
        Err(VerifyError::Bad(format!(
            "nothing to compare in {asked}. Partitions have, by number: {}",
            there.join("; ")
        )))
    }

    /// What can be verified of a partition.
    async fn span(
        &self,
        stores: &[&'static str],
        partition: u32,
        options: &VerifyOptions,
    ) -> Result<Span, VerifyError> {
        let start = self.processor.log().bounds(partition).await?.start;
        let mut cursor = u64::MAX;
        for store in stores {
            let state = self.place(store).await?.state;
            cursor = cursor.min(state.cursors.get(&partition).map_or(0, |cursor| cursor.next));
        }
        Ok(Span { start, cursor, from: options.from.unwrap_or(0), to: options.to.unwrap_or(u64::MAX) })
    }

    async fn place(&self, store: &str) -> Result<Place, VerifyError> {
        if store == "delta" {
            let (state, jobs) = self.table.position().await?;
            return Ok(Place { state, jobs });
        }
        let view = self.history.view().await?;
        Ok(Place { state: view.state().await?, jobs: view.jobs().await? })
    }

    /// The timeline once it has all that a store has applied: another worker may have been told first. `None`: it does not
    /// come.
    async fn timeline_with(&self, applied: u64) -> Option<Arc<Timeline>> {
        let mut timeline = self.processor.timeline();
        let known = tokio::time::timeout(self.patience, timeline.wait_for(|timeline| timeline.head() >= applied)).await;
        // No sender: the engine is gone.
        known.ok()?.ok().map(|timeline| timeline.clone())
    }
}
