// What an author declares, checked and turned into the manifest that the host asks for.

import { TAGS } from "./column.js";

const shown = (value) => JSON.stringify(value) ?? String(value);

const KEYS = ["name", "version", "reads", "writes", "adds", "lookups", "codes", "config", "configure", "transform"];

/** Refuses what no configuration can make right, when the plugin's module is loaded: that is, when it is built. */
export function checkSpec(spec) {
  if (spec === null || typeof spec !== "object") throw new TypeError("plugin(…) takes an object");
  for (const key of Object.keys(spec)) {
    if (!KEYS.includes(key)) throw new TypeError(`plugin(…) has no option ${shown(key)}; it has ${KEYS.join(", ")}`);
  }
  for (const key of ["name", "version"]) {
    if (typeof spec[key] !== "string") throw new TypeError(`plugin(…) needs a ${key}, a string`);
  }
  for (const key of ["transform", "configure"]) {
    if (spec[key] === undefined ? key === "transform" : typeof spec[key] !== "function") {
      throw new TypeError(`plugin(…) needs ${key}, a function`);
    }
  }
  return spec;
}

/** The configuration over its defaults: `{min: 0}` knows one option, `min`, a number. */
export function configOf(defaults, text) {
  let given;
  try {
    given = JSON.parse(text.trim() === "" ? "{}" : text);
  } catch (error) {
    throw new Error(`the configuration is no JSON: ${error.message}`);
  }
  if (kindOf(given) !== "an object") throw new Error(`the configuration must be an object, not ${kindOf(given)}`);
  if (defaults === undefined) return given;
  for (const [key, value] of Object.entries(given)) {
    if (!Object.hasOwn(defaults, key)) {
      const known = Object.keys(defaults);
      const options = known.length === 0 ? "there are none" : `there are ${known.join(", ")}`;
      throw new Error(`the configuration has an unknown option ${shown(key)}: ${options}`);
    }
    const expected = defaults[key];
    if (expected !== null && kindOf(value) !== kindOf(expected)) {
      throw new Error(`option ${shown(key)} must be ${kindOf(expected)}, not ${kindOf(value)}`);
    }
  }
  return { ...defaults, ...given };
}

function kindOf(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  return { boolean: "true or false", number: "a number", string: "a string" }[typeof value] ?? "an object";
}

/** The columns, lookups and codes of a spec under a configuration. */
export function layoutOf(spec, config, tables) {
  const value = (key, otherwise) => {
    const given = spec[key] ?? otherwise;
    return typeof given === "function" ? given(config, { tables }) : given;
  };
  const columns = new Map();
  const add = (name, use, type) => {
    const tag = type === undefined ? undefined : tagOf(name, type);
    const known = columns.get(name);
    if (known === undefined) {
      columns.set(name, { name, use, type, tag });
      return;
    }
    if (use === "add" || known.use === "add" || use === "lookup" || known.use === "lookup") {
      throw new Error(`column ${shown(name)} is declared twice, as one to ${known.use} and as one to ${use}`);
    }
    if (use === "write") known.use = "write";
    if (tag !== undefined) Object.assign(known, { type, tag });
  };
  for (const [name, type] of namesOf(value("reads", []), "reads")) add(name, "read", type);
  // What is written is read too, so that rows which are not set keep their value.
  for (const [name, type] of namesOf(value("writes", []), "writes")) add(name, "write", type);
  for (const [name, type] of Object.entries(value("adds", {}))) add(name, "add", type);
  const lookups = Object.entries(value("lookups", {})).map(([name, lookup]) => lookupOf(name, lookup));
  for (const { name, type } of lookups) add(name, "lookup", type);
  for (const { name, key } of lookups) {
    if (typeof key === "function") continue;
    if (typeof key !== "string" || columns.get(key)?.use === "add") {
      throw new Error(`lookup ${shown(name)}: key must be a column that is read, or a function`);
    }
    if (!columns.has(key)) add(key, "read");
  }
  const codes = [...value("codes", [])];
  return { columns: [...columns.values()], lookups, codes };
}

function namesOf(declared, what) {
  if (Array.isArray(declared)) return declared.map((name) => [name, undefined]);
  if (declared !== null && typeof declared === "object") return Object.entries(declared);
  throw new Error(`${what} must be an array of columns, or an object of columns and their types`);
}

function tagOf(name, type) {
  if (Object.hasOwn(TAGS, type)) return TAGS[type];
  throw new Error(`column ${shown(name)} has no type ${shown(type)}: use ${Object.keys(TAGS).join(", ")}`);
}

function lookupOf(name, { table, key, column = name, type = "string", ...others }) {
  for (const other of Object.keys(others)) throw new Error(`lookup ${shown(name)} has no option ${shown(other)}`);
  if (typeof table !== "string") throw new Error(`lookup ${shown(name)} needs a table`);
  return { name, table, key, column, type, tag: tagOf(name, type) };
}

/** What the host must know. */
export function manifestOf(spec, { columns, lookups, codes }) {
  const named = (...uses) => columns.filter(({ use }) => uses.includes(use)).map(({ name }) => name);
  return {
    name: spec.name,
    version: spec.version,
    reads: named("read", "write"),
    writes: named("write"),
    adds: columns.filter(({ use }) => use === "add").map(({ name, type }) => ({ name, ty: type })),
    tables: [...new Set(lookups.map(({ table }) => table))],
    codes,
  };
}

/** Refuses lookups of columns that a table does not have. A table that is not there yet is no mistake: a plugin is
 * described before its tables are uploaded, and the host refuses a chain without them. */
export function checkLookups(lookups, tables) {
  for (const { name, table, column, type, tag } of lookups) {
    const columns = tables.columns(table);
    if (columns === null || columns === undefined) continue;
    const found = columns.find((known) => known.name === column);
    if (found === undefined) {
      const known = columns.map((known) => known.name).join(", ");
      throw new Error(`lookup ${shown(name)}: table ${shown(table)} has no column ${shown(column)}; it has ${known}`);
    }
    if (TAGS[found.ty] !== tag) {
      throw new Error(`lookup ${shown(name)}: column ${shown(column)} is of type ${found.ty}, not ${type}`);
    }
  }
}
