//! Reading: from the frames in memory, else from a segment file.

use std::io::ErrorKind;

use bytes::Bytes;

use super::files::{lock, read_at, read_lock};
use super::format::{Malformed, Step, Walk};
use super::index::{Place, STRIDE_BYTES};
use super::open::segment_path;
use super::partition::{Partition, Segment};
use crate::{LogError, ReadLimit, Record};

/// Most payload bytes that one read returns, whatever its limit says; one record may be larger.
pub const READ_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Ends of recent reads that a partition remembers.
const RESUME_MAX: usize = 8;

/// Where a read ended: the next one most often begins there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resume {
    segment: u64,
    place: Place,
}

impl Partition {
    /// Reads from the frames in memory. `None` if they don't reach back to `from`, which must be below `end`.
    pub fn read_tail(&self, from: u64, limit: ReadLimit, end: u64) -> Result<Option<Vec<Record>>, LogError> {
        let frames = lock(&self.tail).from(from, limit.bytes);
        let Some(oldest) = frames.first() else { return Ok(None) };
        let segment = self.segment_of(from)?;
        let start = self.start(&segment, from);
        let mut gather = Gather::new(from, i64::MIN, limit, end);
        let mut stopped = (oldest.segment, oldest.position);
        for frame in &frames {
            let within = start.offset > frame.first && start.offset < frame.end && oldest.segment == frame.segment;
            let place = if within { start } else { Place { offset: frame.first, position: frame.position } };
            let at = (place.position - frame.position) as usize;
            let taken = gather.take(&frame.bytes, at, place.offset, self.seed);
            taken.map_err(|what| self.damaged(&gather, frame.segment, what))?;
            stopped = (frame.segment, frame.position + gather.stopped as u64);
            if gather.full {
                break;
            }
        }
        self.remember(stopped.0, Place { offset: gather.next, position: stopped.1 });
        Ok(Some(gather.records))
    }

    /// Reads from a segment file; from one only, so that the records at its end may be fewer than asked for. `from` must
    /// be below `end`. Blocks.
    pub fn read_file(&self, from: u64, limit: ReadLimit, end: u64) -> Result<Vec<Record>, LogError> {
        let segment = self.segment_of(from)?;
        let start = self.start(&segment, from);
        let ceiling = read_lock(&segment.index).ceiling(from.saturating_add(limit.records.max(1) as u64));
        // Headers and receipts come on top of the payload bytes that were asked for; what this falls short of is left to
        // the next read.
        let wanted = limit.bytes.min(READ_BYTES_MAX) as u64;
        let bytes = (ceiling - start.position).min(STRIDE_BYTES + wanted + wanted / 4);
        let mut gather = Gather::new(from, i64::MIN, limit, end);
        if !self.fill(&segment, start, bytes, &mut gather)? {
            return self.read_file(from, limit, end);
        }
        Ok(gather.records)
    }

    /// The first offset below `end` whose record was appended at `time` or later, else `end`. Blocks.
    pub fn offset_at(&self, time: i64, end: u64) -> Result<u64, LogError> {
        let segment = {
            let segments = read_lock(&self.segments);
            // Append times never fall, and a segment without records repeats the last one before it.
            let at = segments.partition_point(|segment| read_lock(&segment.index).last_time < time);
            segments.range(at..).find(|segment| !read_lock(&segment.index).is_empty()).cloned()
        };
        let Some(segment) = segment.filter(|segment| segment.first < end) else { return Ok(end) };
        let (start, by) = read_lock(&segment.index).around_time(time);
        let mut gather = Gather::new(start.offset, time, ReadLimit { records: 1, bytes: 1 }, end);
        if !self.fill(&segment, start, by - start.position + STRIDE_BYTES, &mut gather)? {
            return self.offset_at(time, end);
        }
        Ok(gather.records.first().map_or(end, |record| record.offset))
    }

    /// Reads from `place` on, at first `bytes`, more only if these don't hold a record that is wanted. `false` when
    /// retention deleted the segment meanwhile.
    fn fill(&self, segment: &Segment, mut place: Place, bytes: u64, gather: &mut Gather) -> Result<bool, LogError> {
        let Some(file) = self.open(segment.first, place.offset)? else { return Ok(false) };
        let length = read_lock(&segment.index).length;
        let mut bytes = bytes.max(1);
        loop {
            let now = bytes.min(length - place.position) as usize;
            let last = place.position + now as u64 == length;
            let buffer = read_at(&file, place.position, now).map_err(|source| match source.kind() {
                ErrorKind::UnexpectedEof => {
                    self.damaged(gather, segment.first, Malformed("shorter than what was durable of it".to_owned()))
                }
                _ => {
                    let path = segment_path(&self.dir, segment.first);
                    LogError::Io { context: format!("reading {}", path.display()), source }
                }
            })?;
            let taken = gather.take(&Bytes::from(buffer), 0, place.offset, self.seed);
            let more = taken.map_err(|what| self.damaged(gather, segment.first, what))?;
            place = Place { offset: gather.next, position: place.position + gather.stopped as u64 };
            if gather.full || !gather.records.is_empty() {
                self.remember(segment.first, place);
                return Ok(true);
            }
            if last {
                let what = Malformed(format!("no whole record at byte {}", place.position));
                return Err(self.damaged(gather, segment.first, what));
            }
            bytes = more as u64 + STRIDE_BYTES;
        }
    }

    /// Where to begin in search of `offset`: where a read ended before it, else the last place in the index.
    fn start(&self, segment: &Segment, offset: u64) -> Place {
        let resumes = lock(&self.resumes);
        let resume = resumes.iter().find(|end| end.segment == segment.first && end.place.offset == offset);
        resume.map_or_else(|| read_lock(&segment.index).floor(offset), |end| end.place)
    }

    fn remember(&self, segment: u64, place: Place) {
        let mut resumes = lock(&self.resumes);
        if resumes.len() >= RESUME_MAX {
            resumes.pop_front();
        }
        resumes.push_back(Resume { segment, place });
    }

    fn damaged(&self, gather: &Gather, segment: u64, Malformed(what): Malformed) -> LogError {
        let detail = format!("{}: {what}", segment_path(&self.dir, segment).display());
        LogError::Damaged { partition: self.number, offset: gather.next, detail }
    }
}

/// Records on their way to a reader.
struct Gather {
    /// Records before this offset are passed over.
    from: u64,
    /// Records appended before this time are passed over.
    since: i64,
    limit: ReadLimit,
    /// Records from this offset on were not durable when the read began.
    end: u64,
    records: Vec<Record>,
    bytes: usize,
    /// Offset of the next record to be looked at.
    next: u64,
    /// Where in the last buffer that record begins.
    stopped: usize,
    /// Whether the limit or the end is reached.
    full: bool,
}

impl Gather {
    fn new(from: u64, since: i64, limit: ReadLimit, end: u64) -> Self {
        Self { from, since, limit, end, records: Vec::new(), bytes: 0, next: from, stopped: 0, full: false }
    }

    /// Takes records from `bytes`, where the record `offset` stands at `at`. Returns how many bytes, from `stopped` on,
    /// hold the next record or bring the walk further; 0 when `full`.
    fn take(&mut self, bytes: &Bytes, at: usize, offset: u64, seed: u64) -> Result<usize, Malformed> {
        let mut walk = Walk::new(bytes, at, offset, seed);
        loop {
            (self.next, self.stopped) = (walk.offset(), walk.position());
            if self.next >= self.end || (!self.records.is_empty() && self.records.len() >= self.limit.records) {
                self.full = true;
                return Ok(0);
            }
            let found = match walk.step()? {
                Step::Record(found) => found,
                Step::More(more) => return Ok(more),
            };
            if found.offset < self.from || found.appended_at < self.since {
                continue;
            }
            let after = self.bytes + found.payload_bytes;
            if !self.records.is_empty() && after > self.limit.bytes.min(READ_BYTES_MAX) {
                self.full = true;
                return Ok(0);
            }
            self.bytes = after;
            self.records.push(found.decode(bytes)?);
        }
    }
}
