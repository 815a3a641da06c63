// Columns of numbers, times and truth values to return. What stands where a row is null has no meaning.

/** The boundary hands 64-bit integers over as numbers, so that one beyond 2^53 has lost digits before anybody sees it. */
export function safe(name, value) {
  if (Number.isSafeInteger(value)) return value;
  throw new RangeError(`column ${name} has an integer beyond 2^53 here, which JavaScript's numbers can't hold exactly`);
}

/** Calls `put(row, value)` for the rows out that were not set and have a value. */
function eachSent({ sent, rows, sources, at }, put) {
  if (sent === null) return;
  let set = 0;
  for (let row = 0; row < rows; row++) {
    if (at[set] === row) {
      set += 1;
      continue;
    }
    const source = sources === null ? row : sources[row];
    if (sent.isValid(source)) put(row, sent.values[source]);
  }
}

export function int64Of(column) {
  const { sent, rows, at, to } = column;
  const values = new BigInt64Array(rows);
  // Two halves, low first: no BigInt has to be made for a number.
  const halves = new Int32Array(values.buffer);
  eachSent(column, (row, value) => {
    halves[2 * row] = safe(sent.name, value);
    halves[2 * row + 1] = Math.floor(value / 4294967296);
  });
  for (let set = 0; set < at.length; set++) {
    const value = to[set];
    if (typeof value === "bigint") {
      values[at[set]] = value;
    } else if (value !== null) {
      halves[2 * at[set]] = value;
      halves[2 * at[set] + 1] = Math.floor(value / 4294967296);
    }
  }
  return values;
}

export function float64Of(column) {
  const { rows, at, to } = column;
  const values = new Float64Array(rows);
  eachSent(column, (row, value) => {
    values[row] = value;
  });
  for (let set = 0; set < at.length; set++) {
    if (to[set] !== null) values[at[set]] = to[set];
  }
  return values;
}

export function boolOf(column) {
  const { rows, at, to } = column;
  const values = new Uint8Array(rows);
  eachSent(column, (row, value) => {
    values[row] = value;
  });
  for (let set = 0; set < at.length; set++) {
    if (to[set] === true) values[at[set]] = 1;
  }
  return values;
}
