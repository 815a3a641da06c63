// A native test finds what a component would find: no clock, no chance, no Node.

import assert from "node:assert/strict";
import { test } from "node:test";

import { plugin } from "millrace-sdk";
import { run } from "millrace-sdk/testing";

const outcome = (transform) => {
  const lines = [];
  const tested = plugin({ name: "tested", version: "1.0.0", adds: { out: "string" }, transform });
  try {
    return run(tested, [{}], { log: (line) => lines.push(line) })[0].keep[0].out;
  } catch (error) {
    return error.message;
  }
};

test("clock and chance throw and say what to do", () => {
  const attempts = [
    () => Date.now(),
    () => new Date(),
    () => Date(),
    () => Date(0),
    () => performance.now(),
    () => new (class extends Date {})(),
    () => Math.random(),
  ];
  for (const attempt of attempts) {
    assert.match(outcome(attempt), /is not to be had in a plugin.*use event\.received_at or event\.event_time/);
  }
  // And are back for the test.
  assert.ok(Date.now() > 0 && new Date() instanceof Date && Math.random() < 1 && performance.now() > 0);
});

test("dates made from values work, in UTC", () => {
  const made = outcome((event) => {
    const dates = [new Date(0), new Date("2026-01-02T03:04:05.678Z"), new Date(2026, 0, 2), new Date(Date.UTC(2026, 1))];
    assert.ok(dates.every((date) => date instanceof Date));
    assert.equal(Math.max(1, Math.floor(2.5)), 2);
    event.out = dates.map((date) => date.toISOString()).join(" ") + Date.parse("2026-01-01");
  });
  assert.equal(
    made,
    "1970-01-01T00:00:00.000Z 2026-01-02T03:04:05.678Z 2026-01-02T00:00:00.000Z 2026-02-01T00:00:00.000Z1767225600000",
  );
});

test("what QuickJS does not have is not there", () => {
  const found = outcome((event) => {
    event.out = [typeof URL, typeof TextDecoder, typeof Buffer, typeof process, typeof fetch, typeof Intl].join();
  });
  assert.equal(found, Array(6).fill("undefined").join());
  assert.equal(typeof URL, "function");
});

test("the console writes to the plugin's author", () => {
  const lines = [];
  const tested = plugin({
    name: "tested",
    version: "1.0.0",
    transform() {
      console.log("n", 1, { a: [null] }, undefined);
      console.error(new RangeError("far"));
    },
  });
  run(tested, [{}], { log: (line) => lines.push(line) });
  assert.equal(lines[0], 'n 1 {"a":[null]} undefined');
  assert.match(lines[1], /^RangeError: far/);
});
