//! The opaque cursor of a device's pages: where the page before ended.
//!
//! ```text
//! hexadecimal of: u8 version = 1, u64 LE hash of the device, i64 LE event_time, u32 LE partition, u64 LE offset,
//!                 u32 LE sub, u32 LE hash of all before
//! ```
//! The hashes guard against mistakes, not against forgery: a cursor gives nothing that its device's name would not.

use millrace_rows::canonical::hash;

use crate::keys::RowKey;
use crate::reader::ReadError;

const VERSION: u8 = 1;
const BODY_BYTES: usize = 1 + 8 + 8 + 4 + 8 + 4;
const CURSOR_BYTES: usize = BODY_BYTES + 4;

/// The cursor behind a row.
pub(crate) fn encode(row: &RowKey) -> String {
    let mut out = Vec::with_capacity(CURSOR_BYTES);
    out.push(VERSION);
    out.extend_from_slice(&device_hash(&row.device_id));
    out.extend_from_slice(&row.event_time_us.to_le_bytes());
    out.extend_from_slice(&row.partition.to_le_bytes());
    out.extend_from_slice(&row.offset.to_le_bytes());
    out.extend_from_slice(&row.sub.to_le_bytes());
    let check = check(&out);
    out.extend_from_slice(&check);
    out.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The row that a page of `device_id` goes on behind.
pub(crate) fn decode(device_id: &str, cursor: &str) -> Result<RowKey, ReadError> {
    let bad = || ReadError::BadCursor("it is not one that a page returned; start without a cursor".to_owned());
    let bytes = unhex(cursor).ok_or_else(bad)?;
    let (body, found) = bytes.split_at_checked(BODY_BYTES).ok_or_else(bad)?;
    if found != check(body) || body[0] != VERSION {
        return Err(bad());
    }
    let mut at = 1;
    if field::<8>(body, &mut at) != device_hash(device_id) {
        return Err(ReadError::BadCursor("it belongs to another device".to_owned()));
    }
    Ok(RowKey {
        device_id: device_id.to_owned(),
        event_time_us: i64::from_le_bytes(field(body, &mut at)),
        partition: u32::from_le_bytes(field(body, &mut at)),
        offset: u64::from_le_bytes(field(body, &mut at)),
        sub: u32::from_le_bytes(field(body, &mut at)),
    })
}

/// The next `N` bytes of a body, whose length was checked.
fn field<const N: usize>(body: &[u8], at: &mut usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&body[*at..*at + N]);
    *at += N;
    out
}

fn device_hash(device_id: &str) -> [u8; 8] {
    (hash(device_id.as_bytes()) as u64).to_le_bytes()
}

fn check(body: &[u8]) -> [u8; 4] {
    (hash(body) as u32).to_le_bytes()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * CURSOR_BYTES {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_round_trips_for_its_device_only(device_id in ".{0,20}", other in ".{0,20}", time in 0..i64::MAX, partition in any::<u32>(), offset in any::<u64>(), sub in any::<u32>()) {
            let row = RowKey { device_id, event_time_us: time, partition, offset, sub };
            let cursor = encode(&row);
            if other != row.device_id {
                match decode(&other, &cursor) {
                    Err(ReadError::BadCursor(detail)) => prop_assert!(detail.contains("another device")),
                    unexpected => prop_assert!(false, "{:?}", unexpected),
                }
            }
            prop_assert_eq!(decode(&row.device_id, &cursor).unwrap(), row);
        }

        #[test]
        fn a_changed_cursor_is_refused(at in 0..2 * CURSOR_BYTES, digit in "[0-9a-f]") {
            let row = RowKey { device_id: "d".into(), event_time_us: 5, partition: 1, offset: 2, sub: 3 };
            let mut cursor = encode(&row);
            let same = cursor[at..=at] == digit;
            cursor.replace_range(at..=at, &digit);
            prop_assert_eq!(decode("d", &cursor).is_ok(), same);
        }

        #[test]
        fn anything_else_is_refused(text in ".*") {
            prop_assert!(matches!(decode("d", &text), Err(ReadError::BadCursor(_))));
        }
    }
}
