//! Rewriting and compaction when others are first at the very last moment, and when they die. Failpoints are global:
//! every test here holds the scenario's lock, so they run one after the other, and writers that die are processes of
//! their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use common::*;
use fail::FailScenario;
use millrace_delta::{DeltaStore, Options};
use millrace_rows::{ColumnType, Job, Reason, Rewrite, Rewriter, Store, StoreError};

const TABLE: &str = "MILLRACE_TEST_TABLE";

fn is_fenced<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced { .. }))
}

/// Does something, once, when a writer comes to a failpoint; the writer waits for it.
fn meanwhile<F: Future<Output = ()>>(point: &str, action: impl FnOnce() -> F + Send + 'static) {
    let action = Mutex::new(Some(action));
    let act = move || {
        let Some(action) = action.lock().unwrap().take() else { return };
        let other = std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(action()));
        other.join().unwrap();
    };
    fail::cfg_callback(point, act).unwrap();
}

/// A table with four commits of partition 0, of which a revision's job covers all; and what is in it.
async fn table(path: &Path) -> (DeltaStore, BTreeMap<RowKey, Vec<u8>>) {
    let mut store = open_with(path, compacting()).await;
    let slices: Vec<_> = (0..4).map(|n| slice(0, n * 20, 20, 2)).collect();
    for slice in &slices {
        store.stage(slice.clone()).await.unwrap();
        store.commit().await.unwrap();
    }
    store.take_in(1, Some(Job { revision: 1, below: [(0, 80)].into() })).await.unwrap();
    (store, expected(&slices))
}

fn compacting() -> Options {
    Options { compact_files_min: 2, ..options() }
}

/// Every third record of the second half.
fn some() -> Rewrite {
    let remade: Vec<u64> = (40..80).step_by(3).collect();
    let specs: Vec<_> = remade.iter().map(|offset| (*offset, 0, time_of(5, *offset, 3))).collect();
    rewrite(0, 40..80, 1, remade, &specs)
}

/// Loads, stages and commits.
async fn work(store: &DeltaStore, rewrite: &Rewrite, left: &[(u32, u64)]) -> Result<(), StoreError> {
    let mut rewriter = store.rewriter();
    rewriter.load().await?;
    rewriter.stage(rewrite.clone()).await?;
    rewriter.commit(1, &left.iter().copied().collect(), &Reason::default()).await?;
    Ok(())
}

/// Whether the files on disk are those that entries speak of.
fn nothing_is_left_over(table: &Path) -> bool {
    let names = |text: &str| text.rsplit_once('/').unwrap().1.to_owned();
    let mut known = BTreeSet::new();
    for entry in entries(table) {
        for line in std::fs::read_to_string(table.join("_delta_log").join(entry)).unwrap().lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            known.extend(action["add"]["path"].as_str().map(names));
        }
    }
    data_files(table).iter().all(|file| known.contains(&names(file)))
}

#[tokio::test]
async fn live_commits_and_new_columns_at_the_last_moment_are_gone_along_with() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let (store, mut rows) = table(directory.path()).await;
    let live = slice_with(0, 80, 30, 2, 1, &[added("score", ColumnType::Float64)]);
    let (path, slice) = (directory.path().to_owned(), live.clone());
    meanwhile("delta::rewrite::before", move || async move {
        let mut other = open(&path).await;
        other.stage(slice).await.unwrap();
        other.commit().await.unwrap();
        other.stage(slice_with(1, 0, 5, 1, 1, &[])).await.unwrap();
        other.commit().await.unwrap();
    });
    work(&store, &some(), &[(0, 40)]).await.unwrap();
    replace(&mut rows, &some());
    canonical(&[live.rows, slice_with(1, 0, 5, 1, 1, &[]).rows], &mut rows);
    assert_eq!(read_table(&store.reader()).await, rows);
    assert!(nothing_is_left_over(directory.path()));
}

#[tokio::test]
async fn a_live_store_that_staged_before_a_correction_commits_after_it() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut rows) = table(directory.path()).await;
    let live = slice_with(0, 80, 30, 2, 1, &[]);
    store.stage(live.clone()).await.unwrap();
    let path = directory.path().to_owned();
    meanwhile("delta::commit::before", move || async move {
        work(&open(&path).await, &some(), &[(0, 40)]).await.unwrap();
    });
    assert_eq!(store.commit().await.unwrap().cursors[&0], cursor(110));
    replace(&mut rows, &some());
    canonical(&[live.rows], &mut rows);
    assert_eq!(read_table(&store.reader()).await, rows);
}

#[tokio::test]
async fn a_revision_a_compaction_or_another_rewriter_at_the_last_moment_fences() {
    let _scenario = FailScenario::setup();
    for other in ["take in", "compaction", "same job", "same job without records", "other job"] {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut rows) = table(directory.path()).await;
        let mut mine = some();
        if other == "same job without records" {
            mine = rewrite(0, 40..80, 1, vec![], &[]);
        }
        if other == "other job" {
            store.take_in(2, Some(Job { revision: 2, below: [(0, 80)].into() })).await.unwrap();
            let dropped = rewrite(0, 40..80, 2, mine.remade.clone(), &[]);
            work(&store, &dropped, &[(0, 80)]).await.unwrap();
            replace(&mut rows, &dropped);
            let specs: Vec<_> = mine.remade.iter().map(|offset| (*offset, 0, time_of(0, *offset, 1))).collect();
            mine = rewrite(0, 40..80, 2, mine.remade, &specs);
        }
        let (path, theirs) = (directory.path().to_owned(), mine.clone());
        meanwhile("delta::rewrite::before", move || async move {
            let mut store = open_with(&path, compacting()).await;
            match other {
                "take in" => _ = store.take_in(2, None).await.unwrap(),
                "compaction" => assert_eq!(store.maintainer().compact().await.unwrap().commits, 1),
                "same job" | "same job without records" => work(&store, &theirs, &[(0, 40)]).await.unwrap(),
                _ => {
                    // Adds rows of records that had none, so removes nothing, and moves another job.
                    let mut rewriter = store.rewriter();
                    rewriter.load().await.unwrap();
                    rewriter.stage(theirs).await.unwrap();
                    rewriter.commit(2, &BTreeMap::new(), &Reason::default()).await.unwrap();
                }
            }
        });
        let late = work(&store, &mine, &[(0, 39)]).await;
        assert!(is_fenced(&late), "{other}: {late:?}");
        if other.ends_with("job") {
            replace(&mut rows, &mine);
        }
        assert_eq!(read_table(&store.reader()).await, rows, "{other}");
        // The next try goes through, unless its records belong to a newer revision now.
        let again = work(&store, &mine, &[(0, 39)]).await;
        assert_eq!(is_fenced(&again), other == "take in", "{other}: {again:?}");
        if other != "take in" {
            again.unwrap();
            replace(&mut rows, &mine);
        }
        assert_eq!(read_table(&store.reader()).await, rows, "{other}");
    }
}

#[tokio::test]
async fn a_compaction_that_comes_second_looks_again() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let (store, mut rows) = table(directory.path()).await;
    let path = directory.path().to_owned();
    meanwhile("delta::compact::before", move || async move {
        let mut other = open(&path).await;
        work(&other, &some(), &[(0, 40)]).await.unwrap();
        other.stage(slice_with(0, 80, 5, 1, 1, &[])).await.unwrap();
        other.commit().await.unwrap();
    });
    let done = store.maintainer().compact().await.unwrap();
    assert_eq!((done.commits, done.conflicts), (1, 1));
    replace(&mut rows, &some());
    canonical(&[slice_with(0, 80, 5, 1, 1, &[]).rows], &mut rows);
    assert_eq!(read_table(&store.reader()).await, rows);
    assert!(nothing_is_left_over(directory.path()));
    assert_eq!(store.maintainer().counts().failures, 0);
}

#[tokio::test]
async fn of_two_compactions_one_is_in_vain() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let (store, rows) = table(directory.path()).await;
    let path = directory.path().to_owned();
    meanwhile("delta::compact::before", move || async move {
        let other = open_with(&path, compacting()).await;
        assert_eq!(other.maintainer().compact().await.unwrap().commits, 1);
    });
    let done = store.maintainer().compact().await.unwrap();
    assert_eq!((done.commits, done.conflicts), (0, 1));
    assert_eq!(read_table(&store.reader()).await, rows);
    assert!(nothing_is_left_over(directory.path()));
}

#[tokio::test]
async fn when_the_answer_to_a_correction_is_lost_load_tells_that_it_happened() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let (store, mut rows) = table(directory.path()).await;
    let mut rewriter = store.rewriter();
    rewriter.load().await.unwrap();
    rewriter.stage(some()).await.unwrap();
    fail::cfg("delta::rewrite::lost", "return").unwrap();
    let lost = rewriter.commit(1, &[(0, 40)].into(), &Reason::default()).await;
    assert!(matches!(lost, Err(StoreError::Unavailable { .. })), "{lost:?}");
    fail::remove("delta::rewrite::lost");
    assert_eq!(rewriter.load().await.unwrap().jobs, [Job { revision: 1, below: [(0, 40)].into() }]);
    replace(&mut rows, &some());
    assert_eq!(read_table(&store.reader()).await, rows, "its files are kept");

    fail::cfg("delta::compact::lost", "return").unwrap();
    assert!(matches!(store.maintainer().compact().await, Err(StoreError::Unavailable { .. })));
    fail::remove("delta::compact::lost");
    assert_eq!(read_table(&store.reader()).await, rows);
    assert_eq!(store.maintainer().counts().failures, 1);
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_harms_no_correction() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let (store, mut rows) = table(directory.path()).await;
    for passes in 0..4 {
        fail::cfg("delta::stage::full", &format!("{passes}*off->1*return->off")).unwrap();
        if let Err(error) = work(&store, &some(), &[(0, 80)]).await {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            assert_eq!(read_table(&store.reader()).await, rows);
        } else {
            replace(&mut rows, &some());
        }
        fail::remove("delta::stage::full");
    }
    replace(&mut rows, &some());
    work(&store, &some(), &[]).await.unwrap();
    assert_eq!(read_table(&store.reader()).await, rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn live_commits_a_rewriter_and_two_compactions_at_once_come_to_the_same_rows() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut rows) = table(directory.path()).await;
    let path = directory.path().to_owned();
    let live: Vec<_> = (0..30).map(|n| slice_with(0, 80 + n * 10, 10, 2, 1, &[])).collect();
    let slices = live.clone();
    let appends = tokio::spawn(async move {
        for slice in slices {
            store.stage(slice).await.unwrap();
            store.commit().await.unwrap();
        }
        store
    });
    let compactions: Vec<_> = (0..2)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move {
                let maintainer = open_with(&path, compacting()).await.maintainer();
                let mut done = (0, 0);
                for _ in 0..15 {
                    let compacted = maintainer.compact().await.unwrap();
                    done = (done.0 + compacted.commits, done.1 + compacted.conflicts);
                }
                done
            })
        })
        .collect();
    let other = open(&path).await;
    let mut fenced = 0;
    for below in [80, 70, 60, 50, 40, 30, 20, 10] {
        let left = (below > 10).then_some((0, below - 10));
        while let Err(error) = work(&other, &step(below - 10..below), left.as_slice()).await {
            assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
            fenced += 1;
            assert!(fenced < 500, "no progress");
        }
        replace(&mut rows, &step(below - 10..below));
    }
    let store = appends.await.unwrap();
    for slice in live {
        canonical(&[slice.rows], &mut rows);
    }
    for compaction in compactions {
        let (commits, conflicts) = compaction.await.unwrap();
        println!("{commits} compactions, {conflicts} in vain");
    }
    println!("the rewriter was fenced {fenced} times");
    assert_eq!(read_table(&store.reader()).await, rows);
    assert!(nothing_is_left_over(&path));
}

/// What the child does: works off the job in four steps from its end, then compacts.
async fn work_off(table: &str) {
    let store = DeltaStore::open(table, compacting()).await.unwrap();
    let mut rewriter = store.rewriter();
    let mut backlog = rewriter.load().await.unwrap();
    while let Some(below) = backlog.jobs.first().map(|job| job.below[&0]) {
        rewriter.stage(step(below - 20..below)).await.unwrap();
        let left = (below > 20).then_some((0, below - 20)).into_iter().collect();
        backlog = rewriter.commit(1, &left, &Reason::default()).await.unwrap();
    }
    store.maintainer().compact().await.unwrap();
}

fn step(offsets: std::ops::Range<u64>) -> Rewrite {
    let remade: Vec<u64> = offsets.clone().step_by(2).collect();
    let specs: Vec<_> = remade.iter().map(|offset| (*offset, 0, time_of(3, *offset, 3))).collect();
    rewrite(0, offsets, 1, remade, &specs)
}

/// Runs as a child of the test below; by itself it does nothing.
#[tokio::test]
async fn child() {
    let Some(table) = std::env::var_os(TABLE) else { return };
    let _scenario = FailScenario::setup();
    work_off(table.to_str().unwrap()).await;
}

/// Runs the writer in a child that has `failpoints`. True if it came to its end.
fn run_child(table: &Path, failpoints: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--test-threads=1"])
        .env(TABLE, table)
        .env("FAILPOINTS", failpoints)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&status) == Some(6);
    assert!(status.success() || aborted, "the writer failed in another way: {status}");
    status.success()
}

#[tokio::test]
async fn a_rewriter_that_dies_again_and_again_doubles_nothing_and_loses_nothing() {
    let _scenario = FailScenario::setup();
    for (point, at_least) in [
        ("delta::stage::written", 4),
        ("delta::rewrite::staged", 2),
        ("delta::rewrite::before", 2),
        ("delta::rewrite::after", 2),
        ("delta::compact::before", 1),
        ("delta::compact::after", 1),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().to_owned();
        let (store, mut rows) = table(&path).await;
        for from in [60, 40, 20, 0] {
            replace(&mut rows, &step(from..from + 20));
        }
        let keys: Vec<RowKey> = rows.keys().copied().collect();
        let mut crashes = 0;
        // Each child passes the point once more than the one before, and dies at the next.
        for passes in 0.. {
            assert!(passes < 50, "{point}: no progress");
            if run_child(&path, &format!("{point}={passes}*off->return")) {
                break;
            }
            crashes += 1;
            assert!(read_table(&store.reader()).await.keys().eq(keys.iter()), "{point}: {crashes}");
        }
        assert!(crashes >= at_least, "{point}: met {crashes} times");
        assert!(store.rewriter().load().await.unwrap().jobs.is_empty());
        assert_eq!(read_table(&store.reader()).await, rows, "{point}");
        store.maintainer().remove_orphans(std::time::Duration::ZERO).await.unwrap();
        assert!(nothing_is_left_over(&path), "{point}");
        assert_eq!(read_table(&store.reader()).await, rows, "{point}");
    }
}
