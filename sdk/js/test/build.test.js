// From a module to a component.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const PACKAGE = fileURLToPath(new URL("..", import.meta.url));
const dir = mkdtempSync(join(tmpdir(), "millrace-js-test-"));
after(() => rmSync(dir, { recursive: true }));

function cli(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(PACKAGE, "bin", "millrace-js.js"), ...args], {
    cwd: dir,
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

function module(name, text) {
  writeFileSync(join(dir, name), text);
  return name;
}

test("the boundary is the repository's", { skip: !existsSync(join(PACKAGE, "..", "wit")) }, () => {
  const [ours, theirs] = [join(PACKAGE, "wit", "transform.wit"), join(PACKAGE, "..", "wit", "transform.wit")];
  assert.equal(readFileSync(ours, "utf8"), readFileSync(theirs, "utf8"), `copy ${theirs} to ${ours}`);
});

test("the package holds what a plugin needs, and the lock file names no registry", () => {
  const [{ files }] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: PACKAGE, encoding: "utf8" }));
  const paths = files.map(({ path }) => path);
  for (const path of ["bin/millrace-js.js", "src/index.js", "src/platform/component.js", "types/index.d.ts", "wit/transform.wit", "README.md"]) {
    assert.ok(paths.includes(path), `${path} is not among ${paths}`);
  }
  assert.ok(!paths.some((path) => path.startsWith("test/") || path.startsWith("examples/")));
  assert.doesNotMatch(readFileSync(join(PACKAGE, "package-lock.json"), "utf8"), /"resolved"|https?:\/\/registry/);
});

test("JavaScript and TypeScript become components", () => {
  const js = join(PACKAGE, "examples", "campaign", "src", "index.js");
  module("words.ts", "export const words: readonly string[] = ['a', 'b'];");
  const ts = module(
    "plugin.ts",
    `import { plugin, type Value } from "millrace-sdk";
     import { words } from "./words.js";
     const first = (value: Value<"string">): string | null => value && words[0]!;
     export const { describe, transform } = plugin({
       name: "typed", version: "1.0.0", writes: ["event"],
       transform(event) { event.event = first(event.event); },
     });`,
  );
  for (const entry of [js, ts]) {
    const built = cli("build", entry, "-o", "out.wasm");
    assert.equal(built.stderr, "");
    assert.match(built.stdout, /^out\.wasm: \d+ bytes\n$/);
    const wasm = readFileSync(join(dir, "out.wasm"));
    assert.deepEqual([...wasm.subarray(0, 8)], [0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0]);
    assert.ok(wasm.length < 2.5e6, `${wasm.length} bytes`);
  }
  module("a.json", JSON.stringify({ rows_in: [{ event: "x" }, {}], expect: [{ keep: [{ event: "a" }] }, { keep: [{}] }] }));
  assert.deepEqual(cli("test", ts, "--cases", "."), { status: 0, stdout: "1 cases hold\n", stderr: "" });
  module("a.json", JSON.stringify({ rows_in: [{ event: "x" }], expect: [{ keep: [{ event: "b" }] }] }));
  const failed = cli("test", ts, "--cases", ".");
  assert.equal(failed.status, 1);
  assert.match(failed.stderr, /row 0:\n  expected \{"keep":\[\{"event":"b"\}\]\}\n  came out/);
});

test("what can't be built is refused with its place", () => {
  const refused = (entry, pattern) => {
    const { status, stderr } = cli("build", entry, "-o", "refused.wasm");
    assert.equal(status, 1);
    assert.match(stderr, pattern);
    assert.ok(!existsSync(join(dir, "refused.wasm")));
  };
  refused(module("syntax.js", "const = 1;"), /syntax\.js:1: Expected identifier/);
  refused(module("missing.js", 'import "./not-there.js";'), /missing\.js:1: Could not resolve/);
  refused(module("nothing.js", "export const a = 1;"), /nothing\.js must export the plugin's functions/);
  refused(
    module("option.js", 'import { plugin } from "millrace-sdk"; export default plugin({ nam: "x" });'),
    /plugin\(…\) has no option "nam"/,
  );
  refused(module("node.js", 'import "node:fs"; import { plugin } from "millrace-sdk"; export const { describe, transform } = plugin({ name: "x", version: "1.0.0", transform() {} });'), /node\.js:1: Could not resolve "node:fs"/);
  assert.match(cli("build").stderr, /^usage: millrace-js build ENTRY/);
  assert.match(cli("test", "syntax.js").stderr, /^usage:/);
});
