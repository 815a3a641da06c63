//! One case a rule: how each column comes about, and what is left. The expected rows name every column that is not null,
//! but for the lineage and what `shown` leaves out.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{APPENDED_AT, LOG, RECEIVED_AT, decode_one, receipt, record};
use millrace_decode::Decoder;
use millrace_log::Receipt;
use serde_json::{Value, json};

/// The row without lineage, and without the times and the record's id where they are what they are by default.
fn shown(payload: &str, receipt: Option<Receipt>) -> Result<Value, &'static str> {
    let mut row = decode_one(payload, receipt)?;
    let columns = row.as_object_mut().unwrap();
    for (name, default) in [
        ("_partition", json!(0)),
        ("_offset", json!(0)),
        ("_sub", json!(0)),
        ("received_at", json!(RECEIVED_AT)),
        ("event_time", json!(RECEIVED_AT)),
        ("time_suspect", json!(false)),
        ("event_id", json!("0000000000000000123456789abcdef0")),
        ("device_id", json!("d")),
    ] {
        if columns.get(name) == Some(&default) {
            columns.remove(name);
        }
    }
    Ok(row)
}

#[track_caller]
fn check(payload: &str, expected: Value) {
    assert_eq!(shown(payload, Some(receipt())), Ok(expected), "{payload}");
}

#[track_caller]
fn check_with(receipt: Receipt, payload: &str, expected: Value) {
    assert_eq!(shown(payload, Some(receipt)), Ok(expected), "{payload}");
}

/// A receipt with this context around the batch.
fn around(context: &'static str) -> Receipt {
    Receipt { batch_context: Some(context.into()), ..receipt() }
}

#[test]
fn event_id_is_the_message_id_else_the_receipts_else_the_records() {
    let given = || Receipt { message_id: Some("r".into()), ..receipt() };
    check_with(given(), r#"{"anonymousId":"d","messageId":"m"}"#, json!({"event_id": "m"}));
    check_with(given(), r#"{"anonymousId":"d","messageId":17}"#, json!({"event_id": "17"}));
    check_with(given(), r#"{"anonymousId":"d","messageId":null}"#, json!({"event_id": "r"}));
    check_with(given(), r#"{"anonymousId":"d","messageId":""}"#, json!({"event_id": "r"}));
    check_with(given(), r#"{"anonymousId":"d"}"#, json!({"event_id": "r"}));
    check(r#"{"anonymousId":"d"}"#, json!({}));
    let mut nameless = record(12, br#"{"anonymousId":"d"}"#, None);
    nameless.id = 0;
    let row = common::row_json(&Decoder::default().decode(&[nameless], 5, LOG).batch, 0);
    assert_eq!(row["event_id"], json!(format!("{LOG}-5-12")));
}

#[test]
fn device_id_is_the_devices_else_the_anonymous_else_the_users() {
    check(
        r#"{"context":{"device":{"id":"x"}},"anonymousId":"a","userId":"u"}"#,
        json!({"device_id": "x", "user_id": "u", "envelope": r#"{"anonymousId":"a"}"#}),
    );
    check(r#"{"anonymousId":"a","userId":"u"}"#, json!({"device_id": "a", "user_id": "u"}));
    check(r#"{"userId":"u"}"#, json!({"device_id": "user:u", "user_id": "u"}));
    check(
        r#"{"context":{"device":{"id":""}},"anonymousId":"","userId":"u"}"#,
        json!({"device_id": "user:u", "user_id": "u"}),
    );
    check(r#"{"context":{"device":{"id":null}},"anonymousId":"a"}"#, json!({"device_id": "a"}));
    check(r#"{"context":{"device":{"id":12345678901234567890}}}"#, json!({"device_id": "12345678901234567890"}));
    check(r#"{"anonymousId":-7}"#, json!({"device_id": "-7"}));
    check(r#"{"userId":0}"#, json!({"device_id": "user:0", "user_id": "0"}));
    check(r#"{"anonymousId":"\u00e9\ud83d\ude00\/"}"#, json!({"device_id": "é😀/"}));
    // A device of the wrong shape is no device, and stays.
    check(r#"{"context":{"device":"x"},"anonymousId":"a"}"#, json!({"device_id": "a", "context": r#"{"device":"x"}"#}));
    let edge = "i".repeat(256);
    check(&format!(r#"{{"anonymousId":"{edge}"}}"#), json!({"device_id": edge}));
    check(
        &format!(r#"{{"userId":"{}"}}"#, &edge[5..]),
        json!({"device_id": format!("user:{}", &edge[5..]), "user_id": &edge[5..]}),
    );
}

#[test]
fn type_and_event_have_a_second_source() {
    let kind = || Receipt { kind: Some("track".into()), ..receipt() };
    check_with(kind(), r#"{"anonymousId":"d","type":"page"}"#, json!({"type": "page"}));
    check_with(kind(), r#"{"anonymousId":"d"}"#, json!({"type": "track"}));
    check_with(kind(), r#"{"anonymousId":"d","type":5}"#, json!({"type": "track", "envelope": r#"{"type":5}"#}));
    check(r#"{"anonymousId":"d","event":"e","name":"n"}"#, json!({"event": "e", "envelope": r#"{"name":"n"}"#}));
    check(r#"{"anonymousId":"d","name":"n"}"#, json!({"event": "n"}));
    check(r#"{"anonymousId":"d","event":null,"name":"n"}"#, json!({"event": "n"}));
    check(
        r#"{"anonymousId":"d","event":{"x":1},"name":"n"}"#,
        json!({"event": "n", "envelope": r#"{"event":{"x":1}}"#}),
    );
    check(r#"{"anonymousId":"d","event":""}"#, json!({"event": ""}));
    check(r#"{"anonymousId":"d","event":"a\u0000\"b"}"#, json!({"event": "a\0\"b"}));
}

#[test]
fn app_and_ip_come_from_the_receipt_too() {
    let known = || Receipt { app: Some("shop".into()), client_ip: Some("::1".into()), ..receipt() };
    let payload = r#"{"anonymousId":"d","context":{"app":{"name":"n","version":"1"},"ip":"0.0.0.0"}}"#;
    check(payload, json!({"app": "n", "app_version": "1", "ip": "0.0.0.0"}));
    check_with(
        known(),
        payload,
        json!({"app": "shop", "app_version": "1", "ip": "0.0.0.0", "context": r#"{"app":{"name":"n"}}"#}),
    );
    check_with(known(), r#"{"anonymousId":"d"}"#, json!({"app": "shop", "ip": "::1"}));
    check_with(
        known(),
        r#"{"anonymousId":"d","context":{"ip":[]}}"#,
        json!({"app": "shop", "ip": "::1", "context": r#"{"ip":[]}"#}),
    );
}

#[test]
fn context_gives_its_columns_and_the_rest_stays() {
    for (context, column, value) in [
        (r#"{"sessionId":"s"}"#, "session_id", "s"),
        (r#"{"sessionId":1709294300}"#, "session_id", "1709294300"),
        (r#"{"app":{"name":"n"}}"#, "app", "n"),
        (r#"{"app":{"version":"1.2"}}"#, "app_version", "1.2"),
        (r#"{"device":{"type":"ios"}}"#, "platform", "ios"),
        (r#"{"os":{"name":"iOS"}}"#, "os", "iOS"),
        (r#"{"device":{"model":"m"}}"#, "device_model", "m"),
        (r#"{"locale":"en"}"#, "locale", "en"),
        (r#"{"ip":"::1"}"#, "ip", "::1"),
        (r#"{"userAgent":"ua"}"#, "user_agent", "ua"),
        (r#"{"page":{"url":"u"}}"#, "url", "u"),
        (r#"{"page":{"referrer":"r"}}"#, "referrer", "r"),
    ] {
        let payload = format!(r#"{{"anonymousId":"d","context":{context}}}"#);
        check(&payload, json!({column: value}));
        // Of another type it stays where it is.
        let wrong = if column == "session_id" { "1.5" } else { "5" };
        let context = context.replace(&format!("\"{value}\""), wrong).replace(":1709294300", ":1.5");
        check(&format!(r#"{{"anonymousId":"d","context":{context}}}"#), json!({"context": context}));
    }
    check(
        r#"{"anonymousId":"d","context":{"os":{"version":"1","name":"n","x":{}},"x":[1, 2],"page":{"url":"u"}, "app" : {"b":1}}}"#,
        json!({"os": "n", "url": "u", "context": r#"{"os":{"version":"1","x":{}},"x":[1, 2],"app" : {"b":1}}"#}),
    );
    for nothing in ["{}", "null", r#"{"ip":null}"#, r#"{"os":null,"page":{"url":null}}"#] {
        check(&format!(r#"{{"anonymousId":"d","context":{nothing}}}"#), json!({}));
    }
    check(r#"{"anonymousId":"d","context":{"os":{}}}"#, json!({"context": r#"{"os":{}}"#}));
    check(r#"{"anonymousId":"d","context":[]}"#, json!({"envelope": r#"{"context":[]}"#}));
    check(r#"{"anonymousId":"d","context":"c"}"#, json!({"envelope": r#"{"context":"c"}"#}));
}

#[test]
fn properties_are_the_bytes_of_the_input() {
    let odd = "{ \"a\" : [ 1.0 ,2 ],\n\"a\":\"\\u0041\" , \"é\":{} }";
    check(&format!(r#"{{"anonymousId":"d","properties":{odd}}}"#), json!({"properties": odd}));
    check(&format!(r#"{{"anonymousId":"d","traits":{odd}}}"#), json!({"properties": odd}));
    check(
        r#"{"anonymousId":"d","traits":{"t":1},"properties":{}}"#,
        json!({"properties": "{}", "envelope": r#"{"traits":{"t":1}}"#}),
    );
    check(r#"{"anonymousId":"d","properties":null,"traits":{"t":1}}"#, json!({"properties": r#"{"t":1}"#}));
    check(
        r#"{"anonymousId":"d","properties":[],"traits":{"t":1}}"#,
        json!({"properties": r#"{"t":1}"#, "envelope": r#"{"properties":[]}"#}),
    );
    check(r#"{"anonymousId":"d","properties":"p"}"#, json!({"envelope": r#"{"properties":"p"}"#}));
}

#[test]
fn what_has_no_column_stays_in_the_envelope_and_the_write_key_nowhere() {
    check(
        r#" {"x" : 1,"anonymousId":"d", "groupId":"g" ,"writeKey":"k","receivedAt":"2020-01-01T00:00:00Z","":[]} "#,
        json!({"envelope": r#"{"x" : 1,"groupId":"g","receivedAt":"2020-01-01T00:00:00Z","":[]}"#}),
    );
}

#[test]
fn of_members_with_the_same_name_the_last_counts() {
    check(r#"{"anonymousId":"a","event":"x","anonymousId":"d","event":"y"}"#, json!({"event": "y"}));
    check(r#"{"anonymousId":"d","event":"x","event":null,"name":"n"}"#, json!({"event": "n"}));
    check(r#"{"anonymousId":"d","event":"x","event":5}"#, json!({"envelope": r#"{"event":5}"#}));
    check(r#"{"anonymousId":"d","event":5,"event":"x"}"#, json!({"event": "x"}));
    check(r#"{"userId":{},"anonymousId":"d","userId":"u"}"#, json!({"user_id": "u"}));
    // A whole context, or a whole device, gives way to the later one.
    check(
        r#"{"anonymousId":"d","context":{"ip":"i","x":1,"device":{"id":"x"}},"context":{"locale":"l","y":2}}"#,
        json!({"locale": "l", "context": r#"{"y":2}"#}),
    );
    check(
        r#"{"anonymousId":"d","context":{"device":{"id":"x","type":"t","z":1},"device":{"model":"m"}}}"#,
        json!({"device_model": "m"}),
    );
    check(
        r#"{"anonymousId":"d","context":{"os":{"name":"a","name":"b","v":1}}}"#,
        json!({"os": "b", "context": r#"{"os":{"v":1}}"#}),
    );
    check(r#"{"anonymousId":"d","context":{"ip":"i"},"context":7}"#, json!({"envelope": r#"{"context":7}"#}));
    // Members without a meaning are not looked into: both stay, and a reader that takes the last agrees.
    check(r#"{"anonymousId":"d","x":1,"x":2}"#, json!({"envelope": r#"{"x":1,"x":2}"#}));
    // A name is the same however it is spelled.
    check(
        r#"{"\u0061nonymousId":"d","ev\u0065nt":"e","c\u006fntext":{"\u0069p":"i"}}"#,
        json!({"event": "e", "ip": "i"}),
    );
}

#[test]
fn half_a_surrogate_pair_becomes_the_replacement_character() {
    check(
        r#"{"anonymousId":"d","event":"a\ud83d","context":{"x":"\ude00\ud83d\ude00"},"properties":{"\uDBFF":"\ud800 "},"y":"\udfff"}"#,
        json!({
            "event": "a\u{fffd}",
            "context": r#"{"x":"\ufffd\ud83d\ude00"}"#,
            "properties": r#"{"\ufffd":"\ufffd "}"#,
            "envelope": r#"{"y":"\ufffd"}"#,
        }),
    );
}

#[test]
fn the_context_around_a_batch_fills_what_the_events_own_lacks() {
    let context = r#"{"ip":"b","locale":"bl","device":{"id":"bd","type":"bt","x":1},"lib":{"v":1},"zone":"z"}"#;
    let none = json!({
        "ip": "b", "locale": "bl", "device_id": "bd", "platform": "bt",
        "context": r#"{"device":{"x":1},"lib":{"v":1},"zone":"z"}"#,
    });
    check_with(around(context), "{}", none.clone());
    check_with(around(context), r#"{"context":null}"#, none);
    // Member by member, each as a whole: the event's device has no id, so nothing has.
    check_with(
        around(context),
        r#"{"anonymousId":"d","context":{"locale":"l","device":{"model":"m","y":2},"lib":2,"z\u006fne":"own","w":3}}"#,
        json!({
            "ip": "b", "locale": "l", "device_model": "m",
            "context": r#"{"device":{"y":2},"lib":2,"z\u006fne":"own","w":3}"#,
        }),
    );
    // null is as good as absent for a known member; a member of the wrong type is the event's own.
    check_with(
        around(r#"{"ip":"b","locale":"bl","os":{"name":"bo"}}"#),
        r#"{"anonymousId":"d","context":{"ip":null,"locale":5}}"#,
        json!({"ip": "b", "os": "bo", "context": r#"{"locale":5}"#}),
    );
    // What is no object is no context.
    check_with(
        around(r#"{"ip":"b"}"#),
        r#"{"anonymousId":"d","context":[]}"#,
        json!({"ip": "b", "envelope": r#"{"context":[]}"#}),
    );
    // An empty id is no id, wherever it stands.
    check_with(around(r#"{"device":{"id":""}}"#), r#"{"anonymousId":"d"}"#, json!({}));
    check_with(around(" null "), r#"{"anonymousId":"d"}"#, json!({}));
}

#[test]
fn a_raw_producers_event_was_received_when_the_log_took_it() {
    let row = decode_one(r#"{"anonymousId":"d"}"#, None).unwrap();
    assert_eq!((&row["received_at"], &row["event_time"]), (&json!(APPENDED_AT), &json!(APPENDED_AT)));
    assert_eq!(row["event_id"], json!("0000000000000000123456789abcdef0"));
}
