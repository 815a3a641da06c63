//! Where a consumer stands in the log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Identity of a log. A log that is deleted and created again has another one, so that a cursor can't be applied to a
/// log it does not come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub [u8; 16]);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// A log identity that is not 32 hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a log identity is 32 hexadecimal digits, not {0:?}")]
pub struct LogIdParseError(String);

impl FromStr for LogId {
    type Err = LogIdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || LogIdParseError(text.to_owned());
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| error())
    }
}

impl Serialize for LogId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Fingerprint of one log record (its id and checksum) in 63 bits, so that it fits Delta's signed transaction markers.
///
/// A consumer keeps the mark of the last record it consumed and compares it with the log's record when it resumes. A
/// difference means that the log was truncated and its offsets used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark(u64);

impl Mark {
    /// The mark of a consumer that has consumed nothing.
    pub const NONE: Self = Self(0);

    /// The mark of the record with this id and checksum.
    pub fn of(record_id: u128, checksum: u64) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&record_id.to_be_bytes());
        hash.update(&checksum.to_be_bytes());
        Self(hash.digest() >> 1)
    }

    /// A mark as a store gave it back.
    pub fn from_stored(stored: i64) -> Self {
        Self(stored.unsigned_abs() & (u64::MAX >> 1))
    }

    /// The mark as stores keep it: never negative.
    pub fn to_stored(self) -> i64 {
        // Never wraps: a mark has 63 bits.
        self.0 as i64
    }
}

/// How far a store has consumed one log partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The log that `next` counts in.
    pub log: LogId,
    /// The first offset that is not yet consumed.
    pub next: u64,
    /// Fingerprint of the record at `next - 1`; [`Mark::NONE`] when `next` is where the consumer began.
    pub mark: Mark,
}

impl Cursor {
    /// A consumer of `log` that starts at `next` and has consumed nothing.
    pub fn start(log: LogId, next: u64) -> Self {
        Self { log, next, mark: Mark::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_id_round_trips_and_refuses_anything_else() {
        let id = LogId([0x0f; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "0f", "zz0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f", "+f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"] {
            assert!(bad.parse::<LogId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mark_survives_a_signed_store() {
        for (id, checksum) in [(0, 0), (u128::MAX, u64::MAX), (7, 1 << 63)] {
            let mark = Mark::of(id, checksum);
            assert!(mark.to_stored() >= 0);
            assert_eq!(Mark::from_stored(mark.to_stored()), mark);
        }
    }
}
