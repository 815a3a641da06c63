// What the SDK needs of the world it runs in: here QuickJS in a component, with the host's functions as imports.

import host from "millrace:transform/host";
import hostTables from "millrace:transform/tables";

import { withoutClockAndChance } from "../clock.js";
import { consoleOf } from "../console.js";

Object.assign(globalThis, withoutClockAndChance(), { console: consoleOf(log) });

export function log(text) {
  host.log(text);
}

export const tables = hostTables;

/** A string of characters 0 to 255, one for each byte. By way of base 64 it is done in native code, at 7 ns a byte; a loop
 * over the bytes takes ten times as long. */
export function binaryOf(bytes) {
  return atob(bytes.toBase64());
}

/** The bytes of a string of characters 0 to 255. */
export function bytesOf(binary) {
  return Uint8Array.fromBase64(btoa(binary));
}

/** Runs an exported function. */
export function calling(run) {
  return run();
}
