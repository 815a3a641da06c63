//! The conformance suite on a real Iggy server, where there is one: `MILLRACE_TEST_IGGY=iggy://user:password@host:8090`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "tests, with helpers that are none themselves")]

mod common;

use millrace_log::conformance::{self, PARTITIONS};

macro_rules! properties {
    ($($property:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $property() {
                let Some(url) = common::url() else { return };
                let (log, stream) = common::fresh(url, PARTITIONS).await;
                conformance::within(conformance::$property(log)).await;
                drop(stream);
            }
        )+
    };
}

properties!(
    a_new_log_is_empty,
    offsets_are_dense,
    records_come_back_as_they_were,
    a_record_never_changes,
    an_append_is_adjacent,
    concurrent_appends_keep_their_order,
    partitions_are_independent,
    reads_keep_their_limits,
    a_large_record_is_read_however_small_the_limit,
    reads_at_and_past_the_end,
    records_of_the_largest_size,
    refused_records_leave_nothing,
    there_is_no_such_partition,
    append_times_never_fall,
    offsets_are_found_by_time,
    waiting_ends_with_the_append,
    a_reader_keeps_up,
    release_takes_nothing_unreleased,
    a_cursor_resumes_where_it_was,
);
