// What becomes of events: every outcome, and that columns hold what was set and nothing else.

import assert from "node:assert/strict";
import { test } from "node:test";

import { drop, fail, plugin } from "millrace-sdk";
import { run } from "millrace-sdk/testing";

const base = { name: "tested", version: "1.0.0" };

/** A plugin that does what the event says, over columns of every type. */
const obedient = plugin({
  ...base,
  reads: { event: "string", big: "int64" },
  writes: { url: "string", count: "int64", share: "float64", time_suspect: "bool", event_time: "timestamp" },
  adds: { length: "int64", note: "string", ratio: "float64", flag: "bool", at: "timestamp" },
  codes: ["unwanted", "broken"],
  transform(event) {
    const word = event.event ?? "";
    if (word.includes("upper")) event.url = event.url?.toUpperCase() ?? null;
    if (word.includes("null")) event.count = event.share = event.time_suspect = event.url = null;
    if (word.includes("set")) {
      event.count = (event.count ?? 0) + 1;
      event.share = (event.share ?? 0) / 2;
      event.time_suspect = !event.time_suspect;
      event.event_time += 1_000_000;
      event.length = word.length;
      event.note = `${word} — ${event.url}`;
      event.ratio = 1 / 3;
      event.flag = true;
      event.at = event.event_time;
    }
    if (word.includes("drop")) return drop("unwanted");
    if (word.includes("fail")) return fail("broken");
    if (word.includes("twice")) return [event, event];
    if (word.includes("copies")) {
      return [{ ...event, note: "first" }, { note: "second", url: null }, event, { count: 7 }];
    }
    return event;
  },
});

function expected(row) {
  const word = row.event ?? "";
  const now = { url: null, count: null, share: null, time_suspect: null, ...row };
  delete now.event;
  delete now.big;
  if (word.includes("upper")) now.url = now.url?.toUpperCase() ?? null;
  if (word.includes("null")) now.count = now.share = now.time_suspect = now.url = null;
  if (word.includes("set")) {
    now.count = (now.count ?? 0) + 1;
    now.share = (now.share ?? 0) / 2;
    now.time_suspect = !now.time_suspect;
    now.event_time += 1_000_000;
    now.length = word.length;
    now.note = `${word} — ${now.url}`;
    now.ratio = 1 / 3;
    now.flag = true;
    now.at = now.event_time;
  }
  const dense = (row) => Object.fromEntries(Object.entries(row).filter(([, value]) => value !== null));
  const keep = (...rows) => ({ keep: rows.map(dense) });
  if (word.includes("drop")) return { drop: "unwanted" };
  if (word.includes("fail")) return { fail: "broken" };
  if (word.includes("twice")) return keep(now, now);
  if (word.includes("copies")) {
    return keep({ ...now, note: "first" }, { ...now, note: "second", url: null }, now, { ...now, count: 7 });
  }
  return keep(now);
}

/** Numbers that are the same in every run. */
function* lots(seed) {
  let state = seed;
  for (;;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state / 2 ** 32;
  }
}

test("random batches become what a plain loop makes of them", () => {
  const words = ["", "upper", "null", "set", "drop", "fail", "twice", "copies"];
  const texts = ["", "a", "https://shop.example/p?x=1", "größe", "日本語", "🎉 party 🎉", "a\u0000b", "ÿ\u0080\u07ff\uffff"];
  for (let seed = 1; seed <= 120; seed++) {
    const lot = lots(seed);
    const next = (below) => Math.floor(lot.next().value * below);
    const maybe = (value) => (next(4) === 0 ? undefined : value);
    // Some batches change little, so that there are runs to copy; some are ASCII throughout.
    const busy = next(3);
    const ascii = next(2) === 0;
    const rows = Array.from({ length: next(40) }, () => {
      const row = {
        event: busy === 0 && next(6) > 0 ? "" : `${words[next(words.length)]} ${words[next(words.length)]}`,
        url: maybe(texts[next(ascii ? 3 : texts.length)]),
        count: maybe(next(2) === 0 ? next(1000) - 500 : (next(2) * 2 - 1) * (Number.MAX_SAFE_INTEGER - next(10) - 1)),
        share: maybe(lot.next().value + 0.5),
        time_suspect: maybe(next(2) === 0),
        event_time: 1_700_000_000_000_000 + next(1_000_000),
        big: maybe(next(9)),
      };
      return Object.fromEntries(Object.entries(row).filter(([, value]) => value !== undefined));
    });
    // The types of columns that are null throughout can't be told from the rows.
    const given = rows.concat([{ event: "", count: 1, share: 0.5, time_suspect: true, big: 1, event_time: 1 }]);
    assert.deepEqual(run(obedient, given), given.map(expected), `seed ${seed}`);
  }
});

/** The bare answer of a plugin to columns of text. */
function answer(spec, ...columns) {
  const { describe, transform } = plugin({ ...base, ...spec });
  describe("{}");
  const sent = columns.map((values) => {
    const texts = values.map((value) => Buffer.from(value ?? ""));
    const offsets = [0];
    for (const text of texts) offsets.push(offsets.at(-1) + text.length);
    const validity = values.includes(null)
      ? values.reduce((bits, value, row) => {
          if (value !== null) bits[row >> 3] |= 1 << (row & 7);
          return bits;
        }, new Uint8Array((values.length + 7) >> 3))
      : null;
    return { values: { tag: "text", val: { offsets, bytes: new Uint8Array(Buffer.concat(texts)) } }, validity };
  });
  return transform({ rows: columns[0]?.length ?? 0, columns: sent });
}

test("a column that no event changed is returned as unchanged, and costs nothing", () => {
  const trim = {
    writes: ["url", "event"],
    transform(event) {
      event.url = event.url?.trim();
      event.event = event.event;
    },
  };
  const untouched = answer(trim, ["a", null, "ä"], ["x", "y", null]);
  assert.deepEqual(untouched, {
    columns: [{ tag: "unchanged" }, { tag: "unchanged" }],
    sources: null,
    dropped: [],
    failed: [],
  });
  const touched = answer(trim, ["a", " b ", "ä", null], ["x", "y", null, "z"]);
  assert.deepEqual(touched.columns[1], { tag: "unchanged" });
  assert.deepEqual(touched.columns[0].val, {
    values: { tag: "text", val: { offsets: Uint32Array.of(0, 1, 2, 4, 4), bytes: new Uint8Array(Buffer.from("abä")) } },
    validity: Uint8Array.of(0b0111),
  });
  assert.equal(touched.sources, null);
});

test("rows that are left out move the others, so nothing is unchanged then", () => {
  const output = answer(
    { writes: ["url"], codes: ["x"], transform: ({ url }) => (url === "b" ? drop("x") : undefined) },
    ["a", "b", "ä", null],
  );
  assert.deepEqual(output, {
    columns: [
      {
        tag: "column",
        val: {
          values: { tag: "text", val: { offsets: Uint32Array.of(0, 1, 3, 3), bytes: new Uint8Array(Buffer.from("aä")) } },
          validity: Uint8Array.of(0b011),
        },
      },
    ],
    sources: Uint32Array.of(0, 2, 3),
    dropped: [{ row: 1, code: 0 }],
    failed: [],
  });
});

test("a batch without rows and a plugin without columns answer too", () => {
  assert.deepEqual(answer({ transform() {} }), { columns: [], sources: null, dropped: [], failed: [] });
  const adds = answer({ adds: { a: "int64", b: "string" }, transform() {} });
  assert.deepEqual(
    adds.columns.map(({ val }) => [val.values.tag, val.validity]),
    [
      ["int64", null],
      ["text", null],
    ],
  );
});

test("nulls are in the validity at every place of a byte", () => {
  for (let rows = 1; rows <= 17; rows++) {
    for (let missing = 0; missing < rows; missing++) {
      const found = run(
        plugin({ ...base, reads: ["event"], adds: { n: "int64" }, transform: (e) => void (e.n = e.event && 1) }),
        Array.from({ length: rows }, (_, row) => (row === missing ? {} : { event: "x" })),
      );
      assert.deepEqual(
        found.map(({ keep }) => keep[0].n ?? null),
        Array.from({ length: rows }, (_, row) => (row === missing ? null : 1)),
      );
    }
  }
});

const failure = (spec, rows = [{ event: "x" }]) => {
  const lines = [];
  try {
    run(plugin({ ...base, reads: ["event"], ...spec }), rows, { log: (line) => lines.push(line) });
  } catch (error) {
    return { message: error.message, lines };
  }
  return { message: "nothing was thrown", lines };
};

test("mistakes of a plugin fail the event and say what to do", () => {
  const mistakes = [
    [{ transform: (event) => void (event.event = "y") }, "column event is not among those that the plugin writes"],
    [{ transform: (event) => void (event.evnt = "y") }, "object is not extensible"],
    [{ adds: { n: "int64" }, transform: (e) => void (e.n = "5") }, "column n takes a whole number or null, got string"],
    [{ adds: { n: "int64" }, transform: (e) => void (e.n = 0.5) }, "this number is not whole"],
    [{ adds: { n: "int64" }, transform: (e) => void (e.n = 2 ** 53) }, "use a BigInt beyond 2^53"],
    [{ adds: { n: "int64" }, transform: (e) => void (e.n = 2n ** 63n) }, "does not fit 64 bits"],
    [{ adds: { n: "bool" }, transform: (e) => void (e.n = 1) }, "column n takes true or false or null, got number"],
    [{ adds: { n: "float64" }, transform: (e) => void (e.n = 1n) }, "column n takes a number or null, got bigint"],
    [{ adds: { n: "string" }, transform: (e) => void (e.n = ["x"]) }, "column n takes a string or null, got an array"],
    [{ transform: () => drop("other") }, 'code "other" is not among the codes that the plugin declares'],
    [{ transform: () => [] }, "no row comes out: use drop(code)"],
    [{ transform: async () => {} }, "transform answered with a promise (it must not be async)"],
    [{ transform: () => true }, "transform answered with a value of type boolean"],
    [{ transform: () => null }, "transform answered with null"],
    [{ transform: () => [null] }, "a row out must be an object with columns"],
    [{ transform: () => [{ evnt: "x" }] }, 'a row out has "evnt", which is no column of the plugin'],
    [{ transform: (event) => [{ ...event, event: "y" }] }, "column event is not among those that the plugin writes"],
    [{ transform: (event) => event.json("properties") }, 'the plugin reads no column "properties"'],
    [{ transform: (event) => event.json("event") }, "SyntaxError"],
    [{ transform: () => undefined_name }, "ReferenceError: undefined_name is not defined"],
    [{ transform: () => { throw "text"; } }, "thrown: text"],
  ];
  for (const [spec, part] of mistakes) {
    const { message } = failure(spec);
    assert.ok(message.includes(part), `${message}\nlacks: ${part}`);
  }
});

test("what is thrown is logged, with its place, once the event is alone", () => {
  const spec = {
    transform(event) {
      if (event.event === "bad") throw new Error("no such luck");
    },
  };
  const { describe, transform } = plugin({ ...base, reads: ["event"], ...spec });
  const text = (...values) => ({
    values: {
      tag: "text",
      val: { offsets: [0, ...values.map((_, at) => values.slice(0, at + 1).join("").length)], bytes: new Uint8Array(Buffer.from(values.join(""))) },
    },
    validity: null,
  });
  const lines = [];
  const logged = plugin({ ...base, reads: ["event"], ...spec });
  assert.throws(
    () => run(logged, [{ event: "bad" }], { log: (line) => lines.push(line) }),
    /rows 0 to 1: the call failed: no such luck/,
  );
  assert.equal(lines.length, 1);
  assert.match(lines[0], /^no such luck\n.*rows\.test\.js/s);
  describe("{}");
  assert.throws(() => transform({ rows: 2, columns: [text("good", "bad")] }), (error) => error === "no such luck");
  // The event beside it is as if nothing had been.
  assert.deepEqual(transform({ rows: 1, columns: [text("good")] }).columns, []);
});

test("a row that is thrown away leaves nothing behind", () => {
  const found = run(
    plugin({
      ...base,
      reads: ["event"],
      writes: ["url"],
      adds: { note: "string" },
      codes: ["x"],
      transform(event) {
        event.url = `changed ${event.event}`;
        event.note = "noted";
        if (event.event === "drop") return drop("x");
        if (event.event === "plain") return [{ url: null }, {}];
      },
    }),
    [{ event: "drop", url: "a" }, { event: "keep", url: "b" }, { event: "plain", url: "c" }, { event: "drop" }],
  );
  assert.deepEqual(found, [
    { drop: "x" },
    { keep: [{ url: "changed keep", note: "noted" }] },
    { keep: [{ note: "noted" }, { url: "changed plain", note: "noted" }] },
    { drop: "x" },
  ]);
});

test("an integer beyond 2^53 is never handed over wrong", () => {
  const { describe, transform } = plugin({
    ...base,
    reads: ["event"],
    writes: ["count"],
    adds: { copy: "int64" },
    transform(event) {
      if (event.event === "read") event.copy = event.count;
      if (event.event === "write") event.count = -(2n ** 63n);
    },
  });
  describe("{}");
  const batch = (word, ...counts) => ({
    rows: counts.length,
    columns: [
      {
        values: {
          tag: "text",
          val: { offsets: counts.map((_, at) => at * word.length).concat(word.length * counts.length), bytes: new Uint8Array(Buffer.from(word.repeat(counts.length))) },
        },
        validity: null,
      },
      { values: { tag: "int64", val: counts }, validity: null },
    ],
  });
  assert.deepEqual(transform(batch("keep", 2 ** 60)).columns[0], { tag: "unchanged" });
  assert.throws(() => transform(batch("read", 2 ** 60)), (error) => error.includes("beyond 2^53"));
  assert.throws(() => transform(batch("read", 1, 2 ** 53)), (error) => error.includes("beyond 2^53"));
  const exact = transform(batch("read", Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 0, -1, 2 ** 32, -(2 ** 32)));
  assert.deepEqual(
    [...exact.columns[1].val.values.val],
    [2n ** 53n - 1n, 1n - 2n ** 53n, 0n, -1n, 2n ** 32n, -(2n ** 32n)],
  );
  assert.deepEqual([...transform(batch("write", 5)).columns[0].val.values.val], [-(2n ** 63n)]);
});

test("JSON columns are parsed when they are asked for", () => {
  const found = run(
    plugin({
      ...base,
      reads: ["event"],
      writes: ["properties"],
      adds: { total: "float64" },
      transform(event) {
        if (event.event !== "checkout") return;
        const properties = event.json("properties");
        if (properties === null) return;
        event.total = properties.price * properties.quantity;
        delete properties.card;
        event.properties = JSON.stringify(properties);
      },
    }),
    [
      { event: "checkout", properties: '{"price": 2.5, "quantity": 3, "card": "4111"}' },
      { event: "checkout" },
      { event: "view", properties: "not read" },
    ],
  );
  assert.deepEqual(found, [
    { keep: [{ properties: '{"price":2.5,"quantity":3}', total: 7.5 }] },
    { keep: [{}] },
    { keep: [{ properties: "not read" }] },
  ]);
});
