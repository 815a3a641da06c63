// What is declared, and the configuration.

import assert from "node:assert/strict";
import { test } from "node:test";

import { plugin } from "millrace-sdk";

const base = { name: "tested", version: "1.0.0", transform() {} };

test("the manifest says what was declared", () => {
  const { describe } = plugin({
    ...base,
    reads: ["event", "url"],
    writes: ["url", "ip"],
    adds: { length: "int64", at: "timestamp" },
    lookups: { country: { table: "countries", key: "ip" }, zone: { table: "zones", key: "country" } },
    codes: ["internal", "broken"],
  });
  assert.deepEqual(describe("{}"), {
    name: "tested",
    version: "1.0.0",
    reads: ["event", "url", "ip"],
    writes: ["url", "ip"],
    adds: [
      { name: "length", ty: "int64" },
      { name: "at", ty: "timestamp" },
    ],
    tables: ["countries", "zones"],
    codes: ["internal", "broken"],
  });
});

test("it may follow the configuration", () => {
  const { describe } = plugin({
    ...base,
    config: { columns: ["url"], prefix: "is_" },
    configure: ({ columns, prefix }) => ({ columns, added: columns.map((name) => prefix + name) }),
    reads: ({ columns }) => columns,
    adds: ({ added }) => Object.fromEntries(added.map((name) => [name, "bool"])),
  });
  assert.deepEqual(describe("").reads, ["url"]);
  const manifest = describe('{"columns": ["ip", "app"]}');
  assert.deepEqual(manifest.reads, ["ip", "app"]);
  assert.deepEqual(manifest.adds.map(({ name }) => name), ["is_ip", "is_app"]);
});

test("a configuration that does not fit is refused with what would", () => {
  const refused = (spec, config, part) => {
    const { describe } = plugin({ ...base, ...spec });
    assert.throws(() => describe(config), (error) => typeof error === "string" && error.includes(part));
  };
  refused({}, '{"min": 1}', 'unknown option "min": there are none');
  refused({ config: { min: 0, max: 1 } }, '{"mn": 1}', 'unknown option "mn": there are min, max');
  refused({ config: { min: 0 } }, '{"min": "1"}', 'option "min" must be a number, not a string');
  refused({ config: { words: ["x"] } }, '{"words": {}}', 'option "words" must be an array, not an object');
  refused({ config: { min: 0 } }, '{"min": null}', 'option "min" must be a number, not null');
  refused({}, "[]", "the configuration must be an object, not an array");
  refused({}, "{", "the configuration is no JSON");
  refused({ configure: () => { throw new Error("min must be even"); } }, "{}", "min must be even");
  refused({ reads: "event" }, "{}", "reads must be an array of columns");
  refused({ adds: { a: "text" } }, "{}", 'column "a" has no type "text": use string, timestamp');
  refused({ reads: ["a"], adds: { a: "string" } }, "{}", 'column "a" is declared twice');
  // Who takes the configuration apart sees all of it.
  const { describe } = plugin({ ...base, configure: (given) => assert.deepEqual(given, { any: 1 }) });
  describe('{"any": 1}');
});

test("a plugin that can't be is refused when its module is loaded", () => {
  const refused = (spec, part) => assert.throws(() => plugin(spec), { message: new RegExp(part) });
  refused(undefined, "takes an object");
  refused({ ...base, name: undefined }, "needs a name");
  refused({ ...base, version: 1 }, "needs a version");
  refused({ ...base, transform: undefined }, "needs transform, a function");
  refused({ ...base, configure: {} }, "needs configure, a function");
  refused({ ...base, read: ["event"] }, 'has no option "read"; it has name, version, reads');
});

test("transform comes after describe", () => {
  const { transform } = plugin(base);
  assert.throws(() => transform({ rows: 0, columns: [] }), (error) => error === "describe must be called before transform");
});
