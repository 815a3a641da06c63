//! Exactly once, whatever dies. Failpoints are global: every test here holds the scenario's lock, so they run one after
//! the other, and writers that die are processes of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use fail::FailScenario;
use millrace_delta::{DeltaStore, Options};
use millrace_rows::{Slice, Store, StoreError};

const TABLE: &str = "MILLRACE_TEST_TABLE";
const SLICES: u64 = 12;

/// What the writer under test commits in the end, in slices of two log partitions.
fn script() -> Vec<Slice> {
    (0..SLICES).map(|n| slice((n % 2) as u32, n / 2 * 20, 20, 3)).collect()
}

/// The loop of the engine in small: load, stage what follows, commit every third slice.
async fn catch_up(store: &mut DeltaStore) -> Result<(), StoreError> {
    let mut state = store.load().await?;
    let mut staged = 0;
    for slice in script() {
        if state.cursors.get(&slice.partition).is_some_and(|cursor| cursor.next >= slice.cursor.next) {
            continue;
        }
        store.stage(slice).await?;
        staged += 1;
        if staged % 3 == 0 {
            state = store.commit().await?;
        }
    }
    store.commit().await?;
    Ok(())
}

/// Runs as a child of the tests below; by itself it does nothing.
#[tokio::test]
async fn child() {
    let Some(table) = std::env::var_os(TABLE) else { return };
    let _scenario = FailScenario::setup();
    let mut store = DeltaStore::open(table.to_str().unwrap(), options()).await.unwrap();
    catch_up(&mut store).await.unwrap();
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

async fn check(table: &Path) {
    let store = open(table).await;
    assert_eq!(read_table(&store.reader()).await, expected(&script()));
    let status = store.reader().status().await.unwrap();
    assert_eq!(status.state.cursors.values().map(|cursor| cursor.next).collect::<Vec<_>>(), [120, 120]);
    // What crashes left is removed, what is in force stays.
    store.maintainer().remove_orphans(std::time::Duration::ZERO).await.unwrap();
    assert_eq!(data_files(table).len() as u64, status.files);
    assert_eq!(read_table(&store.reader()).await, expected(&script()));
}

#[tokio::test]
async fn a_writer_that_dies_again_and_again_doubles_nothing_and_loses_nothing() {
    let _scenario = FailScenario::setup();
    for point in ["delta::stage::written", "delta::commit::before", "delta::commit::after"] {
        let directory = tempfile::tempdir().unwrap();
        let mut crashes = 0;
        // Each child passes the point once more than the one before, and dies at the next.
        for passes in 0.. {
            assert!(passes < 50, "{point}: no progress");
            if run_child(directory.path(), &format!("{point}={passes}*off->return")) {
                break;
            }
            crashes += 1;
        }
        assert!(crashes >= 2, "{point}: the failpoint was not met");
        check(directory.path()).await;
    }
}

#[tokio::test]
async fn a_crash_before_the_entry_leaves_no_trace_and_one_after_it_is_found_by_load() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    assert!(!run_child(directory.path(), "delta::commit::before=return"));
    assert_eq!(entries(directory.path()).len(), 1);
    assert!(!data_files(directory.path()).is_empty(), "staged files are there, unreferenced");
    let mut store = open(directory.path()).await;
    assert_eq!(store.reader().status().await.unwrap().files, 0);

    assert!(!run_child(directory.path(), "delta::commit::after=return"));
    assert_eq!(entries(directory.path()).len(), 2);
    assert_eq!(store.load().await.unwrap().cursors[&0], cursor(40), "two slices of partition 0 are in");
    catch_up(&mut store).await.unwrap();
    drop(store);
    check(directory.path()).await;
}

#[tokio::test]
async fn when_the_answer_to_a_commit_is_lost_load_tells_that_it_happened() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).await;
    let slices = script();
    store.stage(slices[0].clone()).await.unwrap();
    fail::cfg("delta::commit::lost", "return").unwrap();
    let lost = store.commit().await;
    assert!(matches!(lost, Err(StoreError::Unavailable { .. })), "{lost:?}");
    fail::remove("delta::commit::lost");
    let state = store.load().await.unwrap();
    assert_eq!(state.cursors[&0], slices[0].cursor);
    assert_eq!(read_table(&store.reader()).await, expected(&slices[..1]), "its files are kept");
    catch_up(&mut store).await.unwrap();
    check(directory.path()).await;
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_harms_nothing() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).await;
    fail::cfg("delta::stage::full", "3*off->2*return->off").unwrap();
    let mut refusals = 0;
    while let Err(error) = catch_up(&mut store).await {
        assert!(
            matches!(&error, StoreError::Unavailable { detail, .. } if detail.contains("No space left")),
            "{error}"
        );
        let in_force: BTreeSet<String> =
            store.reader().files(&Default::default()).await.unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(data_files(directory.path()).len(), in_force.len(), "what was staged is deleted");
        refusals += 1;
        assert!(refusals < 10);
    }
    assert!(refusals > 0);
    check(directory.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_fails_is_counted_and_no_commit_fails() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let options = Options { checkpoint_every: 2, background_maintenance: true, ..options() };
    let mut store = open_with(directory.path(), options).await;
    let maintainer = store.maintainer();
    fail::cfg("delta::maintain::fail", "return").unwrap();
    for n in 0..4 {
        store.stage(slice(0, n * 5, 5, 1)).await.unwrap();
        store.commit().await.unwrap();
    }
    assert!(maintainer.run().await.is_err());
    let counts = maintainer.counts();
    assert!(counts.failures >= 1 && counts.checkpoints == 0, "{counts:?}");
    fail::remove("delta::maintain::fail");
    assert_eq!(maintainer.run().await.unwrap().checkpoint, Some(4));
    assert_eq!(store.load().await.unwrap().cursors[&0], cursor(20));
}

/// A file system of a few megabytes, while it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(directory: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(directory).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(directory.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_really_full_recovers_when_there_is_room() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path()) else {
        println!("skipped: mounting a small tmpfs is not permitted here");
        return;
    };
    let table = disk.0.join("table");
    let ballast = disk.0.join("ballast");
    let mut store = open(&table).await;
    store.stage(slice(0, 0, 20, 1)).await.unwrap();
    store.commit().await.unwrap();

    // Full to the last page: neither data nor a commit entry has room.
    let filled = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}", ballast.display()))
        .output();
    assert!(!filled.unwrap().status.success(), "the disk was to be filled");
    let full = async {
        store.stage(slice(0, 20, 20, 1)).await?;
        store.commit().await
    };
    let full = full.await;
    assert!(matches!(full, Err(StoreError::Unavailable { .. })), "{full:?}");
    let full = store.take_in_after_load().await;
    assert!(matches!(full, Err(StoreError::Unavailable { .. })), "{full:?}");
    assert_eq!(store.load().await.unwrap().cursors[&0], cursor(20), "reading goes on");

    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(store.load().await.unwrap().applied, 0);
    store.stage(slice(0, 20, 20, 1)).await.unwrap();
    store.commit().await.unwrap();
    assert_eq!(read_table(&store.reader()).await, expected(&[slice(0, 0, 20, 1), slice(0, 20, 20, 1)]));
    assert_eq!(data_files(&table).len(), 2, "nothing half-written stays");
}

/// A commit that needs room for its entry alone.
trait TakeInAfterLoad {
    async fn take_in_after_load(&mut self) -> Result<millrace_rows::StoreState, StoreError>;
}

impl TakeInAfterLoad for DeltaStore {
    async fn take_in_after_load(&mut self) -> Result<millrace_rows::StoreState, StoreError> {
        self.load().await?;
        self.take_in(1, None).await
    }
}
