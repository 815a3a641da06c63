//! The process dies at the worst moments: what was answered is there afterwards, and every batch is there whole or not
//! at all. The child is this test binary itself, started with a place and failpoints in its environment.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use millrace_keyspace::conformance::place::Place;
use millrace_keyspace::embedded::Options;
use millrace_keyspace::{Batch, Compare, KeyspaceError, Write};

const VALUE_BYTES: &str = "MILLRACE_CRASH_VALUE_BYTES";
const PARTS: usize = 5;
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

fn key(batch: u64, part: usize) -> Bytes {
    format!("b/{batch:06}/{part}").into()
}

/// Commits batch after batch, each checked against the one before, and says so after each answer.
#[test]
#[ignore = "the child of the other tests: runs until it is killed or a commit fails"]
fn child() {
    let scenario = fail::FailScenario::setup();
    let value_bytes: usize = std::env::var(VALUE_BYTES).unwrap().parse().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let options = Options { write_buffer_bytes: 256 * 1024 * 1024, ..Options::default() };
        let keyspace = Place::told().open(options).await.keyspace;
        for batch in 0_u64.. {
            let number = |n: u64| Bytes::from(n.to_string());
            let compare = Compare { key: "last".into(), expected: batch.checked_sub(1).map(number) };
            // Not compressible, so that the journal grows by what is written.
            let mut seed = batch;
            let value: Bytes = (0..value_bytes)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 56) as u8
                })
                .collect();
            let mut writes = vec![Write::Put("last".into(), number(batch))];
            writes.extend((0..PARTS).map(|part| Write::Put(key(batch, part), value.clone())));
            match keyspace.commit(Batch { compares: vec![compare], writes }).await {
                Ok(()) => println!("committed {batch}"),
                Err(KeyspaceError::Unknown(_)) => return println!("unknown {batch}"),
                Err(KeyspaceError::Unavailable(detail)) => return println!("unavailable {batch}: {detail}"),
                Err(other) => panic!("{other}"),
            }
            std::io::stdout().flush().unwrap();
        }
    });
    scenario.teardown();
}

fn start(place: &Place, failpoints: &str, value_bytes: usize, file_kib: Option<u64>) -> Child {
    let test = std::env::current_exe().unwrap();
    let args = ["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"];
    let mut command = match file_kib {
        None => Command::new(&test),
        // A file that grows over the limit fails the write as a full disk does, once the signal for it is ignored.
        Some(_) => {
            let mut shell = Command::new("bash");
            shell.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""]);
            shell
        }
    };
    if let Some(kib) = file_kib {
        command.arg(kib.to_string()).arg(test);
    }
    place.tell(&mut command);
    command
        .args(args)
        .env(VALUE_BYTES, value_bytes.to_string())
        .env("FAILPOINTS", failpoints)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// How many batches the lines say were answered with success.
fn answered(lines: impl Iterator<Item = String>) -> u64 {
    lines.filter(|line| line.contains("committed ")).count() as u64
}

/// Opens the place and returns the number of batches in it, after checking that each is whole.
async fn recovered(place: &Place) -> u64 {
    let opened = place.open(Options::default()).await;
    let keyspace = &opened.keyspace;
    let last = keyspace.get(b"last").await.unwrap();
    let count = last.map_or(0, |last| std::str::from_utf8(&last).unwrap().parse::<u64>().unwrap() + 1);
    let snapshot = keyspace.snapshot().await.unwrap();
    let (mut from, mut keys) = (b"b/".to_vec(), Vec::new());
    loop {
        let page = snapshot.range(&from, b"b0", 1000).await.unwrap();
        keys.extend(page.pairs.into_iter().map(|pair| pair.0));
        if !page.more {
            break;
        }
        from = [&keys.last().unwrap()[..], &[0]].concat();
    }
    let expected: Vec<Bytes> = (0..count).flat_map(|batch| (0..PARTS).map(move |part| key(batch, part))).collect();
    assert_eq!(keys, expected, "batches are whole, and as many as the counter says");
    // It takes commits again.
    keyspace
        .commit(Batch { compares: Vec::new(), writes: vec![Write::Put("after".into(), Bytes::new())] })
        .await
        .unwrap();
    drop(snapshot);
    opened.close().await;
    count
}

fn run(place: &Place, failpoints: &str) -> u64 {
    let output = start(place, failpoints, 100, None).wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(SIGABRT), "{output:?}");
    answered(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned))
}

#[tokio::test]
async fn dying_before_a_commit_loses_only_what_was_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    for place in Place::all("dying_before_a_commit", dir.path()) {
        assert_eq!(run(&place, "keyspace::commit::before=7*off->return"), 7);
        assert_eq!(recovered(&place).await, 7);
    }
}

#[tokio::test]
async fn dying_after_a_commit_keeps_it_although_nobody_was_told() {
    let dir = tempfile::tempdir().unwrap();
    for place in Place::all("dying_after_a_commit", dir.path()) {
        assert_eq!(run(&place, "keyspace::commit::after=7*off->return"), 7);
        assert_eq!(recovered(&place).await, 8);
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_keeps_every_answered_batch() {
    for round in [1, 40, 90] {
        let dir = tempfile::tempdir().unwrap();
        for place in Place::all("a_kill_at_any_moment", dir.path()) {
            kill_after(round, &place).await;
        }
    }
}

/// Kills the child once it has said that `round` batches were answered.
async fn kill_after(round: usize, place: &Place) {
    let mut child = start(place, "", 20_000, None);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let seen = answered(lines.by_ref().filter(|line| line.contains("committed ")).take(round));
    child.kill().unwrap();
    // What it had still said before it died counts as well.
    let all = seen + answered(lines);
    assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
    assert!(seen == round as u64 && all >= seen);
    let recovered = recovered(place).await;
    // One batch was under way: it may be there.
    assert!(recovered == all || recovered == all + 1, "{recovered} recovered, {all} answered");
}

#[tokio::test]
async fn a_write_that_finds_no_room_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Directory(dir.path().to_owned());
    // The journal starts at 64 MiB; a write buffer of 256 MiB keeps it from being replaced before it is full.
    let mut child = start(&place, "", 90_000, Some(66 * 1024));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    let all = answered(text.lines().map(str::to_owned));
    let last = text.lines().find(|line| line.contains("unknown") || line.contains("unavailable")).expect(&text);
    assert!(all > 100, "{all}");
    let recovered = recovered(&place).await;
    if last.contains("unknown") {
        assert!(recovered == all || recovered == all + 1, "{recovered} recovered, {all} answered, then {last}");
    } else {
        assert_eq!(recovered, all, "{last}");
    }
}
