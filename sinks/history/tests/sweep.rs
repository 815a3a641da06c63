//! A rebuild takes away what no record accounts for, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_history::value::CHUNK_BYTES;
use millrace_history::{HistoryReader, HistoryRewriter, HistoryStore, Keys, RowKey, codec};
use millrace_keyspace::conformance::seed;
use millrace_keyspace::{Batch, Keyspace, Write};
use millrace_rows::{DeadLetter, Job, Reason, Rewriter, Store as _};
use support::rewriting::{Chosen, check_done, consume};
use support::{Log, ROOT, Row, check_exact};

const REBUILD: u64 = 1;

async fn write(keyspace: &Arc<dyn Keyspace>, writes: Vec<Write>) {
    keyspace.commit(Batch { compares: vec![], writes }).await.unwrap();
}

/// A history of the first records of each log under revision 1, with a rebuild noted.
async fn filled(keyspace: &Arc<dyn Keyspace>, logs: &[Log]) -> HistoryRewriter {
    let mut store = HistoryStore::new(keyspace.clone(), ROOT).with_transactions_of(usize::MAX, 50);
    store.load().await.unwrap();
    store.take_in(1, None).await.unwrap();
    let state = consume(&mut store, logs, 100).await;
    let mut rewriter = HistoryRewriter::new(keyspace.clone(), ROOT);
    rewriter.load().await.unwrap();
    let below = state.cursors.iter().map(|(partition, cursor)| (*partition, cursor.next)).collect();
    rewriter.note(&Job { revision: REBUILD, below }).await.unwrap();
    rewriter
}

/// Makes every record again, in two commits.
async fn rebuild(rewriter: &mut HistoryRewriter, logs: &[Log]) {
    let backlog = rewriter.load().await.unwrap();
    let job = &backlog.jobs[0];
    let halves: BTreeMap<u32, u64> = job.below.iter().map(|(partition, below)| (*partition, below / 2)).collect();
    for last in [false, true] {
        let mut made = BTreeMap::new();
        for log in logs {
            let (half, end) = (halves[&log.partition], job.below[&log.partition]);
            let offsets = if last { 0..half } else { half..end };
            rewriter.stage(log.rewrite(offsets.clone(), |_| true, backlog.state.applied)).await.unwrap();
            rewriter.flush(REBUILD).await.unwrap();
            made.insert(log.partition, offsets);
        }
        let left = if last { BTreeMap::new() } else { halves.clone() };
        rewriter.commit_rebuild(REBUILD, &made, &left, &Reason::default()).await.unwrap();
    }
}

/// Every kind of pair that no writer of a history leaves, made of one that is right.
fn strays(logs: &[Log], rows: &[(RowKey, bytes::Bytes)]) -> Vec<Write> {
    let keys = Keys::new(ROOT);
    let mut writes = Vec::new();
    let mut put = |row: &RowKey, value: &bytes::Bytes| writes.push(Write::Put(keys.row(row).into(), value.clone()));
    for (row, value) in rows.iter().step_by(9) {
        put(&RowKey { device_id: format!("{}-copy", row.device_id), ..row.clone() }, value);
        put(&RowKey { event_time_us: row.event_time_us + 1, ..row.clone() }, value);
        put(&RowKey { sub: row.sub + 1000, ..row.clone() }, value);
    }
    let (row, value) = &rows[0];
    put(&RowKey { partition: 9, ..row.clone() }, value);
    for log in logs {
        put(&RowKey { partition: log.partition, offset: log.end() + 5, ..row.clone() }, value);
        put(&RowKey { partition: log.partition, offset: u64::MAX / 2, ..row.clone() }, value);
        if let Some(gap) = (0..log.end()).find(|offset| !log.records.contains_key(offset)) {
            put(&RowKey { partition: log.partition, offset: gap, ..row.clone() }, value);
        }
    }
    let mut dead = |partition: u32, offset: u64| {
        let letter = DeadLetter { offset, revision: 1, step: "scrub@1.0.0".into(), code: "bad".into() };
        let mut value = Vec::new();
        codec::push_dead(&mut value, &letter);
        writes.push(Write::Put(keys.dead(partition, offset), value.into()));
    };
    dead(row.partition, row.offset);
    dead(logs[0].partition, logs[0].end() + 5);
    dead(9, 0);
    writes
}

async fn rows_of(keyspace: &Arc<dyn Keyspace>) -> Vec<(RowKey, bytes::Bytes)> {
    let page = HistoryReader::new(keyspace.clone(), ROOT).rows(None, 10_000).await.unwrap();
    assert_eq!(page.next, None);
    // A value in chunks can't be put as one.
    page.rows.into_iter().map(|row| (row.key, row.row)).filter(|(_, row)| row.len() <= CHUNK_BYTES).collect()
}

#[tokio::test]
async fn what_no_record_accounts_for_goes_and_nothing_else() {
    let mut random = support::random(seed());
    let row = |n: i64| Row { device: "d".into(), time: n, kind: "track", event: "open", text: "x".into() };
    let logs = [Log::random(0, 300, &mut random), Log::random(2, 120, &mut random), Log::of_rows(5, (0..100).map(row))];
    let all: Chosen = logs.iter().flat_map(|log| log.records.keys().map(|o| (log.partition, *o))).collect();
    for (keyspace, _place) in support::keyspaces("what_no_record_accounts_for_goes_and_nothing_else").await {
        let mut rewriter = filled(&keyspace, &logs).await;
        let before = support::dump(&keyspace).await.len();
        let rows = rows_of(&keyspace).await;
        let strays = strays(&logs, &rows);
        assert!(strays.len() > 20);
        write(&keyspace, strays).await;
        // Rows whose lineage was lost are rows of their records again.
        write(&keyspace, vec![Write::Delete(Keys::new(ROOT).lineage(5, 50))]).await;
        let planted = support::dump(&keyspace).await.len();
        rebuild(&mut rewriter, &logs).await;
        let after = support::dump(&keyspace).await.len();
        println!("{before} pairs, {planted} with strays, {after} after the rebuild");
        check_done(&keyspace, &logs, &all).await;
    }
}

#[tokio::test]
async fn what_comes_in_while_a_rebuild_ends_is_no_stray() {
    let mut random = support::random(seed());
    let whole = [Log::random(0, 300, &mut random), Log::random(1, 80, &mut random)];
    let first: Vec<Log> = whole
        .iter()
        .map(|log| {
            let records = log.records.iter().take(60).map(|(offset, outcome)| (*offset, outcome.clone()));
            Log { partition: log.partition, records: records.collect() }
        })
        .collect();
    for (keyspace, _place) in support::keyspaces("what_comes_in_while_a_rebuild_ends_is_no_stray").await {
        let mut rewriter = filled(&keyspace, &first).await;
        let backlog = rewriter.load().await.unwrap();
        for log in &first {
            rewriter.stage(log.rewrite(0..log.end(), |_| true, backlog.state.applied)).await.unwrap();
        }
        // The rewriter has seen the state before these.
        let mut store = HistoryStore::new(keyspace.clone(), ROOT);
        let state = consume(&mut store, &whole, 100).await;
        let (made, left) = (BTreeMap::new(), BTreeMap::new());
        let stray = RowKey { device_id: "x".into(), event_time_us: 1, partition: 0, offset: 200, sub: 77 };
        write(&keyspace, vec![Write::Put(Keys::new(ROOT).row(&stray).into(), rows_of(&keyspace).await[0].1.clone())])
            .await;
        rewriter.commit_rebuild(REBUILD, &made, &left, &Reason::default()).await.unwrap();
        // It is of a record that came in after the look at the cursors: the next rebuild takes it.
        write(&keyspace, vec![Write::Delete(Keys::new(ROOT).row(&stray).into())]).await;
        check_exact(&keyspace, &whole, &state, |_, _| 1).await;
    }
}
