//! From a rewrite to what each of its records becomes. No I/O, no state: it runs on a blocking thread.

use millrace_keyspace::Write;
use millrace_rows::Rewrite;
use millrace_rows::canonical::RowEncoder;

use crate::encode::EncodeError;
use crate::keys::Keys;
use crate::lineage::LineageRow;
use crate::pairs::Pairs;
use crate::sound;

/// Records share a buffer until it has so many bytes: a keyspace may keep a buffer for as long as it holds anything that was
/// in it.
const SHARED_BYTES: usize = 64 * 1024;

/// What one record became when it was made again.
#[derive(Debug)]
pub(crate) struct Remade {
    pub(crate) offset: u64,
    /// Its rows, in the order of their numbers.
    pub(crate) rows: Vec<LineageRow>,
    pub(crate) dead: bool,
    /// What puts the rows with their chunks, and the dead letter.
    pub(crate) puts: Vec<Write>,
    /// Bytes of keys and values in `puts`.
    pub(crate) bytes: usize,
}

/// The records of a rewrite, in ascending order.
pub(crate) fn remade(rewrite: &Rewrite, keys: &Keys) -> Result<Vec<Remade>, EncodeError> {
    let Rewrite { partition, ref offsets, ref remade, ref rows, ref dead, .. } = *rewrite;
    let fault = |detail: String| EncodeError::Rewrite { partition, offsets: offsets.clone(), detail };
    if !remade.is_sorted_by(|a, b| a < b) || !remade.iter().all(|offset| offsets.contains(offset)) {
        return Err(fault("the offsets of the records are out of order or out of range".to_owned()));
    }
    let covers = |offset| remade.binary_search(&offset).is_ok();
    let places = sound::check(partition, covers, rows, dead).map_err(fault)?;
    let encoder = RowEncoder::new(rows)?;
    let (mut row, mut letters) = (0, dead.iter().peekable());
    let mut out = Vec::with_capacity(remade.len());
    let mut shared = Shared::default();
    for &offset in remade {
        let pairs = &mut shared.pairs;
        let before = pairs.bytes();
        let mut made = Vec::new();
        while row < rows.num_rows() && places.offset(row) == offset {
            made.push(pairs.push_row(keys, partition, &places, &encoder, row).owned());
            row += 1;
        }
        let letter = letters.next_if(|letter| letter.offset == offset);
        if let Some(letter) = letter {
            pairs.push_dead(keys, partition, letter);
        }
        let bytes = pairs.bytes() - before;
        out.push(Remade { offset, rows: made, dead: letter.is_some(), puts: Vec::new(), bytes });
        shared.ends.push(pairs.len());
        if pairs.bytes() >= SHARED_BYTES {
            shared.hand_out(&mut out);
        }
    }
    shared.hand_out(&mut out);
    Ok(out)
}

/// What the last records put, in one buffer.
#[derive(Default)]
struct Shared {
    pairs: Pairs,
    /// How many pairs there are with each record.
    ends: Vec<usize>,
}

impl Shared {
    /// Gives the last of `records` what they put.
    fn hand_out(&mut self, records: &mut [Remade]) {
        let Self { pairs, ends } = std::mem::take(self);
        let mut writes = pairs.into_writes().into_iter();
        let mut start = 0;
        let first = records.len() - ends.len();
        for (record, end) in records[first..].iter_mut().zip(ends) {
            record.puts = writes.by_ref().take(end - start).collect();
            start = end;
        }
    }
}
