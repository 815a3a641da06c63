// Validity: bit i % 8 (lowest first) of byte i / 8 is set where row i has a value; absent where every row has one.

export function isSet(bits, row) {
  return (bits[row >> 3] >> (row & 7)) & 1;
}

/** Collects which rows have a value. */
export class Validity {
  #bits;
  #rows;
  #nulls = 0;

  constructor(rows) {
    this.#rows = rows;
  }

  clear(row) {
    if (this.#bits === undefined) {
      this.#bits = new Uint8Array((this.#rows + 7) >> 3).fill(255);
      const spare = this.#rows & 7;
      if (spare !== 0) this.#bits[this.#bits.length - 1] = (1 << spare) - 1;
    }
    this.#bits[row >> 3] &= ~(1 << (row & 7));
    this.#nulls += 1;
  }

  /** How many rows were cleared, and null where there are none. */
  finish() {
    return this.#nulls === 0 ? null : this.#bits;
  }
}
