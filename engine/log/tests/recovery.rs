//! Opening the embedded log after crashes and damage.

#![allow(clippy::unwrap_used, reason = "tests, with helpers that are none themselves")]

mod support;

use std::fs;
use std::path::Path;

use millrace_log::embedded::{EmbeddedLog, Options};
use millrace_log::{EventLog, LogError, ResumeError, check_resume};
use millrace_rows::{Cursor, LogId};
use support::{
    HEADER_BYTES, TestClock, assert_same, copy_dir, cut, files, flip, length, options, read_all, records, segments,
};

/// A log of two frames of three records each as a crash left it; and where the second frame begins and ends.
async fn two_frames(dir: &Path) -> (u64, u64) {
    let live = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(live.path(), options()).unwrap();
    log.append(0, records(0..3, 40)).await.unwrap();
    let middle = length(&segments(live.path(), 0)[0]);
    log.append(0, records(3..6, 40)).await.unwrap();
    copy_dir(live.path(), dir);
    (middle, length(&segments(live.path(), 0)[0]))
}

#[tokio::test]
async fn every_byte_at_which_the_last_frame_was_torn() {
    let crashed = tempfile::tempdir().unwrap();
    let (middle, end) = two_frames(crashed.path()).await;
    for torn in middle..=end {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(crashed.path(), dir.path());
        cut(&segments(dir.path(), 0)[0], torn);
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        let kept = if torn == end { 6 } else { 3 };
        assert_eq!(log.bounds(0).await.unwrap(), 0..kept, "torn at {torn}");
        let lost = if torn == end { 0 } else { torn - middle };
        assert_eq!(log.stats().partitions[0].torn_bytes, lost);
        assert_eq!(log.append(0, records(kept..8, 10)).await.unwrap(), kept..8);
        drop(log);
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        let mut expected = records(0..kept, 40);
        expected.extend(records(kept..8, 10));
        assert_same(&expected, 0, &read_all(&log, 0, 0).await.unwrap());
    }
}

#[tokio::test]
async fn every_byte_of_the_last_frame_that_did_not_reach_the_disk() {
    let crashed = tempfile::tempdir().unwrap();
    let (middle, end) = two_frames(crashed.path()).await;
    for byte in middle..end {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(crashed.path(), dir.path());
        flip(&segments(dir.path(), 0)[0], byte, (byte % 8) as u8);
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        assert_eq!(log.bounds(0).await.unwrap(), 0..3, "byte {byte}");
        assert_same(&records(0..3, 40), 0, &read_all(&log, 0, 0).await.unwrap());
    }
}

#[tokio::test]
async fn a_tail_of_zeros_is_cut_off() {
    let crashed = tempfile::tempdir().unwrap();
    let (_, end) = two_frames(crashed.path()).await;
    let segment = &segments(crashed.path(), 0)[0];
    cut(segment, end + 100_000);
    let log = EmbeddedLog::open(crashed.path(), options()).unwrap();
    assert_eq!(log.bounds(0).await.unwrap(), 0..6);
    assert_eq!((length(segment), log.stats().partitions[0].torn_bytes), (end, 100_000));
}

#[tokio::test]
async fn every_bit_flipped_before_the_last_frame_is_damage() {
    let crashed = tempfile::tempdir().unwrap();
    let (middle, _) = two_frames(crashed.path()).await;
    for byte in 0..middle {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(crashed.path(), dir.path());
        flip(&segments(dir.path(), 0)[0], byte, (byte % 8) as u8);
        let opened = EmbeddedLog::open(dir.path(), options());
        assert!(matches!(opened.err(), Some(LogError::Damaged { partition: 0, offset: 0, .. })), "byte {byte}");
    }
}

#[tokio::test]
async fn what_a_clean_close_left_is_never_taken_for_torn() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    log.append(0, records(0..3, 40)).await.unwrap();
    log.close().await.unwrap();
    let segment = &segments(dir.path(), 0)[0];
    let end = length(segment);
    cut(segment, end - 1);
    let opened = EmbeddedLog::open(dir.path(), options());
    assert!(matches!(opened.err(), Some(LogError::Damaged { .. })));
    cut(segment, end);
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    // The last byte is now 0: found by the read, since nothing of the segment was read at the start.
    let read = read_all(&log, 0, 0).await;
    assert!(matches!(read, Err(LogError::Damaged { partition: 0, offset: 2, .. })), "{read:?}");
}

#[tokio::test]
async fn appends_after_a_clean_close_are_recovered_on_top_of_it() {
    let (live, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = EmbeddedLog::open(live.path(), options()).unwrap();
    log.append(0, records(0..3, 40)).await.unwrap();
    log.close().await.unwrap();
    let log = EmbeddedLog::open(live.path(), options()).unwrap();
    log.append(0, records(3..6, 40)).await.unwrap();
    copy_dir(live.path(), crashed.path());
    let segment = &segments(crashed.path(), 0)[0];
    cut(segment, length(segment) - 1);
    let log = EmbeddedLog::open(crashed.path(), options()).unwrap();
    assert_same(&records(0..3, 40), 0, &read_all(&log, 0, 0).await.unwrap());
}

/// A log of several segments.
async fn many_segments(dir: &Path) {
    let log = EmbeddedLog::open(dir, options()).unwrap();
    for n in 0..60 {
        log.append(0, records(n..n + 1, 600)).await.unwrap();
    }
    log.close().await.unwrap();
    assert!(segments(dir, 0).len() > 5);
}

#[tokio::test]
async fn damage_in_a_sealed_segment_is_found_by_the_read_or_by_the_rebuild_of_its_index() {
    let dir = tempfile::tempdir().unwrap();
    many_segments(dir.path()).await;
    let segment = &segments(dir.path(), 0)[2];
    flip(segment, HEADER_BYTES + 48 + 40 + 10, 3);
    let first: u64 = segment.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    let read = read_all(&log, 0, 0).await;
    assert!(matches!(read, Err(LogError::Damaged { partition: 0, offset, .. }) if offset == first), "{read:?}");
    assert_eq!(read_all(&log, 0, first + 7).await.unwrap().len() as u64, 60 - first - 7, "what is whole is read");
    drop(log);
    fs::remove_file(segment.with_extension("idx")).unwrap();
    let opened = EmbeddedLog::open(dir.path(), options());
    assert!(matches!(opened.err(), Some(LogError::Damaged { partition: 0, offset, .. }) if offset == first));
}

#[tokio::test]
async fn a_sealed_segment_that_is_cut_short_or_gone_is_damage() {
    let whole = tempfile::tempdir().unwrap();
    many_segments(whole.path()).await;
    for keep_index in [true, false] {
        for gone in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(whole.path(), dir.path());
            let segment = &segments(dir.path(), 0)[2];
            if gone {
                fs::remove_file(segment).unwrap();
            } else {
                cut(segment, length(segment) - 1);
            }
            if !keep_index {
                fs::remove_file(segment.with_extension("idx")).unwrap();
            }
            let opened = EmbeddedLog::open(dir.path(), options());
            assert!(matches!(opened.err(), Some(LogError::Damaged { .. })), "index {keep_index}, gone {gone}");
        }
    }
}

#[tokio::test]
async fn index_files_are_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    many_segments(dir.path()).await;
    let indexes = files(dir.path(), 0, "idx");
    let before: Vec<Vec<u8>> = indexes.iter().map(|path| fs::read(path).unwrap()).collect();
    fs::remove_file(&indexes[0]).unwrap();
    flip(&indexes[1], 50, 0);
    fs::write(&indexes[2], b"").unwrap();
    // The index of another segment.
    fs::copy(&indexes[4], &indexes[3]).unwrap();
    fs::write(indexes[0].with_file_name("00000000000000000777.idx"), b"of no segment").unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    assert_same(&records(0..60, 600), 0, &read_all(&log, 0, 0).await.unwrap());
    log.close().await.unwrap();
    let after: Vec<Vec<u8>> = files(dir.path(), 0, "idx").iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_segment_begun_in_a_crash_is_begun_anew() {
    let whole = tempfile::tempdir().unwrap();
    many_segments(whole.path()).await;
    for header in 0..HEADER_BYTES {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(whole.path(), dir.path());
        let begun = dir.path().join("0").join(format!("{:020}.seg", 60));
        // As much of a header as reached the disk, and what is there of it in vain.
        fs::write(&begun, &fs::read(&segments(dir.path(), 0)[0]).unwrap()[..header as usize]).unwrap();
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        assert_eq!(log.append(0, records(60..62, 600)).await.unwrap(), 60..62, "{header} bytes of header");
        assert_same(&records(0..62, 600), 0, &read_all(&log, 0, 0).await.unwrap());
    }
}

#[tokio::test]
async fn append_times_do_not_fall_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(5_000);
    let log = EmbeddedLog::open(dir.path(), clock.options()).unwrap();
    for n in 0..20 {
        log.append(0, records(n..n + 1, 600)).await.unwrap();
    }
    log.close().await.unwrap();
    clock.set(-7);
    let log = EmbeddedLog::open(dir.path(), clock.options()).unwrap();
    for n in 20..40 {
        log.append(0, records(n..n + 1, 600)).await.unwrap();
    }
    let times: Vec<i64> = read_all(&log, 0, 0).await.unwrap().iter().map(|record| record.appended_at_us).collect();
    assert_eq!(times, vec![5_000; 40]);
    clock.set(5_001);
    log.append(0, records(40..41, 600)).await.unwrap();
    assert_eq!(log.offset_at(0, 5_000).await.unwrap(), 0);
    assert_eq!(log.offset_at(0, 5_001).await.unwrap(), 40);
    assert_eq!(log.offset_at(0, 5_002).await.unwrap(), 41);
}

#[tokio::test]
async fn a_log_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    let second = EmbeddedLog::open(dir.path(), options()).err().unwrap();
    assert!(second.to_string().contains("open already"), "{second}");
    log.close().await.unwrap();
    let again = EmbeddedLog::open(dir.path(), options()).unwrap();
    drop(log);
    assert!(EmbeddedLog::open(dir.path(), options()).is_err(), "the closed one holds no lock to give back");
    drop(again);
    EmbeddedLog::open(dir.path(), options()).unwrap();
}

#[tokio::test]
async fn partitions_are_added_and_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let with = |partitions| Options { partitions, ..options() };
    let log = EmbeddedLog::open(dir.path(), with(2)).unwrap();
    let id = log.id();
    log.append(1, records(0..3, 10)).await.unwrap();
    drop(log);
    // What a crash in the midst of adding leaves.
    fs::create_dir(dir.path().join("2")).unwrap();
    fs::write(dir.path().join("2").join(format!("{:020}.seg", 0)), b"half a header").unwrap();
    let log = EmbeddedLog::open(dir.path(), with(4)).unwrap();
    assert_eq!((log.partitions(), log.id()), (4, id));
    assert_same(&records(0..3, 10), 0, &read_all(&log, 1, 0).await.unwrap());
    for partition in 2..4 {
        assert_eq!(log.append(partition, records(0..1, 10)).await.unwrap(), 0..1);
    }
    drop(log);
    let refused = EmbeddedLog::open(dir.path(), with(3)).err().unwrap().to_string();
    assert!(refused.contains("has 4 partitions") && refused.contains("ask for 3"), "{refused}");
    EmbeddedLog::open(dir.path(), with(4)).unwrap();
}

#[tokio::test]
async fn a_log_without_its_description_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    log.append(0, records(0..3, 10)).await.unwrap();
    drop(log);
    let meta = dir.path().join("log.json");
    let good = fs::read(&meta).unwrap();
    fs::remove_file(&meta).unwrap();
    let refused = EmbeddedLog::open(dir.path(), options()).err().unwrap().to_string();
    assert!(refused.contains("restore log.json"), "{refused}");
    fs::write(&meta, b"{}").unwrap();
    assert!(EmbeddedLog::open(dir.path(), options()).err().unwrap().to_string().contains("log.json"));
    let newer = String::from_utf8(good.clone()).unwrap().replace("\"format\": 1", "\"format\": 2");
    fs::write(&meta, newer).unwrap();
    assert!(EmbeddedLog::open(dir.path(), options()).err().unwrap().to_string().contains("log format 2"));
    fs::write(&meta, good).unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    assert_eq!(log.bounds(0).await.unwrap(), 0..3);
}

#[tokio::test]
async fn a_log_created_anew_is_another_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    log.append(0, records(0..3, 10)).await.unwrap();
    let last = log.read(0, 2, support::ALL).await.unwrap().remove(0);
    let cursor = Cursor { log: log.id(), next: 3, mark: last.mark() };
    drop(log);
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    check_resume(&log, 0, &cursor).await.unwrap();
    drop(log);
    fs::remove_dir_all(dir.path()).unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    log.append(0, records(0..3, 10)).await.unwrap();
    let resumed = check_resume(&log, 0, &cursor).await;
    assert!(matches!(resumed, Err(ResumeError::OtherLog { log: now, .. }) if now == log.id()), "{resumed:?}");
}

#[tokio::test]
async fn a_segment_of_another_log_is_not_taken() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&ours, &theirs] {
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        log.append(0, records(0..3, 10)).await.unwrap();
    }
    fs::copy(&segments(theirs.path(), 0)[0], &segments(ours.path(), 0)[0]).unwrap();
    fs::remove_file(&files(ours.path(), 0, "idx")[0]).unwrap();
    let opened = EmbeddedLog::open(ours.path(), options()).err().unwrap().to_string();
    assert!(opened.contains("the segment is that of offset 0 of partition 0 of log"), "{opened}");
}

#[tokio::test]
async fn closing_answers_every_append_and_then_refuses() {
    let dir = tempfile::tempdir().unwrap();
    // Room for two appends at a time: the others wait.
    let log = std::sync::Arc::new(EmbeddedLog::open(dir.path(), Options { queue_bytes: 300, ..options() }).unwrap());
    let appends: Vec<_> = (0..50)
        .map(|n| {
            let log = std::sync::Arc::clone(&log);
            tokio::spawn(async move { (n, log.append(0, records(n..n + 1, 60)).await) })
        })
        .collect();
    tokio::task::yield_now().await;
    log.close().await.unwrap();
    let mut acknowledged = Vec::new();
    for append in appends {
        match append.await.unwrap() {
            (n, Ok(offsets)) => acknowledged.push((offsets.start, n)),
            (_, Err(LogError::Closed(_))) => {}
            (n, Err(error)) => panic!("append {n}: {error}"),
        }
    }
    assert!(matches!(log.append(0, records(0..1, 1)).await, Err(LogError::Closed(_))));
    assert!(matches!(log.read(0, 0, support::ALL).await, Err(LogError::Closed(_))));
    assert!(matches!(log.wait_past(0, 0).await, Err(LogError::Closed(_))));
    assert!(log.stats().partitions[0].closed);
    log.close().await.unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    acknowledged.sort_unstable();
    let stored = read_all(&log, 0, 0).await.unwrap();
    assert_eq!(stored.len(), acknowledged.len());
    for ((offset, n), record) in acknowledged.into_iter().zip(stored) {
        assert_eq!((offset, (u128::from(n) << 64) | 7), (record.offset, record.id));
    }
}

#[tokio::test]
async fn waiting_ends_when_the_log_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    let (waited, closed) = tokio::join!(biased; log.wait_past(0, 0), log.close());
    assert!(matches!(waited, Err(LogError::Closed(_))), "{waited:?}");
    closed.unwrap();
}

#[test]
fn a_log_id_is_not_the_same_twice() {
    let ids: std::collections::HashSet<LogId> =
        (0..10).map(|_| EmbeddedLog::open(tempfile::tempdir().unwrap().path(), options()).unwrap().id()).collect();
    assert_eq!(ids.len(), 10);
}
