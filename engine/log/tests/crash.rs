//! A process that appends and dies in the midst of it, at each failpoint that aborts.
//!
//! The test runs itself as the child: the environment says which directory to append to, and the child says on its
//! standard output which offsets were acknowledged.

#![allow(clippy::unwrap_used, reason = "tests, with helpers that are none themselves")]

mod support;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use fail::FailScenario;
use millrace_log::EventLog;
use millrace_log::embedded::EmbeddedLog;
use support::{assert_same, options, read_all, records};

const DIR: &str = "MILLRACE_LOG_CRASH_DIR";
const SIGABRT: i32 = 6;
/// Records per append.
const BATCH: u64 = 3;

/// Not a test of its own: what the child does.
#[tokio::test]
#[ignore = "run by the other tests as a process of its own"]
async fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    // Takes the failpoint from the environment.
    let _scenario = FailScenario::setup();
    let log = EmbeddedLog::open(Path::new(&dir), options()).unwrap();
    loop {
        let next = log.bounds(0).await.unwrap().end;
        let appended = log.append(0, records(next..next + BATCH, 300)).await.unwrap();
        writeln!(std::io::stderr(), "acknowledged {}", appended.end).unwrap();
    }
}

/// Runs a child until it dies at the failpoint; the end that was acknowledged last.
fn die(dir: &Path, failpoint: &str) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env("FAILPOINTS", failpoint)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), Some(SIGABRT), "{failpoint}: {text}");
    text.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).next_back().unwrap_or(0)
}

/// Dies again and again in one directory. After each death all that was acknowledged is there, and of the append that
/// was not, all if `kept`, else nothing.
async fn dies(name: &str, kept: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..6 {
        // Dies at the fifth append of the round; at the second segment that is begun, for that failpoint.
        let after = if name.starts_with("log::roll") { 2 } else { 4 };
        let acknowledged = die(dir.path(), &format!("{name}={after}*off->return")).max(before);
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        let end = log.bounds(0).await.unwrap().end;
        assert!(acknowledged > before || round > 0, "the child appended before it died");
        assert_eq!(end, if kept { acknowledged + BATCH } else { acknowledged }, "{name}");
        assert_same(&records(0..end, 300), 0, &read_all(&log, 0, 0).await.unwrap());
        let torn = log.stats().partitions[0].torn_bytes;
        assert_eq!(torn > 0, name.ends_with("torn"), "{name}: {torn} bytes were cut off");
        before = end;
    }
    assert!(before >= 6 * 4 * BATCH || name.starts_with("log::roll"), "{name}: {before}");
}

#[tokio::test]
async fn dies_with_half_a_frame_written() {
    dies("log::append::torn", false).await;
}

#[tokio::test]
async fn dies_before_the_frame_is_durable() {
    // The process dies, not the machine: what was written is there.
    dies("log::append::before_fsync", true).await;
}

#[tokio::test]
async fn dies_before_the_answer() {
    dies("log::append::after_fsync", true).await;
}

#[tokio::test]
async fn dies_with_half_a_segment_header_written() {
    dies("log::roll::torn", false).await;
}
