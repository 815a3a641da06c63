//! From a rewrite to what each of its records becomes. No I/O, no state: it runs on a blocking thread.

use millrace_keyspace::Write;
use millrace_rows::Rewrite;
use millrace_rows::canonical::RowEncoder;

use crate::encode::EncodeError;
use crate::keys::Keys;
use crate::lineage::LineageRow;
use crate::pairs::Pairs;
use crate::sound;

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
    for &offset in remade {
        // A buffer for each record: a keyspace keeps the buffers of what it was given.
        let mut pairs = Pairs::default();
        let mut made = Vec::new();
        while row < rows.num_rows() && places.offset(row) == offset {
            let lineage = pairs.push_row(keys, partition, &places, &encoder, row);
            made.push(lineage.owned());
            row += 1;
        }
        let letter = letters.next_if(|letter| letter.offset == offset);
        if let Some(letter) = letter {
            pairs.push_dead(keys, partition, letter);
        }
        let bytes = pairs.bytes();
        out.push(Remade { offset, rows: made, dead: letter.is_some(), puts: pairs.into_writes(), bytes });
    }
    Ok(out)
}
