//! One case a way of being refused, with its code and place; and that ingest and decoder refuse the same.

mod common;

use common::{LOG, decode_one, receipt, record};
use millrace_decode::{BATCH_CONTEXT_BYTES_MAX, BatchContext, Decoder, EVENT_BYTES_MAX, codes, scan};
use millrace_log::Receipt;

/// What the ingest tier says of an event: all that the decoder would.
fn verdict(payload: &[u8]) -> Result<(), (&'static str, usize)> {
    scan(payload).and_then(|event| event.device_id(None).map(drop)).map_err(|error| (error.code, error.position))
}

#[track_caller]
fn refused(payload: &[u8], code: &'static str, position: usize) {
    let shown = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
    assert_eq!(verdict(payload), Err((code, position)), "{shown}");
    let decoded = Decoder::default().decode(&[record(9, payload, Some(receipt()))], 0, LOG);
    assert_eq!((decoded.dead, decoded.batch.num_rows()), (vec![(9, code)], 0), "{shown}");
}

#[test]
fn what_is_no_event_has_a_code_and_a_place() {
    refused(b"", codes::INVALID_JSON, 0);
    refused(b"hello", codes::INVALID_JSON, 0);
    refused(b"\xef\xbb\xbf{}", codes::INVALID_JSON, 0);
    refused(br#"{"anonymousId":"d""#, codes::INVALID_JSON, 18);
    refused(br#"{"anonymousId":"d"}}"#, codes::INVALID_JSON, 19);
    refused(br#"{"anonymousId":"d","properties":{"a":[1,2,{"b":nul}]}}"#, codes::INVALID_JSON, 47);
    refused(br#"{"anonymousId":"d","context":{"os":{"name":"a",}}}"#, codes::INVALID_JSON, 47);
    refused(br#"{"anonymousId":"d","properties":{"a":"\uZZZZ"}}"#, codes::INVALID_JSON, 38);
    refused(b"{\"anonymousId\":\"d\",\"x\":\"a\0b\"}", codes::INVALID_JSON, 25);
    refused(b"{\"anonymousId\":\"d\"}\0", codes::INVALID_JSON, 19);
    refused(b"{\"anonymousId\":\"d\",\"x\":\"\xff\"}", codes::INVALID_UTF8, 24);
    refused(b"{\"anonymousId\":\"d\",\"properties\":{\"x\":\"\xed\xa0\x80\"}}", codes::INVALID_UTF8, 38);
    for (other, start) in [("[]", 0), (" \n[{}]", 2), ("null", 0), ("17", 0), (r#""{}""#, 0)] {
        refused(other.as_bytes(), codes::NOT_AN_OBJECT, start);
    }
}

#[test]
fn nesting_has_a_limit_at_every_place() {
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let event = |value: &str| format!(r#"{{"anonymousId":"d","properties":{value}}}"#);
    assert_eq!(verdict(event(&nested(63)).as_bytes()), Ok(()));
    refused(event(&nested(64)).as_bytes(), codes::TOO_DEEP, 32 + 63);
    refused(event(&nested(1_000)).as_bytes(), codes::TOO_DEEP, 32 + 63);
    let deep_context = format!(r#"{{"anonymousId":"d","context":{{"device":{{"x":{}}}}}}}"#, nested(62));
    refused(deep_context.as_bytes(), codes::TOO_DEEP, 44 + 61);
    assert_eq!(verdict(deep_context.replace("[[", "[").replace("]]", "]").as_bytes()), Ok(()));
    refused("[".repeat(EVENT_BYTES_MAX).as_bytes(), codes::TOO_DEEP, 64);
    refused(r#"{"context":"#.repeat(20_000).as_bytes(), codes::TOO_DEEP, 64 * 11);
    refused(event(&nested(1_000_000)).as_bytes(), codes::TOO_LARGE, EVENT_BYTES_MAX);
}

#[test]
fn size_has_a_limit() {
    let event = |bytes: usize| {
        let frame = r#"{"anonymousId":"d","x":""}"#.len();
        format!(r#"{{"anonymousId":"d","x":"{}"}}"#, "x".repeat(bytes - frame))
    };
    assert_eq!(verdict(event(EVENT_BYTES_MAX).as_bytes()), Ok(()));
    refused(event(EVENT_BYTES_MAX + 1).as_bytes(), codes::TOO_LARGE, EVENT_BYTES_MAX);
}

#[test]
fn ids_are_short_texts_or_integers() {
    for (member, code) in [
        (r#""messageId":"#, codes::BAD_MESSAGE_ID),
        (r#""userId":"#, codes::BAD_USER_ID),
        (r#""anonymousId":"#, codes::BAD_ANONYMOUS_ID),
        (r#""context":{"device":{"id":"#, codes::BAD_DEVICE_ID),
    ] {
        let close = if code == codes::BAD_DEVICE_ID { "}}" } else { "" };
        let long = format!("\"{}\"", "i".repeat(257));
        for bad in [
            "true",
            "[]",
            "{}",
            "1.0",
            "1e3",
            r#""a\u0000b""#,
            r#""\n""#,
            "\"\u{7f}\"",
            "\"\u{85}\"",
            r#""\u009f""#,
            r#""\ud800""#,
            r#""a\udc00""#,
            &long,
        ] {
            let payload = format!(r#"{{{member}{bad}{close},"x":1}}"#);
            refused(payload.as_bytes(), code, 1 + member.len());
            // It is refused also where another id could stand for the device.
            let beside = format!(r#"{{"anonymousId":"d",{member}{bad}{close}}}"#);
            assert_eq!(verdict(beside.as_bytes()).map_err(|error| error.0), Err(code), "{beside}");
        }
    }
    let half_beside = r#"{"anonymousId":"d\ufffd","event":"\ud800"}"#;
    assert_eq!(verdict(half_beside.as_bytes()), Ok(()), "only the id's own bytes count");
}

#[test]
fn an_event_belongs_to_a_device() {
    refused(b"{}", codes::MISSING_DEVICE_ID, 0);
    refused(br#"{"event":"e","messageId":"m"}"#, codes::MISSING_DEVICE_ID, 0);
    refused(br#"{"anonymousId":null,"userId":null,"context":{"device":{"id":null}}}"#, codes::MISSING_DEVICE_ID, 0);
    refused(br#"{"anonymousId":""}"#, codes::BAD_DEVICE_ID, 15);
    refused(br#"{"context":{"device":{"id":""}}}"#, codes::BAD_DEVICE_ID, 27);
    refused(format!(r#"{{"userId":"{}"}}"#, "u".repeat(252)).as_bytes(), codes::BAD_DEVICE_ID, 10);
}

#[test]
fn the_context_around_a_batch_is_an_object_of_modest_size() {
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(BATCH_CONTEXT_BYTES_MAX - 8));
    assert!(BatchContext::scan(large.as_bytes()).is_ok());
    for (context, code) in [
        (large.replace("xx", "xxx").as_bytes(), codes::BAD_BATCH_CONTEXT),
        (b"[]", codes::BAD_BATCH_CONTEXT),
        (b"", codes::BAD_BATCH_CONTEXT),
        (b"{\"a\":}", codes::BAD_BATCH_CONTEXT),
        (b"\xff", codes::BAD_BATCH_CONTEXT),
        ("[".repeat(100).as_bytes(), codes::BAD_BATCH_CONTEXT),
        (br#"{"device":{"id":[]}}"#, codes::BAD_DEVICE_ID),
    ] {
        assert_eq!(BatchContext::scan(context).err().map(|error| error.code), Some(code));
        let receipt = Receipt { batch_context: Some(context.to_vec().into()), ..receipt() };
        assert_eq!(decode_one(r#"{"anonymousId":"d"}"#, Some(receipt)), Err(code));
    }
}

#[test]
fn errors_tell_code_place_and_reason() {
    let error = scan(br#"{"a":tru}"#).err().unwrap();
    assert_eq!(error.to_string(), "invalid_json at byte 5: expected a value");
    assert_eq!(error.within(100).position, 105);
}
