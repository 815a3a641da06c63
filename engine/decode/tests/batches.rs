//! The bodies of batch requests.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::RECEIVED_AT;
use millrace_decode::{BATCH_EVENTS_MAX, codes, scan, split_batch};
use proptest::prelude::*;
use serde_json::Value;

fn payloads(body: &[u8]) -> Vec<String> {
    let batch = split_batch(body).unwrap();
    batch.events.iter().map(|event| String::from_utf8_lossy(event.payload).into_owned()).collect()
}

fn error(body: &[u8]) -> (&'static str, usize) {
    split_batch(body).map_or_else(|error| (error.code, error.position), |_| panic!("{}", String::from_utf8_lossy(body)))
}

#[test]
fn a_body_comes_apart() {
    let body = br#" {"batch" : [ {"a":1} , {"b":"]}"}
        ],"sentAt":"2026-03-01T12:00:00.000Z", "context":{"library":{"name":"x"}},"writeKey":"k\u0021","other":[{}]} "#;
    let batch = split_batch(body).unwrap();
    assert_eq!(payloads(body), [r#"{"a":1}"#, r#"{"b":"]}"}"#]);
    for event in &batch.events {
        assert_eq!(&body[event.position..][..event.payload.len()], event.payload);
    }
    assert_eq!(batch.sent_at_us, Some(RECEIVED_AT));
    assert_eq!(batch.context.unwrap().raw(), r#"{"library":{"name":"x"}}"#);
    assert_eq!(batch.write_key.as_deref(), Some("k!"));

    let bare = split_batch(br#"{"batch":[]}"#).unwrap();
    assert!(bare.events.is_empty() && bare.sent_at_us.is_none() && bare.context.is_none() && bare.write_key.is_none());
    let odd = split_batch(br#"{"sentAt":1772366400000,"batch":[1],"context":null,"writeKey":5}"#).unwrap();
    assert_eq!((odd.sent_at_us, odd.events.len()), (Some(RECEIVED_AT), 1));
    assert!(odd.context.is_none() && odd.write_key.is_none());
    assert_eq!(split_batch(br#"{"sentAt":"soon","batch":[]}"#).unwrap().sent_at_us, None);
    assert_eq!(payloads(br#"{"batch":[1],"batch":[2,3],"\u0062atch":[4]}"#), ["4"]);
}

#[test]
fn a_broken_event_does_not_take_its_neighbours_with_it() {
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    for broken in [
        r#"{"a":tru}"#,
        r#"{"a":01,}"#,
        r#"{"a" "b"}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":1} 5"#,
        "{'a':1}",
        "",
        "5",
        "{\"a\":\"\n\"}",
        "{}\u{c}",
        &deep,
    ] {
        let body = format!(r#"{{"batch":[{{"x":1}}, {broken} ,{{"y":2}}]}}"#);
        let found = payloads(body.as_bytes());
        assert_eq!(found, [r#"{"x":1}"#, broken, r#"{"y":2}"#]);
        assert!(scan(found[1].as_bytes()).is_err(), "{broken}");
    }
    let mut body = br#"{"batch":[{"x":1},{"a":"_"},{"y":2}]}"#.to_vec();
    body[24] = 0xff;
    let batch = split_batch(&body).unwrap();
    let codes: Vec<_> = batch.events.iter().map(|event| scan(event.payload).err().map(|error| error.code)).collect();
    assert_eq!(codes, [None, Some(codes::INVALID_UTF8), None]);
    assert_eq!(payloads(br#"{"batch":[{},]}"#), ["{}", ""]);
}

#[test]
fn a_body_that_can_not_be_followed_is_refused_where_it_breaks() {
    for (body, code, position) in [
        (&br""[..], codes::INVALID_JSON, 0),
        (b"hello", codes::INVALID_JSON, 0),
        (b"\xff", codes::INVALID_UTF8, 0),
        (b"[]", codes::NOT_AN_OBJECT, 0),
        (b" 5", codes::NOT_AN_OBJECT, 1),
        (b"[1", codes::INVALID_JSON, 2),
        (b"{", codes::INVALID_JSON, 1),
        (b"{}", codes::MISSING_BATCH, 0),
        (br#"{"batch":{}}"#, codes::MISSING_BATCH, 0),
        (br#"{"batch":[],"batch":null}"#, codes::MISSING_BATCH, 0),
        (br#"{"batch":[]"#, codes::INVALID_JSON, 11),
        (br#"{"batch":[{}"#, codes::INVALID_JSON, 12),
        (br#"{"batch":[{"a":1}"#, codes::INVALID_JSON, 17),
        (br#"{"batch":[{"a":1]}"#, codes::INVALID_JSON, 16),
        (br#"{"batch":[{"a":[1},{"b":2}]}"#, codes::INVALID_JSON, 17),
        (br#"{"batch":[{"a":"b},{"c":1}]}"#, codes::INVALID_JSON, 22),
        (br#"{"batch":[}"#, codes::INVALID_JSON, 10),
        (br#"{"batch":[]]"#, codes::INVALID_JSON, 11),
        (br#"{"batch":[]}x"#, codes::INVALID_JSON, 12),
        (br#"{"batch":[] 5}"#, codes::INVALID_JSON, 12),
        (br#"{"batch" 5:[]}"#, codes::INVALID_JSON, 1),
        (br#"{"batch"}"#, codes::INVALID_JSON, 8),
        (br#"{batch:[]}"#, codes::INVALID_JSON, 1),
        (br#"{"batch":[],}"#, codes::INVALID_JSON, 12),
        (br#"{"x":,"batch":[]}"#, codes::INVALID_JSON, 5),
        (br#"{"batch":[],"context":{"a":}}"#, codes::BAD_BATCH_CONTEXT, 27),
        (br#"{"batch":[],"context":[]}"#, codes::BAD_BATCH_CONTEXT, 22),
    ] {
        assert_eq!(error(body), (code, position), "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn the_number_of_events_has_a_limit() {
    let body = |count: usize| format!(r#"{{"batch":[{}]}}"#, vec!["{}"; count].join(","));
    assert_eq!(payloads(body(BATCH_EVENTS_MAX).as_bytes()).len(), BATCH_EVENTS_MAX);
    assert_eq!(error(body(BATCH_EVENTS_MAX + 1).as_bytes()), (codes::TOO_MANY_EVENTS, 10 + 3 * BATCH_EVENTS_MAX));
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".*".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(".*", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in r#"[\[\]{}:," \\a]{0,60}"#) {
        let _ = split_batch(&bytes);
        let _ = split_batch(format!(r#"{{"batch":[{text}]}}"#).as_bytes());
        let _ = split_batch(format!(r#"{{"batch":{text}"#).as_bytes());
    }

    #[test]
    fn every_event_is_found_as_it_was_written(events in proptest::collection::vec(json(), 0..8), pretty: bool) {
        let write = |value: &Value| if pretty { format!("{value:#}") } else { value.to_string() };
        let written: Vec<String> = events.iter().map(write).collect();
        let body = format!(r#"{{"batch":[{}],"sentAt":0}}"#, written.join(if pretty { "\n,\t" } else { "," }));
        prop_assert_eq!(payloads(body.as_bytes()), written);
    }
}
