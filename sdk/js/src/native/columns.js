// Rows of golden cases as columns of the boundary, and back.

import { Buffer } from "node:buffer";

const shown = (value) => JSON.stringify(value);

const BASE_TYPES = { event_time: "timestamp", received_at: "timestamp", time_suspect: "bool" };

/** The type of a column by its values: text if there are none, int64 if all are whole numbers. */
export function typeOf(name, values) {
  if (Object.hasOwn(BASE_TYPES, name)) return BASE_TYPES[name];
  const given = values.filter((value) => value !== null);
  if (typeof given[0] === "boolean") return "bool";
  if (typeof given[0] !== "number") return "string";
  return given.every(Number.isInteger) ? "int64" : "float64";
}

/** What a column that the engine never leaves null has in rows of a case that do not speak of it. */
export const ALWAYS = { event_id: "an-event", device_id: "a-device", event_time: 0, received_at: 0 };

const RFC_3339 = /^(\d{4}-\d\d-\d\d)[Tt ]((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)(?:\.(\d{1,6}))?(?:[Zz]|([+-](?:[01]\d|2[0-3]):[0-5]\d))$/;

/** The microseconds since 1970 UTC of RFC 3339 text; anything else as it is. */
export function timeOf(value) {
  const [, date, clock, fraction = "", zone = "Z"] = (typeof value === "string" && RFC_3339.exec(value)) || [];
  // A day that its month does not have would pass for one of the next.
  if (date === undefined || new Date(`${date}T00:00Z`).getUTCDate() !== Number(date.slice(8))) return value;
  return Date.parse(`${date}T${clock}${zone}`) * 1000 + Number(fraction.padEnd(6, "0"));
}

const HOLDS = {
  string: (value) => typeof value === "string",
  bool: (value) => typeof value === "boolean",
  float64: (value) => typeof value === "number",
  int64: Number.isSafeInteger,
  timestamp: Number.isSafeInteger,
};

const FORMS = {
  timestamp:
    ': a time is a whole number of microseconds since 1970-01-01 UTC, or RFC 3339 text as in "2026-11-22T10:00:00Z"',
};

/** A column of values, as the host sends it: 64-bit integers as numbers, offsets as a plain array. */
export function columnOf(name, type, given) {
  const values = type === "timestamp" ? given.map(timeOf) : given;
  for (const value of values) {
    if (value !== null && !HOLDS[type](value)) throw new Error(`column ${shown(name)} can't hold ${shown(value)}${FORMS[type] ?? ""}`);
  }
  return { values: valuesOf(type, values), validity: validityOf(values) };
}

function valuesOf(type, values) {
  switch (type) {
    case "string": {
      const texts = values.map((value) => Buffer.from(value ?? "", "utf8"));
      const offsets = [0];
      for (const text of texts) offsets.push(offsets[offsets.length - 1] + text.length);
      return { tag: "text", val: { offsets, bytes: new Uint8Array(Buffer.concat(texts)) } };
    }
    case "bool":
      return { tag: "bool", val: Uint8Array.from(values, Number) };
    case "float64":
      return { tag: "float64", val: values.map((value) => value ?? 0) };
    default:
      return { tag: "int64", val: values.map((value) => value ?? 0) };
  }
}

function validityOf(values) {
  if (!values.includes(null)) return null;
  const bits = new Uint8Array(Math.ceil(values.length / 8));
  values.forEach((value, row) => {
    if (value !== null) bits[row >> 3] |= 1 << (row & 7);
  });
  return bits;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The values of a column that was sent or returned, its form checked. */
export function valuesOfColumn(name, { values: { tag, val }, validity }, rows) {
  const length = tag === "text" ? val.offsets.length - 1 : val.length;
  if (length !== rows) throw new Error(`column ${shown(name)} has ${length} values for ${rows} rows`);
  if (tag === "text" && val.offsets[rows] !== val.bytes.length) {
    throw new Error(`column ${shown(name)}: its offsets end at ${val.offsets[rows]} of ${val.bytes.length} bytes`);
  }
  return Array.from({ length: rows }, (_, row) => {
    if (validity && ((validity[row >> 3] >> (row & 7)) & 1) === 0) return null;
    switch (tag) {
      case "text":
        return utf8.decode(val.bytes.subarray(val.offsets[row], val.offsets[row + 1]));
      case "bool":
        return val[row] !== 0;
      case "int64":
        return plain(val[row]);
      default:
        return val[row];
    }
  });
}

/** A BigInt as JSON can hold it; beyond 2^53 as it is, which JSON refuses. */
function plain(value) {
  return typeof value === "bigint" && Number.isSafeInteger(Number(value)) ? Number(value) : value;
}
