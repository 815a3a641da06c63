//! What every [`EventLog`] must do, as tests that any implementation runs.
//!
//! Each function is one property and takes a fresh, empty log with [`PARTITIONS`] partitions. [`crate::conformance_tests`]
//! makes a `#[tokio::test]` of each:
//!
//! ```ignore
//! async fn fresh() -> (std::sync::Arc<dyn millrace_log::EventLog>, impl Drop) {
//!     // a new log, and what keeps it alive or cleans up after it
//! }
//! millrace_log::conformance_tests!(fresh);
//! ```
//!
//! Nothing here looks at the clock; the time limit of [`within`] only turns a call that never returns into a failure.

#![expect(clippy::expect_used, reason = "a suite of tests")]

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_rows::{Cursor, LogId, Mark};

use crate::{
    APPEND_BYTES_MAX, EventLog, LogError, NewRecord, PAYLOAD_BYTES_MAX, RECEIPT_BYTES_MAX, ReadLimit, Receipt, Record,
    ResumeError, check_resume,
};

/// Partitions that the log of each test has.
pub const PARTITIONS: u32 = 2;

/// A limit that no test reaches.
const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

/// Makes a `#[tokio::test]` of each property. Takes the name of an async function without arguments that returns a fresh
/// log and a guard that lives as long as the test.
#[macro_export]
macro_rules! conformance_tests {
    ($fresh:path) => {
        $crate::conformance_tests!($fresh:
            a_new_log_is_empty, offsets_are_dense, records_come_back_as_they_were, a_record_never_changes,
            an_append_is_adjacent, concurrent_appends_keep_their_order, partitions_are_independent,
            reads_keep_their_limits, a_large_record_is_read_however_small_the_limit, reads_at_and_past_the_end,
            records_of_the_largest_size, refused_records_leave_nothing, there_is_no_such_partition,
            append_times_never_fall, offsets_are_found_by_time, waiting_ends_with_the_append, a_reader_keeps_up,
            release_takes_nothing_unreleased, a_cursor_resumes_where_it_was);
    };
    ($fresh:path: $($property:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $property() {
                let (log, _guard) = $fresh().await;
                $crate::conformance::within($crate::conformance::$property(log)).await;
            }
        )+
    };
}

/// Fails a test that does not come to its end.
pub async fn within<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test comes to its end")
}

fn record(id: u128, payload: impl Into<Bytes>) -> NewRecord {
    NewRecord { id, receipt: None, payload: payload.into() }
}

fn records(ids: Range<u128>) -> Vec<NewRecord> {
    ids.map(|id| record(id, format!("payload {id}"))).collect()
}

fn full_receipt() -> Receipt {
    Receipt {
        received_at_us: -1,
        kind: Some("track".to_owned()),
        message_id: Some(String::new()),
        sent_at_us: Some(i64::MAX),
        batch_context: Some(Bytes::from_static(b"{\"ip\": \"\\u0000\"}")),
        app: Some("web".to_owned()),
        client_ip: Some("2001:db8::1".to_owned()),
    }
}

async fn append(log: &dyn EventLog, partition: u32, records: Vec<NewRecord>) -> Range<u64> {
    log.append(partition, records).await.expect("append")
}

/// Reads everything from `from` to the end, in as many reads as it takes.
async fn read_all(log: &dyn EventLog, partition: u32, from: u64, limit: ReadLimit) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let next = all.last().map_or(from, |last| last.offset + 1);
        let read = log.read(partition, next, limit).await.expect("read");
        if read.is_empty() {
            assert!(next >= log.bounds(partition).await.expect("bounds").end, "an empty read before the end");
            return all;
        }
        for (offset, record) in (next..).zip(&read) {
            assert_eq!(record.offset, offset, "a read returns what was asked for, without a gap");
        }
        all.extend(read);
    }
}

fn same(sent: &NewRecord, stored: &Record) {
    assert_eq!(sent.id, stored.id);
    assert_eq!(sent.receipt, stored.receipt);
    assert_eq!(sent.payload, stored.payload);
}

/// A new log has all its partitions and nothing in them.
pub async fn a_new_log_is_empty(log: Arc<dyn EventLog>) {
    assert_eq!(log.partitions(), PARTITIONS);
    for partition in 0..PARTITIONS {
        assert_eq!(log.bounds(partition).await.expect("bounds"), 0..0);
        assert_eq!(log.read(partition, 0, ALL).await.expect("read"), []);
        assert_eq!(log.offset_at(partition, i64::MIN).await.expect("offset_at"), 0);
        assert_eq!(log.offset_at(partition, i64::MAX).await.expect("offset_at"), 0);
    }
}

/// Offsets are 0, 1, 2 …, in the order of the appends.
pub async fn offsets_are_dense(log: Arc<dyn EventLog>) {
    let mut next = 0;
    for size in [1, 7, 1, 300, 2] {
        let appended = append(&*log, 0, records(u128::from(next)..u128::from(next + size))).await;
        assert_eq!(appended, next..next + size);
        next += size;
        assert_eq!(log.bounds(0).await.expect("bounds"), 0..next);
    }
    let all = read_all(&*log, 0, 0, ALL).await;
    assert_eq!(all.len() as u64, next);
    for (offset, record) in (0..).zip(&all) {
        assert_eq!((record.offset, record.id), (offset, u128::from(offset)));
    }
}

/// Id, receipt and payload come back byte for byte.
pub async fn records_come_back_as_they_were(log: Arc<dyn EventLog>) {
    let binary: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    let sent = vec![
        NewRecord { id: 0, receipt: None, payload: Bytes::from_static(b"\0") },
        NewRecord { id: u128::MAX, receipt: Some(Receipt::default()), payload: Bytes::from(binary) },
        NewRecord { id: 1 << 100, receipt: Some(full_receipt()), payload: Bytes::from_static(b"{}") },
        NewRecord { id: 0, receipt: None, payload: Bytes::from_static(b"the same id again") },
    ];
    append(&*log, 0, sent.clone()).await;
    let stored = read_all(&*log, 0, 0, ALL).await;
    assert_eq!(stored.len(), sent.len(), "nothing is de-duplicated");
    sent.iter().zip(&stored).for_each(|(sent, stored)| same(sent, stored));
}

/// A record is the same at every read, its append time and checksum too, from wherever the read begins.
pub async fn a_record_never_changes(log: Arc<dyn EventLog>) {
    append(&*log, 0, records(0..50)).await;
    let before = read_all(&*log, 0, 0, ALL).await;
    append(&*log, 0, records(50..100)).await;
    let after = read_all(&*log, 0, 0, ALL).await;
    assert_eq!(before, after[..50]);
    for from in 0..100 {
        let one = log.read(0, from as u64, ReadLimit { records: 1, bytes: 1 }).await.expect("read");
        assert_eq!(one, after[from..=from]);
    }
}

/// The records of one append are adjacent and in order, whatever else is appended at the time.
pub async fn an_append_is_adjacent(log: Arc<dyn EventLog>) {
    let writers = (0..8_u128).map(|writer| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut ranges = Vec::new();
            for n in 0..20 {
                let first = (writer << 64) | (n << 32);
                let count = 1 + (writer * 7 + n * 13) % 30;
                ranges.push((append(&*log, 0, records(first..first + count)).await, first, count));
            }
            ranges
        })
    });
    let mut ranges = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        ranges.extend(writer.await.expect("writer"));
    }
    ranges.sort_by_key(|(range, ..)| range.start);
    let all = read_all(&*log, 0, 0, ALL).await;
    let mut next = 0;
    for (range, first, count) in ranges {
        assert_eq!(range, next..next + count as u64);
        let ids: Vec<u128> = all[range.start as usize..range.end as usize].iter().map(|record| record.id).collect();
        assert_eq!(ids, (first..first + count).collect::<Vec<_>>());
        next = range.end;
    }
    assert_eq!(all.len() as u64, next);
}

/// Whoever waits for each answer finds its appends in the order in which it made them.
pub async fn concurrent_appends_keep_their_order(log: Arc<dyn EventLog>) {
    let writers = (0..16_u128).map(|writer| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for n in 0..25 {
                let id = (writer << 64) | n;
                append(&*log, (n % 2) as u32, records(id..id + 1)).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("writer");
    }
    let mut total = 0;
    for partition in 0..2 {
        let mut last = HashMap::new();
        for record in read_all(&*log, partition, 0, ALL).await {
            total += 1;
            let (writer, n) = (record.id >> 64, record.id as u64);
            assert!(last.insert(writer, n).is_none_or(|before| before < n), "writer {writer}");
        }
    }
    assert_eq!(total, 16 * 25);
}

/// Each partition has offsets and records of its own.
pub async fn partitions_are_independent(log: Arc<dyn EventLog>) {
    assert_eq!(append(&*log, 0, records(0..3)).await, 0..3);
    assert_eq!(append(&*log, 1, records(10..12)).await, 0..2);
    assert_eq!(append(&*log, 0, records(3..4)).await, 3..4);
    assert_eq!(log.bounds(1).await.expect("bounds"), 0..2);
    let ids = |records: Vec<Record>| records.into_iter().map(|record| record.id).collect::<Vec<_>>();
    assert_eq!(ids(read_all(&*log, 0, 0, ALL).await), [0, 1, 2, 3]);
    assert_eq!(ids(read_all(&*log, 1, 0, ALL).await), [10, 11]);
}

/// A read returns no more records and no more payload bytes than asked for, and one at least.
pub async fn reads_keep_their_limits(log: Arc<dyn EventLog>) {
    for id in 0..20 {
        append(&*log, 0, (id * 10..id * 10 + 10).map(|id| record(id, vec![b'x'; 1_000])).collect()).await;
    }
    for (from, limit) in [(0, 1), (0, 10), (5, 17), (199, 10), (0, 1_000)] {
        let read = log.read(0, from, ReadLimit { records: limit, bytes: usize::MAX }).await.expect("read");
        assert!((1..=limit).contains(&read.len()), "{} records of {limit}", read.len());
        assert_eq!(read[0].offset, from);
        let read = log.read(0, from, ReadLimit { records: usize::MAX, bytes: limit * 1_000 }).await.expect("read");
        assert!((1..=limit).contains(&read.len()), "{} thousand bytes of {limit}", read.len());
    }
    for limit in [1, 3, 64] {
        assert_eq!(read_all(&*log, 0, 0, ReadLimit { records: limit, bytes: usize::MAX }).await.len(), 200);
        assert_eq!(read_all(&*log, 0, 7, ReadLimit { records: 64, bytes: limit * 500 }).await.len(), 193);
    }
}

/// A record larger than the limit is returned, alone, wherever it stands.
pub async fn a_large_record_is_read_however_small_the_limit(log: Arc<dyn EventLog>) {
    let large = record(1, vec![b'x'; 700_000]);
    append(&*log, 0, vec![record(0, "small"), large.clone(), record(2, "small")]).await;
    append(&*log, 0, vec![large]).await;
    for offset in 0..4 {
        let read = log.read(0, offset, ReadLimit { records: 10, bytes: 1 }).await.expect("read");
        assert_eq!(read.iter().map(|record| record.offset).collect::<Vec<_>>(), [offset]);
    }
    let read = log.read(0, 1, ReadLimit { records: 0, bytes: 0 }).await.expect("read");
    assert_eq!(read.len(), 1, "a limit of nothing still returns one");
}

/// At the end there is nothing to read; past it the reader is told.
pub async fn reads_at_and_past_the_end(log: Arc<dyn EventLog>) {
    append(&*log, 0, records(0..5)).await;
    assert_eq!(log.read(0, 5, ALL).await.expect("read"), []);
    let past = log.read(0, 6, ALL).await;
    assert!(matches!(past, Err(LogError::PastEnd { partition: 0, asked: 6, end: 5 })), "{past:?}");
    let past = log.read(1, u64::MAX, ALL).await;
    assert!(matches!(past, Err(LogError::PastEnd { partition: 1, asked: u64::MAX, end: 0 })), "{past:?}");
}

/// The largest payload, the largest receipt and the largest append are taken.
pub async fn records_of_the_largest_size(log: Arc<dyn EventLog>) {
    let receipt = |bytes: usize| Receipt { batch_context: Some(Bytes::from(vec![b' '; bytes])), ..Receipt::default() };
    let overhead = receipt(0).encoded_len();
    let receipt = receipt(RECEIPT_BYTES_MAX - overhead);
    let largest = NewRecord { id: 1, receipt: Some(receipt), payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES_MAX]) };
    append(&*log, 0, vec![largest.clone()]).await;
    let many = vec![record(2, vec![b'y'; PAYLOAD_BYTES_MAX]); APPEND_BYTES_MAX / PAYLOAD_BYTES_MAX - 1];
    append(&*log, 0, many.clone()).await;
    let all = read_all(&*log, 0, 0, ALL).await;
    assert_eq!(all.len(), 1 + many.len());
    same(&largest, &all[0]);
    many.iter().zip(&all[1..]).for_each(|(sent, stored)| same(sent, stored));
}

/// What is empty or too large is refused with all that came with it.
pub async fn refused_records_leave_nothing(log: Arc<dyn EventLog>) {
    append(&*log, 0, records(0..2)).await;
    let fine = || record(9, "fine");
    let receipt = Receipt { app: Some("x".repeat(RECEIPT_BYTES_MAX)), ..Receipt::default() };
    let refused = [
        vec![],
        vec![fine(), record(1, "")],
        vec![fine(), record(1, vec![b'x'; PAYLOAD_BYTES_MAX + 1])],
        vec![fine(), NewRecord { id: 1, receipt: Some(receipt), payload: Bytes::from_static(b"x") }],
        vec![record(1, vec![b'x'; PAYLOAD_BYTES_MAX]); APPEND_BYTES_MAX / PAYLOAD_BYTES_MAX],
    ];
    for records in refused {
        let answer = log.append(0, records).await;
        assert!(matches!(answer, Err(LogError::Refused(_))), "{answer:?}");
        assert_eq!(log.bounds(0).await.expect("bounds"), 0..2);
    }
    assert_eq!(append(&*log, 0, records(2..3)).await, 2..3, "the log goes on");
}

/// Every call with a partition that is not there says so.
pub async fn there_is_no_such_partition(log: Arc<dyn EventLog>) {
    for partition in [PARTITIONS, u32::MAX] {
        let answers = [
            log.bounds(partition).await.err(),
            log.append(partition, records(0..1)).await.err(),
            log.read(partition, 0, ALL).await.err(),
            log.offset_at(partition, 0).await.err(),
            log.wait_past(partition, 0).await.err(),
        ];
        for answer in answers {
            match answer {
                Some(LogError::NoSuchPartition { partition: named, partitions }) => {
                    assert_eq!((named, partitions), (partition, PARTITIONS));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Append times never fall along a partition.
pub async fn append_times_never_fall(log: Arc<dyn EventLog>) {
    for n in 0..40 {
        append(&*log, 0, records(n * 3..n * 3 + 3)).await;
    }
    let all = read_all(&*log, 0, 0, ALL).await;
    assert!(all.is_sorted_by_key(|record| record.appended_at_us));
}

/// A time leads to the first record appended then or later, also among records of the same time.
pub async fn offsets_are_found_by_time(log: Arc<dyn EventLog>) {
    for n in 0..30 {
        let count = 1 + n % 5;
        append(&*log, 0, (0..count).map(|_| record(n, vec![b'x'; 9_000])).collect()).await;
    }
    let times: Vec<i64> = read_all(&*log, 0, 0, ALL).await.iter().map(|record| record.appended_at_us).collect();
    let around = times.iter().flat_map(|time| [time - 1, *time, time + 1]);
    for time in around.chain([i64::MIN, 0, i64::MAX]) {
        let expected = times.iter().position(|appended| *appended >= time).unwrap_or(times.len());
        assert_eq!(log.offset_at(0, time).await.expect("offset_at"), expected as u64, "time {time}");
    }
}

/// Waiting returns at once for what is there, and else no sooner than the record is.
pub async fn waiting_ends_with_the_append(log: Arc<dyn EventLog>) {
    append(&*log, 0, records(0..3)).await;
    log.wait_past(0, 0).await.expect("wait_past");
    log.wait_past(0, 2).await.expect("wait_past");
    let waiter = Arc::clone(&log);
    let mut waiting = tokio::spawn(async move {
        waiter.wait_past(0, 4).await.expect("wait_past");
        waiter.bounds(0).await.expect("bounds").end
    });
    append(&*log, 1, records(0..9)).await;
    append(&*log, 0, records(3..4)).await;
    append(&*log, 0, records(4..5)).await;
    let end = (&mut waiting).await.expect("waiter");
    assert!(end >= 5, "returned at {end}");
    tokio::select! {
        biased;
        _ = log.wait_past(0, 5) => panic!("returned without an append"),
        _ = append(&*log, 1, records(9..10)) => {}
    }
}

/// A reader that waits and reads while others append sees every record once, in order, and none that is not acknowledged
/// in the end.
pub async fn a_reader_keeps_up(log: Arc<dyn EventLog>) {
    const RECORDS: u64 = 2_000;
    let reader = Arc::clone(&log);
    let reading = tokio::spawn(async move {
        let mut all: Vec<Record> = Vec::new();
        while (all.len() as u64) < RECORDS {
            let next = all.len() as u64;
            reader.wait_past(0, next).await.expect("wait_past");
            let read = reader.read(0, next, ReadLimit { records: 37, bytes: 100_000 }).await.expect("read");
            assert!(!read.is_empty(), "nothing to read after waiting");
            let end = reader.bounds(0).await.expect("bounds").end;
            assert!(next + read.len() as u64 <= end, "read past the end");
            all.extend(read);
        }
        all
    });
    let writers = (0..4_u64).map(|writer| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..RECORDS / 4 / 10 {
                let first = u128::from((writer << 32) | (n * 10));
                acknowledged.push((append(&*log, 0, records(first..first + 10)).await, first));
            }
            acknowledged
        })
    });
    let mut acknowledged = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        acknowledged.extend(writer.await.expect("writer"));
    }
    let all = reading.await.expect("reader");
    for (range, first) in acknowledged {
        for (offset, id) in range.zip(first..) {
            assert_eq!((all[offset as usize].offset, all[offset as usize].id), (offset, id));
        }
    }
}

/// Releasing takes effect on nothing at or past the offset.
pub async fn release_takes_nothing_unreleased(log: Arc<dyn EventLog>) {
    append(&*log, 0, records(0..10)).await;
    log.release(0, 0).await.expect("release");
    log.release(0, 5).await.expect("release");
    let bounds = log.bounds(0).await.expect("bounds");
    assert!(bounds.start <= 5);
    assert_eq!(bounds.end, 10);
    assert_eq!(read_all(&*log, 0, 5, ALL).await.len(), 5);
}

/// A cursor is taken where it was left, and refused when it does not fit the log.
pub async fn a_cursor_resumes_where_it_was(log: Arc<dyn EventLog>) {
    append(&*log, 0, records(0..10)).await;
    let all = read_all(&*log, 0, 0, ALL).await;
    for (index, record) in all.iter().enumerate() {
        let cursor = Cursor { log: log.id(), next: record.offset + 1, mark: record.mark() };
        check_resume(&*log, 0, &cursor).await.expect("resumes");
        let wrong = Cursor { mark: all[(index + 1) % 10].mark(), ..cursor };
        let answer = check_resume(&*log, 0, &wrong).await;
        let offset = record.offset;
        assert!(matches!(answer, Err(ResumeError::OffsetReused { partition: 0, offset: at }) if at == offset));
    }
    check_resume(&*log, 0, &Cursor::start(log.id(), 0)).await.expect("a consumer of nothing");
    check_resume(&*log, 0, &Cursor::start(log.id(), 7)).await.expect("a consumer that begins within");
    let other = LogId(log.id().0.map(|byte| !byte));
    let answer = check_resume(&*log, 0, &Cursor::start(other, 0)).await;
    assert!(matches!(answer, Err(ResumeError::OtherLog { cursor, .. }) if cursor == other), "{answer:?}");
    let past = Cursor { log: log.id(), next: 11, mark: Mark::of(1, 1) };
    let answer = check_resume(&*log, 0, &past).await;
    assert!(matches!(answer, Err(ResumeError::Log(LogError::PastEnd { asked: 11, end: 10, .. }))), "{answer:?}");
}
