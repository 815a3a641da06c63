//! `kill -9` of the real binary under load: every acknowledged event is in both stores exactly once, and both equal a
//! recomputation from the log.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PATIENCE, Server, assert_exactly_once, event, seed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

/// Posts batches until told to stop; sends a batch again, like an SDK, until it is acknowledged.
struct Load {
    url: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    senders: Vec<std::thread::JoinHandle<HashSet<String>>>,
}

impl Load {
    const SENDERS: u64 = 3;
    const BATCH: u64 = 40;

    fn start(run: &str, url: &str) -> Self {
        let url = Arc::new(Mutex::new(url.to_owned()));
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let senders = (0..Self::SENDERS)
            .map(|sender| {
                let (url, stop, acknowledged) = (url.clone(), stop.clone(), acknowledged.clone());
                let run = run.to_owned();
                std::thread::spawn(move || {
                    let mut ids = HashSet::new();
                    let agent = common::agent();
                    for batch in 0.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        let names: Vec<String> =
                            (0..Self::BATCH).map(|n| format!("{run}-{sender}-{batch}-{n}")).collect();
                        let events: Vec<_> = (0..)
                            .zip(&names)
                            .map(|(n, name)| event(name, &format!("device-{}", (batch * 7 + n) % 50), batch * 100 + n))
                            .collect();
                        let body = json!({"batch": events}).to_string();
                        loop {
                            let target = url.lock().unwrap().clone();
                            match common::answer(agent.post(format!("{target}/v1/batch")).send(body.as_bytes())) {
                                Ok((200, answer)) => {
                                    assert_eq!(answer, json!({"success": true}));
                                    break;
                                }
                                Ok((503, _)) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
                                Ok(other) => panic!("{other:?}"),
                            }
                        }
                        ids.extend(names);
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    ids
                })
            })
            .collect();
        Self { url, stop, acknowledged, senders }
    }

    fn moved_to(&self, url: &str) {
        *self.url.lock().unwrap() = url.to_owned();
    }

    /// Waits until so many batches more are acknowledged.
    fn wait_acknowledged(&self, more: u64) {
        let target = self.acknowledged.load(Ordering::SeqCst) + more;
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.acknowledged.load(Ordering::SeqCst) < target {
            assert!(std::time::Instant::now() < deadline, "no batch is acknowledged");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops, and gives the ids of all events that were acknowledged.
    fn finish(self) -> HashSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.senders.into_iter().flat_map(|sender| sender.join().expect("the sender")).collect()
    }
}

#[test]
fn killed_at_25_moments_nothing_is_lost_or_doubled() {
    let mut random = StdRng::seed_from_u64(seed(2));
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let load = Load::start("kill", &server.url);
    for _ in 0..25 {
        load.wait_acknowledged(random.random_range(1..12));
        std::thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
        server.kill();
        server = Server::start(dir.path());
        load.moved_to(&server.url);
    }
    load.wait_acknowledged(3);
    let acknowledged = load.finish();
    assert_exactly_once(dir.path(), server, &acknowledged);
}

#[test]
fn killed_at_every_failpoint_nothing_is_lost_or_doubled() {
    let mut random = StdRng::seed_from_u64(seed(3));
    let dir = tempfile::tempdir().unwrap();
    let mut load: Option<Load> = None;
    for failpoint in [
        "log::append::torn",
        "log::append::before_fsync",
        "log::append::after_fsync",
        "delta::stage::written",
        "delta::commit::before",
        "delta::commit::after",
        "history::commit::before",
        "history::commit::between",
        "keyspace::commit::before",
        "keyspace::commit::after",
    ] {
        // Passed a few times, then deadly.
        let passes: u32 = random.random_range(1..6);
        println!("{failpoint} after {passes}");
        let server = match Server::try_start(dir.path(), &format!("{failpoint}={passes}*off->return")) {
            Ok(server) => server,
            // Some are met while the stores are opened.
            Err(status) => {
                assert!(!status.success());
                continue;
            }
        };
        match &load {
            Some(load) => load.moved_to(&server.url),
            None => load = Some(Load::start("failpoint", &server.url)),
        }
        let status = server.wait_end();
        assert!(!status.success(), "{failpoint} was not met");
    }
    let load = load.expect("some failpoint is met under load");
    let server = Server::start(dir.path());
    load.moved_to(&server.url);
    load.wait_acknowledged(5);
    let acknowledged = load.finish();
    assert_exactly_once(dir.path(), server, &acknowledged);
}
