//! How far each store has come in each partition.
//!
//! The loops write here after every commit; status, metrics, the log's retention and whoever waits for a store to catch
//! up read here. It is a copy for people and for retention: what counts is the cursor in the store.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_rows::StoreState;
use serde::Serialize;
use tokio::sync::watch;

/// What a store's loop is doing in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum PartitionState {
    /// Going on.
    Running,
    /// A try failed; another will be made.
    Retrying {
        /// What failed.
        reason: String,
    },
    /// Another worker's.
    Elsewhere,
    /// An operator has to look. The other partitions and the other store go on.
    Stopped {
        /// Why, and what to do.
        reason: String,
    },
}

/// One store's place in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionProgress {
    /// First offset that is not in the store yet, as of its last commit.
    pub next: u64,
    /// What its loop is doing.
    #[serde(flatten)]
    pub state: PartitionState,
}

/// What is left of a revision's job in one store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobProgress {
    /// The revision.
    pub revision: u64,
    /// Offsets that are left, by partition.
    pub left: BTreeMap<u32, Range<u64>>,
    /// Offsets of these that are made for the commit that comes next.
    pub staged: u64,
    /// Records made again since the process started.
    pub remade: u64,
    /// Records below the log's start: their rows stay as they are.
    pub frozen: u64,
    /// Why it does not go on, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl JobProgress {
    /// Offsets that are left to make, over all partitions.
    pub fn offsets_left(&self) -> u64 {
        let left: u64 = self.left.values().map(|range| range.end - range.start).sum();
        left.saturating_sub(self.staged)
    }
}

/// One store's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreProgress {
    /// Highest revision that the store has taken in.
    pub applied: u64,
    /// What keeps the whole store from going on, if anything does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// By partition. Empty until the store's state was read for the first time.
    pub partitions: BTreeMap<u32, PartitionProgress>,
    /// Jobs that are not done, by revision.
    pub jobs: BTreeMap<u64, JobProgress>,
    /// What the store had applied when its jobs were last read. `None`: they never were, there may be others.
    #[serde(skip)]
    pub(crate) jobs_as_of: Option<u64>,
}

impl StoreProgress {
    /// Whether the store has taken in these revisions, and is known to have nothing left of any.
    pub(crate) fn has_done(&self, revisions: RangeInclusive<u64>) -> bool {
        self.seen() >= *revisions.end() && self.jobs.range(revisions).next().is_none()
    }

    /// Highest revision that the store is known to have taken in with all that it left.
    pub(crate) fn seen(&self) -> u64 {
        self.jobs_as_of.map_or(0, |applied| applied.min(self.applied))
    }

    /// First offset that is not in the store, of the partitions that this process brings into it and that go on.
    pub(crate) fn running(&self) -> BTreeMap<u32, u64> {
        let running = |(_, place): &(&u32, &PartitionProgress)| place.state == PartitionState::Running;
        self.partitions.iter().filter(running).map(|(partition, place)| (*partition, place.next)).collect()
    }
}

/// All stores' places, by store name.
pub type Snapshot = BTreeMap<&'static str, StoreProgress>;

/// Shared record of progress.
#[derive(Clone, Debug)]
pub struct Progress {
    sender: Arc<watch::Sender<Snapshot>>,
    /// Where the log is needed from for another reason, by partition, of each hold.
    held: Arc<Mutex<Vec<Held>>>,
}

/// Offsets by partition.
type Held = Arc<BTreeMap<u32, u64>>;

/// Keeps the log from some offsets on, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    progress: Progress,
    from: Held,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.progress.held().retain(|held| !Arc::ptr_eq(held, &self.from));
    }
}

impl Progress {
    /// Progress of these stores, nothing known of any.
    pub fn new(stores: impl IntoIterator<Item = &'static str>) -> Self {
        let snapshot = stores.into_iter().map(|store| (store, StoreProgress::default())).collect();
        Self { sender: Arc::new(watch::Sender::new(snapshot)), held: Arc::default() }
    }

    /// The present state.
    pub fn snapshot(&self) -> Snapshot {
        self.sender.borrow().clone()
    }

    /// To be told of every change.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.sender.subscribe()
    }

    pub(crate) fn update(&self, store: &'static str, change: impl FnOnce(&mut StoreProgress)) {
        self.sender.send_modify(|snapshot| change(snapshot.entry(store).or_default()));
    }

    /// Makes a store's durable state known. What its loops do in each partition stays as it was.
    pub(crate) fn report(&self, store: &'static str, state: &StoreState, partitions: u32) {
        self.update(store, |progress| {
            progress.applied = state.applied;
            progress.problem = None;
            for partition in 0..partitions {
                let next = state.cursors.get(&partition).map_or(0, |cursor| cursor.next);
                let running = PartitionProgress { next, state: PartitionState::Running };
                progress.partitions.entry(partition).or_insert(running).next = next;
            }
        });
    }

    /// Makes known what is left of a store's jobs, as of a look at it when it had applied `applied`: jobs of later revisions
    /// stay. What is known of each beside that stays, too.
    pub(crate) fn report_jobs(&self, store: &'static str, applied: u64, jobs: Vec<JobProgress>) {
        self.update(store, |progress| {
            let before = std::mem::take(&mut progress.jobs);
            let known = |job: JobProgress| {
                let before = before.get(&job.revision).cloned().unwrap_or_default();
                (job.revision, JobProgress { left: job.left, revision: job.revision, staged: 0, ..before })
            };
            let later = before.range(applied.saturating_add(1)..).map(|(revision, job)| (*revision, job.clone()));
            progress.jobs = jobs.into_iter().map(known).chain(later).collect();
            progress.jobs_as_of = Some(applied);
        });
    }

    /// The highest revision that a store is known to have taken in.
    pub(crate) fn applied(&self, store: &str) -> u64 {
        self.sender.borrow().get(store).map_or(0, |store| store.applied)
    }

    /// Changes what is known of one job.
    pub(crate) fn update_job(&self, store: &'static str, revision: u64, change: impl FnOnce(&mut JobProgress)) {
        self.update(store, |progress| {
            if let Some(job) = progress.jobs.get_mut(&revision) {
                change(job);
            }
        });
    }

    /// A job that taking in a revision is about to leave: the log must not be trimmed there from now on.
    pub(crate) fn expect_job(&self, store: &'static str, job: JobProgress) {
        self.update(store, |progress| {
            progress.jobs.insert(job.revision, job);
        });
    }

    /// A store goes on in no partition.
    pub(crate) fn stop(&self, store: &'static str, reason: &str) {
        self.update(store, |progress| {
            progress.problem = Some(reason.to_owned());
            for partition in progress.partitions.values_mut() {
                partition.state = PartitionState::Stopped { reason: reason.to_owned() };
            }
        });
    }

    /// No job of a store goes on.
    pub(crate) fn stop_jobs(&self, store: &'static str, reason: &str) {
        self.update(store, |progress| {
            for job in progress.jobs.values_mut() {
                job.problem = Some(reason.to_owned());
            }
        });
    }

    /// A loop begins again: whatever had stopped is tried again, where it is this worker's.
    pub(crate) fn restart(&self, store: &'static str, mine: impl Fn(u32) -> bool) {
        self.update(store, |progress| {
            for (partition, progress) in &mut progress.partitions {
                progress.state = if mine(*partition) { PartitionState::Running } else { PartitionState::Elsewhere };
            }
        });
    }

    pub(crate) fn set_state(&self, store: &'static str, partition: u32, state: PartitionState) {
        self.sender.send_if_modified(|snapshot| {
            let partitions = &mut snapshot.entry(store).or_default().partitions;
            match partitions.get_mut(&partition) {
                Some(progress) if progress.state == state => false,
                Some(progress) => {
                    progress.state = state;
                    true
                }
                None => false,
            }
        });
    }

    /// Keeps the log from these offsets on, by partition.
    pub(crate) fn hold(&self, from: BTreeMap<u32, u64>) -> Hold {
        let from = Arc::new(from);
        self.held().push(from.clone());
        Hold { progress: self.clone(), from }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offset below which every store has everything, no job has anything left and nothing is held; `None` while that
    /// is not known.
    pub fn released_below(&self, partition: u32) -> Option<u64> {
        let held = self.held().iter().filter_map(|held| held.get(&partition).copied()).min();
        let snapshot = self.sender.borrow();
        snapshot
            .values()
            .map(|store| {
                let next = store.partitions.get(&partition)?.next;
                store.jobs_as_of?;
                let jobs = store.jobs.values().filter_map(|job| job.left.get(&partition));
                Some(jobs.map(|left| left.start).fold(next, u64::min))
            })
            .try_fold(held.unwrap_or(u64::MAX), |lowest, next| next.map(|next| lowest.min(next)))
    }

    /// Returns once every store has taken in `revision` and has nothing left of it or of any before; or with the reason
    /// once one of them can't by itself.
    pub async fn wait_for_revision(&self, revision: u64) -> Result<(), String> {
        let mut receiver = self.subscribe();
        loop {
            if settled(&receiver.borrow_and_update(), revision)? {
                return Ok(());
            }
            if receiver.changed().await.is_err() {
                return Err("the engine has stopped".into());
            }
        }
    }

    /// Returns once every store has everything below `ends` (partition → offset), or with the reason once one of them
    /// can't get there by itself.
    pub async fn wait_for(&self, ends: &BTreeMap<u32, u64>) -> Result<(), String> {
        let mut receiver = self.subscribe();
        loop {
            match reached(&receiver.borrow_and_update(), ends) {
                Reached::Yes => return Ok(()),
                Reached::Never(reason) => return Err(reason),
                Reached::NotYet => {}
            }
            if receiver.changed().await.is_err() {
                return Err("the engine has stopped".into());
            }
        }
    }
}

/// Whether every store has taken in `revision` and worked off what it left; an error where one can't by itself.
fn settled(snapshot: &Snapshot, revision: u64) -> Result<bool, String> {
    let mut all = true;
    for (name, store) in snapshot {
        if let Some(problem) = &store.problem {
            return Err(format!("{name}: {problem}"));
        }
        if let Some(problem) = store.jobs.values().find_map(|job| job.problem.as_ref()) {
            return Err(format!("{name}: {problem}"));
        }
        all &= store.has_done(0..=revision);
    }
    Ok(all)
}

enum Reached {
    Yes,
    NotYet,
    Never(String),
}

fn reached(snapshot: &Snapshot, ends: &BTreeMap<u32, u64>) -> Reached {
    let mut all = true;
    for (store, progress) in snapshot {
        for (partition, end) in ends {
            match progress.partitions.get(partition) {
                Some(partition_progress) if partition_progress.next >= *end => {}
                Some(PartitionProgress { state: PartitionState::Stopped { reason }, .. }) => {
                    return Reached::Never(format!("{store}, partition {partition}: {reason}"));
                }
                _ => all = false,
            }
        }
    }
    if all { Reached::Yes } else { Reached::NotYet }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(progress: &Progress, store: &'static str, partition: u32, next: u64) {
        progress.update(store, |s| {
            s.jobs_as_of.get_or_insert_default();
            s.partitions.insert(partition, PartitionProgress { next, state: PartitionState::Running });
        });
    }

    #[test]
    fn nothing_is_released_before_every_store_is_known() {
        let progress = Progress::new(["delta", "history"]);
        assert_eq!(progress.released_below(0), None);
        at(&progress, "delta", 0, 9);
        assert_eq!(progress.released_below(0), None);
        at(&progress, "history", 0, 5);
        assert_eq!(progress.released_below(0), Some(5));
        let job = JobProgress { revision: 2, left: BTreeMap::from([(0, 3..5)]), ..JobProgress::default() };
        progress.expect_job("delta", job);
        assert_eq!(progress.released_below(0), Some(3), "a job needs the log");
        progress.report_jobs("delta", 1, vec![]);
        assert_eq!(progress.released_below(0), Some(3), "a look at the store before it had the job");
        progress.report_jobs("delta", 2, vec![]);
        assert_eq!(progress.released_below(0), Some(5));
        let (low, high) = (progress.hold([(0, 2), (1, 1)].into()), progress.hold([(0, 4)].into()));
        assert_eq!(progress.released_below(0), Some(2));
        drop(low);
        assert_eq!(progress.released_below(0), Some(4));
        drop(high);
        assert_eq!(progress.released_below(0), Some(5));
    }

    #[test]
    fn what_a_revision_leaves_is_waited_for_whenever_jobs_are_read() {
        let state = |applied| StoreState { applied, ..StoreState::default() };
        let job = || JobProgress { revision: 2, left: BTreeMap::from([(0, 3..5)]), ..JobProgress::default() };
        let settled = |progress: &Progress| settled(&progress.snapshot(), 2).unwrap();

        // The jobs are read for the first time while the store takes a revision in.
        let progress = Progress::new(["delta"]);
        progress.report("delta", &state(1), 1);
        progress.expect_job("delta", job());
        progress.report_jobs("delta", 1, vec![]);
        progress.report("delta", &state(2), 1);
        assert!(!settled(&progress));
        progress.report_jobs("delta", 2, vec![job()]);
        assert!(!settled(&progress));
        progress.report_jobs("delta", 2, vec![]);
        assert!(settled(&progress));

        // Another worker has the store take it in.
        let progress = Progress::new(["delta"]);
        progress.report_jobs("delta", 1, vec![]);
        progress.report("delta", &state(2), 1);
        assert!(!settled(&progress), "what it left is not known yet");
        progress.report_jobs("delta", 2, vec![]);
        assert!(settled(&progress));
    }

    #[tokio::test]
    async fn waiting_ends_when_all_arrived_or_one_never_will() {
        let progress = Progress::new(["delta", "history"]);
        let ends = BTreeMap::from([(0, 5)]);
        let waiting = tokio::spawn({
            let (progress, ends) = (progress.clone(), ends.clone());
            async move { progress.wait_for(&ends).await }
        });
        at(&progress, "delta", 0, 5);
        at(&progress, "history", 0, 7);
        assert_eq!(waiting.await.unwrap(), Ok(()));

        at(&progress, "delta", 0, 2);
        progress.set_state("delta", 0, PartitionState::Stopped { reason: "gap".into() });
        assert!(progress.wait_for(&ends).await.unwrap_err().contains("gap"));
    }
}
