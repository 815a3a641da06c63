// Columns of a batch: readers of what was sent, and makers of what is returned.

import { isSet, validityOf } from "./bits.js";
import { boolOf, float64Of, int64Of, safe } from "./numbers.js";
import { textOf, textReader } from "./text.js";

/** Which kind of values a column type has at the boundary. */
export const TAGS = { string: "text", timestamp: "int64", int64: "int64", float64: "float64", bool: "bool" };

const TAKES = { text: "a string", int64: "a whole number", float64: "a number", bool: "true or false" };

const INT64_MAX = 2n ** 63n - 1n;
const INT64_MIN = -(2n ** 63n);

const CHECKS = {
  text: (value) => typeof value === "string",
  int64: (value) =>
    Number.isSafeInteger(value) || (typeof value === "bigint" && value >= INT64_MIN && value <= INT64_MAX),
  float64: (value) => typeof value === "number",
  bool: (value) => typeof value === "boolean",
};

function fault(name, tag, value) {
  const found = Array.isArray(value) ? "an array" : typeof value;
  let why = `got ${found}`;
  if (tag === "int64" && found === "number") why = "this number is not whole, or has lost digits: use a BigInt beyond 2^53";
  if (tag === "int64" && found === "bigint") why = "this one does not fit 64 bits";
  return new TypeError(`column ${name} takes ${TAKES[tag]} or null, ${why}`);
}

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
  }

  isValid(row) {
    return this.validity === null || isSet(this.validity, row) === 1;
  }

  /** A function from a row to its value, null where it has none. */
  reader() {
    const { name, values, validity } = this;
    const isNull = validity === null ? () => false : (row) => isSet(validity, row) === 0;
    switch (this.tag) {
      case "text":
        return textReader(this);
      case "int64":
        return (row) => (isNull(row) ? null : safe(name, values[row]));
      case "float64":
        return (row) => (isNull(row) ? null : values[row]);
      default:
        return (row) => (isNull(row) ? null : values[row] !== 0);
    }
  }
}

const MAKERS = { text: textOf, int64: int64Of, float64: float64Of, bool: boolOf };

/**
 * A column to return.
 *
 * `at` has the rows out that were set, ascending, and `to` what they were set to; the others are those of `sent` at
 * `sources` (null: each row out is the row in of the same number), or null where nothing was sent.
 */
export function returned(sent, tag, rows, sources, at, to) {
  const val = MAKERS[tag]({ sent, rows, sources, at, to });
  return { tag: "column", val: { values: { tag, val }, validity: validityOf(sent, rows, sources, at, to) } };
}
