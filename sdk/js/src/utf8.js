// UTF-8 without TextDecoder and TextEncoder, which QuickJS does not have.
//
// Text is kept as a string of bytes (characters 0 to 255) until somebody asks for it, and ASCII, which most of it is, is
// then the text itself. The rest goes through the only native code that knows UTF-8, the one behind `decodeURIComponent`
// and `encodeURIComponent`. What is measured in a component, a byte: 7 ns from bytes to a string of bytes or back, 9 ns to
// look for what is not ASCII (25 ns with a regular expression), 50 ns to decode, 30 ns to encode.

const HIGH_BITS = 0x80808080 | 0;

/** The words of four bytes, ascending, in which not all bytes are ASCII. */
export function wordsNotAscii(bytes) {
  const found = [];
  const whole = bytes.length >> 2;
  // Bytes that came over the boundary or were made here begin where their buffer does.
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, whole);
  let i = 0;
  // Eight at a time: what is counted in an interpreter is its steps.
  for (const last = whole - 7; i < last; i += 8) {
    const all =
      words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] | words[i + 6] | words[i + 7];
    if ((all & HIGH_BITS) === 0) continue;
    for (let word = i; word < i + 8; word++) {
      if ((words[word] & HIGH_BITS) !== 0) found.push(word);
    }
  }
  for (; i < whole; i++) {
    if ((words[i] & HIGH_BITS) !== 0) found.push(i);
  }
  for (let at = whole << 2; at < bytes.length; at++) {
    if (bytes[at] > 0x7f) {
      found.push(whole);
      break;
    }
  }
  return found;
}

/** For each value whether it has to be decoded: 1 where it shares a word with what is not ASCII. */
export function valuesNotAscii(words, offsets) {
  const rows = offsets.length - 1;
  const flags = new Uint8Array(rows);
  let row = 0;
  for (const word of words) {
    const start = word << 2;
    const end = start + 4;
    while (row < rows && offsets[row + 1] <= start) row += 1;
    for (let at = row; at < rows && offsets[at] < end; at++) flags[at] = 1;
  }
  return flags;
}

/** The text that a string of bytes stands for. */
export function decode(binary) {
  return decodeURIComponent(escape(binary));
}

/** The string of bytes of a text. Half a surrogate pair becomes U+FFFD, as with TextEncoder: no store takes it. */
export function encode(text) {
  try {
    return unescape(encodeURIComponent(text));
  } catch {
    return unescape(encodeURIComponent(text.toWellFormed()));
  }
}
