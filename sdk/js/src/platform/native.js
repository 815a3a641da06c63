// What the SDK needs of the world it runs in: here Node, for tests. A plugin finds what it would find in a component, and
// what a component does not have is not there.

import { Buffer } from "node:buffer";
import process from "node:process";

import { withoutClockAndChance } from "../clock.js";
import { consoleOf } from "../console.js";

// The time zone of a component, once for all: to change it for each call takes longer than the call.
process.env.TZ = "UTC";

// A plugin under test may be bundled with a copy of this module of its own, so what tests set is kept in one place.
const STATE = Symbol.for("millrace-sdk.native");
const state = (globalThis[STATE] ??= {
  tables: undefined,
  log: (text) => process.stderr.write(`${text}\n`),
  isRunning: false,
});

/** Sets where lines of log go and where lookup tables come from; answers what was set before. */
export function setNative(changes) {
  const before = { ...state };
  Object.assign(state, changes);
  return before;
}

export function log(text) {
  state.log(text);
}

export const tables = {
  columns: (name) => state.tables?.columns(name) ?? null,
  lookup(name, keys, wanted) {
    if (state.tables === undefined) throw new Error(`there is no table ${JSON.stringify(name)}`);
    return state.tables.lookup(name, keys, wanted);
  },
};

export function binaryOf(bytes) {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

export function bytesOf(binary) {
  // As `btoa` does it.
  if (/[^\x00-\xff]/.test(binary)) throw new RangeError("a character is beyond 255");
  return new Uint8Array(Buffer.from(binary, "latin1"));
}

// Globals of Node that QuickJS does not have.
const ABSENT = [
  "Buffer",
  "Headers",
  "Intl",
  "TextDecoder",
  "TextEncoder",
  "URL",
  "URLSearchParams",
  "WebAssembly",
  "clearInterval",
  "clearTimeout",
  "crypto",
  "fetch",
  "global",
  "process",
  "setImmediate",
  "setInterval",
  "setTimeout",
  "structuredClone",
];

/** Runs an exported function with the globals of a component. */
export function calling(run) {
  if (state.isRunning) return run();
  const stand = { ...withoutClockAndChance(), console: consoleOf(log) };
  for (const name of ABSENT) stand[name] = undefined;
  const before = Object.keys(stand).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  for (const [name, value] of Object.entries(stand)) {
    Object.defineProperty(globalThis, name, { configurable: true, enumerable: false, writable: true, value });
  }
  state.isRunning = true;
  try {
    return run();
  } finally {
    state.isRunning = false;
    for (const [name, descriptor] of before) {
      if (descriptor === undefined) delete globalThis[name];
      else Object.defineProperty(globalThis, name, descriptor);
    }
  }
}
