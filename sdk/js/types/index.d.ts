/** The type of a column. `timestamp` is microseconds since 1970-01-01 UTC. */
export type ColumnType = "string" | "timestamp" | "int64" | "float64" | "bool";

/** The columns that every event has, with their types. */
export interface BaseColumns {
  event_id: "string";
  device_id: "string";
  user_id: "string";
  session_id: "string";
  type: "string";
  event: "string";
  event_time: "timestamp";
  received_at: "timestamp";
  time_suspect: "bool";
  app: "string";
  app_version: "string";
  platform: "string";
  os: "string";
  device_model: "string";
  locale: "string";
  ip: "string";
  user_agent: "string";
  url: "string";
  referrer: "string";
  /** JSON text: `event.json("properties")` parses it. */
  properties: "string";
  /** JSON text. */
  context: "string";
  /** JSON text. */
  envelope: "string";
}

/**
 * What a column holds, or null.
 *
 * `int64` and `timestamp` are numbers. An integer beyond 2^53, which numbers can't hold exactly, is never handed over
 * wrong: to read it fails the event.
 */
export type Value<T extends ColumnType = ColumnType> = T extends "string"
  ? string | null
  : T extends "int64" | "timestamp" | "float64"
    ? number | null
    : T extends "bool"
      ? boolean | null
      : never;

/** What a column that the plugin adds takes; `int64` beyond 2^53 is set as a BigInt. */
export type AddedValue<T extends ColumnType> = T extends "int64" | "timestamp" ? Value<T> | bigint : Value<T>;

/** Columns by name, or by name with their types. Those that every event has need no type. */
export type Columns = readonly string[] | Readonly<Record<string, ColumnType>>;

type NameOf<C> = C extends readonly (infer N extends string)[] ? N : keyof C & string;

/** A column of an earlier step whose type is not given can have any. */
type TypeOf<C, N extends string> = C extends readonly string[]
  ? N extends keyof BaseColumns
    ? BaseColumns[N]
    : ColumnType
  : N extends keyof C
    ? C[N] & ColumnType
    : ColumnType;

/** A column that is looked up in a table, with one call of the host for a batch. */
export interface Lookup {
  /** The table's name. */
  table: string;
  /** A column, or a function that makes the key of the event as it was sent; null where it has none. */
  key: string | ((event: any) => string | number | null | undefined);
  /** The table's column; the lookup's own name if it is left out. */
  column?: string;
  /** Its type; `string` if it is left out. */
  type?: ColumnType;
}

type LookupType<L extends Lookup> = L extends { type: infer T extends ColumnType } ? T : "string";

interface EventMethods {
  /** What is in a column of JSON text; null where that is null. Parsed anew in each call. */
  json(column: string): any;
}

/** One event: what is read can be read, what is written or added can be set too. Any column may be null. */
export type Event<R, W, A, L> = EventMethods & {
  readonly [N in Exclude<NameOf<R>, NameOf<W>>]: Value<TypeOf<R, N>>;
} & {
  [N in NameOf<W>]: Value<TypeOf<W, N>>;
} & {
  [N in keyof A & string]: A[N] extends ColumnType ? AddedValue<A[N]> : never;
} & {
  readonly [N in keyof L & string]: L[N] extends Lookup ? Value<LookupType<L[N]>> : never;
};

/** A row out of several: a column that it does not have is as the event has it. */
export type Row<R, W, A, L> = Partial<Event<R, W, A, L>>;

/** What becomes of an event that does not go on. */
export interface Outcome<C extends string = string> {
  readonly kind: "drop" | "fail";
  readonly code: C;
}

/** The host's lookup tables, as `configure` may ask for them. */
export interface Tables {
  /** A table's columns; null while there is no table of this name. */
  columns(name: string): { name: string; ty: ColumnType }[] | null;
}

type Given<T, C> = T | ((config: C, host: { tables: Tables }) => T);

/** A plugin, as its author declares it. Columns, lookups and codes may be functions of the configuration. */
export interface Spec<
  R extends Columns,
  W extends Columns,
  A extends Readonly<Record<string, ColumnType>>,
  L extends Readonly<Record<string, Lookup>>,
  K extends string,
  D extends object,
  C,
> {
  /** 1 to 64 characters of `a-z 0-9 -`, starting with a letter. */
  name: string;
  /** A semantic version. What the plugin does is fixed by name and version: a change of behaviour is a new version. */
  version: string;
  /** Columns that are read. */
  reads?: Given<R, C>;
  /** Columns that are changed. They are read too. */
  writes?: Given<W, C>;
  /** New columns and their types. An event that sets none has null there. */
  adds?: Given<A, C>;
  /** Columns that are looked up in tables. */
  lookups?: Given<L & Readonly<Record<string, Lookup>>, C>;
  /** Codes of drops and failures: 1 to 64 characters of `a-z 0-9 _`, which must say nothing of the event. */
  codes?: Given<readonly K[], C>;
  /** The options with their defaults. An unknown option and one of another type are refused. */
  config?: D;
  /** Takes the configuration and gives what `transform` gets of it. What it throws is told to whoever wrote it. */
  configure?: (options: D, host: { tables: Tables }) => C;
  /**
   * Transforms one event. It answers with nothing (the event goes on, with what was set), `drop(code)`, `fail(code)`, or
   * an array of the rows that come out. What it throws fails this event and no other.
   */
  transform: (
    event: Event<R, W, A, L>,
    config: C,
  ) => void | Event<R, W, A, L> | Outcome<NoInfer<K>> | readonly Row<R, W, A, L>[];
}

/** The two functions of a component. */
export interface Plugin {
  describe(config: string): unknown;
  transform(batch: unknown): unknown;
}

/** Makes a plugin. The module must export its two functions: `export const { describe, transform } = plugin({…})`. */
export function plugin<
  const R extends Columns = readonly [],
  const W extends Columns = readonly [],
  const A extends Readonly<Record<string, ColumnType>> = {},
  const L extends Readonly<Record<string, Lookup>> = {},
  const K extends string = never,
  D extends object = {},
  C = D,
>(spec: Spec<R, W, A, L, K, D, C>): Plugin;

/** Leaves the event out on purpose, under a code that the plugin declared. */
export function drop<const C extends string>(code: C): Outcome<C>;

/** Says that the event can't be transformed: it becomes a dead letter under a code that the plugin declared. */
export function fail<const C extends string>(code: C): Outcome<C>;

/** Sends a line to the plugin's author. It leaves no trace in any row. `console.log` does the same. */
export function log(...values: unknown[]): void;
