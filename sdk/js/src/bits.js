// Validity: bit i % 8 (lowest first) of byte i / 8 is set where row i has a value; absent where every row has one.

export function isSet(bits, row) {
  return (bits[row >> 3] >> (row & 7)) & 1;
}

/** Bits for rows that all have a value. */
function allSet(rows) {
  const bits = new Uint8Array((rows + 7) >> 3).fill(255);
  const spare = rows & 7;
  if (spare !== 0) bits[bits.length - 1] = (1 << spare) - 1;
  return bits;
}

/** The validity of a column to return; see `returned` for what is given. */
export function validityOf(sent, rows, sources, at, to) {
  const isWhole = sent === null ? at.length === rows : sent.validity === null;
  if (isWhole && !to.includes(null)) return null;
  let bits;
  if (sent === null) {
    bits = new Uint8Array((rows + 7) >> 3);
  } else if (sent.validity === null) {
    bits = allSet(rows);
  } else if (sources === null) {
    bits = Uint8Array.from(sent.validity);
  } else {
    bits = new Uint8Array((rows + 7) >> 3);
    for (let row = 0; row < rows; row++) {
      if (isSet(sent.validity, sources[row])) bits[row >> 3] |= 1 << (row & 7);
    }
  }
  for (let set = 0; set < at.length; set++) {
    const row = at[set];
    if (to[set] === null) bits[row >> 3] &= ~(1 << (row & 7));
    else bits[row >> 3] |= 1 << (row & 7);
  }
  return bits;
}
