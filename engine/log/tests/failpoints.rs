//! Faults injected into a live log. Failpoints are global, so that each test holds the scenario while it runs.

#![allow(clippy::unwrap_used, reason = "tests, with helpers that are none themselves")]

mod support;

use std::sync::Arc;

use fail::FailScenario;
use millrace_log::embedded::EmbeddedLog;
use millrace_log::{EventLog, LogError};
use support::{assert_same, copy_dir, length, options, read_all, records, segments};

#[tokio::test]
async fn a_full_disk_refuses_the_append_and_leaves_no_trace() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    log.append(0, records(0..2, 100)).await.unwrap();
    let before = (length(&segments(dir.path(), 0)[0]), log.stats().bytes);
    fail::cfg("log::append::enospc", "return").unwrap();
    for _ in 0..3 {
        let refused = log.append(0, records(2..4, 100)).await;
        assert!(matches!(refused, Err(LogError::Full(_))), "{refused:?}");
        assert_eq!((length(&segments(dir.path(), 0)[0]), log.stats().bytes), before, "cut back");
    }
    assert_same(&records(0..2, 100), 0, &read_all(&log, 0, 0).await.unwrap());
    fail::remove("log::append::enospc");
    assert_eq!(log.append(0, records(2..4, 100)).await.unwrap(), 2..4);
    drop(log);
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    assert_same(&records(0..4, 100), 0, &read_all(&log, 0, 0).await.unwrap());
    scenario.teardown();
}

#[tokio::test]
async fn a_failed_fsync_closes_the_partition() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let options = || millrace_log::embedded::Options { partitions: 2, ..options() };
    let log = Arc::new(EmbeddedLog::open(dir.path(), options()).unwrap());
    log.append(0, records(0..2, 100)).await.unwrap();
    let waiting = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.wait_past(0, 2).await }
    });
    fail::cfg("log::append::fsync_error", "1*return").unwrap();
    let failed = log.append(0, records(2..4, 100)).await;
    assert!(matches!(&failed, Err(LogError::OutcomeUnknown { partition: 0, .. })), "{failed:?}");
    let waited = waiting.await.unwrap();
    assert!(matches!(&waited, Err(LogError::Closed(why)) if why.contains("fsync")), "{waited:?}");
    for _ in 0..2 {
        let refused = log.append(0, records(4..5, 100)).await;
        assert!(matches!(&refused, Err(LogError::Closed(why)) if why.contains("fsync")), "{refused:?}");
    }
    assert_same(&records(0..2, 100), 0, &read_all(&log, 0, 0).await.unwrap());
    assert_eq!(log.append(1, records(0..1, 100)).await.unwrap(), 0..1, "the other partition goes on");
    assert_eq!(log.stats().partitions.iter().map(|p| p.closed).collect::<Vec<_>>(), [true, false]);
    assert!(matches!(log.close().await, Err(LogError::Closed(_))));
    let log = EmbeddedLog::open(dir.path(), options()).unwrap();
    // The frame was whole in the file after all: all of it is there, and now durable.
    assert_same(&records(0..4, 100), 0, &read_all(&log, 0, 0).await.unwrap());
    scenario.teardown();
}

/// While a frame is being written, what comes shares the next one: one fsync for many appends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_that_wait_share_an_fsync() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(EmbeddedLog::open(dir.path(), options()).unwrap());
    fail::cfg("log::append::fsync_error", "pause").unwrap();
    let append = |n: u64| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.append(0, records(n..n + 1, 10)).await.unwrap() })
    };
    let mut appends = vec![append(0)];
    while log.stats().partitions[0].fsyncs == 0 {
        tokio::task::yield_now().await;
    }
    appends.extend((1..40).map(append));
    let waiting: usize = records(0..1, 10).iter().chain(&records(1..40, 10)).map(queued).sum();
    while log.stats().queue_bytes < waiting {
        tokio::task::yield_now().await;
    }
    assert_eq!(log.bounds(0).await.unwrap(), 0..0, "nothing is seen before it is durable");
    assert_eq!(log.read(0, 0, support::ALL).await.unwrap(), []);
    let crashed = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), crashed.path());
    fail::remove("log::append::fsync_error");
    for append in appends {
        append.await.unwrap();
    }
    let stats = &log.stats().partitions[0];
    assert_eq!((stats.appends, stats.records), (40, 40));
    // A few may have been on their way to the queue when the writer went on.
    assert!(stats.frames < 20 && stats.fsyncs == stats.frames, "{stats:?}");
    assert_eq!(log.stats().queue_bytes, 0);
    scenario.teardown();
}

/// What a record counts in the queue.
fn queued(record: &millrace_log::NewRecord) -> usize {
    millrace_log::check_append(std::slice::from_ref(record)).unwrap()
}
