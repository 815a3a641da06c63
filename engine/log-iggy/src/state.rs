//! What is known of the partitions, from looks at the topic, reads and appends.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use millrace_log::LogError;
use millrace_rows::Mark;
use tokio::sync::watch;

/// Bytes that a record is taken to have before one was read.
const RECORD_BYTES_GUESS: u64 = 1024;

/// The partitions as they were last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bounds of each partition.
    pub(crate) bounds: Vec<Range<u64>>,
    /// Why the server does not answer, while it does not.
    pub(crate) problem: Option<String>,
    /// Grows when a partition stops.
    pub(crate) faults: u64,
}

/// Why nothing is read from a partition any more.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Its end fell.
    Truncated { seen: u64, end: u64 },
    /// The record last read is another one now.
    Replaced { offset: u64 },
}

impl Fault {
    pub(crate) fn error(&self, partition: u32) -> LogError {
        match *self {
            Self::Truncated { seen, end } => LogError::PastEnd { partition, asked: seen, end },
            Self::Replaced { offset } => LogError::Damaged {
                partition,
                offset,
                detail:
                    "the record is not the one that was read before: the server lost records and gave their offsets \
                         again"
                        .to_owned(),
            },
        }
    }
}

/// One partition.
#[derive(Default)]
pub(crate) struct Partition {
    /// Set once: a restart holds cursors against the log.
    pub(crate) fault: OnceLock<Fault>,
    /// Connections made when `last` was compared.
    checked_epoch: AtomicU64,
    /// The last record read: its offset and fingerprint.
    last: Mutex<Option<(u64, Mark)>>,
    /// Bytes of a record, lately; 0: not known.
    record_bytes: AtomicU64,
}

impl Partition {
    /// The record to compare before anything is read over connections of `epoch`, if it was not yet.
    pub(crate) fn to_compare(&self, epoch: u64) -> Option<(u64, Mark)> {
        if self.checked_epoch.load(Ordering::Relaxed) == epoch {
            return None;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn compared(&self, epoch: u64) {
        self.checked_epoch.store(epoch, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, offset: u64, mark: Mark) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|(before, _)| before <= offset) {
            *last = Some((offset, mark));
        }
    }

    /// How many records fill so many bytes, as far as one knows.
    pub(crate) fn records_in(&self, bytes: usize) -> u64 {
        let record = match self.record_bytes.load(Ordering::Relaxed) {
            0 => RECORD_BYTES_GUESS,
            known => known,
        };
        bytes as u64 / record + 1
    }

    pub(crate) fn measured(&self, records: usize, bytes: usize) {
        self.record_bytes.store((bytes / records.max(1)).max(1) as u64, Ordering::Relaxed);
    }
}

/// All partitions, and who waits for them.
pub(crate) struct State {
    pub(crate) partitions: Vec<Partition>,
    pub(crate) seen: watch::Sender<Seen>,
}

impl State {
    pub(crate) fn new(bounds: Vec<Range<u64>>) -> Self {
        let partitions = bounds.iter().map(|_| Partition::default()).collect();
        Self { partitions, seen: watch::Sender::new(Seen { bounds, ..Seen::default() }) }
    }

    pub(crate) fn bounds(&self, partition: u32) -> Range<u64> {
        self.seen.borrow().bounds.get(partition as usize).cloned().unwrap_or_default()
    }

    /// Records that the partition reaches `end` at least.
    pub(crate) fn reaches(&self, partition: u32, end: u64) {
        self.seen.send_if_modified(|seen| match seen.bounds.get_mut(partition as usize) {
            Some(bounds) if bounds.end < end => {
                bounds.end = end;
                true
            }
            _ => false,
        });
    }

    /// Takes a look at the topic in: its bounds hold, but an end never falls here. Gives whether anything moved.
    pub(crate) fn saw(&self, looked: &[Range<u64>]) -> bool {
        self.seen.send_if_modified(|seen| {
            let mut changed = seen.problem.take().is_some();
            for (bounds, looked) in seen.bounds.iter_mut().zip(looked) {
                let now = looked.start.max(bounds.start)..looked.end.max(bounds.end);
                changed |= *bounds != now;
                *bounds = now;
            }
            changed
        })
    }

    pub(crate) fn failed(&self, problem: &str) {
        self.seen.send_if_modified(|seen| {
            let changed = seen.problem.as_deref() != Some(problem);
            seen.problem = Some(problem.to_owned());
            changed
        });
    }

    /// Stops a partition, and wakes whoever waits for it.
    pub(crate) fn stop(&self, partition: u32, fault: Fault) -> LogError {
        let Some(stopped) = self.partitions.get(partition as usize) else { return fault.error(partition) };
        let first = stopped.fault.set(fault.clone()).is_ok();
        let error = stopped.fault.get().unwrap_or(&fault).error(partition);
        if first {
            tracing::error!(partition, %error, "nothing more is read from the partition");
            self.seen.send_modify(|seen| seen.faults += 1);
        }
        error
    }

    /// The error of a partition that stopped.
    pub(crate) fn check(&self, partition: u32) -> Result<&Partition, LogError> {
        let partitions = self.partitions.len() as u32;
        let Some(found) = self.partitions.get(partition as usize) else {
            return Err(LogError::NoSuchPartition { partition, partitions });
        };
        match found.fault.get() {
            Some(fault) => Err(fault.error(partition)),
            None => Ok(found),
        }
    }
}
