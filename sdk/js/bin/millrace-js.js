#!/usr/bin/env node
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { buildComponent, loadNative } from "../src/native/build.js";
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

async function main() {
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [command, entry, ...others] = positionals;
  if (values.help) {
    console.log(USAGE);
  } else if (command === "build" && entry !== undefined && others.length === 0) {
    // A plugin that does not load, or exports something else, is told before it is a component.
    await loadNative(entry);
    const component = await buildComponent(entry, { wit: values.wit });
    writeFileSync(values.output, component);
    console.log(`${values.output}: ${component.length} bytes`);
  } else if (command === "test" && entry !== undefined && others.length === 0 && values.cases !== undefined) {
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
