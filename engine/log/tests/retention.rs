//! Retention, the disk budget, and readers that retention overtakes.

#![allow(clippy::unwrap_used, reason = "tests, with helpers that are none themselves")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use millrace_log::embedded::{EmbeddedLog, Options};
use millrace_log::{EventLog, LogError, ResumeError, check_resume};
use millrace_rows::{Cursor, Mark};
use support::{ALL, TestClock, assert_same, files, length, read_all, records, segments};

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

fn days(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

/// One record of 600 bytes a day, from day 0 on.
async fn append_days(log: &EmbeddedLog, clock: &TestClock, numbers: std::ops::Range<u64>) {
    for n in numbers {
        clock.set(n as i64 * DAY);
        log.append(0, records(n..n + 1, 600)).await.unwrap();
    }
}

/// Segments by size alone.
fn ageless(clock: &TestClock) -> Options {
    Options { segment_age: Duration::MAX, ..clock.options() }
}

#[tokio::test]
async fn nothing_is_trimmed_that_was_not_released() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let log = EmbeddedLog::open(dir.path(), ageless(&clock)).unwrap();
    append_days(&log, &clock, 0..100).await;
    assert_eq!(log.bounds(0).await.unwrap(), 0..100);
    let before = log.stats();
    assert_eq!(log.trim(1_000 * DAY).await.unwrap().segments, 0);
    // Segments hold 5 records: of what is released, the ones wholly below go.
    log.release(0, 14).await.unwrap();
    let trimmed = log.trim(1_000 * DAY).await.unwrap();
    assert_eq!(trimmed.segments, 2);
    let stats = log.stats();
    assert_eq!((stats.partitions[0].trimmed, stats.bytes), (2, before.bytes - trimmed.bytes));
    assert_eq!(log.bounds(0).await.unwrap(), 10..100);
    assert!(matches!(log.release(0, 101).await, Err(LogError::PastEnd { asked: 101, end: 100, .. })));
    drop(log);
    let log = EmbeddedLog::open(dir.path(), ageless(&clock)).unwrap();
    assert_eq!(log.bounds(0).await.unwrap(), 10..100);
    assert_eq!(log.trim(1_000 * DAY).await.unwrap().segments, 0, "what was released is told anew after a restart");
    assert_same(&records(10..100, 600), 10, &read_all(&log, 0, 10).await.unwrap());
    assert_eq!(log.offset_at(0, 0).await.unwrap(), 10);
    assert_eq!(log.offset_at(0, 42 * DAY).await.unwrap(), 42);
}

#[tokio::test]
async fn the_age_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let log = EmbeddedLog::open(dir.path(), Options { retention_age: days(10), ..ageless(&clock) }).unwrap();
    append_days(&log, &clock, 0..50).await;
    log.release(0, 50).await.unwrap();
    // Records of days 0 to 9 lie in the two oldest segments; on day 20 that of day 10 is exactly 10 days old.
    log.trim(20 * DAY).await.unwrap();
    assert_eq!(log.bounds(0).await.unwrap().start, 10);
    log.trim(24 * DAY).await.unwrap();
    assert_eq!(log.bounds(0).await.unwrap().start, 10, "the record of day 14 is not too old");
    log.trim(24 * DAY + 1).await.unwrap();
    assert_eq!(log.bounds(0).await.unwrap().start, 15);
    // The next segment that begins trims as well.
    append_days(&log, &clock, 50..55).await;
    append_days(&log, &clock, 55..56).await;
    assert_eq!(log.bounds(0).await.unwrap().start, 45);
    assert_eq!(segments(dir.path(), 0).len() as u64, log.stats().partitions[0].segments);
    assert!(files(dir.path(), 0, "idx").len() <= segments(dir.path(), 0).len());
}

#[tokio::test]
async fn a_partition_that_few_records_come_to_is_trimmed_too() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let log = EmbeddedLog::open(dir.path(), clock.options()).unwrap();
    log.append(0, records(0..1, 600)).await.unwrap();
    log.release(0, 1).await.unwrap();
    assert_eq!(log.trim(DAY).await.unwrap().segments, 0);
    assert_eq!(log.stats().partitions[0].segments, 1, "not older than a day");
    assert_eq!(log.trim(DAY + 1).await.unwrap().segments, 0);
    assert_eq!(log.stats().partitions[0].segments, 2, "sealed, not yet to be trimmed");
    assert_eq!(log.trim(31 * DAY).await.unwrap().segments, 1);
    assert_eq!(log.bounds(0).await.unwrap(), 1..1);
    drop(log);
    let log = EmbeddedLog::open(dir.path(), clock.options()).unwrap();
    assert_eq!(log.bounds(0).await.unwrap(), 1..1, "offsets go on");
    assert_eq!(log.append(0, records(1..2, 600)).await.unwrap(), 1..2);
    assert_same(&records(1..2, 600), 1, &read_all(&log, 0, 1).await.unwrap());
}

#[tokio::test]
async fn the_size_is_kept_over_all_partitions_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let options = Options { partitions: 2, retention_bytes: Some(40_000), ..ageless(&clock) };
    let log = EmbeddedLog::open(dir.path(), options).unwrap();
    for n in 0..50 {
        clock.advance(1);
        for partition in 0..2 {
            log.append(partition, records(n..n + 1, 600)).await.unwrap();
        }
    }
    assert!(log.stats().bytes > 40_000);
    log.release(0, 50).await.unwrap();
    log.release(1, 5).await.unwrap();
    log.trim(clock.now()).await.unwrap();
    assert!(log.stats().bytes <= 40_000);
    assert_eq!(log.bounds(1).await.unwrap().start, 5, "never past what was released");
    assert!(log.bounds(0).await.unwrap().start > 5, "the other partition makes up for it");
    log.release(1, 50).await.unwrap();
    let before = log.bounds(0).await.unwrap().start;
    for n in 50..100 {
        log.append(0, records(n..n + 1, 600)).await.unwrap();
    }
    assert!(log.bounds(1).await.unwrap().start > 5, "the oldest records go first");
    assert!(log.bounds(0).await.unwrap().start >= before);
    let on_disk: u64 = (0..2).flat_map(|p| segments(dir.path(), p)).map(|path| length(&path)).sum();
    assert_eq!(log.stats().bytes, on_disk);
}

#[tokio::test]
async fn a_full_budget_refuses_until_something_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let options = Options { disk_budget_bytes: Some(20_000), ..clock.options() };
    let log = EmbeddedLog::open(dir.path(), options.clone()).unwrap();
    let mut end = 0;
    let full = loop {
        match log.append(0, records(end..end + 1, 600)).await {
            Ok(_) => end += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&full, LogError::Full(why) if why.contains("20000")), "{full}");
    assert_eq!(log.bounds(0).await.unwrap(), 0..end);
    assert_same(&records(0..end, 600), 0, &read_all(&log, 0, 0).await.unwrap());
    assert!(matches!(log.append(0, records(end..end + 1, 600)).await, Err(LogError::Full(_))), "it stays full");
    drop(log);

    let log = EmbeddedLog::open(dir.path(), options).unwrap();
    assert!(matches!(log.append(0, records(end..end + 1, 600)).await, Err(LogError::Full(_))), "over a restart, too");
    log.release(0, 5).await.unwrap();
    assert_eq!(log.append(0, records(end..end + 1, 600)).await.unwrap(), end..end + 1);
    assert_eq!(log.stats().trimmed_early, 1);
    assert_eq!(log.bounds(0).await.unwrap(), 5..end + 1);
    assert!(log.stats().bytes <= 20_000);
    log.release(0, end + 1).await.unwrap();
    for n in end + 1..end + 200 {
        log.append(0, records(n..n + 1, 600)).await.unwrap();
        log.release(0, n + 1).await.unwrap();
        assert!(log.stats().bytes <= 20_000 + 64);
    }
}

#[tokio::test]
async fn a_segment_whose_records_are_all_released_makes_room_itself() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let options = Options { disk_budget_bytes: Some(5_000), segment_bytes: 1 << 20, ..clock.options() };
    let log = EmbeddedLog::open(dir.path(), options).unwrap();
    for n in 0..50 {
        log.append(0, records(n..n + 1, 600)).await.unwrap();
        log.release(0, n + 1).await.unwrap();
    }
    let too_large = log.append(0, records(50..51, 6_000)).await;
    assert!(matches!(too_large, Err(LogError::Full(_))), "{too_large:?}");
    assert_eq!(log.append(0, records(50..51, 600)).await.unwrap(), 50..51);
}

#[tokio::test]
async fn a_reader_below_the_first_offset_is_told_of_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    // No frames in memory: every read goes to a file.
    let log = EmbeddedLog::open(dir.path(), Options { tail_bytes: 0, ..ageless(&clock) }).unwrap();
    append_days(&log, &clock, 0..30).await;
    let mark = log.read(0, 9, ALL).await.unwrap()[0].mark();
    log.release(0, 10).await.unwrap();
    log.trim(100 * DAY).await.unwrap();
    for asked in [0, 9] {
        let read = log.read(0, asked, ALL).await;
        assert!(matches!(read, Err(LogError::Gap { partition: 0, asked: at, first: 10 }) if at == asked), "{read:?}");
    }
    assert_eq!(log.read(0, 10, ALL).await.unwrap()[0].offset, 10);
    let cursor = |next, mark| Cursor { log: log.id(), next, mark };
    check_resume(&log, 0, &cursor(10, mark)).await.unwrap();
    let resumed = check_resume(&log, 0, &cursor(9, Mark::NONE)).await;
    assert!(matches!(resumed, Err(ResumeError::Log(LogError::Gap { asked: 9, first: 10, .. }))), "{resumed:?}");
}

/// Readers race with the deletion of what they read: each read has the right records or says that there is a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_retention_overtakes_get_records_or_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let log = EmbeddedLog::open(dir.path(), Options { tail_bytes: 0, ..ageless(&clock) }).unwrap();
    let log = Arc::new(log);
    append_days(&log, &clock, 0..400).await;
    let readers: Vec<_> = (0..3_u64)
        .map(|reader| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut gaps = 0;
                let mut from = reader;
                while from < 390 {
                    match log.read(0, from, ALL).await {
                        Ok(read) => {
                            assert_same(&records(from..from + read.len() as u64, 600), from, &read);
                            from += 1;
                        }
                        Err(LogError::Gap { asked, first, .. }) => {
                            assert!(asked == from && first > from);
                            gaps += 1;
                            from = first;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    let at = log.offset_at(0, 0).await.expect("the first offset, whichever it is");
                    assert!(at <= 390);
                }
                gaps
            })
        })
        .collect();
    for below in (0..=390).step_by(5) {
        log.release(0, below).await.unwrap();
        log.trim(1_000 * DAY).await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(log.bounds(0).await.unwrap(), 390..400);
}
