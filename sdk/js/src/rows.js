// The events of one call, one after the other, and what becomes of them.

import { checker, returned, Sent } from "./column.js";
import { lookupReaders } from "./lookups.js";
import { Outcome } from "./outcome.js";

const shown = (value) => JSON.stringify(value) ?? String(value);

/** What an event can do beside having columns. */
const METHODS = {
  /** What is in a column of JSON text; null where that is null. Parsed anew in each call, so keep it. */
  json(name) {
    const text = this[name];
    if (text === undefined) throw new TypeError(`the plugin reads no column ${shown(name)}`);
    return text === null ? null : JSON.parse(text);
  },
};

/**
 * Runs `transform` over every event of a batch and gives the answer for the host.
 *
 * There is one event object, whose properties speak of the row at hand: a value is decoded when it is read, and a column
 * that no event sets is never built. A row's changes are staged until it is known what becomes of the row.
 */
export function transformBatch(batch, layout, transform, config) {
  const { columns, codes } = layout;
  const rows = batch.rows;
  let row = 0;

  const sent = new Map();
  for (const column of columns) {
    if (column.use !== "read" && column.use !== "write") continue;
    const given = new Sent(column.name, batch.columns[sent.size]);
    if (column.tag !== undefined && column.tag !== given.tag) {
      throw new Error(`column ${shown(column.name)} is not of type ${column.type}, which the plugin declares`);
    }
    sent.set(column.name, given);
  }
  const readers = new Map([...sent].map(([name, column]) => [name, column.reader()]));
  const view = { row: 0, event: null };
  for (const [name, reader] of lookupReaders(layout.lookups, rows, sent, view)) readers.set(name, reader);
  view.event = eventOf([...readers].map(([name, read]) => ({ name, get: () => read(view.row) })));

  let out = 0;
  // Rows out are rows in until one is left out or multiplied.
  let sources = null;
  const left = { drop: [], fail: [] };

  const slots = columns.map(({ name, use, tag }) => {
    const read = readers.get(name) ?? (() => null);
    const kind = tag ?? sent.get(name)?.tag;
    const check = checker(name, kind);
    // The rows out that were set, and what to. The last of them is the row at hand's until that is settled.
    const at = [];
    const to = [];
    // The row whose value was read or set last, and that value.
    let known = -1;
    let value = null;
    const get = () => {
      if (known !== row) {
        value = read(row);
        known = row;
      }
      return value;
    };
    const set = (given) => {
      const checked = check(given);
      // To set what is there changes nothing.
      if (known === row && checked === value) return;
      value = checked;
      known = row;
      if (at.length > 0 && at[at.length - 1] === out) {
        to[to.length - 1] = checked;
      } else {
        at.push(out);
        to.push(checked);
      }
    };
    /** What was set for the row at hand is forgotten. */
    const forget = () => {
      known = -1;
      if (at.length > 0 && at[at.length - 1] === out) {
        at.pop();
        to.pop();
      }
    };
    const isWritten = use === "write" || use === "add";
    return { name, use, tag: kind, sent: sent.get(name) ?? null, at, to, get, set: isWritten ? set : undefined, forget };
  });
  const event = eventOf(slots);
  const slotOf = new Map(slots.map((slot) => [slot.name, slot]));
  const written = slots.filter(({ set }) => set !== undefined);

  const forget = () => {
    for (const slot of written) slot.forget();
  };
  const moved = () => (sources ??= Array.from({ length: row }, (_, before) => before));

  const keep = () => {
    if (sources !== null) sources.push(row);
    out += 1;
  };
  const leave = ({ kind, code }) => {
    const index = codes.indexOf(code);
    if (index < 0) throw new Error(`code ${shown(code)} is not among the codes that the plugin declares`);
    forget();
    moved();
    left[kind].push({ row, code: index });
  };
  const multiply = (list) => {
    if (list.length === 0) throw new Error("no row comes out: use drop(code), so that it is counted");
    const current = written.map((slot) => slot.get());
    forget();
    moved();
    for (const given of list) {
      if (given !== event) check(given);
      written.forEach((slot, at) => {
        const own = given !== event && Object.hasOwn(given, slot.name);
        slot.set(own ? given[slot.name] : current[at]);
      });
      sources.push(row);
      out += 1;
      written.forEach((slot) => slot.forget());
    }
  };
  /** A row out may repeat what was only read, as a copy of the event does, and may change only what is written. */
  const check = (given) => {
    if (given === null || typeof given !== "object") throw new TypeError("a row out must be an object with columns");
    for (const name of Object.keys(given)) {
      const slot = slotOf.get(name);
      if (slot === undefined) throw new TypeError(`a row out has ${shown(name)}, which is no column of the plugin`);
      if (slot.set === undefined && given[name] !== slot.get()) throw readOnly(name);
    }
  };

  for (; row < rows; row++) {
    const answer = transform(event, config);
    if (answer === undefined || answer === event) keep();
    else if (answer instanceof Outcome) leave(answer);
    else if (Array.isArray(answer)) multiply(answer);
    else throw new TypeError(`transform answered with ${nameOf(answer)}: use nothing, drop(…), fail(…) or an array of rows`);
  }

  return {
    columns: written.map(({ sent, use, tag, at, to }) => {
      const unchanged = use === "write" && at.length === 0 && sources === null;
      return unchanged ? { tag: "unchanged" } : returned(sent, tag, out, sources, at, to);
    }),
    sources: sources === null ? null : Uint32Array.from(sources),
    dropped: left.drop,
    failed: left.fail,
  };
}

function nameOf(answer) {
  if (typeof answer?.then === "function") return "a promise (it must not be async)";
  return answer === null ? "null" : `a value of type ${typeof answer}`;
}

function readOnly(name) {
  return new TypeError(`column ${name} is not among those that the plugin writes`);
}

/** An object with a property for each slot, and nothing that can be added to it: a mistyped column must not pass. */
function eventOf(slots) {
  const properties = {};
  for (const { name, use, get, set } of slots) {
    properties[name] = {
      // A copy of an event is a row out, of which a lookup is no part: nothing is looked up for a copy.
      enumerable: use !== "lookup",
      get,
      set:
        set ??
        (() => {
          throw readOnly(name);
        }),
    };
  }
  return Object.seal(Object.create(METHODS, properties));
}
