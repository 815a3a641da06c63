//! What the ingest tier knows of an event beside its bytes. It travels in one record header ([`Receipt::HEADER`]) on
//! either log.
//!
//! ```text
//! version      u8 = 1
//! received_at  i64 LE, µs since 1970 UTC
//! then fields that are present, each: tag u8, length u32 LE, bytes
//!   1 type   2 message_id   3 sent_at (i64 LE)   4 batch_context   5 app   6 client_ip
//! ```
//! Tags that a reader does not know are skipped, so that a field can be added without a new version.

use bytes::{BufMut, Bytes};

/// What the ingest tier adds to an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// When the ingest tier received the event, µs since 1970 UTC.
    pub received_at_us: i64,
    /// The type that the endpoint implies (`track`, `page` …).
    pub kind: Option<String>,
    /// Id that the ingest tier gave an event that came without one.
    pub message_id: Option<String>,
    /// `sentAt` of the batch around the event, µs since 1970 UTC.
    pub sent_at_us: Option<i64>,
    /// The batch's own `context` as JSON bytes: a default for events without one.
    pub batch_context: Option<Bytes>,
    /// App that the write key or token stands for.
    pub app: Option<String>,
    /// Address that the event came from.
    pub client_ip: Option<String>,
}

/// Bytes that are no receipt.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReceiptError {
    /// Written by a later version.
    #[error("receipt version {0} is not known to this build")]
    Version(u8),
    /// Cut short or damaged.
    #[error("receipt is damaged")]
    Damaged,
}

impl Receipt {
    /// Name of the record header that carries a receipt.
    pub const HEADER: &'static str = "millrace-receipt";
    const VERSION: u8 = 1;

    /// Appends the byte form to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(Self::VERSION);
        out.put_i64_le(self.received_at_us);
        let mut field = |tag: u8, bytes: Option<&[u8]>| {
            if let Some(bytes) = bytes {
                out.put_u8(tag);
                // Fields come from requests of a few MiB at the most.
                out.put_u32_le(bytes.len() as u32);
                out.put_slice(bytes);
            }
        };
        field(1, self.kind.as_deref().map(str::as_bytes));
        field(2, self.message_id.as_deref().map(str::as_bytes));
        field(3, self.sent_at_us.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
        field(4, self.batch_context.as_deref());
        field(5, self.app.as_deref().map(str::as_bytes));
        field(6, self.client_ip.as_deref().map(str::as_bytes));
    }

    /// Length of the byte form.
    pub fn encoded_len(&self) -> usize {
        let texts = [&self.kind, &self.message_id, &self.app, &self.client_ip];
        let lengths = texts.into_iter().map(|text| text.as_ref().map(String::len));
        let others = [self.sent_at_us.map(|_| 8), self.batch_context.as_ref().map(Bytes::len)];
        9 + lengths.chain(others).flatten().map(|length| 5 + length).sum::<usize>()
    }

    /// Reads the byte form back.
    ///
    /// # Errors
    /// [`ReceiptError`] on anything that [`Receipt::encode`] did not write; never panics.
    pub fn decode(bytes: &Bytes) -> Result<Self, ReceiptError> {
        let version = *bytes.first().ok_or(ReceiptError::Damaged)?;
        if version != Self::VERSION {
            return Err(ReceiptError::Version(version));
        }
        let received_at = bytes.get(1..9).ok_or(ReceiptError::Damaged)?;
        let mut receipt = Self { received_at_us: le_i64(received_at)?, ..Self::default() };
        let mut at = 9;
        while at < bytes.len() {
            let head = bytes.get(at..at + 5).ok_or(ReceiptError::Damaged)?;
            let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let start = at + 5;
            let end = start.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(ReceiptError::Damaged)?;
            let value = &bytes[start..end];
            let text = || std::str::from_utf8(value).map(str::to_owned).map_err(|_| ReceiptError::Damaged);
            match head[0] {
                1 => receipt.kind = Some(text()?),
                2 => receipt.message_id = Some(text()?),
                3 => receipt.sent_at_us = Some(le_i64(value)?),
                4 => receipt.batch_context = Some(bytes.slice(start..end)),
                5 => receipt.app = Some(text()?),
                6 => receipt.client_ip = Some(text()?),
                _ => {}
            }
            at = end;
        }
        Ok(receipt)
    }
}

fn le_i64(bytes: &[u8]) -> Result<i64, ReceiptError> {
    bytes.try_into().map(i64::from_le_bytes).map_err(|_| ReceiptError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(received_at_us: i64, kind: Option<String>, message_id: Option<String>, sent_at_us: Option<i64>,
                      context: Option<Vec<u8>>, app: Option<String>, client_ip: Option<String>) {
            let receipt = Receipt {
                received_at_us, kind, message_id, sent_at_us, batch_context: context.map(Bytes::from), app, client_ip,
            };
            let mut bytes = Vec::new();
            receipt.encode(&mut bytes);
            prop_assert_eq!(receipt.encoded_len(), bytes.len());
            prop_assert_eq!(Receipt::decode(&Bytes::from(bytes)), Ok(receipt));
        }

        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Receipt::decode(&Bytes::from(bytes.clone()));
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            let _ = Receipt::decode(&Bytes::from(bytes));
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_unknown_versions_named() {
        let mut bytes = Vec::new();
        Receipt { received_at_us: 5, ..Receipt::default() }.encode(&mut bytes);
        bytes.extend_from_slice(&[99, 1, 0, 0, 0, b'x']);
        assert_eq!(Receipt::decode(&Bytes::from(bytes)).unwrap().received_at_us, 5);
        assert_eq!(Receipt::decode(&Bytes::from_static(&[2])), Err(ReceiptError::Version(2)));
    }
}
