// UTF-8 without TextDecoder and TextEncoder, which QuickJS does not have.
//
// Text is kept as a string of bytes (characters 0 to 255) until somebody asks for it. ASCII, which most of it is, is then
// the text itself; the runs that are not go through the only native code that knows UTF-8, the one behind
// `decodeURIComponent` and `encodeURIComponent`.

const NOT_ASCII = /[^\x00-\x7f]/;
const RUNS = /[^\x00-\x7f]+/g;

const decodeRun = (run) => decodeURIComponent(escape(run));
// Half a surrogate pair becomes U+FFFD, as with TextEncoder: no store takes it.
const encodeRun = (run) => unescape(encodeURIComponent(run.toWellFormed()));

export function isAscii(text) {
  return !NOT_ASCII.test(text);
}

/** The text that a string of bytes stands for. */
export function decode(binary) {
  return binary.replace(RUNS, decodeRun);
}

/** The string of bytes of a text. */
export function encode(text) {
  return text.replace(RUNS, encodeRun);
}
