//! What corrections are called.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use uuid::Uuid;

/// A staged correction's name, `staged-` and eight hexadecimal digits. It has no number before it is published: whoever
/// approves it names what was looked at, and nothing that comes later is called the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedId(u32);

const PREFIX: &str = "staged-";

impl StagedId {
    /// A new name.
    pub(crate) fn new() -> Self {
        Self(Uuid::new_v4().as_fields().0)
    }
}

impl fmt::Display for StagedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:08x}", self.0)
    }
}

/// A correction: by the number of its first revision, or while it is staged by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorrectionId {
    /// It is in force.
    Published(u64),
    /// It is not.
    Staged(StagedId),
}

impl fmt::Display for CorrectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published(number) => number.fmt(f),
            Self::Staged(id) => id.fmt(f),
        }
    }
}

impl FromStr for CorrectionId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = match text.strip_prefix(PREFIX) {
            Some(digits) if digits.len() == 8 => u32::from_str_radix(digits, 16).ok().map(StagedId).map(Self::Staged),
            Some(_) => None,
            None => text.parse().ok().map(Self::Published),
        };
        let id = id.filter(|id| id.to_string() == text);
        id.ok_or_else(|| format!("{text:?} is no correction: it is a number, or staged-… while it is staged"))
    }
}

impl Serialize for CorrectionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Published(number) => serializer.serialize_u64(*number),
            Self::Staged(id) => serializer.collect_str(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is() {
        for id in
            [CorrectionId::Published(17), CorrectionId::Staged(StagedId(0x1f)), CorrectionId::Staged(StagedId::new())]
        {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(serde_json::to_string(&CorrectionId::Published(4)).unwrap(), "4");
        assert_eq!(serde_json::to_string(&CorrectionId::Staged(StagedId(0x1f))).unwrap(), "\"staged-0000001f\"");
        for other in ["", "abc", "-1", "+1", "01", "1.0", "staged-", "staged-1", "staged-0000001F", "staged-+000001f"] {
            assert!(other.parse::<CorrectionId>().is_err(), "{other:?}");
        }
    }
}
