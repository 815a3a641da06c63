//! Recomputes from log and timeline what the stores must hold, and compares.
//!
//! The log is read window by window, [`WINDOW`] offsets of one partition at a time. Of each row of a window the expected
//! hash is kept (48 bytes a row), then each store's rows of the window are read and compared by (offset, sub) and hash:
//! memory is that of one window, whatever the store's size. Beyond that, `full` reads all of the history and looks for
//! rows that no record accounts for: only reading everything finds them.
//!
//! Stores go on meanwhile. A window is compared under the revisions that the store had applied, and compared again if
//! that changed while it was read; what a job has still to make again is *pending* and not compared. Rows below the log's
//! start can't be recomputed: they are *unverifiable*, and only counted.
//!
//! What is found clean is noted with the revision that the store had applied, and the next verification begins behind it,
//! or where a later correction begins. So it costs what came in and what was corrected since; `all` looks at everything
//! again, as it must to find what a broken disk or a stranger has done to old rows.

mod compare;
mod window;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use futures::TryStreamExt as _;
use millrace_delta::{ScanRequest, TableReader};
use millrace_history::{HistoryReader, ReadError};
use millrace_log::LogError;
use millrace_rows::canonical;
use millrace_rows::schema::EVENT_DATE;
use millrace_rows::{Job, StoreError, StoreState};
use millrace_timeline::gaps::GapEntry;
use millrace_timeline::verified::Verified;
use millrace_timeline::{Catalogue, CatalogueError, Timeline};
use serde::Serialize;

use crate::follow::FOLLOW_EVERY;
use crate::processor::{Processor, SliceError};
use crate::verify::compare::{dead_differences, differences};
use crate::verify::window::{Window, dead_hash, misplaced, prints};

/// Offsets of a window.
pub const WINDOW: u64 = 65_536;
/// Most differences that are told in full.
pub const DIFFERENCES_MAX: usize = 20;
/// Times that a window is compared again because a store changed under it.
const TRIES_MAX: usize = 5;

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
    /// The record.
    pub offset: u64,
    /// Number of the row.
    pub sub: u32,
    /// What is wrong: a constant text.
    pub what: &'static str,
}

/// What was found in one store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// Rows that were compared.
    pub rows_checked: u64,
    /// Dead letters that were compared.
    pub dead_letters_checked: u64,
    /// Offsets that jobs have still to make again, or that changed too often to be compared.
    pub pending: u64,
    /// Offsets below the log's start.
    pub unverifiable: u64,
    /// Offsets that an earlier verification found as they must be, and that nothing has made again since.
    pub verified_before: u64,
    /// Of those, offsets in gaps that somebody accepted: the store never had their rows.
    pub missing: u64,
    /// Rows and dead letters that are not as they must be.
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

/// What is verified of one store.
struct Subject {
    name: &'static str,
    /// The revision that it had applied when the verification began.
    applied: u64,
    /// By partition: where to begin.
    from: BTreeMap<u32, u64>,
    /// By partition: the end of what was compared without a gap.
    compared: BTreeMap<u32, u64>,
}

/// By partition and window: the first offset that was compared, and the rows that were found from there on.
type Accounts = BTreeMap<(u32, u64), (u64, u64)>;

/// A store's place, and what is left of its jobs.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    state: StoreState,
    jobs: Vec<Job>,
}

/// Compares stores with log and timeline. Made by [`Engine::verifier`](crate::engine::Engine::verifier).
pub struct Verifier {
    pub(crate) processor: Arc<Processor>,
    pub(crate) history: HistoryReader,
    pub(crate) table: TableReader,
    pub(crate) catalogue: Catalogue,
    pub(crate) gaps: Vec<GapEntry>,
}

impl Verifier {
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
        if let (Some(from), Some(to)) = (options.from, options.to)
            && from >= to
        {
            return Err(VerifyError::Bad(format!("the range {from} to {to} is empty")));
        }
        let mut report = Report::default();
        let mut subjects = self.subjects(&stores, options).await?;
        // Where the history's rows are: what `full` compares with all that is there.
        let mut accounted = Accounts::new();
        let mut upper_ends: BTreeMap<u32, u64> = BTreeMap::new();
        for partition in 0..self.processor.log().partitions() {
            let bounds = self.processor.log().bounds(partition).await?;
            let mut upper = u64::MAX;
            for store in &stores {
                let place = self.place(store).await?;
                upper = upper.min(place.state.cursors.get(&partition).map_or(0, |cursor| cursor.next));
                let below = bounds.start.min(upper).saturating_sub(options.from.unwrap_or(0));
                let entry = report.stores.entry(store).or_default();
                entry.unverifiable += below;
                let of_store = self.gaps.iter().filter(|gap| gap.store == **store && gap.partition == partition);
                entry.missing += of_store
                    .map(|gap| gap.to.min(upper).saturating_sub(gap.from.max(options.from.unwrap_or(0))))
                    .sum::<u64>();
            }
            for subject in &mut subjects {
                let begin = subject.from.entry(partition).or_default();
                *begin = (*begin).clamp(bounds.start, upper.max(bounds.start));
                subject.compared.insert(partition, *begin);
                report.stores.entry(subject.name).or_default().verified_before += *begin - bounds.start;
            }
            upper = upper.min(options.to.unwrap_or(u64::MAX));
            upper_ends.insert(partition, upper);
            let earliest = subjects.iter().filter_map(|subject| subject.from.get(&partition)).min();
            let mut at = earliest.copied().unwrap_or(0).max(options.from.unwrap_or(0));
            while at < upper {
                // Windows begin at multiples, so that rows can be counted by window from their offset alone.
                let end = ((at / WINDOW + 1) * WINDOW).min(upper);
                self.window(&mut subjects, partition, at..end, &mut report, &mut accounted).await?;
                report.windows += 1;
                progress(&report);
                at = end;
            }
        }
        if options.full && stores.contains(&"history") {
            self.unaccounted(options, &accounted, &upper_ends, &mut report).await?;
        }
        report.rows_checked = report.stores.values().map(|store| store.rows_checked).sum();
        report.differences = report.stores.values().map(|store| store.differences).sum();
        if options.from.is_none() && options.to.is_none() {
            self.note(subjects, &report).await?;
        }
        Ok(report)
    }

    /// Where verification of each store begins.
    async fn subjects(&self, stores: &[&'static str], options: &VerifyOptions) -> Result<Vec<Subject>, VerifyError> {
        let log = self.processor.log();
        let again = options.all || options.full || options.from.is_some() || options.to.is_some();
        let mut subjects = Vec::with_capacity(stores.len());
        for name in stores {
            let applied = self.place(name).await?.state.applied;
            let timeline = self.processor.timeline().borrow().clone();
            let verified = if again { None } else { self.catalogue.verified(name).await? };
            let verified = verified.filter(|verified| verified.log == log.id() && verified.applied <= applied);
            let from = (0..log.partitions()).map(|partition| {
                let stands = verified.as_ref().map_or(0, |it| it.stands_below(&timeline, applied, partition));
                (partition, stands)
            });
            subjects.push(Subject { name, applied, from: from.collect(), compared: BTreeMap::new() });
        }
        Ok(subjects)
    }

    /// Notes what was found as it must be. A store with a difference keeps what it had: the next look finds it again.
    async fn note(&self, subjects: Vec<Subject>, report: &Report) -> Result<(), VerifyError> {
        for Subject { name, applied, compared, .. } in subjects {
            if report.stores.get(name).is_some_and(|store| store.differences == 0) {
                let verified = Verified { log: self.processor.log().id(), applied, below: compared };
                self.catalogue.set_verified(name, Some(&verified)).await?;
            }
        }
        Ok(())
    }

    async fn place(&self, store: &str) -> Result<Place, VerifyError> {
        if store == "delta" {
            let (state, jobs) = self.table.position().await?;
            return Ok(Place { state, jobs });
        }
        let view = self.history.view().await?;
        Ok(Place { state: view.state().await?, jobs: view.jobs().await? })
    }

    async fn window(
        &self,
        subjects: &mut [Subject],
        partition: u32,
        offsets: Range<u64>,
        report: &mut Report,
        accounted: &mut Accounts,
    ) -> Result<(), VerifyError> {
        // What must be there, by the revision applied: stores at the same place share it.
        let mut expected: BTreeMap<u64, Window> = BTreeMap::new();
        for subject in subjects {
            let store = &subject.name;
            if subject.from.get(&partition).is_some_and(|from| offsets.end <= *from) {
                continue;
            }
            let mut compared = None;
            for _ in 0..TRIES_MAX {
                let place = self.place(store).await?;
                // Read before what it is compared with, so that the timeline has all that the store has applied.
                let timeline = self.processor.timeline().borrow().clone();
                if is_pending(&timeline, &place.jobs, partition, &offsets) {
                    break;
                }
                let applied = place.state.applied;
                if timeline.head() < applied {
                    // Another worker has brought it into force; this one is told within a second.
                    tokio::time::sleep(FOLLOW_EVERY).await;
                    continue;
                }
                if let Entry::Vacant(vacant) = expected.entry(applied) {
                    let (window, records) = self.expected(&timeline, applied, partition, offsets.clone()).await?;
                    report.records += records;
                    vacant.insert(window);
                }
                let found = match *store {
                    "delta" => self.in_table(partition, offsets.clone()).await?,
                    _ => self.in_history(partition, offsets.clone()).await?,
                };
                let after = self.place(store).await?;
                if after.state.applied == applied && after.jobs == place.jobs {
                    compared = expected.get(&applied).map(|expected| (expected, found));
                    break;
                }
            }
            let entry = report.stores.entry(store).or_default();
            let Some((expected, mut found)) = compared else {
                entry.pending += offsets.end - offsets.start;
                continue;
            };
            if let Some(compared) = subject.compared.get_mut(&partition)
                && *compared >= offsets.start
            {
                *compared = offsets.end;
            }
            if *store == "history" {
                accounted.insert((partition, offsets.start / WINDOW), (offsets.start, found.rows.len() as u64));
            }
            found.rows.sort_unstable();
            entry.rows_checked += expected.rows.len() as u64;
            let mut differences = differences(&expected.rows, &found.rows);
            differences.extend(found.misplaced.iter().map(|(offset, sub)| (*offset, *sub, "under the wrong date")));
            // Dead letters live with the history.
            if *store == "history" {
                entry.dead_letters_checked += expected.dead.len() as u64;
                differences.extend(dead_differences(&expected.dead, &found.dead));
            }
            entry.differences += differences.len() as u64;
            let room = DIFFERENCES_MAX.saturating_sub(report.first.len());
            report.first.extend(differences.into_iter().take(room).map(|(offset, sub, what)| Difference {
                store,
                partition,
                offset,
                sub,
                what,
            }));
        }
        Ok(())
    }

    async fn expected(
        &self,
        timeline: &Timeline,
        applied: u64,
        partition: u32,
        offsets: Range<u64>,
    ) -> Result<(Window, u64), VerifyError> {
        let segments = self.processor.segments_of(timeline, 1, applied, partition, offsets.clone()).await?;
        let mut batches = std::pin::pin!(self.processor.replay(partition, offsets, segments));
        let (mut window, mut records) = (Window::default(), 0);
        while let Some(batch) = batches.try_next().await? {
            records += batch.read;
            prints(&batch.outcome.rows, &mut window.rows)?;
            window.dead.extend(batch.outcome.dead.iter().map(|dead| (dead.offset, dead_hash(dead))));
        }
        Ok((window, records))
    }

    async fn in_table(&self, partition: u32, offsets: Range<u64>) -> Result<Window, VerifyError> {
        let request = ScanRequest { offsets: Some((partition, offsets)), ..ScanRequest::default() };
        let scan = self.table.scan(request).await?;
        let read = tokio::task::spawn_blocking(move || {
            let mut window = Window::default();
            for batch in scan {
                let batch = batch?;
                misplaced(&batch, &mut window.misplaced);
                let columns = (0..batch.num_columns()).filter(|at| batch.schema_ref().field(*at).name() != EVENT_DATE);
                let rows = batch.project(&columns.collect::<Vec<_>>());
                let rows = rows.map_err(|error| VerifyError::Internal(error.to_string()))?;
                prints(&rows, &mut window.rows)?;
            }
            Ok(window)
        });
        read.await.map_err(|panic| VerifyError::Internal(panic.to_string()))?
    }

    async fn in_history(&self, partition: u32, offsets: Range<u64>) -> Result<Window, VerifyError> {
        let mut window = Window::default();
        let mut from = Some(offsets.start);
        while let Some(at) = from {
            let page = self.history.view().await?.materialized(partition, at..offsets.end).await?;
            for row in page.rows {
                // A row that the lineage names and that is not there is missing among what is found.
                let Some(bytes) = row.row else { continue };
                // A row of an older format is compared by what it says; what can't be read differs from every row.
                let form = canonical::current(&bytes).unwrap_or(Cow::Borrowed(&bytes));
                window.rows.push((row.key.offset, row.key.sub, canonical::hash(&form)));
            }
            from = page.next;
        }
        let mut from = Some(offsets.start);
        while let Some(at) = from {
            let page = self.history.dead_letters(partition, at, 1000).await?;
            let inside = page.letters.iter().filter(|dead| dead.offset < offsets.end);
            window.dead.extend(inside.map(|dead| (dead.offset, dead_hash(dead))));
            from = page.next.filter(|next| *next < offsets.end);
        }
        Ok(window)
    }

    /// Counts all rows of the history by window and compares with those that records account for.
    async fn unaccounted(
        &self,
        options: &VerifyOptions,
        accounted: &Accounts,
        upper_ends: &BTreeMap<u32, u64>,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let before = self.place("history").await?;
        let mut there = Accounts::new();
        let mut strays = Vec::new();
        let mut last = None;
        loop {
            let page = self.history.rows(last.as_ref(), 2000).await?;
            for row in &page.rows {
                let (partition, offset) = (row.key.partition, row.key.offset);
                match upper_ends.get(&partition) {
                    None => strays.push((partition, offset, row.key.sub)),
                    // Came after the comparison began, or is not asked for.
                    Some(upper) if offset >= *upper || offset < options.from.unwrap_or(0) => {}
                    Some(_) => {
                        let window = (partition, offset / WINDOW);
                        // Windows that were pending or below the log's start have no account.
                        if accounted.get(&window).is_some_and(|(start, _)| offset >= *start) {
                            let seen = there.entry(window).or_insert((offset, 0));
                            *seen = (seen.0.min(offset), seen.1 + 1);
                        }
                    }
                }
            }
            last = page.next;
            if last.is_none() {
                break;
            }
        }
        let after = self.place("history").await?;
        if after.state.applied != before.state.applied || after.jobs != before.jobs || !after.jobs.is_empty() {
            // Rows that moved between two pages would be counted twice or not at all.
            return Err(VerifyError::Bad(
                "rows of the history were made again while all of it was read: run it again when no correction is being \
                 applied"
                    .to_owned(),
            ));
        }
        let entry = report.stores.entry("history").or_default();
        let mut add = |partition: u32, offset: u64, sub: u32, count: u64, what: &'static str| {
            entry.differences += count;
            if report.first.len() < DIFFERENCES_MAX {
                report.first.push(Difference { store: "history", partition, offset, sub, what });
            }
        };
        for (partition, offset, sub) in strays {
            add(partition, offset, sub, 1, "a row of a partition that the log does not have");
        }
        for (window, (first, count)) in there {
            let known = accounted.get(&window).map_or(0, |(_, rows)| *rows);
            if known < count {
                add(window.0, first, 0, count - known, "rows from here on that no record accounts for");
            }
        }
        Ok(())
    }
}

fn is_pending(timeline: &Timeline, jobs: &[Job], partition: u32, offsets: &Range<u64>) -> bool {
    jobs.iter()
        .filter_map(|job| timeline.job_range(job, partition))
        .any(|range| range.start < offsets.end && offsets.start < range.end)
}
