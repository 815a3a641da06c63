//! Reading single values out of a JSON document without parsing the rest: the columns `properties`, `context` and
//! `envelope` hold JSON text as it came in, and most plugins want one or two values of it.
//!
//! Nothing is allocated for what is passed over. The document is taken to be JSON, as the decoder has checked; of text
//! that is not, the answer is [`Malformed`] or what looks like values, and never a panic.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Deepest nesting on the way to a value; the decoder lets 64 pass.
pub const DEPTH_MAX: usize = 128;

/// The text is not JSON, or is nested deeper than [`DEPTH_MAX`] on the way to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text is not JSON, or nested too deep")
    }
}

impl std::error::Error for Malformed {}

/// Names that lead from a document to a value: `a.b` is the member `b` of the member `a`.
///
/// Arrays are transparent: the path goes on in each of their elements. A name that has a dot in it can't be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<String>);

impl Path {
    /// Parses names with dots between them; `None` if one is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let names: Vec<String> = text.split('.').map(str::to_owned).collect();
        names.iter().all(|name| !name.is_empty()).then_some(Self(names))
    }
}

/// A value in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    doc: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Value<'a> {
    /// Where it stands in the document.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Its text in the document: a string with its quotes and escapes.
    pub fn raw(&self) -> &'a [u8] {
        &self.doc[self.range()]
    }

    /// The content of a string; `None` if it is something else.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        match self.raw() {
            [b'"', inner @ .., b'"'] => Some(unescape(inner)),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.raw() == b"null"
    }

    /// Whether it is an object or an array.
    pub fn is_nested(&self) -> bool {
        matches!(self.raw(), [b'{' | b'[', ..])
    }
}

/// The value at `path`. Where there are several (a name that stands twice, an array), the last one, as most parsers
/// take it.
pub fn find<'a>(doc: &'a [u8], path: &Path) -> Result<Option<Value<'a>>, Malformed> {
    let mut found = None;
    each(doc, path, |value| found = Some(value))?;
    Ok(found)
}

/// Calls `visit` with every value at `path`, in the order of the document. What hides data must use this one: a name may
/// stand in an object twice.
pub fn each<'a>(doc: &'a [u8], path: &Path, mut visit: impl FnMut(Value<'a>)) -> Result<(), Malformed> {
    let mut reader = Reader { doc, at: 0 };
    reader.walk(&path.0, 0, &mut visit)?;
    reader.space();
    if reader.at == doc.len() { Ok(()) } else { Err(Malformed) }
}

struct Reader<'a> {
    doc: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.doc.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Passes `byte`, if it is next after white space.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.take(byte) { Ok(()) } else { Err(Malformed) }
    }

    /// Passes a string and answers what stands between its quotes.
    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            let rest = &self.doc[self.at..];
            self.at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).ok_or(Malformed)?;
            if self.doc[self.at] == b'"' {
                self.at += 1;
                return Ok(&self.doc[start..self.at - 1]);
            }
            self.at += 2;
            if self.at > self.doc.len() {
                return Err(Malformed);
            }
        }
    }

    fn walk(&mut self, path: &[String], depth: usize, visit: &mut dyn FnMut(Value<'a>)) -> Result<(), Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed);
        }
        self.space();
        let Some((name, rest)) = path.split_first() else {
            let start = self.at;
            self.skip()?;
            visit(Value { doc: self.doc, start, end: self.at });
            return Ok(());
        };
        match self.peek() {
            Some(b'{') => self.members(
                |reader, key| {
                    if is(key, name) { reader.walk(rest, depth + 1, visit) } else { reader.skip() }
                },
            ),
            Some(b'[') => self.elements(|reader| reader.walk(path, depth + 1, visit)),
            _ => self.skip(),
        }
    }

    fn members(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Result<(), Malformed>) -> Result<(), Malformed> {
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            let key = self.string()?;
            self.expect(b':')?;
            member(self, key)?;
            if !self.take(b',') {
                return self.expect(b'}');
            }
        }
    }

    fn elements(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        self.expect(b'[')?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.take(b',') {
                return self.expect(b']');
            }
        }
    }

    /// Passes a value. Nested ones are passed by counting brackets outside strings, so depth costs no stack.
    fn skip(&mut self) -> Result<(), Malformed> {
        self.space();
        let mut depth = 0usize;
        loop {
            match self.peek().ok_or(Malformed)? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    self.at += 1;
                    depth += 1;
                    continue;
                }
                b'}' | b']' => {
                    self.at += 1;
                    depth = depth.checked_sub(1).ok_or(Malformed)?;
                }
                _ if depth > 0 => {
                    self.at += 1;
                }
                _ => {
                    let rest = &self.doc[self.at..];
                    let scalar = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                    let length = rest.iter().position(|byte| !scalar(byte)).unwrap_or(rest.len());
                    if length == 0 {
                        return Err(Malformed);
                    }
                    self.at += length;
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// Whether a raw key is `name`, however it is escaped.
fn is(key: &[u8], name: &str) -> bool {
    if key.contains(&b'\\') { unescape(key) == name } else { key == name.as_bytes() }
}

/// The text that the inside of a JSON string stands for. What can't be text (half a surrogate pair, a wrong escape)
/// becomes U+FFFD.
pub fn unescape(inner: &[u8]) -> Cow<'_, str> {
    let Some(first) = inner.iter().position(|byte| *byte == b'\\') else {
        return String::from_utf8_lossy(inner);
    };
    let mut out = inner[..first].to_vec();
    let mut rest = &inner[first..];
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&escape, tail)) = rest.split_first() else {
            push_char(&mut out, char::REPLACEMENT_CHARACTER);
            break;
        };
        rest = tail;
        match escape {
            b'"' | b'\\' | b'/' => out.push(escape),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let unit = hex4(rest);
                rest = &rest[if unit.is_some() { 4 } else { 0 }..];
                let pair = match (unit, rest) {
                    (Some(high @ 0xd800..0xdc00), [b'\\', b'u', low @ ..]) => match hex4(low) {
                        Some(low @ 0xdc00..0xe000) => Some(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)),
                        _ => None,
                    },
                    _ => None,
                };
                rest = &rest[if pair.is_some() { 6 } else { 0 }..];
                let decoded = pair.or(unit).and_then(char::from_u32);
                push_char(&mut out, decoded.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            _ => push_char(&mut out, char::REPLACEMENT_CHARACTER),
        }
    }
    Cow::Owned(match String::from_utf8(out) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// The number that four hexadecimal digits at the start of `text` stand for.
pub fn hex4(text: &[u8]) -> Option<u32> {
    text.get(..4)?.iter().try_fold(0, |number, digit| Some(number << 4 | (*digit as char).to_digit(16)?))
}

fn push_char(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Appends `text` as a JSON string, with its quotes.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(doc: &str, path: &str) -> Result<Vec<String>, Malformed> {
        let mut found = Vec::new();
        each(doc.as_bytes(), &Path::parse(path).unwrap(), |value| {
            found.push(String::from_utf8(value.raw().to_vec()).unwrap());
        })?;
        Ok(found)
    }

    #[test]
    fn every_value_at_a_path_is_found() {
        let doc = r#" {"a":{"b":1,"c":{"b":2}}, "b":"x", "l":[{"b":3},[{"b":"}\"]"}],5], "a":{"b":[4,{}]}, "e":{}} "#;
        assert_eq!(all(doc, "a.b").unwrap(), ["1", "[4,{}]"]);
        assert_eq!(all(doc, "a.c.b").unwrap(), ["2"]);
        assert_eq!(all(doc, "l.b").unwrap(), ["3", r#""}\"]""#]);
        assert_eq!(all(doc, "e.b").unwrap(), [""; 0]);
        assert_eq!(all(doc, "b.b").unwrap(), [""; 0]);
        let last = find(doc.as_bytes(), &Path::parse("a.b").unwrap()).unwrap().unwrap();
        assert_eq!(last.raw(), b"[4,{}]");
        assert_eq!(&doc.as_bytes()[last.range()], last.raw());
    }

    #[test]
    fn an_escaped_name_is_the_same_name() {
        assert_eq!(all(r#"{"\u0065mai\u006c":1,"e\/":2}"#, "email").unwrap(), ["1"]);
        assert_eq!(all(r#"{"e\/":2}"#, "e/").unwrap(), ["2"]);
    }

    #[test]
    fn what_is_no_json_is_refused_or_passed_over_without_a_panic() {
        let deep = "[".repeat(DEPTH_MAX + 2);
        let broken =
            ["", "{", r#"{"a""#, r#"{"a":"#, r#"{"a":1"#, r#"{"a":1}}"#, r#"{"a":"\"#, r#"{a:1}"#, "[1", "}", "nul l"];
        for doc in broken.iter().copied().chain([deep.as_str()]) {
            assert_eq!(all(doc, "a"), Err(Malformed), "{doc:?}");
        }
        // Depth beside the path costs nothing.
        let beside = format!(r#"{{"x":{}{},"a":1}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(all(&beside, "a").unwrap(), ["1"]);
    }

    #[test]
    fn escapes_become_text_and_halves_of_pairs_do_not_pass() {
        assert_eq!(unescape(br#"a\n\t\"\\\/\u00e9\ud83d\ude00"#), "a\n\t\"\\/é😀");
        assert_eq!(unescape(br"\ud83d"), "\u{fffd}");
        assert_eq!(unescape(br"\ud83dx\ude00\ud83d\u0041"), "\u{fffd}x\u{fffd}\u{fffd}A");
        assert_eq!(unescape(br"\u12"), "\u{fffd}12");
        assert_eq!(unescape(b"a\\"), "a\u{fffd}");
    }

    proptest! {
        #[test]
        fn text_survives_being_written_and_read(text: String) {
            let mut doc = b"{\"k\":".to_vec();
            push_string(&mut doc, &text);
            doc.push(b'}');
            let parsed: serde_json::Value = serde_json::from_slice(&doc).unwrap();
            prop_assert_eq!(parsed["k"].as_str().unwrap(), &text);
            let value = find(&doc, &Path::parse("k").unwrap()).unwrap().unwrap();
            prop_assert_eq!(value.as_str().unwrap(), text);
        }

        #[test]
        fn any_bytes_are_walked_without_a_panic(doc: Vec<u8>) {
            let _ = each(&doc, &Path::parse("a.b").unwrap(), |value| { let _ = value.as_str(); });
        }

        #[test]
        fn json_like_bytes_are_walked_without_a_panic(doc in "[\\[\\]{}\",:ab\\\\ 0]{0,40}") {
            let _ = each(doc.as_bytes(), &Path::parse("a.b").unwrap(), |value| { let _ = value.as_str(); });
        }
    }
}
