import type { Plugin } from "./index.js";

/** Values of a row by the names of their columns. */
export type CaseRow = Record<string, string | number | boolean | null>;

/** What becomes of one row in. */
export type Expected = { keep: CaseRow[] } | { drop: string } | { fail: string };

/** A lookup table of a case, found by the value of a column, or by the networks in one. */
export type CaseTable = ({ key: string } | { cidr: string }) & { rows: CaseRow[] };

/** A golden case. */
export interface Case {
  about?: string;
  config?: unknown;
  config_error?: string;
  tables?: Record<string, CaseTable>;
  rows_in?: CaseRow[];
  expect?: Expected[];
}

/** Runs rows through a plugin as one batch, row by row and in halves, and gives what becomes of each. */
export function run(
  plugin: Plugin,
  rows: CaseRow[],
  options?: { config?: unknown; tables?: Record<string, CaseTable>; log?: (line: string) => void },
): Expected[];

/** Runs every case in a directory and throws what differs; with `bless` writes down what came out. How many there are. */
export function checkCases(plugin: Plugin, dir: string | URL, options?: { bless?: boolean }): number;
