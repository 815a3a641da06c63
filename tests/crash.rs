//! `kill -9` of the real binary under load: every acknowledged event is in both stores exactly once, and both equal a
//! recomputation from the log.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::time::Duration;

use common::load::Load;
use common::{Server, assert_exactly_once, seed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

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
