//! Rows that were made again take the place of those before, and of nothing else; compaction changes no row.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use deltalake::{ensure_table_uri, open_table};
use millrace_delta::{DeltaRewriter, DeltaStore, Options, ScanRequest, TableReader};
use millrace_rows::{ColumnType, DeadLetter, Job, Reason, Rewrite, Rewriter, Store, StoreError};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};

fn reason() -> Reason {
    Reason { author: "ann".into(), reason: "a typo in the scrubber".into() }
}

fn is_fenced<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced { .. }))
}

type Rows = BTreeMap<RowKey, Vec<u8>>;

/// A table, its live store, a rewriter beside it, and what should be in it.
struct World {
    store: DeltaStore,
    rewriter: DeltaRewriter,
    model: Rows,
    applied: u64,
    next: BTreeMap<u32, u64>,
}

impl World {
    async fn new(table: &Path, options: Options) -> Self {
        let store = open_with(table, options).await;
        let rewriter = store.rewriter();
        Self { store, rewriter, model: Rows::new(), applied: 0, next: BTreeMap::new() }
    }

    /// A live commit.
    async fn append(&mut self, partition: u32, count: u64, days: u64) {
        let first = self.next.get(&partition).copied().unwrap_or(0);
        let slice = slice_with(partition, first, count, days, self.applied, &[]);
        canonical(std::slice::from_ref(&slice.rows), &mut self.model);
        self.store.stage(slice).await.unwrap();
        self.store.commit().await.unwrap();
        self.next.insert(partition, first + count);
    }

    /// Takes in the next revision, whose job is all that there is.
    async fn take_in(&mut self) -> u64 {
        self.applied += 1;
        let job = Job { revision: self.applied, below: self.next.clone() };
        self.store.take_in(self.applied, Some(job)).await.unwrap();
        self.applied
    }

    /// Loads, stages and commits; the job of the newest revision has `left`.
    async fn rewrite(&mut self, rewrites: &[Rewrite], left: &[(u32, u64)]) {
        self.rewriter.load().await.unwrap();
        for rewrite in rewrites {
            self.rewriter.stage(rewrite.clone()).await.unwrap();
            replace(&mut self.model, rewrite);
        }
        let left = left.iter().copied().collect();
        let backlog = self.rewriter.commit(self.applied, &left, &reason()).await.unwrap();
        let job = backlog.jobs.iter().find(|job| job.revision == self.applied).map(|job| job.below.clone());
        assert_eq!(job.unwrap_or_default(), left);
        assert_eq!(backlog, self.rewriter.load().await.unwrap(), "what a commit tells is what load tells");
    }

    async fn check(&self) {
        let found = read_table(&self.store.reader()).await;
        if found != self.model {
            let keys = |rows: &Rows| rows.keys().copied().collect::<Vec<_>>();
            assert_eq!(keys(&found), keys(&self.model));
            panic!("the rows have other values");
        }
    }

    async fn files(&self) -> Vec<millrace_delta::reader::DataFile> {
        self.store.reader().files(&Default::default()).await.unwrap()
    }
}

fn newest_entry(table: &Path) -> Vec<serde_json::Value> {
    let newest = entries(table).last().unwrap().trim_end_matches(".json").parse().unwrap();
    entry(table, newest).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn copied_row_groups(table: &Path) -> u64 {
    let copied = &newest_entry(table)[0]["commitInfo"]["operationMetrics"]["numCopiedRowGroups"];
    copied.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn rows_of_records_made_again_are_exchanged_and_all_others_stay() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    for partition in 0..3 {
        world.append(partition, 300, 3).await;
        world.append(partition, 100, 2).await;
    }
    let before = world.files().await;
    world.take_in().await;
    // Of partition 0 every third record, on other dates, of which one became three rows, one was dropped, one died.
    let remade: Vec<u64> = (100..250).step_by(3).collect();
    let mut specs: Vec<_> = remade.iter().map(|o| (*o, 0, time_of(9, *o, 5))).collect();
    specs.retain(|(offset, ..)| *offset != 103 && *offset != 106);
    specs.splice(0..1, (0..3).map(|sub| (100, sub, time_of(9, 100 + sub as u64, 5))));
    let mut filtered = rewrite(0, 100..250, 1, remade.clone(), &specs);
    filtered.dropped = 1;
    filtered.dead = vec![DeadLetter { offset: 106, revision: 1, step: "scrub@1.0.0".into(), code: "bad".into() }];
    // Of partition 1 everything.
    let all = rewrite_all(1, 0..400, 1, 1);
    world.rewrite(&[filtered, all], &[(2, 400)]).await;
    world.check().await;

    let entry = newest_entry(directory.path());
    let info = &entry[0]["commitInfo"];
    assert_eq!((&info["operation"], &info["isBlindAppend"]), (&"CORRECT".into(), &false.into()));
    let ours = &info["millrace"];
    assert_eq!((&ours["revision"], &ours["author"]), (&1.into(), &"ann".into()));
    let counts = serde_json::json!({"first": 100, "next": 250, "read": 50, "rows": 50, "dropped": 1, "dead": 1});
    assert_eq!(ours["partitions"]["0"], counts);

    let after = world.files().await;
    let untouched = |file: &&millrace_delta::reader::DataFile| {
        file.partitions == Some((2, 2)) || (file.partitions == Some((0, 0)) && file.offsets.unwrap().0 >= 300)
    };
    let kept: Vec<_> = before.iter().filter(untouched).collect();
    assert_eq!(kept.len(), 5 + 2);
    assert!(kept.iter().all(|file| after.contains(file)), "files without a record of these stay");
    for file in after.iter().filter(|file| file.offsets.unwrap().0 < 300) {
        let same = after.iter().filter(|other| {
            other.date == file.date && other.partitions == file.partitions && other.offsets.unwrap().0 < 300
        });
        assert_eq!(same.count(), 1, "what stays and what is new are in one file");
    }
    // Every file is in the order of the log.
    for file in &after {
        let input = bytes_of(directory.path(), &file.path);
        let mut keys = Rows::new();
        let mut last = None;
        for batch in parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(input, 1024).unwrap() {
            let mut rows = Rows::new();
            canonical(&[batch.unwrap()], &mut rows);
            assert!(rows.keys().next() > last.as_ref());
            last = rows.keys().next_back().copied();
            keys.append(&mut rows);
        }
        assert_eq!(keys.len() as u64, file.rows.unwrap());
    }
    let status = world.store.reader().status().await.unwrap();
    assert_eq!(status.rows as usize, world.model.len());
    // The live store goes on.
    world.append(0, 50, 2).await;
    assert_eq!(world.store.jobs().await.unwrap(), [Job { revision: 1, below: [(2, 400)].into() }]);
    world.check().await;
    // Another implementation of the format reads the same.
    let table = open_table(ensure_table_uri(directory.path().to_str().unwrap()).unwrap()).await.unwrap();
    assert_eq!(table.get_file_uris().unwrap().count() as u64, world.store.reader().status().await.unwrap().files);
}

#[tokio::test]
async fn a_job_is_worked_off_from_its_end_beside_live_commits() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    world.append(0, 100, 2).await;
    world.append(4, 60, 2).await;
    world.take_in().await;
    world.append(0, 10, 2).await;
    let steps = [
        (vec![rewrite_all(4, 30..45, 1, 2), rewrite_all(4, 45..60, 1, 2)], vec![(0, 100), (4, 30)]),
        (vec![rewrite_all(0, 50..100, 1, 2)], vec![(0, 50), (4, 30)]),
        // Nothing of it matched: only the markers move.
        (vec![rewrite(4, 0..30, 1, vec![], &[])], vec![(0, 50)]),
        (vec![rewrite_all(0, 0..50, 1, 2)], vec![]),
    ];
    for (rewrites, left) in steps {
        world.rewrite(&rewrites, &left).await;
        world.check().await;
        world.append(0, 7, 2).await;
        world.append(4, 7, 2).await;
    }
    world.store.load().await.unwrap();
    assert!(world.store.jobs().await.unwrap().is_empty());
    let done = world.rewriter.commit(1, &BTreeMap::new(), &reason()).await;
    assert!(is_fenced(&done), "a job that is done is not worked on: {done:?}");
    // Markers outlive a checkpoint.
    let other = open_with(directory.path(), Options { checkpoint_every: 1, ..options() }).await;
    other.maintainer().run().await.unwrap();
    assert!(other.rewriter().load().await.unwrap().jobs.is_empty());
    world.check().await;
}

#[tokio::test]
async fn what_can_not_be_right_is_refused_and_leaves_no_trace() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    world.append(0, 40, 2).await;
    world.take_in().await;
    let (files, version) = (data_files(directory.path()), world.store.version());
    let good = rewrite_all(0, 10..20, 1, 1);
    let one = |offset| vec![(offset, 0, FIRST_DAY * DAY_US)];
    let refused: [(&str, Vec<Rewrite>, bool); 8] = [
        ("another applied", vec![rewrite_all(0, 0..10, 2, 1)], true),
        ("past the cursor", vec![rewrite_all(0, 30..41, 1, 1)], true),
        ("a partition without cursor", vec![rewrite_all(3, 0..1, 1, 1)], true),
        ("descending", vec![good.clone(), rewrite_all(0, 0..10, 1, 1)], false),
        ("twice", vec![good.clone(), good.clone()], false),
        ("records outside", vec![rewrite(0, 0..5, 1, vec![5], &one(5))], false),
        ("records out of order", vec![rewrite(0, 0..5, 1, vec![4, 2], &[])], false),
        ("rows of other records", vec![rewrite(0, 0..5, 1, vec![2], &one(3))], false),
    ];
    for (what, rewrites, fenced) in refused {
        world.rewriter.load().await.unwrap();
        let mut last = Ok(());
        for rewrite in rewrites {
            last = world.rewriter.stage(rewrite).await;
        }
        assert!(
            if fenced { is_fenced(&last) } else { matches!(last, Err(StoreError::Broken { .. })) },
            "{what}: {last:?}"
        );
        assert!(is_fenced(&world.rewriter.commit(1, &BTreeMap::new(), &reason()).await), "{what}: load comes first");
    }
    for left in [(0, 41), (1, 1)] {
        world.rewriter.load().await.unwrap();
        world.rewriter.stage(good.clone()).await.unwrap();
        let wrong = world.rewriter.commit(1, &[left].into(), &reason()).await;
        assert!(matches!(wrong, Err(StoreError::Broken { .. })), "{wrong:?}");
    }
    assert_eq!(data_files(directory.path()), files, "what was staged is deleted");
    world.store.load().await.unwrap();
    assert_eq!(world.store.version(), version);
    world.check().await;
}

#[tokio::test]
async fn a_new_column_comes_with_rows_made_again_and_what_stays_has_none() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    world.append(0, 50, 1).await;
    world.take_in().await;
    let remade: Vec<u64> = (10..30).step_by(2).collect();
    let specs: Vec<_> = remade.iter().map(|o| (*o, 0, time_of(0, *o, 1))).collect();
    let columns = [added("browser", ColumnType::String), added("score", ColumnType::Float64)];
    let with = rewrite_with(0, 0..50, 1, remade, &specs, &columns);
    // The live store has rows with one of them staged already.
    let live = slice_with(0, 50, 10, 1, 1, &columns[1..]);
    canonical(std::slice::from_ref(&live.rows), &mut world.model);
    world.store.stage(live).await.unwrap();
    world.rewrite(&[with], &[]).await;
    world.store.commit().await.unwrap();
    assert!(newest_entry(directory.path()).iter().all(|action| action.get("metaData").is_none()), "no longer new");
    world.check().await;
}

#[tokio::test]
async fn a_revision_or_another_rewriter_in_between_fences_and_live_commits_do_not() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    world.append(0, 60, 2).await;
    let revision = world.take_in().await;
    let (mut first, mut second) = (world.store.rewriter(), open(directory.path()).await.rewriter());
    let half = rewrite_all(0, 30..60, revision, 2);
    for rewriter in [&mut first, &mut second] {
        rewriter.load().await.unwrap();
        rewriter.stage(half.clone()).await.unwrap();
    }
    world.append(0, 5, 2).await;
    world.append(1, 5, 2).await;
    first.commit(revision, &[(0, 30)].into(), &reason()).await.unwrap();
    replace(&mut world.model, &half);
    let late = second.commit(revision, &[(0, 30)].into(), &reason()).await;
    assert!(is_fenced(&late), "{late:?}");
    world.check().await;

    first.stage(rewrite_all(0, 0..30, revision, 2)).await.unwrap();
    world.take_in().await;
    let missed = first.commit(revision, &BTreeMap::new(), &reason()).await;
    assert!(is_fenced(&missed), "{missed:?}");
    world.check().await;
    let backlog = first.load().await.unwrap();
    let jobs = [Job { revision: 1, below: [(0, 30)].into() }, Job { revision: 2, below: [(0, 65), (1, 5)].into() }];
    assert_eq!((backlog.state.applied, backlog.jobs), (2, jobs.to_vec()));
    assert_eq!(data_files(directory.path()).len() as u64, {
        // Those in force and those that were, and nothing of the losers.
        let versions = 0..entries(directory.path()).len() as u64;
        versions.map(|version| entry(directory.path(), version).matches("{\"add\":").count() as u64).sum::<u64>()
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_reader_never_sees_a_row_missing_or_doubled() {
    let directory = place();
    let options = Options { compaction: true, ..options() };
    let mut world = World::new(directory.path(), options).await;
    for _ in 0..8 {
        world.append(0, 50, 3).await;
        world.append(1, 50, 3).await;
    }
    world.take_in().await;
    let done = Arc::new(AtomicBool::new(false));
    let (reader, stop) =
        (TableReader::open(directory.path().to_str().unwrap(), &Default::default()).unwrap(), done.clone());
    let keys: Vec<RowKey> = world.model.keys().copied().collect();
    let watch = tokio::spawn(async move {
        let mut looks = 0;
        while !stop.load(Ordering::Relaxed) || looks == 0 {
            assert!(read_table(&reader).await.keys().eq(keys.iter()), "look {looks}");
            looks += 1;
        }
        looks
    });
    for round in (0..10u64).rev() {
        let range = round * 40..(round + 1) * 40;
        // Every second record, so that what stays and what is new mix.
        let remade: Vec<u64> = range.clone().step_by(2).collect();
        let specs: Vec<_> = remade.iter().map(|o| (*o, 0, time_of(7, *o, 4))).collect();
        let left: &[(u32, u64)] = if round == 0 { &[(1, 400)] } else { &[(0, round * 40), (1, 400)] };
        world.rewrite(&[rewrite(0, range, 1, remade, &specs)], left).await;
        if round % 4 == 1 {
            world.store.maintainer().run().await.unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    assert!(watch.await.unwrap() > 0);
    world.check().await;
}

#[tokio::test]
async fn compaction_makes_few_files_of_many_and_changes_no_row() {
    let directory = place();
    let mut world = World::new(directory.path(), options()).await;
    for _ in 0..12 {
        world.append(0, 20, 2).await;
    }
    world.append(1, 20, 2).await;
    let maintainer = world.store.maintainer();
    let compacted = maintainer.compact().await.unwrap();
    assert_eq!((compacted.commits, compacted.files_removed, compacted.files_added), (1, 24, 2));
    world.check().await;
    assert_eq!(world.files().await.len(), 2 + 2, "partition 1 has too few");
    let counts = maintainer.counts();
    assert_eq!((counts.compactions, counts.files_compacted), (1, 24));
    let entry = newest_entry(directory.path());
    assert_eq!(entry[0]["commitInfo"]["operation"], "OPTIMIZE");
    let changes = |kind: &str| entry.iter().filter(|a| a[kind]["dataChange"] == false).count();
    assert_eq!((changes("add"), changes("remove")), (2, 24));
    assert_eq!(maintainer.compact().await.unwrap(), Default::default(), "nothing is left to do");

    // A live store that had rows staged is not disturbed, nor is a rewriter that has staged and not looked yet.
    world.take_in().await;
    world.rewriter.load().await.unwrap();
    let rewrite = rewrite_all(0, 35..95, 1, 2);
    world.rewriter.stage(rewrite.clone()).await.unwrap();
    for _ in 0..4 {
        world.append(0, 20, 2).await;
    }
    let slice = slice_with(0, world.next[&0], 20, 2, 1, &[]);
    world.store.stage(slice.clone()).await.unwrap();
    assert_eq!(maintainer.compact().await.unwrap().commits, 1);
    world.store.commit().await.unwrap();
    canonical(&[slice.rows], &mut world.model);
    world.rewriter.commit(1, &BTreeMap::new(), &reason()).await.unwrap();
    replace(&mut world.model, &rewrite);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_out_of_force_go_once_the_log_forgets_them() {
    let directory = place();
    let options = Options { checkpoint_every: 1, ..options() };
    let mut world = World::new(directory.path(), options).await;
    for _ in 0..5 {
        world.append(0, 10, 1).await;
    }
    let maintainer = world.store.maintainer();
    assert_eq!(maintainer.compact().await.unwrap().files_removed, 5);
    maintainer.run().await.unwrap();
    assert_eq!(maintainer.remove_orphans(Duration::ZERO).await.unwrap(), 0, "the checkpoint still has them");
    let table = open_table(ensure_table_uri(directory.path().to_str().unwrap()).unwrap()).await.unwrap();
    let retention = ("delta.deletedFileRetentionDuration".to_owned(), "interval 0 seconds".to_owned());
    table.set_tbl_properties().with_properties([retention].into()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    maintainer.run().await.unwrap();
    assert_eq!(maintainer.remove_orphans(Duration::ZERO).await.unwrap(), 5, "the next one does not");
    assert_eq!(data_files(directory.path()).len(), 1);
    world.check().await;
}

/// Row groups that the corrections of a run copied.
async fn random_run(seed: u64) -> u64 {
    let directory = place();
    let mut random = StdRng::seed_from_u64(seed);
    let options = Options {
        compact_files_min: 2,
        compact_bytes: 200 << 10,
        file_bytes_max: 300 << 10,
        row_group_rows_max: if seed.is_multiple_of(4) { 1 << 16 } else { random.random_range(16..80) },
        ..options()
    };
    let mut world = World::new(directory.path(), options).await;
    world.append(0, 30, 2).await;
    let mut copied = 0;
    for step in 0..25 {
        let partition = random.random_range(0..3);
        match random.random_range(0..10) {
            0..4 => {
                let (count, days) = (random.random_range(1..120), random.random_range(1..4));
                world.append(partition, count, days).await;
            }
            4 => _ = world.take_in().await,
            5..8 => {
                let revision = if world.applied == 0 { world.take_in().await } else { world.applied };
                let jobs = world.rewriter.load().await.unwrap().jobs;
                let Some(job) = jobs.iter().find(|job| job.revision == revision) else { continue };
                let mut left = job.below.clone();
                let mut rewrites = Vec::new();
                for (partition, below) in &job.below {
                    let start = random.random_range(0..*below);
                    let share = random.random_range(0.0..1.2);
                    let remade: Vec<u64> =
                        (start..*below).filter(|_| random.random_bool(f64::min(share, 1.0))).collect();
                    let mut specs = Vec::new();
                    for offset in &remade {
                        for sub in 0..random.random_range(0..3) {
                            specs.push((*offset, sub, time_of(*partition + sub as u32, *offset, 4)));
                        }
                    }
                    let middle = (start + *below) / 2;
                    // In one or in two ranges.
                    let part = |range: std::ops::Range<u64>| {
                        let specs: Vec<_> = specs.iter().copied().filter(|spec| range.contains(&spec.0)).collect();
                        let remade = remade.iter().copied().filter(|offset| range.contains(offset)).collect();
                        rewrite(*partition, range, revision, remade, &specs)
                    };
                    match random.random_bool(0.5) {
                        true => rewrites.extend([part(start..middle), part(middle..*below)]),
                        false => rewrites.push(part(start..*below)),
                    }
                    match start {
                        0 => _ = left.remove(partition),
                        _ => _ = left.insert(*partition, start),
                    }
                }
                let left: Vec<_> = left.into_iter().collect();
                world.rewrite(&rewrites, &left).await;
                copied += copied_row_groups(directory.path());
            }
            _ => {
                let files = world.files().await.len() as u64;
                let done = world.store.maintainer().compact().await.unwrap();
                assert_eq!(world.files().await.len() as u64, files - done.files_removed + done.files_added);
            }
        }
        let found = read_table(&world.store.reader()).await;
        assert!(found == world.model, "seed {seed}, step {step}");
    }
    // Statistics hold, and files have one log partition each.
    let files = world.files().await;
    assert!(files.iter().all(|file| file.partitions.is_some_and(|(low, high)| low == high)));
    assert_eq!(files.iter().map(|file| file.rows.unwrap()).sum::<u64>() as usize, world.model.len());
    // Whatever is asked for by offset is found.
    for (partition, next) in &world.next {
        let start = random.random_range(0..*next);
        for offsets in [start..start + 1, start..*next, 0..start] {
            let range =
                (i64::from(*partition), offsets.start as i64, 0)..(i64::from(*partition), offsets.end as i64, 0);
            let request = ScanRequest { offsets: Some((*partition, offsets)), ..Default::default() };
            let found: usize = scan(&world.store.reader(), request).await.iter().map(|rows| rows.num_rows()).sum();
            assert_eq!(found, world.model.range(range).count(), "seed {seed}");
        }
    }
    copied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_in_whatever_order_the_table_is_what_a_map_would_be() {
    let mut copied = 0;
    // On an object store each run takes its time, and no row group is copied.
    let remote = is_remote(place().path());
    for seed in 0..if remote { 3 } else { 12 } {
        copied += random_run(seed).await;
    }
    assert!(copied > 50 || remote, "{copied} row groups were copied");
}
