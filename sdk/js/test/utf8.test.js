// Text as bytes and back, held to what Node's own coders do.

import assert from "node:assert/strict";
import { test } from "node:test";

import { binaryOf, bytesOf } from "../src/platform/native.js";
import { wordsNotAscii, decode, encode, valuesNotAscii } from "../src/utf8.js";

test("every character there is comes back, alone and beside others", () => {
  let all = "";
  for (let point = 0; point <= 0x10ffff; point++) {
    if (point >= 0xd800 && point <= 0xdfff) continue;
    all += String.fromCodePoint(point);
  }
  const spread = [...all].join("x");
  for (const text of [all, spread]) {
    const binary = encode(text);
    assert.ok(Buffer.from(text, "utf8").equals(Buffer.from(bytesOf(binary))));
    assert.equal(decode(binaryOf(bytesOf(binary))), text);
  }
});

test("half a surrogate pair becomes U+FFFD, as with TextEncoder", () => {
  for (const text of ["\ud83c", "a\udf89b", "\udf89\ud83c", "\ud83c\ud83c\udf89", "🎉\ud83c"]) {
    assert.deepEqual(bytesOf(encode(text)), new TextEncoder().encode(text));
  }
});

test("values that are not ASCII are found, wherever they lie", () => {
  for (const other of ["\u0080", "ÿ", "日", "🎉"]) {
    for (let place = 0; place < 130; place++) {
      const values = Array.from({ length: 13 }, (_, row) => "x".repeat((row * 7) % 23));
      let at = 0;
      const row = values.findIndex((value) => (at += value.length) > place);
      if (row < 0) continue;
      values[row] = values[row].slice(1) + other;
      const offsets = [0];
      for (const value of values) offsets.push(offsets.at(-1) + Buffer.byteLength(value));
      const bytes = new Uint8Array(Buffer.from(values.join("")));
      const words = wordsNotAscii(bytes);
      assert.ok(words.length > 0);
      assert.equal(valuesNotAscii(words, offsets)[row], 1);
    }
  }
  assert.deepEqual(wordsNotAscii(new Uint8Array(100).fill(0x7f)), []);
  assert.deepEqual(wordsNotAscii(new Uint8Array(0)), []);
  const bytes = new Uint8Array(100);
  bytes[5] = bytes[40] = bytes[41] = bytes[99] = 0x80;
  assert.deepEqual(wordsNotAscii(bytes), [1, 10, 24]);
  // A value across two words belongs to both.
  const offsets = [0, 0, 3, 4, 7, 9, 12, 12];
  assert.deepEqual([...valuesNotAscii([0], offsets)], [0, 1, 1, 0, 0, 0, 0]);
  assert.deepEqual([...valuesNotAscii([1], offsets)], [0, 0, 0, 1, 1, 0, 0]);
  assert.deepEqual([...valuesNotAscii([0, 2], offsets)], [0, 1, 1, 0, 1, 1, 0]);
  assert.deepEqual([...valuesNotAscii([], offsets)], [0, 0, 0, 0, 0, 0, 0]);
});
