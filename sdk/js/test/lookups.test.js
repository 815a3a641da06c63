// Lookups: read like a column, one call of the host for a table and a key.

import assert from "node:assert/strict";
import { test } from "node:test";

import { fail, plugin } from "millrace-sdk";
import { run } from "millrace-sdk/testing";

import { MemoryTables } from "../src/native/tables.js";
import { setNative } from "../src/platform/native.js";

const base = { name: "tested", version: "1.0.0" };

const tables = {
  countries: {
    cidr: "network",
    rows: [
      { network: "203.0.113.0/24", country: "DE", people: 84 },
      { network: "203.0.113.128/25", country: "FR", people: 68 },
      { network: "2001:db8::/32", country: "Ünited", people: null },
    ],
  },
  currencies: { key: "code", rows: [{ code: "DE", currency: "EUR" }, { code: "Ünited", currency: "💶" }] },
  items: { key: "id", rows: [{ id: 7, price: 2.5, vegan: true }, { id: 9, price: 1, vegan: false }] },
};

/** Tables that count how often they are asked. */
function counted(given) {
  const memory = new MemoryTables(given);
  const calls = [];
  const lookup = (name, keys, wanted) => {
    calls.push(`${name}: ${wanted}`);
    return memory.lookup(name, keys, wanted);
  };
  return { calls, columns: (name) => memory.columns(name), lookup };
}

const enrich = plugin({
  ...base,
  reads: ["event", "properties", "item_number"],
  adds: { country: "string", people: "int64", currency: "string", price: "float64", vegan: "bool" },
  lookups: {
    found_country: { table: "countries", key: "ip", column: "country" },
    found_people: { table: "countries", key: "ip", column: "people", type: "int64" },
    found_currency: { table: "currencies", key: "found_country", column: "currency" },
    found_price: { table: "items", key: (event) => event.json("properties")?.item, column: "price", type: "float64" },
    found_vegan: { table: "items", key: "item_number", column: "vegan", type: "bool" },
  },
  codes: ["unknown"],
  transform(event) {
    if (event.event === "skip") return;
    event.country = event.found_country;
    event.people = event.found_people;
    event.currency = event.found_currency;
    event.price = event.found_price;
    event.vegan = event.found_vegan;
    if (event.event === "strict" && event.country === null) return fail("unknown");
  },
});

test("what is found is null where the key is, or the table has none", () => {
  const rows = [
    { ip: "203.0.113.7", properties: '{"item": 7}', item_number: 9 },
    { ip: "203.0.113.200", properties: "{}", item_number: 8 },
    { ip: "2001:db8::5", properties: '{"item": null}' },
    { ip: "::ffff:203.0.113.1", properties: '{"item": 9}', item_number: 7 },
    { ip: "no address" },
    { event: "strict", item_number: 7 },
    { event: "skip", ip: "203.0.113.7", properties: "not JSON" },
    {},
  ];
  assert.deepEqual(run(enrich, rows, { tables }), [
    { keep: [{ country: "DE", people: 84, currency: "EUR", price: 2.5, vegan: false }] },
    { keep: [{ country: "FR", people: 68 }] },
    { keep: [{ country: "Ünited", currency: "💶" }] },
    { keep: [{ country: "DE", people: 84, currency: "EUR", price: 1, vegan: true }] },
    { keep: [{}] },
    { fail: "unknown" },
    { keep: [{}] },
    { keep: [{}] },
  ]);
});

test("a table is asked once for a batch and a key, and only if somebody reads the answer", () => {
  const { describe, transform } = plugin({
    ...base,
    reads: ["event"],
    adds: { out: "string" },
    lookups: {
      country: { table: "countries", key: "ip" },
      people: { table: "countries", key: "ip", type: "int64" },
      currency: { table: "currencies", key: "event" },
    },
    transform(event) {
      if (event.event !== "DE") return;
      event.out = `${event.country} ${event.people}`;
    },
  });
  const text = (values) => {
    const offsets = [0];
    for (const value of values) offsets.push(offsets.at(-1) + value.length);
    return { values: { tag: "text", val: { offsets, bytes: new Uint8Array(Buffer.from(values.join(""))) } }, validity: null };
  };
  const host = counted(tables);
  const before = setNative({ tables: host });
  try {
    assert.deepEqual(describe("{}").tables, ["countries", "currencies"]);
    assert.deepEqual(describe("{}").reads, ["event", "ip"]);
    const ips = text(["203.0.113.1", "203.0.113.2", "1.1.1.1"]);
    transform({ rows: 3, columns: [text(["a", "b", "c"]), ips] });
    assert.deepEqual(host.calls, []);
    transform({ rows: 3, columns: [text(["DE", "DE", "DE"]), ips] });
    assert.deepEqual(host.calls, ["countries: country,people"]);
  } finally {
    setNative(before);
  }
});

test("a key that can't be computed fails the event that reads the answer, and no other", () => {
  const lookup = plugin({
    ...base,
    reads: ["event", "properties"],
    adds: { price: "float64" },
    lookups: { found: { table: "items", key: (event) => event.json("properties").item, column: "price", type: "float64" } },
    transform(event) {
      if (event.event === "read") event.price = event.found;
    },
  });
  const good = { event: "read", properties: '{"item": 7}' };
  const rows = [good, { event: "other", properties: "broken" }, good];
  assert.deepEqual(run(lookup, rows, { tables }), [{ keep: [{ price: 2.5 }] }, { keep: [{}] }, { keep: [{ price: 2.5 }] }]);
  const read = { event: "read", properties: "broken" };
  assert.throws(() => run(lookup, [good, read], { tables }), /SyntaxError/);
  const odd = { event: "read", properties: '{"item": 1.5}' };
  assert.throws(() => run(lookup, [odd], { tables }), /the key of a lookup must be a string, a whole number or null/);
});

test("what does not fit is said when the plugin is configured", () => {
  const described = (lookups) => {
    const { describe } = plugin({ ...base, reads: ["event"], adds: { added: "string" }, lookups, transform() {} });
    const before = setNative({ tables: new MemoryTables(tables) });
    try {
      return describe("{}");
    } finally {
      setNative(before);
    }
  };
  const refused = (lookups, part) => assert.throws(() => described(lookups), (error) => error.includes(part));
  refused({ a: { table: "countries", key: "ip" } }, 'table "countries" has no column "a"; it has network, country, people');
  refused({ people: { table: "countries", key: "ip" } }, 'column "people" is of type int64, not string');
  refused({ country: { table: "countries" } }, "key must be a column that is read, or a function");
  refused({ country: { table: "countries", key: "added" } }, "key must be a column that is read, or a function");
  refused({ country: { key: "ip" } }, "needs a table");
  refused({ country: { table: "countries", key: "ip", colum: "x" } }, 'has no option "colum"');
  refused({ country: { table: "countries", key: "ip", type: "text" } }, 'has no type "text"');
  refused({ event: { table: "countries", key: "ip", column: "country" } }, 'column "event" is declared twice');
  // A plugin is described before its tables are there.
  assert.deepEqual(described({ a: { table: "later", key: "ip" } }).tables, ["later"]);
});

test("columns may follow those of a table", () => {
  const follow = plugin({
    ...base,
    config: { table: "items" },
    reads: { item: "int64" },
    configure: ({ table }, { tables }) => ({
      table,
      columns: (tables.columns(table) ?? []).filter(({ name }) => name !== "id"),
    }),
    adds: ({ columns }) => Object.fromEntries(columns.map(({ name, ty }) => [`item_${name}`, ty])),
    lookups: ({ table, columns }) =>
      Object.fromEntries(columns.map(({ name, ty }) => [`found_${name}`, { table, key: "item", column: name, type: ty }])),
    transform(event, { columns }) {
      for (const { name } of columns) event[`item_${name}`] = event[`found_${name}`];
    },
  });
  assert.deepEqual(run(follow, [{ item: 7 }, { item: 8 }, {}], { tables }), [
    { keep: [{ item_price: 2.5, item_vegan: true }] },
    { keep: [{}] },
    { keep: [{}] },
  ]);
});

test("tables of cases say what is wrong with them", () => {
  const refused = (table, part) => assert.throws(() => new MemoryTables({ t: table }), { message: new RegExp(part) });
  refused({ rows: [] }, 'give either "key" or "cidr"');
  refused({ key: "a", cidr: "a", rows: [] }, 'give either "key" or "cidr"');
  refused({ key: "a", rows: [{ a: "x" }, { b: "x" }] }, "row 1 has no key");
  refused({ key: "a", rows: [{ a: "x" }, { a: "x" }] }, "rows 0 and 1 have the same key");
  refused({ key: "a", rows: [{ a: "x" }, { a: 1 }] }, "column \"a\" can't hold 1");
  refused({ cidr: "a", rows: [{ a: "10.0.0.0/33" }] }, "is no network");
  refused({ key: "a", row: [], rows: [] }, 'unknown entry "row"');
});
