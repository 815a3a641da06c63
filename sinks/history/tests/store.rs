//! The store against logs made at random: rows exactly once whatever goes wrong, cursors always right.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_history::value::{CHUNK_BYTES, chunks};
use millrace_history::{HistoryReader, HistoryStore, Keys};
use millrace_keyspace::Keyspace;
use millrace_keyspace::conformance::seed;
use millrace_keyspace::memory::{Fault, MemoryKeyspace};
use millrace_rows::{Cursor, Job, LogId, Mark, Slice, Store, StoreError, StoreState};
use rand::Rng;
use support::{LOG, Log, Outcome, ROOT, Row, check_exact, random_row};

fn memory() -> (Arc<MemoryKeyspace>, Arc<dyn Keyspace>) {
    let memory = Arc::new(MemoryKeyspace::default());
    (memory.clone(), memory)
}

async fn loaded(keyspace: &Arc<dyn Keyspace>) -> HistoryStore {
    let mut store = HistoryStore::new(keyspace.clone(), ROOT);
    store.load().await.unwrap();
    store
}

fn plain(text: usize) -> Row {
    Row { device: "d".into(), time: 7, kind: "track", event: "open", text: "x".repeat(text) }
}

/// Consumes a whole log in slices of `count` records.
async fn consume(store: &mut HistoryStore, log: &Log, count: usize) -> StoreState {
    let mut state = store.load().await.unwrap();
    while let Some(slice) = log.slice(state.cursors.get(&log.partition).map_or(0, |c| c.next), count, state.applied) {
        store.stage(slice).await.unwrap();
        state = store.commit().await.unwrap();
    }
    state
}

#[tokio::test]
async fn the_cuts_of_slices_and_transactions_do_not_show() {
    let mut random = support::random(seed());
    let log = Log::random(3, 300, &mut random);
    let mut contents = Vec::new();
    for (count, bytes, records) in [(1000, usize::MAX, u64::MAX), (1000, 1, 1), (7, 5_000, 3), (40, 60_000, 100)] {
        for (keyspace, _place) in support::keyspaces("the_cuts_do_not_show").await {
            let mut store = HistoryStore::new(keyspace.clone(), ROOT).with_transactions_of(bytes, records);
            let state = consume(&mut store, &log, count).await;
            assert_eq!(state.cursors[&3].next, log.end());
            check_exact(&keyspace, std::slice::from_ref(&log), &state, |_, _| 0).await;
            // All bytes but the lineages, of which only the union is the same.
            let lineages = Keys::new(ROOT).lineage_range(3, 0..u64::MAX);
            let pairs = support::dump(&keyspace).await.into_iter();
            contents.push(pairs.filter(|(key, _)| !lineages.contains(&key.to_vec())).collect::<Vec<_>>());
        }
    }
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Two writers, faults, revisions: after each step the store holds exactly what its cursors say.
#[tokio::test]
async fn rows_are_there_exactly_once_whatever_fails() {
    for round in 0..4_u64 {
        let mut random = support::random(seed() ^ round);
        let (memory, keyspace) = memory();
        let logs: Vec<Log> = (0..3).map(|partition| Log::random(partition, 600, &mut random)).collect();
        let mut writers = Vec::new();
        for _ in 0..2 {
            let limits = (random.random_range(1_000..300_000), random.random_range(1..20));
            writers.push((HistoryStore::new(keyspace.clone(), ROOT).with_transactions_of(limits.0, limits.1), None));
        }
        let mut truth = StoreState::default();
        let mut revisions: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        let mut outcomes = [0_u32; 4];
        for step in 0..150 {
            let (writer, known) = &mut writers[random.random_range(0..2)];
            let state: StoreState = match known.take() {
                Some(state) if random.random_bool(0.9) => state,
                _ => writer.load().await.unwrap(),
            };
            memory.plan((0..random.random_range(0..6)).map(|_| match random.random_range(0..12) {
                0 => Fault::UnknownCommitted,
                1 => Fault::UnknownLost,
                2 => Fault::Unavailable,
                _ => Fault::Pass,
            }));
            let result = if random.random_bool(0.1) {
                let below: BTreeMap<u32, u64> = state.cursors.iter().map(|(p, cursor)| (*p, cursor.next)).collect();
                let revision = state.applied + 1;
                writer.take_in(revision, (!below.is_empty()).then_some(Job { revision, below })).await
            } else {
                stage_some(writer, &logs, &state, &mut random).await
            };
            match &result {
                Ok(_) => outcomes[0] += 1,
                Err(StoreError::Fenced { .. }) => outcomes[1] += 1,
                Err(StoreError::Unavailable { .. }) => outcomes[2] += 1,
                Err(StoreError::Broken { .. }) => panic!("round {round}, step {step}: {result:?}"),
            }
            let reader = HistoryReader::new(keyspace.clone(), ROOT);
            let now = reader.state().await.unwrap();
            if let Ok(state) = result {
                // Of partitions that it did not write it may know an older cursor: another writer moved them.
                let (took_in, wrote) =
                    (now.applied > truth.applied, |p: &u32| now.cursors.get(p) != truth.cursors.get(p));
                let known_exactly = |p: &&u32| took_in || wrote(p);
                assert_eq!(state.applied, now.applied, "round {round}, step {step}");
                for partition in now.cursors.keys().filter(known_exactly) {
                    let place = format!("round {round}, step {step}, partition {partition}");
                    assert_eq!(state.cursors.get(partition), now.cursors.get(partition), "{place}");
                }
                *known = Some(state);
            } else {
                assert_eq!(writer.staged_bytes(), 0);
            }
            assert!(now.applied == truth.applied || now.applied == truth.applied + 1);
            for (partition, cursor) in &now.cursors {
                let before = truth.cursors.get(partition).map_or(0, |cursor| cursor.next);
                assert!(cursor.next >= before, "round {round}, step {step}: a cursor went back");
                revisions.extend((before..cursor.next).map(|offset| ((*partition, offset), truth.applied)));
            }
            if now.applied > truth.applied {
                assert!(now.cursors == truth.cursors);
                let jobs = reader.view().await.unwrap().jobs().await.unwrap();
                let below: BTreeMap<u32, u64> = now.cursors.iter().map(|(p, cursor)| (*p, cursor.next)).collect();
                let job = (!below.is_empty()).then_some(Job { revision: now.applied, below });
                assert_eq!(jobs.last().filter(|job| job.revision == now.applied), job.as_ref());
            }
            truth = now;
            if step % 10 == 0 {
                check_exact(&keyspace, &logs, &truth, |p, offset| revisions[&(p, offset)]).await;
            }
        }
        check_exact(&keyspace, &logs, &truth, |p, offset| revisions[&(p, offset)]).await;
        assert!(outcomes[..3].iter().all(|n| *n > 0), "a round that met no failure proves little: {outcomes:?}");
    }
}

/// Stages some slices from where the writer believes to stand, and commits.
async fn stage_some(
    writer: &mut HistoryStore,
    logs: &[Log],
    state: &StoreState,
    random: &mut rand::rngs::StdRng,
) -> Result<StoreState, StoreError> {
    let mut next: BTreeMap<u32, u64> = state.cursors.iter().map(|(p, cursor)| (*p, cursor.next)).collect();
    for _ in 0..random.random_range(1..4) {
        let log = &logs[random.random_range(0..logs.len())];
        let first = next.entry(log.partition).or_insert(0);
        let slice = log.slice(*first, random.random_range(1..8), state.applied).expect("logs longer than all steps");
        *first = slice.cursor.next;
        writer.stage(slice).await?;
    }
    writer.commit().await
}

#[tokio::test]
async fn a_writer_is_fenced_by_another_and_goes_on_after_a_load() {
    for (keyspace, _place) in support::keyspaces("a_writer_is_fenced_by_another_and_goes_on_after_a_load").await {
        let log = Log::of_rows(0, (0..10).map(|_| plain(10)));
        let (mut one, mut two) = (loaded(&keyspace).await, loaded(&keyspace).await);
        one.stage(log.slice(0, 4, 0).unwrap()).await.unwrap();
        two.stage(log.slice(0, 6, 0).unwrap()).await.unwrap();
        one.commit().await.unwrap();
        assert!(matches!(two.commit().await, Err(StoreError::Fenced { .. })));
        assert!(matches!(two.stage(log.slice(0, 6, 0).unwrap()).await, Err(StoreError::Fenced { .. })), "not loaded");
        let state = consume(&mut two, &log, 3).await;
        check_exact(&keyspace, &[log], &state, |_, _| 0).await;
    }
}

#[tokio::test]
async fn a_partition_that_another_writer_began_fences_a_revision() {
    for (keyspace, _place) in support::keyspaces("a_partition_that_another_writer_began_fences_a_revision").await {
        let logs: Vec<Log> = (0..2).map(|partition| Log::of_rows(partition, [plain(1), plain(2)])).collect();
        let (mut one, mut two) = (loaded(&keyspace).await, loaded(&keyspace).await);
        one.stage(logs[0].slice(0, 1, 0).unwrap()).await.unwrap();
        let state = one.commit().await.unwrap();
        two.load().await.unwrap();
        two.stage(logs[1].slice(0, 2, 0).unwrap()).await.unwrap();
        two.commit().await.unwrap();
        // The first knows nothing of partition 1: its job would leave the rows there under the old revision.
        let job =
            |state: &StoreState| Job { revision: 1, below: state.cursors.iter().map(|(p, c)| (*p, c.next)).collect() };
        assert!(matches!(one.take_in(1, Some(job(&state))).await, Err(StoreError::Fenced { .. })));
        let state = one.load().await.unwrap();
        assert_eq!(state.cursors.len(), 2);
        assert_eq!(one.take_in(1, Some(job(&state))).await.unwrap().applied, 1);
        let jobs = HistoryReader::new(keyspace.clone(), ROOT).view().await.unwrap().jobs().await.unwrap();
        assert_eq!(jobs, [Job { revision: 1, below: [(0, 1), (1, 2)].into() }]);
        // And slices made under the old revision are of no use any more.
        two.stage(logs[1].slice(2, 1, 0).unwrap_or_else(|| logs[0].slice(1, 1, 0).unwrap())).await.unwrap();
        assert!(matches!(two.commit().await, Err(StoreError::Fenced { .. })));
        check_exact(&keyspace, &logs, &one.load().await.unwrap(), |_, _| 0).await;
    }
}

#[tokio::test]
async fn a_revision_is_taken_in_once_and_in_its_turn() {
    for (keyspace, _place) in support::keyspaces("a_revision_is_taken_in_once_and_in_its_turn").await {
        let mut store = loaded(&keyspace).await;
        assert_eq!(store.take_in(1, None).await.unwrap().applied, 1);
        for wrong in [0, 1] {
            assert!(matches!(store.take_in(wrong, None).await, Err(StoreError::Fenced { .. })), "{wrong}");
            store.load().await.unwrap();
        }
        let log = Log::of_rows(0, [plain(1), plain(2)]);
        assert!(
            matches!(store.stage(log.slice(0, 1, 0).unwrap()).await, Err(StoreError::Fenced { .. })),
            "old revision"
        );
        store.load().await.unwrap();
        store.stage(log.slice(0, 1, 1).unwrap()).await.unwrap();
        assert!(matches!(store.take_in(2, None).await, Err(StoreError::Fenced { .. })), "something is staged");
        store.load().await.unwrap();
        store.stage(log.slice(0, 1, 1).unwrap()).await.unwrap();
        store.commit().await.unwrap();
        let stale = Job { revision: 2, below: [(0, 2)].into() };
        assert!(matches!(store.take_in(2, Some(stale)).await, Err(StoreError::Fenced { .. })), "not the cursor");
    }
}

#[tokio::test]
async fn slices_follow_each_other() {
    for (keyspace, _place) in support::keyspaces("slices_follow_each_other").await {
        let log = Log::of_rows(0, (0..10).map(|_| plain(1)));
        let mut store = loaded(&keyspace).await;
        store.stage(log.slice(0, 3, 0).unwrap()).await.unwrap();
        assert!(store.staged_bytes() > 0);
        store.stage(log.slice(3, 3, 0).unwrap()).await.unwrap();
        assert!(matches!(store.stage(log.slice(5, 3, 0).unwrap()).await, Err(StoreError::Fenced { .. })));
        assert_eq!(store.staged_bytes(), 0);
        assert!(store.load().await.unwrap().cursors.is_empty(), "what was staged is forgotten");

        let other = LogId([2; 16]);
        store.stage(log.slice(0, 3, 0).unwrap()).await.unwrap();
        store.commit().await.unwrap();
        let mut slice = log.slice(3, 3, 0).unwrap();
        slice.cursor.log = other;
        match store.stage(slice).await {
            Err(StoreError::Broken { detail, .. }) => assert!(detail.contains(&other.to_string()), "{detail}"),
            unexpected => panic!("{unexpected:?}"),
        }
    }
}

#[tokio::test]
async fn a_slice_that_contradicts_itself_is_refused() {
    let (memory, keyspace) = memory();
    let mut log = Log::random(0, 40, &mut support::random(seed()));
    // Some faults show only where a slice has rows.
    log.records.insert(0, Outcome::Rows(vec![plain(1)]));
    let good = || log.slice(0, 20, 0).unwrap();
    type Spoil = fn(&mut Slice);
    let faults: Vec<(&str, Spoil)> = vec![
        ("marks", |slice| slice.marks = Arc::new([])),
        ("mark", |slice| slice.cursor.mark = Mark::NONE),
        ("missing", |slice| {
            let columns: Vec<usize> = (1..slice.rows.num_columns()).filter(|i| *i != 1).collect();
            slice.rows = slice.rows.project(&columns).unwrap();
        }),
        ("out of order", |slice| slice.partition = 9),
        ("out of order", |slice| {
            let rows = slice.rows.clone();
            slice.rows = arrow::compute::concat_batches(&rows.schema(), [&rows, &rows]).unwrap();
        }),
        ("dead letters", |slice| {
            let letter =
                millrace_rows::DeadLetter { offset: 1 << 40, revision: 0, step: String::new(), code: String::new() };
            slice.dead.push(letter);
        }),
    ];
    for (expected, spoil) in faults {
        let mut store = loaded(&keyspace).await;
        let mut slice = good();
        spoil(&mut slice);
        match store.stage(slice).await {
            Err(StoreError::Broken { detail, .. }) => assert!(detail.contains(expected), "{expected}: {detail}"),
            unexpected => panic!("{expected}: {unexpected:?}"),
        }
    }
    assert!(memory.dump().is_empty());
}

#[tokio::test]
async fn the_largest_rows_are_split_and_come_back() {
    for (keyspace, _place) in support::keyspaces("the_largest_rows_are_split_and_come_back").await {
        // The length of every such text takes as many bytes.
        let overhead = {
            let rows = Log::of_rows(0, [plain(CHUNK_BYTES)]).rows(0..1, |_| 0);
            support::encoded(0, &rows)[0].len() - CHUNK_BYTES
        };
        let sizes = [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1, 512 * 1024];
        let log = Log::of_rows(0, sizes.map(|size| plain(size - overhead)));
        let mut store = loaded(&keyspace).await;
        let state = consume(&mut store, &log, 100).await;
        check_exact(&keyspace, &[log], &state, |_, _| 0).await;
        let expected: usize = sizes.iter().map(|size| 1 + chunks(*size)).sum();
        let keys = Keys::new(ROOT);
        let range = keys.rows_range();
        assert_eq!(
            support::dump(&keyspace).await.iter().filter(|(key, _)| range.contains(&key.to_vec())).count(),
            expected
        );
    }
}

#[tokio::test]
async fn a_record_that_no_transaction_holds_stops_the_store_with_its_place() {
    for (keyspace, _place) in
        support::keyspaces("a_record_that_no_transaction_holds_stops_the_store_with_its_place").await
    {
        let mut log = Log::of_rows(4, (0..5).map(|_| plain(10)));
        log.records.insert(5, Outcome::Rows((0..5).map(|_| plain(250_000)).collect()));
        let mut store = loaded(&keyspace).await;
        match store.stage(log.slice(0, 10, 0).unwrap()).await {
            Err(StoreError::Broken { detail, .. }) => {
                assert!(detail.contains("partition 4") && detail.contains("offset 5"), "{detail}");
            }
            unexpected => panic!("{unexpected:?}"),
        }
    }
}

#[tokio::test]
async fn records_that_left_nothing_move_the_cursor_in_bounded_steps() {
    for (keyspace, _place) in support::keyspaces("records_that_left_nothing_move_the_cursor_in_bounded_steps").await {
        let mut random = support::random(seed());
        let mut log = Log { partition: 0, records: BTreeMap::new() };
        for offset in 0..20_000 {
            let outcome =
                if offset == 15_000 { Outcome::Rows(vec![random_row(&mut random)]) } else { Outcome::Rows(vec![]) };
            log.records.insert(offset, outcome);
        }
        let mut store = loaded(&keyspace).await;
        let state = consume(&mut store, &log, usize::MAX).await;
        let view = HistoryReader::new(keyspace.clone(), ROOT).view().await.unwrap();
        let spans: Vec<_> = view.lineages(0, 0..u64::MAX, 100).await.unwrap().into_iter().map(|l| l.offsets).collect();
        assert_eq!(spans, [0..8192, 8192..16_384, 16_384..20_000]);
        // From the middle: the one that covers the offset is found although its key lies before.
        let found = view.lineages(0, 15_000..15_001, 100).await.unwrap();
        assert_eq!((found.len(), found[0].rows[0].offset), (1, 15_000));
        check_exact(&keyspace, &[log], &state, |_, _| 0).await;
    }
}

#[tokio::test]
async fn a_slice_over_a_gap_alone_moves_the_cursor() {
    for (keyspace, _place) in support::keyspaces("a_slice_over_a_gap_alone_moves_the_cursor").await {
        let mut store = loaded(&keyspace).await;
        let slice = Slice {
            partition: 0,
            first: 5,
            cursor: Cursor::start(LOG, 500),
            applied: 0,
            rows: support::batch(0, &[]),
            dead: Vec::new(),
            read: 0,
            marks: Arc::new([]),
            dropped: 0,
        };
        store.stage(slice).await.unwrap();
        assert_eq!(store.commit().await.unwrap().cursors[&0], Cursor::start(LOG, 500));
        assert_eq!(store.load().await.unwrap().cursors[&0], Cursor::start(LOG, 500));
    }
}

#[tokio::test]
async fn a_commit_that_is_given_up_half_way_loses_no_record() {
    let (_, keyspace) = memory();
    let log = Log::of_rows(0, (0..10).map(|_| plain(10)));
    let mut store = loaded(&keyspace).await;
    store.stage(log.slice(0, 5, 0).unwrap()).await.unwrap();
    // Polled never or once: dropped before its end.
    drop(store.commit());
    {
        let commit = store.commit();
        tokio::pin!(commit);
        let _ = futures_poll_once(commit.as_mut()).await;
    }
    let result = match store.stage(log.slice(5, 5, 0).unwrap()).await {
        Ok(()) => store.commit().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(result, Ok(()) | Err(StoreError::Fenced { .. })), "{result:?}");
    let state = store.load().await.unwrap();
    check_exact(&keyspace, std::slice::from_ref(&log), &state, |_, _| 0).await;
    let state = consume(&mut store, &log, 5).await;
    assert_eq!(state.cursors[&0].next, 10);
    check_exact(&keyspace, &[log], &state, |_, _| 0).await;
}

async fn futures_poll_once<F: Future + ?Sized>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
