//! A value as a reader would see it, with a way back to its bytes.
//!
//! Personal data hides behind encodings: `\u0040` in JSON, `%40` in a URL, `%2540` in a URL in a URL, `\\u0040` in JSON
//! in JSON. All of them are undone in one pass, however often they were applied. Whatever is found is then replaced in
//! the bytes as they are, by whole escapes, so that JSON stays JSON.

use millrace_sdk::json::hex4;

/// Stands for a quotation mark that is JSON's own rather than part of a string.
pub const JSON_QUOTE: u8 = 0x1f;

/// Decoded bytes and where each came from. Kept from value to value for its memory only.
#[derive(Debug, Default)]
pub struct Text {
    bytes: Vec<u8>,
    /// For each decoded byte where its escape starts; one more for the end.
    starts: Vec<u32>,
}

impl Text {
    /// The decoded bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the decoded byte at `at` starts in the value.
    pub fn start(&self, at: usize) -> usize {
        self.starts[at] as usize
    }

    /// Decodes `value`. In JSON the quotation marks that delimit strings become [`JSON_QUOTE`].
    pub fn decode(&mut self, value: &[u8], json: bool) {
        self.bytes.clear();
        self.starts.clear();
        let mut at = 0;
        while let Some(&byte) = value.get(at) {
            let start = at;
            match byte {
                b'\\' => {
                    let slashes = value[at..].iter().take_while(|byte| **byte == b'\\').count();
                    at += slashes;
                    // Of an even number of backslashes the last is no escape at this depth, but may be one in the JSON
                    // that this string holds. It is taken for one: it only matters where a mask may start.
                    match value.get(at) {
                        Some(b'u') if hex4(&value[at + 1..]).is_some() => {
                            let code = hex4(&value[at + 1..]).unwrap_or_default();
                            at += 5;
                            self.push_code(code, start);
                        }
                        Some(b'n' | b'r' | b't' | b'b' | b'f') => {
                            at += 1;
                            self.push(b'\n', start);
                        }
                        Some(mark @ (b'"' | b'/')) => {
                            // An even number leaves the mark outside: the string ends here.
                            let inside = slashes % 2 == 1 || *mark == b'/';
                            if inside {
                                at += 1;
                                self.push(*mark, start);
                            } else {
                                self.push(b'\\', start);
                            }
                        }
                        _ => self.push(b'\\', start),
                    }
                }
                b'%' => match percent(&value[at..]) {
                    Some((code, length)) => {
                        at += length;
                        if code < 0x100 { self.push(code as u8, start) } else { self.push_code(code, start) }
                    }
                    None => {
                        at += 1;
                        self.push(byte, start);
                    }
                },
                b'"' if json => {
                    at += 1;
                    self.push(JSON_QUOTE, start);
                }
                _ => {
                    at += 1;
                    self.push(byte, start);
                }
            }
        }
        self.starts.push(value.len() as u32);
    }

    fn push(&mut self, byte: u8, start: usize) {
        self.bytes.push(byte);
        self.starts.push(start as u32);
    }

    /// A UTF-16 unit in UTF-8. Halves of pairs are letters like any other beyond ASCII, and each has its own escape.
    fn push_code(&mut self, code: u32, start: usize) {
        let continuation = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
        match code {
            0..0x80 => self.push(code as u8, start),
            0x80..0x800 => {
                self.push(0xc0 | (code >> 6) as u8, start);
                self.push(continuation(0), start);
            }
            _ => {
                self.push(0xe0 | (code >> 12 & 0xf) as u8, start);
                self.push(continuation(6), start);
                self.push(continuation(0), start);
            }
        }
    }
}

/// What a percent escape at the start of `text` stands for, and its length: `%40`, `%2540`, `%252540`, `%u0040`.
fn percent(text: &[u8]) -> Option<(u32, usize)> {
    let mut at = 1;
    while text.get(at..at + 2) == Some(b"25") && text.get(at + 2).is_some_and(|c| c.is_ascii_hexdigit() || *c == b'u') {
        at += 2;
    }
    if text.get(at) == Some(&b'u') {
        return hex4(&text[at + 1..]).map(|code| (code, at + 5));
    }
    let digit = |at: usize| text.get(at).and_then(|digit| (*digit as char).to_digit(16));
    Some((digit(at)? << 4 | digit(at + 1)?, at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(value: &str, json: bool) -> String {
        let mut text = Text::default();
        text.decode(value.as_bytes(), json);
        assert_eq!(text.starts.len(), text.bytes.len() + 1);
        assert!(text.starts.is_sorted());
        String::from_utf8_lossy(text.bytes()).into_owned()
    }

    #[test]
    fn escapes_are_undone_at_any_depth() {
        for encoded in [r"a\u0040b", r"a\\u0040b", r"a\\\\\u0040b", "a%40b", "a%2540b", "a%252540b", "a%u0040b"] {
            assert_eq!(decoded(encoded, true), "a@b", "{encoded}");
        }
        assert_eq!(decoded(r"\u00e9\u20ac%C3%A9", true), "é€é");
        assert_eq!(decoded("100% 5%4 %zz %25", false), "100% 5%4 %zz %");
        assert_eq!(decoded(r#"{"a":"x\"y\/z\n\\"}"#, true), "{\u{1f}a\u{1f}:\u{1f}x\"y/z\n\\\u{1f}}");
    }

    #[test]
    fn each_byte_knows_the_start_of_its_escape() {
        let mut text = Text::default();
        text.decode(br"x\u00e9%40y", true);
        assert_eq!(text.bytes(), "xé@y".as_bytes());
        assert_eq!((0..=5).map(|at| text.start(at)).collect::<Vec<_>>(), [0, 1, 1, 7, 10, 11]);
    }
}
