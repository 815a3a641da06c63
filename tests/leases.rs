//! Several workers over one keyspace, in a simulation: workers that run at different speeds, sleep, die, are cut off from
//! the keyspace, and get answers late or never. Time is virtual, everything random follows from a seed.
//!
//! The board of duties, the keeper and the history are the real ones; what feeds the history is a log of which only the
//! offsets count, each of them a dead letter: its key is written once, or the test fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use millrace_history::{HistoryReader, HistoryStore};
use millrace_keyspace::memory::MemoryKeyspace;
use millrace_keyspace::{Batch, Keyspace, KeyspaceError, Snapshot, Write};
use millrace_pipeline::leases::{Duties, Duty, Keeper, LOOK_EVERY};
use millrace_rows::schema::row_schema;
use millrace_rows::{Cursor, DeadLetter, LogId, Mark, Slice, Store, StoreError, StoreState};
use millrace_timeline::Catalogue;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

const ROOT: &str = "simulated";
const LOG: LogId = LogId([3; 16]);

/// The keyspace that all workers share, and how often each dead letter was put into it.
#[derive(Default)]
struct Truth {
    keys: MemoryKeyspace,
    put: Mutex<HashMap<Bytes, u32>>,
    /// Commits of the store that were refused because of what they compare: another worker had moved it on.
    conflicts: Mutex<u64>,
}

/// What goes wrong.
#[derive(Clone, Copy)]
struct Faults {
    /// Of a thousand answers so many are lost, half of them with the request.
    lost: u32,
    /// Of a thousand calls so many take seconds.
    slow: u32,
}

const CALM: Faults = Faults { lost: 0, slow: 0 };

/// The keyspace as one worker sees it.
struct Link {
    truth: Arc<Truth>,
    random: Mutex<StdRng>,
    cut: Arc<AtomicBool>,
    faults: Arc<Mutex<Faults>>,
    dead_letters: Bytes,
    board: Bytes,
}

impl Link {
    fn random<T>(&self, pick: impl FnOnce(&mut StdRng) -> T) -> T {
        pick(&mut self.random.lock().unwrap())
    }

    /// The way there or back.
    async fn way(&self) {
        let slow = self.faults.lock().unwrap().slow;
        let ms = self.random(|random| match random.random_range(0..1000) < slow {
            true => random.random_range(1000..9000),
            false => random.random_range(0..8),
        });
        sleep(Duration::from_millis(ms)).await;
    }

    async fn reach(&self) -> Result<(), KeyspaceError> {
        self.way().await;
        match self.cut.load(Ordering::Relaxed) {
            true => Err(KeyspaceError::Unavailable("cut off".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Keyspace for Link {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KeyspaceError> {
        self.reach().await?;
        self.truth.keys.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Result<(), KeyspaceError> {
        self.reach().await?;
        let lost = self.faults.lock().unwrap().lost;
        let unknown = || Err(KeyspaceError::Unknown("no answer".into()));
        let (answer_lost, request_lost) = self.random(|random| (random.random_range(0..1000) < lost, random.random()));
        if answer_lost && request_lost {
            return unknown();
        }
        let letters: Vec<Bytes> = batch
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Put(key, _) if key.starts_with(&self.dead_letters) => Some(key.clone()),
                _ => None,
            })
            .collect();
        let result = self.truth.keys.commit(batch).await;
        match &result {
            Ok(()) => {
                let mut put = self.truth.put.lock().unwrap();
                letters.into_iter().for_each(|key| *put.entry(key).or_default() += 1);
            }
            Err(KeyspaceError::Conflict { key }) if !key.starts_with(&self.board) => {
                *self.truth.conflicts.lock().unwrap() += 1
            }
            Err(_) => {}
        }
        self.way().await;
        if answer_lost || self.cut.load(Ordering::Relaxed) { unknown() } else { result }
    }
}

/// A worker as the test holds it.
struct Worker {
    loops: Vec<tokio::task::JoinHandle<()>>,
    cut: Arc<AtomicBool>,
    asleep: Arc<AtomicBool>,
    duties: Duties,
}

impl Worker {
    fn kill(self) {
        self.loops.into_iter().for_each(|task| task.abort());
    }
}

struct World {
    truth: Arc<Truth>,
    faults: Arc<Mutex<Faults>>,
    ends: Arc<Vec<u64>>,
    born: u64,
}

impl World {
    async fn new(ends: Vec<u64>) -> Self {
        let world = Self { truth: Arc::default(), faults: Arc::new(Mutex::new(CALM)), ends: Arc::new(ends), born: 0 };
        let mut store = HistoryStore::new(Arc::new(world.link(0, Arc::default())), ROOT);
        store.load().await.unwrap();
        store.take_in(1, None).await.unwrap();
        Catalogue::open(Arc::new(world.link(0, Arc::default())), ROOT).await.unwrap();
        world
    }

    fn link(&self, seed: u64, cut: Arc<AtomicBool>) -> Link {
        Link {
            truth: self.truth.clone(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            cut,
            faults: self.faults.clone(),
            dead_letters: foundationdb_tuple::pack(&(ROOT, "d")).into(),
            board: foundationdb_tuple::pack(&(ROOT, "w")).into(),
        }
    }

    fn partitions(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Starts a worker whose clock runs `pace` times as slow as it should.
    async fn start(&mut self, random: &mut StdRng, pace: f64) -> Worker {
        self.born += 1;
        let (cut, asleep) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let keyspace: Arc<dyn Keyspace> = Arc::new(self.link(random.random(), cut.clone()));
        let catalogue = loop {
            if let Ok(catalogue) = Catalogue::open(keyspace.clone(), ROOT).await {
                break catalogue;
            }
        };
        let id = format!("worker-{:03}-{}", self.born, random.random::<u16>());
        let mut keeper = Keeper::new(catalogue, id, self.partitions(), ["delta", "history"]);
        let duties = keeper.duties();
        let looks = {
            let asleep = asleep.clone();
            async move {
                loop {
                    awake(&asleep).await;
                    keeper.look().await;
                    sleep(LOOK_EVERY.mul_f64(pace)).await;
                }
            }
        };
        let work = work(
            HistoryStore::new(keyspace, ROOT),
            duties.clone(),
            self.ends.clone(),
            asleep.clone(),
            StdRng::seed_from_u64(random.random()),
        );
        Worker { loops: vec![tokio::spawn(looks), tokio::spawn(work)], cut, asleep, duties }
    }

    async fn state(&self) -> StoreState {
        HistoryReader::new(Arc::new(self.link(0, Arc::default())), ROOT).state().await.unwrap()
    }

    async fn done(&self) -> bool {
        let state = self.state().await;
        (0..).zip(self.ends.iter()).all(|(p, end)| state.cursors.get(&p).map_or(0, |cursor| cursor.next) == *end)
    }

    /// Every record was written, and by one commit.
    fn assert_exactly_once(&self, seed: u64) {
        let put = self.truth.put.lock().unwrap();
        let doubled: Vec<_> = put.iter().filter(|(_, times)| **times != 1).collect();
        assert!(doubled.is_empty(), "seed {seed}: written more than once: {doubled:?}");
        assert_eq!(put.len() as u64, self.ends.iter().sum::<u64>(), "seed {seed}");
    }
}

async fn awake(asleep: &AtomicBool) {
    while asleep.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(50)).await;
    }
}

fn slice(partition: u32, stands: Option<&Cursor>, end: u64, applied: u64) -> Slice {
    let first = stands.map_or(0, |cursor| cursor.next);
    let mark = |offset: u64| Mark::of(u128::from(offset) + 1, u64::from(partition));
    let dead = |offset| DeadLetter { offset, revision: 1, step: "decode".to_owned(), code: "not_json".to_owned() };
    Slice {
        partition,
        first,
        cursor: Cursor { log: LOG, next: end, mark: mark(end - 1) },
        applied,
        rows: RecordBatch::new_empty(row_schema(&[])),
        dead: (first..end).map(dead).collect(),
        read: end - first,
        marks: (first..end).map(mark).collect(),
        dropped: 0,
    }
}

/// What the engine's loop does: from the durable state on, slice after slice, until something fails or the duties change.
async fn work(
    mut store: HistoryStore,
    mut duties: Duties,
    ends: Arc<Vec<u64>>,
    asleep: Arc<AtomicBool>,
    mut random: StdRng,
) {
    loop {
        awake(&asleep).await;
        let failed = pass(&mut store, &mut duties, &ends, &asleep, &mut random).await.is_err();
        sleep(Duration::from_millis(if failed { 50 } else { 200 })).await;
    }
}

async fn pass(
    store: &mut HistoryStore,
    duties: &mut Duties,
    ends: &[u64],
    asleep: &AtomicBool,
    random: &mut StdRng,
) -> Result<(), StoreError> {
    let mut state = store.load().await?;
    let mine = duties.partitions(ends.len() as u32);
    for _ in 0..random.random_range(1..20) {
        let mut staged = false;
        for partition in mine.iter().copied() {
            let stands = state.cursors.get(&partition);
            let (next, end) = (stands.map_or(0, |cursor| cursor.next), ends[partition as usize]);
            if next < end && random.random() {
                let until = end.min(next + random.random_range(1..6));
                store.stage(slice(partition, stands, until, state.applied)).await?;
                staged = true;
            }
        }
        // It may have slept between having looked and writing: then it writes on what it has lost.
        awake(asleep).await;
        if staged {
            state = store.commit().await?;
        }
        sleep(Duration::from_millis(random.random_range(0..100))).await;
    }
    Ok(())
}

fn simulate<T>(run: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(run)
}

/// Who holds what among those that live: a partition held twice is named twice.
fn held(workers: &[Worker]) -> Vec<Duty> {
    workers.iter().filter_map(|worker| worker.duties.list()).flatten().collect()
}

fn all_duties(partitions: u32) -> BTreeSet<Duty> {
    let others = [Duty::Jobs("delta"), Duty::Jobs("history"), Duty::Maintenance];
    (0..partitions).map(Duty::Partition).chain(others).collect()
}

/// Waits until every duty is held once. `None` if that takes longer than `most`.
async fn until_settled(workers: &[Worker], partitions: u32, most: Duration) -> Option<Duration> {
    let began = Instant::now();
    let expected = all_duties(partitions);
    while began.elapsed() <= most {
        let held = held(workers);
        if held.len() == expected.len() && held.into_iter().collect::<BTreeSet<_>>() == expected {
            return Some(began.elapsed());
        }
        sleep(Duration::from_millis(20)).await;
    }
    None
}

/// One schedule. Returns how many commits of the store the fences kept out.
async fn schedule(seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let ends = (0..random.random_range(1..6)).map(|_| random.random_range(1..120)).collect();
    let mut world = World::new(ends).await;
    *world.faults.lock().unwrap() = Faults { lost: random.random_range(0..80), slow: random.random_range(0..30) };
    let mut workers = Vec::new();
    for _ in 0..random.random_range(1..5) {
        let pace = random.random_range(0.3..3.0);
        workers.push(world.start(&mut random, pace).await);
    }
    let began = Instant::now();
    for _ in 0..random.random_range(5..40) {
        sleep(Duration::from_millis(random.random_range(0..2500))).await;
        let one = random.random_range(0..workers.len());
        match random.random_range(0..8) {
            0 | 1 => {
                workers.swap_remove(one).kill();
                let pace = random.random_range(0.3..3.0);
                workers.push(world.start(&mut random, pace).await);
            }
            2 if workers.len() < 5 => {
                let pace = random.random_range(0.3..3.0);
                workers.push(world.start(&mut random, pace).await);
            }
            3 if workers.len() > 1 => workers.swap_remove(one).kill(),
            4 | 5 => {
                let asleep = &workers[one].asleep;
                asleep.store(!asleep.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            _ => {
                let cut = &workers[one].cut;
                cut.store(!cut.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }
    // All is well again: what is left is done, and every duty is somebody's.
    *world.faults.lock().unwrap() = CALM;
    for worker in &workers {
        worker.asleep.store(false, Ordering::Relaxed);
        worker.cut.store(false, Ordering::Relaxed);
    }
    let settled = until_settled(&workers, world.partitions(), Duration::from_secs(120)).await;
    assert!(settled.is_some(), "seed {seed}: duties after two minutes: {:?}", held(&workers));
    while !world.done().await {
        assert!(began.elapsed() < Duration::from_secs(900), "seed {seed}: it never ends: {:?}", world.state().await);
        sleep(Duration::from_millis(100)).await;
    }
    workers.into_iter().for_each(Worker::kill);
    world.assert_exactly_once(seed);
    *world.truth.conflicts.lock().unwrap()
}

#[test]
fn thousands_of_schedules_write_every_record_once() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (first, schedules) = (number("MILLRACE_SEED", 1), number("MILLRACE_SCHEDULES", 2000));
    println!("{schedules} schedules from seed {first} (MILLRACE_SEED, MILLRACE_SCHEDULES)");
    let refused: u64 = (first..first + schedules).map(|seed| simulate(schedule(seed))).sum();
    println!("{refused} commits of the store were refused");
    assert!(refused > schedules / 20, "the schedules provoke what the fences are for");
}

#[test]
fn duties_move_within_seconds_and_are_shared_evenly() {
    simulate(async {
        let mut random = StdRng::seed_from_u64(7);
        let mut world = World::new(vec![1; 8]).await;
        let mut workers = Vec::new();
        for _ in 0..3 {
            workers.push(world.start(&mut random, 1.0).await);
        }
        let settled = until_settled(&workers, 8, Duration::from_secs(3)).await.expect("three share");
        let counts = |workers: &[Worker]| -> BTreeMap<usize, usize> {
            let partitions = |worker: &Worker| {
                let duties = worker.duties.list().unwrap_or_default();
                duties.iter().filter(|duty| matches!(duty, Duty::Partition(_))).count()
            };
            workers.iter().map(partitions).fold(BTreeMap::new(), |mut counts, count| {
                *counts.entry(count).or_default() += 1;
                counts
            })
        };
        assert_eq!(counts(&workers), BTreeMap::from([(3, 2), (2, 1)]));
        workers.pop().unwrap().kill();
        let dead = until_settled(&workers, 8, Duration::from_secs(5)).await.expect("two take what the third had");
        assert_eq!(counts(&workers), BTreeMap::from([(4, 2)]));
        workers.push(world.start(&mut random, 1.0).await);
        let began = Instant::now();
        while counts(&workers) != BTreeMap::from([(3, 2), (2, 1)]) {
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", counts(&workers));
            sleep(Duration::from_millis(20)).await;
        }
        println!("settled {settled:?}, after a death {dead:?}, after a newcomer {:?}", began.elapsed());
        workers.into_iter().for_each(Worker::kill);
    });
}
