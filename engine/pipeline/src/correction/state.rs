//! How far corrections are, in each store.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use millrace_timeline::{Kind, Revision, Timeline};
use serde::Serialize;

use crate::correction::id::CorrectionId;
use crate::engine::Engine;
use crate::portion::job_progress;
use crate::progress::{JobProgress, StoreProgress};
use crate::rematerialize::REBUILD;
use crate::staging::StagingStatus;

/// What a correction is doing in one store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreCorrection {
    /// `waiting` until the store has taken it in, `applying` while rows are made again, then `applied`.
    pub state: &'static str,
    /// Offsets that are left.
    pub left: u64,
    /// Offsets in all: those of the range that the store has come to.
    pub total: u64,
    /// Why it does not go on, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A correction in the timeline.
#[derive(Clone, Debug, Serialize)]
pub struct CorrectionStatus {
    /// What it is called: by its first revision once it is published.
    pub id: CorrectionId,
    /// Its revisions; while it is staged those that it would have now.
    pub revisions: Vec<u64>,
    /// Before it is published `staging`, then `staged`, or `failed`; then `published` until a store has begun, `applying`, and
    /// `applied` once every store has.
    pub state: &'static str,
    /// Who asked for it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When, µs since 1970 UTC.
    pub created_at_us: i64,
    /// Why the chain is paused, if it is: nothing is made again meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// How far it is staged, until it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagingStatus>,
    /// By store.
    pub stores: BTreeMap<&'static str, StoreCorrection>,
}

impl Engine {
    /// Every correction of the timeline, newest first.
    pub fn corrections(&self) -> Vec<CorrectionStatus> {
        let timeline = self.timeline();
        let stores = self.progress().snapshot();
        let mut groups: BTreeMap<u64, Vec<&Revision>> = BTreeMap::new();
        for revision in timeline.revisions().iter().filter(|revision| revision.kind == Kind::Correct) {
            groups.entry(revision.group.unwrap_or(revision.id)).or_default().push(revision);
        }
        let paused = self.processor().pause().get().map(|pause| pause.reason);
        let status = |(id, revisions): (u64, Vec<&Revision>)| {
            let last = revisions.last()?;
            let stores: BTreeMap<_, _> =
                stores.iter().map(|(name, store)| (*name, store_correction(store, &timeline, id))).collect();
            let all = |state: &str| stores.values().all(|store| store.state == state);
            let state = if all("applied") {
                "applied"
            } else if all("waiting") {
                "published"
            } else {
                "applying"
            };
            Some(CorrectionStatus {
                id: CorrectionId::Published(id),
                revisions: revisions.iter().map(|revision| revision.id).collect(),
                state,
                author: last.author.clone(),
                reason: last.reason.clone(),
                created_at_us: last.created_at_us,
                paused: paused.clone().filter(|_| state != "applied"),
                staged: None,
                stores,
            })
        };
        let staged = self.staging.staged(|staged| {
            let status = staged.status();
            let found = CorrectionStatus {
                id: CorrectionId::Staged(staged.id),
                revisions: staged.revisions(),
                state: status.state(),
                author: staged.author.clone(),
                reason: staged.reason.clone(),
                created_at_us: staged.at_us,
                paused: paused.clone().filter(|_| status.state() == "staging"),
                staged: Some(status),
                stores: BTreeMap::new(),
            };
            // Once another revision has its number it can't be published any more.
            (staged.first() > timeline.head()).then_some(found)
        });
        staged.flatten().into_iter().chain(groups.into_iter().rev().filter_map(status)).collect()
    }
}

/// What a store has of a correction before its cursors, in offsets: what would be its job. What it has not come to is nothing
/// that it could make again: a range may reach far ahead of the log.
fn come_to(store: &StoreProgress, timeline: &Timeline, first: u64) -> u64 {
    let cursors = store.partitions.iter().map(|(partition, place)| (*partition, place.next)).collect();
    let job = timeline.job(first, &cursors).map(|job| job_progress(timeline, &job));
    job.map_or(0, |job| job.offsets_left())
}

/// What revisions that are taken in together are doing in a store: `waiting` until that has taken them in, `applying` until it
/// has made again what it had written before, then `applied`.
pub fn state_in(store: &StoreProgress, revisions: RangeInclusive<u64>) -> &'static str {
    if store.has_done(revisions.clone()) {
        "applied"
    } else if store.applied >= *revisions.start() {
        "applying"
    } else {
        "waiting"
    }
}

/// What a store has of a correction's revisions left.
fn store_correction(store: &StoreProgress, timeline: &Timeline, first: u64) -> StoreCorrection {
    let total = come_to(store, timeline, first);
    let last = timeline.taken_in_with(first);
    let state = state_in(store, first..=last);
    let jobs = || store.jobs.range(first..=last).map(|(_, job)| job);
    let left = match state {
        "applied" => 0,
        // A job with nothing left is one whose last commit is under way.
        "applying" if jobs().next().is_some() => jobs().map(JobProgress::offsets_left).sum::<u64>().max(1),
        _ => total,
    };
    let mut problem = jobs().find_map(|job| job.problem.clone());
    if left > 0 && problem.is_none() {
        // A store works its jobs off one after the other, and a rebuild last.
        let mut before = store.jobs.range(REBUILD + 1..first.max(REBUILD + 1));
        let stuck = before.find_map(|(revision, job)| Some((revision, job.problem.as_ref()?)));
        problem = stuck.map(|(revision, reason)| format!("waits behind revision {revision}: {reason}"));
    }
    StoreCorrection { state, left, total: total.max(left), problem }
}

#[cfg(test)]
mod tests {
    use millrace_timeline::{ChainSpec, Filter, OffsetRange, Ranges};

    use super::*;
    use crate::progress::{JobProgress, PartitionProgress, PartitionState};

    fn store(applied: u64, next: u64) -> StoreProgress {
        let place = PartitionProgress { next, state: PartitionState::Running };
        let partitions = (0..2).map(|partition| (partition, place.clone())).collect();
        StoreProgress { applied, partitions, jobs_as_of: Some(applied), ..StoreProgress::default() }
    }

    fn revision(id: u64, end: u64) -> Revision {
        let partitions = (0..3).map(|partition| (partition, OffsetRange { start: 10, end: Some(end) })).collect();
        Revision {
            id,
            kind: Kind::Correct,
            ranges: Ranges { partitions, later_partitions: false },
            filter: Filter::default(),
            group: Some(if id < 4 { 2 } else { 4 }),
            chain: ChainSpec { semantics: 1, steps: vec![] },
            author: String::new(),
            reason: String::new(),
            created_at_us: 0,
        }
    }

    #[test]
    fn a_range_far_ahead_counts_what_the_store_has_come_to() {
        let first = Revision { kind: Kind::Activate, ranges: Ranges::everything(), ..revision(1, 1) };
        let revisions = vec![first, revision(2, u64::MAX), revision(3, u64::MAX), revision(4, 20)];
        let timeline = Timeline::new(revisions).unwrap();
        let found = store_correction(&store(1, 30), &timeline, 2);
        assert_eq!((found.state, found.left, found.total), ("waiting", 40, 40));
        let found = store_correction(&store(1, 5), &timeline, 2);
        assert_eq!((found.state, found.left, found.total), ("waiting", 0, 0));
        // One job for both, of which some is made for its next commit.
        let mut taken_in = store(3, 30);
        let job = JobProgress { revision: 2, left: [(0, 10..25)].into(), staged: 4, ..JobProgress::default() };
        taken_in.jobs.insert(2, job);
        let found = store_correction(&taken_in, &timeline, 2);
        assert_eq!((found.state, found.left, found.total), ("applying", 11, 40));
        let states = [1..=1, 2..=3, 4..=4].map(|revisions| state_in(&taken_in, revisions));
        assert_eq!(states, ["applied", "applying", "waiting"]);
        // Others wait behind it if it stands, but not behind a rebuild.
        taken_in.jobs.get_mut(&2).unwrap().problem = Some("no disk".to_owned());
        let rebuild = JobProgress { revision: REBUILD, problem: Some("no log".to_owned()), ..JobProgress::default() };
        taken_in.jobs.insert(REBUILD, rebuild);
        let found = store_correction(&taken_in, &timeline, 4);
        assert_eq!((found.state, found.problem.as_deref()), ("waiting", Some("waits behind revision 2: no disk")));
        taken_in.jobs.remove(&2);
        assert_eq!(store_correction(&taken_in, &timeline, 4).problem, None);
        let found = store_correction(&store(3, 30), &timeline, 2);
        assert_eq!((found.state, found.left, found.total), ("applied", 0, 40));
    }
}
