// From a module to a component: bundled into one script, then put beside QuickJS.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import { componentize } from "componentize-qjs";
import { build as bundle } from "esbuild";

const PACKAGE = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** The boundary that components are built for. */
export const WIT = join(PACKAGE, "wit");
const WORLD = "transform-plugin";

/** An import of the SDK is this SDK, wherever the plugin lies. */
const thisSdk = {
  name: "millrace-sdk",
  setup(build) {
    build.onResolve({ filter: /^millrace-sdk$/ }, () => ({ path: join(PACKAGE, "src", "index.js") }));
  },
};

async function script(entry, options) {
  const { outputFiles } = await bundle({
    entryPoints: [resolve(entry)],
    bundle: true,
    write: false,
    format: "esm",
    target: "es2023",
    charset: "utf8",
    legalComments: "none",
    logLevel: "silent",
    plugins: [thisSdk],
    ...options,
  }).catch((error) => {
    throw new Error(failure(entry, error));
  });
  return outputFiles[0].text;
}

function failure(entry, { errors, message }) {
  if (errors === undefined || errors.length === 0) return `${entry}: ${message}`;
  return errors
    .map(({ text, location }) => (location ? `${location.file}:${location.line}: ${text}` : `${entry}: ${text}`))
    .join("\n");
}

/** Builds a module, with all it imports, to a component and gives its bytes. */
export async function buildComponent(entry, { wit = WIT } = {}) {
  const jsSource = await script(entry, {
    conditions: ["millrace-component"],
    platform: "neutral",
    mainFields: ["module", "main"],
    external: ["millrace:transform/*"],
  });
  // Without asynchronous functions, which the host does not have, and with traps in place of WASI.
  const options = { witPath: wit, jsSource, world: WORLD, sync: true, stubWasi: true };
  const { component } = await componentize(options).catch((error) => {
    throw new Error(`${entry}: ${error.message}`);
  });
  return component;
}

/** Loads a module as it is built, TypeScript too, to be run natively. */
export async function loadNative(entry) {
  const text = await script(entry, { platform: "node" });
  const dir = mkdtempSync(join(tmpdir(), "millrace-js-"));
  try {
    const path = join(dir, "plugin.mjs");
    writeFileSync(path, text);
    const { describe, transform } = await import(pathToFileURL(path).href);
    if (typeof describe !== "function" || typeof transform !== "function") {
      throw new Error(`${entry} must export the plugin's functions: export const { describe, transform } = plugin({…})`);
    }
    return { describe, transform };
  } finally {
    rmSync(dir, { recursive: true });
  }
}
