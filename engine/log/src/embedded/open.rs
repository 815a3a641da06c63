//! Opens a log: takes the lock, creates what is not there yet, and brings each partition back to the state of its last
//! whole frame. What is done after which crash is described in [`super`].

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millrace_rows::LogId;
use serde::{Deserialize, Serialize};

use super::files::{Context, replace_file, sync_dir};
use super::format::{FORMAT_VERSION, SEGMENT_HEADER_BYTES, SegmentHeader, frame_seed};
use super::index::Index;
use super::options::Options;
use super::scan::Source;
use crate::LogError;

const META_FILE: &str = "log.json";
const LOCK_FILE: &str = "log.lock";
/// How long a lock that another process has is tried again.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    format: u32,
    id: LogId,
    partitions: u32,
    created_at_us: i64,
}

/// A log that was opened: what the files say.
pub(super) struct Opened {
    /// Held for as long as something may write to the directory.
    pub lock: File,
    pub id: LogId,
    pub partitions: Vec<Recovered>,
}

/// A partition as recovery left it.
pub(super) struct Recovered {
    pub dir: PathBuf,
    pub seed: u64,
    /// Every segment, oldest first; at least one. The last one is written on.
    pub segments: Vec<(u64, Index)>,
    pub active: File,
    /// Bytes of a torn write that were cut off.
    pub torn_bytes: u64,
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

/// The file of a segment's index.
pub(super) fn index_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.idx"))
}

/// Creates a segment; durable, name and all, once this returns.
pub(super) fn create_segment(dir: &Path, header: &SegmentHeader) -> io::Result<File> {
    let path = segment_path(dir, header.first);
    // A file of this name can only be what is left of an attempt that failed: its first record would be the next one.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let bytes = header.encode();
    fail::fail_point!("log::roll::torn", |_| -> io::Result<File> {
        file.write_all_at(&bytes[..SEGMENT_HEADER_BYTES / 2], 0)?;
        file.sync_all()?;
        std::process::abort()
    });
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(file)
}

pub(super) fn open(dir: &Path, options: &Options) -> Result<Opened, LogError> {
    options.check()?;
    fs::create_dir_all(dir).context("creating", dir)?;
    let lock = lock_dir(dir)?;
    let stored = read_meta(dir)?;
    let meta = match &stored {
        Some(meta) if meta.partitions > options.partitions => {
            return Err(LogError::Unusable(format!(
                "the log in {} has {} partitions and the options ask for {}: partitions can be added, not removed",
                dir.display(),
                meta.partitions,
                options.partitions
            )));
        }
        Some(meta) => Meta { partitions: options.partitions, ..*meta },
        None => Meta {
            format: FORMAT_VERSION,
            id: LogId(uuid::Uuid::new_v4().into_bytes()),
            partitions: options.partitions,
            created_at_us: (options.clock)(),
        },
    };
    let before = stored.as_ref().map_or(0, |meta| meta.partitions);
    if before < meta.partitions {
        for partition in before..meta.partitions {
            create_partition(dir, &meta, partition)?;
        }
        // Last: until it is there the new partitions are not part of the log.
        write_meta(dir, &meta)?;
        tracing::info!(log = %meta.id, from = before, to = meta.partitions, "created partitions of the embedded log");
    }
    let partitions =
        (0..meta.partitions).map(|partition| recover(dir, meta.id, partition)).collect::<Result<_, _>>()?;
    Ok(Opened { lock, id: meta.id, partitions })
}

fn lock_dir(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(LOCK_FILE);
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path).context("opening", &path)?;
    let mut tried = lock.try_lock();
    // A process that is ending has it for a moment more, and so has a child that was just made and has not begun.
    let until = Instant::now() + LOCK_PATIENCE;
    while matches!(tried, Err(TryLockError::WouldBlock)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
        tried = lock.try_lock();
    }
    match tried {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LogError::Unusable(format!(
            "the log in {} is open already, in this process or another one: stop that one first",
            dir.display()
        ))),
        Err(TryLockError::Error(source)) => Err(source).context("locking", &path),
    }
}

fn read_meta(dir: &Path) -> Result<Option<Meta>, LogError> {
    let path = dir.join(META_FILE);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.context("reading", &path)?,
    };
    let unusable = |what: String| LogError::Unusable(format!("{}: {what}", path.display()));
    let meta: Meta = serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
    if meta.format != FORMAT_VERSION {
        return Err(unusable(format!("log format {}; this build knows format {FORMAT_VERSION}", meta.format)));
    }
    Ok(Some(meta))
}

fn write_meta(dir: &Path, meta: &Meta) -> Result<(), LogError> {
    let path = dir.join(META_FILE);
    let mut bytes = serde_json::to_vec_pretty(meta).map_err(io::Error::from).context("encoding", &path)?;
    bytes.push(b'\n');
    replace_file(&path, &bytes).context("writing", &path)?;
    // The log's own directory may be new as well.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent).context("syncing", parent)
}

/// Creates a partition that is not part of the log yet, over what an earlier attempt may have left.
fn create_partition(root: &Path, meta: &Meta, partition: u32) -> Result<(), LogError> {
    let dir = root.join(partition.to_string());
    fs::create_dir_all(&dir).context("creating", &dir)?;
    for entry in fs::read_dir(&dir).context("listing", &dir)? {
        let path = entry.context("listing", &dir)?.path();
        let length = path.metadata().context("reading", &path)?.len();
        if path.extension().is_some_and(|extension| extension == "seg") && length > SEGMENT_HEADER_BYTES as u64 {
            return Err(LogError::Unusable(format!(
                "{} holds records, yet {META_FILE} does not know partition {partition}: restore {META_FILE}, or move \
                 the directory away",
                path.display()
            )));
        }
        fs::remove_file(&path).context("removing", &path)?;
    }
    let header = SegmentHeader { log: meta.id, partition, first: 0, base_time: i64::MIN };
    create_segment(&dir, &header).context("creating a segment in", &dir)?;
    sync_dir(root).context("syncing", root)
}

/// Brings a partition back to the state of its last whole frame.
fn recover(root: &Path, log: LogId, partition: u32) -> Result<Recovered, LogError> {
    let dir = root.join(partition.to_string());
    let damaged = |offset, detail| LogError::Damaged { partition, offset, detail };
    let firsts = list(&dir)?;
    let Some((&last, sealed)) = firsts.split_last() else {
        return Err(damaged(0, format!("there is no segment in {}", dir.display())));
    };
    let mut segments: Vec<(u64, Index)> = Vec::with_capacity(firsts.len());
    let follows = |segments: &[(u64, Index)], first: u64| match segments.last() {
        Some((_, previous)) if previous.end != first => {
            Err(damaged(previous.end, format!("no segment has the offsets {} to {}", previous.end, first - 1)))
        }
        _ => Ok(()),
    };
    let partition = PartitionFiles { dir: &dir, log, number: partition };
    for &first in sealed {
        follows(&segments, first)?;
        segments.push((first, partition.sealed(first)?));
    }
    follows(&segments, last)?;
    let base_time = segments.last().map_or(i64::MIN, |(_, previous)| previous.last_time);
    let (index, active, torn_bytes) = partition.active(last, base_time)?;
    segments.push((last, index));
    let seed = partition.seed();
    Ok(Recovered { dir, seed, segments, active, torn_bytes })
}

/// First offsets of the segments in `dir`, in order. Index files of segments that are gone are removed.
fn list(dir: &Path) -> Result<Vec<u64>, LogError> {
    let (mut segments, mut indexes) = (BTreeSet::new(), Vec::new());
    for entry in fs::read_dir(dir).context("listing", dir)? {
        let name = entry.context("listing", dir)?.file_name();
        let Some((stem, extension)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        let Some(first) = first_offset(stem) else { continue };
        match extension {
            "seg" => drop(segments.insert(first)),
            "idx" => indexes.push(first),
            _ => {}
        }
    }
    for first in indexes.into_iter().filter(|first| !segments.contains(first)) {
        let path = index_path(dir, first);
        fs::remove_file(&path).context("removing", &path)?;
    }
    Ok(segments.into_iter().collect())
}

/// The offset in the name of a segment or index.
fn first_offset(stem: &str) -> Option<u64> {
    (stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit())).then(|| stem.parse().ok()).flatten()
}

struct PartitionFiles<'a> {
    dir: &'a Path,
    log: LogId,
    number: u32,
}

impl PartitionFiles<'_> {
    fn seed(&self) -> u64 {
        frame_seed(self.log, self.number)
    }

    /// What the segment's index file knows of it, if there is a good one.
    fn stored_index(&self, first: u64) -> Option<Index> {
        let path = index_path(self.dir, first);
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "can't read an index file; the segment is read instead");
                None
            }
            Ok(bytes) => Index::decode(&bytes, self.log, self.number, first)
                .inspect_err(|error| {
                    tracing::warn!(file = %path.display(), what = error.0, "bad index file; the segment is read instead");
                })
                .ok(),
        }
    }

    /// The index to begin a scan with: what the index file says, else that of an empty segment.
    fn start(&self, source: &Source<'_>, first: u64, stored: Option<Index>) -> Result<Index, LogError> {
        match stored {
            Some(index) if index.length > source.length => {
                let what = format!("the file ends here; {} bytes of it were durable", index.length);
                Err(source.damaged(first, source.length, &what))
            }
            Some(index) => Ok(index),
            None => {
                let header = source.header(first)?;
                if (header.log, header.partition, header.first) != (self.log, self.number, first) {
                    let what = format!(
                        "the segment is that of offset {} of partition {} of log {}",
                        header.first, header.partition, header.log
                    );
                    return Err(source.damaged(first, 0, &what));
                }
                Ok(Index::empty(first, header.base_time))
            }
        }
    }

    /// The index of a segment that is not written any more. Reads the segment only if its index file does not cover it.
    fn sealed(&self, first: u64) -> Result<Index, LogError> {
        let path = segment_path(self.dir, first);
        let file = File::open(&path).context("opening", &path)?;
        let length = file.metadata().context("reading", &path)?.len();
        let source = Source { file: &file, path: &path, length, partition: self.number, seed: self.seed() };
        let start = self.start(&source, first, self.stored_index(first))?;
        if start.length == length {
            return Ok(start);
        }
        let scanned = source.scan(start)?;
        if scanned.torn_bytes > 0 {
            let what = format!("{} bytes are no whole frame, in a segment that was complete", scanned.torn_bytes);
            return Err(source.damaged(scanned.index.end, scanned.index.length, &what));
        }
        write_index(self.dir, &scanned.index, self.log, self.number, first);
        Ok(scanned.index)
    }

    /// The segment that is written on: cut back to its last whole frame, every byte of it durable.
    fn active(&self, first: u64, base_time: i64) -> Result<(Index, File, u64), LogError> {
        let path = segment_path(self.dir, first);
        let file = OpenOptions::new().read(true).write(true).open(&path).context("opening", &path)?;
        let length = file.metadata().context("reading", &path)?.len();
        let source = Source { file: &file, path: &path, length, partition: self.number, seed: self.seed() };
        let stored = self.stored_index(first);
        // A frame is written only after the header is durable, so that a short file without one never had a record.
        if stored.is_none() && length <= SEGMENT_HEADER_BYTES as u64 && source.header(first).is_err() {
            let header = SegmentHeader { log: self.log, partition: self.number, first, base_time };
            let file = create_segment(self.dir, &header).context("creating a segment in", self.dir)?;
            tracing::warn!(file = %path.display(), bytes = length, "the last segment had no whole header; begun anew");
            return Ok((Index::empty(first, base_time), file, length));
        }
        let scanned = source.scan(self.start(&source, first, stored)?)?;
        if scanned.torn_bytes > 0 {
            tracing::warn!(
                partition = self.number,
                next_offset = scanned.index.end,
                bytes = scanned.torn_bytes,
                "cut off the end of the log: a write that had not come to its end and was not acknowledged"
            );
            file.set_len(scanned.index.length).context("truncating", &path)?;
        }
        // What was read may be in memory only. After a failed fsync the kernel even takes such pages for clean, so that
        // another fsync alone would not write them: the one frame that this can be true of is written again.
        if let Some((position, frame)) = &scanned.last_frame {
            file.write_all_at(frame, *position).context("writing", &path)?;
        }
        file.sync_all().context("syncing", &path)?;
        sync_dir(self.dir).context("syncing", self.dir)?;
        Ok((scanned.index, file, scanned.torn_bytes))
    }
}

/// Keeps an index in its file. Only a shortcut for the next start, hence no error: without it the segment is read.
pub(super) fn write_index(dir: &Path, index: &Index, log: LogId, partition: u32, first: u64) {
    let path = index_path(dir, first);
    if let Err(error) = fs::write(&path, index.encode(log, partition)) {
        tracing::warn!(file = %path.display(), %error, "can't write an index file; the next start takes longer");
    }
}
