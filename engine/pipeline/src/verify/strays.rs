//! Looks for what is in no window: rows and dead letters that no record of the log can account for.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use millrace_delta::Why;
use millrace_timeline::{Ranges, Timeline};

use super::windows::Accounts;
use super::{DIFFERENCES_MAX, Difference, Findings, Verifier, VerifyError, VerifyOptions};

const NO_SUCH_PARTITION: &str = "a row of a partition that the log does not have";
const PAST_CURSOR: &str = "a row at or past the store's cursor";

/// Rows that are read at a time.
const PAGE_ROWS: usize = 2000;

/// Rows of the history that no window accounts for, by what is wrong with them: how many, and the first few.
#[derive(Default)]
struct Strays(BTreeMap<&'static str, (u64, Vec<RowPlace>)>);

/// Partition, offset and sub.
type RowPlace = (u32, u64, u32);

impl Strays {
    fn add(&mut self, what: &'static str, place: RowPlace) {
        let (count, first) = self.0.entry(what).or_default();
        *count += 1;
        if first.len() < DIFFERENCES_MAX {
            first.push(place);
        }
    }
}

impl Verifier {
    /// What costs little to find: rows of the table and dead letters past the cursors, of no partition of the log, or
    /// without a place in it.
    pub(super) async fn strays(&self, stores: &[&'static str], findings: &mut Findings) -> Result<(), VerifyError> {
        let partitions = self.processor.log().partitions();
        if stores.contains(&"delta") {
            let faults = self.table.faults(partitions).await?;
            for file in &faults.unreadable {
                findings.unreadable(file, 0, 0);
            }
            let told = faults.first.len() as u64;
            for row in faults.first {
                let what = match row.why {
                    Why::NoPlace => format!(
                        "a row without a place in the log (partition {}, offset {}), in {}",
                        shown(row.partition),
                        shown(row.offset),
                        row.file
                    )
                    .into(),
                    Why::NoSuchPartition => NO_SUCH_PARTITION.into(),
                    Why::PastCursor => PAST_CURSOR.into(),
                };
                let partition = row.partition.and_then(|partition| u32::try_from(partition).ok()).unwrap_or(0);
                let offset = row.offset.and_then(|offset| u64::try_from(offset).ok()).unwrap_or(0);
                let sub = row.sub.and_then(|sub| u32::try_from(sub).ok()).unwrap_or(0);
                findings.report.tell(1, Difference { store: "delta", partition, offset, sub, what });
            }
            findings.report.stores.entry("delta").or_default().differences += faults.strays - told;
        }
        if stores.contains(&"history") {
            let letters = self.history.stray_letters(partitions).await?;
            let told = letters.first.len() as u64;
            for (partition, offset) in letters.first {
                let what = if partition < partitions {
                    "a dead letter at or past the store's cursor"
                } else {
                    "a dead letter of a partition that the log does not have"
                };
                let what = what.into();
                findings.report.tell(1, Difference { store: "history", partition, offset, sub: 0, what });
            }
            findings.report.stores.entry("history").or_default().differences += letters.count - told;
        }
        Ok(())
    }

    /// Counts all rows of the history by window and compares with those that records account for. `applied` is the revision
    /// that the store had applied when the verification began.
    pub(super) async fn unaccounted(
        &self,
        options: &VerifyOptions,
        applied: u64,
        findings: &mut Findings,
    ) -> Result<(), VerifyError> {
        let before = self.place("history").await?;
        let partitions = self.processor.log().partitions();
        let asked = options.from.unwrap_or(0)..options.to.unwrap_or(u64::MAX);
        // By window: the first offset, and how many rows.
        let mut there: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
        let mut strays = Strays::default();
        let mut last = None;
        loop {
            let view = self.history.view().await?;
            let page = view.rows(last.as_ref(), PAGE_ROWS).await?;
            // Those of the same moment: rows came in since the windows were read.
            let mut cursors = None;
            for row in page.rows.iter().map(|row| &row.key).filter(|row| asked.contains(&row.offset)) {
                let (partition, offset) = (row.partition, row.offset);
                if let Some(window) = window_of(&findings.accounted, partition, offset) {
                    let seen = there.entry(window).or_insert((offset, 0));
                    *seen = (seen.0.min(offset), seen.1 + 1);
                    continue;
                }
                let cursors = match &cursors {
                    Some(cursors) => cursors,
                    None => cursors.insert(view.state().await?.cursors),
                };
                match cursors.get(&partition) {
                    // Pending, below the log's start, or come in since.
                    Some(cursor) if offset < cursor.next => {}
                    None if partition >= partitions => strays.add(NO_SUCH_PARTITION, (partition, offset, row.sub)),
                    _ => strays.add(PAST_CURSOR, (partition, offset, row.sub)),
                }
            }
            last = page.next;
            if last.is_none() {
                break;
            }
        }
        let after = self.place("history").await?;
        let timeline = self.timeline_with(after.state.applied).await;
        let since = applied + 1..=after.state.applied;
        let moved = timeline.is_none_or(|timeline| touches(&timeline, since, &findings.accounted));
        if moved || after.jobs != before.jobs || !after.jobs.is_empty() {
            // Rows that moved between two pages would be counted twice or not at all.
            return Err(VerifyError::Unsettled(
                "rows of the history were made again while all of it was read: run it again when no correction is being \
                 applied"
                    .to_owned(),
            ));
        }
        for (what, (count, first)) in strays.0 {
            let told = first.len() as u64;
            for (partition, offset, sub) in first {
                findings.report.tell(1, Difference { store: "history", partition, offset, sub, what: what.into() });
            }
            findings.report.stores.entry("history").or_default().differences += count - told;
        }
        for (window, (offset, count)) in there {
            let known = findings.accounted.get(&window).map_or(0, |(_, rows)| *rows);
            if known < count {
                let what = "rows from here on that no record accounts for".into();
                let difference = Difference { store: "history", partition: window.0, offset, sub: 0, what };
                findings.report.tell(count - known, difference);
            }
        }
        Ok(())
    }
}

/// Whether one of these revisions covers anything that was compared.
fn touches(timeline: &Timeline, revisions: RangeInclusive<u64>, accounts: &Accounts) -> bool {
    let covers = |ranges: &Ranges| {
        accounts.iter().any(|((partition, start), (end, _))| {
            let range = ranges.of(*partition);
            range.is_some_and(|range| range.start < *end && range.end.is_none_or(|past| *start < past))
        })
    };
    timeline.revisions().iter().filter(|it| revisions.contains(&it.id)).any(|revision| covers(&revision.ranges))
}

/// What was compared that has an offset, if there is any.
fn window_of(accounts: &Accounts, partition: u32, offset: u64) -> Option<(u32, u64)> {
    let (window, (end, _)) = accounts.range((partition, 0)..=(partition, offset)).next_back()?;
    (offset < *end).then_some(*window)
}

fn shown(number: Option<i64>) -> String {
    number.map_or("null".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_timeline::{ChainSpec, Filter, Kind, OffsetRange, Revision};

    #[test]
    fn a_row_is_of_the_window_that_was_compared() {
        let accounts = Accounts::from([((0, 10), (20, 5)), ((0, 30), (40, 0)), ((2, 0), (5, 5))]);
        for (partition, offset, window) in [
            (0, 9, None),
            (0, 10, Some((0, 10))),
            (0, 19, Some((0, 10))),
            (0, 20, None),
            (0, 39, Some((0, 30))),
            (1, 3, None),
            (2, 4, Some((2, 0))),
        ] {
            assert_eq!(window_of(&accounts, partition, offset), window, "{partition} {offset}");
        }
    }

    #[test]
    fn revisions_matter_that_cover_what_was_compared() {
        let revision = |id, start, end| Revision {
            id,
            kind: if id == 2 { Kind::Correct } else { Kind::Activate },
            ranges: if id == 1 {
                Ranges::everything()
            } else {
                Ranges { partitions: BTreeMap::from([(0, OffsetRange { start, end })]), later_partitions: false }
            },
            filter: Filter::default(),
            group: None,
            chain: ChainSpec { semantics: 1, steps: vec![] },
            author: String::new(),
            reason: String::new(),
            created_at_us: 0,
        };
        let timeline =
            Timeline::new(vec![revision(1, 0, None), revision(2, 5, Some(10)), revision(3, 20, None)]).unwrap();
        let accounts = |start, end| Accounts::from([((0, start), (end, 0))]);
        for (since, start, end, touched) in [
            (1, 0, 20, true),
            (2, 0, 5, false),
            (2, 9, 20, true),
            (2, 10, 20, false),
            (3, 0, 20, false),
            (3, 0, 21, true),
        ] {
            assert_eq!(touches(&timeline, since..=3, &accounts(start, end)), touched, "{since} {start} {end}");
        }
    }

    #[test]
    fn strays_are_counted_beyond_those_that_are_kept() {
        let mut strays = Strays::default();
        for offset in 0..100 {
            strays.add(PAST_CURSOR, (0, offset, 0));
        }
        let (count, first) = &strays.0[PAST_CURSOR];
        assert_eq!((*count, first.len()), (100, DIFFERENCES_MAX));
    }
}
