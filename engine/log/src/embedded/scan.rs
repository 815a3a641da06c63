//! Reads a segment frame by frame and decides what a frame that is not whole means: the tail of a write that a crash
//! tore, or damage.

use std::fs::File;
use std::path::Path;

use bytes::{Buf, Bytes};

use super::files::{Context, read_at};
use super::format::{
    FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, Malformed, SEGMENT_HEADER_BYTES, SegmentHeader, Step, Walk,
    check_body,
};
use super::index::{Index, Place};
use crate::LogError;

/// How much is read at once in search of a later frame.
const SEARCH_BYTES: usize = 1024 * 1024;

/// A segment file to scan.
pub(super) struct Source<'a> {
    pub file: &'a File,
    pub path: &'a Path,
    pub length: u64,
    pub partition: u32,
    pub seed: u64,
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub index: Index,
    /// Bytes after the last whole frame: a write that did not come to its end.
    pub torn_bytes: u64,
    /// The last whole frame and where it begins, if the scan came by one.
    pub last_frame: Option<(u64, Bytes)>,
}

impl Source<'_> {
    /// The segment's header.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if it is not whole; it names `first`, the offset that the file's name says.
    pub fn header(&self, first: u64) -> Result<SegmentHeader, LogError> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        if self.length < SEGMENT_HEADER_BYTES as u64 {
            return Err(self.damaged(first, 0, "the segment header is cut short"));
        }
        bytes.copy_from_slice(&read_at(self.file, 0, SEGMENT_HEADER_BYTES).context("reading", self.path)?);
        SegmentHeader::decode(&bytes).map_err(|Malformed(what)| self.damaged(first, 0, &what))
    }

    /// Takes in every whole frame after `index`, which knows the segment up to `index.length`.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when a whole frame follows one that is not: each frame was durable before the next one was
    /// written, so no crash explains that.
    pub fn scan(&self, mut index: Index) -> Result<Scanned, LogError> {
        let mut last_frame = None;
        while index.length < self.length {
            let position = index.length;
            match self.frame(&mut index)? {
                Ok(bytes) => last_frame = Some((position, bytes)),
                Err(Malformed(what)) => {
                    if let Some((at, first)) = self.later_frame(position, index.end)? {
                        let detail = format!("{what}; yet a later frame, of offset {first}, begins at byte {at}");
                        return Err(self.damaged(index.end, position, &detail));
                    }
                    return Ok(Scanned { index, torn_bytes: self.length - position, last_frame });
                }
            }
        }
        Ok(Scanned { index, torn_bytes: 0, last_frame })
    }

    /// Reads the frame at the end of what `index` knows and adds it.
    fn frame(&self, index: &mut Index) -> Result<Result<Bytes, Malformed>, LogError> {
        let (position, first) = (index.length, index.end);
        let left = self.length - position;
        let head_bytes = left.min(FRAME_HEADER_BYTES as u64) as usize;
        let head = read_at(self.file, position, head_bytes).context("reading", self.path)?;
        let header = match FrameHeader::decode(&head, self.seed) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        let frame_bytes = FRAME_HEADER_BYTES as u64 + u64::from(header.body_bytes);
        if header.first != first || header.count == 0 {
            let what = format!("a frame of {} records from offset {} on", header.count, header.first);
            return Ok(Err(Malformed(what)));
        }
        if frame_bytes > left {
            return Ok(Err(Malformed(format!("{left} bytes of a frame of {frame_bytes}"))));
        }
        let bytes = Bytes::from(read_at(self.file, position, frame_bytes as usize).context("reading", self.path)?);
        // A frame counts whole or not at all, so its places are noted only after its last record was checked.
        let places = match check_frame(&header, &bytes, self.seed) {
            Ok(places) => places,
            Err(error) => return Ok(Err(error)),
        };
        for (offset, at) in places {
            index.note(Place { offset, position: position + at }, header.appended_at);
        }
        index.extend(first + u64::from(header.count), position + frame_bytes, header.appended_at);
        Ok(Ok(bytes))
    }

    /// Looks past `position` for the header of a frame that begins after the record `offset`.
    fn later_frame(&self, position: u64, offset: u64) -> Result<Option<(u64, u64)>, LogError> {
        let mut from = position + 1;
        while from + FRAME_HEADER_BYTES as u64 <= self.length {
            let length = (self.length - from).min(SEARCH_BYTES as u64) as usize;
            let bytes = read_at(self.file, from, length).context("reading", self.path)?;
            for at in 0..=length - FRAME_HEADER_BYTES {
                if (&bytes[at..]).get_u32_le() != FRAME_MAGIC {
                    continue;
                }
                // A payload may hold bytes of this very log, but only of frames that came before it.
                match FrameHeader::decode(&bytes[at..], self.seed) {
                    Ok(header) if header.first > offset => return Ok(Some((from + at as u64, header.first))),
                    _ => {}
                }
            }
            from += (length - FRAME_HEADER_BYTES + 1) as u64;
        }
        Ok(None)
    }

    pub fn damaged(&self, offset: u64, position: u64, what: &str) -> LogError {
        let detail = format!("{}, byte {position}: {what}", self.path.display());
        LogError::Damaged { partition: self.partition, offset, detail }
    }
}

/// Checks every byte of a frame; returns offset and place of each record.
fn check_frame(header: &FrameHeader, bytes: &Bytes, seed: u64) -> Result<Vec<(u64, u64)>, Malformed> {
    check_body(header, &bytes[FRAME_HEADER_BYTES..])?;
    let mut walk = Walk::new(bytes, 0, header.first, seed);
    let mut places = Vec::with_capacity(header.count as usize);
    while let Step::Record(found) = walk.step()? {
        places.push((found.offset, found.at as u64));
    }
    if walk.position() != bytes.len() || places.len() != header.count as usize {
        return Err(Malformed(format!("a frame of {} records holds {}", header.count, places.len())));
    }
    Ok(places)
}
