//! What an operator sees: where the log ends, where each store stands, what is in force.

use std::collections::{BTreeMap, BTreeSet};

use millrace_log::{EventLog, LogError, ReadLimit};
use millrace_rows::LogId;
use millrace_timeline::access::PauseEntry;
use millrace_timeline::gaps::GapEntry;
use millrace_timeline::{Revision, Timeline};
use serde::Serialize;

use crate::leases::Duty;
use crate::progress::{JobProgress, PartitionProgress, PartitionState, Snapshot};
use crate::roles::Roles;

/// The state of a running engine.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Version of this build.
    pub version: &'static str,
    /// The log.
    pub log: LogStatus,
    /// Highest revision of the timeline.
    pub revision: u64,
    /// The chain that is in force at last, past every range that has an end, as `plugin@version`.
    pub chain: Vec<String>,
    /// What is in force for the next events, of partitions where that is something else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ahead: Vec<InForce>,
    /// Loops that ended by a defect: only a restart starts them again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<String>,
    /// Why the chain is paused, if it is.
    pub paused: Option<String>,
    /// Since when, and by whom.
    pub pause: Option<PauseEntry>,
    /// The stores, by name.
    pub stores: BTreeMap<&'static str, StoreStatus>,
    /// This process, where several share the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerStatus>,
    /// Gaps of the log that somebody accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<GapEntry>,
}

/// What is in force at the log's end of a partition, where a correction reaches ahead of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// The partition.
    pub partition: u32,
    /// First offset for which that may be otherwise; `None`: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Revisions, highest first: in force for an event is the first whose filter it matches.
    pub revisions: Vec<InForceRevision>,
}

/// One of the revisions of which one is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForceRevision {
    /// The revision.
    pub revision: u64,
    /// Whether it is about events that match its filter only; `/v1/revisions` has that.
    pub filtered: bool,
    /// Its chain, as `plugin@version`.
    pub chain: Vec<String>,
}

/// The plugins of a revision's chain.
pub(crate) fn steps_of(revision: &Revision) -> Vec<String> {
    revision.chain.steps.iter().map(|step| step.plugin.to_string()).collect()
}

/// What is in force at the ends of the log, of partitions where that is not what is in force at last
/// ([`Timeline::current`]).
pub fn ahead(timeline: &Timeline, ends: impl IntoIterator<Item = (u32, u64)>) -> Vec<InForce> {
    let current = timeline.current().map(|revision| revision.id);
    let at = |(partition, end): (u32, u64)| {
        let (offsets, revisions) = timeline.segments(timeline.head(), partition, end..u64::MAX).into_iter().next()?;
        if revisions.iter().map(|revision| Some(revision.id)).eq([current]) {
            return None;
        }
        let revisions = revisions.into_iter().map(|revision| InForceRevision {
            revision: revision.id,
            filtered: !revision.filter.is_empty(),
            chain: steps_of(revision),
        });
        let until = (offsets.end < u64::MAX).then_some(offsets.end);
        Some(InForce { partition, until, revisions: revisions.collect() })
    };
    ends.into_iter().filter_map(at).collect()
}

/// The state of the log.
#[derive(Clone, Debug, Serialize)]
pub struct LogStatus {
    /// Its identity.
    pub id: LogId,
    /// Bounds of each partition, by number.
    pub partitions: Vec<PartitionBounds>,
    /// Why the log does not answer, while it does not: bounds are then those last seen, and ages are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionBounds {
    /// First offset stored.
    pub first: u64,
    /// Offset that the next record gets.
    pub end: u64,
}

/// The state of a store.
#[derive(Clone, Debug, Serialize)]
pub struct StoreStatus {
    /// Highest revision taken in.
    pub applied: u64,
    /// What keeps the store from going on, if anything does.
    pub problem: Option<String>,
    /// Events that are in the log and not in the store.
    pub lag_events: u64,
    /// Age of the oldest of them in the log, in seconds.
    pub lag_seconds: f64,
    /// What revisions left to be made again and is not done, by revision.
    pub jobs: Vec<JobProgress>,
    /// Each partition.
    pub partitions: Vec<PartitionStatus>,
}

/// This process among those that share a log and a keyspace.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerStatus {
    /// Its id: new at each start.
    pub id: String,
    /// What it does at all.
    pub roles: Roles,
    /// What it does now of what one worker does at a time.
    pub duties: BTreeSet<Duty>,
}

/// The state of a store in one partition.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: u32,
    /// Offset that the next record of the log gets.
    pub log_end: u64,
    /// First offset that is not in the store.
    pub cursor: u64,
    /// Events that are in the log and not in the store.
    pub lag_events: u64,
    /// Age of the oldest of them in the log, in seconds.
    pub lag_seconds: f64,
    /// What the loop does.
    #[serde(flatten)]
    pub state: PartitionState,
}

/// Bounds of every partition of a log.
pub(crate) async fn bounds(log: &dyn EventLog) -> Result<Vec<PartitionBounds>, LogError> {
    let mut partitions = Vec::new();
    for partition in 0..log.partitions() {
        let bounds = log.bounds(partition).await?;
        partitions.push(PartitionBounds { first: bounds.start, end: bounds.end });
    }
    Ok(partitions)
}

/// The offset past the last record of each partition.
pub(crate) async fn ends(log: &dyn EventLog) -> Result<BTreeMap<u32, u64>, LogError> {
    Ok((0..).zip(bounds(log).await?.iter().map(|bounds| bounds.end)).collect())
}

/// Where each store stands against the log's ends. Without a log to ask the age of what waits is 0.
pub(crate) async fn stores(
    log: Option<&dyn EventLog>,
    bounds: &[PartitionBounds],
    progress: Snapshot,
    now_us: i64,
) -> Result<BTreeMap<&'static str, StoreStatus>, LogError> {
    let mut stores = BTreeMap::new();
    for (name, store) in progress {
        let mut partitions = Vec::with_capacity(bounds.len());
        for (partition, bounds) in (0..).zip(bounds) {
            let unknown = PartitionProgress { next: 0, state: PartitionState::Running };
            let PartitionProgress { next, state } = store.partitions.get(&partition).cloned().unwrap_or(unknown);
            let lag_events = bounds.end.saturating_sub(next);
            let lag_seconds = match log {
                Some(log) if lag_events > 0 => waiting_seconds(log, partition, next.max(bounds.first), now_us).await?,
                _ => 0.0,
            };
            partitions.push(PartitionStatus {
                partition,
                log_end: bounds.end,
                cursor: next,
                lag_events,
                lag_seconds,
                state,
            });
        }
        let status = StoreStatus {
            applied: store.applied,
            problem: store.problem,
            jobs: store.jobs.into_values().collect(),
            lag_events: partitions.iter().map(|p| p.lag_events).sum(),
            lag_seconds: partitions.iter().map(|p| p.lag_seconds).fold(0.0, f64::max),
            partitions,
        };
        stores.insert(name, status);
    }
    Ok(stores)
}

/// How long the record at `offset` has been in the log.
async fn waiting_seconds(log: &dyn EventLog, partition: u32, offset: u64, now_us: i64) -> Result<f64, LogError> {
    let records = match log.read(partition, offset, ReadLimit { records: 1, bytes: 1 }).await {
        // Retention may pass between the reading of the bounds and this, and a server may go away. A partition that
        // stopped says so by itself.
        Err(LogError::Gap { .. } | LogError::Unavailable(_) | LogError::PastEnd { .. } | LogError::Unusable(_)) => {
            return Ok(0.0);
        }
        other => other?,
    };
    Ok(records.first().map_or(0.0, |record| (now_us - record.appended_at_us).max(0) as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use millrace_timeline::{ChainSpec, Filter, Kind, OffsetRange, Ranges};

    use super::*;

    #[test]
    fn a_correction_that_reaches_ahead_is_in_force_at_the_logs_end() {
        let revision = |id, ranges, filter| Revision {
            id,
            kind: Kind::Correct,
            ranges,
            filter,
            group: None,
            chain: ChainSpec { semantics: 1, steps: vec![] },
            author: String::new(),
            reason: String::new(),
            created_at_us: 0,
        };
        let closed = |partition, start, end| Ranges {
            partitions: [(partition, OffsetRange { start, end: Some(end) })].into(),
            later_partitions: false,
        };
        let timeline = Timeline::new(vec![
            revision(1, Ranges::everything(), Filter::default()),
            revision(2, closed(0, 0, 10), Filter::default()),
            revision(3, closed(1, 5, 50), Filter::default().with("app", ["shop"])),
        ])
        .unwrap();
        assert_eq!(ahead(&timeline, [(0, 10), (1, 50), (2, 0)]), []);
        assert_eq!(ahead(&Timeline::default(), [(0, 10)]), []);
        let found = ahead(&timeline, [(0, 9), (1, 4), (1, 5)]);
        let short = |found: &InForce| {
            let revisions: Vec<(u64, bool)> = found.revisions.iter().map(|r| (r.revision, r.filtered)).collect();
            (found.partition, found.until, revisions)
        };
        let expected = [(0, Some(10), vec![(2, false)]), (1, Some(50), vec![(3, true), (1, false)])];
        assert_eq!(found.iter().map(short).collect::<Vec<_>>(), expected);
    }
}
