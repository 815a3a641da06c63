// Every type, outcome and lookup in one plugin, and what differs between Node and a component: its cases are run natively
// here and over the component by the host. The Python SDK has the same plugin and is held to the same cases.

import { drop, fail, plugin } from "millrace-sdk";

export const { describe, transform } = plugin({
  name: "everything-js",
  version: "0.1.0",
  reads: ["event", "properties"],
  writes: ["url", "time_suspect", "event_time"],
  adds: { whole: "int64", real: "float64", truth: "bool", note: "string", time: "timestamp", country: "string" },
  lookups: {
    found_country: { table: "countries", key: "ip", column: "country" },
    found_people: { table: "countries", key: "ip", column: "people", type: "int64" },
    found_price: { table: "items", key: (event) => event.json("properties")?.item, column: "price", type: "float64" },
  },
  codes: ["unwanted", "broken"],
  config: { prefix: "" },
  transform(event, { prefix }) {
    switch (event.event) {
      case "upper":
        event.url = event.url === null ? null : prefix + event.url.toUpperCase();
        return;
      case "null":
        event.url = event.time_suspect = null;
        return;
      case "set":
        event.whole = Number.MIN_SAFE_INTEGER;
        event.real = 0.1;
        event.truth = false;
        event.time_suspect = !event.time_suspect;
        event.time = event.event_time;
        event.event_time = event.event_time! + 1;
        return;
      case "text":
        event.note = event.json("properties").text;
        return;
      case "look up":
        event.country = event.found_country;
        event.whole = event.found_people;
        event.real = event.found_price;
        return;
      case "date":
        event.note = new Date(event.event_time! / 1000).toISOString().slice(0, 19);
        return;
      case "clock":
        event.note = refused(() => Date.now()) && refused(() => new Date()) ? "refused" : "told";
        return;
      case "chance":
        event.note = refused(() => Math.random()) ? "refused" : "drawn";
        return;
      case "log":
        console.log("a line", { of: "log" });
        return event;
      case "drop":
        event.url = "not to be seen";
        return drop("unwanted");
      case "fail":
        event.url = "not to be seen";
        return fail("broken");
      case "rows":
        event.note = "all";
        return [event, { ...event, note: "one" }, { url: null }];
    }
  },
});

function refused(attempt: () => unknown): boolean {
  try {
    attempt();
    return false;
  } catch (error) {
    return String(error).includes("is not to be had in a plugin");
  }
}
