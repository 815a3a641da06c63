//! A partition as readers see it: its segments, their indexes, and how far it is durable.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use tokio::sync::watch;

use super::files::{Context, lock, read_lock, write_lock};
use super::index::Index;
use super::open::segment_path;
use super::read::Resume;
use super::stats::Counters;
use super::tail::Tail;
use crate::LogError;

/// Open files of segments that a partition keeps for readers.
const FILES_MAX: usize = 8;

/// One segment. Only the last one of a partition changes.
pub(super) struct Segment {
    pub first: u64,
    pub index: RwLock<Index>,
}

/// What readers, the writer and retention share of a partition.
pub(super) struct Partition {
    pub number: u32,
    pub dir: PathBuf,
    pub seed: u64,
    /// Oldest first, never empty. The writer adds at the end, retention removes at the front.
    pub segments: RwLock<VecDeque<Arc<Segment>>>,
    /// The offset after the last durable record. Its sender is the writer's: gone when the writer has stopped.
    pub end: watch::Receiver<u64>,
    /// Nothing at or past it may be trimmed.
    pub released: AtomicU64,
    /// Held while segments are deleted, log-wide.
    pub trimming: Arc<Mutex<()>>,
    pub tail: Mutex<Tail>,
    /// Why the partition takes no more appends.
    pub closed: OnceLock<String>,
    pub counters: Counters,
    files: Mutex<VecDeque<(u64, Arc<File>)>>,
    pub resumes: Mutex<VecDeque<Resume>>,
}

impl Partition {
    #[expect(clippy::too_many_arguments, reason = "called once")]
    pub fn new(
        number: u32,
        dir: PathBuf,
        seed: u64,
        segments: Vec<(u64, Index)>,
        end: watch::Receiver<u64>,
        trimming: Arc<Mutex<()>>,
        tail_bytes: usize,
        counters: Counters,
    ) -> Self {
        let segments =
            segments.into_iter().map(|(first, index)| Arc::new(Segment { first, index: RwLock::new(index) })).collect();
        Self {
            number,
            dir,
            seed,
            segments: RwLock::new(segments),
            end,
            released: AtomicU64::new(0),
            trimming,
            tail: Mutex::new(Tail::new(tail_bytes)),
            closed: OnceLock::new(),
            counters,
            files: Mutex::new(VecDeque::new()),
            resumes: Mutex::new(VecDeque::new()),
        }
    }

    pub fn bounds(&self) -> Range<u64> {
        // The end first: it is never below the first offset that is read after it.
        let end = *self.end.borrow();
        self.first().min(end)..end
    }

    pub fn first(&self) -> u64 {
        read_lock(&self.segments).front().map_or(0, |segment| segment.first)
    }

    /// Whether `from` can be read, and up to where.
    pub fn check_from(&self, from: u64) -> Result<Range<u64>, LogError> {
        let bounds = self.bounds();
        if from < bounds.start {
            return Err(LogError::Gap { partition: self.number, asked: from, first: bounds.start });
        }
        if from > bounds.end {
            return Err(LogError::PastEnd { partition: self.number, asked: from, end: bounds.end });
        }
        Ok(bounds)
    }

    /// The segment with the record `offset`, which must be below the end.
    pub fn segment_of(&self, offset: u64) -> Result<Arc<Segment>, LogError> {
        let segments = read_lock(&self.segments);
        let after = segments.partition_point(|segment| segment.first <= offset);
        match after.checked_sub(1).and_then(|at| segments.get(at)) {
            Some(segment) => Ok(Arc::clone(segment)),
            None => {
                let first = segments.front().map_or(0, |segment| segment.first);
                Err(LogError::Gap { partition: self.number, asked: offset, first })
            }
        }
    }

    /// The file of a segment; `None` when retention deleted it meanwhile and the search for `offset` must begin anew,
    /// which ends in a gap at the latest.
    pub fn open(&self, segment: u64, offset: u64) -> Result<Option<Arc<File>>, LogError> {
        let mut files = lock(&self.files);
        if let Some((_, file)) = files.iter().find(|(first, _)| *first == segment) {
            return Ok(Some(Arc::clone(file)));
        }
        let path = segment_path(&self.dir, segment);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                drop(files);
                // Retention deletes the file and then takes the segment off the list, under this lock.
                drop(lock(&self.trimming));
                if self.first() > segment {
                    return Ok(None);
                }
                let detail = format!("the segment file {} is gone", path.display());
                return Err(LogError::Damaged { partition: self.number, offset, detail });
            }
            file => Arc::new(file.context("opening", &path)?),
        };
        if files.len() >= FILES_MAX {
            files.pop_front();
        }
        files.push_back((segment, Arc::clone(&file)));
        Ok(Some(file))
    }

    /// Takes the oldest segment off the list once its file is deleted.
    pub fn drop_oldest(&self) {
        let Some(segment) = write_lock(&self.segments).pop_front() else { return };
        // An open file would keep its space.
        lock(&self.files).retain(|(first, _)| *first != segment.first);
    }

    pub fn closed(&self) -> Result<(), LogError> {
        match self.closed.get() {
            Some(why) => Err(LogError::Closed(why.clone())),
            None => Ok(()),
        }
    }

    pub fn release(&self, below: u64) -> Result<(), LogError> {
        let end = *self.end.borrow();
        if below > end {
            return Err(LogError::PastEnd { partition: self.number, asked: below, end });
        }
        self.released.store(below, Ordering::Release);
        Ok(())
    }
}
