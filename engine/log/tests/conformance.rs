//! The conformance suite on the embedded log: with its defaults, and with everything so small that every boundary is
//! crossed.

#![allow(clippy::expect_used, reason = "tests, with helpers that are none themselves")]

use std::sync::Arc;

use millrace_log::EventLog;
use millrace_log::conformance::PARTITIONS;
use millrace_log::embedded::{EmbeddedLog, Options, SEGMENT_BYTES_MIN};
use tempfile::TempDir;

fn open(options: Options) -> (Arc<dyn EventLog>, TempDir) {
    let dir = tempfile::tempdir().expect("a directory for the log");
    let log = EmbeddedLog::open(dir.path(), Options { partitions: PARTITIONS, ..options }).expect("a new log");
    (Arc::new(log), dir)
}

mod defaults {
    use super::*;

    async fn fresh() -> (Arc<dyn EventLog>, TempDir) {
        open(Options::default())
    }

    millrace_log::conformance_tests!(fresh);
}

mod from_files {
    use super::*;

    async fn fresh() -> (Arc<dyn EventLog>, TempDir) {
        open(Options { tail_bytes: 0, ..Options::default() })
    }

    millrace_log::conformance_tests!(fresh);
}

mod smallest {
    use super::*;

    async fn fresh() -> (Arc<dyn EventLog>, TempDir) {
        // A clock that stands still: every record has the same append time.
        let clock = Arc::new(|| 1_700_000_000_000_000);
        let (segment_bytes, queue_bytes, frame_bytes, tail_bytes) = (SEGMENT_BYTES_MIN, 1_000, 2_000, 1_500);
        open(Options { segment_bytes, queue_bytes, frame_bytes, tail_bytes, clock, ..Options::default() })
    }

    millrace_log::conformance_tests!(fresh);
}
