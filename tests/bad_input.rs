//! Bad input over HTTP: each a clear error with the right status or a dead letter; nothing else is lost or stops.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use common::{Audit, Server, event};
use serde_json::{Value, json};

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_else(|| panic!("no error in {answer}"))
}

fn good(n: u64) -> Value {
    event(&format!("good-{n}"), "device-1", n)
}

#[test]
fn every_bad_request_has_its_answer_and_hurts_no_neighbour() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let post = |path: &str, body: &[u8]| server.post(path, body).unwrap();
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));

    // Whole requests.
    for (path, body, status, expected) in [
        ("/v1/track", &b""[..], 400, "empty_body"),
        ("/v1/track", b"{", 400, "events_rejected"),
        ("/v1/track", b"[1]", 400, "events_rejected"),
        ("/v1/track", b"\xff\xfe{}", 400, "events_rejected"),
        ("/v1/batch", b"not json", 400, "bad_batch"),
        ("/v1/batch", b"{}", 400, "bad_batch"),
        ("/v1/batch", b"{\"batch\": 1}", 400, "bad_batch"),
        ("/v1/nothing", b"{}", 404, "no_such_route"),
        ("/v1/status", b"{}", 405, "method_not_allowed"),
    ] {
        let (found, answer) = post(path, body);
        assert_eq!((found, code(&answer)), (status, expected), "{path} {:?}: {answer}", String::from_utf8_lossy(body));
    }
    let (status, answer) = post("/v1/batch", &vec![b' '; 10 * 1024 * 1024]);
    assert_eq!((status, code(&answer)), (413, "body_too_large"));
    let big = json!({"anonymousId": "d", "properties": {"x": "x".repeat(300 * 1024)}}).to_string();
    let (status, answer) = post("/v1/track", big.as_bytes());
    assert_eq!((status, code(&answer)), (413, "events_rejected"), "{answer}");

    // A context that would be kept with each of many events.
    let events: Vec<Value> = (0..1000).map(|_| json!({"anonymousId": "d"})).collect();
    let body = json!({"context": {"x": "y".repeat(15_000)}, "batch": events}).to_string();
    let (status, answer) = post("/v1/batch", body.as_bytes());
    assert_eq!((status, code(&answer)), (413, "context_too_large"), "{answer}");

    // One bad event among good ones.
    let mut stored = 0;
    let bad = [
        "1".to_owned(),
        "{\"anonymousId\": 5e}".to_owned(),
        json!({"event": "no device"}).to_string(),
        json!({"anonymousId": ""}).to_string(),
        json!({"anonymousId": "x".repeat(300)}).to_string(),
        json!({"anonymousId": "a\u{0}b"}).to_string(),
        json!({"anonymousId": {"a": 1}}).to_string(),
        format!("{{\"anonymousId\":\"d\",\"properties\":{}}}", deep(1000)),
        big,
    ];
    for event in &bad {
        let body = format!("{{\"batch\":[{},{event},{}]}}", good(stored), good(stored + 1));
        let (status, answer) = post("/v1/batch", body.as_bytes());
        let shown = &event[..event.len().min(80)];
        if status == 200 {
            panic!("{shown} was taken");
        }
        assert_eq!((status, code(&answer)), (400, "events_rejected"), "{shown}: {answer}");
        let detail = &answer["error"]["detail"];
        assert_eq!(detail["accepted"], 2, "{shown}: {answer}");
        assert_eq!(detail["rejected"][0]["index"], 1, "{shown}: {answer}");
        stored += 2;
    }

    // Odd times are events all the same: the clock is at fault, not the event.
    for (n, time) in [(1000, "1970-01-01T00:00:00Z"), (1001, "2100-12-31T23:59:59Z"), (1002, "when it rained")] {
        let mut event = good(n);
        event["timestamp"] = json!(time);
        let (status, answer) = post("/v1/track", event.to_string().as_bytes());
        assert_eq!(status, 200, "{time}: {answer}");
        stored += 1;
    }

    // Bad queries.
    for (path, expected) in [
        ("/v1/devices/device-1/events?limit=0", "bad_limit"),
        ("/v1/devices/device-1/events?limit=x", "bad_query"),
        ("/v1/devices/device-1/events?last=soon", "bad_time"),
        ("/v1/devices/device-1/events?cursor=nonsense", "bad_cursor"),
        ("/v1/devices/device-1/events?colour=red", "bad_query"),
    ] {
        let (status, answer) = server.get(path);
        assert_eq!((status, code(&answer)), (400, expected), "{path}: {answer}");
    }

    server.wait_caught_up();
    let (status, page) = server.get("/v1/devices/device-1/events?limit=1000");
    assert_eq!(status, 200);
    assert_eq!(page["events"].as_array().unwrap().len() as u64, stored);
    for id in ["good-1000", "good-1001", "good-1002"] {
        let row = page["events"].as_array().unwrap().iter().find(|row| row["event_id"] == id).unwrap();
        assert_eq!(row["time_suspect"], true, "{row}");
        assert_eq!(row["event_time"], row["received_at"], "{row}");
    }
    let (status, _) = server.get("/readyz");
    assert_eq!(status, 200);
    assert!(server.stop().success());
    let audit = Audit::of(dir.path());
    audit.assert_agree();
    assert_eq!(audit.recomputed.len() as u64, stored);
}

#[test]
fn an_import_is_resumable_and_its_bad_lines_hurt_no_neighbour() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut file = Vec::new();
    for n in 0..2500u64 {
        let mut event = event("x", "device-7", n);
        // No messageId: the line number names it.
        event.as_object_mut().unwrap().remove("messageId");
        event["receivedAt"] = json!("2026-01-05T00:00:00Z");
        file.extend_from_slice(event.to_string().as_bytes());
        file.push(b'\n');
        if n % 500 == 0 {
            file.extend_from_slice(b"{broken\n\n");
        }
    }
    let lines = 2500 + 2 * 5;
    let (status, answer) = server.post("/v1/import?id=cafe", &file).unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["lines"], &answer["accepted"]), (&json!(lines), &json!(2500)));
    assert_eq!(answer["rejected_total"], 5);
    assert_eq!(answer["rejected"][0]["line"], 2);
    let (_, position) = server.get("/v1/import/cafe");
    assert_eq!(position["lines"], lines);

    let (status, answer) = server.post("/v1/import?id=cafe", &file).unwrap();
    assert_eq!(status, 200);
    assert_eq!(answer["accepted"], 0, "{answer}");
    let (status, answer) = server.post("/v1/import?id=cafe&first_line=99999", b"{}\n").unwrap();
    assert_eq!((status, code(&answer)), (409, "lines_missing"));
    let (status, answer) = server.post("/v1/import?id=../x", b"{}\n").unwrap();
    assert_eq!((status, code(&answer)), (400, "bad_import_id"));

    server.wait_caught_up();
    let (_, page) = server.get("/v1/devices/device-7/events?limit=1");
    let row = &page["events"][0];
    assert_eq!(row["received_at"], "2026-01-05T00:00:00Z");
    assert!(server.stop().success());
    let audit = Audit::of(dir.path());
    audit.assert_agree();
    assert_eq!(audit.recomputed.len(), 2500);
}
