//! Records as messages.
//!
//! Payload and id are the message's own. Beside them stand user headers, of which Iggy takes values of 255 bytes at the
//! most and 100,000 bytes together:
//!
//! | key | value |
//! |---|---|
//! | `millrace-receipt` | the first 255 bytes of the [receipt](millrace_log::Receipt) |
//! | `mr1`, `mr2` … | what follows, 255 bytes each |
//! | `millrace-id` | 16 bytes, little endian: the record's id, where that is 0, which Iggy replaces by one of its own |
//!
//! Keys are of kind string, values of kind raw. Other headers are passed over.

use bytes::{BufMut as _, Bytes, BytesMut};
use iggy::prelude::{IggyMessage, IggyMessageHeader, IggyTimestamp};
use millrace_log::{NewRecord, Receipt, Record};
use xxhash_rust::xxh3::Xxh3;

/// Longest value of a header.
const VALUE_MAX: usize = 255;
const KIND_RAW: u8 = 1;
const KIND_STRING: u8 = 2;
const CONTINUATION: &str = "mr";
const ID: &str = "millrace-id";

/// A record as a message to send. Its wire id is never 0.
pub fn encode(record: &NewRecord) -> IggyMessage {
    let mut headers = BytesMut::new();
    if let Some(receipt) = &record.receipt {
        let mut bytes = Vec::with_capacity(receipt.encoded_len());
        receipt.encode(&mut bytes);
        for (number, part) in bytes.chunks(VALUE_MAX).enumerate() {
            match number {
                0 => header(&mut headers, Receipt::HEADER, part),
                _ => header(&mut headers, &format!("{CONTINUATION}{number}"), part),
            }
        }
    }
    let mut id = record.id;
    if id == 0 {
        header(&mut headers, ID, &0_u128.to_le_bytes());
        id = uuid::Uuid::new_v4().as_u128();
    }
    IggyMessage {
        header: IggyMessageHeader {
            id,
            origin_timestamp: IggyTimestamp::now().as_micros(),
            // Both are bounded well below by what an append may hold.
            user_headers_length: headers.len() as u32,
            payload_length: record.payload.len() as u32,
            ..IggyMessageHeader::default()
        },
        payload: record.payload.clone(),
        user_headers: (!headers.is_empty()).then(|| headers.freeze()),
    }
}

fn header(out: &mut BytesMut, key: &str, value: &[u8]) {
    // Keys are ours and short, values at most VALUE_MAX long.
    out.put_u8(KIND_STRING);
    out.put_u32_le(key.len() as u32);
    out.put_slice(key.as_bytes());
    out.put_u8(KIND_RAW);
    out.put_u32_le(value.len() as u32);
    out.put_slice(value);
}

/// A message as a record, and whether it has a receipt that could not be read.
pub fn decode(message: IggyMessage) -> (Record, bool) {
    let IggyMessage { header, payload, user_headers } = message;
    let headers = user_headers.unwrap_or_default();
    let mut hash = Xxh3::new();
    hash.update(&header.id.to_le_bytes());
    hash.update(&(headers.len() as u64).to_le_bytes());
    hash.update(&headers);
    hash.update(&payload);
    let read = Headers::read(&headers);
    let (receipt, unreadable) = match read.receipt {
        None => (None, false),
        Some(bytes) => match Receipt::decode(&bytes) {
            Ok(receipt) => (Some(receipt), false),
            Err(_) => (None, true),
        },
    };
    let record = Record {
        offset: header.offset,
        id: read.id.unwrap_or(header.id),
        appended_at_us: i64::try_from(header.timestamp).unwrap_or(i64::MAX),
        // Ours, not the server's: it is the same whatever version serves the message.
        checksum: hash.digest(),
        receipt,
        payload,
    };
    (record, unreadable)
}

#[derive(Default)]
struct Headers {
    receipt: Option<Bytes>,
    id: Option<u128>,
}

impl Headers {
    /// Reads what is ours, and stops where the bytes are no headers.
    fn read(bytes: &Bytes) -> Self {
        let mut headers = Self::default();
        let mut parts: Vec<(usize, Bytes)> = Vec::new();
        let mut at = 0;
        while let Some((key, after)) = field(bytes, at) {
            let Some((value, next)) = field(bytes, after) else { break };
            at = next;
            match std::str::from_utf8(&key) {
                Ok(Receipt::HEADER) => parts.push((0, value)),
                Ok(ID) => headers.id = value.as_ref().try_into().ok().map(u128::from_le_bytes),
                Ok(key) => {
                    let number = key.strip_prefix(CONTINUATION).and_then(|number| number.parse().ok());
                    parts.extend(number.map(|number| (number, value)));
                }
                Err(_) => {}
            }
        }
        // Clients that keep headers in a map send them in another order.
        parts.sort_by_key(|(number, _)| *number);
        if parts.first().is_some_and(|(number, _)| *number == 0) {
            headers.receipt = Some(match parts.as_slice() {
                [(_, only)] => only.clone(),
                several => several.iter().flat_map(|(_, part)| part.iter().copied()).collect::<Vec<_>>().into(),
            });
        }
        headers
    }
}

/// A field at `at`: kind, length, bytes; and where the next one begins.
fn field(bytes: &Bytes, at: usize) -> Option<(Bytes, usize)> {
    let length = bytes.get(at + 1..at + 5)?;
    let start = at + 5;
    let end = start.checked_add(u32::from_le_bytes(length.try_into().ok()?) as usize)?;
    (end <= bytes.len()).then(|| (bytes.slice(start..end), end))
}

#[cfg(test)]
mod tests {
    use millrace_log::RECEIPT_BYTES_MAX;

    use super::*;

    fn round(record: NewRecord) -> (Record, bool) {
        decode(encode(&record))
    }

    fn record(id: u128, receipt: Option<Receipt>) -> NewRecord {
        NewRecord { id, receipt, payload: Bytes::from_static(b"{}") }
    }

    #[test]
    fn receipts_of_every_size_come_back() {
        for size in [0, 1, 200, 230, 231, 232, 500, 5_000, RECEIPT_BYTES_MAX - 14] {
            let receipt =
                Receipt { received_at_us: 7, batch_context: Some(vec![b'x'; size].into()), ..Receipt::default() };
            let sent = record(u128::MAX, Some(receipt));
            let (stored, unreadable) = round(sent.clone());
            assert_eq!((stored.id, &stored.receipt, unreadable), (sent.id, &sent.receipt, false), "{size}");
            let headers = encode(&sent).user_headers.unwrap();
            assert!(headers.len() <= iggy::prelude::MAX_USER_HEADERS_SIZE as usize, "{} bytes", headers.len());
        }
    }

    #[test]
    fn an_id_of_zero_comes_back_and_never_goes_on_the_wire() {
        let sent = record(0, None);
        assert_ne!(encode(&sent).header.id, 0);
        assert_eq!(round(sent).0.id, 0);
        assert!(encode(&record(1, None)).user_headers.is_none());
    }

    #[test]
    fn foreign_headers_and_broken_receipts_are_no_receipt() {
        let mut headers = BytesMut::new();
        header(&mut headers, "trace", b"abc");
        header(&mut headers, "mr1", b"of somebody else");
        let message = |headers: BytesMut| IggyMessage {
            payload: Bytes::from_static(b"x"),
            user_headers: Some(headers.freeze()),
            ..IggyMessage::default()
        };
        let (stored, unreadable) = decode(message(headers.clone()));
        assert_eq!((stored.receipt, unreadable), (None, false));
        header(&mut headers, Receipt::HEADER, &[9, 9, 9]);
        let (stored, unreadable) = decode(message(headers));
        assert_eq!((stored.receipt, unreadable), (None, true));
        for garbage in [&b"\x02"[..], b"\x02\xff\xff\xff\xff", b"\x02\x01\0\0\0a", b"\x02\x01\0\0\0a\x01\x05\0\0\0b"] {
            assert_eq!(decode(message(BytesMut::from(garbage))).0.receipt, None);
        }
    }

    #[test]
    fn the_checksum_tells_id_headers_and_payload_apart() {
        let checksum = |record: NewRecord| round(record).0.checksum;
        let all = [
            checksum(record(1, None)),
            checksum(record(2, None)),
            checksum(record(1, Some(Receipt::default()))),
            checksum(NewRecord { payload: Bytes::from_static(b"{ }"), ..record(1, None) }),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one));
        }
        assert_eq!(all[0], checksum(record(1, None)));
    }
}
