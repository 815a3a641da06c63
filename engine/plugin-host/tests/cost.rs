//! What a run says of its cost: exact sums, and the most of one call.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

mod support;

use millrace_plugin_host::Limits;
use support::{Guest, Row, batch, chain, host, obedient};

#[test]
fn output_memory_and_fuel_are_told_in_sum_and_for_the_largest_call() {
    let host = host();
    let guest = obedient("obedient", "event", "length");
    let rows: Vec<Row> = ["a", "bb", "22", "m", "e"]
        .into_iter()
        .enumerate()
        .map(|(n, word)| Row { user: Some("user".to_owned()), ..Row::new(n as i64, word) })
        .collect();
    // One row a call: each kept row gives 2 offsets of 4 bytes, its text, a byte of validity, a length of 8, a source of 4.
    let limits = Limits { rows: 1, memory_bytes: 2 << 20, ..Limits::default() };
    let stats = &chain(&host, std::slice::from_ref(&guest), &limits).run(batch(&rows)).unwrap().steps[0];
    let (one, two) = (8 + 4 + 1 + 8 + 4, 12 + 8 + 1 + 16 + 8);
    assert_eq!((stats.calls, stats.discarded), (5, 2));
    assert_eq!(stats.output_bytes, 2 * one + two);
    assert_eq!(stats.peak.output_bytes, two);
    // The row that grows memory for ever, a mebibyte at a time, is refused the second.
    assert!((1 << 20..2 << 20).contains(&stats.peak.memory_bytes), "{:?}", stats.peak);
    assert!(stats.peak.fuel > 0 && stats.peak.describe_fuel > 0);
    assert!(stats.peak.fuel + stats.peak.describe_fuel < stats.fuel);
    let whole = &chain(&host, &[guest], &Limits::default()).run(batch(&rows[..3])).unwrap().steps[0];
    assert_eq!((whole.calls, whole.fuel), (1, whole.peak.fuel + whole.peak.describe_fuel));
    assert_eq!(whole.peak.memory_bytes, 2 * 65_536, "the pages it starts with are enough");

    let lines = "(call $log (i32.const 1024) (i32.const 1))".repeat(3);
    let chatty = Guest { transform: format!("{lines} (global.get $OUT)"), ..Guest::default() };
    let limits = Limits { log_lines: 2, ..Limits::default() };
    let stats = &chain(&host, &[chatty], &limits).run(batch(&rows)).unwrap().steps[0];
    assert_eq!((stats.peak.log_lines, stats.output_bytes), (2, 0));
}
