//! Queries against rows made at random.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

mod support;

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use millrace_history::{
    Counts, EventFilter, HistoryPage, HistoryReader, HistoryStore, Keys, LINEAGES_MAX, LineageFaults,
    MATERIALIZED_BYTES_MAX, MATERIALIZED_RECORDS_MAX, MaterializedPage, PAGE_BYTES_MAX, PAGE_ROWS_MAX, PageRequest,
    ReadError,
};
use millrace_keyspace::conformance::seed;
use millrace_keyspace::memory::MemoryKeyspace;
use millrace_keyspace::{Batch, Keyspace, Write};
use millrace_rows::canonical::{self, Value};
use millrace_rows::{Store, StoreState};
use rand::Rng;
use support::{Log, PlacedRow, ROOT, Row, encoded};

/// A history in memory.
async fn filled(logs: &[Log]) -> (Arc<dyn Keyspace>, HistoryReader) {
    let keyspace: Arc<dyn Keyspace> = Arc::new(MemoryKeyspace::default());
    let reader = fill(&keyspace, logs).await;
    (keyspace, reader)
}

async fn fill(keyspace: &Arc<dyn Keyspace>, logs: &[Log]) -> HistoryReader {
    let mut store = HistoryStore::new(keyspace.clone(), ROOT);
    store.load().await.unwrap();
    for log in logs {
        let mut first = 0;
        while let Some(slice) = log.slice(first, 100, 0) {
            first = slice.cursor.next;
            store.stage(slice).await.unwrap();
        }
    }
    store.commit().await.unwrap();
    HistoryReader::new(keyspace.clone(), ROOT)
}

fn request(device: &str, limit: usize) -> PageRequest {
    PageRequest { device_id: device.into(), times: 0..i64::MAX, filter: EventFilter::default(), limit, cursor: None }
}

/// All pages of a request.
async fn pages(reader: &HistoryReader, mut request: PageRequest) -> Vec<HistoryPage> {
    let mut pages = Vec::new();
    loop {
        let page = reader.page(&request).await.unwrap();
        assert!(page.rows.len() <= request.limit);
        request.cursor.clone_from(&page.next);
        pages.push(page);
        if request.cursor.is_none() {
            return pages;
        }
        assert!(pages.len() < 10_000, "pages that make no progress");
    }
}

#[tokio::test]
async fn pages_hold_exactly_what_was_asked_for_newest_first() {
    let mut random = support::random(seed());
    let logs: Vec<Log> = (0..3).map(|partition| Log::random(partition, 250, &mut random)).collect();
    for (keyspace, _place) in support::keyspaces("pages_hold_exactly_what_was_asked_for_newest_first").await {
        let reader = fill(&keyspace, &logs).await;
        let all: Vec<(u32, PlacedRow)> = logs
            .iter()
            .flat_map(|log| log.rows(0..u64::MAX, |_| 0).into_iter().map(|row| (log.partition, row)))
            .collect();
        for _ in 0..60 {
            let device =
                if random.random_bool(0.1) { "nobody".into() } else { support::random_row(&mut random).device };
            let mut bound = || match random.random_range(0..4) {
                0 => 0,
                1 => i64::MAX,
                2 => random.random_range(0..6),
                _ => random.random_range(0..4_000_000_000_000_000),
            };
            let times = bound()..bound();
            let filter = EventFilter {
                kind: random.random_bool(0.3).then(|| "page".to_owned()),
                event: random.random_bool(0.3).then(|| "buy".to_owned()),
            };
            let mut expected: Vec<&(u32, PlacedRow)> = all
                .iter()
                .filter(|(_, row)| row.row.device == device && times.contains(&row.row.time))
                .filter(|(_, row)| filter.kind.as_ref().is_none_or(|kind| kind == row.row.kind))
                .filter(|(_, row)| filter.event.as_ref().is_none_or(|event| event == row.row.event))
                .collect();
            expected.sort_by_key(|(partition, row)| (Reverse(row.row.time), *partition, row.offset, row.sub));
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(partition, row)| canonical::decode(&encoded(*partition, std::slice::from_ref(row))[0]).unwrap())
                .collect();

            let keys = [1, 2, 10, 10_000][random.random_range(0..4)];
            let limit = random.random_range(1..50);
            let request = PageRequest { device_id: device, times, filter, limit, cursor: None };
            let pages = pages(&reader.clone().with_page_keys(keys), request.clone()).await;
            // A row and its chunks are scanned together.
            assert!(pages.iter().all(|page| page.scanned < keys + 10), "{keys}");
            let found: Vec<_> = pages.into_iter().flat_map(|page| page.rows).collect();
            assert!(found == expected, "{request:?}: {} rows instead of {}", found.len(), expected.len());
        }
    }
}

#[tokio::test]
async fn a_page_that_finds_nothing_says_where_to_go_on() {
    let row = |n: i64| Row {
        device: "d".into(),
        time: n,
        kind: "track",
        event: if n == 0 { "buy" } else { "open" },
        text: String::new(),
    };
    let (_, reader) = filled(&[Log::of_rows(0, (0..100).map(row))]).await;
    let reader = reader.with_page_keys(30);
    let filter = EventFilter { kind: None, event: Some("buy".into()) };
    let pages = pages(&reader, PageRequest { filter, ..request("d", 10) }).await;
    assert_eq!(pages.iter().map(|page| page.rows.len()).collect::<Vec<_>>(), [0, 0, 0, 1]);
    assert_eq!(pages.iter().map(|page| page.scanned).collect::<Vec<_>>(), [30, 30, 30, 10]);
    assert!(pages[3].rows[0].contains(&("event".into(), Value::String("buy".into()))));
}

#[tokio::test]
async fn a_full_last_page_has_no_next() {
    let row = |n: i64| Row { device: "d".into(), time: n, kind: "track", event: "open", text: String::new() };
    let (_, reader) = filled(&[Log::of_rows(0, (0..20).map(row))]).await;
    let pages = pages(&reader, request("d", 10)).await;
    assert_eq!(pages.iter().map(|page| page.rows.len()).collect::<Vec<_>>(), [10, 10]);
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let row = |n: i64| Row { device: "d".into(), time: n, kind: "track", event: "open", text: "x".repeat(400_000) };
    for (keyspace, _place) in support::keyspaces("a_page_is_bounded_in_bytes").await {
        let reader = fill(&keyspace, &[Log::of_rows(0, (0..30).map(row))]).await;
        let pages = pages(&reader, request("d", 1000)).await;
        let most = PAGE_BYTES_MAX / 400_000 + 1;
        assert!(pages.iter().all(|page| page.rows.len() <= most) && pages.len() > 1);
        assert_eq!(pages.iter().map(|page| page.rows.len()).sum::<usize>(), 30);
    }
}

#[tokio::test]
async fn bad_cursors_and_limits_are_refused_clearly() {
    let row = |n: i64| Row { device: "d".into(), time: n, kind: "track", event: "open", text: String::new() };
    let (_, reader) = filled(&[Log::of_rows(0, (0..20).map(row))]).await;
    let cursor = reader.page(&request("d", 10)).await.unwrap().next;
    assert!(cursor.is_some());
    match reader.page(&PageRequest { cursor: cursor.clone(), ..request("other", 10) }).await {
        Err(ReadError::BadCursor(detail)) => assert!(detail.contains("another device"), "{detail}"),
        other => panic!("{other:?}"),
    }
    for text in ["", "x", "0102", &cursor.unwrap()[1..]] {
        let result = reader.page(&PageRequest { cursor: Some(text.into()), ..request("d", 10) }).await;
        assert!(matches!(result, Err(ReadError::BadCursor(_))), "{text}: {result:?}");
    }
    for limit in [0, PAGE_ROWS_MAX + 1] {
        assert!(matches!(reader.page(&request("d", limit)).await, Err(ReadError::BadLimit(_))));
    }
}

#[tokio::test]
async fn a_view_does_not_move() {
    let row = |n: i64| Row { device: "d".into(), time: n, kind: "track", event: "open", text: String::new() };
    let log = Log::of_rows(0, (0..20).map(row));
    for (keyspace, _place) in support::keyspaces("a_view_does_not_move").await {
        let mut store = HistoryStore::new(keyspace.clone(), ROOT);
        let reader = HistoryReader::new(keyspace, ROOT);
        store.load().await.unwrap();
        store.stage(log.slice(0, 10, 0).unwrap()).await.unwrap();
        let state = store.commit().await.unwrap();
        let view = reader.view().await.unwrap();
        store.stage(log.slice(10, 10, 0).unwrap()).await.unwrap();
        store.commit().await.unwrap();
        assert_eq!(view.page(&request("d", 100)).await.unwrap().rows.len(), 10);
        assert_eq!(view.state().await.unwrap(), state);
        assert_eq!(view.rows(None, 100).await.unwrap().rows.len(), 10);
        assert_eq!(reader.page(&request("d", 100)).await.unwrap().rows.len(), 20);
    }
}

#[tokio::test]
async fn everything_is_counted_and_paged() {
    let mut random = support::random(seed());
    let logs: Vec<Log> = (0..2).map(|partition| Log::random(partition, 400, &mut random)).collect();
    for (keyspace, _place) in support::keyspaces("everything_is_counted_and_paged").await {
        let reader = fill(&keyspace, &logs).await;
        let counts = Counts {
            rows: logs.iter().map(|log| log.rows(0..u64::MAX, |_| 0).len() as u64).sum(),
            dead_letters: logs.iter().map(|log| log.dead(0..u64::MAX, |_| 0).len() as u64).sum(),
        };
        assert_eq!(reader.counts().await.unwrap(), counts);
        let mut letters = Vec::new();
        let mut from = Some(0);
        while let Some(offset) = from {
            let page = reader.dead_letters(1, offset, 7).await.unwrap();
            letters.extend(page.letters);
            from = page.next;
        }
        assert_eq!(letters, logs[1].dead(0..u64::MAX, |_| 0));
    }
}

#[tokio::test]
async fn an_empty_history_answers() {
    let (_, reader) = filled(&[]).await;
    assert_eq!(reader.state().await.unwrap(), StoreState::default());
    assert_eq!(reader.counts().await.unwrap(), Counts::default());
    assert_eq!(reader.page(&request("d", 5)).await.unwrap(), HistoryPage { rows: vec![], next: None, scanned: 0 });
    assert!(reader.rows(None, 10).await.unwrap().rows.is_empty());
}

#[tokio::test]
async fn damage_is_named_by_its_key() {
    let row = |n: i64| Row { device: "d".into(), time: n, kind: "track", event: "open", text: "x".repeat(100_000) };
    let log = Log::of_rows(0, (0..3).map(row));
    let (keyspace, reader) = filled(std::slice::from_ref(&log)).await;
    let keys = Keys::new(ROOT);
    let key = Bytes::from(keys.row(&log.rows(0..1, |_| 0)[0].key(0)));
    let chunk = Bytes::from(millrace_history::value::chunk_key(&key, 1));
    for (write, expected) in [
        (Write::Delete(chunk), "chunk 1 of 2 is missing"),
        (Write::Put(key.clone(), Bytes::from_static(b"\0\x09")), "layout 9 of split values"),
        (Write::Put(key.clone(), Bytes::from_static(b"\x63")), "row format version 99"),
        (Write::Put(keys.cursor(5), Bytes::from_static(b"\x01")), "a cursor is damaged"),
    ] {
        keyspace.commit(Batch { compares: vec![], writes: vec![write] }).await.unwrap();
        let page = reader.page(&request("d", 100)).await.map(|_| ());
        match page.and(reader.state().await.map(|_| ())) {
            Err(error @ ReadError::Broken(_)) => {
                let state = reader.state().await.err().map(|error| error.to_string()).unwrap_or_default();
                assert!(error.to_string().contains(expected) || state.contains(expected), "{error}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_rows_of_records_are_found_by_the_lineage() {
    let mut random = support::random(seed());
    let log = Log::random(2, 700, &mut random);
    for (keyspace, _place) in support::keyspaces("the_rows_of_records_are_found_by_the_lineage").await {
        let reader = fill(&keyspace, std::slice::from_ref(&log)).await;
        let view = reader.view().await.unwrap();
        for _ in 0..20 {
            let offsets = random.random_range(0..log.end())..random.random_range(0..log.end() + 100);
            let page = view.materialized(2, offsets.clone()).await.unwrap();
            let end = page.next.unwrap_or(offsets.end);
            let expected = log.rows(offsets.start..end.max(offsets.start), |_| 0);
            let found: Vec<_> =
                page.rows.iter().map(|row| (row.key.clone(), row.row.as_deref().unwrap().to_vec())).collect();
            let bytes = encoded(2, &expected);
            assert!(found == expected.iter().map(|row| row.key(2)).zip(bytes).collect::<Vec<_>>(), "{offsets:?}");
            assert!(page.rows.iter().all(|row| row.revision == 0));
            let letters = view.dead_letters_of(2, offsets.clone(), 10_000).await.unwrap().letters;
            assert_eq!(letters, log.dead(offsets.start..offsets.end.max(offsets.start), |_| 0));
        }
        assert_eq!(view.materialized(9, 0..100).await.unwrap(), MaterializedPage::default());

        // A row that is gone is said to be gone, whole or in chunks.
        let rows = log.rows(0..u64::MAX, |_| 0);
        let in_chunks = |row: &&PlacedRow| row.row.text.len() > 90_000;
        let gone = [rows.iter().find(in_chunks), rows.iter().find(|row| !in_chunks(row))];
        for gone in gone.into_iter().flatten().map(|row| row.key(2)) {
            let range = Keys::new(ROOT).row_range(&gone);
            let write = Write::Clear(range.start.into(), range.end.into());
            keyspace.commit(Batch { compares: vec![], writes: vec![write] }).await.unwrap();
            let page = reader.view().await.unwrap().materialized(2, gone.offset..gone.offset + 1).await.unwrap();
            let found = page.rows.iter().filter(|found| found.key == gone);
            assert_eq!(found.map(|found| found.row.clone()).collect::<Vec<_>>(), [None]);
        }
    }
}

#[tokio::test]
async fn a_page_of_records_is_bounded_and_leaves_gaps_out() {
    let row = |n: i64| Row { device: "d".into(), time: n, kind: "track", event: "open", text: "x".repeat(200_000) };
    let mut log = Log::of_rows(0, (0..100).map(row));
    let small = |n: u64| (1_000_000_000 + n, support::Outcome::Rows(vec![Row { text: String::new(), ..row(1) }]));
    log.records.extend((0..MATERIALIZED_RECORDS_MAX + 5).map(small));
    for (keyspace, _place) in support::keyspaces("a_page_of_records_is_bounded_and_leaves_gaps_out").await {
        let reader = fill(&keyspace, std::slice::from_ref(&log)).await;
        let view = reader.view().await.unwrap();
        let (mut next, mut pages, mut keys) = (Some(0), 0, Vec::new());
        while let Some(from) = next {
            let page = view.materialized(0, from..u64::MAX).await.unwrap();
            assert!(page.rows.len() as u64 <= MATERIALIZED_RECORDS_MAX);
            let bytes: usize = page.rows.iter().map(|row| row.row.as_ref().unwrap().len()).sum();
            assert!(bytes < MATERIALIZED_BYTES_MAX + 65 * 201_000, "{bytes}");
            keys.extend(page.rows.into_iter().map(|row| row.key));
            next = page.next;
            pages += 1;
        }
        assert!(keys == log.rows(0..u64::MAX, |_| 0).iter().map(|row| row.key(0)).collect::<Vec<_>>());
        assert!(pages < 8, "{pages}");
    }
}

#[tokio::test]
async fn faults_of_the_lineage_are_found() {
    let row = |n: i64| Row { device: "d".into(), time: n, kind: "track", event: "open", text: String::new() };
    let count = LINEAGES_MAX as u64 + 500;
    let log = Log::of_rows(0, (0..count as i64).map(row));
    for (keyspace, _place) in support::keyspaces("faults_of_the_lineage_are_found").await {
        let mut store = HistoryStore::new(keyspace.clone(), ROOT).with_transactions_of(usize::MAX, 1);
        store.load().await.unwrap();
        store.stage(log.slice(0, count as usize, 0).unwrap()).await.unwrap();
        store.commit().await.unwrap();
        let reader = HistoryReader::new(keyspace.clone(), ROOT);
        let faults = async |offsets: std::ops::Range<u64>| {
            let (mut all, mut from) = (LineageFaults::default(), Some(offsets.start));
            while let Some(start) = from {
                let found = reader.view().await.unwrap().lineage_faults(0, start..offsets.end).await.unwrap();
                all.gaps.extend(found.gaps);
                all.overlaps.extend(found.overlaps);
                from = found.next;
            }
            all
        };
        assert_eq!(faults(0..count).await, LineageFaults::default());
        let keys = Keys::new(ROOT);
        let lineage = |offsets| millrace_history::lineage::encode::<String>(offsets, &[]).into();
        let writes = vec![
            Write::Delete(keys.lineage(0, 7)),
            Write::Delete(keys.lineage(0, 8)),
            Write::Delete(keys.lineage(0, count - 1)),
            Write::Put(keys.lineage(0, 20), lineage(20..23)),
            Write::Put(keys.lineage(0, LINEAGES_MAX as u64 + 100), lineage(0..2)),
        ];
        keyspace.commit(Batch { compares: vec![], writes }).await.unwrap();
        let found = faults(0..count + 3).await;
        assert_eq!(found.gaps, [7..9, count - 1..count + 3]);
        assert_eq!(found.overlaps, [21..22, 22..23, LINEAGES_MAX as u64 + 101..LINEAGES_MAX as u64 + 102]);
        assert_eq!(faults(21..22).await.overlaps, vec![21..22]);
        assert_eq!(faults(8..15).await.gaps, vec![8..9]);
    }
}
