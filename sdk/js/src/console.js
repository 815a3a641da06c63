// A console that writes to the plugin's author.

function shown(value) {
  if (typeof value === "string") return value;
  if (value instanceof Error) return value.stack ?? String(value);
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}

/** A console whose lines go to `log`. */
export function consoleOf(log) {
  const write = (...values) => log(values.map(shown).join(" "));
  return { debug: write, error: write, info: write, log: write, trace: write, warn: write };
}
