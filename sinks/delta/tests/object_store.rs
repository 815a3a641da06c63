//! Exactly once on an object store that fails, throttles, and loses answers; over `object_store`'s store in memory, which
//! decides a conditional put atomically as S3 does. What fails, and when, follows from a seed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::faulty::{Fault, Faulty};
use common::*;
use deltalake::logstore::object_store;
use millrace_delta::{Compression, DeltaRewriter, DeltaStore, Maintainer, Options};
use millrace_rows::{Job, Reason, Rewriter, Slice, Store, StoreError};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path as Key};
use url::Url;

const PARTITIONS: u32 = 2;
/// Where the log of each partition ends.
const END: u64 = 120;
const REVISIONS: u64 = 3;
const DAYS: u64 = 2;

fn at() -> Url {
    Url::parse("memory:///deep/events").unwrap()
}

async fn open(store: &Arc<Faulty>, options: Options) -> DeltaStore {
    DeltaStore::open_in(store.clone(), &at(), options).await.unwrap()
}

/// What may happen to a writer whose store fails: it has to look again. Nobody must be told that the table is broken.
fn passes(seed: u64, who: &str, error: &StoreError) {
    assert!(!matches!(error, StoreError::Broken { .. }), "seed {seed}, {who}: {error}");
}

/// Writes what follows, and takes in the next revision when the work of the last is done, until there is nothing more.
async fn live(seed: u64, number: u64, mut store: DeltaStore) {
    let mut state = None;
    for round in 0..20_000u64 {
        let Some(now) = state.take() else {
            match store.load().await {
                Ok(loaded) => state = Some(loaded),
                Err(error) => passes(seed, "load", &error),
            }
            continue;
        };
        let next = |partition| now.cursors.get(&partition).map_or(0, |cursor| cursor.next);
        let least = (0..PARTITIONS).map(next).min().unwrap();
        let jobs = store.jobs().await;
        let idle = jobs.as_ref().is_ok_and(Vec::is_empty);
        // The position may be behind what others did; then this is fenced.
        if now.applied < REVISIONS && idle && least >= END * (now.applied + 1) / (REVISIONS + 1) {
            let below = (0..PARTITIONS).map(|partition| (partition, next(partition))).collect();
            let revision = now.applied + 1;
            match store.take_in(revision, Some(Job { revision, below })).await {
                Ok(taken) => state = Some(taken),
                Err(error) => passes(seed, "take in", &error),
            }
            continue;
        }
        if least == END && now.applied == REVISIONS {
            return;
        }
        let mut failed = false;
        for partition in 0..PARTITIONS {
            let count = (1 + mix(&[seed, number, round, u64::from(partition)]) % 9).min(END - next(partition));
            if count > 0 && !failed {
                let slice = slice_with(partition, next(partition), count, DAYS, now.applied, &[]);
                if let Err(error) = store.stage(slice).await {
                    passes(seed, "stage", &error);
                    failed = true;
                }
            }
        }
        if failed {
            continue;
        }
        match store.commit().await {
            // Every other time it starts from what is in the table, as after a change of hands.
            Ok(committed) => state = (round % 2 == 0).then_some(committed),
            Err(error) => passes(seed, "commit", &error),
        }
        if least == END {
            // Nothing to write, a job to wait for: look again.
            state = None;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    panic!("seed {seed}: the live writer did not come to its end");
}

/// Works off jobs from their end, until the last revision is done.
async fn rewrite_jobs(seed: u64, mut rewriter: DeltaRewriter) {
    for round in 0..20_000u64 {
        let backlog = match rewriter.load().await {
            Ok(backlog) => backlog,
            Err(error) => {
                passes(seed, "load", &error);
                continue;
            }
        };
        let Some(job) = backlog.jobs.first() else {
            if backlog.state.applied == REVISIONS {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        let mut left = job.below.clone();
        let mut failed = false;
        for (partition, below) in &job.below {
            let start = below.saturating_sub(10 + mix(&[seed, round]) % 30);
            match start {
                0 => left.remove(partition),
                _ => left.insert(*partition, start),
            };
            if !failed
                && let Err(error) =
                    rewriter.stage(rewrite_all(*partition, start..*below, backlog.state.applied, DAYS)).await
            {
                passes(seed, "stage a rewrite", &error);
                failed = true;
            }
        }
        if !failed && let Err(error) = rewriter.commit(job.revision, &left, &Reason::default()).await {
            passes(seed, "rewrite", &error);
        }
    }
    panic!("seed {seed}: the rewriter did not come to its end");
}

/// Checkpoints, cleans up and compacts while others write: whenever they wrote a few entries.
async fn maintain(seed: u64, maintainer: Maintainer, store: Arc<Faulty>, done: Arc<AtomicBool>) {
    let mut entries = 0;
    while !done.load(Ordering::Relaxed) {
        if store.created() >= entries + 8 {
            entries = store.created();
            if let Err(error) = maintainer.run().await {
                passes(seed, "maintenance", &error);
            }
        }
        // What turns the loop is the others' writing.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Every commit id in the log, with its version; the log must have no gap.
async fn commits(store: &dyn ObjectStore) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for version in 0.. {
        let at = Key::from(format!("deep/events/_delta_log/{version:020}.json"));
        let entry = match store.get(&at).await {
            Ok(entry) => entry.bytes().await.unwrap(),
            Err(object_store::Error::NotFound { .. }) => break,
            Err(error) => panic!("{error}"),
        };
        for line in entry.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let action: serde_json::Value = serde_json::from_slice(line).unwrap();
            if let Some(id) = action["commitInfo"]["millrace"]["commit"].as_str() {
                found.push((id.to_owned(), version));
            }
        }
    }
    found
}

async fn run(seed: u64) -> BTreeMap<Fault, u64> {
    let store = Arc::new(Faulty::new(seed));
    let options = || Options {
        compact_files_min: 2,
        compaction: true,
        checkpoint_every: 7,
        orphan_age: Duration::MAX,
        ..options()
    };
    let (first, second) = (open(&store, options()).await, open(&store, options()).await);
    let (rewriter, maintainer) = (first.rewriter(), second.maintainer());
    let reader = first.reader();
    let done = Arc::new(AtomicBool::new(false));
    store.fail(true);
    let maintenance = tokio::spawn(maintain(seed, maintainer.clone(), store.clone(), done.clone()));
    let writers = [
        tokio::spawn(live(seed, 1, first)),
        tokio::spawn(live(seed, 2, second)),
        tokio::spawn(rewrite_jobs(seed, rewriter)),
    ];
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    maintenance.await.unwrap();
    store.fail(false);

    // Whatever was on its way arrives now, or is refused.
    store.settle().await;
    let (state, jobs) = reader.position().await.unwrap();
    assert_eq!(state.cursors, (0..PARTITIONS).map(|partition| (partition, cursor(END))).collect(), "seed {seed}");
    assert_eq!((state.applied, jobs), (REVISIONS, Vec::new()), "seed {seed}");
    let slices: Vec<Slice> =
        (0..PARTITIONS).map(|partition| slice_with(partition, 0, END, DAYS, REVISIONS, &[])).collect();
    assert!(read_table(&reader).await == expected(&slices), "seed {seed}: rows are missing, or of another revision");

    // Every version was created once, and no commit is in the log twice.
    let commits = commits(store.as_ref()).await;
    let ids: BTreeSet<&str> = commits.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids.len(), commits.len(), "seed {seed}: a commit is there twice");
    assert_eq!(store.created_twice(), 0, "seed {seed}");
    assert_eq!(
        commits.len() as u64 + 1,
        reader.status().await.unwrap().version + 1,
        "seed {seed}: one commit a version"
    );

    // What nobody knows the fate of was left; once old it goes, and the table is as it was.
    maintainer.remove_orphans(Duration::ZERO).await.unwrap();
    assert!(read_table(&reader).await == expected(&slices), "seed {seed}: a file in force was removed");
    store.faults()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_there_once_whatever_the_store_does() {
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    for seed in 0..5 {
        println!("seed {seed}");
        for (fault, times) in run(seed).await {
            *faults.entry(fault).or_default() += times;
        }
    }
    println!("{faults:?}");
    for fault in Fault::ALL {
        assert!(faults.get(&fault).is_some_and(|times| *times > 0), "{fault:?} never happened: {faults:?}");
    }
}

#[tokio::test]
async fn an_entry_that_went_through_unseen_is_known_again() {
    for fault in [Fault::Repeated, Fault::Lost] {
        let store = Arc::new(Faulty::new(1));
        let mut writer = open(&store, options()).await;
        writer.load().await.unwrap();
        writer.stage(slice(0, 0, 10, 1)).await.unwrap();
        store.next(fault);
        let committed = writer.commit().await;
        let state = match fault {
            // The layer below asked again, and was told that the entry exists: it is ours.
            Fault::Repeated => committed.unwrap(),
            // No answer: nobody knows, until the table is looked at.
            _ => {
                assert!(matches!(&committed, Err(StoreError::Unavailable { .. })), "{committed:?}");
                writer.load().await.unwrap()
            }
        };
        assert_eq!(state.cursors[&0], cursor(10), "{fault:?}");
        writer.stage(slice(0, 10, 10, 1)).await.unwrap();
        writer.commit().await.unwrap();
        assert_eq!(read_table(&writer.reader()).await, expected(&[slice(0, 0, 20, 1)]), "{fault:?}");
        assert_eq!(writer.version(), Some(2), "{fault:?}");
    }
}

#[tokio::test]
async fn an_entry_that_arrives_late_fences_or_is_refused() {
    let store = Arc::new(Faulty::new(1));
    let mut writer = open(&store, options()).await;
    for arrives_before in [true, false] {
        let first = writer.load().await.unwrap().cursors.get(&0).map_or(0, |cursor| cursor.next);
        writer.stage(slice(0, first, 10, 1)).await.unwrap();
        store.next(Fault::Late);
        assert!(writer.commit().await.is_err());
        assert_eq!(writer.load().await.unwrap().cursors.get(&0).map_or(0, |cursor| cursor.next), first);
        writer.stage(slice(0, first, 10, 1)).await.unwrap();
        if arrives_before {
            store.settle().await;
            let fenced = writer.commit().await;
            assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "{fenced:?}");
        } else {
            writer.commit().await.unwrap();
            store.settle().await;
        }
        let next = writer.load().await.unwrap().cursors[&0].next;
        assert_eq!(next, first + 10);
        assert_eq!(read_table(&writer.reader()).await, expected(&[slice(0, 0, next, 1)]));
    }
}

#[tokio::test]
async fn a_commit_puts_its_files_and_its_entry_and_reads_nothing() {
    let store = Arc::new(Faulty::new(1));
    let mut writer = open(&store, options()).await;
    writer.load().await.unwrap();
    for n in 0..20 {
        let before = store.requests();
        writer.stage(slice(0, n * 10, 10, 1)).await.unwrap();
        writer.stage(slice(1, n * 10, 10, 1)).await.unwrap();
        writer.commit().await.unwrap();
        let after = store.requests();
        assert_eq!((after.0 - before.0, after.1 - before.1), (3, 0), "commit {n}: puts, and gets and lists");
    }
}

#[tokio::test]
async fn a_store_without_conditional_puts_is_refused() {
    let store = Arc::new(Faulty::new(1));
    store.overwrite_always();
    let opened = DeltaStore::open_in(store, &at(), options()).await;
    let Err(StoreError::Broken { detail, .. }) = opened else { panic!("it was accepted") };
    assert!(detail.contains("If-None-Match"), "{detail}");
}

/// Rows of more than two parts in one file.
fn large() -> Slice {
    slice(0, 0, 240_000, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_goes_in_parts_of_bounded_memory_and_is_given_up_with_its_commit() {
    let store = Arc::new(Faulty::new(1));
    let snappy = || Options { compression: Compression::Snappy, write_bytes_min: 0, ..options() };
    let mut writer = open(&store, snappy()).await;
    writer.load().await.unwrap();
    writer.stage(large()).await.unwrap();
    writer.commit().await.unwrap();
    let [file] = writer.reader().files(&Default::default()).await.unwrap().try_into().unwrap();
    assert!(file.bytes > 17 << 20, "{} bytes are no two parts", file.bytes);
    assert_eq!(store.uploads(), (1, 1, 0), "started, completed, given up");
    assert_eq!(writer.reader().status().await.unwrap().rows, 240_000);

    // Staged and never committed: the parts that the store has are given up.
    let mut second = open(&store, snappy()).await;
    second.load().await.unwrap();
    let mut slice = large();
    slice.partition = 1;
    second.stage(slice).await.unwrap();
    while store.uploads().0 < 2 {
        // What is encoded in the background starts the upload.
        tokio::task::yield_now().await;
    }
    second.load().await.unwrap();
    let given_up = async {
        while store.uploads() != (2, 1, 1) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), given_up).await.unwrap();
}
