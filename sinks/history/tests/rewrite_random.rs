//! Jobs worked off while everything else goes on, and while processes die: at every moment each record shows one version of
//! it, and in the end the last.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use millrace_history::{HistoryReader, HistoryRewriter, HistoryStore};
use millrace_keyspace::Keyspace;
use millrace_keyspace::conformance::place::Place;
use millrace_keyspace::conformance::seed;
use millrace_keyspace::memory::{Fault, MemoryKeyspace};
use millrace_rows::{Backlog, Job, Reason, Rewriter, Store, StoreError, StoreState};
use rand::Rng;
use rand::rngs::StdRng;
use support::timeline::Timeline;
use support::{ROOT, check_exact, random};

const SEED: &str = "MILLRACE_CRASH_SEED";
const SIGABRT: i32 = 6;

/// What loops share.
struct World {
    keyspace: Arc<dyn Keyspace>,
    memory: Option<Arc<MemoryKeyspace>>,
    timeline: Timeline,
    random: RefCell<StdRng>,
    /// The live loop takes in no revision before it has read all of the log.
    revisions_last: bool,
    /// The live loop has read all of the log and taken in all revisions.
    live_done: Cell<bool>,
    loops: Cell<u32>,
    fenced: Cell<u32>,
    unavailable: Cell<u32>,
}

impl World {
    fn new(keyspace: Arc<dyn Keyspace>, memory: Option<Arc<MemoryKeyspace>>, records: usize, seed: u64) -> Self {
        let mut random = random(seed);
        Self {
            keyspace,
            memory,
            timeline: Timeline::random(2, records, 4, &mut random),
            random: random.into(),
            revisions_last: false,
            live_done: false.into(),
            loops: 0.into(),
            fenced: 0.into(),
            unavailable: 0.into(),
        }
    }

    fn number(&self, range: std::ops::Range<u64>) -> u64 {
        self.random.borrow_mut().random_range(range)
    }

    /// The next commits of anybody fail now and then.
    fn faults(&self) {
        if let Some(memory) = &self.memory {
            memory.plan((0..self.number(0..6)).map(|_| match self.number(0..12) {
                0 => Fault::UnknownCommitted,
                1 => Fault::UnknownLost,
                2 => Fault::Unavailable,
                _ => Fault::Pass,
            }));
        }
    }

    fn count(&self, error: &StoreError) {
        let counter = match error {
            StoreError::Fenced { .. } => &self.fenced,
            StoreError::Unavailable { .. } => &self.unavailable,
            StoreError::Broken { .. } => panic!("{error}"),
        };
        counter.set(counter.get() + 1);
    }

    async fn live(&self) {
        let limits = (self.number(1_000..300_000) as usize, self.number(1..20));
        let mut store = HistoryStore::new(self.keyspace.clone(), ROOT).with_transactions_of(limits.0, limits.1);
        let mut state = store.load().await.unwrap();
        loop {
            self.faults();
            let step = self.live_step(&mut store, &state).await;
            state = match step {
                Ok(Some(state)) => state,
                Ok(None) => break,
                Err(error) => {
                    self.count(&error);
                    store.load().await.unwrap()
                }
            };
        }
        self.live_done.set(true);
    }

    async fn live_step(&self, store: &mut HistoryStore, state: &StoreState) -> Result<Option<StoreState>, StoreError> {
        let next = |partition| state.cursors.get(&partition).map_or(0, |cursor| cursor.next);
        let mut slices: Vec<_> = (0..2)
            .filter_map(|partition| {
                self.timeline.slice(partition, next(partition), self.number(1..12) as usize, state.applied)
            })
            .collect();
        let revisions = state.applied < self.timeline.revisions();
        let early = !self.revisions_last && !state.cursors.is_empty() && self.number(0..8) == 0;
        if revisions && (slices.is_empty() || early) {
            let below = state.cursors.iter().map(|(partition, cursor)| (*partition, cursor.next)).collect();
            let revision = state.applied + 1;
            return store.take_in(revision, Some(Job { revision, below })).await.map(Some);
        }
        if slices.is_empty() {
            return Ok(None);
        }
        slices.truncate(self.number(1..3) as usize);
        for slice in slices {
            store.stage(slice).await?;
        }
        store.commit().await.map(Some)
    }

    async fn rewriter(&self) {
        let limits = (self.number(1..300_000) as usize, self.number(1..20));
        let mut rewriter = HistoryRewriter::new(self.keyspace.clone(), ROOT).with_transactions_of(limits.0, limits.1);
        let mut backlog = rewriter.load().await.unwrap();
        loop {
            if backlog.jobs.is_empty() {
                if self.live_done.get() && rewriter.load().await.unwrap().jobs.is_empty() {
                    break;
                }
                tokio::task::yield_now().await;
                backlog = rewriter.load().await.unwrap();
                continue;
            }
            let step = self.rewrite_step(&mut rewriter, &backlog).await;
            backlog = match step {
                Ok(backlog) => backlog,
                Err(error) => {
                    self.count(&error);
                    rewriter.load().await.unwrap()
                }
            };
        }
        self.loops.set(self.loops.get() - 1);
    }

    async fn rewrite_step(&self, rewriter: &mut HistoryRewriter, backlog: &Backlog) -> Result<Backlog, StoreError> {
        let job = &backlog.jobs[self.number(0..backlog.jobs.len() as u64) as usize];
        let (mut left, span) = (BTreeMap::new(), self.number(1..60));
        for (partition, below) in &job.below {
            let start = below.saturating_sub(span);
            let middle = self.number(start..below + 1);
            for offsets in [start..middle, middle..*below] {
                let rewrite = self.timeline.rewrite(*partition, offsets, job.revision, backlog.state.applied);
                rewriter.stage(rewrite).await?;
                if self.number(0..3) > 0 {
                    rewriter.flush(job.revision).await?;
                }
            }
            if start > 0 {
                left.insert(*partition, start);
            }
        }
        rewriter.commit(job.revision, &left, &Reason::default()).await
    }

    async fn reader(&self) {
        let reader = HistoryReader::new(self.keyspace.clone(), ROOT);
        while self.loops.get() > 0 {
            let view = reader.view().await.unwrap();
            let mut random = random(self.number(0..1 << 40));
            self.timeline.check_whole(&view, &mut random).await;
        }
    }

    async fn check_end(&self) {
        let reader = HistoryReader::new(self.keyspace.clone(), ROOT);
        let state = reader.state().await.unwrap();
        let last = self.timeline.revisions();
        assert_eq!(state.applied, last);
        assert!(reader.view().await.unwrap().jobs().await.unwrap().is_empty());
        let logs = self.timeline.logs_under(last);
        assert!(logs.iter().all(|log| log.end() == state.cursors[&log.partition].next));
        check_exact(&self.keyspace, &logs, &state, |p, offset| self.timeline.in_force(last, p, offset)).await;
    }

    /// The live loop, two rewriters and a reader at the same time.
    async fn run(&self) {
        self.loops.set(2);
        tokio::join!(self.live(), self.rewriter(), self.rewriter(), self.reader());
        self.check_end().await;
    }
}

#[tokio::test]
async fn every_record_shows_one_version_whatever_races_and_fails() {
    let (mut fenced, mut unavailable) = (0, 0);
    for round in 0..6 {
        let memory = Arc::new(MemoryKeyspace::default());
        let world = World::new(memory.clone(), Some(memory), 150, seed() ^ round);
        world.run().await;
        fenced += world.fenced.get();
        unavailable += world.unavailable.get();
    }
    assert!(fenced > 0 && unavailable > 0, "no failure was met: {fenced}, {unavailable}");
}

#[tokio::test]
async fn every_record_shows_one_version_on_keyspaces_that_last() {
    let dir = tempfile::tempdir().unwrap();
    for place in Place::all("every_record_shows_one_version", dir.path()) {
        let opened = place.open(Default::default()).await;
        World::new(opened.keyspace.clone(), None, 60, seed()).run().await;
        opened.close().await;
    }
}

/// A world whose jobs have much to do.
fn with_late_revisions(keyspace: Arc<dyn Keyspace>, seed: u64) -> World {
    World { revisions_last: true, ..World::new(keyspace, None, 80, seed) }
}

#[tokio::test]
#[ignore = "the child of the other tests"]
async fn child() {
    let scenario = fail::FailScenario::setup();
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let world = with_late_revisions(Place::told().open(Default::default()).await.keyspace, seed);
    world.live_done.set(true);
    world.loops.set(1);
    world.rewriter().await;
    scenario.teardown();
}

/// Lets the child die `times` times, then finishes its work and checks all of it.
async fn survive(failpoints: &str, times: usize) {
    let dir = tempfile::tempdir().unwrap();
    for place in Place::all("rewrite_crash", dir.path()) {
        survive_at(&place, failpoints, times).await;
    }
}

async fn survive_at(place: &Place, failpoints: &str, times: usize) {
    let seed = seed();
    {
        let opened = place.open(Default::default()).await;
        with_late_revisions(opened.keyspace.clone(), seed).live().await;
        opened.close().await;
    }
    for _ in 0..times {
        let mut child = Command::new(std::env::current_exe().unwrap());
        place.tell(&mut child);
        let status = child
            .args(["--exact", "child", "--ignored", "--test-threads=1"])
            .env(SEED, seed.to_string())
            .env("FAILPOINTS", failpoints)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "{failpoints}");
        let opened = place.open(Default::default()).await;
        let world = with_late_revisions(opened.keyspace.clone(), seed);
        let view = HistoryReader::new(opened.keyspace.clone(), ROOT).view().await.unwrap();
        assert!(!view.jobs().await.unwrap().is_empty(), "{failpoints}: the child had died before the end each time");
        world.timeline.check_whole(&view, &mut random(seed)).await;
        drop(view);
        opened.close().await;
    }
    let opened = place.open(Default::default()).await;
    let world = with_late_revisions(opened.keyspace.clone(), seed);
    world.live_done.set(true);
    world.loops.set(1);
    world.rewriter().await;
    world.check_end().await;
    opened.close().await;
}

#[tokio::test]
async fn dying_before_a_transaction() {
    survive("history::rewrite::before=3*off->return", 3).await;
}

#[tokio::test]
async fn dying_between_the_transactions_of_a_commit() {
    survive("history::rewrite::between=2*off->return", 3).await;
}

#[tokio::test]
async fn dying_when_the_keyspace_has_committed_and_nobody_knows() {
    survive("keyspace::commit::after=2*off->return", 3).await;
}
