//! Chains change under load, 200 times, with kills in between: every row of both stores was made under the revision that
//! the timeline says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::time::Duration;

use common::load::Load;
use common::{Audit, Server, seed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

const ACTIVATIONS: u64 = 200;
const KILLS: u64 = 12;

/// A chain that writes its own number into some rows.
fn chain(number: u64) -> Value {
    json!({
        "reason": format!("number {number}"),
        "steps": [
            {"plugin": "pii-scrub@0.1.0", "config": {"key": {"$secret": "pii@1"}}},
            {"plugin": "rewrite-device-id@0.1.0", "config": {"rules": [{"from_prefix": "device-1", "to": format!("chain-{number}")}]}},
        ],
    })
}

#[test]
fn every_row_is_of_the_revision_that_the_timeline_says() {
    let mut random = StdRng::seed_from_u64(seed(5));
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let load = Load::paced("hot", &server.url, Duration::from_millis(100));
    let mut answered = 0;
    for number in 1..=ACTIVATIONS {
        std::thread::sleep(Duration::from_micros(random.random_range(0..15_000)));
        if !number.is_multiple_of(ACTIVATIONS / KILLS) {
            let (status, answer) = server.ask("PUT", "/v1/pipeline", chain(number));
            assert_eq!((status, &answer["changed"]), (200, &json!(true)), "{answer}");
            answered += 1;
            continue;
        }
        // Killed somewhere on the way of an activation.
        let after = Duration::from_micros(random.random_range(0..60_000));
        let done = std::thread::scope(|scope| {
            let asked = scope.spawn(|| server.send("PUT", "/v1/pipeline", None, &chain(number)));
            std::thread::sleep(after);
            server.signal_kill();
            matches!(asked.join().expect("the request"), Ok((200, _)))
        });
        answered += u64::from(done);
        server.kill();
        server = Server::start(dir.path());
        load.moved_to(&server.url);
    }
    load.wait_acknowledged(5);
    let acknowledged = load.finish();
    let (_, shown) = server.get("/v1/pipeline");
    let head = shown["revision"].as_u64().expect("a revision");
    // Revision 1 is the stock chain; an activation without an answer may have happened.
    assert!((answered + 1..=ACTIVATIONS + 1).contains(&head), "{answered} answered, revision {head}");
    server.wait_caught_up();
    assert!(server.stop().success());
    let audit = Audit::of(dir.path());
    audit.assert_agree();
    for id in &acknowledged {
        assert_eq!(audit.event_ids.get(id), Some(&1), "event {id} was acknowledged");
    }
    println!(
        "{} events, {} rows under {} of {head} revisions",
        acknowledged.len(),
        audit.recomputed.len(),
        audit.revisions.len()
    );
    assert!(audit.revisions.len() > 20, "the load met many chains: {:?}", audit.revisions);
}
