//! Checks with several committers and readers at once.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::{Scope, text};
use crate::{Batch, Compare, KeyspaceError, Write};

fn number(value: &Bytes) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

fn numeral(value: u64) -> Bytes {
    Bytes::from(value.to_string())
}

/// A snapshot reads the same after any later commit, by key and by range.
pub async fn a_snapshot_never_changes(s: Scope) {
    s.put("a", "1").await;
    s.put("b", "1").await;
    let before = s.keyspace.snapshot().await.unwrap();
    s.write(vec![Write::Put(s.key("a"), text("2")), Write::Delete(s.key("b")), Write::Put(s.key("c"), text("2"))])
        .await;
    let between = s.keyspace.snapshot().await.unwrap();
    s.write(vec![Write::Clear(s.prefix.clone(), s.end())]).await;

    assert_eq!(before.get(&s.key("a")).await.unwrap(), Some(text("1")));
    assert_eq!(before.get(&s.key("c")).await.unwrap(), None);
    let pair = |key, value| (text(key), text(value));
    assert_eq!(s.all_in(&*before, 1).await, [pair("a", "1"), pair("b", "1")]);
    assert_eq!(s.all_in(&*between, 1).await, [pair("a", "2"), pair("c", "2")]);
    assert!(s.all(10).await.is_empty());
}

/// Once a commit is answered every later snapshot has it, whoever asks.
pub async fn commits_are_seen(s: Scope) {
    for n in 0..50_u64 {
        let key = s.key("n");
        s.write(vec![Write::Put(key.clone(), numeral(n))]).await;
        let mut readers = JoinSet::new();
        for _ in 0..4 {
            let (keyspace, key) = (s.keyspace.clone(), key.clone());
            readers.spawn(async move { keyspace.get(&key).await.unwrap() });
        }
        assert_eq!(readers.join_all().await, vec![Some(numeral(n)); 4]);
    }
}

/// Tasks that increment one counter by compare lose no update and count none twice.
pub async fn counters_are_exact(s: Scope) {
    const TASKS: u64 = 8;
    const INCREMENTS: u64 = 25;
    s.put("counter", "0").await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let s = s.clone();
        tasks.spawn(async move {
            let key = s.key("counter");
            for n in 0..INCREMENTS {
                loop {
                    let found = s.get("counter").await.unwrap();
                    let next = numeral(number(&found) + 1);
                    let batch = Batch {
                        compares: vec![Compare { key: key.clone(), expected: Some(found) }],
                        writes: vec![
                            Write::Put(key.clone(), next.clone()),
                            // Who got which number: no number may be given twice.
                            Write::Put(s.key(format!("log/{:05}", number(&next))), numeral(task * INCREMENTS + n)),
                        ],
                    };
                    // Those of the background are commits like any other, and end beside them.
                    let committed = match task % 2 {
                        0 => s.keyspace.commit(batch).await,
                        _ => s.keyspace.commit_background(batch).await,
                    };
                    match committed {
                        Ok(()) => break,
                        Err(KeyspaceError::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(s.get("counter").await, Some(numeral(TASKS * INCREMENTS)));
    let mut log: Vec<u64> = s.all(1000).await.iter().skip(1).map(|(_, value)| number(value)).collect();
    log.sort_unstable();
    assert_eq!(log, (0..TASKS * INCREMENTS).collect::<Vec<_>>());
}

/// Transfers between accounts keep the sum, and no snapshot ever sees half a transfer.
pub async fn sums_hold_in_every_snapshot(s: Scope) {
    const ACCOUNTS: usize = 10;
    const START: u64 = 100;
    let account = |n: usize| s.key(format!("{n}"));
    s.write((0..ACCOUNTS).map(|n| Write::Put(account(n), numeral(START))).collect()).await;
    let done = std::sync::Arc::new(AtomicBool::new(false));

    let mut readers = JoinSet::new();
    for _ in 0..2 {
        let (s, done) = (s.clone(), done.clone());
        readers.spawn(async move {
            let mut reads = 0_u32;
            while !done.load(Ordering::Acquire) || reads == 0 {
                let sum: u64 = s.all(3).await.iter().map(|(_, value)| number(value)).sum();
                assert_eq!(sum, START * ACCOUNTS as u64);
                reads += 1;
            }
        });
    }
    let mut writers = JoinSet::new();
    for task in 0..4 {
        let s = s.clone();
        writers.spawn(async move {
            let mut random = StdRng::seed_from_u64(s.seed ^ task);
            let mut moved = 0;
            while moved < 30 {
                let (from, to) = (random.random_range(0..ACCOUNTS), random.random_range(0..ACCOUNTS));
                if from == to {
                    continue;
                }
                let keys = [s.key(format!("{from}")), s.key(format!("{to}"))];
                let snapshot = s.keyspace.snapshot().await.unwrap();
                let have = snapshot.get(&keys[0]).await.unwrap().unwrap();
                let has = snapshot.get(&keys[1]).await.unwrap().unwrap();
                let amount = random.random_range(0..=number(&have));
                let batch = Batch {
                    writes: vec![
                        Write::Put(keys[0].clone(), numeral(number(&have) - amount)),
                        Write::Put(keys[1].clone(), numeral(number(&has) + amount)),
                    ],
                    compares: vec![
                        Compare { key: keys[0].clone(), expected: Some(have) },
                        Compare { key: keys[1].clone(), expected: Some(has) },
                    ],
                };
                match s.keyspace.commit(batch).await {
                    Ok(()) => moved += 1,
                    Err(KeyspaceError::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    writers.join_all().await;
    done.store(true, Ordering::Release);
    readers.join_all().await;
}
