//! The writer of a partition: one thread that takes all appends that wait, writes them as one frame, makes it durable
//! with one fdatasync, and only then answers.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use millrace_rows::LogId;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::files::{lock, read_lock, write_lock};
use super::format::{FRAME_HEADER_BYTES, Frame, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::index::{Index, Place, STRIDE_BYTES};
use super::open::{create_segment, segment_path, write_index};
use super::options::micros;
use super::partition::{Partition, Segment};
use super::retention::Space;
use super::stats::count;
use super::tail::TailFrame;
use crate::LogError;

/// Records that wait to be appended.
pub(super) struct Append {
    /// As [`super::format::encode_records`] wrote them.
    pub records: Vec<u8>,
    pub count: u32,
    pub reply: oneshot::Sender<Result<Range<u64>, LogError>>,
    /// Their place in the queue.
    pub room: OwnedSemaphorePermit,
}

impl Append {
    fn answer(self, answer: Result<Range<u64>, LogError>) {
        let Self { records, reply, room, .. } = self;
        // Before the answer: whoever has it finds the queue without this append.
        drop((records, room));
        // A caller that no longer waits has its records in the log all the same.
        let _ = reply.send(answer);
    }
}

pub(super) enum Command {
    Append(Append),
    /// Seals the segment if it is old at the time `now`.
    Roll {
        now: i64,
        done: oneshot::Sender<()>,
    },
}

/// Why the appends of a frame failed. All of them do.
#[derive(Clone, Debug)]
enum Failure {
    /// Nothing was written, or it was cut off again; later appends may work.
    Full(String),
    /// Nothing was written and the partition takes no more appends.
    Closed(String),
    /// The frame may be in the file or not, and the partition takes no more appends.
    Unknown(String),
}

impl Failure {
    fn error(&self, partition: u32) -> LogError {
        match self {
            Self::Full(why) => LogError::Full(why.clone()),
            Self::Closed(why) => LogError::Closed(why.clone()),
            Self::Unknown(detail) => LogError::OutcomeUnknown { partition, detail: detail.clone() },
        }
    }
}

fn out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether the segment is to be sealed before `more` bytes are written at the time `now`.
fn must_roll(index: &Index, more: u64, now: i64, segment_bytes: u64, segment_age_us: i64) -> bool {
    let old = |first: i64| first < now.saturating_sub(segment_age_us);
    !index.is_empty() && (index.length + more > segment_bytes || index.first_time().is_some_and(old))
}

pub(super) struct Writer {
    pub partition: Arc<Partition>,
    pub space: Arc<Space>,
    pub log: LogId,
    /// The last segment and its file.
    pub segment: Arc<Segment>,
    pub file: File,
    /// Dropped when the partition is closed: nothing will come any more.
    pub end: Option<watch::Sender<u64>>,
}

impl Writer {
    /// Serves the queue until every sender is gone and it is drained.
    pub fn run(mut self, queue: &Receiver<Command>) {
        let mut next = None;
        while let Some(command) = next.take().or_else(|| queue.recv().ok()) {
            match command {
                Command::Roll { now, done } => {
                    self.roll_if_old(now);
                    // Whoever asked may be gone.
                    let _ = done.send(());
                }
                Command::Append(first) => {
                    let mut bytes = first.records.len();
                    let mut appends = vec![first];
                    while let Ok(command) = queue.try_recv() {
                        match command {
                            Command::Append(append)
                                if bytes + append.records.len() <= self.space.options.frame_bytes =>
                            {
                                bytes += append.records.len();
                                appends.push(append);
                            }
                            other => {
                                next = Some(other);
                                break;
                            }
                        }
                    }
                    self.commit(appends, bytes);
                }
            }
        }
        // Says at the next start how far the segment is known to be good, so that none of it need be read.
        if self.end.is_some() {
            self.keep_index();
        }
    }

    fn keep_index(&self) {
        let partition = &self.partition;
        let index = read_lock(&self.segment.index).clone();
        write_index(&partition.dir, &index, self.log, partition.number, self.segment.first);
    }

    /// Writes the appends as one frame and answers them.
    fn commit(&mut self, appends: Vec<Append>, bytes: usize) {
        let number = self.partition.number;
        let outcome = match self.partition.closed.get() {
            Some(why) => Err(Failure::Closed(why.clone())),
            None => self.write(&appends, bytes),
        };
        match outcome {
            Ok(mut first) => {
                for append in appends {
                    let end = first + u64::from(append.count);
                    append.answer(Ok(first..end));
                    first = end;
                }
            }
            Err(failure) => {
                match &failure {
                    Failure::Full(why) => tracing::warn!(partition = number, why, "the log is full; refused appends"),
                    Failure::Closed(why) | Failure::Unknown(why) => self.close(why),
                }
                for append in appends {
                    append.answer(Err(failure.error(number)));
                }
            }
        }
    }

    /// Takes no more appends: after a failed write or fsync nobody knows what of the file is on disk. The next start
    /// finds out.
    fn close(&mut self, why: &str) {
        if self.partition.closed.set(why.to_owned()).is_ok() {
            tracing::error!(
                partition = self.partition.number,
                why,
                "the partition takes no more appends; restart to recover"
            );
        }
        self.end = None;
    }

    /// Writes one frame, makes it durable and shows it to readers. Returns its first offset.
    fn write(&mut self, appends: &[Append], bytes: usize) -> Result<u64, Failure> {
        let options = &self.space.options;
        let now = (options.clock)();
        let more = (FRAME_HEADER_BYTES + bytes) as u64;
        let (segment_bytes, age) = (options.segment_bytes, micros(options.segment_age));
        if must_roll(&read_lock(&self.segment.index), more, now, segment_bytes, age) {
            self.roll()?;
            if let Err(error) = self.space.trim(now) {
                tracing::warn!(%error, "trimming the log failed; it is tried again when the next segment begins");
            }
        }
        if !self.reserve(more, now)? {
            // Sealed, this segment may be trimmed itself.
            let released = self.partition.released.load(Ordering::Acquire);
            let (useful, first) = {
                let index = read_lock(&self.segment.index);
                (!index.is_empty() && index.end <= released, self.segment.first)
            };
            if useful {
                tracing::debug!(partition = self.partition.number, first, "sealing a segment to make room");
                self.roll()?;
            }
            if !useful || !self.reserve(more, now)? {
                let budget = self.space.options.disk_budget_bytes.unwrap_or(u64::MAX);
                let why = format!("its disk budget of {budget} bytes is used up and nothing more may be trimmed");
                return Err(Failure::Full(why));
            }
        }
        self.write_frame(appends, bytes, now).inspect_err(|_| self.space.give_back(more))
    }

    fn reserve(&self, bytes: u64, now: i64) -> Result<bool, Failure> {
        let reserved = self.space.reserve(bytes, now);
        reserved.map_err(|error| Failure::Full(format!("its disk budget is used up and trimming failed: {error}")))
    }

    fn write_frame(&mut self, appends: &[Append], bytes: usize, now: i64) -> Result<u64, Failure> {
        let (first, position, last_time) = {
            let index = read_lock(&self.segment.index);
            (index.end, index.length, index.last_time)
        };
        let appended_at = last_time.max(now);
        let mut frame = Frame::with_capacity(bytes);
        for append in appends {
            frame.push(&append.records, append.count);
        }
        let records: u64 = appends.iter().map(|append| u64::from(append.count)).sum();
        let mut places = Vec::new();
        let wanted = |offset: u64, at: usize| {
            // The first record's place is that of the frame.
            let at = if offset == first { 0 } else { at as u64 };
            if places.last().is_none_or(|last: &Place| position + at - last.position >= STRIDE_BYTES) {
                places.push(Place { offset, position: position + at });
            }
        };
        let frame = frame.finish(self.partition.seed, first, appended_at, wanted);
        self.write_bytes(&frame, position)?;

        let end = first + records;
        {
            let mut index = write_lock(&self.segment.index);
            for place in places {
                index.note(place, appended_at);
            }
            index.extend(end, position + frame.len() as u64, appended_at);
        }
        let bytes = Bytes::from(frame);
        lock(&self.partition.tail).push(TailFrame { segment: self.segment.first, position, first, end, bytes });
        let counters = &self.partition.counters;
        count(&counters.frames, 1);
        count(&counters.appends, appends.len() as u64);
        count(&counters.records, records);
        if let Some(sender) = &self.end {
            sender.send_replace(end);
        }
        fail::fail_point!("log::append::after_fsync", |_| std::process::abort());
        Ok(first)
    }

    /// Writes at the end of the segment and makes it durable.
    fn write_bytes(&self, frame: &[u8], position: u64) -> Result<(), Failure> {
        let path = segment_path(&self.partition.dir, self.segment.first);
        if let Err(error) = write_all(&self.file, frame, position) {
            let why = format!("writing {} failed: {error}", path.display());
            // Whether the frame is whole in the file is known only when it is cut off again.
            return Err(match self.file.set_len(position) {
                Ok(()) if out_of_space(&error) => Failure::Full(why),
                Ok(()) => Failure::Closed(why),
                Err(also) => Failure::Unknown(format!("{why}; cutting it off failed as well: {also}")),
            });
        }
        fail::fail_point!("log::append::before_fsync", |_| std::process::abort());
        count(&self.partition.counters.fsyncs, 1);
        sync_data(&self.file).map_err(|error| Failure::Unknown(format!("fsync of {} failed: {error}", path.display())))
    }

    fn roll_if_old(&mut self, now: i64) {
        let options = &self.space.options;
        let (segment_bytes, age) = (options.segment_bytes, micros(options.segment_age));
        let old = must_roll(&read_lock(&self.segment.index), 0, now, segment_bytes, age);
        if old && self.partition.closed.get().is_none() {
            match self.roll() {
                Ok(()) => {}
                Err(Failure::Full(why)) => tracing::warn!(why, "no space to begin a new segment"),
                Err(Failure::Closed(why) | Failure::Unknown(why)) => self.close(&why),
            }
        }
    }

    /// Seals the segment and begins the next one.
    fn roll(&mut self) -> Result<(), Failure> {
        self.keep_index();
        let (first, base_time) = {
            let index = read_lock(&self.segment.index);
            (index.end, index.last_time)
        };
        let number = self.partition.number;
        let dir = &self.partition.dir;
        let header = SegmentHeader { log: self.log, partition: number, first, base_time };
        let file = create_segment(dir, &header).map_err(|error| {
            let path = segment_path(dir, first);
            let why = format!("creating {} failed: {error}", path.display());
            // What is left of it holds no record; recovery would take it for the empty last segment that it is.
            let _ = fs::remove_file(path);
            if out_of_space(&error) { Failure::Full(why) } else { Failure::Closed(why) }
        })?;
        count(&self.partition.counters.fsyncs, 1);
        self.space.bytes.fetch_add(SEGMENT_HEADER_BYTES as u64, Ordering::AcqRel);
        self.segment = Arc::new(Segment { first, index: RwLock::new(Index::empty(first, base_time)) });
        self.file = file;
        write_lock(&self.partition.segments).push_back(Arc::clone(&self.segment));
        Ok(())
    }
}

fn write_all(file: &File, frame: &[u8], position: u64) -> io::Result<()> {
    fail::fail_point!("log::append::torn", |_| {
        let half = file.write_all_at(&frame[..frame.len() / 2], position).and_then(|()| file.sync_all());
        assert!(half.is_ok(), "the failpoint could not write: {half:?}");
        std::process::abort()
    });
    fail::fail_point!("log::append::enospc", |_| {
        file.write_all_at(&frame[..frame.len() / 2], position)?;
        Err(io::Error::from(ErrorKind::StorageFull))
    });
    file.write_all_at(frame, position)
}

fn sync_data(file: &File) -> io::Result<()> {
    fail::fail_point!("log::append::fsync_error", |_| Err(io::Error::other("injected")));
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_ends_by_size_or_age_but_never_empty() {
        let mut index = Index::empty(0, 50);
        assert!(!must_roll(&index, 1_000, 1_000, 100, 10), "empty");
        index.note(Place { offset: 0, position: 64 }, 50);
        index.extend(1, 80, 60);
        assert!(!must_roll(&index, 20, 60, 100, 10), "exactly as large and as old");
        assert!(must_roll(&index, 21, 60, 100, 10));
        assert!(must_roll(&index, 0, 61, 100, 10));
        assert!(!must_roll(&index, 0, i64::MAX, 100, i64::MAX));
    }
}
