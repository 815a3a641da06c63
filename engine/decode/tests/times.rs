//! When an event happened, rule by rule with their edges.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use common::{LOG, RECEIVED_AT, decode_one, receipt, record, row_json};
use millrace_decode::{Decoder, Settings};
use millrace_log::Receipt;
use serde_json::Value;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

fn text(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros).unwrap().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Event time relative to the receipt, whether it is in doubt, and what stays in the envelope.
fn outcome(members: &str, sent_at: Option<i64>) -> (i64, bool, Option<String>) {
    let receipt = Receipt { sent_at_us: sent_at, ..receipt() };
    let row = decode_one(&format!(r#"{{"anonymousId":"d"{members}}}"#), Some(receipt)).unwrap();
    let envelope = row.get("envelope").and_then(Value::as_str).map(str::to_owned);
    (row["event_time"].as_i64().unwrap() - RECEIVED_AT, row["time_suspect"].as_bool().unwrap(), envelope)
}

#[test]
fn the_time_is_the_original_else_the_timestamp_else_the_receipts() {
    let (five, nine) = (text(RECEIVED_AT - 5 * SECOND), text(RECEIVED_AT - 9 * SECOND));
    assert_eq!(outcome("", None), (0, false, None));
    assert_eq!(outcome(&format!(r#","timestamp":"{five}""#), None), (-5 * SECOND, false, None));
    assert_eq!(
        outcome(&format!(r#","timestamp":"{five}","originalTimestamp":"{nine}""#), None),
        (-9 * SECOND, false, Some(format!(r#"{{"timestamp":"{five}"}}"#)))
    );
    let millis = (RECEIVED_AT - 5 * SECOND) / 1000;
    assert_eq!(outcome(&format!(r#","timestamp":{millis}"#), None), (-5 * SECOND, false, None));
    assert_eq!(outcome(&format!(r#","timestamp":{millis}.25"#), None), (-5 * SECOND + 250, false, None));
}

#[test]
fn the_time_of_sending_corrects_the_senders_clock() {
    // A clock that is two years behind: the event is three seconds older than its sending.
    let wrong = RECEIVED_AT - 730 * DAY;
    let original = format!(r#","timestamp":"{}""#, text(wrong - 3 * SECOND));
    let both = format!(r#"{original},"sentAt":"{}""#, text(wrong));
    assert_eq!(outcome(&both, None), (-3 * SECOND, false, None));
    assert_eq!(outcome(&original, Some(wrong)), (-3 * SECOND, false, None));
    // The event's own time of sending comes before the batch's.
    assert_eq!(outcome(&both, Some(wrong + 60 * SECOND)), (-3 * SECOND, false, None));
    // One that was sent before it happened, happened at the receipt.
    let late = format!(r#","timestamp":"{}","sentAt":"{}""#, text(wrong), text(wrong - SECOND));
    assert_eq!(outcome(&late, None), (0, false, None));
    // Without an original there is nothing to correct.
    let only = format!(r#""sentAt":"{}""#, text(wrong));
    assert_eq!(outcome(&format!(",{only}"), None), (0, false, Some(format!("{{{only}}}"))));
}

#[test]
fn a_clock_that_is_too_far_off_is_not_believed() {
    for (offset, believed) in [
        (DAY, true),
        (DAY + 1, false),
        (-30 * DAY, true),
        (-30 * DAY - 1, false),
        (40_000 * DAY, false),
        (-20_513 * DAY, false),
    ] {
        let member = format!(r#""timestamp":"{}""#, text(RECEIVED_AT + offset));
        let expected = if believed { (offset, false, None) } else { (0, true, Some(format!("{{{member}}}"))) };
        assert_eq!(outcome(&format!(",{member}"), None), expected, "{offset}");
    }
    // Too long between happening and sending.
    for (age, believed) in [(30 * DAY, true), (30 * DAY + 1, false)] {
        let members = format!(r#""timestamp":"{}","sentAt":"{}""#, text(RECEIVED_AT - age), text(RECEIVED_AT));
        let expected = if believed { (-age, false, None) } else { (0, true, Some(format!("{{{members}}}"))) };
        assert_eq!(outcome(&format!(",{members}"), None), expected, "{age}");
    }
}

#[test]
fn a_time_that_can_not_be_read_is_absent_and_casts_doubt() {
    let good = text(RECEIVED_AT - 5 * SECOND);
    for bad in [r#""yesterday""#, r#""""#, "true", "[]", "1e300", r#""2026-02-30T00:00:00Z""#] {
        let alone = format!(r#""timestamp":{bad}"#);
        assert_eq!(outcome(&format!(",{alone}"), None), (0, true, Some(format!("{{{alone}}}"))));
        let first = format!(r#""originalTimestamp":{bad}"#);
        assert_eq!(
            outcome(&format!(r#",{first},"timestamp":"{good}""#), None),
            (-5 * SECOND, true, Some(format!("{{{first}}}")))
        );
        // The second one is not looked at when the first one is good.
        assert_eq!(
            outcome(&format!(r#",{alone},"originalTimestamp":"{good}""#), None),
            (-5 * SECOND, false, Some(format!("{{{alone}}}")))
        );
        let sent = format!(r#""sentAt":{bad}"#);
        assert_eq!(
            outcome(&format!(r#","timestamp":"{good}",{sent}"#), Some(RECEIVED_AT - 2 * SECOND)),
            (-3 * SECOND, true, Some(format!("{{{sent}}}")))
        );
    }
    assert_eq!(outcome(r#","timestamp":null,"originalTimestamp":null,"sentAt":null"#, None), (0, false, None));
}

#[test]
fn the_window_is_a_setting() {
    let decoder = Decoder::new(&Settings { time_window_behind: Duration::from_secs(10) });
    for (age, suspect) in [(10 * SECOND, false), (10 * SECOND + 1, true)] {
        let payload = format!(r#"{{"anonymousId":"d","timestamp":"{}"}}"#, text(RECEIVED_AT - age));
        let decoded = decoder.decode(&[record(0, payload.as_bytes(), Some(receipt()))], 0, LOG);
        assert_eq!(row_json(&decoded.batch, 0)["time_suspect"], suspect);
    }
    let forever = Decoder::new(&Settings { time_window_behind: Duration::MAX });
    let decoded = forever.decode(&[record(0, br#"{"anonymousId":"d","timestamp":0}"#, Some(receipt()))], 0, LOG);
    assert_eq!(row_json(&decoded.batch, 0)["event_time"], 0);
}
