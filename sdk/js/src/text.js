// Columns of text: read value by value, returned as runs. Rows that nobody changed are copied as one piece, undecoded.

import { binaryOf, bytesOf } from "#platform";

import { isSet } from "./bits.js";
import { wordsNotAscii, decode, encode, valuesNotAscii } from "./utf8.js";

/** The bytes of a column that was sent as a string of bytes, made once. */
function binaryOfSent(sent) {
  return (sent.binary ??= binaryOf(sent.values.bytes));
}

/** Where a column that was sent is not ASCII, found once. */
function wordsOfSent(sent) {
  return (sent.words ??= wordsNotAscii(sent.values.bytes));
}

export function textReader(sent) {
  const { validity } = sent;
  const { offsets } = sent.values;
  let binary;
  let toDecode = null;
  return (row) => {
    if (validity !== null && isSet(validity, row) === 0) return null;
    if (binary === undefined) {
      binary = binaryOfSent(sent);
      const words = wordsOfSent(sent);
      if (words.length > 0) toDecode = valuesNotAscii(words, offsets);
    }
    const value = binary.substring(offsets[row], offsets[row + 1]);
    return toDecode !== null && toDecode[row] === 1 ? decode(value) : value;
  };
}

export function textOf(column) {
  // Most text is ASCII, which is its own string of bytes: it is looked at only once it is together.
  if (column.sent === null || wordsOfSent(column.sent).length === 0) {
    const { offsets, binary } = assembled(column, column.to);
    const bytes = bytesIfAscii(binary);
    if (bytes !== null) return { offsets, bytes };
  }
  const encoded = column.to.map((text) => text && encode(text));
  const { offsets, binary } = assembled(column, encoded);
  return { offsets, bytes: bytesOf(binary) };
}

function bytesIfAscii(text) {
  let bytes;
  try {
    bytes = bytesOf(text);
  } catch {
    // Some character is beyond 255.
    return null;
  }
  return bytes.length === text.length && wordsNotAscii(bytes).length === 0 ? bytes : null;
}

/** The rows out one after the other: those that were set to `texts`, and what was sent in between. */
function assembled({ sent, rows, sources, at }, texts) {
  const offsets = new Uint32Array(rows + 1);
  const parts = [];
  let row = 0;
  let end = 0;
  const between = (until) => {
    if (sent === null) {
      offsets.fill(end, row + 1, until + 1);
      row = until;
      return;
    }
    const binary = binaryOfSent(sent);
    const from = sent.values.offsets;
    while (row < until) {
      // Rows of consecutive rows in are one piece.
      const first = sources === null ? row : sources[row];
      const start = from[first];
      const shift = end - start;
      let source = first;
      do {
        source += 1;
        row += 1;
        offsets[row] = from[source] + shift;
      } while (row < until && (sources === null || sources[row] === source));
      end = offsets[row];
      parts.push(binary.substring(start, from[source]));
    }
  };
  for (let set = 0; set < at.length; set++) {
    if (row < at[set]) between(at[set]);
    const text = texts[set];
    if (text !== null) {
      parts.push(text);
      end += text.length;
    }
    row += 1;
    offsets[row] = end;
  }
  if (row < rows) between(rows);
  return { offsets, binary: parts.join("") };
}
