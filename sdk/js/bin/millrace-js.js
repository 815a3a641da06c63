#!/usr/bin/env node
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { checkCases } from "../src/native/testing.js";

const USAGE = `usage: millrace-js build ENTRY [-o plugin.wasm] [--wit DIR]
       millrace-js test ENTRY --cases DIR [--bless]

build   makes a component of a module (JavaScript or TypeScript) that exports describe and transform
test    runs golden cases over the module natively; --bless writes down what came out instead`;

const options = {
  output: { type: "string", short: "o", default: "plugin.wasm" },
  wit: { type: "string" },
  cases: { type: "string" },
  bless: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
};

/** What builds; it needs packages of the SDK, which a link to its sources does not bring along. */
async function builder() {
  try {
    return await import("../src/native/build.js");
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
    const sdk = fileURLToPath(new URL("..", import.meta.url));
    throw new Error(`${error.message}\nThe SDK's own packages are missing: run npm ci in ${sdk}, or npm install --install-links`);
  }
}

async function main() {
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [command, entry, ...others] = positionals;
  if (values.help) {
    console.log(USAGE);
  } else if (command === "build" && entry !== undefined && others.length === 0) {
    const { buildComponent, loadNative } = await builder();
    // A plugin that does not load, or exports something else, is told before it is a component.
    await loadNative(entry);
    const component = await buildComponent(entry, { wit: values.wit });
    writeFileSync(values.output, component);
    console.log(`${values.output}: ${component.length} bytes`);
  } else if (command === "test" && entry !== undefined && others.length === 0 && values.cases !== undefined) {
    const { loadNative } = await builder();
    const count = checkCases(await loadNative(entry), values.cases, { bless: values.bless });
    console.log(`${count} cases ${values.bless ? "written" : "hold"}`);
  } else {
    throw new Error(USAGE);
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
