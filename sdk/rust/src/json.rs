//! Reading single values out of a JSON document without parsing the rest: the columns `properties`, `context` and
//! `envelope` hold JSON text as it came in, and most plugins want one or two values of it.
//!
//! ```
//! use millrace_sdk::json;
//!
//! let properties = r#"{"cart": {"total": 42.5, "items": [{"sku": "A-1"}, {"sku": "B-2"}]}, "currency": "EUR"}"#;
//! assert_eq!(json::get(properties, "cart.total").and_then(|total| total.as_f64()), Some(42.5));
//! assert_eq!(json::get(properties, "cart.items.1.sku").and_then(|sku| sku.as_str()).as_deref(), Some("B-2"));
//! let items = json::get(properties, "cart.items").into_iter().flat_map(|items| items.elements());
//! assert_eq!(items.filter_map(|item| item.get("sku")).count(), 2);
//! ```
//!
//! * [`get`] is for one value. Its path has names with dots between them, and numbers for elements of arrays.
//! * [`find`] and [`each`] take a [`Path`] that was parsed before, of which arrays are transparent: for plugins whose
//!   configuration names places, and for what must see every value.
//!
//! Nothing is allocated for what is passed over. Where a name stands in an object twice, the last one counts, as most
//! parsers have it. The document is taken to be JSON, as the decoder has checked; of text that is not, the answer is
//! [`Malformed`], nothing, or what looks like values, and never a panic.

use std::borrow::Cow;
use std::fmt;

mod value;

pub use value::{Elements, Members, Value};

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

/// The value at `path`, which has names with dots between them and, for elements of arrays, numbers from 0:
/// `cart.items.0.sku`. A name that has a dot in it is reached with [`Value::member`].
pub fn get<'a>(doc: &'a (impl AsRef<[u8]> + ?Sized), path: &str) -> Option<Value<'a>> {
    Value::of(doc.as_ref()).get(path)
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

#[derive(Clone, Debug)]
struct Reader<'a> {
    doc: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.doc.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        // One comparison where there is none, as in most documents.
        while self.peek().is_some_and(|byte| byte <= b' ' && matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
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
            self.at += end_of_run(&self.doc[self.at..]).ok_or(Malformed)?;
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
            visit(Value::within(self.doc, start..self.at));
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
        if self.peek() == Some(b'"') {
            return self.string().map(drop);
        }
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

/// Where the first quote or backslash stands. Eight bytes at a time: most of a document is inside strings.
fn end_of_run(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    // Has the top bit of every byte that is zero, and maybe of some behind the first one.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    let (words, rest) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let hits = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if hits != 0 {
            return Some(at * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    let last = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(text.len() - rest.len() + last)
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
mod tests;
