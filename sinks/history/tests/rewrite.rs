//! Records made again: the store ends with exactly what they became, whatever goes wrong in between.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_history::value::CHUNK_BYTES;
use millrace_history::{HistoryReader, HistoryRewriter, HistoryStore, Keys, REWRITE_RECORDS_MAX};
use millrace_keyspace::conformance::seed;
use millrace_keyspace::{Batch, Keyspace, Write};
use millrace_rows::{Backlog, Job, Reason, Rewrite, Rewriter, StoreError};
use support::rewriting::{Chosen, change, check_done, consume, filled, step, take_in, work_off};
use support::{Log, Outcome, ROOT, Row, check_exact};

fn row(device: &str, time: i64, text: usize) -> Row {
    Row { device: device.into(), time, kind: "track", event: "open", text: "x".repeat(text) }
}

fn rows(rows: &[(&str, i64, usize)]) -> Outcome {
    Outcome::Rows(rows.iter().map(|(device, time, text)| row(device, *time, *text)).collect())
}

/// Everything but the lineages, of which only the union does not depend on where transactions are cut.
async fn content(keyspace: &Arc<dyn Keyspace>, logs: &[Log]) -> Vec<(bytes::Bytes, bytes::Bytes)> {
    let keys = Keys::new(ROOT);
    let lineages: Vec<_> = logs.iter().map(|log| keys.lineage_range(log.partition, 0..u64::MAX)).collect();
    let lineage = |key: &[u8]| lineages.iter().any(|range| range.contains(&key.to_vec()));
    support::dump(keyspace).await.into_iter().filter(|(key, _)| !lineage(key)).collect()
}

#[tokio::test]
async fn each_change_of_a_record_is_swapped_exactly() {
    const BIG: usize = 3 * CHUNK_BYTES;
    let changes = [
        (rows(&[("a", 5, 9)]), rows(&[("a", 5, 30)])),
        (rows(&[("a", 5, 9)]), rows(&[("b", 5, 9)])),
        (rows(&[("a", 5, 9)]), rows(&[("a", 6, 9)])),
        (rows(&[("a", 5, 9)]), rows(&[("a", 5, 9), ("a", 5, 9), ("c", 1, 0)])),
        (rows(&[("a", 5, 9), ("a", 5, 9), ("c", 1, 0)]), rows(&[("a", 5, 9)])),
        (rows(&[("a", 1, 1), ("b", 2, 2)]), rows(&[("b", 2, 2), ("a", 1, 1)])),
        (rows(&[("a", 5, 9), ("b", 5, 9)]), rows(&[])),
        (rows(&[]), rows(&[("a", 5, 9), ("b", 5, 9)])),
        (rows(&[("a", 5, 9)]), Outcome::Dead),
        (Outcome::Dead, rows(&[("a", 5, 9)])),
        (Outcome::Dead, rows(&[])),
        (Outcome::Dead, Outcome::Dead),
        (rows(&[]), Outcome::Dead),
        (rows(&[]), rows(&[])),
        (rows(&[("a", 5, 9)]), rows(&[("a", 5, BIG)])),
        (rows(&[("a", 5, BIG)]), rows(&[("a", 5, 9)])),
        (rows(&[("a", 5, BIG)]), rows(&[("a", 5, BIG - 2 * CHUNK_BYTES)])),
        (rows(&[("a", 5, BIG - CHUNK_BYTES)]), rows(&[("a", 5, BIG)])),
        (rows(&[("a", 5, BIG)]), rows(&[("b", 5, BIG)])),
        (rows(&[("a", 5, BIG)]), Outcome::Dead),
        (rows(&[("a", 5, BIG)]), rows(&[])),
    ];
    // Each change with a neighbour that was the same and stays.
    let (mut old, mut new, mut chosen) = (Vec::new(), Vec::new(), Chosen::new());
    for (before, after) in &changes {
        chosen.insert((0, new.len() as u64));
        old.extend([before.clone(), before.clone()]);
        new.extend([after.clone(), before.clone()]);
    }
    let log = |records: Vec<Outcome>| Log { partition: 0, records: (0..).zip(records).collect() };
    let (old, new) = (log(old), log(new));
    let mut contents = Vec::new();
    for (bytes, records, span) in
        [(usize::MAX, u64::MAX, 1000), (1, 1, 1000), (5000, 3, 7), (400_000, 100, 1), (usize::MAX, 2, 9)]
    {
        for (keyspace, _place) in support::keyspaces("each_change_of_a_record").await {
            filled(&keyspace, std::slice::from_ref(&old)).await;
            let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT).with_transactions_of(bytes, records);
            assert_eq!(work_off(&mut rewriter, std::slice::from_ref(&new), &chosen, span).await, 0);
            check_done(&keyspace, std::slice::from_ref(&new), &chosen).await;
            contents.push(content(&keyspace, std::slice::from_ref(&new)).await);
        }
    }
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn records_that_become_what_they_were_change_only_the_job() {
    let mut random = support::random(seed());
    let logs = [Log::random(0, 200, &mut random), Log::random(1, 100, &mut random)];
    for (keyspace, _place) in support::keyspaces("records_that_become_what_they_were_change_only_the_job").await {
        filled(&keyspace, &logs).await;
        let all: Chosen =
            logs.iter().flat_map(|log| log.records.keys().map(|offset| (log.partition, *offset))).collect();
        let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT);
        assert_eq!((rewriter.name(), rewriter.records_max()), ("history", REWRITE_RECORDS_MAX));
        work_off(&mut rewriter, &logs, &all, 64).await;
        check_done(&keyspace, &logs, &all).await;
        // Once more under a later revision whose ranges meet nothing.
        let before = support::dump(&keyspace).await;
        take_in(&mut HistoryStore::new(keyspace.clone(), ROOT)).await;
        work_off(&mut rewriter, &logs, &Chosen::new(), 64).await;
        let differs = before.iter().zip(&support::dump(&keyspace).await).filter(|(a, b)| a != b).count();
        assert_eq!((before.len(), differs), (support::dump(&keyspace).await.len(), 1), "only `applied` differs");
    }
}

#[tokio::test]
async fn a_job_is_worked_off_from_its_end_and_then_gone() {
    let mut random = support::random(seed());
    let logs = [Log::of_rows(0, (0..10).map(|n| row("a", n, 5))), Log::of_rows(1, [row("a", 1, 5)])];
    for (keyspace, _place) in support::keyspaces("a_job_is_worked_off_from_its_end_and_then_gone").await {
        let state = filled(&keyspace, &logs).await;
        let (logs, chosen) = change(&logs, &mut random);
        let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT);
        let job = |below: &[(u32, u64)]| Job { revision: 1, below: below.iter().copied().collect() };
        let mut backlog = rewriter.load().await.unwrap();
        assert_eq!(backlog, Backlog { state: state.clone(), jobs: vec![job(&[(0, 10), (1, 1)])] });
        for below in [[(0, 6)], [(0, 2)]] {
            backlog = step(&mut rewriter, &backlog, &logs, &chosen, 4).await.unwrap();
            assert_eq!(backlog, Backlog { state: state.clone(), jobs: vec![job(&below)] });
            assert_eq!(rewriter.load().await.unwrap(), backlog);
        }
        backlog = step(&mut rewriter, &backlog, &logs, &chosen, 4).await.unwrap();
        assert_eq!(backlog, Backlog { state, jobs: Vec::new() });
        check_done(&keyspace, &logs, &chosen).await;
    }
}

#[tokio::test]
async fn lineages_that_are_split_or_grow_too_large_are_cut() {
    let device = |offset: u64, n: u64| format!("{n}-{offset:0250}");
    let named =
        |offset: u64, count: u64| Outcome::Rows((0..count).map(|n| row(&device(offset, n), 5, 1)).collect::<Vec<_>>());
    let old = Log { partition: 2, records: (0..700).map(|offset| (offset, named(offset, 1))).collect() };
    for (keyspace, _place) in support::keyspaces("lineages_that_are_split_or_grow_too_large_are_cut").await {
        filled(&keyspace, std::slice::from_ref(&old)).await;
        let lineages = async || {
            let range = Keys::new(ROOT).lineage_range(2, 0..u64::MAX);
            keyspace.snapshot().await.unwrap().range(&range.start, &range.end, 1000).await.unwrap().pairs
        };
        let split = |value: &[u8]| value[0] == 0;
        assert!(lineages().await.iter().any(|(_, value)| split(value)), "the test makes no lineage in chunks");

        let mut new = old.clone();
        // Some rows more, of which a transaction holds a part; and a record that alone has a lineage in chunks.
        new.records.extend((100..200).map(|offset| (offset, named(offset, 7))));
        new.records.insert(300, named(300, 400));
        new.records.insert(650, rows(&[]));
        let mut chosen: Chosen = (100..200).chain([300, 650]).map(|offset| (2, offset)).collect();
        let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT);
        work_off(&mut rewriter, std::slice::from_ref(&new), &chosen, 1000).await;
        check_done(&keyspace, std::slice::from_ref(&new), &chosen).await;
        assert_eq!(lineages().await.iter().filter(|(_, value)| split(value)).count(), 1);

        // And back.
        let mut store = HistoryStore::new(keyspace.clone(), ROOT);
        let state = take_in(&mut store).await;
        chosen.retain(|(_, offset)| *offset >= 300);
        work_off(&mut rewriter, std::slice::from_ref(&old), &chosen, 1000).await;
        new.records.extend(old.records.range(300..).map(|(offset, outcome)| (*offset, outcome.clone())));
        let revision =
            |_, offset| if [300, 650].contains(&offset) { 2 } else { u64::from((100..200).contains(&offset)) };
        check_exact(&keyspace, &[new], &state, revision).await;
        assert!(!lineages().await.iter().any(|(_, value)| split(value)));
    }
}

#[tokio::test]
async fn the_largest_record_is_swapped_alone_and_a_larger_one_is_named() {
    let device = |n: u64| format!("{n:0250}");
    let old = Log::of_rows(3, (0..300).map(|n| row(&device(n), 5, 1)));
    for (keyspace, _place) in support::keyspaces("the_largest_record_is_swapped_alone_and_a_larger_one_is_named").await
    {
        filled(&keyspace, std::slice::from_ref(&old)).await;
        let chosen: Chosen = [(3, 149), (3, 150), (3, 151)].into();
        let mut new = old.clone();
        new.records.insert(150, rows(&[("a", 1, 490_000), ("b", 1, 490_000)]));
        let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT);
        work_off(&mut rewriter, std::slice::from_ref(&new), &chosen, 1000).await;
        check_done(&keyspace, std::slice::from_ref(&new), &chosen).await;

        take_in(&mut HistoryStore::new(keyspace.clone(), ROOT)).await;
        let backlog = rewriter.load().await.unwrap();
        let mut larger = new.clone();
        larger.records.insert(150, rows(&[("a", 1, 500_000), ("b", 1, 500_000)]));
        match step(&mut rewriter, &backlog, &[larger], &chosen, 1000).await {
            Err(StoreError::Broken { detail, .. }) => {
                assert!(detail.contains("partition 3") && detail.contains("offset 150"), "{detail}");
            }
            unexpected => panic!("{unexpected:?}"),
        }
    }
}

/// Few large records are flushed as many small ones are: what waits in memory is bounded by its bytes, too.
#[tokio::test]
async fn large_records_do_not_wait_for_many() {
    const BIG: usize = 200_000;
    let old = Log::of_rows(0, (0..100).map(|n| row("a", n, 1)));
    let new = Log::of_rows(0, (0..100).map(|n| row("b", n, BIG)));
    for (keyspace, _place) in support::keyspaces("large_records_do_not_wait_for_many").await {
        filled(&keyspace, std::slice::from_ref(&old)).await;
        let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT);
        let job = rewriter.load().await.unwrap().jobs.remove(0);
        let mut swapped = Vec::new();
        for start in (0..100).step_by(10) {
            rewriter.stage(new.rewrite(start..start + 10, |_| true, 1)).await.unwrap();
            rewriter.flush(job.revision).await.unwrap();
            let view = HistoryReader::new(keyspace.clone(), ROOT).view().await.unwrap();
            let lineages = view.lineages(0, 0..100, 1000).await.unwrap();
            swapped.push(lineages.iter().flat_map(|lineage| &lineage.rows).filter(|row| row.device_id == "b").count());
        }
        println!("swapped before the commit: {swapped:?}");
        assert!(*swapped.last().unwrap() > 50, "they wait for the commit");
        rewriter.commit(job.revision, &BTreeMap::new(), &Reason::default()).await.unwrap();
        let all: Chosen = (0..100).map(|offset| (0, offset)).collect();
        check_done(&keyspace, std::slice::from_ref(&new), &all).await;
    }
}

#[tokio::test]
async fn rows_of_records_that_no_lineage_covers_are_kept_and_found() {
    for (keyspace, _place) in support::keyspaces("rows_of_records_that_no_lineage_covers_are_kept_and_found").await {
        let old = Log { partition: 0, records: (0..30).map(|offset| (offset, rows(&[]))).collect() };
        let mut store = HistoryStore::new(keyspace.clone(), ROOT).with_transactions_of(usize::MAX, 10);
        consume(&mut store, std::slice::from_ref(&old), 100).await;
        take_in(&mut store).await;
        let lost = Keys::new(ROOT).lineage(0, 10);
        keyspace.commit(Batch { compares: vec![], writes: vec![Write::Delete(lost)] }).await.unwrap();
        let mut new = old.clone();
        new.records.extend((5..25).map(|offset| (offset, rows(&[("a", 5, 1), ("b", 5, 1)]))));
        new.records.insert(15, Outcome::Dead);
        new.records.insert(16, rows(&[]));
        let chosen: Chosen = (0..30).map(|offset| (0, offset)).collect();
        let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT).with_transactions_of(2000, 100);
        work_off(&mut rewriter, std::slice::from_ref(&new), &chosen, 100).await;
        let view = HistoryReader::new(keyspace.clone(), ROOT).view().await.unwrap();
        let found = view.materialized(0, 0..30).await.unwrap().rows;
        let expected: Vec<_> = new.rows(0..30, |_| 1).iter().map(|row| row.key(0)).collect();
        assert_eq!(found.iter().map(|row| row.key.clone()).collect::<Vec<_>>(), expected);
        assert!(found.iter().all(|row| row.row.is_some()));
        assert_eq!(view.lineage_faults(0, 0..30).await.unwrap().gaps, vec![15..17]);
        assert_eq!(view.dead_letters_of(0, 0..30, 9).await.unwrap().letters, new.dead(0..30, |_| 1));
    }
}

#[tokio::test]
async fn what_a_rewriter_must_not_do_is_refused() {
    for (keyspace, _place) in support::keyspaces("what_a_rewriter_must_not_do_is_refused").await {
        let log = Log::random(0, 40, &mut support::random(seed()));
        let state = filled(&keyspace, std::slice::from_ref(&log)).await;
        let before = support::dump(&keyspace).await;
        let end = state.cursors[&0].next;
        let good = || log.rewrite(0..end, |_| true, 1);
        let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT);
        let nothing = (BTreeMap::new(), Reason::default());
        assert!(matches!(rewriter.stage(good()).await, Err(StoreError::Fenced { .. })), "not loaded");
        assert!(
            matches!(rewriter.commit(1, &nothing.0, &nothing.1).await, Err(StoreError::Fenced { .. })),
            "not loaded"
        );
        type Spoil = fn(&mut Rewrite);
        let faults: Vec<(&str, Spoil)> = vec![
            ("under revision 0", |rewrite| rewrite.applied = 0),
            ("the store stands at", |rewrite| rewrite.offsets.end += 1),
            ("the store stands at", |rewrite| rewrite.partition = 7),
            ("out of order or out of range", |rewrite| rewrite.remade.swap(0, 1)),
            ("out of order or out of range", |rewrite| rewrite.remade.clear()),
            ("out of order or out of range", |rewrite| rewrite.offsets.start = rewrite.remade[0] + 1),
            ("has rows and a dead letter", |rewrite| {
                let offset = rewrite.rows.column_by_name("_offset").unwrap();
                let offset = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(offset).value(0);
                let letter = |code: &str| millrace_rows::DeadLetter {
                    offset: offset as u64,
                    revision: 1,
                    step: "s".into(),
                    code: code.into(),
                };
                rewrite.dead = vec![letter("c")];
            }),
        ];
        for (expected, spoil) in faults {
            rewriter.load().await.unwrap();
            let mut rewrite = good();
            spoil(&mut rewrite);
            let error = rewriter.stage(rewrite).await.expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(matches!(rewriter.stage(good()).await, Err(StoreError::Fenced { .. })), "{expected}: not loaded");
        }
        rewriter.load().await.unwrap();
        rewriter.stage(good()).await.unwrap();
        assert!(matches!(rewriter.stage(good()).await, Err(StoreError::Fenced { .. })), "twice");
        rewriter.load().await.unwrap();
        assert!(
            matches!(rewriter.commit(2, &nothing.0, &nothing.1).await, Err(StoreError::Fenced { .. })),
            "no such job"
        );
        for left in [[(0, end + 1)], [(1, 1)]] {
            rewriter.load().await.unwrap();
            let result = rewriter.commit(1, &left.into(), &nothing.1).await;
            assert!(matches!(result, Err(StoreError::Broken { .. })), "a job does not grow: {result:?}");
        }
        assert!(support::dump(&keyspace).await == before);
    }
}

#[tokio::test]
async fn a_revision_fences_a_rewriter_and_nothing_is_written() {
    for (keyspace, _place) in support::keyspaces("a_revision_fences_a_rewriter_and_nothing_is_written").await {
        let old = [Log::random(0, 60, &mut support::random(seed()))];
        filled(&keyspace, &old).await;
        let (new, chosen) = change(&old, &mut support::random(seed() + 1));
        let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT);
        let backlog = rewriter.load().await.unwrap();
        let offsets = 0..old[0].end();
        rewriter.stage(new[0].rewrite(offsets, |offset| chosen.contains(&(0, offset)), 1)).await.unwrap();
        take_in(&mut HistoryStore::new(keyspace.clone(), ROOT)).await;
        let before = support::dump(&keyspace).await;
        let result = rewriter.commit(1, &BTreeMap::new(), &Reason::default()).await;
        assert!(matches!(result, Err(StoreError::Fenced { .. })), "{result:?}");
        assert!(support::dump(&keyspace).await == before);
        assert!(step(&mut rewriter, &backlog, &new, &chosen, 9).await.is_err(), "not loaded");
        let backlog = rewriter.load().await.unwrap();
        assert_eq!((backlog.state.applied, backlog.jobs.len()), (2, 2));
        work_off(&mut rewriter, &new, &chosen, 20).await;
        let state = backlog.state;
        check_exact(&keyspace, &new, &state, |p, offset| if chosen.contains(&(p, offset)) { 2 } else { 0 }).await;
    }
}

#[tokio::test]
async fn a_job_that_another_rewriter_moved_stays_where_it_is() {
    for (keyspace, _place) in support::keyspaces("a_job_that_another_rewriter_moved_stays_where_it_is").await {
        let old = [Log::random(0, 60, &mut support::random(seed()))];
        filled(&keyspace, &old).await;
        let (new, chosen) = change(&old, &mut support::random(seed() + 1));
        let mut late = HistoryRewriter::new(keyspace.clone(), ROOT);
        let backlog = late.load().await.unwrap();
        work_off(&mut HistoryRewriter::new(keyspace.clone(), ROOT), &new, &chosen, 1000).await;
        let before = support::dump(&keyspace).await;
        let result = step(&mut late, &backlog, &new, &chosen, 10).await;
        assert!(matches!(result, Err(StoreError::Fenced { .. })), "{result:?}");
        assert!(support::dump(&keyspace).await == before);
        assert!(late.load().await.unwrap().jobs.is_empty());
    }
}

#[tokio::test]
async fn few_records_of_long_and_of_many_lineages_are_found() {
    let old = [Log::of_rows(0, (0..9000).map(|n| row("a", n, 0))), Log::of_rows(1, (0..700).map(|n| row("b", n, 0)))];
    for (keyspace, _place) in support::keyspaces("few_records_of_long_and_of_many_lineages_are_found").await {
        consume(&mut HistoryStore::new(keyspace.clone(), ROOT), &old[..1], 9000).await;
        consume(&mut HistoryStore::new(keyspace.clone(), ROOT).with_transactions_of(usize::MAX, 2), &old[1..], 700)
            .await;
        take_in(&mut HistoryStore::new(keyspace.clone(), ROOT)).await;
        let mut new = old.to_vec();
        let chosen: Chosen = (0..9).map(|n| (0, n * 1000 + 999)).chain((0..350).map(|n| (1, n * 2))).collect();
        for (partition, offset) in &chosen {
            new[*partition as usize].records.insert(*offset, rows(&[("c", 1, 1)]));
        }
        work_off(&mut HistoryRewriter::new(keyspace.clone(), ROOT), &new, &chosen, 10_000).await;
        check_done(&keyspace, &new, &chosen).await;
    }
}
