//! The `txn` markers in which the table keeps its own place in the log and in the timeline.
//!
//! | appId | version |
//! |---|---|
//! | `millrace/applied` | the highest revision taken in |
//! | `millrace/<log id, 32 hex digits>/<partition>/next` | first offset not yet consumed |
//! | `millrace/<log id>/<partition>/mark` | fingerprint of the last record consumed ([`Mark::to_stored`]) |
//! | `millrace/job/<revision>/<partition>` | what is left of the revision's work in this partition lies below this offset; 0: nothing |
//!
//! `next` and `mark` are always written together. A partition has the cursor of one log only: a table belongs to a log.
//! Recovery is reading them: the last version of each id, from the checkpoint and the entries after it. An id under
//! `millrace/` that is none of these was written by another version of this format, and reading stops there.

use std::collections::BTreeMap;

use millrace_rows::{Cursor, LogId, Mark, StoreState};

/// Prefix of every appId that is ours.
const PREFIX: &str = "millrace/";

/// What one appId means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Marker {
    /// The highest revision taken in.
    Applied,
    /// The cursor's offset.
    Next(LogId, u32),
    /// The cursor's fingerprint.
    Mark(LogId, u32),
    /// Work that a revision left in a partition.
    Job(u64, u32),
}

impl Marker {
    /// The appId in the table.
    pub fn app_id(&self) -> String {
        match self {
            Self::Applied => format!("{PREFIX}applied"),
            Self::Next(log, partition) => format!("{PREFIX}{log}/{partition}/next"),
            Self::Mark(log, partition) => format!("{PREFIX}{log}/{partition}/mark"),
            Self::Job(revision, partition) => format!("{PREFIX}job/{revision}/{partition}"),
        }
    }

    /// Reads an appId: `None` if it is another application's.
    ///
    /// # Errors
    /// When it is under our prefix and means nothing to this version.
    pub fn parse(app_id: &str) -> Result<Option<Self>, String> {
        let Some(rest) = app_id.strip_prefix(PREFIX) else { return Ok(None) };
        let parts: Vec<&str> = rest.split('/').collect();
        let marker = match parts.as_slice() {
            ["applied"] => Some(Self::Applied),
            ["job", revision, partition] => {
                revision.parse().ok().zip(partition.parse().ok()).map(|(r, p)| Self::Job(r, p))
            }
            [log, partition, kind @ ("next" | "mark")] => {
                log.parse().ok().zip(partition.parse().ok()).map(|(log, partition)| match *kind {
                    "next" => Self::Next(log, partition),
                    _ => Self::Mark(log, partition),
                })
            }
            _ => None,
        };
        // The canonical spelling only: two spellings of one marker would be two ids.
        match marker {
            Some(marker) if marker.app_id() == app_id => Ok(Some(marker)),
            _ => Err(format!("the transaction marker {app_id:?} is not known to this version")),
        }
    }
}

/// All markers of a table at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markers(BTreeMap<Marker, i64>);

impl Markers {
    /// Value of a marker. A table that has taken in no revision need not say so.
    pub fn get(&self, marker: &Marker) -> Option<i64> {
        let unset = (*marker == Marker::Applied).then_some(0);
        self.0.get(marker).copied().or(unset)
    }

    /// Sets a marker to what a newer entry says.
    pub fn set(&mut self, marker: Marker, value: i64) {
        self.0.insert(marker, value);
    }

    /// Sets a marker unless it is set: for reading the log newest entry first.
    pub fn set_older(&mut self, marker: Marker, value: i64) {
        self.0.entry(marker).or_insert(value);
    }

    /// Markers that do not have the same value in `other`.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Marker> {
        let all = self.0.keys().chain(other.0.keys());
        all.filter(move |marker| self.get(marker) != other.get(marker))
    }

    /// The state that the markers mean.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn state(&self) -> Result<StoreState, String> {
        let mut state = StoreState::default();
        for (marker, value) in &self.0 {
            let number = || u64::try_from(*value).map_err(|_| format!("{} is {value}: negative", marker.app_id()));
            match marker {
                Marker::Applied => state.applied = number()?,
                Marker::Next(log, partition) => {
                    let mark = self
                        .get(&Marker::Mark(*log, *partition))
                        .ok_or_else(|| format!("{} has no mark beside it", marker.app_id()))?;
                    let cursor = Cursor { log: *log, next: number()?, mark: Mark::from_stored(mark) };
                    if let Some(other) = state.cursors.insert(*partition, cursor) {
                        return Err(format!(
                            "partition {partition} has cursors of two logs, {} and {log}: a table belongs to one log; \
                             rebuild it into an empty directory",
                            other.log
                        ));
                    }
                }
                Marker::Mark(log, partition) => {
                    if self.get(&Marker::Next(*log, *partition)).is_none() {
                        return Err(format!("{} has no next beside it", marker.app_id()));
                    }
                }
                Marker::Job(..) => {}
            }
        }
        Ok(state)
    }

    /// The jobs that are not done, by revision: partition and the offset that the work left in it ends at.
    pub fn jobs(&self) -> BTreeMap<u64, BTreeMap<u32, u64>> {
        let mut jobs: BTreeMap<u64, BTreeMap<u32, u64>> = BTreeMap::new();
        for (marker, value) in &self.0 {
            if let Marker::Job(revision, partition) = marker
                && *value != 0
            {
                jobs.entry(*revision).or_default().insert(*partition, value.unsigned_abs());
            }
        }
        jobs
    }
}

/// A number as a marker's value.
///
/// # Errors
/// When it does not fit.
pub fn as_marker(value: u64) -> Result<i64, String> {
    i64::try_from(value).map_err(|_| format!("{value} does not fit a transaction marker"))
}

/// The markers of a cursor.
///
/// # Errors
/// When the offset does not fit a marker.
pub fn of_cursor(partition: u32, cursor: &Cursor) -> Result<[(Marker, i64); 2], String> {
    let next = as_marker(cursor.next)?;
    Ok([(Marker::Next(cursor.log, partition), next), (Marker::Mark(cursor.log, partition), cursor.mark.to_stored())])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId([0xab; 16]);

    #[test]
    fn every_marker_is_read_as_it_was_written() {
        for marker in [Marker::Applied, Marker::Next(LOG, 0), Marker::Mark(LOG, u32::MAX), Marker::Job(7, 3)] {
            assert_eq!(Marker::parse(&marker.app_id()), Ok(Some(marker)));
        }
        assert_eq!(Marker::Next(LOG, 4).app_id(), "millrace/abababababababababababababababab/4/next");
        assert_eq!(Marker::parse("spark-stream/1"), Ok(None));
    }

    #[test]
    fn what_this_version_does_not_know_is_not_passed_over() {
        let upper =
            Marker::Next(LOG, 4).app_id().to_uppercase().replace("MILLRACE", "millrace").replace("NEXT", "next");
        for unknown in
            ["millrace/", "millrace/applied/2", "millrace/job/01/2", "millrace/job/1", "millrace/zz/0/next", &upper]
        {
            assert!(Marker::parse(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn markers_give_the_state_and_contradictions_are_refused() {
        let cursor = Cursor { log: LOG, next: 5, mark: Mark::of(1, 2) };
        let mut markers = Markers::default();
        assert_eq!(markers.state(), Ok(StoreState::default()));
        for (marker, value) in of_cursor(3, &cursor).unwrap() {
            markers.set(marker, value);
        }
        markers.set(Marker::Applied, 2);
        markers.set(Marker::Job(2, 3), 5);
        assert_eq!(markers.state(), Ok(StoreState { applied: 2, cursors: [(3, cursor)].into() }));
        assert_eq!(markers.jobs(), [(2, [(3, 5)].into())].into());
        let mut done = markers.clone();
        done.set(Marker::Job(2, 3), 0);
        assert!(done.jobs().is_empty(), "a job with nothing left is none");

        let mut later = markers.clone();
        later.set(Marker::Next(LOG, 3), 6);
        assert_eq!(later.differing(&markers).next(), Some(&Marker::Next(LOG, 3)));
        let mut explicit = Markers::default();
        explicit.set(Marker::Applied, 0);
        assert_eq!(explicit.differing(&Markers::default()).next(), None, "no revision is revision 0");

        let mut half = markers.clone();
        half.set(Marker::Mark(LOG, 9), 1);
        assert!(half.state().unwrap_err().contains("no next"));
        let mut two = markers;
        for (marker, value) in of_cursor(3, &Cursor::start(LogId([1; 16]), 0)).unwrap() {
            two.set(marker, value);
        }
        assert!(two.state().unwrap_err().contains("two logs"));
        assert!(of_cursor(0, &Cursor::start(LOG, u64::MAX)).is_err());
    }
}
