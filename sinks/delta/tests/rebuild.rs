//! A rebuild is seen at once: nothing of it before its commit, everything after it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use common::*;
use millrace_delta::{DeltaRewriter, DeltaStore, Options};
use millrace_rows::{ColumnType, HeldBack, Job, Reason, Rewrite, Rewriter, Store, StoreError};

const REBUILD: u64 = 1;

type Rows = BTreeMap<RowKey, Vec<u8>>;

/// A table of two partitions with a rebuild noted, its rewriter, and what readers see.
struct World {
    store: DeltaStore,
    rewriter: DeltaRewriter,
    before: Rows,
}

impl World {
    async fn new(table: &Path, options: Options) -> Self {
        let mut store = open_with(table, options).await;
        for (partition, first, count) in [(0, 0, 250), (1, 0, 100), (0, 250, 50)] {
            store.stage(slice(partition, first, count, 3)).await.unwrap();
            store.commit().await.unwrap();
        }
        let mut rewriter = store.rewriter();
        rewriter.load().await.unwrap();
        rewriter.note(&Job { revision: REBUILD, below: [(0, 300), (1, 100)].into() }).await.unwrap();
        let before = read_table(&store.reader()).await;
        assert_eq!(before.len(), 400);
        Self { store, rewriter, before }
    }

    /// Makes one range again, in other days than it was, and says what is left.
    async fn make(
        &mut self,
        (partition, offsets): (u32, Range<u64>),
        applied: u64,
        left: &[(u32, u64)],
    ) -> Result<(), StoreError> {
        self.rewriter.stage(rewrite_all(partition, offsets.clone(), applied, 5)).await?;
        let made = [(partition, offsets)].into();
        let left = left.iter().copied().collect();
        self.rewriter.commit_rebuild(REBUILD, &made, &left, &Reason::default()).await.map(|_| ())
    }

    async fn sees(&self, rows: &Rows) {
        assert!(read_table(&self.store.reader()).await == *rows);
    }

    fn held(&self) -> Vec<(u32, Range<u64>, u64)> {
        self.rewriter.held_back().into_iter().map(|held| (held.partition, held.offsets, held.applied)).collect()
    }
}

/// What is there once these were made again.
fn with(rows: &Rows, rewrites: &[Rewrite]) -> Rows {
    let mut rows = rows.clone();
    rewrites.iter().for_each(|rewrite| replace(&mut rows, rewrite));
    rows
}

fn newest_entry(table: &Path) -> Vec<serde_json::Value> {
    let newest = entries(table).last().unwrap().trim_end_matches(".json").parse().unwrap();
    entry(table, newest).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn nothing_is_seen_before_all_of_it_and_live_commits_go_on() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    let before = world.before.clone();
    world.make((0, 200..300), 0, &[(0, 200), (1, 100)]).await.unwrap();
    world.sees(&before).await;
    let job = world.rewriter.load().await.unwrap().jobs.remove(0);
    assert_eq!(job.below, [(0, 300), (1, 100)].into(), "the table knows of nothing");
    assert_eq!(HeldBack::left_of(&job, &world.rewriter.held_back()).below, [(0, 200), (1, 100)].into());
    world.make((0, 0..200), 0, &[(1, 100)]).await.unwrap();

    // Live rows, and a job of another revision beside it, which the rebuild is not to undo.
    let live = slice(1, 100, 30, 3);
    let mut rows = before.clone();
    canonical(std::slice::from_ref(&live.rows), &mut rows);
    world.store.load().await.unwrap();
    world.store.stage(live).await.unwrap();
    world.store.commit().await.unwrap();
    world.sees(&rows).await;
    world.store.take_in(1, None).await.unwrap();
    world.store.take_in(2, Some(Job { revision: 2, below: [(0, 300), (1, 130)].into() })).await.unwrap();
    world.rewriter.load().await.unwrap();
    // It covers 210 to 250 of partition 0: what was made of them is made again.
    world.rewriter.keep_held_back(2, &|held| held.offsets.end <= 210).await;
    assert_eq!(world.held(), [(0, 0..200, 2)]);
    let corrected = rewrite_all(0, 210..250, 2, 4);
    world.rewriter.stage(corrected.clone()).await.unwrap();
    world.rewriter.commit(2, &BTreeMap::new(), &Reason::default()).await.unwrap();
    let rows = with(&rows, &[corrected]);
    world.sees(&rows).await;

    world.make((0, 200..300), 2, &[(1, 100)]).await.unwrap();
    world.sees(&rows).await;
    let files = world.store.reader().status().await.unwrap().files;
    world.make((1, 0..100), 2, &[]).await.unwrap();
    // Those from 0 on were made under revision 0, which is as good.
    let made = [rewrite_all(0, 0..200, 0, 5), rewrite_all(0, 200..300, 2, 5), rewrite_all(1, 0..100, 2, 5)];
    world.sees(&with(&rows, &made)).await;
    assert!(world.rewriter.load().await.unwrap().jobs.is_empty() && world.held().is_empty());
    let entry = newest_entry(directory.path());
    let removed = entry.iter().filter(|line| line.get("remove").is_some()).count() as u64;
    assert!(removed + 3 >= files, "all but the live rows' files: {removed} of {files}");
    let counts = serde_json::json!({"first": 0, "next": 300, "read": 300, "rows": 300, "dropped": 0, "dead": 0});
    assert_eq!(entry[0]["commitInfo"]["millrace"]["partitions"]["0"], counts);
    // Nothing of the table is left over, and nothing of it is missing.
    let removed = world.store.maintainer().remove_orphans(std::time::Duration::ZERO).await.unwrap();
    assert_eq!(removed, 0, "what went into no commit is deleted at once");
}

#[tokio::test]
async fn a_commit_that_fails_is_made_again_from_what_is_held_back() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    world.make((0, 0..300), 0, &[(1, 100)]).await.unwrap();
    // A revision that covers none of it comes first.
    world.store.load().await.unwrap();
    world.store.take_in(1, None).await.unwrap();
    let fenced = world.make((1, 0..100), 0, &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "{fenced:?}");
    world.rewriter.load().await.unwrap();
    world.rewriter.keep_held_back(1, &|_| true).await;
    assert_eq!(world.held(), [(0, 0..300, 1), (1, 0..100, 1)]);
    world.rewriter.commit_rebuild(REBUILD, &BTreeMap::new(), &BTreeMap::new(), &Reason::default()).await.unwrap();
    world.sees(&with(&world.before, &[rewrite_all(0, 0..300, 0, 5), rewrite_all(1, 0..100, 0, 5)])).await;
    assert!(world.rewriter.load().await.unwrap().jobs.is_empty());
}

#[tokio::test]
async fn what_is_made_twice_is_there_once() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    world.make((0, 200..300), 0, &[(0, 200), (1, 100)]).await.unwrap();
    world.make((0, 100..200), 0, &[(0, 100), (1, 100)]).await.unwrap();
    world.rewriter.load().await.unwrap();
    // Commits of another size.
    world.rewriter.keep_held_back(0, &|held| held.offsets.end < 300).await;
    world.make((0, 150..300), 0, &[(0, 150), (1, 100)]).await.unwrap();
    assert_eq!(world.held(), [(0, 150..300, 0)]);
    world.make((0, 0..150), 0, &[(1, 100)]).await.unwrap();
    world.make((1, 0..100), 0, &[]).await.unwrap();
    world.sees(&with(&world.before, &[rewrite_all(0, 0..300, 0, 5), rewrite_all(1, 0..100, 0, 5)])).await;
    let removed = world.store.maintainer().remove_orphans(std::time::Duration::ZERO).await.unwrap();
    assert_eq!(removed, 0, "what went into no commit is deleted at once");
}

#[tokio::test]
async fn what_was_not_looked_at_under_the_applied_revision_is_not_committed() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    world.make((0, 0..300), 0, &[(1, 100)]).await.unwrap();
    world.store.load().await.unwrap();
    world.store.take_in(1, None).await.unwrap();
    world.rewriter.load().await.unwrap();
    let refused = world.make((1, 0..100), 1, &[]).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    world.sees(&world.before).await;
}

#[tokio::test]
async fn what_is_forgotten_leaves_no_file() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    let files = data_files(directory.path()).len();
    world.make((0, 0..300), 0, &[(1, 100)]).await.unwrap();
    assert!(data_files(directory.path()).len() > files);
    world.rewriter.keep_held_back(0, &|_| false).await;
    assert_eq!((data_files(directory.path()).len(), world.held().len()), (files, 0));
    world.make((0, 0..300), 0, &[(1, 100)]).await.unwrap();
    world.rewriter.note(&Job { revision: REBUILD, below: [(0, 300), (1, 100)].into() }).await.unwrap();
    assert_eq!((data_files(directory.path()).len(), world.held().len()), (files, 0), "asked for once more");
    world.sees(&world.before).await;
}

#[tokio::test]
async fn more_than_may_be_held_back_is_committed_in_pieces() {
    let directory = place();
    let mut world = World::new(directory.path(), Options { rebuild_files_max: 4, ..options() }).await;
    // Three days each.
    world.make((0, 200..300), 0, &[(0, 200), (1, 100)]).await.unwrap();
    let made = [rewrite_all(0, 200..300, 0, 5), rewrite_all(0, 100..200, 0, 5), rewrite_all(1, 0..100, 0, 5)];
    let first = with(&world.before, &made[..1]);
    world.sees(&first).await;
    let jobs = world.rewriter.load().await.unwrap().jobs;
    assert_eq!(jobs[0].below, [(0, 200), (1, 100)].into());
    world.make((0, 100..200), 0, &[(0, 100), (1, 100)]).await.unwrap();
    world.make((1, 0..100), 0, &[(0, 100)]).await.unwrap();
    world.sees(&with(&first, &made[1..])).await;
}

/// The chain may be paused for days between staging and commit, and maintenance goes on.
#[tokio::test]
async fn files_that_may_be_gone_are_not_committed() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    let aging = Options { orphan_age: std::time::Duration::ZERO, ..options() };
    let mut store = open_with(directory.path(), aging).await;
    store.stage(slice(0, 300, 10, 3)).await.unwrap();
    let late = store.commit().await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    let mut rewriter = store.rewriter();
    rewriter.load().await.unwrap();
    rewriter.stage(rewrite_all(0, 0..300, 0, 5)).await.unwrap();
    let late = rewriter.commit(REBUILD, &[(1, 100)].into(), &Reason::default()).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    world.rewriter = rewriter;
    world.rewriter.load().await.unwrap();
    let late = world.make((0, 0..300), 0, &[(1, 100)]).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    world.rewriter.keep_held_back(0, &|_| true).await;
    assert!(world.held().is_empty(), "too old to be kept");
    world.sees(&world.before).await;
}

/// A file that can't be read does not stand in the way of the rebuild that mends it.
#[tokio::test]
async fn a_damaged_file_and_a_lost_one_are_mended() {
    let directory = on_this_machine();
    let mut world = World::new(directory.path(), options()).await;
    let files = data_files(directory.path());
    std::fs::remove_file(directory.path().join(&files[0])).unwrap();
    std::fs::write(directory.path().join(&files[1]), b"PAR1 and nothing else").unwrap();
    world.make((0, 0..300), 0, &[(1, 100)]).await.unwrap();
    world.make((1, 0..100), 0, &[]).await.unwrap();
    world.sees(&with(&world.before, &[rewrite_all(0, 0..300, 0, 5), rewrite_all(1, 0..100, 0, 5)])).await;
}

/// A column that only what is held back has is there after the commit, whatever was loaded in between.
#[tokio::test]
async fn columns_of_what_is_held_back_are_added_by_its_commit() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    let specs: Vec<_> = (0..300).map(|offset| (offset, 0, time_of(0, offset, 5))).collect();
    let added = [added("browser", ColumnType::String)];
    let wider = rewrite_with(0, 0..300, 0, (0..300).collect(), &specs, &added);
    world.rewriter.stage(wider.clone()).await.unwrap();
    let left = [(1, 100)].into();
    world.rewriter.commit_rebuild(REBUILD, &[(0, 0..300)].into(), &left, &Reason::default()).await.unwrap();
    world.rewriter.load().await.unwrap();
    world.make((1, 0..100), 0, &[]).await.unwrap();
    world.sees(&with(&world.before, &[wider, rewrite_all(1, 0..100, 0, 5)])).await;
}
