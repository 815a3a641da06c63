// The lookup tables of a case, in memory: small, and found by going through them.

import { BlockList, isIP } from "node:net";

import { columnOf, typeOf, valuesOfColumn } from "./columns.js";

const shown = (value) => JSON.stringify(value);

/** What answers for `tables` of the boundary. */
export class MemoryTables {
  #tables = new Map();

  constructor(tables = {}) {
    for (const [name, table] of Object.entries(tables)) {
      try {
        this.#tables.set(name, new MemoryTable(table));
      } catch (error) {
        throw new Error(`lookup table ${shown(name)}: ${error.message}`);
      }
    }
  }

  columns(name) {
    const table = this.#tables.get(name);
    return table === undefined ? null : table.columns.map(({ name, type }) => ({ name, ty: type }));
  }

  lookup(name, keys, wanted) {
    const table = this.#tables.get(name);
    if (table === undefined) throw new Error(`there is no table ${shown(name)}`);
    const rows = table.find(keys);
    return wanted.map((column) => {
      const known = table.columns.find(({ name }) => name === column);
      if (known === undefined) throw new Error(`table ${shown(name)} has no column ${shown(column)}`);
      return columnOf(
        column,
        known.type,
        rows.map((row) => (row < 0 ? null : known.values[row])),
      );
    });
  }
}

class MemoryTable {
  constructor({ key, cidr, rows, ...others }) {
    for (const other of Object.keys(others)) throw new Error(`it has an unknown entry ${shown(other)}`);
    if ((key === undefined) === (cidr === undefined)) {
      throw new Error('give either "key" or "cidr", the column that is looked up');
    }
    const names = new Set(rows.flatMap(Object.keys));
    this.columns = [...names].map((name) => {
      const values = rows.map((row) => row[name] ?? null);
      return { name, values, type: typeOf("", values) };
    });
    for (const { name, type, values } of this.columns) columnOf(name, type, values);
    const found = this.columns.find(({ name }) => name === (key ?? cidr));
    this.keys = found?.values ?? [];
    this.networks = cidr === undefined ? null : this.keys.map(network);
    this.keyTag = this.networks === null && found?.type === "int64" ? "int64" : "text";
    this.keys.forEach((value, row) => {
      if (value === null) throw new Error(`row ${row} has no key`);
      const first = this.keys.indexOf(value);
      if (first !== row) throw new Error(`rows ${first} and ${row} have the same key`);
    });
  }

  /** The row of each key, -1 where there is none. */
  find(keys) {
    const { tag, val } = keys.values;
    if (tag !== this.keyTag) throw new Error(`the keys are ${tag}, those of the table are ${this.keyTag}`);
    const rows = tag === "text" ? val.offsets.length - 1 : val.length;
    return valuesOfColumn("keys", keys, rows).map((key) => {
      if (key === null) return -1;
      return this.networks === null ? this.keys.indexOf(key) : mostSpecific(this.networks, key);
    });
  }
}

function network(text) {
  const [address, bits] = String(text).split("/");
  const family = isIP(address);
  if (family === 0 || !/^\d+$/.test(bits ?? "") || Number(bits) > (family === 4 ? 32 : 128)) {
    throw new Error(`${shown(text)} is no network: use address/bits, as in 203.0.113.0/24`);
  }
  const list = new BlockList();
  list.addSubnet(address, Number(bits), `ipv${family}`);
  return { family, bits: Number(bits), list };
}

function mostSpecific(networks, text) {
  // An IPv4 address within IPv6 is an IPv4 address.
  const address = text.replace(/^::ffff:(?=\d+\.)/i, "");
  const family = isIP(address);
  let best = -1;
  networks.forEach((network, row) => {
    const fits = network.family === family && network.list.check(address, `ipv${family}`);
    if (fits && (best < 0 || network.bits > networks[best].bits)) best = row;
  });
  return best;
}
