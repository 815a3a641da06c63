//! The small values.
//!
//! ```text
//! cursor       u8 version = 1, 16 bytes log identity, u64 LE next, i64 LE mark
//! applied      u8 version = 1, u64 LE revision, u32 LE number of partitions that have a cursor
//! job          u8 version = 1, then JSON of millrace_rows::Job
//! dead letter  u8 version = 1, u64 LE revision, step, code: each a varint length and UTF-8 bytes
//! ```
//! Partition and offset of a dead letter stand in its key. A reader that meets another version says so.

use bytes::Bytes;
use millrace_rows::varint::{Reader, push_text};
use millrace_rows::{Cursor, DeadLetter, Job, LogId, Mark};

const VERSION: u8 = 1;

/// A value that this build can't read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// Written by another version of this format.
    #[error("{what}: format version {found} is not known to this build (it reads version {VERSION})")]
    Version {
        /// Which value.
        what: &'static str,
        /// Its version byte.
        found: u8,
    },
    /// Cut short or damaged.
    #[error("{0} is damaged")]
    Damaged(&'static str),
}

/// Gives the bytes behind the version byte.
pub(crate) fn body<'a>(what: &'static str, value: &'a [u8]) -> Result<Reader<'a>, CodecError> {
    match value {
        [VERSION, body @ ..] => Ok(Reader(body)),
        [found, ..] => Err(CodecError::Version { what, found: *found }),
        [] => Err(CodecError::Damaged(what)),
    }
}

/// What a reader made of a value, if nothing is left over.
fn whole<T>(what: &'static str, reader: &Reader<'_>, read: Option<T>) -> Result<T, CodecError> {
    read.filter(|_| reader.0.is_empty()).ok_or(CodecError::Damaged(what))
}

/// The cursor of one partition.
pub fn encode_cursor(cursor: &Cursor) -> Bytes {
    let mut out = Vec::with_capacity(33);
    out.push(VERSION);
    out.extend_from_slice(&cursor.log.0);
    out.extend_from_slice(&cursor.next.to_le_bytes());
    out.extend_from_slice(&cursor.mark.to_stored().to_le_bytes());
    out.into()
}

/// Reads a cursor back.
///
/// # Errors
/// [`CodecError`] on bytes that this format did not write.
pub fn decode_cursor(value: &[u8]) -> Result<Cursor, CodecError> {
    let mut reader = body("a cursor", value)?;
    let mut read = || {
        let log = LogId(reader.array()?);
        let next = u64::from_le_bytes(reader.array()?);
        Some(Cursor { log, next, mark: Mark::from_stored(i64::from_le_bytes(reader.array()?)) })
    };
    let cursor = read();
    whole("a cursor", &reader, cursor)
}

/// The highest revision taken in, and how many partitions have a cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The revision; 0 in a store that has taken in none.
    pub revision: u64,
    /// Partitions that were ever consumed.
    pub partitions: u32,
}

impl Applied {
    /// The value as it is stored.
    pub fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(13);
        out.push(VERSION);
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&self.partitions.to_le_bytes());
        out.into()
    }

    /// Reads the value back.
    ///
    /// # Errors
    /// [`CodecError`] on bytes that this format did not write.
    pub fn decode(value: &[u8]) -> Result<Self, CodecError> {
        let mut reader = body("the applied revision", value)?;
        let mut read = || {
            Some(Self {
                revision: u64::from_le_bytes(reader.array()?),
                partitions: u32::from_le_bytes(reader.array()?),
            })
        };
        let applied = read();
        whole("the applied revision", &reader, applied)
    }
}

/// A job.
///
/// # Errors
/// When it can't be written as JSON: no job that exists.
pub fn encode_job(job: &Job) -> Result<Bytes, serde_json::Error> {
    let mut out = vec![VERSION];
    serde_json::to_writer(&mut out, job)?;
    Ok(out.into())
}

/// Reads a job back.
///
/// # Errors
/// [`CodecError`] on bytes that this format did not write.
pub fn decode_job(value: &[u8]) -> Result<Job, CodecError> {
    let reader = body("a job", value)?;
    serde_json::from_slice(reader.0).map_err(|_| CodecError::Damaged("a job"))
}

/// Appends the value of a dead letter.
pub fn push_dead(out: &mut Vec<u8>, dead: &DeadLetter) {
    out.push(VERSION);
    out.extend_from_slice(&dead.revision.to_le_bytes());
    push_text(out, &dead.step);
    push_text(out, &dead.code);
}

/// Reads the dead letter of the record at `offset` back.
///
/// # Errors
/// [`CodecError`] on bytes that this format did not write.
pub fn decode_dead(offset: u64, value: &[u8]) -> Result<DeadLetter, CodecError> {
    let mut reader = body("a dead letter", value)?;
    let mut read = || {
        let revision = u64::from_le_bytes(reader.array()?);
        let step = reader.text()?.to_owned();
        Some(DeadLetter { offset, revision, step, code: reader.text()?.to_owned() })
    };
    let dead = read();
    whole("a dead letter", &reader, dead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_pinned() {
        let cursor = Cursor { log: LogId([9; 16]), next: 258, mark: Mark::from_stored(5) };
        let mut expected = vec![1];
        expected.extend([9; 16]);
        expected.extend([2, 1, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode_cursor(&cursor), expected);
        assert_eq!(Applied { revision: 3, partitions: 2 }.encode(), &[1, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0][..]);
        let job = Job { revision: 3, below: [(0, 7)].into() };
        assert_eq!(encode_job(&job).unwrap(), &b"\x01{\"revision\":3,\"below\":{\"0\":7}}"[..]);
        let mut out = Vec::new();
        push_dead(&mut out, &DeadLetter { offset: 1, revision: 2, step: "check".into(), code: "x".into() });
        assert_eq!(out, b"\x01\x02\0\0\0\0\0\0\0\x05check\x01x");
    }

    #[test]
    fn another_version_is_named() {
        let expected = |what| CodecError::Version { what, found: 9 };
        assert_eq!(decode_cursor(&[9, 1]), Err(expected("a cursor")));
        assert_eq!(Applied::decode(&[9]), Err(expected("the applied revision")));
        assert_eq!(decode_job(&[9]), Err(expected("a job")));
        assert_eq!(decode_dead(0, &[9]), Err(expected("a dead letter")));
    }

    proptest! {
        #[test]
        fn values_round_trip(log in any::<[u8; 16]>(), next in any::<u64>(), mark in 0..i64::MAX, n in any::<u32>(), step in ".*", code in ".*", below in proptest::collection::btree_map(any::<u32>(), any::<u64>(), 0..5)) {
            let cursor = Cursor { log: LogId(log), next, mark: Mark::from_stored(mark) };
            prop_assert_eq!(decode_cursor(&encode_cursor(&cursor)), Ok(cursor));
            let applied = Applied { revision: next, partitions: n };
            prop_assert_eq!(Applied::decode(&applied.encode()), Ok(applied));
            let job = Job { revision: next, below };
            prop_assert_eq!(decode_job(&encode_job(&job).unwrap()), Ok(job));
            let dead = DeadLetter { offset: next, revision: next, step, code };
            let mut out = Vec::new();
            push_dead(&mut out, &dead);
            prop_assert_eq!(decode_dead(next, &out), Ok(dead));
        }

        #[test]
        fn what_is_cut_or_longer_is_damaged(next in any::<u64>(), cut in 1..33_usize) {
            let value = encode_cursor(&Cursor::start(LogId([1; 16]), next));
            prop_assert_eq!(decode_cursor(&value[..cut]), Err(CodecError::Damaged("a cursor")));
            prop_assert_eq!(decode_cursor(&[&value, &b"x"[..]].concat()), Err(CodecError::Damaged("a cursor")));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let versioned = [&[VERSION], &bytes[..]].concat();
            let _ = (decode_cursor(&versioned), Applied::decode(&versioned), decode_job(&versioned), decode_dead(0, &versioned));
        }
    }
}
