// Lookups: one call of the host for a table and a key, whatever the number of events and columns.

import { tables } from "#platform";

import { returned, Sent } from "./column.js";

/**
 * Readers of lookups by their names. Nothing is looked up before somebody reads it.
 *
 * `sent` has the columns of the batch by name, `view` the event at `view.row` as it was sent, for keys that are computed.
 */
export function lookupReaders(lookups, rows, sent, view) {
  const readers = new Map();
  const groups = new Map();
  for (const lookup of lookups) {
    const byKey = groups.get(lookup.table) ?? new Map();
    groups.set(lookup.table, byKey);
    const group = byKey.get(lookup.key) ?? { table: lookup.table, key: lookup.key, wanted: [] };
    byKey.set(lookup.key, group);
    group.wanted.push(lookup);
    readers.set(lookup.name, (row) => {
      group.answer ??= ask(group, rows, sent, view);
      const error = group.answer.errors.get(row);
      if (error !== undefined) throw error;
      return group.answer.readers.get(lookup.name)(row);
    });
  }
  return readers;
}

function ask({ table, key, wanted }, rows, sent, view) {
  const errors = new Map();
  const readers = new Map();
  const keys = sent.get(key)?.tag === "text" ? forHost(sent.get(key).column) : computed(key, rows, view, errors);
  if (keys === null) {
    for (const { name } of wanted) readers.set(name, () => null);
    return { errors, readers };
  }
  const columns = wanted.map(({ column }) => column);
  const found = tables.lookup(table, keys, columns);
  wanted.forEach(({ name, column, type, tag }, at) => {
    const answer = new Sent(name, found[at]);
    if (answer.tag !== tag) {
      throw new Error(`lookup ${name}: column ${column} of table ${table} has other values than ${type}`);
    }
    readers.set(name, answer.reader());
  });
  return { errors, readers };
}

/** A text column that was sent, with its offsets in an array that is handed over in one piece. */
function forHost({ values, validity }) {
  const { offsets, bytes } = values.val;
  return { values: { tag: "text", val: { offsets: Uint32Array.from(offsets), bytes } }, validity };
}

/** The keys of all rows; null where none has one, for then nobody knows of what type they would be. Where a key can't be
 * computed only that row must fail, so its error is kept until the row reads what was looked up. */
function computed(key, rows, view, errors) {
  const at = [];
  const to = [];
  let tag;
  for (let row = 0; row < rows; row++) {
    view.row = row;
    let value = null;
    try {
      value = (typeof key === "string" ? view.event[key] : key(view.event)) ?? null;
      const kind = value === null ? tag : kindOf(value);
      if (kind !== (tag ?? kind)) throw new TypeError("the keys of a lookup must be of one type");
      tag = kind;
    } catch (error) {
      errors.set(row, error);
      value = null;
    }
    at.push(row);
    to.push(value);
  }
  return tag === undefined ? null : returned(null, tag, rows, null, at, to).val;
}

function kindOf(value) {
  if (typeof value === "string") return "text";
  if (Number.isSafeInteger(value)) return "int64";
  throw new TypeError("the key of a lookup must be a string, a whole number or null");
}
