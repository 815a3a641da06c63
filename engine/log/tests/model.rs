//! Random histories of a log, held against a model of what must be in it.
//!
//! A crash is a copy of the directory at the time: what closing adds is not in it. The write that the crash tore is an
//! append that the model takes for not acknowledged; of its bytes a part reaches the disk.

#![allow(clippy::unwrap_used, reason = "tests, with helpers that are none themselves")]

mod support;

use std::path::Path;

use millrace_log::embedded::{EmbeddedLog, Options};
use millrace_log::{EventLog, LogError, NewRecord, ReadLimit};
use proptest::prelude::*;
use support::{TestClock, assert_same, copy_dir, cut, flip, length, read_all, record, segments};
use tempfile::TempDir;

const PARTITIONS: u32 = 2;

#[derive(Clone, Debug)]
enum Step {
    Append {
        partition: u32,
        payloads: Vec<usize>,
    },
    Read {
        partition: u32,
        from: f64,
        records: usize,
        bytes: usize,
    },
    Reopen,
    /// Crashes while these payloads are appended; `reached` is how much of the torn write is on disk.
    Crash {
        partition: u32,
        payloads: Vec<usize>,
        reached: f64,
        flipped: Option<u8>,
    },
    Trim {
        partition: u32,
        released: f64,
        days: i64,
    },
    Time {
        forward: i64,
    },
}

fn payloads() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        4 => prop::collection::vec(1..400_usize, 1..6),
        1 => prop::collection::vec(1..4_000_usize, 1..8),
        1 => (60_000..200_000_usize).prop_map(|large| vec![10, large, 10]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let partition = 0..PARTITIONS;
    prop_oneof![
        10 => (partition.clone(), payloads()).prop_map(|(partition, payloads)| Step::Append { partition, payloads }),
        4 => (partition.clone(), 0.0..=1.0, 1..50_usize, 1..100_000_usize)
            .prop_map(|(partition, from, records, bytes)| Step::Read { partition, from, records, bytes }),
        1 => Just(Step::Reopen),
        3 => (partition.clone(), payloads(), 0.0..=1.0, prop::option::of(0..8_u8))
            .prop_map(|(partition, payloads, reached, flipped)| Step::Crash { partition, payloads, reached, flipped }),
        1 => (partition, 0.0..=1.0, 0..60_i64)
            .prop_map(|(partition, released, days)| Step::Trim { partition, released, days }),
        2 => (-5..100_000_000_i64).prop_map(|forward| Step::Time { forward }),
    ]
}

struct Run {
    dir: TempDir,
    log: EmbeddedLog,
    clock: TestClock,
    tail_bytes: usize,
    next: u64,
    /// All records that a partition ever had, by offset.
    model: Vec<Vec<NewRecord>>,
    first: Vec<u64>,
}

impl Run {
    fn new(tail_bytes: usize) -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::at(0));
        let log = Self::open(dir.path(), &clock, tail_bytes);
        let model = vec![Vec::new(); PARTITIONS as usize];
        Self { dir, log, clock, tail_bytes, next: 0, model, first: vec![0; PARTITIONS as usize] }
    }

    fn open(dir: &Path, clock: &TestClock, tail_bytes: usize) -> EmbeddedLog {
        let options = Options { partitions: PARTITIONS, segment_bytes: 20_000, tail_bytes, ..clock.options() };
        EmbeddedLog::open(dir, options).unwrap()
    }

    fn records(&mut self, payloads: &[usize]) -> Vec<NewRecord> {
        payloads
            .iter()
            .map(|bytes| {
                self.next += 1;
                record(self.next, *bytes)
            })
            .collect()
    }

    fn end(&self, partition: u32) -> u64 {
        self.model[partition as usize].len() as u64
    }

    fn within(&self, partition: u32, share: f64) -> u64 {
        let (first, end) = (self.first[partition as usize], self.end(partition));
        first + ((end - first) as f64 * share) as u64
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Append { partition, payloads } => {
                let records = self.records(&payloads);
                let end = self.end(partition);
                let appended = self.log.append(partition, records.clone()).await.unwrap();
                assert_eq!(appended, end..end + records.len() as u64);
                self.model[partition as usize].extend(records);
            }
            Step::Read { partition, from, records, bytes } => {
                let from = self.within(partition, from);
                let read = self.log.read(partition, from, ReadLimit { records, bytes }).await.unwrap();
                assert!(read.len() <= records && read.is_empty() == (from == self.end(partition)));
                let expected = &self.model[partition as usize][from as usize..from as usize + read.len()];
                assert_same(expected, from, &read);
                let total: usize = read.iter().map(|record| record.payload.len()).sum();
                assert!(read.len() <= 1 || total <= bytes);
            }
            Step::Reopen => {
                self.log.close().await.unwrap();
                self.log = Self::open(self.dir.path(), &self.clock, self.tail_bytes);
                self.check().await;
            }
            Step::Crash { partition, payloads, reached, flipped } => {
                self.crash(partition, &payloads, reached, flipped).await;
                self.check().await;
            }
            Step::Trim { partition, released, days } => {
                let released = self.within(partition, released);
                self.log.release(partition, released).await.unwrap();
                self.log.trim(self.clock.now() + days * 24 * 60 * 60 * 1_000_000).await.unwrap();
                for partition in 0..PARTITIONS {
                    let bounds = self.log.bounds(partition).await.unwrap();
                    assert_eq!(bounds.end, self.end(partition));
                    assert!(bounds.start >= self.first[partition as usize], "what was trimmed stays so");
                    self.first[partition as usize] = bounds.start;
                }
                assert!(self.first[partition as usize] <= self.end(partition));
                let below = self.log.read(partition, 0, support::ALL).await;
                match self.first[partition as usize] {
                    0 => drop(below.unwrap()),
                    first => assert!(matches!(below, Err(LogError::Gap { first: at, .. }) if at == first)),
                }
            }
            Step::Time { forward } => self.clock.advance(forward),
        }
    }

    async fn crash(&mut self, partition: u32, payloads: &[usize], reached: f64, flipped: Option<u8>) {
        let before: Vec<_> = segments(self.dir.path(), partition).iter().map(|path| length(path)).collect();
        let records = self.records(payloads);
        self.log.append(partition, records.clone()).await.unwrap();
        let crashed = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), crashed.path());
        let now = segments(crashed.path(), partition);
        let torn = now.last().unwrap();
        // A segment that was begun for the write may be torn within its header, too.
        let from = if now.len() > before.len() { 0 } else { *before.last().unwrap() };
        let to = length(torn);
        let kept = from + ((to - from) as f64 * reached) as u64;
        let mut whole = kept == to;
        match flipped {
            // The file has its length, yet some of its bytes did not make it.
            Some(bit) if kept >= from.max(support::HEADER_BYTES) && kept < to => {
                flip(torn, kept, bit);
                whole = false;
            }
            _ => cut(torn, kept),
        }
        if whole {
            self.model[partition as usize].extend(records);
        }
        self.log = Self::open(crashed.path(), &self.clock, self.tail_bytes);
        self.dir = crashed;
    }

    /// Fails unless the log has exactly what the model has.
    async fn check(&self) {
        for partition in 0..PARTITIONS {
            let first = self.first[partition as usize];
            assert_eq!(self.log.bounds(partition).await.unwrap(), first..self.end(partition));
            let stored = read_all(&self.log, partition, first).await.unwrap();
            assert_same(&self.model[partition as usize][first as usize..], first, &stored);
            for record in stored.iter().step_by(7) {
                let expected = stored.iter().find(|other| other.appended_at_us >= record.appended_at_us).unwrap();
                let found = self.log.offset_at(partition, record.appended_at_us).await.unwrap();
                assert_eq!(found, expected.offset);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Acknowledged records are never lost or changed; of a torn append all is there or nothing.
    #[test]
    fn the_log_has_what_the_model_has(steps in prop::collection::vec(step(), 1..60), tail in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new(if tail { 30_000 } else { 0 });
            for step in steps {
                run.take(step).await;
            }
            run.check().await;
        });
    }
}
