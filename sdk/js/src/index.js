// What an author imports.

import { log as send } from "#platform";
import { Outcome } from "./outcome.js";

export { plugin } from "./plugin.js";

/** Leaves the event out on purpose, under a code that the plugin declared. */
export function drop(code) {
  return new Outcome("drop", code);
}

/** Says that the event can't be transformed: it becomes a dead letter under a code that the plugin declared. */
export function fail(code) {
  return new Outcome("fail", code);
}

/** Sends a line to the plugin's author. It leaves no trace in any row. */
export function log(...values) {
  send(values.map(String).join(" "));
}
