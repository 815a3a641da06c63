//! What a log takes in one append. The same on every implementation, so that what runs on one machine runs on a cluster.

use crate::{LogError, NewRecord, Receipt};

/// Largest payload that a log takes, in bytes. Larger than the largest event that decodes (256 KiB), so that what a raw
/// producer sent too large becomes a dead letter rather than a producer's puzzle.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Largest encoded receipt, in bytes: Iggy takes 100 kB of headers, cut into values of 255 bytes with a name each.
pub const RECEIPT_BYTES_MAX: usize = 88 * 1024;
/// What a record counts beside its payload and receipt, in bytes: at least what an implementation keeps with it.
pub const RECORD_OVERHEAD_BYTES: usize = 64;
/// Most bytes of one append: payloads, receipts and [`RECORD_OVERHEAD_BYTES`] for each record.
pub const APPEND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Checks what is to be appended against the limits and returns its bytes as they count against [`APPEND_BYTES_MAX`].
///
/// # Errors
/// [`LogError::Refused`], naming the record, when there is nothing to append or something is too large.
pub fn check_append(records: &[NewRecord]) -> Result<usize, LogError> {
    if records.is_empty() {
        return Err(LogError::Refused("an append without records".to_owned()));
    }
    let mut total = 0;
    for (index, record) in records.iter().enumerate() {
        let refuse = |why: String| Err(LogError::Refused(format!("record {index} of {}: {why}", records.len())));
        let payload = record.payload.len();
        if payload == 0 {
            return refuse("the payload is empty".to_owned());
        }
        if payload > PAYLOAD_BYTES_MAX {
            return refuse(format!("the payload has {payload} bytes, the most is {PAYLOAD_BYTES_MAX}"));
        }
        let receipt = record.receipt.as_ref().map_or(0, Receipt::encoded_len);
        if receipt > RECEIPT_BYTES_MAX {
            return refuse(format!("the receipt has {receipt} bytes, the most is {RECEIPT_BYTES_MAX}"));
        }
        total += RECORD_OVERHEAD_BYTES + payload + receipt;
    }
    if total > APPEND_BYTES_MAX {
        return Err(LogError::Refused(format!(
            "{} records have {total} bytes together, the most is {APPEND_BYTES_MAX}: append them in several calls",
            records.len()
        )));
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(payload: usize, context: Option<usize>) -> NewRecord {
        let receipt = context
            .map(|length| Receipt { batch_context: Some(Bytes::from(vec![b' '; length])), ..Receipt::default() });
        NewRecord { id: 1, receipt, payload: Bytes::from(vec![b'x'; payload]) }
    }

    #[test]
    fn every_limit_is_met_exactly() {
        assert_eq!(check_append(&[record(1, None)]).unwrap(), RECORD_OVERHEAD_BYTES + 1);
        assert!(check_append(&[]).is_err());
        assert!(check_append(&[record(0, None)]).is_err());
        assert!(check_append(&[record(PAYLOAD_BYTES_MAX, None)]).is_ok());
        assert!(check_append(&[record(PAYLOAD_BYTES_MAX + 1, None)]).is_err());
        assert!(check_append(&[record(1, Some(RECEIPT_BYTES_MAX - 14))]).is_ok());
        assert!(check_append(&[record(1, Some(RECEIPT_BYTES_MAX - 13))]).is_err());
        let one = 1024 * 1024 - RECORD_OVERHEAD_BYTES;
        let mut records = vec![record(one, None); 16];
        assert_eq!(check_append(&records).unwrap(), APPEND_BYTES_MAX);
        records.push(record(1, None));
        let message = check_append(&records).unwrap_err().to_string();
        assert!(message.contains("several calls"), "{message}");
    }

    #[test]
    fn the_refused_record_is_named() {
        let message = check_append(&[record(1, None), record(0, None)]).unwrap_err().to_string();
        assert_eq!(message, "record refused: record 1 of 2: the payload is empty");
    }
}
