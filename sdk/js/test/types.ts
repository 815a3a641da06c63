// Compiled and never run: what the types let an author write, and what they do not.

import { drop, fail, plugin } from "millrace-sdk";

plugin({
  name: "typed",
  version: "1.0.0",
  reads: ["event", "event_time", "time_suspect", "of_an_earlier_step"],
  writes: ["url"],
  adds: { length: "int64", share: "float64" },
  lookups: { country: { table: "countries", key: "ip" }, people: { table: "countries", key: "ip", type: "int64" } },
  codes: ["internal", "broken"],
  config: { min: 0, words: [] as string[] },
  transform(event, config) {
    const name: string | null = event.event;
    const time: number | null = event.event_time;
    const suspect: boolean | null = event.time_suspect;
    const earlier: string | number | boolean | null = event.of_an_earlier_step;
    const country: string | null = event.country;
    const people: number | null = event.people;
    const words: string[] = config.words;
    event.url = [name, time, suspect, earlier, country, people, ...words].join(" ");
    event.length = config.min + event.url.length;
    event.length = 1n;
    event.share = null;
    // @ts-expect-error: it is only read
    event.event = "x";
    // @ts-expect-error: it is looked up
    event.country = "x";
    // @ts-expect-error: it is text
    event.url = 5;
    // @ts-expect-error: no BigInt in a column of floats
    event.share = 1n;
    // @ts-expect-error: no such column
    event.referrer;
    // @ts-expect-error: no such option
    config.max;
    if (event.json("properties").x) return drop("internal");
    if (name === null) return fail("broken");
    if (name === "two") return [event, { ...event, url: null }, { length: 2 }];
  },
});

plugin({
  name: "typed",
  version: "1.0.0",
  codes: ["internal"],
  // @ts-expect-error: a code that is not declared
  transform: () => drop("other"),
});

plugin({
  name: "typed",
  version: "1.0.0",
  reads: { ua_browser_major: "int64" },
  config: { limit: 3 },
  configure: ({ limit }) => ({ limit: BigInt(limit) }),
  adds: ({ limit }) => ({ [`over_${limit}`]: "bool" }),
  transform(event, { limit }) {
    const major: number | null = event.ua_browser_major;
    const set: boolean = major !== null && BigInt(major) > limit;
    event.over_3 = set;
  },
});

// @ts-expect-error: it has no name
plugin({ version: "1.0.0", transform() {} });
