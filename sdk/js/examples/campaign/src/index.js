// Campaign: what the address of a page says about the campaign that led there, as typed columns.

import { plugin } from "millrace-sdk";

const PARAMETERS = ["utm_source", "utm_medium", "utm_campaign"];

export const { describe, transform } = plugin({
  name: "campaign-js",
  version: "0.1.0",
  writes: ["url"],
  adds: { utm_source: "string", utm_medium: "string", utm_campaign: "string" },
  config: {
    /** Take the parameters out of the address, so that one page is one address. */
    strip: false,
  },
  transform(event, { strip }) {
    const address = event.url;
    if (address === null || !address.includes("utm_")) return;
    const end = before(address, "#", 0);
    const start = before(address, "?", 0);
    if (start >= end) return;
    // With the same mark before each parameter one search finds it.
    const query = `&${address.slice(start + 1, end)}`;
    for (const name of PARAMETERS) {
      const value = parameter(query, `&${name}=`);
      if (value !== null) event[name] = value;
    }
    if (strip) event.url = address.slice(0, start) + others(query) + address.slice(end);
  },
});

function before(text, mark, from) {
  const at = text.indexOf(mark, from);
  return at < 0 ? text.length : at;
}

/** The first value that says something; null if there is none. */
function parameter(query, mark) {
  for (let at = query.indexOf(mark); at >= 0; at = query.indexOf(mark, at + 1)) {
    const start = at + mark.length;
    const end = before(query, "&", start);
    if (end > start) return decoded(query.slice(start, end));
  }
  return null;
}

/** A value as it was before it was put into the address; as it stands there if its escapes are broken. */
function decoded(value) {
  const text = value.includes("+") ? value.replaceAll("+", " ") : value;
  if (!text.includes("%")) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    return value;
  }
}

function others(query) {
  const kept = query
    .slice(1)
    .split("&")
    .filter((parameter) => !PARAMETERS.includes(parameter.slice(0, before(parameter, "=", 0))));
  return kept.length > 0 ? `?${kept.join("&")}` : "";
}
