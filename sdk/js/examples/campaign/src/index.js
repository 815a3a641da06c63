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
    const { page, parameters, fragment } = parts(address);
    for (const parameter of parameters) {
      const [name, value] = split(parameter, "=");
      // The first of several counts; an empty one says nothing.
      if (PARAMETERS.includes(name) && value !== "" && event[name] === null) event[name] = decoded(value);
    }
    if (!strip) return;
    const others = parameters.filter((parameter) => !PARAMETERS.includes(split(parameter, "=")[0]));
    event.url = page + (others.length > 0 ? `?${others.join("&")}` : "") + fragment;
  },
});

function parts(address) {
  const [whole, fragment] = split(address, "#");
  const [page, query] = split(whole, "?");
  return {
    page,
    parameters: query === "" ? [] : query.split("&"),
    fragment: address.length > whole.length ? `#${fragment}` : "",
  };
}

function split(text, mark) {
  const at = text.indexOf(mark);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + mark.length)];
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
