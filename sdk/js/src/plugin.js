// A plugin: the two functions that the host calls, made of what an author declares.

import { calling, log, tables } from "#platform";

import { transformBatch } from "./rows.js";
import { checkLookups, checkSpec, configOf, layoutOf, manifestOf } from "./spec.js";

/** Makes a plugin. Its two functions must be exported by the plugin's module: `export const { describe, transform }`. */
export function plugin(spec) {
  checkSpec(spec);
  // The host makes a new instance for every call of `transform`, and configures it first.
  let configured;
  return {
    describe: (text) =>
      calling(() => {
        try {
          const options = configOf(spec.config ?? (spec.configure ? undefined : {}), text);
          const config = spec.configure === undefined ? options : spec.configure(options, { tables });
          const layout = layoutOf(spec, config, tables);
          checkLookups(layout.lookups, tables);
          configured = { config, layout };
          return manifestOf(spec, layout);
        } catch (error) {
          throw messageOf(error);
        }
      }),
    transform: (batch) =>
      calling(() => {
        try {
          if (configured === undefined) throw new Error("describe must be called before transform");
          return transformBatch(batch, configured.layout, spec.transform, configured.config);
        } catch (error) {
          // The host splits a batch that failed until the events that did it are alone. Only then is it told where.
          if (batch.rows === 1 && error instanceof Error) log(`${messageOf(error)}\n${placeOf(error)}`);
          throw messageOf(error);
        }
      }),
  };
}

/** An error of the boundary is a text. */
function messageOf(error) {
  if (!(error instanceof Error)) return `thrown: ${String(error)}`;
  return error.name === "Error" ? error.message : `${error.name}: ${error.message}`;
}

/** Where it was thrown; some engines say once more what was. */
function placeOf({ stack = "" }) {
  return stack
    .split("\n")
    .filter((line) => /^\s+at /.test(line))
    .join("\n");
}
