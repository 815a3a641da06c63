//! Compares a window of the log with what stores have of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use futures::TryStreamExt as _;
use millrace_delta::{ScanRequest, UnreadableFile};
use millrace_rows::schema::EVENT_DATE;
use millrace_rows::{Job, canonical};
use millrace_timeline::Timeline;

use super::compare::{MISSING, dead_differences, differences};
use super::subject::Subject;
use super::window::{Window, dead_hash, misplaced, prints};
use super::{Difference, Findings, TRIES_MAX, Verifier, VerifyError};

/// By partition and first offset of what was compared: past the last one, and how many rows were found.
pub(super) type Accounts = BTreeMap<(u32, u64), (u64, u64)>;

/// What must be there.
struct Expected {
    window: Window,
    /// Past the last offset: the window may have been cut.
    end: u64,
}

/// What a store was found to have.
struct Found {
    window: Window,
    unreadable: Vec<UnreadableFile>,
}

/// Offsets of a partition of which a store's rows are read, at most so many of them.
struct Wanted {
    store: &'static str,
    partition: u32,
    offsets: Range<u64>,
    expected: usize,
    limit: usize,
}

impl Wanted {
    fn check(&self, found: &Window) -> Result<(), VerifyError> {
        if found.rows.len() <= self.limit {
            return Ok(());
        }
        Err(VerifyError::TooManyRows {
            store: self.store,
            partition: self.partition,
            from: self.offsets.start,
            to: self.offsets.end - 1,
            limit: self.limit,
            expected: self.expected,
        })
    }
}

impl Verifier {
    /// Compares `offsets`, or the first of them, with the stores that stand at their beginning, and moves these on.
    pub(super) async fn window(
        &self,
        subjects: &mut [Subject],
        partition: u32,
        offsets: Range<u64>,
        findings: &mut Findings,
    ) -> Result<(), VerifyError> {
        // What must be there, by the revision applied: stores at the same place share it.
        let mut expected: BTreeMap<u64, Expected> = BTreeMap::new();
        for subject in subjects.iter_mut().filter(|subject| subject.next(partition) == Some(offsets.start)) {
            let store = subject.name;
            let mut compared = None;
            for _ in 0..TRIES_MAX {
                let place = self.place(store).await?;
                let applied = place.state.applied;
                // Read behind the place, so that the timeline has all that the store has applied.
                let Some(timeline) = self.timeline_with(applied).await else { break };
                if is_pending(&timeline, &place.jobs, partition, &offsets) {
                    break;
                }
                if !expected.contains_key(&applied) {
                    // One for each store, whatever changes.
                    if expected.len() == super::STORES.len() {
                        expected.clear();
                    }
                    let made = self.expected(&timeline, applied, partition, offsets.clone(), findings).await?;
                    expected.insert(applied, made);
                }
                let Some(made) = expected.get(&applied) else { continue };
                let wanted = Wanted {
                    store,
                    partition,
                    offsets: offsets.start..made.end,
                    expected: made.window.rows.len(),
                    limit: 2 * made.window.rows.len().max(self.window_rows),
                };
                let found =
                    if store == "delta" { self.in_table(wanted).await? } else { self.in_history(wanted).await? };
                let after = self.place(store).await?;
                if after.state.applied == applied && after.jobs == place.jobs {
                    compared = Some((applied, found));
                    break;
                }
            }
            let compared = compared.and_then(|(applied, found)| Some((expected.get(&applied)?, found)));
            let Some((expected, found)) = compared else {
                findings.report.stores.entry(store).or_default().pending += offsets.end - offsets.start;
                subject.came_to(partition, offsets.end, false);
                continue;
            };
            subject.came_to(partition, expected.end, true);
            findings.compare(store, partition, offsets.start, expected, found);
        }
        Ok(())
    }

    async fn expected(
        &self,
        timeline: &Timeline,
        applied: u64,
        partition: u32,
        offsets: Range<u64>,
        findings: &mut Findings,
    ) -> Result<Expected, VerifyError> {
        let segments = self.processor.segments_of(timeline, 1, applied, partition, offsets.clone()).await?;
        let mut expected = Expected { window: Window::default(), end: offsets.end };
        let mut batches = std::pin::pin!(self.processor.replay(partition, offsets, segments));
        while let Some(batch) = batches.try_next().await? {
            findings.report.records += batch.read;
            let Window { rows, dead, .. } = &mut expected.window;
            prints(&batch.outcome.rows, rows)?;
            dead.extend(batch.outcome.dead.iter().map(|dead| (dead.offset, dead_hash(dead))));
            if rows.len() >= self.window_rows {
                expected.end = batch.offsets.end;
                break;
            }
        }
        Ok(expected)
    }

    async fn in_table(&self, wanted: Wanted) -> Result<Found, VerifyError> {
        let offsets = Some((wanted.partition, wanted.offsets.clone()));
        let mut scan = self.table.scan(ScanRequest { offsets, ..ScanRequest::default() }).await?.past_unreadable();
        let read = tokio::task::spawn_blocking(move || {
            let mut window = Window::default();
            for batch in &mut scan {
                let batch = batch?;
                misplaced(&batch, &mut window.misplaced);
                let columns = (0..batch.num_columns()).filter(|at| batch.schema_ref().field(*at).name() != EVENT_DATE);
                let rows = batch.project(&columns.collect::<Vec<_>>());
                let rows = rows.map_err(|error| VerifyError::Internal(error.to_string()))?;
                prints(&rows, &mut window.rows)?;
                wanted.check(&window)?;
            }
            Ok(Found { window, unreadable: scan.unreadable().to_vec() })
        });
        read.await.map_err(|panic| VerifyError::Internal(panic.to_string()))?
    }

    async fn in_history(&self, wanted: Wanted) -> Result<Found, VerifyError> {
        let Range { start, end } = wanted.offsets;
        let mut window = Window::default();
        let mut from = Some(start);
        while let Some(at) = from {
            let page = self.history.view().await?.materialized(wanted.partition, at..end).await?;
            for row in page.rows {
                // A row that the lineage names and that is not there is missing among what is found.
                let Some(bytes) = row.row else { continue };
                // A row of an older format is compared by what it says; what can't be read differs from every row.
                let form = canonical::current(&bytes).unwrap_or(Cow::Borrowed(&bytes));
                window.rows.push((row.key.offset, row.key.sub, canonical::hash(&form)));
            }
            wanted.check(&window)?;
            from = page.next;
        }
        let mut from = Some(start);
        while let Some(at) = from {
            let page = self.history.dead_letters(wanted.partition, at, 1000).await?;
            let inside = page.letters.iter().filter(|dead| dead.offset < end);
            window.dead.extend(inside.map(|dead| (dead.offset, dead_hash(dead))));
            from = page.next.filter(|next| *next < end);
        }
        Ok(Found { window, unreadable: Vec::new() })
    }
}

impl Findings {
    /// Compares what must be there from `start` on with what is.
    fn compare(&mut self, store: &'static str, partition: u32, start: u64, expected: &Expected, found: Found) {
        let Found { window: mut found, unreadable } = found;
        let mut differences = differences(&expected.window.rows, {
            found.rows.sort_unstable();
            &found.rows
        });
        // What can't be read may hold them: the file is the difference.
        let all = differences.len();
        let hidden = |offset: u64| unreadable.iter().any(|file| file.may_hold(offset));
        differences.retain(|(offset, _, what)| *what != MISSING || !hidden(*offset));
        let hidden = all - differences.len();
        differences.extend(found.misplaced.iter().map(|(offset, sub)| (*offset, *sub, "under the wrong date")));
        let entry = self.report.stores.entry(store).or_default();
        entry.compared += expected.end - start;
        entry.rows_checked += (expected.window.rows.len() - hidden) as u64;
        // Dead letters live with the history.
        if store == "history" {
            entry.dead_letters_checked += expected.window.dead.len() as u64;
            differences.extend(dead_differences(&expected.window.dead, &found.dead));
            self.accounted.insert((partition, start), (expected.end, found.rows.len() as u64));
        }
        for file in &unreadable {
            self.unreadable(file, partition, start);
        }
        for (offset, sub, what) in differences {
            self.report.tell(1, Difference { store, partition, offset, sub, what: what.into() });
        }
    }

    /// Tells of a data file once. Where its statistics do not tell whose rows it has, it is named where it was met.
    pub(super) fn unreadable(&mut self, file: &UnreadableFile, partition: u32, offset: u64) {
        if self.unreadable.insert(file.path.clone()) {
            let partition = file.partition.unwrap_or(partition);
            let (offset, its) =
                file.offsets.map_or((offset, "offsets that it does not tell".to_owned()), |(low, high)| {
                    (low, format!("offsets {low} to {high}"))
                });
            let what = format!("a data file can't be read, {its}: {}", file.detail).into();
            self.report.tell(1, Difference { store: "delta", partition, offset, sub: 0, what });
        }
    }
}

fn is_pending(timeline: &Timeline, jobs: &[Job], partition: u32, offsets: &Range<u64>) -> bool {
    jobs.iter()
        .filter_map(|job| timeline.job_range(job, partition))
        .any(|range| range.start < offsets.end && offsets.start < range.end)
}
