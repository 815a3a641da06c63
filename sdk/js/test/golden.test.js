// The golden cases of the example, and that the runner finds what is wrong.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { drop, plugin } from "millrace-sdk";
import { checkCases, run } from "millrace-sdk/testing";

import { loadNative } from "../src/native/build.js";
import { outcomesOf } from "../src/native/testing.js";
import * as campaign from "../examples/campaign/src/index.js";

const base = { name: "tested", version: "1.0.0" };

test("the example does what its cases say", () => {
  assert.equal(checkCases(campaign, new URL("../examples/campaign/cases", import.meta.url)), 4);
});

test("Python's SDK and this one do what the shared cases say", async () => {
  const everything = await loadNative(fileURLToPath(new URL("everything/everything.ts", import.meta.url)));
  assert.equal(checkCases(everything, new URL("everything/cases", import.meta.url)), 7);
});

test("the example of the README does what it says", async () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const [source, use] = readme.split("```js\n").slice(1).map((block) => block.split("```")[0]);
  const dir = mkdtempSync(join(tmpdir(), "readme-"));
  try {
    writeFileSync(join(dir, "shout.js"), source);
    const shout = await loadNative(join(dir, "shout.js"));
    assert.deepEqual(run(shout, [{ event: "internal: x" }, {}]), [{ drop: "internal" }, { keep: [{}] }]);
    const [, rows, expected] = use.match(/run\(shout, (\[.*?\])\), (\[.*\])\)/);
    assert.deepEqual(run(shout, Function(`return ${rows}`)()), Function(`return ${expected}`)());
  } finally {
    rmSync(dir, { recursive: true });
  }
});

const upper = plugin({
  ...base,
  reads: ["event"],
  writes: ["url"],
  codes: ["empty"],
  transform(event) {
    if (event.url === "") return drop("empty");
    event.url = event.url?.toUpperCase();
  },
});

const timed = plugin({
  ...base,
  reads: ["event_time", "device_id"],
  writes: ["url"],
  transform() {},
});

test("what no event is without is never null, and times may be text", () => {
  const told = (row) => () => run(timed, [{}, row]);
  const never = /row 1: column "device_id" can't be null, every event has it: leave it out, and it is "a-device"/;
  assert.throws(told({ device_id: null }), never);
  assert.throws(told({ event_time: null }), /leave it out, and it is 0, or give a value/);
  for (const time of ["now", "2023-02-29T00:00:00Z", "2023-01-01T24:00:00Z", "2023-01-01T00:00:00", 0.5]) {
    assert.throws(told({ event_time: time }), /"event_time" can't hold .*: a time is a whole number of microseconds since/);
  }
  assert.deepEqual(told({ event_time: "2026-11-22t10:00:00.5-01:00" })(), [{ keep: [{}] }, { keep: [{}] }]);
});

function withCases(cases, check) {
  const dir = mkdtempSync(join(tmpdir(), "cases-"));
  try {
    for (const [name, given] of Object.entries(cases)) writeFileSync(join(dir, name), JSON.stringify(given));
    check(dir);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test("what differs is told, of all cases and rows", () => {
  const cases = {
    "a.json": { rows_in: [{ url: "x" }, { url: "" }, {}], expect: [{ keep: [{ url: "x" }] }, { keep: [{}] }, { keep: [{ url: null }] }] },
    "b.json": { rows_in: [{ url: "x" }], expect: [] },
    "c.json": { rows_in: [{ ip: "x" }], expect: [{ keep: [{}] }] },
    "d.json": { config_error: "no such luck" },
    "e.json": { config: { a: 1 }, config_error: "something else" },
    "f.json": { rows: [] },
    "g.json": { config: { a: 1 }, rows_in: [{}], expect: [{ keep: [{}] }] },
    "ignored.txt": {},
  };
  withCases(cases, (dir) => {
    assert.throws(() => checkCases(upper, dir), ({ message }) => {
      for (const part of [
        'a.json: row 0:\n  expected {"keep":[{"url":"x"}]}\n  came out {"keep":[{"url":"X"}]}\nrow 1:',
        'came out {"drop":"empty"}',
        "b.json: 1 rows in, but 0 expectations",
        'c.json: rows_in has the column "ip", which the plugin does not read',
        'd.json: the configuration was accepted, expected an error with "no such luck"',
        'e.json: the configuration was refused with',
        'f.json: is no golden case: it has an unknown entry "rows"',
        "g.json: the configuration was refused: the configuration has an unknown option",
      ]) {
        assert.ok(message.includes(part), `${message}\nlacks: ${part}`);
      }
      assert.ok(!message.includes("row 2"));
      return true;
    });
  });
  withCases({}, (dir) => assert.throws(() => checkCases(upper, dir), /holds no cases/));
});

test("with bless what came out is written down", () => {
  withCases({ "a.json": { about: "b", rows_in: [{ url: "x" }, { url: "" }] } }, (dir) => {
    assert.equal(checkCases(upper, dir, { bless: true }), 1);
    const written = JSON.parse(readFileSync(join(dir, "a.json"), "utf8"));
    assert.deepEqual(written.expect, [{ keep: [{ url: "X" }] }, { drop: "empty" }]);
    assert.equal(written.about, "b");
    assert.equal(checkCases(upper, dir), 1);
  });
});

test("a row that depends on its neighbours is found", () => {
  let seen = 0;
  const counting = plugin({ ...base, adds: { n: "int64" }, transform: (event) => void (event.n = seen++) });
  assert.throws(() => run(counting, [{}, {}]), /row 0 depends on its neighbours/);
});

test("an answer that breaks the contract is found", () => {
  const manifest = { reads: [], writes: [], adds: [{ name: "n", ty: "int64" }], codes: ["x"] };
  const column = (...values) => ({ tag: "column", val: { values: { tag: "int64", val: values }, validity: null } });
  const refused = (output, part) => {
    const whole = { columns: [column(1n, 2n)], sources: null, dropped: [], failed: [], ...output };
    assert.throws(() => outcomesOf(manifest, { rows: 2, columns: [] }, whole), { message: new RegExp(part) });
  };
  refused({ columns: [] }, "0 columns came out, the manifest has 1");
  refused({ columns: [column(1n)] }, "has 1 values for 2 rows");
  refused({ columns: [{ tag: "unchanged" }] }, "can't be unchanged here");
  refused({ dropped: [{ row: 0, code: 0 }] }, "was left out, and came out");
  refused({ sources: [0], columns: [column(1n)] }, "row 1 neither came out nor was left out");
  refused({ sources: [1, 0] }, "comes out out of order");
  refused({ sources: [0], columns: [column(1n)], dropped: [{ row: 1, code: 1 }] }, "there is no code 1");
  refused({ sources: [], columns: [column()], dropped: [{ row: 1, code: 0 }, { row: 0, code: 0 }] }, "out of place");
  refused({ sources: [0], columns: [column(1n)], dropped: [{ row: 1, code: 0 }], failed: [{ row: 1, code: 0 }] }, "twice");
});
