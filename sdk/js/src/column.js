// Columns of a batch: readers of what was sent, and makers of what is returned.
//
// A maker gets the rows out as runs: rows that nobody changed are copied from what was sent, text as one piece for a run,
// without being decoded.

import { binaryOf, bytesOf } from "#platform";

import { isSet, Validity } from "./bits.js";
import { decode, encode, isAscii } from "./utf8.js";

/** Which kind of values a column type has at the boundary. */
export const TAGS = { string: "text", timestamp: "int64", int64: "int64", float64: "float64", bool: "bool" };

const article = (tag) => ({ text: "a string", int64: "a whole number", float64: "a number", bool: "true or false" })[tag];

function fault(name, tag, value) {
  const found = value === null ? "null" : Array.isArray(value) ? "an array" : typeof value;
  const why =
    tag === "int64" && typeof value === "number"
      ? "this number is not whole, or has lost digits: use a BigInt beyond 2^53"
      : tag === "int64" && typeof value === "bigint"
        ? "this one does not fit 64 bits"
        : `got ${found}`;
  return new TypeError(`column ${name} takes ${article(tag)} or null, ${why}`);
}

const INT64_MAX = 2n ** 63n - 1n;
const INT64_MIN = -(2n ** 63n);

const CHECKS = {
  text: (value) => typeof value === "string",
  int64: (value) =>
    Number.isSafeInteger(value) || (typeof value === "bigint" && value >= INT64_MIN && value <= INT64_MAX),
  float64: (value) => typeof value === "number",
  bool: (value) => typeof value === "boolean",
};

/** A function that gives the value to keep for one that was set, and throws where the column can't hold it. */
export function checker(name, tag) {
  const check = CHECKS[tag];
  return (value) => {
    if (check(value)) return value;
    if (value === null || value === undefined) return null;
    throw fault(name, tag, value);
  };
}

/** A column as it was sent. */
export class Sent {
  constructor(name, column) {
    this.name = name;
    this.column = column;
    this.tag = column.values.tag;
    this.values = column.values.val;
    this.validity = column.validity ?? null;
    this.text = undefined;
  }

  /** The bytes of a text column, as a string of bytes. */
  binary() {
    return (this.text ??= binaryOf(this.values.bytes));
  }

  isValid(row) {
    return this.validity === null || isSet(this.validity, row) === 1;
  }

  /** A function from a row to its value, null where it has none. */
  reader() {
    const { name, values, validity } = this;
    const present = validity === null ? () => true : (row) => isSet(validity, row) === 1;
    switch (this.tag) {
      case "text":
        return this.#textReader(validity);
      case "int64":
        return (row) => {
          if (!present(row)) return null;
          return safe(name, values[row]);
        };
      case "float64":
        return (row) => (present(row) ? values[row] : null);
      default:
        return (row) => (present(row) ? values[row] !== 0 : null);
    }
  }

  #textReader(validity) {
    const { offsets } = this.values;
    let binary;
    let ascii;
    return (row) => {
      if (validity !== null && isSet(validity, row) === 0) return null;
      if (binary === undefined) {
        binary = this.binary();
        ascii = isAscii(binary);
      }
      const value = binary.substring(offsets[row], offsets[row + 1]);
      return ascii ? value : decode(value);
    };
  }
}

/** The boundary hands 64-bit integers over as numbers, so that one beyond 2^53 has lost digits before anybody sees it. */
function safe(name, value) {
  if (Number.isSafeInteger(value)) return value;
  throw new RangeError(`column ${name} has an integer beyond 2^53 here, which JavaScript's numbers can't hold exactly`);
}

/**
 * A column to return.
 *
 * `at` has the rows out that were set, ascending, and `to` what they were set to; the others are those of `sent` at
 * `sources` (null: each row out is the row in of the same number), or null where nothing was sent.
 */
export function returned(sent, tag, rows, sources, at, to) {
  const validity = new Validity(rows);
  const make = { text: textOf, int64: int64Of, float64: float64Of, bool: boolOf }[tag];
  const val = make(sent, rows, sources, at, to, validity);
  return { tag: "column", val: { values: { tag, val }, validity: validity.finish() } };
}

function textOf(sent, rows, sources, at, to, validity) {
  const offsets = new Uint32Array(rows + 1);
  const written = binaries(to);
  const parts = [];
  let end = 0;
  let row = 0;
  const blank = (until) => {
    for (; row < until; row++) {
      validity.clear(row);
      offsets[row + 1] = end;
    }
  };
  const copy = (until) => {
    const binary = sent.binary();
    const from = sent.values.offsets;
    while (row < until) {
      // Rows of consecutive rows in are one piece.
      const first = sources === null ? row : sources[row];
      const start = from[first];
      const shift = end - start;
      let source = first;
      do {
        source += 1;
        if (!sent.isValid(source - 1)) validity.clear(row);
        row += 1;
        offsets[row] = from[source] + shift;
      } while (row < until && (sources === null || sources[row] === source));
      parts.push(binary.substring(start, from[source]));
      end = offsets[row];
    }
  };
  const unset = sent === null ? blank : copy;
  for (let set = 0; set < at.length; set++) {
    if (row < at[set]) unset(at[set]);
    const binary = written[set];
    if (binary === null) {
      validity.clear(row);
    } else {
      parts.push(binary);
      end += binary.length;
    }
    row += 1;
    offsets[row] = end;
  }
  unset(rows);
  return { offsets, bytes: bytesOf(parts.join("")) };
}

/** Texts as strings of bytes. One look at all of them settles most batches. */
function binaries(texts) {
  return isAscii(texts.join("")) ? texts : texts.map((text) => text && encode(text));
}

/** Fills `put(row, value)` for every row out that has a value. */
function fill(sent, rows, sources, at, to, validity, put) {
  let set = 0;
  for (let row = 0; row < rows; row++) {
    if (at[set] === row) {
      const value = to[set++];
      if (value === null) validity.clear(row);
      else put(row, value);
      continue;
    }
    const source = sources === null ? row : sources[row];
    if (sent !== null && sent.isValid(source)) put(row, sent.values[source]);
    else validity.clear(row);
  }
}

function int64Of(sent, rows, sources, at, to, validity) {
  const values = new BigInt64Array(rows);
  const name = sent?.name;
  // Two halves, low first: no BigInt has to be made for a number.
  const halves = new Int32Array(values.buffer);
  fill(sent, rows, sources, at, to, validity, (row, value) => {
    if (typeof value === "bigint") {
      values[row] = value;
      return;
    }
    // What was set is safe; what was sent may not be.
    const number = safe(name, value);
    halves[2 * row] = number;
    halves[2 * row + 1] = Math.floor(number / 4294967296);
  });
  return values;
}

function float64Of(sent, rows, sources, at, to, validity) {
  const values = new Float64Array(rows);
  fill(sent, rows, sources, at, to, validity, (row, value) => {
    values[row] = value;
  });
  return values;
}

function boolOf(sent, rows, sources, at, to, validity) {
  const values = new Uint8Array(rows);
  fill(sent, rows, sources, at, to, validity, (row, value) => {
    values[row] = value ? 1 : 0;
  });
  return values;
}
