// Golden cases: what a plugin makes of given rows, written down. The format is that of the Rust SDK (its module `golden`
// documents it), so the same file is run here, natively, and over the built component by the host.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";

import { calling, setNative } from "#platform";

import { ALWAYS, columnOf, timeOf, typeOf, valuesOfColumn } from "./columns.js";
import { MemoryTables } from "./tables.js";

const shown = (value) => JSON.stringify(value);

const CASE_KEYS = ["about", "config", "config_error", "tables", "rows_in", "expect"];

/** Runs rows through a plugin as one batch, row by row and in halves, and gives what becomes of each. */
export function run(plugin, rows, options) {
  return runNatively(plugin, rows, options).outcomes;
}

/** What becomes of each row, and the manifest. */
function runNatively(plugin, rows, { config = {}, tables = {}, log } = {}) {
  const changes = { tables: new MemoryTables(tables) };
  if (log !== undefined) changes.log = log;
  const before = setNative(changes);
  try {
    return calling(() => runWith(plugin, rows, config));
  } finally {
    setNative(before);
  }
}

function runWith(plugin, rows, config) {
  const manifest = refusing(
    () => plugin.describe(JSON.stringify(config)),
    (message) => `the configuration was refused: ${message}`,
  );
  const types = typesOf(manifest, rows);
  const transform = (ranges) =>
    ranges.flatMap(([from, until]) => {
      const batch = batchOf(manifest, types, rows.slice(from, until));
      const output = refusing(
        () => plugin.transform(batch),
        (message) => `rows ${from} to ${until}: the call failed: ${message}`,
      );
      return outcomesOf(manifest, batch, output).map((outcome, row) => plain(outcome, rows[from + row], []));
    });
  const whole = transform([[0, rows.length]]);
  const half = rows.length >> 1;
  const splits = [
    rows.map((_, row) => [row, row + 1]),
    [
      [0, half],
      [half, rows.length],
    ],
  ];
  for (const split of splits) {
    transform(split).forEach((apart, row) => {
      if (!isDeepStrictEqual(apart, whole[row])) {
        throw new Error(
          `row ${row} depends on its neighbours:\n  in one batch ${shown(whole[row])}\n  split        ${shown(apart)}`,
        );
      }
    });
  }
  return { manifest, outcomes: whole };
}

/** Runs every case in a directory and throws what differs; with `bless` writes down what came out instead. */
export function checkCases(plugin, dir, { bless = process.env.MILLRACE_BLESS === "1" } = {}) {
  const path = dir instanceof URL ? fileURLToPath(dir) : dir;
  const files = readdirSync(path)
    .filter((name) => name.endsWith(".json"))
    .sort()
    .map((name) => join(path, name));
  if (files.length === 0) throw new Error(`${path} holds no cases (*.json)`);
  const errors = [];
  for (const file of files) {
    try {
      checkCase(plugin, file, bless);
    } catch (error) {
      errors.push(`${file}: ${error.message}`);
    }
  }
  if (errors.length > 0) throw new Error(errors.join("\n"));
  return files.length;
}

function checkCase(plugin, file, bless) {
  const given = JSON.parse(readFileSync(file, "utf8"));
  for (const key of Object.keys(given)) {
    if (!CASE_KEYS.includes(key)) throw new Error(`is no golden case: it has an unknown entry ${shown(key)}`);
  }
  const { config, config_error: part, tables, rows_in: rows = [], expect = [] } = given;
  if (part !== undefined) {
    checkRefusal(plugin, config, tables, part);
    return;
  }
  if (!bless && expect.length !== rows.length) throw new Error(`${rows.length} rows in, but ${expect.length} expectations`);
  const { manifest, outcomes } = runNatively(plugin, rows, { config, tables });
  if (bless) {
    writeFileSync(file, `${JSON.stringify({ ...given, expect: outcomes }, null, 2)}\n`);
    return;
  }
  const times = manifest.adds.filter(({ ty }) => ty === "timestamp").map(({ name }) => name);
  const differences = outcomes.flatMap((outcome, row) => {
    const expected = plain(expect[row], rows[row], ["event_time", "received_at", ...times]);
    if (isDeepStrictEqual(outcome, expected)) return [];
    return [`row ${row}:\n  expected ${shown(expected)}\n  came out ${shown(outcome)}`];
  });
  if (differences.length > 0) throw new Error(differences.join("\n"));
}

function checkRefusal(plugin, config, tables, part) {
  let message;
  const before = setNative({ tables: new MemoryTables(tables) });
  try {
    plugin.describe(JSON.stringify(config ?? {}));
  } catch (error) {
    message = String(error);
  } finally {
    setNative(before);
  }
  if (message === undefined) throw new Error(`the configuration was accepted, expected an error with ${shown(part)}`);
  if (!message.includes(part)) {
    throw new Error(`the configuration was refused with ${shown(message)}, expected ${shown(part)}`);
  }
}

function refusing(call, explain) {
  try {
    return call();
  } catch (error) {
    throw new Error(explain(error instanceof Error ? error.message : String(error)));
  }
}

/**
 * An outcome without what goes without saying: nulls, and what a row has in a column of `ALWAYS` where the row in does not
 * speak of it. Text in the columns `times` becomes microseconds.
 */
function plain(outcome, rowIn, times) {
  if (outcome.keep === undefined) return outcome;
  const unsaid = (name, value) => value === null || (!Object.hasOwn(rowIn, name) && value === always(name));
  const dense = (row) =>
    Object.fromEntries(
      Object.entries(row)
        .map(([name, value]) => [name, times.includes(name) ? timeOf(value) : value])
        .filter(([name, value]) => !unsaid(name, value)),
    );
  return { keep: outcome.keep.map(dense) };
}

function always(name) {
  return Object.hasOwn(ALWAYS, name) ? ALWAYS[name] : null;
}

/** The types of the columns by all rows, so that a split does not change them. */
function typesOf({ reads }, rows) {
  rows.forEach((row, at) => {
    for (const [name, value] of Object.entries(row)) {
      if (!reads.includes(name)) throw new Error(`rows_in has the column ${shown(name)}, which the plugin does not read`);
      if (value === null && always(name) !== null) {
        throw new Error(
          `row ${at}: column ${shown(name)} can't be null, every event has it: ` +
            `leave it out, and it is ${shown(always(name))}, or give a value`,
        );
      }
    }
  });
  const typed = (name) =>
    typeOf(
      name,
      rows.map((row) => row[name] ?? always(name)),
    );
  return Object.fromEntries(reads.map((name) => [name, typed(name)]));
}

function batchOf({ reads }, types, rows) {
  const column = (name) =>
    columnOf(
      name,
      types[name],
      rows.map((row) => row[name] ?? always(name)),
    );
  return { rows: rows.length, columns: reads.map(column) };
}

/** What became of each row of a batch. It throws where an answer breaks the contract. */
export function outcomesOf(manifest, batch, output) {
  const names = [...manifest.writes, ...manifest.adds.map(({ name }) => name)];
  if (output.columns.length !== names.length) {
    throw new Error(`${output.columns.length} columns came out, the manifest has ${names.length}`);
  }
  const outcomes = Array(batch.rows).fill(null);
  for (const [kind, list] of [
    ["drop", output.dropped],
    ["fail", output.failed],
  ]) {
    let last = -1;
    for (const { row, code } of list) {
      if (row <= last || row >= batch.rows) throw new Error(`${kind}: row ${row} is out of place`);
      if (outcomes[row] !== null) throw new Error(`row ${row} was left out twice`);
      if (code >= manifest.codes.length) throw new Error(`there is no code ${code}`);
      outcomes[row] = { [kind]: manifest.codes[code] };
      last = row;
    }
  }
  const sources = output.sources === null ? Array.from({ length: batch.rows }, (_, row) => row) : [...output.sources];
  const columns = output.columns.map((column, at) => {
    if (column.tag === "column") return valuesOfColumn(names[at], column.val, sources.length);
    if (at >= manifest.writes.length || output.sources !== null) {
      throw new Error(`column ${shown(names[at])} can't be unchanged here`);
    }
    return valuesOfColumn(names[at], batch.columns[manifest.reads.indexOf(names[at])], batch.rows);
  });
  let last = 0;
  sources.forEach((source, out) => {
    if (source < last || source >= batch.rows) throw new Error(`row ${source} comes out out of order`);
    last = source;
    const values = names.map((name, at) => [name, columns[at][out]]).filter(([, value]) => value !== null);
    outcomes[source] ??= { keep: [] };
    if (outcomes[source].keep === undefined) throw new Error(`row ${source} was left out, and came out`);
    outcomes[source].keep.push(Object.fromEntries(values));
  });
  outcomes.forEach((outcome, row) => {
    if (outcome === null) throw new Error(`row ${row} neither came out nor was left out`);
  });
  return outcomes;
}
